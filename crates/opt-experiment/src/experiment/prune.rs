//! Magnitude pruning: one-shot against iterative, beside training on without pruning.
//!
//! All variants of a block go through the same rounds of training: `round_epochs` in each but the last, then those of
//! `fine_tune`. The control cuts nothing. One-shot pruning cuts before the last round, iterative pruning before every round,
//! more each time. So all have equally many epochs with equal learning rates, and both schedules recover equally long from
//! their last cut; what is left between them is when the first weights went.

mod likelihood;

use anyhow::{Context, Result};
use opt_core::mask::{Masks, apply_masks};
use opt_core::{Model, cost};
use opt_nn::Net;
use opt_nn::train::Constraints;
use opt_prune::{Criterion, Norm, Schedule, SelectRequest, score, select, sparsities};
use opt_report::named_percent;

use super::{Base, Bases, variant};
use crate::measure::Shipped;
use crate::profile::{Prune, Scope};
use crate::run::{Phase, Pruning, Recorded, Run, Variant};
use crate::training::Label;

pub(super) fn run(run: &mut Run, bases: &mut Bases<'_>) -> Result<()> {
    for prune in &bases.profile.prune {
        let base = bases.get(run, &prune.base)?;
        let label = bases.label("prune", format!("{} trained on", base.recipe.name));
        let control = Arm {
            base: &base,
            prune,
            scope: Scope::Global,
            // Cuts nothing.
            targets: vec![0.0; prune.rounds],
            label: &label,
        };
        let control = control.record(run, None)?;
        for &scope in &prune.scopes {
            for &sparsity in &prune.sparsities {
                for schedule in [
                    Schedule::OneShot,
                    Schedule::Iterative {
                        steps: prune.rounds,
                    },
                ] {
                    let method = method(scope, schedule);
                    // Three decimals at most: 0.8·100 is not 80 in binary.
                    let percent = named_percent(sparsity);
                    let label = bases.label("prune", format!("{percent} % {method}"));
                    let arm = Arm {
                        base: &base,
                        prune,
                        scope,
                        targets: targets(schedule, sparsity, prune.rounds)?,
                        label: &label,
                    };
                    let pruning = Pruning { sparsity, method };
                    arm.record(run, Some((&control, pruning)))?;
                }
            }
        }
        likelihood::run(run, &base, prune)
            .context("comparing importance with the measured change of likelihood")?;
    }
    Ok(())
}

/// What variants of equal sparsity differ in.
fn method(scope: Scope, schedule: Schedule) -> String {
    let scope = match scope {
        Scope::Global => "global",
        Scope::PerLayer => "per layer",
    };
    let schedule = match schedule {
        Schedule::OneShot => "one-shot".to_owned(),
        Schedule::Iterative { steps } => format!("{steps} rounds"),
        Schedule::CubicAgp { steps } => format!("cubic, {steps} steps"),
    };
    format!("{scope}, {schedule}")
}

/// The sparsity of each of `rounds` rounds: the last ones are the schedule's, those before cut nothing.
fn targets(schedule: Schedule, sparsity: f64, rounds: usize) -> Result<Vec<f64>> {
    let cuts = sparsities(schedule, sparsity)?;
    let uncut = rounds.saturating_sub(cuts.len());
    Ok([vec![0.0; uncut], cuts].concat())
}

/// One way through the rounds.
#[derive(Debug)]
struct Arm<'a> {
    base: &'a Base,
    prune: &'a Prune,
    scope: Scope,
    /// The share of the weights that is gone in each round.
    targets: Vec<f64>,
    label: &'a Label,
}

