//! Magnitude pruning: one-shot against iterative, beside training on without pruning.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use opt_core::mask::{Masks, apply_masks};
use opt_core::{Model, cost};
use opt_nn::Net;
use opt_nn::evaluate::evaluate;
use opt_nn::gradients::gradient_sums;
use opt_nn::train::Constraints;
use opt_prune::score::ablation::{Unit, loss_changes};
use opt_prune::score::{obd, taylor};
use opt_prune::{
    Criterion, Norm, Schedule, SelectRequest, rank_correlation, score, select, sparsities,
};

use serde::{Deserialize, Serialize};

use super::{Base, Bases, train_on, variant};
use crate::identity::Identity;
use crate::measure::Shipped;
use crate::profile::{Prune, Scope, named_percent};
use crate::recipe::Train;
use crate::results::write_atomic;
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
        if plan.likelihood_weights > 0 {
            likelihood(run, &base, plan.likelihood_weights)
                .context("comparing importance with the measured change of likelihood")?;
        }
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

/// Images on which the change of likelihood is measured.
const LIKELIHOOD_IMAGES: usize = 256;

/// Removes single weights one by one, measures what each removal costs in log-likelihood, and compares the order with
/// that of the approximations. Writes `likelihood-NAME-sSEED.json`.
fn likelihood(run: &mut Run, base: &Base, n_weights: usize) -> Result<()> {
    let images = LIKELIHOOD_IMAGES.min(run.data.train.len());
    let name = format!(
        "likelihood-{}-s{}.json",
        base.recipe.name, base.recorded.line.seed
    );
    let path = run.out.join(name);
    let key = Identity::default()
        .with("code", env!("OPT_PRUNING_CODE"))
        .with("base", &base.recorded.line.key)
        .with("images", (images, &run.data.train_hash))
        .with("weights", n_weights)
        .hash();
    let earlier = std::fs::read(&path).ok();
    let earlier = earlier.and_then(|text| serde_json::from_slice::<Likelihood>(&text).ok());
    let found = match earlier.filter(|e| e.key == key) {
        Some(earlier) => earlier,
        None => measure_likelihood(run, base, n_weights, images, key)?,
    };
    let shown: Vec<String> = found
        .spearman_with_measured_change
        .iter()
        .map(|(name, rho)| format!("{name} {:.2}", rho.unwrap_or(f64::NAN)))
        .collect();
    let shown = shown.join(", ");
    eprintln!(
        "  likelihood · {} weights of {}: rank correlation with the measured change: {shown}",
        found.weights, base.recipe.name,
    );
    run.info.notes.push(format!(
        "Importance by likelihood: {} single weights of {} were removed one by one; the rank correlation with the measured \
         change of log-likelihood on {images} training images is {shown} (1 would be the same order).",
        found.weights, base.recipe.name,
    ));
    let mut text = serde_json::to_string_pretty(&found)?;
    text.push('\n');
    write_atomic(&path, text.as_bytes())
}

/// The content of `likelihood-NAME-sSEED.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Likelihood {
    model: String,
    recipe: String,
    seed: u64,
    weights: usize,
    images: usize,
    /// By approximation; none where an order is constant.
    spearman_with_measured_change: BTreeMap<String, Option<f64>>,
    key: String,
}

fn measure_likelihood(
    run: &Run,
    base: &Base,
    n_weights: usize,
    images: usize,
    key: String,
) -> Result<Likelihood> {
    let model = &base.recorded.model;
    let mut net = Net::new(model, run.device)?;
    let sums = gradient_sums(&mut net, run.data.calibration(images, 1))?;
    // Evenly spaced over all weights, in graph order.
    let names = model.weight_names();
    let total: usize = names.iter().map(|n| model.params[*n].len()).sum();
    let n_weights = n_weights.min(total);
    let mut units = Vec::with_capacity(n_weights);
    let mut position = 0;
    for name in names {
        let len = model.params[name].len();
        let first = (position * n_weights).div_ceil(total);
        let end = ((position + len) * n_weights).div_ceil(total);
        units.extend((first..end).map(|k| Unit::Weight {
            param: name.to_owned(),
            index: k * total / n_weights - position,
        }));
        position += len;
    }
    let device = run.device;
    let data = &run.data;
    let measured = loss_changes::<anyhow::Error>(model, &units, |model| {
        let net = Net::new(model, device)?;
        Ok(evaluate(&net, data.calibration(images, images))?.nll)
    })?;
    let mut orders: Vec<(&str, Vec<f64>)> =
        vec![("magnitude", vec![]), ("taylor", vec![]), ("obd", vec![])];
    for unit in &units {
        let Unit::Weight { param, index } = unit else {
            continue;
        };
        let weight = model.param(param)?;
        let n = sums.n_samples as f64;
        let mean = |t: &opt_core::Tensor| t.mapv(|v| f64::from(v) / n).to_owned();
        let g = mean(&sums.sum_gradient[param]);
        let h = mean(&sums.sum_squared_gradient[param]);
        let at = |a: ndarray::ArrayD<f64>| a.iter().nth(*index).copied().unwrap_or(0.0);
        let w = weight.iter().nth(*index).copied().unwrap_or(0.0);
        orders[0].1.push(f64::from(w.abs()));
        orders[1]
            .1
            .push(at(taylor::loss_change(weight.view(), g.view())));
        orders[2]
            .1
            .push(at(obd::loss_change(weight.view(), g.view(), h.view())));
    }
    let correlations = orders
        .iter()
        .map(|(name, order)| {
            let rho = rank_correlation(order, &measured);
            ((*name).to_owned(), rho)
        })
        .collect();
    Ok(Likelihood {
        model: base.recipe.model.clone(),
        recipe: base.recipe.name.clone(),
        seed: base.recorded.line.seed,
        weights: units.len(),
        images,
        spearman_with_measured_change: correlations,
        key,
    })
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
