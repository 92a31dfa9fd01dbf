//! Joins the distillation loss to the training loop.

use opt_distill::{Kd, kd_loss};
use opt_nn::forward::Outputs;
use opt_nn::train::{BatchInfo, Objective, Term};

/// Hinton's loss as the objective of a student; each part is already multiplied by its weight.
#[derive(Debug, Clone, Copy)]
pub struct Distill(pub Kd);

impl Objective for Distill {
    fn loss(
        &mut self,
        batch: &BatchInfo<'_>,
        student: &Outputs,
        teacher: Option<&Outputs>,
    ) -> Result<Vec<Term>, Box<dyn std::error::Error + Send + Sync>> {
        let teacher = teacher.ok_or("distillation needs a teacher, and the loop was given none")?;
        let terms = kd_loss(&student.logits, &teacher.logits, batch.labels, &self.0)?;
        Ok(vec![
            Term {
                name: "ce",
                value: terms.ce * self.0.w_ce,
            },
            Term {
                name: "kd",
                value: terms.kd * self.0.w_kd,
            },
        ])
    }
}
