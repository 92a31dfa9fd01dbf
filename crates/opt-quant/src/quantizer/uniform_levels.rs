//! The formula with L levels between the smallest and the largest weight, taken literally.

use ndarray::{Array, ArrayView, Dimension, IxDyn};
use opt_core::codes::decode_min_max;
use rayon::prelude::*;

use super::affine::WIDEST_RANGE;
use super::codebook::Codebook;
use crate::pieces::{self, PIECE, elements};
use crate::rounding::nearest_level;
use crate::{MinMax, QuantError, Result};

/// Returns the level of one weight, from 1 to `levels`.
///
/// ```text
/// Q(w) = round((w − Wmin) / (Wmax − Wmin) · (L − 1) + 1)
/// ```
///
/// It is computed as `1 + round(t)`, in f64 and multiplying before dividing: rounding `t + 1` would double the rounding
/// errors. `round` is half away from zero, which for `t ≥ 0` means upwards. Where `Wmin = Wmax` the formula is 0/0 and the
/// level is 1. A weight outside the range gets the nearest level.
///
/// ```
/// use opt_quant::quantizer::uniform_levels::level;
///
/// assert_eq!(level(-1.0, -1.0, 1.0, 5), 1);
/// assert_eq!(level(0.25, -1.0, 1.0, 5), 4); // t = 2.5 rounds up
/// assert_eq!(level(1.0, -1.0, 1.0, 5), 5);
/// ```
#[must_use]
pub fn level(weight: f32, min: f32, max: f32, levels: u16) -> u16 {
    if min == max {
        return 1;
    }
    let (weight, min, max) = (f64::from(weight), f64::from(min), f64::from(max));
    let last = f64::from(levels) - 1.0;
    let t = (weight - min) * last / (max - min);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..levels just before"
    )]
    let rounded = t.round().clamp(0.0, last) as u16;
    1 + rounded
}

/// A tensor on L equidistant levels.
///
/// ```text
/// ŵ = min + step · code        code = Q(w) − 1        step = (Wmax − Wmin) / (L − 1)
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct UniformLevels<D: Dimension = IxDyn> {
    /// The levels minus one, so that 256 of them fit a byte.
    pub codes: Array<u8, D>,
    /// The smallest weight.
    pub min: f32,
    /// The distance of neighbouring levels; 0 for a constant tensor.
    pub step: f32,
    /// The number of levels.
    pub levels: u16,
}

impl<D: Dimension> UniformLevels<D> {
    /// Decodes.
    #[must_use]
    pub fn dequantize(&self) -> Array<f32, D> {
        (self.codes).mapv(|code| decode_min_max(code, self.min, self.step))
    }
}

/// Quantizes a tensor with the L-level formula; see [`level`].
///
/// # Limits
///
/// - Zero is not a level in general: a pruned tensor loses all of its zeros, and padding with zero is no code. Use
///   [`affine`](super::affine::affine), or [`uniform_levels_keeping_zero`] for pruned weights.
/// - The smallest weight is met exactly, the largest to the rounding of `step` to f32.
/// - A constant tensor gets code 0 everywhere (level 1) and step 0, and decodes exactly.
/// - The levels 1…L do not fit a byte for L = 256, hence the codes minus one.
///
/// # Errors
///
/// [`QuantError::Levels`] outside 2 to 256; [`QuantError::NotFinite`]; [`QuantError::Empty`]; [`QuantError::Range`].
pub fn uniform_levels<'a, D: Dimension>(
    weights: impl Into<ArrayView<'a, f32, D>>,
    levels: u16,
) -> Result<UniformLevels<D>> {
    let weights = weights.into();
    check_levels("uniform levels", levels)?;
    let range = MinMax::of(&weights)?;
    let step = step_of(&range, levels)?;
    let code = code_in(&range, levels);
    let codes = pieces::codes(&weights, weights.len(), |_, weights, codes| {
        for (to, &w) in codes.iter_mut().zip(weights) {
            *to = code(w);
        }
    })?;
    Ok(UniformLevels {
        codes,
        min: range.min,
        step,
        levels,
    })
}

