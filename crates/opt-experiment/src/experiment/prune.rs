//! Pruning of single weights: one-shot against iterative, beside training on without pruning.
//!
//! All variants of a block go through the same rounds of training: `round_epochs` in each but the last, then those of
//! `fine_tune`. The control cuts nothing. One-shot pruning cuts before the last round, iterative pruning before every round,
//! more each time. So all have equally many epochs with equal learning rates, and all schedules recover equally long from
//! their last cut; what is left between them is when the first weights went.

use std::fmt::{self, Display, Formatter};

use anyhow::{Context, Result, bail, ensure};
use opt_prune::{Criterion, Norm, sparsities};
use opt_report::named_percent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::block::{Block, distinct};
use super::stage::{Round, Stage, Stages, Work};
use super::word::Word;
use crate::recipe::Train;
use crate::variant::Pruning;

/// The experiment, on the command line and in result lines.
pub(super) const NAME: &str = "prune";

/// Pruning of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// The baseline's name.
    pub base: String,
    /// Shares of the weights that are removed, between 0 and 1.
    pub sparsities: Vec<f64>,
    /// Rounds of training, 1 to 100. Iterative schedules cut before each; 1 leaves only one-shot pruning.
    pub rounds: usize,
    /// Epochs of every round before the last. One-shot pruning and the control have these rounds too, without a cut.
    pub round_epochs: usize,
    /// What makes a weight important: its size, or an estimate of what the loss would change without it. Formulas are in
    /// `opt-prune`.
    #[serde(
        default = "default_criteria",
        skip_serializing_if = "is_default_criteria"
    )]
    #[schemars(extend("default" = default_criteria()))]
    pub criteria: Vec<Word<Criterion>>,
    /// Where weights compete.
    pub scopes: Vec<Scope>,
    /// When weights go.
    #[serde(
        default = "default_schedules",
        skip_serializing_if = "is_default_schedules"
    )]
    #[schemars(extend("default" = default_schedules()))]
    pub schedules: Vec<Schedule>,
    /// Fine-tuning after the last cut: the epochs of the last round, the same for every variant.
    pub fine_tune: Train,
    /// Single weights whose removal is measured exactly and compared with its approximations; 0 leaves this out.
    #[serde(default)]
    pub likelihood_weights: usize,
    /// Sets of weights, and as many channels, whose removal is measured exactly; 0 leaves this out.
    #[serde(default)]
    pub likelihood_sets: usize,
}

const MAGNITUDE: Criterion = Criterion::Magnitude(Norm::L1);

fn default_criteria() -> Vec<Word<Criterion>> {
    vec![Word(MAGNITUDE)]
}
fn is_default_criteria(criteria: &Vec<Word<Criterion>>) -> bool {
    *criteria == default_criteria()
}
fn default_schedules() -> Vec<Schedule> {
    vec![Schedule::OneShot, Schedule::Iterative]
}
fn is_default_schedules(schedules: &Vec<Schedule>) -> bool {
    *schedules == default_schedules()
}

/// Where weights compete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All layers together.
    Global,
    /// Each layer on its own.
    PerLayer,
}

/// When weights go: [`opt_prune::Schedule`], with a step in each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// All before the last round.
    OneShot,
    /// The same share of what remains before every round.
    Iterative,
    /// Much at first, little at the end.
    Cubic,
}

impl Display for Scope {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "global",
            Self::PerLayer => "per_layer",
        })
    }
}

impl Display for Schedule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneShot => "one_shot",
            Self::Iterative => "iterative",
            Self::Cubic => "cubic",
        })
    }
}

impl Schedule {
    fn with_steps(self, steps: usize) -> opt_prune::Schedule {
        match self {
            Self::OneShot => opt_prune::Schedule::OneShot,
            Self::Iterative => opt_prune::Schedule::Iterative { steps },
            Self::Cubic => opt_prune::Schedule::CubicAgp { steps },
        }
    }
}

impl Scope {
    fn of_prune(self) -> opt_prune::Scope {
        match self {
            Self::Global => opt_prune::Scope::Global,
            Self::PerLayer => opt_prune::Scope::PerLayer,
        }
    }
}

impl Prune {
    /// The training of each round, in order. Every variant has the same: they differ in when what is cut.
    fn round_trains(&self) -> Vec<Train> {
        let before = Train {
            epochs: self.round_epochs,
            ..self.fine_tune.clone()
        };
        let mut rounds = vec![before; self.rounds - 1];
        rounds.push(self.fine_tune.clone());
        rounds
    }

