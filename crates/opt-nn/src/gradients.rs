//! Sums of gradients and of their squares, for importance scores.

use std::collections::BTreeMap;

use ndarray::ArrayD;
use tch::Tensor;

use crate::batch::Batch;
use crate::forward::{Mode, Precision, forward};
use crate::net::to_array;
use crate::{Net, NnError, Result};

/// Gradients of the negative log-likelihood with respect to each trainable parameter, summed over batches.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientSums {
    /// The number of batches.
    pub batches: usize,
    /// `Σ_b g_b`, where `g_b` is the gradient of a batch's mean.
    pub sum: BTreeMap<String, ArrayD<f32>>,
    /// `Σ_b g_b²`. With batches of one image this divided by their number is the diagonal of the empirical Fisher
    /// information.
    pub sum_squared: BTreeMap<String, ArrayD<f32>>,
}

/// Computes the sums over `batches`, in f32 with running statistics.
///
/// # Errors
///
/// A batch that does not fit, or none at all.
pub fn gradient_sums(net: &mut Net, batches: impl Iterator<Item = Batch>) -> Result<GradientSums> {
    let names: Vec<String> = net.trainable().into_iter().map(|(name, _)| name).collect();
    for name in &names {
        let leaf = net.tensor(name).detach().set_requires_grad(true);
        net.replace(name, leaf);
    }
    let mut totals: Vec<(Tensor, Tensor)> = Vec::new();
    let mut count = 0;
    for batch in batches {
        let bytes = batch.bytes(net.input(), net.device())?;
        let labels = batch.labels(net.device());
        let logits = forward(net, &bytes, Mode::Evaluate, Precision::F32, &[]).logits;
        let loss = logits.cross_entropy_for_logits(&labels);
        let parameters: Vec<&Tensor> = names.iter().map(|n| net.tensor(n)).collect();
        let gradients = Tensor::f_run_backward(&[&loss], &parameters, false, false)
            .map_err(|e| NnError::torch("computing gradients", &e))?;
        let _no_grad = tch::no_grad_guard();
        if totals.is_empty() {
            totals = gradients
                .iter()
                .map(|g| (g.zeros_like(), g.zeros_like()))
                .collect();
        }
        for ((sum, squared), gradient) in totals.iter_mut().zip(&gradients) {
            let _ = sum.g_add_(gradient);
            let _ = squared.g_add_(&gradient.square());
        }
        count += 1;
    }
    if count == 0 {
        let problem = "there are no images to compute gradients on".to_owned();
        return Err(NnError::Batch { problem });
    }
    let mut sums = GradientSums {
        batches: count,
        sum: BTreeMap::new(),
        sum_squared: BTreeMap::new(),
    };
    for (name, (sum, squared)) in names.iter().zip(&totals) {
        sums.sum.insert(name.clone(), to_array(sum, name)?);
        sums.sum_squared
            .insert(name.clone(), to_array(squared, name)?);
    }
    Ok(sums)
}
