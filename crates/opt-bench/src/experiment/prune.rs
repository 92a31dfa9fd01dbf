//! Magnitude pruning: one-shot against iterative, beside training on without pruning.

mod likelihood;

use anyhow::{Context, Result};
use opt_core::mask::{Masks, apply_masks};
use opt_core::{Model, cost};
use opt_nn::Net;
use opt_nn::train::Constraints;
use opt_prune::{Criterion, Norm, Schedule, SelectRequest, score, select, sparsities};

use super::{Base, Bases, train_on, variant};
use crate::measure::Shipped;
use crate::profile::{Prune, Scope, named_percent};
use crate::recipe::Train;
use crate::run::{Phase, Recorded, Run, Variant};
use crate::training::Label;

pub(super) fn run(run: &mut Run, bases: &mut Bases<'_>) -> Result<()> {
    for plan in &bases.profile.prune {
        let base = bases.get(run, &plan.base)?;
        let control = bases.label("prune", format!("{} trained on", base.recipe.name));
        let control = train_on(run, &base, &plan.fine_tune, &control)?;
        for &scope in &plan.scopes {
            for &sparsity in &plan.sparsities {
                for schedule in [
                    Schedule::OneShot,
                    Schedule::Iterative { steps: plan.rounds },
                ] {
                    let label = bases.label("prune", name(scope, sparsity, schedule));
                    let plan = Plan {
                        base: &base,
                        control: &control,
                        prune: plan,
                    };
                    pruned(run, plan, scope, sparsity, schedule, &label)?;
                }
            }
        }
        likelihood::run(run, &base, plan)
            .context("comparing importance with the measured change of likelihood")?;
    }
    Ok(())
}

/// What every pruned variant of one base shares.
#[derive(Debug, Clone, Copy)]
struct Plan<'a> {
    base: &'a Base,
    /// The base trained on for the same number of epochs.
    control: &'a Recorded,
    prune: &'a Prune,
}

fn name(scope: Scope, sparsity: f64, schedule: Schedule) -> String {
    let scope = match scope {
        Scope::Global => "global",
        Scope::PerLayer => "per layer",
    };
    let schedule = match schedule {
        Schedule::OneShot => "one-shot".to_owned(),
        Schedule::Iterative { steps } => format!("{steps} rounds"),
        Schedule::CubicAgp { steps } => format!("cubic, {steps} steps"),
    };
    // Three decimals at most: 0.8·100 is not 80 in binary.
    let percent = named_percent(sparsity);
    format!("{percent} % {scope}, {schedule}")
}

/// The three steps of every round: importance of each weight, removal of the least important, update.
fn pruned(
    run: &mut Run,
    plan: Plan<'_>,
    scope: Scope,
    sparsity: f64,
    schedule: Schedule,
    label: &Label,
) -> Result<()> {
    let Plan {
        base,
        control,
        prune,
    } = plan;
    let mut model: Model = base.recorded.model.clone();
    let mut masks = Masks::new();
    let mut seconds = 0.0;
    let mut epochs_before = base.epochs;
    let targets = sparsities(schedule, sparsity)?;
    for (round, target) in targets.iter().enumerate() {
        let scores = score(&model, &Criterion::Magnitude(Norm::L1), None)?;
        let scope = match scope {
            Scope::Global => opt_prune::Scope::Global,
            Scope::PerLayer => opt_prune::Scope::PerLayer,
        };
        let request = SelectRequest::sparsity(scope, *target);
        masks = select(&model, &scores, &masks, &request)?.masks;
        let mut net = Net::new(&apply_masks(&model, &masks)?, run.device)?;
        let share = Train {
            epochs: round_epochs(prune.fine_tune.epochs, round, targets.len()),
            ..prune.fine_tune.clone()
        };
        let phase = Phase {
            label,
            network: &base.recipe.model,
            name: &format!("fine-tune {}/{}", round + 1, targets.len()),
            epochs_before,
        };
        let constraints = Constraints {
            masks: Some(&masks),
            ..Constraints::default()
        };
        seconds += run.train(&mut net, &share, phase, constraints)?;
        epochs_before += share.epochs;
        model = net.to_model()?;
    }
    let more = prune.fine_tune.epochs;
    let variant = Variant {
        epochs: (base.epochs + more) as f64,
        epochs_of: format!(
            "{} base + {more} fine-tuning, rounds: {}",
            base.epochs,
            targets.len()
        ),
        train_precision: prune.fine_tune.precision_name(run.device),
        baseline: Some(control),
        ..variant(base, label, seconds)
    };
    let recorded = run.record(variant, Shipped::Float(&model))?;
    // What was asked for is what ships, to the last weight.
    let shipped = cost::cost(&recorded.model)?;
    let kept: usize = masks.values().map(opt_core::Mask::n_kept).sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count"
    )]
    let asked = ((1.0 - sparsity) * shipped.weights as f64).round() as usize;
    anyhow::ensure!(
        shipped.weights_nonzero <= kept && kept.abs_diff(asked) <= shipped.layers.len(),
        "{} weights are not zero, the masks keep {kept}, asked for were {asked}",
        shipped.weights_nonzero
    );
    Ok(())
}

/// The epochs of round `round` of `rounds`: together `total`, the last round has the rest.
fn round_epochs(total: usize, round: usize, rounds: usize) -> usize {
    let each = total / rounds;
    if round + 1 == rounds {
        total - each * (rounds - 1)
    } else {
        each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_share_the_epochs() {
        for (total, rounds, expect) in [
            (4, 2, vec![2, 2]),
            (5, 2, vec![2, 3]),
            (1, 3, vec![0, 0, 1]),
        ] {
            let shares: Vec<usize> = (0..rounds)
                .map(|r| round_epochs(total, r, rounds))
                .collect();
            assert_eq!(shares, expect);
        }
    }
}
