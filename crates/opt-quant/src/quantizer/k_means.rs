//! Non-uniform levels: a codebook by one-dimensional k-means, started from the uniform grid.

use ndarray::{ArrayD, ArrayViewD};

use opt_core::codes::decode_min_max;

use super::uniform_levels::{check_levels, step_of};
use crate::{MinMax, Result};

/// Far more than tensors of convolutional networks need; a bound, so that the time is bounded too.
const MAX_ITERATIONS: usize = 1000;

/// A tensor as indices into a table of values.
///
/// ```text
/// ŵ = centroids[code]
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Codebook {
    /// The values; at most 256.
    pub centroids: Vec<f32>,
    /// Indices into them, in the shape of the tensor.
    pub codes: ArrayD<u8>,
}

impl Codebook {
    /// Decodes.
    ///
    /// # Panics
    ///
    /// If a code was changed to one that has no centroid.
    #[must_use]
    #[track_caller]
    pub fn dequantize(&self) -> ArrayD<f32> {
        self.codes.mapv(|code| self.centroids[usize::from(code)])
    }
}

/// Quantizes a tensor to at most `levels` values that minimise the squared error locally (Lloyd's algorithm).
///
/// It starts from the uniform grid between the smallest and the largest weight, so its error is never above that of
/// [`uniform_levels`](super::uniform_levels::uniform_levels) with as many levels. Nothing is drawn at random: the same
/// weights give the same codebook. Centroids are sorted; a weight halfway between two takes the lower; a cluster without
/// weights keeps its value; a tensor with at most `levels` different values is met exactly.
///
/// With `pin_zero`, the centroid nearest to zero is zero and stays there, so that pruned weights decode to exactly zero.
/// The error can then exceed that of the uniform grid, whose levels need not contain zero.
///
/// ```
/// let weights = ndarray::arr1(&[0.0, 0.25, 9.0, 9.5, 10.0]).into_dyn();
/// let quantized = opt_quant::quantizer::codebook::k_means(&weights.view(), 2, false)?;
/// assert_eq!(quantized.centroids, [0.125, 9.5]);
/// assert_eq!(quantized.codes, ndarray::arr1(&[0, 0, 1, 1, 1]).into_dyn());
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
///
/// # Errors
///
/// [`QuantError::Levels`](crate::QuantError::Levels) outside 2 to 256; and as `uniform_levels`.
///
/// # References
///
/// Stuart P. Lloyd, Least Squares Quantization in PCM, 1982. Song Han, Huizi Mao, William J. Dally, Deep Compression:
/// Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman Coding, 2016, arXiv:1510.00149.
pub fn k_means(weights: &ArrayViewD<'_, f32>, levels: u16, pin_zero: bool) -> Result<Codebook> {
    check_levels("k-means", levels)?;
    let range = MinMax::of(weights)?;
    let step = step_of(&range, levels)?;
    // Adding zero makes -0.0 and 0.0 one value.
    let mut sorted: Vec<f32> = weights.iter().map(|&w| w + 0.0).collect();
    sorted.sort_by(f32::total_cmp);

    let mut distinct = sorted.clone();
    if pin_zero {
        let at = distinct.partition_point(|&w| w < 0.0);
        distinct.insert(at, 0.0);
    }
    distinct.dedup();
    let centroids = if distinct.len() <= usize::from(levels) {
        distinct
    } else {
        let mut grid: Vec<f32> = (0..=u8::MAX)
            .take(usize::from(levels))
            .map(|code| decode_min_max(code, range.min, step))
            .collect();
        let pinned = pin_zero.then(|| pin_nearest_to_zero(&mut grid));
        lloyd(&sorted, grid, pinned)
    };
    let codes = weights.mapv(|w| nearest(&centroids, w));
    Ok(Codebook { centroids, codes })
}

fn pin_nearest_to_zero(grid: &mut [f32]) -> usize {
    let mut nearest = 0;
    for index in 1..grid.len() {
        if grid[index].abs() < grid[nearest].abs() {
            nearest = index;
        }
    }
    grid[nearest] = 0.0;
    nearest
}

/// Moves the centroids to the means of their clusters for as long as the error falls.
fn lloyd(sorted: &[f32], mut centroids: Vec<f32>, pinned: Option<usize>) -> Vec<f32> {
    let (mut means, mut error) = means_and_error(sorted, &centroids);
    for _ in 0..MAX_ITERATIONS {
        let mut moved = centroids.clone();
        for (index, mean) in means.iter().enumerate() {
            if let Some(mean) = mean
                && Some(index) != pinned
            {
                moved[index] = *mean;
            }
        }
        let (moved_means, moved_error) = means_and_error(sorted, &moved);
        // Means are stored as f32: a rounded one can be worse than what it replaces, so the error decides.
        if moved_error >= error {
            break;
        }
        (centroids, means, error) = (moved, moved_means, moved_error);
    }
    centroids
}

