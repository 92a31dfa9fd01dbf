//! Distillation: a student with a teacher, beside the same student without one.
//!
//! A teacher's loss has longer gradients than a cross-entropy, so a gain over the student alone may be one of the step's
//! length. Controls without a teacher get what a longer step alone gives: another learning rate, and a cross-entropy of the
//! same weight. All arms have the student's start, data, batches and epochs.

use std::fmt::{self, Display, Formatter};

use anyhow::{Context, Result, ensure};
use opt_distill::Kd;
use opt_report::Arm;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::block::{Block, distinct, is_false};
use super::control::{Control, check_lrs, check_teaching, loss_at, weight_of};
use super::stage::{Loss, Stage, StageId, Stages, Work};
use crate::distillation::Teaching;
use crate::recipe::Train;
use crate::variant::Part;

/// The experiment, on the command line and in result lines.
pub(super) const NAME: &str = "distill";

/// Distillation of one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    /// The large network: a baseline's name.
    pub teacher: String,
    /// The small network: a baseline's name. That baseline is the student alone.
    pub student: String,
    /// Temperatures to try, more than 0: a taught arm for each.
    pub temperatures: Vec<f64>,
    /// Weight of the teacher's term: the loss is `w_ce · CE + w_kd · T² · KL`.
    pub w_kd: f64,
    /// Weight of the labels' term.
    pub w_ce: f64,
    /// Label smoothing of a control arm without a teacher, 0 to less than 1; the student's own gives none.
    pub control_smoothing: f64,
    /// Learning rates of further control arms; the student's own gives none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub control_lrs: Vec<f64>,
    /// Whether there is a control arm for each temperature whose cross-entropy weighs as much as the taught student's loss,
    /// `w_ce + w_kd · T²`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub control_weight: bool,
    /// Learning rates of further taught arms, for each temperature; the student's own gives none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taught_lrs: Vec<f64>,
}

/// How a student is taught.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Lesson {
    temperature: f64,
    /// Another learning rate than its recipe's.
    lr: Option<f64>,
}

impl Display for Lesson {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "T = {}", self.temperature)?;
        match self.lr {
            Some(lr) => write!(f, ", lr {lr}"),
            None => Ok(()),
        }
    }
}

impl Distill {
    /// The arms without a teacher of a student with this recipe, beside the student as it is.
    fn controls(&self, student: &Train) -> Vec<Control> {
        let mut controls = vec![Control::Smoothing(self.control_smoothing)];
        controls.extend(self.control_lrs.iter().map(|lr| Control::Lr(*lr)));
        if self.control_weight {
            let weights = self.temperatures.iter().map(|t| self.kd(*t));
            controls.extend(weights.map(|kd| Control::Weight(weight_of(&kd))));
        }
        Control::only_other(controls, student)
    }

    /// The taught arms of a student with this recipe.
    fn lessons(&self, student: &Train) -> Vec<Lesson> {
        let other = self.taught_lrs.iter().filter(|lr| **lr != student.lr);
        let lrs: Vec<Option<f64>> = [None]
            .into_iter()
            .chain(other.map(|lr| Some(*lr)))
            .collect();
        let of = |temperature: &f64| {
            let temperature = *temperature;
            lrs.iter().map(move |&lr| Lesson { temperature, lr })
        };
        self.temperatures.iter().flat_map(of).collect()
    }

    /// The loss at this temperature.
    #[must_use]
    pub fn kd(&self, temperature: f64) -> Kd {
        loss_at(temperature, self.w_kd, self.w_ce)
    }
}

