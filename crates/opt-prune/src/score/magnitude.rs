//! Magnitude: a small weight changes the result little.

use ndarray::{Array, ArrayView, ArrayViewD, Axis, Dimension};

/// How the weights of a channel are summed up; for single weights both norms give |w|.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Mean of |w|.
    L1,
    /// Root of the mean of w².
    L2,
}

/// The magnitude of every element.
///
/// ```text
/// s = |w|
/// ```
///
/// ```
/// use opt_prune::score::magnitude::element_scores;
/// assert_eq!(element_scores(&[3.0, -4.0]).to_vec(), [3.0, 4.0]);
/// ```
///
/// # Shapes
///
/// `weight`: a view, an array by reference or a slice, of any shape; the scores have the same one.
///
/// # References
///
/// S. Han, J. Pool, J. Tran, W. Dally, *Learning both Weights and Connections for Efficient Neural Networks*, 2015,
/// arXiv:1506.02626.
#[must_use]
pub fn element_scores<'a, D: Dimension>(weight: impl Into<ArrayView<'a, f32, D>>) -> Array<f32, D> {
    weight.into().mapv(f32::abs)
}

/// The norm of every output channel (index of the first axis), divided by its number of weights.
///
/// ```text
/// L1: s_o = 1/n Σ |w_o|        L2: s_o = sqrt(1/n Σ w_o²)        n = weights per channel
/// ```
///
/// Within a layer the order is that of the plain norm. The division makes layers comparable: a plain sum favours layers
/// with many inputs or large kernels.
///
/// # Shapes
///
/// `weight`: `[channels, …]`; one score per channel. Without an axis it is one channel.
///
/// # References
///
/// H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, *Pruning Filters for Efficient `ConvNets`*, 2016,
/// arXiv:1608.08710.
#[must_use]
pub fn channel_scores<'a, D: Dimension>(
    weight: impl Into<ArrayView<'a, f32, D>>,
    norm: Norm,
) -> Vec<f64> {
    let weight = weight.into().into_dyn();
    let score = |filter: ArrayViewD<'_, f32>| {
        let n = filter.len().max(1) as f64;
        let values = filter.iter().map(|w| f64::from(*w));
        match norm {
            Norm::L1 => values.map(f64::abs).sum::<f64>() / n,
            Norm::L2 => (values.map(|w| w * w).sum::<f64>() / n).sqrt(),
        }
    };
    if weight.ndim() == 0 {
        return vec![score(weight)];
    }
    weight.axis_iter(Axis(0)).map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{ArrayD, array};

    #[test]
    fn hand_computed() {
        let weight = array![[3.0, -4.0], [-5.0, 0.0]].into_dyn();
        assert_eq!(
            element_scores(weight.view()),
            array![[3.0, 4.0], [5.0, 0.0]].into_dyn()
        );
        // The two norms disagree about which filter is the larger one.
        assert_eq!(channel_scores(weight.view(), Norm::L1), vec![3.5, 2.5]);
        let l2 = channel_scores(weight.view(), Norm::L2);
        assert_eq!(l2, vec![12.5_f64.sqrt(), 12.5_f64.sqrt()]);
    }

    #[test]
    fn views_of_any_dimension_and_slices_are_scored() {
        let weight = array![[3.0f32, -4.0], [-5.0, 0.0]];
        assert_eq!(element_scores(&weight), array![[3.0, 4.0], [5.0, 0.0]]);
        assert_eq!(element_scores(weight.t()), array![[3.0, 5.0], [4.0, 0.0]]);
        assert_eq!(element_scores(&[-1.0f32, 2.0][..]), array![1.0, 2.0]);
        assert_eq!(element_scores(&vec![-1.0f32]), array![1.0]);
        assert_eq!(channel_scores(weight.t(), Norm::L1), [4.0, 2.0]);
        assert_eq!(channel_scores(&ndarray::arr0(-7.0f32), Norm::L2), [7.0]);
        assert_eq!(channel_scores(&ArrayD::zeros(vec![0, 3]), Norm::L1), []);
        assert_eq!(
            channel_scores(&ArrayD::zeros(vec![2, 0]), Norm::L1),
            [0.0, 0.0]
        );
    }

    #[test]
    fn layers_of_different_width_are_comparable() {
        for norm in [Norm::L1, Norm::L2] {
            let narrow = ArrayD::from_elem(vec![1, 2, 3, 3], 0.5);
            let wide = ArrayD::from_elem(vec![1, 64, 3, 3], 0.5);
            assert_eq!(
                channel_scores(narrow.view(), norm),
                channel_scores(wide.view(), norm)
            );
        }
    }
}
