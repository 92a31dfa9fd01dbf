//! Non-uniform levels: a codebook by one-dimensional k-means, started from the uniform grid.
//!
//! The weights are sorted once. A cluster is then a range of the sorted weights whose ends a search finds, and its sum comes from
//! sums of blocks and of blocks of blocks, so that an iteration takes time by the number of levels and not of weights. These sums
//! are added, never subtracted as prefix sums would be: a mean is exact to the last bits whatever the other weights are.

use ndarray::{ArrayView, Dimension};
use opt_core::codes::decode_min_max;
use rayon::prelude::*;

use super::codebook::Codebook;
use super::uniform_levels::{check_levels, step_of};
use crate::pieces::{self, elements};
use crate::{MinMax, Result};

/// Far more than tensors of convolutional networks need; a bound, so that the time is bounded too.
const MAX_ITERATIONS: usize = 1000;

/// Weights of one sum of the lowest kind.
const BLOCK: usize = 64;

/// Quantizes a tensor to at most `levels` values that minimise the squared error locally (Lloyd's algorithm).
///
/// It starts from the uniform grid between the smallest and the largest weight, so its error is never above that of
/// [`uniform_levels`](super::uniform_levels::uniform_levels) with as many levels. It ends when no centroid moves: each is then
/// the mean of its weights, rounded to f32. Nothing is drawn at random, and the number of threads does not matter: the same
/// weights give the same codebook. Centroids are sorted; a weight halfway between two takes the lower; a cluster without
/// weights keeps its value; a tensor with at most `levels` different values is met exactly.
///
/// With `pin_zero`, the centroid nearest to zero is zero and stays there, so that pruned weights decode to exactly zero.
/// The error can then exceed that of the uniform grid, whose levels need not contain zero.
///
/// ```
/// let weights = [0.0, 0.25, 9.0, 9.5, 10.0];
/// let quantized = opt_quant::quantizer::k_means::k_means(&weights, 2, false)?;
/// assert_eq!(quantized.centroids, [0.125, 9.5]);
/// assert_eq!(quantized.codes.to_vec(), [0, 0, 1, 1, 1]);
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
///
/// # Shapes
///
/// `weights`: a view of any dimension, an array by reference or a slice; `codes` has the same shape.
///
/// # Errors
///
/// [`QuantError::Levels`](crate::QuantError::Levels) outside 2 to 256; and as `uniform_levels`.
///
/// # References
///
/// Stuart P. Lloyd, Least Squares Quantization in PCM, 1982. Song Han, Huizi Mao, William J. Dally, Deep Compression:
/// Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman Coding, 2016, arXiv:1510.00149.
pub fn k_means<'a, D: Dimension>(
    weights: impl Into<ArrayView<'a, f32, D>>,
    levels: u16,
    pin_zero: bool,
) -> Result<Codebook<D>> {
    let weights = weights.into();
    check_levels("k-means", levels)?;
    let range = MinMax::of(&weights)?;
    let step = step_of(&range, levels)?;
    // Adding zero makes -0.0 and 0.0 one value.
    let mut sorted: Vec<f32> = elements(&weights).par_iter().map(|&w| w + 0.0).collect();
    sorted.par_sort_unstable_by(f32::total_cmp);

    let centroids = few_values(&sorted, usize::from(levels), pin_zero).unwrap_or_else(|| {
        let mut grid: Vec<f32> = (0..=u8::MAX)
            .take(usize::from(levels))
            .map(|code| decode_min_max(code, range.min, step))
            .collect();
        let pinned = pin_zero.then(|| pin_nearest_to_zero(&mut grid));
        lloyd(&sorted, grid, pinned)
    });
    drop(sorted);
    let nearest = Nearest::new(&centroids);
    let codes = pieces::codes(&weights, weights.len(), |_, weights, codes| {
        for (code, &w) in codes.iter_mut().zip(weights) {
            *code = nearest.code(w);
        }
    })?;
    Ok(Codebook { centroids, codes })
}

