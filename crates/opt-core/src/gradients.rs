//! Sums of gradients over samples: what importance scores that follow the loss need to know of the data.

use std::collections::BTreeMap;

use crate::Params;

/// Gradients of the negative log-likelihood of single samples, summed in three ways.
///
/// Take them in evaluation mode, with the model that is to be scored, and update nothing in between.
///
/// ```text
/// sum_gradient[p]         = Σ_n ∂L_n/∂p        one n per single sample
/// sum_abs_gradient[p]     = Σ_n |∂L_n/∂p|
/// sum_squared_gradient[p] = Σ_n (∂L_n/∂p)²
/// ```
///
/// The third divided by the number of samples is the diagonal of the empirical Fisher information. Absolute values and
/// squares are of *single* samples: those of a sum are other, smaller numbers, which vanish near a minimum.
///
/// A sum that no criterion asks for may be empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GradientSums {
    /// The number of samples in the sums.
    pub n_samples: usize,
    /// Sums of gradients, by parameter name.
    pub sum_gradient: Params,
    /// Sums of absolute gradients of single samples, by parameter name.
    pub sum_abs_gradient: Params,
    /// Sums of squared gradients of single samples, by parameter name.
    pub sum_squared_gradient: Params,
    /// For each [`Gate`] by its layer's name, one for each channel: `Σ_n |gate_n|`.
    pub sum_abs_gate: BTreeMap<String, Vec<f64>>,
    /// For each [`Gate`] by its layer's name, one for each channel: `Σ_n gate_n²`.
    pub sum_squared_gate: BTreeMap<String, Vec<f64>>,
}

/// The derivative of the loss by a factor (a gate) on each channel of a layer, as a linear function of the gradients of the
/// layer's parameters.
///
/// ```text
/// gate_n[c] = Σ_p Σ_{i of channel c} ∂L_n/∂p_i · factors[p]_i
/// ```
///
/// Channel `c` of `channels` owns the `c`-th of as many equal parts of every parameter in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// The layer's node.
    pub layer: String,
    /// Its number of channels.
    pub channels: usize,
    /// By the name of a trainable parameter, in its shape.
    pub factors: Params,
}
