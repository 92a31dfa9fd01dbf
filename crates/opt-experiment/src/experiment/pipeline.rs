//! The whole chain on one network: remove channels, fine-tune with the unpruned network as teacher, quantize, write.

use anyhow::{Context, Result, ensure};
use opt_core::lower::ResidualAdd;
use opt_distill::Kd;
use opt_prune::{Criterion, Norm};
use opt_report::Arm;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::block::{Block, is_false};
use super::control::{Control, check_lrs, check_teaching, loss_at, weight_of};
use super::quantize::trained_on;
use super::stage::{Loss, Stage, Stages, Work};
use crate::distillation::Teaching;
use crate::recipe::{OneOrMore, Train};
use crate::variant::Part;

/// The experiment, on the command line and in result lines.
pub(super) const NAME: &str = "pipeline";

/// Prune, fine-tune with a teacher, quantize.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The baseline's name; it is the teacher too.
    pub base: String,
    /// Share of the channels that stays, between 0 and 1.
    pub keep_channels: f64,
    /// Channel counts are multiples of this number.
    pub multiple_of: usize,
    /// Fine-tuning with the unpruned network as teacher.
    pub fine_tune: Train,
    /// The teacher's temperature, more than 0.
    pub temperature: f64,
    /// Weight of the teacher's term: the loss is `w_ce · CE + w_kd · T² · KL`.
    pub w_kd: f64,
    /// Weight of the labels' term.
    pub w_ce: f64,
    /// Learning rates of further arms that are fine-tuned without a teacher; the fine-tuning's own gives none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub control_lrs: Vec<f64>,
    /// Whether there is an arm without a teacher whose cross-entropy weighs as much as the taught network's loss,
    /// `w_ce + w_kd · T²`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub control_weight: bool,
    /// Bits of a weight of the final network, 2 to 8, or a list of them; activations have 8.
    pub bits: OneOrMore<u8>,
    /// Quantization-aware training (QAT): with fake quantization, taught at temperature 1.
    pub qat_train: Train,
}

impl Pipeline {
    /// The arms that are fine-tuned without a teacher, beside the one with the fine-tuning's own recipe.
    fn controls(&self) -> Vec<Control> {
        let mut controls: Vec<Control> =
            self.control_lrs.iter().map(|lr| Control::Lr(*lr)).collect();
        if self.control_weight {
            controls.push(Control::Weight(weight_of(&self.kd(self.temperature))));
        }
        Control::only_other(controls, &self.fine_tune)
    }

    /// The loss at this temperature.
    fn kd(&self, temperature: f64) -> Kd {
        loss_at(temperature, self.w_kd, self.w_ce)
    }
}

