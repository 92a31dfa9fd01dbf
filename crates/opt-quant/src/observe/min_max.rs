//! The range that numbers take, gathered piece by piece.

use ndarray::{ArrayView, Dimension};
use rayon::prelude::*;

use crate::pieces::{PIECE, elements, extremes, rows_per_piece};
use crate::{QuantError, Result};

/// The smallest and the largest of the numbers seen so far.
///
/// Merging is exact, associative and commutative, so batches may be observed in any order and in parallel.
///
/// ```
/// use opt_quant::MinMax;
///
/// let mut range = MinMax::default();
/// range.observe(&[0.5, -2.0])?;
/// range.observe(&[1.0])?;
/// assert_eq!(range.range()?, (-2.0, 1.0));
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinMax {
    /// The smallest number; +∞ before the first.
    pub min: f32,
    /// The largest number; −∞ before the first.
    pub max: f32,
    /// How many numbers were seen.
    pub count: u64,
}

impl Default for MinMax {
    fn default() -> Self {
        Self {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            count: 0,
        }
    }
}

impl MinMax {
    /// Returns the range of all elements of a tensor: a view, an array by reference or a slice.
    ///
    /// ```
    /// use opt_quant::MinMax;
    ///
    /// assert_eq!(MinMax::of(&[0.5, -2.0])?.range()?, (-2.0, 0.5));
    /// # Ok::<(), opt_quant::QuantError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`QuantError::NotFinite`] with the flat index; [`QuantError::Empty`].
    pub fn of<'a, D: Dimension>(values: impl Into<ArrayView<'a, f32, D>>) -> Result<Self> {
        let values = values.into();
        let range = Self::of_slice(&elements(&values), 0)?;
        range.range()?;
        Ok(range)
    }

    /// Widens the range by `values`; an error leaves it as it was.
    ///
    /// # Errors
    ///
    /// [`QuantError::NotFinite`] with the index within `values`.
    pub fn observe(&mut self, values: &[f32]) -> Result<()> {
        self.merge(&Self::of_slice(values, 0)?);
        Ok(())
    }

    /// Widens the range by what another observer saw.
    pub fn merge(&mut self, other: &Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.count += other.count;
    }

    /// Returns both ends.
    ///
    /// # Errors
    ///
    /// [`QuantError::Empty`] if nothing was observed.
    pub fn range(&self) -> Result<(f32, f32)> {
        if self.count == 0 {
            return Err(QuantError::Empty);
        }
        Ok((self.min, self.max))
    }

    /// The range of consecutive elements; `first_index` is the flat index of the first.
    fn of_slice(values: &[f32], first_index: usize) -> Result<Self> {
        let pieces: Option<Vec<(f32, f32)>> = values.par_chunks(PIECE).map(extremes).collect();
        let Some(pieces) = pieces else {
            let wrong = values.iter().enumerate().find(|(_, v)| !v.is_finite());
            let (offset, value) = wrong.map_or((0, f32::NAN), |(i, v)| (i, *v));
            let index = first_index + offset;
            return Err(QuantError::NotFinite { index, value });
        };
        let mut range = Self {
            count: values.len() as u64,
            ..Self::default()
        };
        for (min, max) in pieces {
            range.min = range.min.min(min);
            range.max = range.max.max(max);
        }
        Ok(range)
    }
}

/// Returns the range of every output channel of a weight.
///
/// # Shapes
///
/// `weights`: `[channels, …]`; the result has one range per index of axis 0.
///
/// # Errors
///
/// [`QuantError::NotFinite`] with the flat index; [`QuantError::Empty`] if the tensor has no element;
/// [`QuantError::NoChannels`] if it has fewer than two axes.
pub fn channel_ranges<'a, D: Dimension>(
    weights: impl Into<ArrayView<'a, f32, D>>,
) -> Result<Vec<MinMax>> {
    let weights = weights.into();
    if weights.ndim() < 2 {
        return Err(QuantError::NoChannels {
            shape: weights.shape().to_vec(),
        });
    }
    if weights.is_empty() {
        return Err(QuantError::Empty);
    }
    let per_channel = weights.len() / weights.shape()[0];
    let elements = elements(&weights);
    let channels = elements.par_chunks(per_channel).enumerate();
    // Collected in order before the first error is taken, so that it is the same one every time.
    let ranges: Vec<Result<MinMax>> = channels
        .with_min_len(rows_per_piece(per_channel))
        .map(|(channel, values)| MinMax::of_slice(values, channel * per_channel))
        .collect();
    ranges.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn an_error_names_the_element_and_leaves_the_range() {
        let mut range = MinMax::default();
        range.observe(&[1.0, 2.0]).unwrap();
        let before = range;
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = range.observe(&[-9.0, value, 9.0]).unwrap_err();
            assert!(matches!(error, QuantError::NotFinite { index: 1, .. }));
            assert_eq!(range, before);
        }
    }

    #[test]
    fn nothing_observed_has_no_range() {
        let mut range = MinMax::default();
        range.observe(&[]).unwrap();
        assert_eq!(range.range(), Err(QuantError::Empty));
        assert_eq!(
            channel_ranges(&ndarray::ArrayD::zeros(vec![0, 3]).view()),
            Err(QuantError::Empty)
        );
        assert_eq!(
            channel_ranges(&ndarray::arr0(1.0).into_dyn().view()),
            Err(QuantError::NoChannels { shape: vec![] })
        );
        assert_eq!(
            channel_ranges(&ndarray::arr1(&[1.0]).into_dyn().view()),
            Err(QuantError::NoChannels { shape: vec![1] })
        );
    }

    #[test]
    fn channels_are_rows_of_axis_0() {
        let weights = arr2(&[[1.0, -2.0], [0.0, 3.0]]).into_dyn();
        let ranges = channel_ranges(&weights.view()).unwrap();
        assert_eq!(ranges[0].range(), Ok((-2.0, 1.0)));
        assert_eq!(ranges[1].range(), Ok((0.0, 3.0)));
        // A transposed view is not contiguous: what counts is its logical order.
        let ranges = channel_ranges(&weights.t()).unwrap();
        assert_eq!(ranges[0].range(), Ok((0.0, 1.0)));
        assert_eq!(ranges[1].range(), Ok((-2.0, 3.0)));

        let broken = arr2(&[[1.0, 2.0], [f32::NAN, 3.0]]).into_dyn();
        let error = channel_ranges(&broken.view()).unwrap_err();
        assert!(matches!(error, QuantError::NotFinite { index: 2, .. }));
    }
}
