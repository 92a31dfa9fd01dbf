//! Pruning with recovery: single weights round by round, or whole channels at once.

use opt_core::mask::{Masks, apply_masks};
use opt_core::{GradientSums, Model};
use opt_prune::channels::{ChannelRequest, ChannelTarget};
use opt_prune::{
    Criterion, PruneError, Scope, SelectRequest, plan_channels, score, score_channels, select,
    shrink,
};

use crate::{CompressError, Result};

/// Removes the least important weights in rounds, and lets the caller recover after each.
///
/// ```text
/// for each s_t:  scores → the smallest s_t of all weights are masked → recover(model, masks, t)
/// ```
///
/// `targets` are the shares of the weights that are gone after each cut, 0 to 1 and rising ([`opt_prune::sparsities`]); 0 cuts
/// nothing, so that its round only trains, with no masks. A weight that is gone stays gone. `gradients` sums gradients of a
/// model; it is called where the criterion needs them. `recover` trains what is left: it gets the round's number and the masks
/// that its result has to keep.
///
/// # Errors
///
/// A target that is no share, or less than the one before it: said before the first round. Those of scoring and selecting,
/// and of the closures.
pub fn mask_rounds<E: From<CompressError>>(
    model: &Model,
    criterion: Criterion,
    scope: Scope,
    targets: &[f64],
    mut gradients: impl FnMut(&Model) -> Result<GradientSums, E>,
    mut recover: impl FnMut(Model, &Masks, usize) -> Result<Model, E>,
) -> Result<(Model, Masks), E> {
    check(targets)?;
    let mut model = model.clone();
    let mut masks = Masks::new();
    for (round, &sparsity) in targets.iter().enumerate() {
        if sparsity > 0.0 {
            let sums = match criterion.needs_gradients() {
                true => Some(gradients(&model)?),
                false => None,
            };
            let cut = || -> Result<(Model, Masks)> {
                let scores = score(&model, &criterion, sums.as_ref())?;
                let request = SelectRequest::sparsity(scope, sparsity);
                let masks = select(&model, &scores, &masks, &request)?.masks;
                Ok((apply_masks(&model, &masks)?, masks))
            };
            (model, masks) = cut()?;
        }
        model = recover(model, &masks, round)?;
    }
    Ok((model, masks))
}

/// Checks that targets are shares that do not fall.
fn check(targets: &[f64]) -> Result<()> {
    let mut before = 0.0;
    for (round, &target) in targets.iter().enumerate() {
        if !(before..=1.0).contains(&target) {
            let error = PruneError::OutOfRange {
                what: format!("the target of round {}", round + 1),
                found: target.to_string(),
                expected: format!("{before} to 1, never less than in the round before"),
            };
            return Err(error.into());
        }
        before = target;
    }
    Ok(())
}

