//! Sums of gradients and of their squares over single images, for importance scores.

use opt_core::GradientSums;
use tch::Tensor;

use crate::batch::Batch;
use crate::forward::{Mode, Precision, forward};
use crate::net::to_array;
use crate::{Net, NnError, Result};

/// Computes the sums over batches of **one** image each, in f32 with running statistics.
///
/// # Errors
///
/// [`NnError::Batch`] for a batch that does not fit or holds more than one image, and where there is none.
pub fn gradient_sums(net: &mut Net, images: impl Iterator<Item = Batch>) -> Result<GradientSums> {
    let names: Vec<String> = net.trainable().into_iter().map(|(name, _)| name).collect();
    for name in &names {
        let leaf = net.tensor(name).detach().set_requires_grad(true);
        net.replace(name, leaf);
    }
    let mut totals: Vec<(Tensor, Tensor)> = Vec::new();
    let mut n_samples = 0;
    for batch in images {
        if batch.labels.len() != 1 {
            let problem = format!(
                "{} images, expected one: squares are of single gradients",
                batch.labels.len()
            );
            return Err(NnError::Batch { problem });
        }
        let bytes = batch.bytes(net.input(), net.device())?;
        let labels = batch.labels(net.device());
        let logits = forward(net, &bytes, Mode::Evaluate, Precision::F32, &[]).logits;
        let loss = logits.cross_entropy_for_logits(&labels);
        let parameters: Vec<&Tensor> = names.iter().map(|n| net.tensor(n)).collect();
        let gradients = Tensor::f_run_backward(&[&loss], &parameters, false, false)
            .map_err(|e| NnError::torch("computing gradients", &e))?;
        let _no_grad = tch::no_grad_guard();
        if totals.is_empty() {
            let zeros = |g: &Tensor| (g.zeros_like(), g.zeros_like());
            totals = gradients.iter().map(zeros).collect();
        }
        for ((sum, squared), gradient) in totals.iter_mut().zip(&gradients) {
            let _ = sum.g_add_(gradient);
            let _ = squared.g_add_(&gradient.square());
        }
        n_samples += 1;
    }
    if n_samples == 0 {
        let problem = "there are no images to compute gradients on".to_owned();
        return Err(NnError::Batch { problem });
    }
    let mut sums = GradientSums {
        n_samples,
        ..GradientSums::default()
    };
    for (name, (sum, squared)) in names.iter().zip(&totals) {
        let shared = |t: &Tensor| Ok::<_, NnError>(to_array(t, name)?.into_shared());
        sums.sum_gradient.insert(name.clone(), shared(sum)?);
        sums.sum_squared_gradient
            .insert(name.clone(), shared(squared)?);
    }
    Ok(sums)
}