/// The different values of sorted weights, with zero if asked for; nothing if there are more than `most`.
fn few_values(sorted: &[f32], most: usize, with_zero: bool) -> Option<Vec<f32>> {
    let mut values = Vec::new();
    let mut rest = sorted;
    while let Some(&value) = rest.first() {
        if values.len() >= most {
            return None;
        }
        values.push(value);
        rest = &rest[rest.partition_point(|w| *w <= value)..];
    }
    if with_zero && !values.contains(&0.0) {
        let at = values.partition_point(|&w| w < 0.0);
        values.insert(at, 0.0);
    }
    (values.len() <= most).then_some(values)
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

/// Moves the centroids to the means of their clusters until none moves.
///
/// No step raises the error: of all f32 the rounded mean is the nearest to the mean, and a weight changes to a nearer centroid.
fn lloyd(sorted: &[f32], mut centroids: Vec<f32>, pinned: Option<usize>) -> Vec<f32> {
    let sums = RangeSums::new(sorted);
    for _ in 0..MAX_ITERATIONS {
        let moved = to_means(&sums, &centroids, pinned);
        if moved == centroids {
            break;
        }
        centroids = moved;
    }
    centroids
}

/// The mean of each centroid's weights; a pinned centroid and one without weights stay.
fn to_means(sums: &RangeSums<'_>, centroids: &[f32], pinned: Option<usize>) -> Vec<f32> {
    let mut first = 0;
    let mut means = Vec::with_capacity(centroids.len());
    for (index, &centroid) in centroids.iter().enumerate() {
        let others = &sums.sorted[first..];
        let end = match next_value(centroids, index) {
            Some(next) => first + others.partition_point(|&w| is_lower(w, centroid, next)),
            None => sums.sorted.len(),
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "centroids are stored as f32"
        )]
        let mean = (sums.of(first, end) / (end - first) as f64) as f32;
        let stays = first == end || Some(index) == pinned;
        means.push(if stays { centroid } else { mean });
        first = end;
    }
    means
}

/// The centroid that follows the one of this index and is not equal to it.
fn next_value(centroids: &[f32], index: usize) -> Option<f32> {
    let next = centroids[index..].iter().find(|&&c| c > centroids[index]);
    next.copied()
}

/// Whether a weight belongs to the lower of two neighbouring centroids; one in the middle does.
fn is_lower(weight: f32, low: f32, high: f32) -> bool {
    let (weight, low, high) = (f64::from(weight), f64::from(low), f64::from(high));
    weight - low <= high - weight
}

/// Sums of ranges of sorted weights.
struct RangeSums<'a> {
    sorted: &'a [f32],
    /// Sums of whole blocks; then of pairs of those, of pairs of pairs, and so on.
    levels: Vec<Vec<f64>>,
}

impl<'a> RangeSums<'a> {
    fn new(sorted: &'a [f32]) -> Self {
        let (blocks, _) = sorted.as_chunks::<BLOCK>();
        let mut level: Vec<f64> = blocks.par_iter().map(|block| sum(block)).collect();
        let mut levels = Vec::new();
        while level.len() > 1 {
            let (pairs, _) = level.as_chunks::<2>();
            let above = pairs.iter().map(|[a, b]| a + b).collect();
            levels.push(std::mem::replace(&mut level, above));
        }
        levels.push(level);
        Self { sorted, levels }
    }

    /// The sum of the weights from `first` up to but not including `end`.
    fn of(&self, first: usize, end: usize) -> f64 {
        let (mut low, mut high) = (first.div_ceil(BLOCK), end / BLOCK);
        if low >= high {
            return sum(&self.sorted[first..end]);
        }
        let mut total =
            sum(&self.sorted[first..low * BLOCK]) + sum(&self.sorted[high * BLOCK..end]);
        for level in &self.levels {
            if low == high {
                break;
            }
            // An end that is half of a pair is added here; the pairs between are sums of the next level.
            if low % 2 == 1 {
                total += level[low];
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                total += level[high];
            }
            (low, high) = (low / 2, high / 2);
        }
        total
    }
}

fn sum(weights: &[f32]) -> f64 {
    weights.iter().map(|&w| f64::from(w)).sum()
}

/// Finds the nearest of sorted centroids.
struct Nearest {
    /// By index, the largest number that belongs to this centroid or a lower one; infinity from the last on.
    limits: [f32; 256],
    /// Half of the number of centroids, rounded up to a power of two.
    half: usize,
}

impl Nearest {
    fn new(centroids: &[f32]) -> Self {
        let mut limits = [f32::INFINITY; 256];
        for (index, limit) in limits.iter_mut().enumerate().take(centroids.len()) {
            if let Some(next) = next_value(centroids, index) {
                *limit = last_lower(centroids[index], next);
            }
        }
        let half = centroids.len().next_power_of_two() / 2;
        Self { limits, half }
    }

    /// The index of the nearest centroid, the lowest of equals.
    fn code(&self, weight: f32) -> u8 {
        let mut code = 0;
        let mut half = self.half;
        while half > 0 {
            let limit = self.limits[(code + half - 1) & 255];
            code += if limit < weight { half } else { 0 };
            half /= 2;
        }
        code.to_le_bytes()[0]
    }
}