/// Quantizes a pruned tensor: code 0 is the pruned weight, the formula with L = 2^bits − 1 places the others.
///
/// Costs one level and keeps every zero, so that sparsity survives. The result is a codebook: centroid 0 is zero, centroid
/// `k` is level `k`; it is not sorted, because zero comes first.
///
/// ```
/// use opt_quant::quantizer::uniform_levels::uniform_levels_keeping_zero;
///
/// let quantized = uniform_levels_keeping_zero(&[0.0, -1.0, 0.0, 0.9, 1.0], 2)?;
/// assert_eq!(quantized.codes.to_vec(), [0, 1, 0, 3, 3]);
/// assert_eq!(quantized.dequantize()[2], 0.0);
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
///
/// # Errors
///
/// [`QuantError::Bits`] outside 2 to 8; [`QuantError::NotFinite`]; [`QuantError::Empty`]; [`QuantError::Range`].
pub fn uniform_levels_keeping_zero<'a, D: Dimension>(
    weights: impl Into<ArrayView<'a, f32, D>>,
    bits: u8,
) -> Result<Codebook<D>> {
    let weights = weights.into();
    if !(2..=8).contains(&bits) {
        return Err(QuantError::Bits {
            method: "uniform levels keeping zero",
            bits,
            min: 2,
            max: 8,
        });
    }
    let levels = (1u16 << bits) - 1;
    MinMax::of(&weights)?;
    let range = range_without_zeros(&elements(&weights));
    let step = step_of(&range, levels)?;
    let code = code_in(&range, levels);
    let codes = pieces::codes(&weights, weights.len(), |_, weights, codes| {
        for (to, &w) in codes.iter_mut().zip(weights) {
            *to = if w == 0.0 { 0 } else { 1 + code(w) };
        }
    })?;
    let on_grid = (0u8..=254).take(usize::from(levels));
    let mut centroids = vec![0.0];
    centroids.extend(on_grid.map(|code| decode_min_max(code, range.min, step)));
    Ok(Codebook { centroids, codes })
}

pub(crate) fn check_levels(method: &'static str, levels: u16) -> Result<()> {
    if (2..=256).contains(&levels) {
        return Ok(());
    }
    Err(QuantError::Levels { method, levels })
}

pub(crate) fn step_of(range: &MinMax, levels: u16) -> Result<f32> {
    let width = f64::from(range.max) - f64::from(range.min);
    if width > WIDEST_RANGE {
        return Err(QuantError::Range {
            lo: range.min,
            hi: range.max,
            problem: "the ends are too far apart for 32-bit floating point",
        });
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the definition: computed in f64, stored as f32"
    )]
    let step = (width / (f64::from(levels) - 1.0)) as f32;
    Ok(step)
}

/// The range of finite numbers but for the zeros; 0 to 0 if there are no others.
fn range_without_zeros(values: &[f32]) -> MinMax {
    let of_piece = |piece: &[f32]| {
        let mut range = MinMax::default();
        for &value in piece {
            let is_zero = value == 0.0;
            range.min = range.min.min(if is_zero { f32::INFINITY } else { value });
            range.max = range
                .max
                .max(if is_zero { f32::NEG_INFINITY } else { value });
            range.count += u64::from(!is_zero);
        }
        range
    };
    let pieces: Vec<MinMax> = values.par_chunks(PIECE).map(of_piece).collect();
    let mut range = MinMax::default();
    pieces.iter().for_each(|piece| range.merge(piece));
    if range.count == 0 {
        (range.min, range.max) = (0.0, 0.0);
    }
    range
}

