//! Stochastic gradient descent with momentum.

use tch::Tensor;

/// The knobs of SGD.
///
/// ```text
/// g ← g + λ·w        v ← μ·v + g        w ← w - lr·(g + μ·v)  (Nesterov)   or   w ← w - lr·v
/// ```
///
/// as PyTorch computes it.
///
/// # References
///
/// I. Sutskever, J. Martens, G. Dahl, G. Hinton, *On the importance of initialization and momentum in deep learning*,
/// 2013.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdOptions {
    /// Momentum μ.
    pub momentum: f64,
    /// Nesterov's form.
    pub nesterov: bool,
}

impl Default for SgdOptions {
    fn default() -> Self {
        Self {
            momentum: 0.9,
            nesterov: true,
        }
    }
}

/// What is multiplied with the learning rate and subtracted; moves v on. The gradient has its decay already.
pub(super) fn direction(options: SgdOptions, gradient: Tensor, v: &mut Tensor) -> Tensor {
    let _ = v.g_mul_scalar_(options.momentum);
    let _ = v.g_add_(&gradient);
    if options.nesterov {
        gradient + &*v * options.momentum
    } else {
        v.shallow_clone()
    }
}