impl Block for Distill {
    fn experiment(&self) -> &'static str {
        NAME
    }

    fn base(&self) -> &str {
        &self.student
    }

    fn teacher(&self) -> Option<&str> {
        Some(&self.teacher)
    }

    fn trains(&self) -> Vec<&Train> {
        // The student's recipe is that of a baseline.
        Vec::new()
    }

    fn epochs_mut(&mut self) -> Vec<&mut usize> {
        Vec::new()
    }

    fn check(&self) -> Result<()> {
        for temperature in &self.temperatures {
            check_teaching(&self.kd(*temperature))?;
        }
        distinct(&self.temperatures, "once is enough").context("temperatures")?;
        let smoothing = self.control_smoothing;
        ensure!(
            (0.0..1.0).contains(&smoothing),
            "control_smoothing is {smoothing}, expected 0 to less than 1"
        );
        check_lrs(&self.control_lrs).context("control_lrs")?;
        check_lrs(&self.taught_lrs).context("taught_lrs")
    }

    fn stages(&self, list: &mut Stages) -> Result<()> {
        let teacher = list.baseline(&self.teacher)?;
        let student = list.baseline(&self.student)?;
        let train = list.recipe(&self.student)?.train.clone();
        // One student may have several teachers: it is alone once.
        let alone = list.or_push(self.arm(
            list,
            student,
            format!("{} alone", self.student),
            Arm::Control,
            Work::Again,
        ))?;
        let arm = |list: &Stages, name: String, arm: Arm, train: Train, loss: Loss| {
            let work = Work::Train {
                phase: "train",
                train,
                loss,
            };
            Stage {
                compared_with: Some(alone),
                ..self.arm(list, student, name, arm, work)
            }
        };
        for control in self.controls(&train) {
            let (train, loss) = control.training(&train);
            let name = format!("{} alone, {control}", self.student);
            list.or_push(arm(list, name, Arm::Control, train, loss))?;
        }
        for lesson in self.lessons(&train) {
            let train = Train {
                lr: lesson.lr.unwrap_or(train.lr),
                ..train.clone()
            };
            let teaching = Teaching::Kd(self.kd(lesson.temperature));
            let name = format!("{} taught by {}, {lesson}", self.student, self.teacher);
            let loss = Loss::Distill { teacher, teaching };
            list.push(arm(list, name, Arm::Taught, train, loss))?;
        }
        Ok(())
    }
}

impl Distill {
    /// A student that has as many epochs as the student alone.
    fn arm(&self, list: &Stages, student: StageId, name: String, arm: Arm, work: Work) -> Stage {
        let how = match arm {
            Arm::Control => "alone",
            Arm::Taught => "with a teacher",
        };
        let baseline = list.get(student);
        let again = work == Work::Again;
        Stage {
            experiment: NAME,
            name,
            from: again.then_some(student),
            work,
            compared_with: None,
            epochs_of: format!("{} {how}", baseline.epochs),
            part: Some(Part {
                group: self.student.clone(),
                arm,
            }),
            ..baseline.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;
    use crate::profile::Profile;

    #[test]
    fn an_arm_that_is_the_student_as_it_is_is_not_trained_twice() {
        let mut profile = Profile::built_in("smoke").unwrap();
        let train = profile.recipe("small").unwrap().train.clone();
        let lr = train.lr;
        let block = &mut profile.distill[0];
        block.control_smoothing = 0.0;
        block.control_lrs = vec![lr, 2.0 * lr];
        block.taught_lrs = vec![lr, lr / 2.0];
        // At T = 1 the weights 0.9 and 0.1 make a whole.
        block.temperatures = vec![1.0, 2.0];
        assert_eq!(
            block.controls(&train),
            [Control::Lr(2.0 * lr), Control::Weight(3.7)]
        );
        let lessons = [
            (1.0, None),
            (1.0, Some(lr / 2.0)),
            (2.0, None),
            (2.0, Some(lr / 2.0)),
        ];
        let lessons = lessons.map(|(temperature, lr)| Lesson { temperature, lr });
        assert_eq!(block.lessons(&train), lessons);
    }

    #[test]
    fn teachers_of_one_student_share_its_control() {
        let mut profile = Profile::built_in("smoke").unwrap();
        let mut again = profile.distill[0].clone();
        again.teacher = "source".to_owned();
        profile.distill.push(again.clone());
        again.control_smoothing += 0.1;
        again.teacher = "large".to_owned();
        again.temperatures = vec![3.0];
        again.control_weight = false;
        profile.distill.push(again);
        let stages = profile.stages(&[Experiment::Distill]).unwrap();
        let of = stages.iter().filter(|(_, s)| s.experiment == "distill");
        let names: Vec<&str> = of.map(|(_, s)| s.name.as_str()).collect();
        let expected = [
            "small alone",
            "small alone, label smoothing 0.1",
            "small alone, lr 0.2",
            "small alone, loss × 14.5",
            "small taught by large, T = 4",
            "small taught by large, T = 4, lr 0.05",
            "small taught by source, T = 4",
            "small taught by source, T = 4, lr 0.05",
            "small alone, label smoothing 0.2",
            "small taught by large, T = 3",
            "small taught by large, T = 3, lr 0.05",
        ];
        assert_eq!(names, expected);
    }

    /// A taught network's steps are longer: what the teacher gives is seen beside longer steps without one.
    #[test]
    fn every_teacher_has_a_control_of_a_larger_learning_rate() {
        for (name, _) in crate::profile::PROFILES {
            let profile = Profile::built_in(name).unwrap();
            for block in &profile.distill {
                let train = &profile.recipe(&block.student).unwrap().train;
                let longer = |c: &Control| matches!(c, Control::Lr(lr) if *lr > train.lr);
                assert!(
                    block.controls(train).iter().any(longer),
                    "{name}: {block:?}"
                );
            }
        }
    }
}
