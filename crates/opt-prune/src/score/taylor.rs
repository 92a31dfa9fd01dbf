//! First order: what the loss changes by when a weight is set to zero, by the gradient alone.

use ndarray::{ArrayD, ArrayViewD, Zip};

use super::to_f32;

/// The first-order change of the loss when each element is removed; negative where removal helps.
///
/// ```text
/// ΔL ≈ -g·w        g: mean gradient over the samples
/// ```
///
/// Good where the gradient dominates. Near a minimum the mean gradient vanishes and with it the meaning of this score:
/// use the second order ([`obd`](super::obd)) there.
///
/// # Panics
///
/// If the shapes differ.
#[must_use]
#[track_caller]
pub fn loss_change(weight: ArrayViewD<'_, f32>, mean_gradient: ArrayViewD<'_, f64>) -> ArrayD<f64> {
    assert_eq!(weight.shape(), mean_gradient.shape(), "shapes differ");
    Zip::from(weight)
        .and(mean_gradient)
        .map_collect(|w, g| -g * f64::from(*w))
}

/// The size of the first-order change.
///
/// ```text
/// s = |g·w|
/// ```
///
/// # Panics
///
/// If the shapes differ.
///
/// # References
///
/// P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz, *Pruning Convolutional Neural Networks for Resource Efficient
/// Inference*, 2016, arXiv:1611.06440.
#[must_use]
#[track_caller]
pub fn element_scores(
    weight: ArrayViewD<'_, f32>,
    mean_gradient: ArrayViewD<'_, f64>,
) -> ArrayD<f32> {
    loss_change(weight, mean_gradient).mapv(|change| to_f32(change.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn hand_computed() {
        let weight = array![2.0f32, -3.0, 0.0, 1.0].into_dyn();
        let gradient = array![0.5f64, 0.5, 9.0, 0.0].into_dyn();
        let change = loss_change(weight.view(), gradient.view());
        assert_eq!(change, array![-1.0, 1.5, 0.0, 0.0].into_dyn());
        let scores = element_scores(weight.view(), gradient.view());
        assert_eq!(scores, array![1.0, 1.5, 0.0, 0.0].into_dyn());
    }
}
