//! Second order (Optimal Brain Damage): the gradient and a diagonal curvature.

use ndarray::{Array, ArrayView, Dimension, Zip};

use super::taylor;
use crate::rounding::to_f32;

/// The second-order change of the loss when each element is removed; negative where removal helps.
///
/// ```text
/// ΔL ≈ -g·w + ½·h·w²        g = E[∂L/∂w]        h = E[(∂L/∂w)²] over single samples
/// ```
///
/// The curvature h is the diagonal of the empirical Fisher matrix, which stands for the Hessian where the predictions fit
/// the data: it is too large where they are far off, and too small where a network knows its training samples by heart.
/// Squares are of single samples: the square of a batch's mean gradient is another, smaller number. Unlike in the paper,
/// the first-order term stays, because networks that are being compressed are rarely at a minimum. Without it, ½·h·w² orders
/// as [`TaylorForm::MeanSquare`](super::TaylorForm::MeanSquare) does.
///
/// # Panics
///
/// If the shapes differ.
///
/// # References
///
/// Y. `LeCun`, J. S. Denker, S. A. Solla, *Optimal Brain Damage*, NIPS 1989.
#[must_use]
#[track_caller]
pub fn loss_change<'a, 'b, 'c, D: Dimension>(
    weight: impl Into<ArrayView<'a, f32, D>>,
    mean_gradient: impl Into<ArrayView<'b, f64, D>>,
    mean_squared_gradient: impl Into<ArrayView<'c, f64, D>>,
) -> Array<f64, D> {
    let (weight, mean_squared_gradient) = (weight.into(), mean_squared_gradient.into());
    assert_eq!(
        weight.shape(),
        mean_squared_gradient.shape(),
        "shapes differ"
    );
    let mut change = taylor::loss_change(weight.view(), mean_gradient);
    Zip::from(&mut change)
        .and(weight)
        .and(mean_squared_gradient)
        .for_each(|c, w, h| *c += 0.5 * h * f64::from(*w).powi(2));
    change
}

/// The second-order change, signed: what raises the loss most is the most important.
///
/// # Panics
///
/// If the shapes differ.
#[must_use]
#[track_caller]
pub fn element_scores<'a, 'b, 'c, D: Dimension>(
    weight: impl Into<ArrayView<'a, f32, D>>,
    mean_gradient: impl Into<ArrayView<'b, f64, D>>,
    mean_squared_gradient: impl Into<ArrayView<'c, f64, D>>,
) -> Array<f32, D> {
    loss_change(weight, mean_gradient, mean_squared_gradient).mapv(to_f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn hand_computed() {
        let weight = array![2.0f32, -3.0, 0.0].into_dyn();
        let gradient = array![0.5f64, 0.5, 9.0].into_dyn();
        let squared = array![1.0f64, 2.0, 9.0].into_dyn();
        // -1 + ½·1·4, 1.5 + ½·2·9, 0.
        let change = loss_change(weight.view(), gradient.view(), squared.view());
        assert_eq!(change, array![1.0, 10.5, 0.0].into_dyn());
    }
}
