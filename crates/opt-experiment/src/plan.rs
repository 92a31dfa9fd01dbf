//! What a run will do, and about how long it takes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use opt_core::cost::cost;
use opt_core::{Task, zoo};
use tch::Device;

use crate::profile::Profile;
use crate::recipe::Train;
use crate::speed::Speed;

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

impl Plan {
    /// Expected seconds of one seed.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.items.iter().map(|item| item.seconds).sum()
    }
}

/// Fake quantization makes a step about this much slower.
const AWARE: f64 = 2.3;
/// A teacher's forward pass takes about this share of a step of its own training.
const TEACHING: f64 = 1.0 / 3.0;

/// The work of training on one image, in multiply-accumulates as [`Speed`] counts them: `macs` of the network, more with
/// fake quantization, and a forward pass of the teacher.
pub(crate) fn step_macs(macs: f64, teacher: Option<f64>, fake_quant: bool) -> f64 {
    let own = if fake_quant { AWARE * macs } else { macs };
    own + TEACHING * teacher.unwrap_or(0.0)
}

/// How many images there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// For training.
    pub train: usize,
    /// For measuring.
    pub test: usize,
}

/// Lists what `experiments` do with one seed, and how long that takes at this speed.
///
/// # Errors
///
/// A network that cannot be built.
pub fn plan(
    profile: &Profile,
    experiments: &[String],
    counts: Counts,
    task: &Task,
    device: Device,
    speed: &Speed,
) -> Result<Plan> {
    let work = Work {
        counts,
        device,
        speed: *speed,
        macs: macs(profile, task)?,
    };
    plan_for(profile, experiments, &work)
}

/// What one pass over the images costs on this machine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Work {
    pub(crate) counts: Counts,
    pub(crate) device: Device,
    pub(crate) speed: Speed,
    /// Multiply-accumulates for one image, by the name of the baseline.
    pub(crate) macs: BTreeMap<String, f64>,
}

/// Multiply-accumulates for one image, by the name of the baseline.
///
/// # Errors
///
/// A network that cannot be built.
pub(crate) fn macs(profile: &Profile, task: &Task) -> Result<BTreeMap<String, f64>> {
    let of = |model: &str| -> Result<f64> {
        let model = zoo::build(model, task, 0)?;
        Ok(cost(&model)?.macs as f64)
    };
    profile
        .baseline
        .iter()
        .map(|recipe| Ok((recipe.name.clone(), of(&recipe.model)?)))
        .collect()
}

/// As [`plan`], for networks whose work is known.
pub(crate) fn plan_for(profile: &Profile, experiments: &[String], work: &Work) -> Result<Plan> {
    let mut planner = Planner {
        profile,
        work,
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
    work: &'a Work,
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
                    let pairs = p.sparsities.len() * p.scopes.len();
                    let variants = 1 + 2 * pairs;
                    // One-shot pruning shares the rounds before its cut with the control.
                    let epochs = (1 + pairs) * p.epochs() + pairs * p.fine_tune.epochs;
                    let last = self.training(&p.base, &p.fine_tune)?;
                    let train = last * epochs as f64 / p.fine_tune.epochs as f64;
                    let what = format!("{}: {variants} variants of {} epochs", p.base, p.epochs());
                    // Measured on 256 images, single weights, sets and as many channels.
                    let units = p.likelihood_weights + 2 * p.likelihood_sets;
                    let ablation = units as f64 * self.forward(&p.base)? * 256.0
                        / self.work.counts.test as f64;
                    let measuring = variants as f64 * self.forward(&p.base)?;
                    self.push("prune", what, train + measuring + ablation);
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
                for (i, d) in profile.distill.iter().enumerate() {
                    self.base(&d.teacher)?;
                    self.base(&d.student)?;
                    let train = profile.recipe(&d.student)?.train.clone();
                    let alone = self.training(&d.student, &train)?;
                    let taught = alone + self.teaching(&d.teacher, &train)?;
                    let variants = d.lessons(&train).len();
                    let controls = profile.controls(i)?.len();
                    let what = format!(
                        "{}: {controls} alone, {variants} taught by {}",
                        d.student, d.teacher
                    );
                    let passes = alone * controls as f64 + taught * variants as f64;
                    self.push("distill", what, passes);
                }
            }
            _ => {
                for p in &profile.pipeline {
                    self.base(&p.base)?;
                    let smaller = p.keep_channels * p.keep_channels;
                    let alone = smaller * self.training(&p.base, &p.fine_tune)?;
                    let controls = 1 + p.controls().len();
                    let tune =
                        alone * (1 + controls) as f64 + self.teaching(&p.base, &p.fine_tune)?;
                    let aware = AWARE * smaller * self.training(&p.base, &p.aware_train)?
                        + self.teaching(&p.base, &p.aware_train)?;
                    let what = format!(
                        "{}: prune, {} + {} epochs, {controls} without a teacher, quantize",
                        p.base, p.fine_tune.epochs, p.aware_train.epochs
                    );
                    let forward = (4 + controls) as f64 * smaller * self.forward(&p.base)?;
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
        let macs = self.work.macs.get(base);
        macs.copied()
            .with_context(|| format!("no baseline `{base}` was measured"))
    }

    fn training(&self, base: &str, train: &Train) -> Result<f64> {
        let speed = self
            .work
            .speed
            .training(train.options(self.work.device).precision);
        let images = train.epochs as f64 * self.work.counts.train as f64;
        Ok(images * self.macs(base)? / speed)
    }

    /// What a teacher's forward passes add.
    fn teaching(&self, teacher: &str, train: &Train) -> Result<f64> {
        Ok(TEACHING * self.training(teacher, train)?)
    }

    fn forward(&self, base: &str) -> Result<f64> {
        let images = self.work.counts.test as f64;
        Ok(images * self.macs(base)? / self.work.speed.f32_forward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_of_a_teacher_and_of_its_controls_is_counted() {
        let profile = Profile::built_in("smoke").unwrap();
        let work = Work {
            counts: Counts {
                train: 100,
                test: 0,
            },
            device: Device::Cpu,
            speed: Speed {
                bf16_training: 1e6,
                f32_training: 1e6,
                f32_forward: 1e6,
            },
            macs: [("large", 3000.0), ("small", 1000.0)]
                .map(|(name, macs)| (name.to_owned(), macs))
                .into(),
        };
        let item = |experiment: &str| {
            let plan = plan_for(&profile, &[experiment.to_owned()], &work).unwrap();
            plan.items.last().unwrap().clone()
        };
        // An epoch of `small` takes 0.1 s and a pass of its teacher as much; all five arms have three epochs.
        let distill = item("distill");
        assert_eq!(distill.what, "small: 3 alone, 2 taught by large");
        assert!(
            (distill.seconds - 0.3 * (3.0 + 2.0 * 2.0)).abs() < 1e-9,
            "{distill:?}"
        );
        // An epoch of `large` takes 0.3 s: three as it is, two of each arm of step 2 on 0.75² of its work, one with fake
        // quantization; a teacher's pass takes 0.1 s.
        let pipeline = item("pipeline");
        assert_eq!(
            pipeline.what,
            "large: prune, 2 + 1 epochs, 3 without a teacher, quantize"
        );
        let small = 0.3 * 0.75 * 0.75;
        let expected = 0.9 + 4.0 * 2.0 * small + 0.2 + AWARE * small + 0.1;
        assert!((pipeline.seconds - expected).abs() < 1e-9, "{pipeline:?}");
    }
}