impl Arm<'_> {
    /// The three steps of every round: importance of each weight, removal of the least important, update.
    fn train(&self, run: &mut Run) -> Result<(Model, Masks, f64)> {
        let mut model: Model = self.base.recorded.model.clone();
        let mut masks = Masks::new();
        let mut seconds = 0.0;
        let mut epochs_before = self.base.epochs;
        let rounds = self.prune.round_trains();
        for (round, (target, train)) in self.targets.iter().zip(&rounds).enumerate() {
            let is_cut = *target > 0.0;
            if is_cut {
                let scores = score(&model, &Criterion::Magnitude(Norm::L1), None)?;
                let scope = match self.scope {
                    Scope::Global => opt_prune::Scope::Global,
                    Scope::PerLayer => opt_prune::Scope::PerLayer,
                };
                let request = SelectRequest::sparsity(scope, *target);
                masks = select(&model, &scores, &masks, &request)?.masks;
                model = apply_masks(&model, &masks)?;
            }
            let mut net = Net::new(&model, run.device)?;
            let what = if is_cut { "fine-tune" } else { "train on" };
            let phase = Phase {
                label: self.label,
                network: &self.base.recipe.model,
                name: &format!("{what} {}/{}", round + 1, rounds.len()),
                epochs_before,
            };
            let constraints = Constraints {
                masks: is_cut.then_some(&masks),
                ..Constraints::default()
            };
            seconds += run.train(&mut net, train, phase, constraints)?;
            epochs_before += train.epochs;
            model = net.to_model()?;
        }
        Ok((model, masks, seconds))
    }

    /// Trains and records it, beside `control` if it is one of the pruned.
    fn record(&self, run: &mut Run, control: Option<(&Recorded, Pruning)>) -> Result<Recorded> {
        let (model, masks, seconds) = self.train(run)?;
        let (base, more) = (self.base, self.prune.epochs());
        let cuts = self.targets.iter().filter(|t| **t > 0.0).count();
        let (control, pruning) = control.unzip();
        let sparsity = pruning.as_ref().map(|p| p.sparsity);
        let variant = Variant {
            epochs: (base.epochs + more) as f64,
            epochs_of: match cuts {
                0 => format!("{} base + {more} without compression", base.epochs),
                1 => format!(
                    "{} base + {more}, cut before the last {}",
                    base.epochs, self.prune.fine_tune.epochs
                ),
                _ => format!(
                    "{} base + {more} in {cuts} rounds, the last of {}",
                    base.epochs, self.prune.fine_tune.epochs
                ),
            },
            train_precision: self.prune.fine_tune.precision_name(run.device),
            baseline: Some(control.unwrap_or(&base.recorded)),
            pruning,
            ..variant(base, self.label, seconds)
        };
        let recorded = run.record(variant, Shipped::Float(&model))?;
        if let Some(sparsity) = sparsity {
            check_sparsity(&recorded.model, &masks, sparsity)?;
        }
        Ok(recorded)
    }
}

/// What was asked for is what ships, to the last weight.
fn check_sparsity(shipped: &Model, masks: &Masks, sparsity: f64) -> Result<()> {
    let shipped = cost::cost(shipped)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{PROFILES, Profile};

    #[test]
    fn both_schedules_recover_equally_long_from_their_last_cut() {
        for (name, _) in PROFILES {
            for prune in Profile::built_in(name).unwrap().prune {
                let trains = prune.round_trains();
                let epochs: Vec<usize> = trains.iter().map(|t| t.epochs).collect();
                assert_eq!(epochs.iter().sum::<usize>(), prune.epochs(), "{name}");
                // At least as long as before the last cut, and at least what a round of the smoke test has.
                assert!(
                    epochs
                        .iter()
                        .all(|e| (1..=prune.fine_tune.epochs).contains(e))
                );
                let steps = prune.rounds;
                for schedule in [Schedule::OneShot, Schedule::Iterative { steps }] {
                    let targets = targets(schedule, 0.8, prune.rounds).unwrap();
                    assert_eq!(targets.len(), trains.len(), "{name}");
                    // The last cut is before the last round, so what follows it is the same.
                    assert!((targets[steps - 1] - 0.8).abs() < 1e-12);
                    assert!(targets[steps - 2] < 0.8 - 1e-3, "{name}: {targets:?}");
                }
            }
        }
    }

    #[test]
    fn rounds_without_a_cut_come_first() {
        let one_shot = targets(Schedule::OneShot, 0.75, 3).unwrap();
        assert_eq!(one_shot, [0.0, 0.0, 0.75]);
        let iterative = targets(Schedule::Iterative { steps: 3 }, 0.75, 3).unwrap();
        assert!(iterative.is_sorted() && iterative[0] > 0.0 && iterative[2] == 0.75);
        assert_eq!(
            method(Scope::PerLayer, Schedule::OneShot),
            "per layer, one-shot"
        );
        let iterative = Schedule::Iterative { steps: 2 };
        assert_eq!(method(Scope::Global, iterative), "global, 2 rounds");
    }
}
