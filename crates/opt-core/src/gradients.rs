//! Sums of gradients over samples: what importance scores that follow the loss need to know of the data.

use crate::Params;

/// Gradients of the negative log-likelihood of single samples, summed.
///
/// Take them in evaluation mode, with the model that is to be scored, and update nothing in between.
///
/// ```text
/// sum_gradient[p] = Σ_n ∂L_n/∂p        sum_squared_gradient[p] = Σ_n (∂L_n/∂p)²        one n per single sample
/// ```
///
/// The second divided by the number of samples is the diagonal of the empirical Fisher information.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GradientSums {
    /// The number of samples in the sums.
    pub n_samples: usize,
    /// Sums of gradients, by parameter name.
    pub sum_gradient: Params,
    /// Sums of squared gradients of *single* samples, by parameter name; may be empty where no second order is used.
    pub sum_squared_gradient: Params,
}
