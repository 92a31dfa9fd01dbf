//! Joins the distillation losses, and the loss that they are compared with, to the training loop.

use opt_distill::{Kd, kd_loss};
use opt_nn::forward::Outputs;
use opt_nn::train::{BatchInfo, Loss, Taps, Term};
use tch::Tensor;

use crate::identity::{Ingredient, fields};

/// How a teacher teaches: the loss that is minimised, each part already multiplied by its weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Teaching {
    /// By its logits: Hinton's distillation loss.
    Kd(Kd),
}

impl Loss for Teaching {
    fn loss(
        &mut self,
        batch: &BatchInfo<'_>,
        student: &Outputs,
        teacher: Option<&Outputs>,
    ) -> Result<Vec<Term>, Box<dyn std::error::Error + Send + Sync>> {
        let teacher = teacher.ok_or("distillation needs a teacher, and the loop was given none")?;
        match self {
            Self::Kd(kd) => {
                let terms = kd_loss(&student.logits, &teacher.logits, batch.labels, kd)?;
                Ok(vec![
                    Term {
                        name: "ce",
                        value: terms.ce * kd.w_ce,
                    },
                    Term {
                        name: "kd",
                        value: terms.kd * kd.w_kd,
                    },
                ])
            }
        }
    }
}

/// Another loss with every part multiplied by a weight.
#[derive(Debug, Clone, Copy)]
pub struct Scaled<O> {
    /// The loss.
    pub loss: O,
    /// What its loss is multiplied by.
    pub weight: f64,
}

impl<O: Loss> Loss for Scaled<O> {
    fn taps(&self) -> Taps {
        self.loss.taps()
    }

    fn parameters(&mut self) -> Vec<&mut Tensor> {
        self.loss.parameters()
    }

    fn loss(
        &mut self,
        batch: &BatchInfo<'_>,
        student: &Outputs,
        teacher: Option<&Outputs>,
    ) -> Result<Vec<Term>, Box<dyn std::error::Error + Send + Sync>> {
        let mut terms = self.loss.loss(batch, student, teacher)?;
        for term in &mut terms {
            term.value = term.value.f_mul_scalar(self.weight)?;
        }
        Ok(terms)
    }
}

impl Ingredient for Teaching {
    fn write(&self, text: &mut String) {
        match self {
            Self::Kd(kd) => kd.write(text),
        }
    }
}

impl<O: Ingredient> Ingredient for Scaled<O> {
    fn write(&self, text: &mut String) {
        let Self { loss, weight } = self;
        fields("scaled")
            .with("loss", loss)
            .with("weight", weight)
            .write(text);
    }
}

#[cfg(test)]
mod tests {
    use opt_core::{Task, zoo};
    use opt_nn::Net;
    use opt_nn::train::CrossEntropy;
    use tch::{Device, Kind};

    use super::*;

    /// The terms and the logits' gradient.
    fn of(loss: &mut dyn Loss) -> (Vec<(&'static str, f64)>, Vec<f64>) {
        let model = zoo::build("airbench_1_1_1", &Task::cifar10(), 0).unwrap();
        let net = Net::new(&model, Device::Cpu).unwrap();
        let logits = Tensor::from_slice2(&[[2.0f32, 0.0, -1.0], [0.0, 1.0, 3.0]]);
        let logits = logits.set_requires_grad(true);
        let outputs = Outputs {
            logits: logits.shallow_clone(),
            taps: Vec::new(),
        };
        let batch = BatchInfo {
            labels: &Tensor::from_slice(&[0i64, 1]),
            indices: &[0, 1],
            epoch: 0,
            index: 0,
            net: &net,
        };
        let terms = loss.loss(&batch, &outputs, None).unwrap();
        let total: Tensor = terms.iter().map(|term| &term.value).sum();
        total.backward();
        let gradient = logits.grad().to_kind(Kind::Double).reshape(-1);
        let terms = terms
            .iter()
            .map(|term| (term.name, term.value.double_value(&[])));
        (terms.collect(), Vec::try_from(gradient).unwrap())
    }

    #[test]
    fn a_weight_multiplies_loss_and_gradient_and_nothing_else() {
        let loss = CrossEntropy {
            label_smoothing: 0.1,
        };
        let (plain, gradient) = of(&mut loss.clone());
        assert_eq!(plain[0].0, "ce");
        for weight in [1.0, 14.5, 0.0] {
            let (scaled, longer) = of(&mut Scaled { loss, weight });
            assert_eq!(scaled.len(), 1);
            assert_eq!(scaled[0].0, "ce");
            assert!(
                (scaled[0].1 - weight * plain[0].1).abs() < 1e-5,
                "{scaled:?}"
            );
            for (longer, short) in longer.iter().zip(&gradient) {
                assert!((longer - weight * short).abs() < 1e-5, "{longer}, {short}");
            }
        }
        // A weight of one changes no bit.
        assert_eq!(of(&mut Scaled { loss, weight: 1.0 }), (plain, gradient));
    }
}
