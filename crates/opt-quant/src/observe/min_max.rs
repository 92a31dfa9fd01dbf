//! The range that numbers take, gathered piece by piece.

use ndarray::{ArrayViewD, Axis};

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
    /// Returns the range of all elements of a tensor.
    ///
    /// # Errors
    ///
    /// [`QuantError::NotFinite`] with the flat index; [`QuantError::Empty`].
    pub fn of(values: &ArrayViewD<'_, f32>) -> Result<Self> {
        let mut range = Self::default();
        range.extend(values.iter().copied(), 0)?;
        range.range()?;
        Ok(range)
    }

    /// Widens the range by `values`; an error leaves it as it was.
    ///
    /// # Errors
    ///
    /// [`QuantError::NotFinite`] with the index within `values`.
    pub fn observe(&mut self, values: &[f32]) -> Result<()> {
        self.extend(values.iter().copied(), 0)
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

    fn extend(&mut self, values: impl Iterator<Item = f32>, first_index: usize) -> Result<()> {
        let mut seen = *self;
        for (offset, value) in values.enumerate() {
            if !value.is_finite() {
                let index = first_index + offset;
                return Err(QuantError::NotFinite { index, value });
            }
            // Adding zero turns -0.0 into +0.0, so that the bits do not depend on the order either.
            seen.min = seen.min.min(value + 0.0);
            seen.max = seen.max.max(value + 0.0);
            seen.count += 1;
        }
        *self = seen;
        Ok(())
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
pub fn channel_ranges(weights: &ArrayViewD<'_, f32>) -> Result<Vec<MinMax>> {
    if weights.ndim() < 2 {
        return Err(QuantError::NoChannels {
            shape: weights.shape().to_vec(),
        });
    }
    if weights.is_empty() {
        return Err(QuantError::Empty);
    }
    let per_channel = weights.len() / weights.len_of(Axis(0));
    weights
        .axis_iter(Axis(0))
        .enumerate()
        .map(|(channel, values)| {
            let mut range = MinMax::default();
            range.extend(values.iter().copied(), channel * per_channel)?;
            Ok(range)
        })
        .collect()
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
