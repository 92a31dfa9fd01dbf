//! What a run will do, and about how long it takes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use opt_core::cost::cost;
use opt_core::{Task, zoo};
use tch::Device;

use crate::experiment::stage::{Round, Stage, StageId, Stages, Work as StageWork};
use crate::profile::Profile;
use crate::recipe::Train;
use crate::speed::{Speed, step_macs};

/// The stages that an experiment makes of one network, together.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The experiment.
    pub experiment: &'static str,
    /// Whose stages.
    pub base: String,
    /// How many networks.
    pub networks: usize,
    /// Epochs of all of them that are trained here.
    pub epochs: usize,
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

/// How many images there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// For training.
    pub train: usize,
    /// For measuring.
    pub test: usize,
}

/// What one pass over the images costs on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// How many images there are.
    pub counts: Counts,
    /// Where it trains.
    pub device: Device,
    /// How fast it is.
    pub speed: Speed,
    /// Multiply-accumulates for one image, by the name of the baseline.
    pub macs: BTreeMap<String, f64>,
}

/// Multiply-accumulates for one image, by the name of the baseline.
///
/// # Errors
///
/// A network that cannot be built.
pub fn macs(profile: &Profile, task: &Task) -> Result<BTreeMap<String, f64>> {
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

/// Lists what `stages` do with one seed, by experiment and network, and how long that takes.
///
/// # Errors
///
/// A network whose work is not known.
pub fn plan(stages: &Stages, on: &Machine) -> Result<Plan> {
    let mut plan = Plan::default();
    let costs = costs(stages, on)?;
    for ((_, stage), cost) in stages.iter().zip(costs) {
        let networks = usize::from(stage.work.has_line());
        let same = |i: &&mut Item| i.experiment == stage.experiment && i.base == stage.recipe;
        if let Some(item) = plan.items.iter_mut().rev().find(same) {
            item.networks += networks;
            item.epochs += cost.epochs;
            item.seconds += cost.seconds;
        } else {
            plan.items.push(Item {
                experiment: stage.experiment,
                base: stage.recipe.clone(),
                networks,
                epochs: cost.epochs,
                seconds: cost.seconds,
            });
        }
    }
    Ok(plan)
}

/// What one stage costs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Epochs that it trains itself, and does not share with an earlier stage.
    pub epochs: usize,
    /// Expected seconds.
    pub seconds: f64,
}

/// The cost of every stage, in order.
///
/// # Errors
///
/// A network whose work is not known.
pub fn costs(stages: &Stages, on: &Machine) -> Result<Vec<Cost>> {
    let mut shared: Vec<(Option<StageId>, &[Round])> = Vec::new();
    let mut costs = Vec::new();
    for (_, stage) in stages.iter() {
        let macs = on.macs(stages, stage)?;
        let measuring = on.forward(macs);
        let teacher = stage.work.teacher().map(|t| stages.get(t));
        let teacher = teacher.map(|t| on.macs(stages, t)).transpose()?;
        let aware = matches!(stage.work, StageWork::QuantizationAware { .. });
        let training = |train: &Train| Cost {
            epochs: train.epochs,
            seconds: on.training(step_macs(macs, teacher, aware), train),
        };
        let mut cost = Cost::default();
        match &stage.work {
            StageWork::Train { train, .. } | StageWork::QuantizationAware { train, .. } => {
                cost = training(train);
                cost.seconds += measuring;
            }
            StageWork::Mask { rounds, .. } => {
                // Rounds before the first cut are the same for all.
                let uncut = rounds.iter().take_while(|r| r.sparsity == 0.0).count();
                let common = |(from, other): &&(Option<StageId>, &[Round])| {
                    let same = other
                        .iter()
                        .zip(&rounds[..uncut])
                        .take_while(|(a, b)| a == b);
                    if *from == stage.from { same.count() } else { 0 }
                };
                let known = shared.iter().map(|s| common(&s)).max().unwrap_or(0);
                for round in &rounds[known..] {
                    let one = training(&round.train);
                    cost.epochs += one.epochs;
                    cost.seconds += one.seconds;
                }
                cost.seconds += measuring;
                shared.push((stage.from, rounds));
            }
            StageWork::Likelihood { weights, sets } => {
                // Measured on 256 images, single weights, sets and as many channels.
                let units = weights + 2 * sets;
                cost.seconds = units as f64 * measuring * 256.0 / on.counts.test as f64;
            }
            StageWork::Again | StageWork::Shrink { .. } => cost.seconds = measuring,
            // Quantizing, or calibrating, takes about half as long as measuring.
            StageWork::QuantizeWeights { .. } | StageWork::PostTraining { .. } => {
                cost.seconds = 1.5 * measuring;
            }
        }
        costs.push(cost);
    }
    Ok(costs)
}