    /// The rounds with these shares of the weights gone.
    fn rounds(&self, targets: Vec<f64>) -> Vec<Round> {
        let rounds = targets.into_iter().zip(self.round_trains());
        rounds
            .map(|(sparsity, train)| Round { sparsity, train })
            .collect()
    }

    /// What the epochs of a variant were, by the number of its cuts.
    fn epochs_of(&self, base: usize, rounds: &[Round]) -> String {
        let more: usize = rounds.iter().map(|r| r.train.epochs).sum();
        let last = self.fine_tune.epochs;
        match rounds.iter().filter(|r| r.sparsity > 0.0).count() {
            0 => format!("{base} base + {more} without compression"),
            1 => format!("{base} base + {more}, cut before the last {last}"),
            cuts => format!("{base} base + {more} in {cuts} rounds, the last of {last}"),
        }
    }
}

/// What variants of equal sparsity differ in.
fn method(scope: Scope, schedule: opt_prune::Schedule, criterion: Criterion) -> String {
    let scope = match scope {
        Scope::Global => "global",
        Scope::PerLayer => "per layer",
    };
    let schedule = match schedule {
        opt_prune::Schedule::OneShot => "one-shot".to_owned(),
        opt_prune::Schedule::Iterative { steps } => format!("{steps} rounds"),
        opt_prune::Schedule::CubicAgp { steps } => format!("cubic, {steps} steps"),
    };
    // Magnitude is what everybody means who names none.
    if criterion == MAGNITUDE {
        return format!("{scope}, {schedule}");
    }
    format!(
        "{scope}, {schedule}, {}",
        criterion.to_string().replace('_', " ")
    )
}

/// The sparsity of each of `rounds` rounds: the last ones are the schedule's, those before cut nothing.
fn targets(schedule: opt_prune::Schedule, sparsity: f64, rounds: usize) -> Result<Vec<f64>> {
    let cuts = sparsities(schedule, sparsity)?;
    let uncut = rounds.saturating_sub(cuts.len());
    Ok([vec![0.0; uncut], cuts].concat())
}

