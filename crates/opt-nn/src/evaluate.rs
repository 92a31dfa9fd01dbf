//! Accuracy of a network on labelled images, in f32.

use tch::{Kind, Tensor};

use crate::batch::Batch;
use crate::forward::{Mode, Precision, forward};
use crate::{Net, NnError, Result};

/// What a network answers on a set of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Share of right answers, in percent.
    pub top1: f64,
    /// Mean negative log-likelihood of the right class, in nats.
    pub nll: f64,
    /// The answer to every image, in order.
    pub predictions: Vec<i64>,
}

/// Runs every batch and counts.
///
/// # Errors
///
/// A batch that does not fit the network.
pub fn evaluate(net: &Net, batches: impl Iterator<Item = Batch>) -> Result<Evaluation> {
    evaluate_with(batches, |batch| {
        let bytes = batch.bytes(net.input(), net.device())?;
        Ok(forward(net, &bytes, Mode::Evaluate, Precision::F32, &[]).logits)
    })
}

/// Counts right answers of anything that turns a batch into logits `[N, classes]`.
///
/// # Errors
///
/// Those of `logits`, or [`NnError::Batch`] if there is no batch.
pub fn evaluate_with(
    batches: impl Iterator<Item = Batch>,
    mut logits: impl FnMut(&Batch) -> Result<Tensor>,
) -> Result<Evaluation> {
    let _no_grad = tch::no_grad_guard();
    let mut predictions = Vec::new();
    let (mut correct, mut nll) = (0usize, 0.0);
    for batch in batches {
        let logits = logits(&batch)?.to_device(tch::Device::Cpu);
        let labels = batch.labels(tch::Device::Cpu);
        let loss = logits
            .to_kind(Kind::Double)
            .f_cross_entropy_loss(&labels, None::<Tensor>, tch::Reduction::Sum, -100, 0.0)
            .map_err(|e| NnError::torch("evaluating", &e))?;
        nll += loss.double_value(&[]);
        let answers = Vec::<i64>::try_from(logits.argmax(-1, false))
            .map_err(|e| NnError::torch("reading answers", &e))?;
        correct += answers
            .iter()
            .zip(&batch.labels)
            .filter(|(a, b)| a == b)
            .count();
        predictions.extend(answers);
    }
    if predictions.is_empty() {
        let problem = "there are no images to evaluate on".to_owned();
        return Err(NnError::Batch { problem });
    }
    let n = predictions.len() as f64;
    Ok(Evaluation {
        top1: 100.0 * correct as f64 / n,
        nll: nll / n,
        predictions,
    })
}
