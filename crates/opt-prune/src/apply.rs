//! Step three without a model: sets what a mask removes to zero.

use ndarray::{ArrayViewMut, Dimension};
use opt_core::Mask;

use crate::{PruneError, Result};

/// Sets the elements that the mask removes to zero; for the parameters of a model there is
/// [`apply_masks`](opt_core::mask::apply_masks).
///
/// ```
/// use opt_prune::ndarray::array;
/// use opt_prune::{Mask, apply_mask};
///
/// let mut weights = array![[1.0, f32::NAN], [3.0, 4.0]];
/// let mask = Mask::new(array![[true, false], [false, true]].into_dyn());
/// apply_mask(&mut weights, &mask)?;
/// assert_eq!(weights, array![[1.0, 0.0], [0.0, 4.0]]);
/// # Ok::<(), opt_prune::PruneError>(())
/// ```
///
/// # Shapes
///
/// `weights`: an array or view by mutable reference, or a mutable slice, in the mask's shape.
///
/// # Errors
///
/// [`PruneError::Shape`] if the shapes differ; nothing is changed then.
pub fn apply_mask<'a, D: Dimension>(
    weights: impl Into<ArrayViewMut<'a, f32, D>>,
    mask: &Mask,
) -> Result<()> {
    let mut weights = weights.into();
    let keep = mask.keep();
    if weights.shape() != keep.shape() {
        return Err(PruneError::Shape {
            what: "the mask",
            param: "the given weights".to_owned(),
            found: keep.shape().to_vec(),
            expected: weights.shape().to_vec(),
        });
    }
    for (weight, keep) in weights.iter_mut().zip(keep) {
        if !keep {
            *weight = 0.0;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array, array};

    #[test]
    fn removed_elements_become_zero_whatever_the_strides() {
        let mask = Mask::new(array![[true, false, true], [false, false, true]].into_dyn());
        let mut weights = Array::from_shape_fn((3, 2), |(i, j)| (1 + 2 * i + j) as f32);
        apply_mask(weights.view_mut().reversed_axes(), &mask).unwrap();
        assert_eq!(weights, array![[1.0, 0.0], [0.0, 0.0], [5.0, 6.0]]);

        let mut slice = [1.0, 2.0];
        let mask = Mask::new(array![false, true].into_dyn());
        apply_mask(&mut slice[..], &mask).unwrap();
        assert_eq!(slice, [0.0, 2.0]);
    }

    #[test]
    fn another_shape_is_refused() {
        let mut weights = array![[1.0f32, 2.0]];
        let mask = Mask::new(array![false, true].into_dyn());
        let message = apply_mask(&mut weights, &mask).unwrap_err().to_string();
        assert!(message.contains("shape [2], expected [1, 2]"), "{message}");
        assert_eq!(weights, array![[1.0, 2.0]]);
    }
}