/// The largest f32 that belongs to the lower of two centroids.
fn last_lower(low: f32, high: f32) -> f32 {
    // Integers in the order of f32::total_cmp, whose halves are halves of the numbers between.
    let key = |x: f32| {
        let bits = x.to_bits().cast_signed();
        bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
    };
    let number = |key: i32| {
        f32::from_bits((key ^ ((key >> 31).cast_unsigned() >> 1).cast_signed()).cast_unsigned())
    };
    let (mut inside, mut outside) = (i64::from(key(low)), i64::from(key(high)));
    while outside - inside > 1 {
        let middle = (inside + outside).div_euclid(2);
        let Ok(middle_key) = i32::try_from(middle) else {
            break;
        };
        if is_lower(number(middle_key), low, high) {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    i32::try_from(inside).map_or(low, number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr1;
    use proptest::prelude::*;

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
            let found = Nearest::new(case.centroids).code(case.w);
            assert_eq!(found, case.expect, "{}", case.w);
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

    /// By definition: every distance, the lowest index of the smallest.
    fn slow_nearest(centroids: &[f32], w: f32) -> usize {
        let distance = |c: f32| (f64::from(w) - f64::from(c)).abs();
        let mut nearest = 0;
        for (index, &c) in centroids.iter().enumerate() {
            if distance(c) < distance(centroids[nearest]) {
                nearest = index;
            }
        }
        nearest
    }

    /// One weight between its two neighbours, the lowest index of equal centroids. (Far beyond all centroids, the distances of
    /// [`slow_nearest`] are equal after rounding.)
    fn nearest_neighbour(centroids: &[f32], w: f32) -> usize {
        let above = centroids.partition_point(|&c| c < w);
        let neighbour = if above == 0 {
            0
        } else if above == centroids.len() || is_lower(w, centroids[above - 1], centroids[above]) {
            above - 1
        } else {
            above
        };
        let value = centroids[neighbour];
        centroids.partition_point(|&c| c < value)
    }

    fn slow_error(weights: &[f32], centroids: &[f32]) -> f64 {
        let squared = |&w: &f32| {
            let nearest = centroids[slow_nearest(centroids, w)];
            (f64::from(w) - f64::from(nearest)).powi(2)
        };
        weights.iter().map(squared).sum()
    }

    /// Lloyd's algorithm with all sums anew in every iteration, until the error no longer falls.
    fn slow_lloyd(sorted: &[f32], mut centroids: Vec<f32>, pinned: Option<usize>) -> Vec<f32> {
        let mut error = slow_error(sorted, &centroids);
        for _ in 0..MAX_ITERATIONS {
            let mut sums = vec![(0.0, 0.0); centroids.len()];
            for &w in sorted {
                let (sum, n) = &mut sums[slow_nearest(&centroids, w)];
                *sum += f64::from(w);
                *n += 1.0;
            }
            let mut moved = centroids.clone();
            for (index, (sum, n)) in sums.into_iter().enumerate() {
                if n > 0.0 && Some(index) != pinned {
                    #[expect(clippy::cast_possible_truncation, reason = "as centroids are")]
                    let mean = (sum / n) as f32;
                    moved[index] = mean;
                }
            }
            let moved_error = slow_error(sorted, &moved);
            if moved_error >= error {
                break;
            }
            (centroids, error) = (moved, moved_error);
        }
        centroids
    }

    fn bell(n: u32) -> Vec<f32> {
        let fraction = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0;
        let of = |i: u32| (0..4).map(|k| fraction(4 * i + k)).sum::<f32>() - 2.0;
        let mut sorted: Vec<f32> = (0..n).map(of).collect();
        sorted.sort_by(f32::total_cmp);
        sorted
    }

    fn grid(sorted: &[f32], levels: u8) -> Vec<f32> {
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        let step = (max - min) / f32::from(levels - 1);
        (0..levels).map(|i| min + step * f32::from(i)).collect()
    }

    #[test]
    fn every_iteration_lowers_the_error() {
        // Invariant 37, step by step on a skewed sample.
        let sorted: Vec<f32> = (0..400u16)
            .map(|i| (f32::from(i) / 400.0).powi(5))
            .collect();
        let sums = RangeSums::new(&sorted);
        let mut centroids: Vec<f32> = (0..8u8).map(|i| f32::from(i) / 7.0).collect();
        let mut last = f64::INFINITY;
        for _ in 0..30 {
            let error = slow_error(&sorted, &centroids);
            assert!(error <= last);
            last = error;
            centroids = to_means(&sums, &centroids, None);
        }
    }

    #[test]
    fn long_tensors_have_the_centroids_of_full_sums() {
        for (n, levels) in [(5_000, 4), (5_003, 16), (20_000, 7)] {
            let sorted = bell(n);
            for pinned in [None, Some(usize::from(levels) / 2)] {
                let mut start = grid(&sorted, levels);
                if let Some(pinned) = pinned {
                    start[pinned] = 0.0;
                }
                let fast = lloyd(&sorted, start.clone(), pinned);
                let slow = slow_lloyd(&sorted, start, pinned);
                // Sums of some thousand terms, in another order.
                let (fast_error, slow_error) =
                    (slow_error(&sorted, &fast), slow_error(&sorted, &slow));
                assert!(
                    fast_error <= slow_error * (1.0 + 1e-12),
                    "{fast_error} above {slow_error}"
                );
                for (a, b) in fast.iter().zip(&slow) {
                    assert!(
                        (a - b).abs() <= 1e-5,
                        "{n} weights, {levels} levels: {fast:?} {slow:?}"
                    );
                }
                // Nothing moves any more.
                assert_eq!(to_means(&RangeSums::new(&sorted), &fast, pinned), fast);
            }
        }
    }

    #[test]
    fn sums_of_tiny_weights_beside_huge_ones_keep_their_digits() {
        // A difference of prefix sums would be 0: 1e30 and 1e-3 do not fit one f64.
        let mut sorted = vec![-1e30f32; 1000];
        sorted.extend(vec![1e-3f32; 1000]);
        let sums = RangeSums::new(&sorted);
        let expected = 1000.0 * f64::from(1e-3f32);
        assert!((sums.of(1000, 2000) - expected).abs() < 1e-12 * expected);
    }

    #[test]
    fn threads_do_not_matter() {
        let weights = bell(100_000);
        let run = |n_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
            let pool = pool.build().unwrap();
            pool.install(|| k_means(&weights, 32, false).unwrap())
        };
        assert_eq!(run(1), run(3));
    }

    fn numbers() -> impl Strategy<Value = Vec<f32>> {
        let any_scale = (-1.0f32..1.0, -30..=30i32).prop_map(|(m, e)| m * 10f32.powi(e));
        let one = prop_oneof![
            3 => -1.0f32..1.0,
            1 => (-4i8..4).prop_map(f32::from),
            1 => any_scale,
            1 => (0..20u32).prop_map(f32::from_bits),
            1 => prop::sample::select(vec![0.0f32, -0.0, 1e30, -1e30]),
        ];
        prop::collection::vec(one, 1..300)
    }

    proptest! {
        #[test]
        fn the_code_is_the_nearest_centroid(
            centroids in numbers(),
            weights in numbers(),
        ) {
            let mut centroids: Vec<f32> = centroids.into_iter().take(256).map(|c| c + 0.0).collect();
            centroids.sort_by(f32::total_cmp);
            let nearest = Nearest::new(&centroids);
            let between = centroids.windows(2).map(|c| c[0] / 2.0 + c[1] / 2.0);
            for w in weights.iter().copied().chain(between).chain(centroids.iter().copied()) {
                prop_assert_eq!(usize::from(nearest.code(w)), nearest_neighbour(&centroids, w), "{}", w);
            }
        }

        #[test]
        fn sums_of_ranges_are_those_of_their_weights(
            values in prop::collection::vec(-1000i16..1000, 1..2000),
            ends in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            // Integers, so that every order of summing is exact.
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            let (a, b) = (ends.0.index(values.len() + 1), ends.1.index(values.len() + 1));
            let (first, end) = (a.min(b), a.max(b));
            let sums = RangeSums::new(&values);
            prop_assert_eq!(sums.of(first, end), sum(&values[first..end]));
            prop_assert_eq!(sums.of(0, values.len()), sum(&values));
        }

        #[test]
        fn the_error_is_at_most_that_of_full_sums(values in numbers(), levels in 2..=20u8) {
            let mut sorted: Vec<f32> = values.into_iter().map(|w| w + 0.0).collect();
            sorted.sort_by(f32::total_cmp);
            let start = grid(&sorted, levels);
            let fast = slow_error(&sorted, &lloyd(&sorted, start.clone(), None));
            let slow = slow_error(&sorted, &slow_lloyd(&sorted, start.clone(), None));
            let before = slow_error(&sorted, &start);
            prop_assert!(fast <= slow * (1.0 + 1e-12), "{fast} above {slow}");
            prop_assert!(fast <= before * (1.0 + 1e-12), "{fast} above {before}");
        }
    }
}