/// Removes the least important channels and rebuilds the network without them: `keep` of the channels stay, 0 to 1, their
/// counts multiples of `multiple_of`. `gradients` are needed by criteria that follow the loss.
///
/// # Errors
///
/// A criterion that needs gradients without any, a ratio that removes nothing, a network whose channels cannot be removed.
pub fn remove_channels(
    model: &Model,
    criterion: Criterion,
    keep: f64,
    multiple_of: usize,
    gradients: Option<&GradientSums>,
) -> Result<Model> {
    if criterion.needs_gradients() && gradients.is_none() {
        let criterion = criterion.to_string();
        return Err(CompressError::NoGradients { criterion });
    }
    let scores = score_channels(model, &criterion, gradients)?;
    let request = ChannelRequest {
        multiple_of,
        ..ChannelRequest::new(ChannelTarget::KeepRatio(keep))
    };
    let channels = plan_channels(model, &scores, &request)?;
    Ok(shrink(model, &channels)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::{Task, zoo};
    use opt_prune::{Norm, TaylorForm};

    const MAGNITUDE: Criterion = Criterion::Magnitude(Norm::L1);

    #[test]
    fn each_round_recovers_what_is_left() {
        let model = zoo::build("source_net", &Task::cifar10(), 1).unwrap();
        let n = |masks: &Masks| masks.values().map(opt_core::Mask::n_kept).sum::<usize>();
        let total: usize = model
            .weight_names()
            .iter()
            .map(|w| model.params[*w].len())
            .sum();
        let mut seen = Vec::new();
        let no_gradients = |_: &Model| -> Result<GradientSums> { panic!("magnitude needs none") };
        let recover = |model: Model, masks: &Masks, round: usize| -> Result<Model> {
            seen.push((round, n(masks)));
            // A training that changes all weights, and one mask's worth of them holds.
            let mut trained = model;
            for name in ["conv1.weight", "conv2.weight", "fc.weight"] {
                let weight = trained.params.get_mut(name).unwrap();
                *weight = weight.mapv(|w| 2.0 * w).into_shared();
            }
            Ok(trained)
        };
        let targets = [0.0, 0.5, 0.75];
        let (pruned, masks) = mask_rounds(
            &model,
            MAGNITUDE,
            Scope::Global,
            &targets,
            no_gradients,
            recover,
        )
        .unwrap();
        let [half, quarter] = [total / 2, total / 4];
        assert_eq!(seen, [(0, 0), (1, half), (2, quarter)]);
        let left: usize = pruned
            .weight_names()
            .iter()
            .map(|w| pruned.params[*w].iter().filter(|v| **v != 0.0).count())
            .sum();
        assert_eq!((left, n(&masks)), (quarter, quarter));
    }

    #[test]
    fn targets_that_are_no_rising_shares_are_named_before_the_first_round() {
        let model = zoo::build("source_net", &Task::cifar10(), 1).unwrap();
        let rounds = |targets: &[f64]| {
            let no_gradients =
                |_: &Model| -> Result<GradientSums> { panic!("magnitude needs none") };
            let recover = |_: Model, _: &Masks, _| -> Result<Model> { panic!("nothing to do") };
            let scope = Scope::Global;
            let result = mask_rounds(&model, MAGNITUDE, scope, targets, no_gradients, recover);
            result.unwrap_err().to_string()
        };
        for (targets, expected) in [
            (
                &[f64::NAN][..],
                "the target of round 1 is NaN, expected 0 to 1",
            ),
            (&[-0.5], "the target of round 1 is -0.5, expected 0 to 1"),
            (&[0.5, 2.0], "the target of round 2 is 2, expected 0.5 to 1"),
            (
                &[0.5, 0.2],
                "the target of round 2 is 0.2, expected 0.5 to 1",
            ),
            (
                &[0.5, 0.0, 0.6],
                "the target of round 2 is 0, expected 0.5 to 1",
            ),
        ] {
            let error = rounds(targets);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_closure_that_fails_ends_the_rounds() {
        let model = zoo::build("source_net", &Task::cifar10(), 1).unwrap();
        let taylor = Criterion::Taylor(TaylorForm::MeanAbs);
        let failed = || CompressError::NoGradients {
            criterion: "here".to_owned(),
        };
        let gradients = |_: &Model| -> Result<GradientSums> { Err(failed()) };
        let recover = |model: Model, _: &Masks, _: usize| -> Result<Model> { Ok(model) };
        let error = mask_rounds(&model, taylor, Scope::Global, &[0.5], gradients, recover);
        assert!(error.unwrap_err().to_string().contains("`here`"));
        let error = remove_channels(&model, taylor, 0.5, 4, None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`taylor_mean_abs` needs gradients"),
            "{error}"
        );
    }

    #[test]
    fn fewer_channels_are_a_smaller_network() {
        let model = zoo::build("source_net", &Task::cifar10(), 1).unwrap();
        let small = remove_channels(&model, Criterion::Magnitude(Norm::L2), 0.5, 4, None).unwrap();
        assert_eq!(small.params["conv1.weight"].shape(), [32, 3, 3, 3]);
        assert_eq!(small.params["conv2.weight"].shape()[1], 32);
    }
}
