//! Which elements of a parameter are kept.

use std::collections::BTreeMap;

use ndarray::{ArrayD, ArrayViewD};

use crate::{CoreError, Model, Result};

/// Keeps (`true`) or removes (`false`) each element of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    keep: ArrayD<bool>,
}

/// Masks by parameter name.
pub type Masks = BTreeMap<String, Mask>;

impl Mask {
    /// A mask from a decision per element.
    #[must_use]
    pub fn new(keep: ArrayD<bool>) -> Self {
        Self { keep }
    }

    /// Keeps the `n_keep` elements with the largest scores.
    ///
    /// Ties are broken towards the lower flat index, so the result depends on `scores` alone.
    ///
    /// ```
    /// use ndarray::array;
    /// let mask = opt_core::Mask::keep_largest(array![1.0, 3.0, 3.0, 3.0].into_dyn().view(), 2);
    /// assert_eq!(mask.keep(), array![false, true, true, false].into_dyn());
    /// ```
    ///
    /// # Panics
    ///
    /// On a NaN score (scoring reports those) and if `n_keep` exceeds the number of scores.
    #[must_use]
    #[track_caller]
    pub fn keep_largest(scores: ArrayViewD<'_, f32>, n_keep: usize) -> Self {
        assert!(
            n_keep <= scores.len(),
            "{n_keep} to keep of {}",
            scores.len()
        );
        assert!(scores.iter().all(|s| !s.is_nan()), "a score is NaN");
        let flat: Vec<f32> = scores.iter().copied().collect();
        let mut order: Vec<usize> = (0..flat.len()).collect();
        order.sort_by(|&a, &b| flat[b].total_cmp(&flat[a]).then(a.cmp(&b)));
        let mut keep = vec![false; flat.len()];
        for &index in &order[..n_keep] {
            keep[index] = true;
        }
        let mut mask = ArrayD::from_elem(scores.raw_dim(), false);
        for (slot, value) in mask.iter_mut().zip(keep) {
            *slot = value;
        }
        Self { keep: mask }
    }

    /// The decision per element.
    #[must_use]
    pub fn keep(&self) -> ArrayViewD<'_, bool> {
        self.keep.view()
    }

    /// The number of elements that are kept.
    #[must_use]
    pub fn n_kept(&self) -> usize {
        self.keep.iter().filter(|k| **k).count()
    }

    /// The share of elements that are removed, 0 to 1; 0 for an empty mask.
    #[must_use]
    pub fn sparsity(&self) -> f64 {
        if self.keep.is_empty() {
            return 0.0;
        }
        1.0 - self.n_kept() as f64 / self.keep.len() as f64
    }
}

/// Sets what the masks remove to zero.
///
/// # Errors
///
/// [`CoreError::Mask`] for a mask of a parameter that is not there or that has another shape (it was rebuilt): nothing
/// is changed then.
pub fn apply_masks(model: &Model, masks: &Masks) -> Result<Model> {
    for (name, mask) in masks {
        let problem = match model.params.get(name) {
            None => "the model has no such parameter".to_owned(),
            Some(p) if p.shape() != mask.keep.shape() => format!(
                "its shape is {:?}, the parameter's is {:?}; masks do not survive a rebuild of the layer",
                mask.keep.shape(),
                p.shape()
            ),
            Some(_) => continue,
        };
        return Err(CoreError::Mask {
            param: name.clone(),
            problem,
        });
    }
    let mut masked = model.clone();
    for (name, mask) in masks {
        if let Some(param) = masked.params.get_mut(name) {
            param.zip_mut_with(&mask.keep, |value, keep| {
                if !keep {
                    *value = 0.0;
                }
            });
        }
    }
    Ok(masked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Task, zoo};
    use ndarray::Array;
    use proptest::prelude::*;

    #[test]
    fn keep_largest_cases() {
        struct Case {
            scores: &'static [f32],
            n_keep: usize,
            expect: &'static [bool],
        }
        let cases = [
            // Nothing to choose from.
            Case {
                scores: &[],
                n_keep: 0,
                expect: &[],
            },
            // Ratio 1: all are removed.
            Case {
                scores: &[1.0, 2.0],
                n_keep: 0,
                expect: &[false, false],
            },
            // Ratio 0: none is removed, not even the smallest.
            Case {
                scores: &[1.0, 2.0],
                n_keep: 2,
                expect: &[true, true],
            },
            // All equal: exactly n are kept, the first ones.
            Case {
                scores: &[5.0; 4],
                n_keep: 3,
                expect: &[true, true, true, false],
            },
            // Zeros of both signs: -0.0 sorts below 0.0.
            Case {
                scores: &[-0.0, 0.0],
                n_keep: 1,
                expect: &[false, true],
            },
        ];
        for case in cases {
            let scores = Array::from(case.scores.to_vec()).into_dyn();
            let mask = Mask::keep_largest(scores.view(), case.n_keep);
            assert_eq!(mask.keep().as_slice().unwrap(), case.expect);
        }
    }

    #[test]
    #[should_panic(expected = "a score is NaN")]
    fn nan_scores_are_a_bug() {
        let _ = Mask::keep_largest(ndarray::array![f32::NAN].into_dyn().view(), 1);
    }

    #[test]
    fn a_mask_of_a_rebuilt_layer_is_an_error() {
        let model = zoo::build("source_net", &Task::cifar10(), 0).unwrap();
        let wrong = |name: &str, len: usize| {
            let mask = Mask::new(Array::from_elem(vec![len], true));
            apply_masks(&model, &Masks::from([(name.to_owned(), mask)]))
                .unwrap_err()
                .to_string()
        };
        assert!(wrong("conv1.weight", 3).contains("its shape is [3], the parameter's is [64, 3"));
        assert!(wrong("conv9.weight", 3).contains("no such parameter"));
    }

    proptest! {
        #[test]
        fn exactly_n_are_kept_and_none_removed_scores_more(
            scores in proptest::collection::vec(-3i8..3, 0..40),
            share in 0.0..1.0f64,
        ) {
            let scores = Array::from_iter(scores.into_iter().map(f32::from)).into_dyn();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 40")]
            let n_keep = (share * scores.len() as f64) as usize;
            let mask = Mask::keep_largest(scores.view(), n_keep);
            prop_assert_eq!(mask.n_kept(), n_keep);
            let pick = |kept: bool| scores.iter().zip(mask.keep().iter().copied().collect::<Vec<_>>())
                .filter(move |(_, k)| *k == kept).map(|(s, _)| *s).collect::<Vec<_>>();
            let worst_kept = pick(true).into_iter().fold(f32::INFINITY, f32::min);
            let best_removed = pick(false).into_iter().fold(f32::NEG_INFINITY, f32::max);
            prop_assert!(best_removed <= worst_kept);
        }
    }
}