impl Block for Prune {
    fn experiment(&self) -> &'static str {
        NAME
    }

    fn base(&self) -> &str {
        &self.base
    }

    fn teacher(&self) -> Option<&str> {
        None
    }

    fn trains(&self) -> Vec<&Train> {
        vec![&self.fine_tune]
    }

    fn epochs_mut(&mut self) -> Vec<&mut usize> {
        vec![&mut self.round_epochs, &mut self.fine_tune.epochs]
    }

    fn check(&self) -> Result<()> {
        self.fine_tune.check().context("fine_tune")?;
        ensure!(
            (1..=100).contains(&self.rounds),
            "rounds is {}, expected 1 to 100",
            self.rounds
        );
        ensure!(
            self.rounds > 1 || self.schedules == [Schedule::OneShot],
            "rounds is 1, which is one-shot pruning; say so with schedules = [\"one_shot\"], or give 2 to 100 rounds"
        );
        for (key, epochs) in [
            ("round_epochs", self.round_epochs),
            ("fine_tune.epochs", self.fine_tune.epochs),
        ] {
            ensure!(
                (1..=10_000).contains(&epochs),
                "{key} is {epochs}, expected 1 to 10,000, so that each of the {} rounds trains",
                self.rounds
            );
        }
        let outside = |s: &&f64| !(**s > 0.0 && **s < 1.0);
        let wrong = self.sparsities.iter().find(outside);
        if let Some(wrong) = wrong {
            bail!("sparsities has {wrong}, expected more than 0 and less than 1");
        }
        let in_names: Vec<f64> = self.sparsities.iter().map(|s| named_percent(*s)).collect();
        distinct(&in_names, "names have three decimals").context("sparsities, in percent")?;
        distinct(&self.scopes, "once is enough").context("scopes")?;
        distinct(&self.schedules, "once is enough").context("schedules")?;
        let criteria: Vec<String> = self.criteria.iter().map(|c| c.0.to_string()).collect();
        distinct(&criteria, "once is enough").context("criteria")?;
        ensure!(
            !criteria.is_empty() && !self.schedules.is_empty() && !self.scopes.is_empty(),
            "criteria, schedules and scopes need at least one each"
        );
        Ok(())
    }

    fn stages(&self, list: &mut Stages) -> Result<()> {
        let base = list.baseline(&self.base)?;
        let stage = |list: &Stages, name: String, scope: Scope, criterion, targets| {
            let rounds = self.rounds(targets);
            let epochs_of = self.epochs_of(list.get(base).epochs, &rounds);
            let work = Work::Mask {
                criterion,
                scope: scope.of_prune(),
                rounds,
            };
            Stage {
                epochs_of,
                ..list.after(base, NAME, name, work)
            }
        };
        let name = format!("{} trained further", self.base);
        let nothing = vec![0.0; self.rounds];
        let control = list.push(stage(list, name, Scope::Global, MAGNITUDE, nothing))?;
        for &Word(criterion) in &self.criteria {
            for &scope in &self.scopes {
                for &sparsity in &self.sparsities {
                    for schedule in &self.schedules {
                        let schedule = schedule.with_steps(self.rounds);
                        let method = method(scope, schedule, criterion);
                        // Three decimals at most: 0.8·100 is not 80 in binary.
                        let name = format!("{} % {method}", named_percent(sparsity));
                        let targets = targets(schedule, sparsity, self.rounds)?;
                        list.push(Stage {
                            compared_with: Some(control),
                            pruning: Some(Pruning { sparsity, method }),
                            ..stage(list, name, scope, criterion, targets)
                        })?;
                    }
                }
            }
        }
        if self.likelihood_weights > 0 || self.likelihood_sets > 0 {
            let work = Work::Likelihood {
                weights: self.likelihood_weights,
                sets: self.likelihood_sets,
            };
            let name = format!("{} importance by likelihood", self.base);
            list.push(list.after(base, NAME, name, work))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;
    use crate::profile::{PROFILES, Profile};

    #[test]
    fn all_schedules_recover_equally_long_from_their_last_cut() {
        for (name, _) in PROFILES {
            for prune in Profile::built_in(name).unwrap().prune {
                let trains = prune.round_trains();
                // At least as long as before the last cut, and at least what a round of the smoke test has.
                assert!(
                    trains
                        .iter()
                        .all(|t| (1..=prune.fine_tune.epochs).contains(&t.epochs))
                );
                let steps = prune.rounds;
                for schedule in [Schedule::OneShot, Schedule::Iterative, Schedule::Cubic] {
                    let targets = targets(schedule.with_steps(steps), 0.8, steps).unwrap();
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
        let one_shot = targets(opt_prune::Schedule::OneShot, 0.75, 3).unwrap();
        assert_eq!(one_shot, [0.0, 0.0, 0.75]);
        let iterative = opt_prune::Schedule::Iterative { steps: 3 };
        let iterative = targets(iterative, 0.75, 3).unwrap();
        assert!(iterative.is_sorted() && iterative[0] > 0.0 && iterative[2] == 0.75);
    }

    #[test]
    fn criteria_and_schedules_are_lists() {
        let mut profile = Profile::built_in("smoke").unwrap();
        let text = toml::to_string(&profile).unwrap();
        // What everybody gets is not said.
        assert!(
            !text.contains("criteria") && !text.contains("schedules"),
            "{text}"
        );
        let lists = "criteria = [\"magnitude\", \"taylor_mean_abs\"]\nschedules = [\"one_shot\"]\nrounds = 1\n";
        let text = text.replace("rounds = 2\n", lists);
        profile = Profile::parse(&text).unwrap();
        assert_eq!(
            toml::to_string(&profile).unwrap(),
            toml::to_string(&Profile::parse(&text).unwrap()).unwrap()
        );
        let stages = profile.stages(&[Experiment::Prune]).unwrap();
        let names = stages.iter().filter(|(_, s)| s.pruning.is_some());
        let names: Vec<&str> = names.map(|(_, s)| s.name.as_str()).collect();
        let expected = [
            "70 % global, one-shot",
            "70 % global, one-shot, taylor mean abs",
        ];
        assert_eq!(names, expected);
        let text = text.replace("taylor_mean_abs", "taylor");
        let error = format!("{:#}", Profile::parse(&text).unwrap_err());
        assert!(
            error.contains("`taylor`") && error.contains("obd_diagonal"),
            "{error}"
        );
    }
}
