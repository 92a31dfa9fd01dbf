//! Adam with decoupled weight decay.

use tch::Tensor;

/// The knobs of `AdamW`.
///
/// ```text
/// w ← w - lr·λ·w
/// m ← β1·m + (1 - β1)·g        v ← β2·v + (1 - β2)·g²
/// w ← w - lr·(m/(1 - β1^t)) / (sqrt(v/(1 - β2^t)) + ε)
/// ```
///
/// as PyTorch computes it.
///
/// # References
///
/// I. Loshchilov, F. Hutter, *Decoupled Weight Decay Regularization*, 2017, arXiv:1711.05101.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// β1, of the mean of gradients.
    pub beta1: f64,
    /// β2, of the mean of their squares.
    pub beta2: f64,
    /// ε.
    pub epsilon: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }
}

/// What is multiplied with the learning rate and subtracted in step `step` (from 1); moves m and v on.
pub(super) fn direction(
    options: AdamWOptions,
    step: u64,
    gradient: &Tensor,
    moments: &mut [Tensor],
) -> Tensor {
    let AdamWOptions {
        beta1,
        beta2,
        epsilon,
    } = options;
    let [m, v] = moments else {
        return gradient.zeros_like();
    };
    let _ = m.g_mul_scalar_(beta1);
    let _ = m.g_add_(&(gradient * (1.0 - beta1)));
    let _ = v.g_mul_scalar_(beta2);
    let _ = v.g_add_(&(gradient * gradient * (1.0 - beta2)));
    let t = i32::try_from(step).unwrap_or(i32::MAX);
    let correction2 = (1.0 - beta2.powi(t)).sqrt();
    &*m / (1.0 - beta1.powi(t)) / (v.sqrt() / correction2 + epsilon)
}
