//! Accuracy of a network on labelled images, in f32.

use tch::{Kind, Tensor};

use crate::batch::Batch;
use crate::forward::{Mode, Precision, forward};
use crate::net::to_vec;
use crate::{Net, NnError, Result, device};

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
/// A batch that does not fit the network; [`NnError::NoAnswer`] at the first logit that is not finite.
pub fn evaluate(net: &Net, batches: impl Iterator<Item = Batch>) -> Result<Evaluation> {
    let _in_place = device::in_place();
    evaluate_with(batches, |batch| {
        let bytes = batch.bytes(net.input(), net.device())?;
        Ok(forward(net, &bytes, Mode::Evaluate, Precision::F32, &[]).logits)
    })
}

/// Counts right answers of anything that turns a batch into logits `[N, classes]`.
///
/// # Errors
///
/// Those of `logits`; [`NnError::NoAnswer`] at the first logit that is not finite: NaN compares with nothing, so that every
/// image would count as class 0; [`NnError::Batch`] if there is no batch.
pub fn evaluate_with(
    batches: impl Iterator<Item = Batch>,
    mut logits: impl FnMut(&Batch) -> Result<Tensor>,
) -> Result<Evaluation> {
    let _no_grad = tch::no_grad_guard();
    let mut predictions = Vec::new();
    let (mut correct, mut nll) = (0usize, 0.0);
    for batch in batches {
        let logits = logits(&batch)?.to_device(tch::Device::Cpu);
        if let Some((row, class, logit)) = first_not_finite(&logits)? {
            return Err(NnError::NoAnswer {
                image: predictions.len() + row,
                class,
                logit,
            });
        }
        let classes = logits.size().get(1).copied().unwrap_or_default();
        let classes = usize::try_from(classes).unwrap_or_default();
        let labels = batch.labels(classes, tch::Device::Cpu)?;
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

/// The first number that is not finite in logits `[N, classes]`: its row, its class and the number.
pub(crate) fn first_not_finite(logits: &Tensor) -> Result<Option<(usize, usize, f32)>> {
    if logits.isfinite().all().int64_value(&[]) == 1 {
        return Ok(None);
    }
    let values = to_vec(logits).map_err(|e| NnError::torch("reading logits", &e))?;
    let classes = (values.len() / usize::try_from(logits.size()[0]).unwrap_or(1)).max(1);
    let found = values.iter().position(|v| !v.is_finite());
    Ok(found.map(|at| (at / classes, at % classes, values[at])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(labels: &[i64]) -> Batch {
        Batch {
            images: vec![0; labels.len()],
            labels: labels.to_vec(),
            indices: vec![0; labels.len()],
        }
    }

    /// Two batches of two images with three classes each; the second holds `value` at image 3, class 1.
    fn evaluated(value: f32) -> Result<Evaluation> {
        let mut batches = [batch(&[0, 0]), batch(&[0, 2])].into_iter();
        let mut rows = [
            [0f32, 1.0, 2.0, 3.0, 1.0, 2.0],
            [2.0, 1.0, 0.5, 0.0, value, 5.0],
        ]
        .into_iter();
        evaluate_with(&mut batches, |_| {
            Ok(Tensor::from_slice(&rows.next().unwrap()).reshape([2, 3]))
        })
    }

    #[test]
    fn answers_are_counted_over_batches() {
        let evaluation = evaluated(1.0).unwrap();
        assert_eq!(evaluation.predictions, [2, 0, 0, 2]);
        assert_eq!(evaluation.top1, 75.0);
        // -log softmax of 0 in [0, 1, 2], of 3 in [3, 1, 2], of 2 in [2, 1, 0.5], of 5 in [0, 1, 5].
        let nll = |label: f64, row: [f64; 3]| row.iter().map(|v| v.exp()).sum::<f64>().ln() - label;
        let expected = nll(0.0, [0.0, 1.0, 2.0])
            + nll(3.0, [3.0, 1.0, 2.0])
            + nll(2.0, [2.0, 1.0, 0.5])
            + nll(5.0, [0.0, 1.0, 5.0]);
        // f64 sums of f32 inputs that are exact.
        assert!((evaluation.nll - expected / 4.0).abs() < 1e-12);
    }

    #[test]
    fn a_logit_that_is_not_finite_is_no_answer() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = evaluated(value).unwrap_err();
            let NnError::NoAnswer {
                image,
                class,
                logit,
            } = &error
            else {
                panic!("{error}");
            };
            assert_eq!((*image, *class, logit.to_bits()), (3, 1, value.to_bits()));
            let text = error.to_string();
            assert!(
                text.contains("image 3 ") && text.contains("learning rate"),
                "{text}"
            );
        }
    }

    #[test]
    fn without_images_there_is_no_accuracy() {
        let error = evaluate_with(std::iter::empty(), |_| Ok(Tensor::new())).unwrap_err();
        assert!(matches!(error, NnError::Batch { .. }), "{error}");
    }
}