/// Returns each cluster's mean (none if it is empty) and the sum of squared distances to the centroids as they are.
fn means_and_error(sorted: &[f32], centroids: &[f32]) -> (Vec<Option<f32>>, f64) {
    let mut squared = 0.0;
    let mut rest = sorted;
    let mut means = Vec::with_capacity(centroids.len());
    for (index, &centroid) in centroids.iter().enumerate() {
        let is_mine = |w: &f32| usize::from(nearest(centroids, *w)) <= index;
        let (cluster, others) = rest.split_at(rest.partition_point(is_mine));
        rest = others;
        let sum: f64 = cluster.iter().map(|&w| f64::from(w)).sum();
        squared += (cluster.iter())
            .map(|&w| (f64::from(w) - f64::from(centroid)).powi(2))
            .sum::<f64>();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "centroids are stored as f32"
        )]
        means.push((!cluster.is_empty()).then(|| (sum / cluster.len() as f64) as f32));
    }
    (means, squared)
}

/// Returns the nearest of the sorted centroids, the lowest of equals.
fn nearest(centroids: &[f32], weight: f32) -> u8 {
    let weight = f64::from(weight);
    let above = centroids.partition_point(|&c| f64::from(c) < weight);
    let mut index = match above {
        0 => 0,
        n if n == centroids.len() => n - 1,
        n => {
            let (low, high) = (f64::from(centroids[n - 1]), f64::from(centroids[n]));
            if weight - low <= high - weight {
                n - 1
            } else {
                n
            }
        }
    };
    while index > 0 && centroids[index - 1] == centroids[index] {
        index -= 1;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "there are at most 256 centroids"
    )]
    let index = index as u8;
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr1;

    #[test]
    fn nearest_by_hand() {
        struct Case {
            centroids: &'static [f32],
            w: f32,
            expect: u8,
        }
        let cases = [
            // A tie goes to the lower index.
            Case {
                centroids: &[0.0, 1.0],
                w: 0.5,
                expect: 0,
            },
            Case {
                centroids: &[0.0, 1.0],
                w: 0.500_001,
                expect: 1,
            },
            // Beyond both ends.
            Case {
                centroids: &[0.0, 1.0],
                w: -5.0,
                expect: 0,
            },
            Case {
                centroids: &[0.0, 1.0],
                w: 5.0,
                expect: 1,
            },
            // Equal centroids: the lowest, from below, from above and in the middle.
            Case {
                centroids: &[0.0, 1.0, 1.0, 2.0],
                w: 1.0,
                expect: 1,
            },
            Case {
                centroids: &[0.0, 1.0, 1.0, 2.0],
                w: 1.2,
                expect: 1,
            },
            Case {
                centroids: &[1.0, 1.0],
                w: 7.0,
                expect: 0,
            },
        ];
        for case in cases {
            assert_eq!(nearest(case.centroids, case.w), case.expect, "{}", case.w);
        }
    }

    #[test]
    fn an_empty_cluster_keeps_its_value() {
        // The grid is 0, 5, 10; nothing is near 5.
        let weights = arr1(&[0.0, 1.0, 9.0, 9.5, 10.0]).into_dyn();
        let quantized = k_means(&weights.view(), 3, false).unwrap();
        assert_eq!(quantized.centroids, [0.5, 5.0, 9.5]);
    }

    #[test]
    fn few_values_are_met_exactly() {
        // Lloyd alone would merge the first two and leave the middle centroid empty.
        let weights = arr1(&[0.0, 0.01, 1.0, -0.0, 1.0]).into_dyn();
        for pin_zero in [false, true] {
            let quantized = k_means(&weights.view(), 3, pin_zero).unwrap();
            assert_eq!(quantized.dequantize(), weights);
            assert_eq!(quantized.centroids, [0.0, 0.01, 1.0]);
        }
        let constant = arr1(&[2.5, 2.5]).into_dyn();
        let quantized = k_means(&constant.view(), 16, false).unwrap();
        assert_eq!(quantized.centroids, [2.5]);
    }

    #[test]
    fn a_pinned_zero_stays() {
        // Without the pin, the cluster around zero would move to the mean of 0, 0, 0 and 1.
        let weights = arr1(&[0.0, 0.0, 0.0, 1.0, -6.0, -5.0, 5.0, 6.0]).into_dyn();
        let quantized = k_means(&weights.view(), 3, true).unwrap();
        assert_eq!(quantized.centroids, [-5.5, 0.0, 5.5]);
        let free = k_means(&weights.view(), 3, false).unwrap();
        assert_eq!(free.centroids, [-5.5, 0.25, 5.5]);
        // All positive: the lowest centroid is the one that becomes zero.
        let positive = arr1(&[1.0, 2.0, 3.0, 4.0]).into_dyn();
        let quantized = k_means(&positive.view(), 2, true).unwrap();
        assert_eq!(quantized.centroids[0], 0.0);
        // Of two as near, the lower.
        let mut grid = [-1.0, -0.5, 0.5];
        assert_eq!(pin_nearest_to_zero(&mut grid), 1);
        assert_eq!(grid, [-1.0, 0.0, 0.5]);
    }

    #[test]
    fn every_iteration_lowers_the_error() {
        // Invariant 37, step by step on a skewed sample.
        let sorted: Vec<f32> = (0..400u16)
            .map(|i| (f32::from(i) / 400.0).powi(5))
            .collect();
        let mut centroids: Vec<f32> = (0..8u8).map(|i| f32::from(i) / 7.0).collect();
        let mut last = f64::INFINITY;
        for _ in 0..30 {
            let (means, error) = means_and_error(&sorted, &centroids);
            assert!(error <= last);
            last = error;
            for (centroid, mean) in centroids.iter_mut().zip(means) {
                *centroid = mean.unwrap_or(*centroid);
            }
        }
    }
}