/// The code of a weight in the range: its [`level`] minus one.
fn code_in(range: &MinMax, levels: u16) -> impl Fn(f32) -> u8 + Sync + use<> {
    let (min, last) = (f64::from(range.min), f64::from(levels) - 1.0);
    let width = f64::from(range.max) - min;
    // A range of one value has code 0 alone: 0/1 in place of 0/0.
    let (last, width) = if width == 0.0 {
        (0.0, 1.0)
    } else {
        (last, width)
    };
    move |weight| nearest_level((f64::from(weight) - min) * last / width, last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{ArrayD, arr1};

    #[test]
    fn codes_are_the_levels_minus_one() {
        // Levels at -3, 1 and 5.
        let weights = arr1(&[-3.0, -1.5, -0.5, 1.0, 3.5, 5.0]).into_dyn();
        let quantized = uniform_levels(&weights.view(), 3).unwrap();
        assert_eq!(quantized.codes, arr1(&[0, 0, 1, 1, 2, 2]).into_dyn());
        assert_eq!((quantized.min, quantized.step), (-3.0, 4.0));
    }

    #[test]
    fn levels_by_hand() {
        struct Case {
            w: f32,
            min: f32,
            max: f32,
            levels: u16,
            expect: u16,
        }
        let cases = [
            // Both ends.
            Case {
                w: -3.0,
                min: -3.0,
                max: 5.0,
                levels: 4,
                expect: 1,
            },
            Case {
                w: 5.0,
                min: -3.0,
                max: 5.0,
                levels: 4,
                expect: 4,
            },
            // Ties go up, whatever their parity: t = 0.5 and 1.5.
            Case {
                w: 0.5,
                min: 0.0,
                max: 3.0,
                levels: 4,
                expect: 2,
            },
            Case {
                w: 1.5,
                min: 0.0,
                max: 3.0,
                levels: 4,
                expect: 3,
            },
            // A tie, t = 7.5: dividing first, 7.5 / 11 · 11 is 7.499… in f64.
            Case {
                w: 7.5,
                min: 0.0,
                max: 11.0,
                levels: 12,
                expect: 9,
            },
            // Just below a tie: rounding t + 1 in f32 would give 2.
            Case {
                w: 0.499_999_97,
                min: 0.0,
                max: 1.0,
                levels: 2,
                expect: 1,
            },
            // 0/0.
            Case {
                w: 2.0,
                min: 2.0,
                max: 2.0,
                levels: 16,
                expect: 1,
            },
            // L = 256 needs 257 values in a 1-based byte.
            Case {
                w: 1.0,
                min: 0.0,
                max: 1.0,
                levels: 256,
                expect: 256,
            },
            // Outside.
            Case {
                w: 9.0,
                min: 0.0,
                max: 1.0,
                levels: 3,
                expect: 3,
            },
            Case {
                w: -9.0,
                min: 0.0,
                max: 1.0,
                levels: 3,
                expect: 1,
            },
        ];
        for case in cases {
            assert_eq!(
                level(case.w, case.min, case.max, case.levels),
                case.expect,
                "{}",
                case.w
            );
        }
    }

    #[test]
    fn zero_is_lost_and_can_be_kept() {
        let pruned = arr1(&[-1.0, 0.0, 0.0, 0.0, 2.5]).into_dyn();
        let literal = uniform_levels(&pruned.view(), 4).unwrap().dequantize();
        assert_eq!(literal.iter().filter(|&&w| w == 0.0).count(), 0);
        let kept = uniform_levels_keeping_zero(&pruned.view(), 2).unwrap();
        assert_eq!(
            kept.dequantize().mapv(|w| w == 0.0),
            pruned.mapv(|w| w == 0.0)
        );
        // Nothing but zeros.
        let zeros = arr1(&[0.0, -0.0]).into_dyn();
        let kept = uniform_levels_keeping_zero(&zeros.view(), 8).unwrap();
        assert_eq!(kept.codes, arr1(&[0, 0]).into_dyn());
        assert_eq!(kept.centroids.len(), 256);
    }

    #[test]
    fn unusable_requests_are_refused() {
        let weights = arr1(&[0.0, 1.0]).into_dyn();
        for levels in [0, 1, 257] {
            assert!(matches!(
                uniform_levels(&weights.view(), levels),
                Err(QuantError::Levels { .. })
            ));
        }
        for bits in [0, 1, 9] {
            let result = uniform_levels_keeping_zero(&weights.view(), bits);
            assert!(matches!(result, Err(QuantError::Bits { .. })));
        }
        let broken = arr1(&[0.0, f32::NAN]).into_dyn();
        let result = uniform_levels_keeping_zero(&broken.view(), 4);
        assert!(matches!(
            result,
            Err(QuantError::NotFinite { index: 1, .. })
        ));
        let empty = ArrayD::zeros(vec![0]);
        assert_eq!(uniform_levels(&empty.view(), 4), Err(QuantError::Empty));
        assert_eq!(
            uniform_levels_keeping_zero(&empty.view(), 4),
            Err(QuantError::Empty)
        );
    }
}
