//! First order: what the loss changes by when a weight is set to zero, by the gradient alone.
//!
//! Three criteria of this family go by the name Taylor, and they differ in what is averaged over the samples: see [`TaylorForm`].

use ndarray::{Array, ArrayView, Dimension, Zip};

use crate::rounding::to_f32;

/// What of the first-order change is averaged over the samples. With `g_n` the gradient of sample `n` and `E` the mean over the
/// samples, the change of one sample's loss is `-g_n·w` to first order.
///
/// `(E[g]·w)²` is not here: it orders as [`AbsMean`](Self::AbsMean) does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TaylorForm {
    /// ```text
    /// s = E[|g·w|]
    /// ```
    ///
    /// The mean size of the change of one sample's loss. The absolute value comes before the mean, so it does not vanish at a
    /// minimum, where only `E[g]` does.
    ///
    /// P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz, *Pruning Convolutional Neural Networks for Resource Efficient
    /// Inference*, ICLR 2017, arXiv:1611.06440: "computed for each example separately and averaged". For a channel they
    /// divide by the number of its positions, a constant within a layer, and scale each layer's scores to length 1; here
    /// neither is done.
    #[default]
    MeanAbs,
    /// ```text
    /// s = E[(g·w)²] = w²·E[g²]
    /// ```
    ///
    /// Twice the saliency ½·h·w² of Optimal Brain Damage with the empirical Fisher information `h = E[g²]` as the curvature, so it
    /// orders single weights as that does: [`obd`](super::obd) without its first-order term.
    ///
    /// P. Molchanov, A. Mallya, S. Tyree, I. Frosio, J. Kautz, *Importance Estimation for Neural Network Pruning*, CVPR 2019,
    /// arXiv:1906.10771.
    MeanSquare,
    /// ```text
    /// s = |E[g]·w|
    /// ```
    ///
    /// The size of the first-order change of the mean loss. Near a minimum the mean gradient vanishes, and with it the meaning
    /// of this score. With the gradient of one large batch before training it is the connection sensitivity of N. Lee,
    /// T. Ajanthan, P. H. S. Torr, *SNIP: Single-shot Network Pruning based on Connection Sensitivity*, ICLR 2019,
    /// arXiv:1810.02340.
    AbsMean,
}

/// The first-order change of the loss when each element is removed; negative where removal helps.
///
/// ```text
/// ΔL ≈ -g·w        g: mean gradient over the samples
/// ```
///
/// # Panics
///
/// If the shapes differ.
#[must_use]
#[track_caller]
pub fn loss_change<'a, 'b, D: Dimension>(
    weight: impl Into<ArrayView<'a, f32, D>>,
    mean_gradient: impl Into<ArrayView<'b, f64, D>>,
) -> Array<f64, D> {
    let (weight, mean_gradient) = (weight.into(), mean_gradient.into());
    assert_eq!(weight.shape(), mean_gradient.shape(), "shapes differ");
    Zip::from(weight)
        .and(mean_gradient)
        .map_collect(|w, g| -g * f64::from(*w))
}

/// The score of every element in one of the forms.
///
/// `mean` is what the form averages: `E[|g|]` for [`TaylorForm::MeanAbs`], `E[g²]` for [`TaylorForm::MeanSquare`], `E[g]` for
/// [`TaylorForm::AbsMean`].
///
/// # Panics
///
/// If the shapes differ.
#[must_use]
#[track_caller]
pub fn element_scores<'a, 'b, D: Dimension>(
    form: TaylorForm,
    weight: impl Into<ArrayView<'a, f32, D>>,
    mean: impl Into<ArrayView<'b, f64, D>>,
) -> Array<f32, D> {
    let (weight, mean) = (weight.into(), mean.into());
    assert_eq!(weight.shape(), mean.shape(), "shapes differ");
    Zip::from(weight).and(mean).map_collect(|w, mean| {
        let w = f64::from(*w);
        to_f32(match form {
            TaylorForm::MeanAbs => mean * w.abs(),
            TaylorForm::MeanSquare => mean * w * w,
            TaylorForm::AbsMean => (mean * w).abs(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn hand_computed() {
        // Gradients of two samples: 2 and -1, 1 and 1, 9 and 9, 3 and -3.
        let weight = array![2.0f32, -3.0, 0.0, 1.0].into_dyn();
        let mean = array![0.5f64, 1.0, 9.0, 0.0].into_dyn();
        let change = loss_change(weight.view(), mean.view());
        assert_eq!(change, array![-1.0, 3.0, 0.0, 0.0].into_dyn());
        let cases = [
            (TaylorForm::AbsMean, mean, [1.0f32, 3.0, 0.0, 0.0]),
            (
                TaylorForm::MeanAbs,
                array![1.5, 1.0, 9.0, 3.0].into_dyn(),
                [3.0, 3.0, 0.0, 3.0],
            ),
            (
                TaylorForm::MeanSquare,
                array![2.5, 1.0, 81.0, 9.0].into_dyn(),
                [10.0, 9.0, 0.0, 9.0],
            ),
        ];
        for (form, mean, expect) in cases {
            let scores = element_scores(form, weight.view(), mean.view());
            assert_eq!(scores.as_slice().unwrap(), expect, "{form:?}");
        }
        assert_eq!(TaylorForm::default(), TaylorForm::MeanAbs);
    }
}