impl Block for Pipeline {
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
        vec![&self.fine_tune, &self.qat_train]
    }

    fn epochs_mut(&mut self) -> Vec<&mut usize> {
        vec![&mut self.fine_tune.epochs, &mut self.qat_train.epochs]
    }

    fn check(&self) -> Result<()> {
        self.fine_tune.check().context("fine_tune")?;
        self.qat_train.check().context("qat_train")?;
        check_teaching(&self.kd(self.temperature))?;
        check_lrs(&self.control_lrs).context("control_lrs")?;
        let keep = self.keep_channels;
        ensure!(
            keep > 0.0 && keep < 1.0,
            "keep_channels is {keep}, expected more than 0 and less than 1"
        );
        ensure!(
            self.multiple_of > 0,
            "multiple_of is 0, expected at least 1"
        );
        self.bits.check_bits()
    }

    fn stages(&self, list: &mut Stages) -> Result<()> {
        let of = NAME;
        let base = list.baseline(&self.base)?;
        let epochs = list.get(base).epochs;
        let (tuning, qat) = (self.fine_tune.epochs, self.qat_train.epochs);
        // What the epochs that follow are worth without compression: every step is compared with this.
        let all = Train {
            epochs: tuning + qat,
            ..self.fine_tune.clone()
        };
        let control = list.push(trained_on(list, base, of, &all))?;
        let compared_with = Some(control);

        // 1. Remove channels: the network is rebuilt smaller.
        let removed = 100.0 * (1.0 - self.keep_channels);
        let work = Work::Shrink {
            criterion: Criterion::Magnitude(Norm::L2),
            keep: self.keep_channels,
            multiple_of: self.multiple_of,
        };
        let name = format!("1. {removed:.0} % of channels removed");
        let small = list.push(Stage {
            compared_with,
            ..list.after(base, of, name, work)
        })?;

        // 2. Fine-tune, without a teacher (no step goes on from there) and with one.
        let tuned = |list: &Stages, name: String, arm: Arm, train: Train, loss: Loss| {
            let work = Work::Train {
                phase: "fine-tune",
                train,
                loss,
            };
            Stage {
                compared_with,
                epochs_of: format!("{epochs} base + {tuning} fine-tune"),
                part: Some(Part {
                    group: format!("{}, step 2", self.base),
                    arm,
                }),
                ..list.after(small, of, name, work)
            }
        };
        let alone = "2. fine-tuned without a teacher";
        let (train, loss) = (self.fine_tune.clone(), Loss::CrossEntropy);
        list.push(tuned(list, alone.to_owned(), Arm::Control, train, loss))?;
        for control in self.controls() {
            let (train, loss) = control.training(&self.fine_tune);
            let name = format!("{alone}, {control}");
            list.push(tuned(list, name, Arm::Control, train, loss))?;
        }
        let taught = |temperature| Loss::Distill {
            teacher: base,
            teaching: Teaching::Kd(self.kd(temperature)),
        };
        let name = "2. fine-tuned with a teacher".to_owned();
        let (train, loss) = (self.fine_tune.clone(), taught(self.temperature));
        let tuned = list.push(tuned(list, name, Arm::Taught, train, loss))?;

        // 3. Quantize after training, 4. train further with fake quantization.
        let calibration = list.calibration.clone();
        for &bits in self.bits.as_slice() {
            let work = Work::PostTraining {
                calibration: calibration.clone(),
                adds: ResidualAdd::Fused,
                bits,
            };
            let name = format!("3. W{bits}A8 post-training");
            list.push(Stage {
                compared_with,
                ..list.after(tuned, of, name, work)
            })?;
            let work = Work::QuantizationAware {
                calibration: calibration.clone(),
                bits,
                train: self.qat_train.clone(),
                loss: taught(1.0),
            };
            let name = format!("4. W{bits}A8 quantization-aware");
            list.push(Stage {
                compared_with,
                epochs_of: format!("{epochs} base + {tuning} fine-tune + {qat} quantization-aware"),
                ..list.after(tuned, of, name, work)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;
    use crate::profile::{PROFILES, Profile};

    /// A taught network's steps are longer: what the teacher gives is seen beside longer steps without one.
    #[test]
    fn every_teacher_has_a_control_of_a_larger_learning_rate() {
        for (name, _) in PROFILES {
            for block in Profile::built_in(name).unwrap().pipeline {
                let longer = |c: &Control| matches!(c, Control::Lr(lr) if *lr > block.fine_tune.lr);
                assert!(block.controls().iter().any(longer), "{name}: {block:?}");
            }
        }
    }

    #[test]
    fn several_bits_go_on_from_one_fine_tuning() {
        let mut profile = Profile::built_in("smoke").unwrap();
        let before = profile.stages(&[Experiment::Pipeline]).unwrap();
        profile.pipeline[0].bits = OneOrMore::More(vec![8, 4]);
        let stages = profile.stages(&[Experiment::Pipeline]).unwrap();
        let name = |s: &Stage| s.name.clone();
        let names: Vec<String> = stages.iter().map(|(_, s)| name(s)).collect();
        let old: Vec<String> = before.iter().map(|(_, s)| name(s)).collect();
        assert_eq!(names[..old.len()], old);
        let more = ["3. W4A8 post-training", "4. W4A8 quantization-aware"];
        assert_eq!(names[old.len()..], more);
    }
}
