//! What a run will do, and about how long it takes.

use std::collections::BTreeSet;

use anyhow::Result;
use opt_core::cost::cost;
use opt_core::{InputSpec, zoo};
use opt_nn::Precision;
use tch::Device;

use crate::profile::Profile;
use crate::recipe::Train;
use crate::run::threads;

/// What one network or variant costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The experiment.
    pub experiment: String,
    /// What is done.
    pub what: String,
    /// Expected seconds.
    pub seconds: f64,
}

/// Everything that one seed does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In order.
    pub items: Vec<Item>,
}

/// Multiply-accumulates of forward passes that training finishes per second and thread (a step counts as one forward
/// pass here), measured on a 2.6 GHz Zen 4: 77 to 20 MMAC networks at batch 128.
const BF16_TRAINING: f64 = 22e9;
/// The same in f32.
const F32_TRAINING: f64 = 11e9;
/// Forward passes alone in f32, which evaluation uses.
const F32_FORWARD: f64 = 25e9;
/// The same on a GPU: a guess that only has to be of the right order.
const GPU: f64 = 2e12;
/// Fake quantization makes a step about this much slower.
const AWARE: f64 = 2.3;

/// How many images there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// For training.
    pub train: usize,
    /// For measuring.
    pub test: usize,
}

/// Lists what `experiments` do with one seed.
///
/// # Errors
///
/// A network that cannot be built.
pub fn plan(
    profile: &Profile,
    experiments: &[String],
    counts: Counts,
    input: &InputSpec,
    device: Device,
) -> Result<Plan> {
    let mut planner = Planner {
        profile,
        counts,
        input,
        device,
        trained: BTreeSet::new(),
        plan: Plan::default(),
    };
    for experiment in experiments {
        planner.experiment(experiment)?;
    }
    Ok(planner.plan)
}

struct Planner<'a> {
    profile: &'a Profile,
    counts: Counts,
    input: &'a InputSpec,
    device: Device,
    trained: BTreeSet<String>,
    plan: Plan,
}

impl Planner<'_> {
    fn experiment(&mut self, experiment: &str) -> Result<()> {
        let profile = self.profile;
        match experiment {
            "baseline" => {
                for recipe in &profile.baseline {
                    self.base(&recipe.name)?;
                }
            }
            "prune" => {
                for p in &profile.prune {
                    self.base(&p.base)?;
                    let variants = 1 + 2 * p.sparsities.len() * p.scopes.len();
                    let each = self.training(&p.base, &p.fine_tune)? + self.forward(&p.base)?;
                    let what = format!(
                        "{}: {variants} variants of {} epochs",
                        p.base, p.fine_tune.epochs
                    );
                    let ablation = p.likelihood_weights as f64 * self.forward(&p.base)? * 256.0
                        / self.counts.test as f64;
                    self.push("prune", what, each * variants as f64 + ablation);
                }
            }
            "quantize" => {
                for q in &profile.quantize {
                    self.base(&q.base)?;
                    let forward = self.forward(&q.base)?;
                    let cheap = 5 * q.weight_levels.len() + q.post_training.len();
                    let what = format!("{}: {cheap} variants without training", q.base);
                    self.push("quantize", what, 1.5 * forward * cheap as f64);
                    let n = q.aware.len();
                    if n > 0 {
                        let alone = self.training(&q.base, &q.aware_train)?;
                        let all = alone * (1.0 + AWARE * n as f64) + forward * (n + 1) as f64;
                        let epochs = q.aware_train.epochs;
                        let what = format!(
                            "{}: {n} quantization-aware of {epochs} epochs, 1 without",
                            q.base
                        );
                        self.push("quantize", what, all);
                    }
                }
            }
            "distill" => {
                for d in &profile.distill {
                    self.base(&d.teacher)?;
                    self.base(&d.student)?;
                    let train = profile.recipe(&d.student)?.train.clone();
                    let alone = self.training(&d.student, &train)?;
                    let taught = alone + self.teaching(&d.teacher, &train)?;
                    let variants = d.temperatures.len();
                    let what =
                        format!("{}: 1 alone, {variants} taught by {}", d.student, d.teacher);
                    self.push("distill", what, alone + taught * variants as f64);
                }
            }
            _ => {
                for p in &profile.pipeline {
                    self.base(&p.base)?;
                    let smaller = p.keep_channels * p.keep_channels;
                    let tune = smaller * self.training(&p.base, &p.fine_tune)?
                        + self.teaching(&p.base, &p.fine_tune)?;
                    let aware = AWARE * smaller * self.training(&p.base, &p.aware_train)?
                        + self.teaching(&p.base, &p.aware_train)?;
                    let what = format!(
                        "{}: prune, {} + {} epochs, quantize",
                        p.base, p.fine_tune.epochs, p.aware_train.epochs
                    );
                    let forward = 4.0 * smaller * self.forward(&p.base)?;
                    let control = self.training(&p.base, &p.fine_tune)?
                        + self.training(&p.base, &p.aware_train)?;
                    self.push("pipeline", what, tune + aware + forward + control);
                }
            }
        }
        Ok(())
    }

    fn base(&mut self, name: &str) -> Result<()> {
        if self.trained.insert(name.to_owned()) {
            let train = self.profile.recipe(name)?.train.clone();
            let seconds = self.training(name, &train)? + self.forward(name)?;
            let what = format!("{name}: {} epochs", train.epochs);
            self.push("baseline", what, seconds);
        }
        Ok(())
    }

    fn push(&mut self, experiment: &str, what: String, seconds: f64) {
        self.plan.items.push(Item {
            experiment: experiment.to_owned(),
            what,
            seconds,
        });
    }

    fn macs(&self, base: &str) -> Result<f64> {
        let recipe = self.profile.recipe(base)?;
        let model = zoo::build(&recipe.model, self.input, 0)?;
        Ok(cost(&model)?.macs as f64)
    }

    fn speed(&self, cpu: f64) -> f64 {
        if self.device.is_cuda() {
            GPU
        } else {
            cpu * threads() as f64
        }
    }

    fn training(&self, base: &str, train: &Train) -> Result<f64> {
        let per_thread = match train.options(self.device).precision {
            Precision::Bf16 => BF16_TRAINING,
            Precision::F32 => F32_TRAINING,
        };
        let images = train.epochs as f64 * self.counts.train as f64;
        Ok(images * self.macs(base)? / self.speed(per_thread))
    }

    /// What a teacher's forward passes add.
    fn teaching(&self, teacher: &str, train: &Train) -> Result<f64> {
        Ok(self.training(teacher, train)? / 3.0)
    }

    fn forward(&self, base: &str) -> Result<f64> {
        let images = self.counts.test as f64;
        Ok(images * self.macs(base)? / self.speed(F32_FORWARD))
    }
}