impl Machine {
    /// For the networks of a profile.
    ///
    /// # Errors
    ///
    /// A network that cannot be built.
    pub fn new(
        profile: &Profile,
        counts: Counts,
        task: &Task,
        device: Device,
        speed: Speed,
    ) -> Result<Self> {
        Ok(Self {
            counts,
            device,
            speed,
            macs: macs(profile, task)?,
        })
    }

    /// Multiply-accumulates of a stage's network for one image.
    fn macs(&self, stages: &Stages, stage: &Stage) -> Result<f64> {
        let baseline = || {
            let macs = self.macs.get(&stage.recipe).copied();
            macs.with_context(|| format!("no baseline `{}` was measured", stage.recipe))
        };
        let before = match stage.from {
            Some(from) => self.macs(stages, stages.get(from))?,
            None => baseline()?,
        };
        // What reads fewer channels and makes fewer.
        Ok(match stage.work {
            StageWork::Shrink { keep, .. } => before * keep * keep,
            StageWork::Train { .. }
            | StageWork::Again
            | StageWork::Mask { .. }
            | StageWork::Likelihood { .. }
            | StageWork::QuantizeWeights { .. }
            | StageWork::PostTraining { .. }
            | StageWork::QuantizationAware { .. } => before,
        })
    }

    /// Seconds of a phase of training whose images take so many multiply-accumulates each.
    fn training(&self, macs: f64, train: &Train) -> f64 {
        let speed = self.speed.training(train.options(self.device).precision);
        let images = train.epochs as f64 * self.counts.train as f64;
        images * macs / speed
    }

    /// Seconds of measuring a network.
    fn forward(&self, macs: f64) -> f64 {
        self.counts.test as f64 * macs / self.speed.f32_forward
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;
    use crate::speed::AWARE;

    #[test]
    fn every_arm_of_a_teacher_and_of_its_controls_is_counted() {
        let profile = Profile::built_in("smoke").unwrap();
        let on = Machine {
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
        let item = |experiment: Experiment| {
            let plan = plan(&profile.stages(&[experiment]).unwrap(), &on).unwrap();
            plan.items.last().unwrap().clone()
        };
        // An epoch of `small` takes 0.1 s and a pass of its teacher as much; all five arms have three epochs.
        let distill = item(Experiment::Distill);
        assert_eq!((distill.networks, distill.epochs), (6, 15));
        assert!(
            (distill.seconds - 0.3 * (3.0 + 2.0 * 2.0)).abs() < 1e-9,
            "{distill:?}"
        );
        // An epoch of `large` takes 0.3 s: three as it is, two of each arm of step 2 on 0.75² of its work, one with fake
        // quantization; a teacher's pass takes 0.1 s.
        let pipeline = item(Experiment::Pipeline);
        assert_eq!((pipeline.networks, pipeline.epochs), (8, 12));
        let small = 0.3 * 0.75 * 0.75;
        let expected = 0.9 + 4.0 * 2.0 * small + 0.2 + AWARE * small + 0.1;
        assert!((pipeline.seconds - expected).abs() < 1e-9, "{pipeline:?}");
    }
}
