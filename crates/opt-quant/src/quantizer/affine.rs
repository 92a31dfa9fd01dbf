//! The affine scheme: uniform steps and a zero point that is a code, so that zero stays exactly zero.

use std::ops::RangeInclusive;

use ndarray::{Array, ArrayView, Dimension, IxDyn};
use opt_core::QParams;

use crate::rounding::nearest_codes_at;
use crate::{MinMax, QuantError, Result, pieces};

/// Ends further apart than this would decode to infinity after rounding.
pub(crate) const WIDEST_RANGE: f64 = f32::MAX as f64 / 2.0;

/// Computes scale and zero point for numbers between `lo` and `hi`.
///
/// The range is extended to contain zero; the zero point is rounded to a code, using the scale as it is stored.
///
/// ```text
/// lo ← min(lo, 0)    hi ← max(hi, 0)
/// s = (hi − lo) / (qmax − qmin)                                in f64, stored as f32
/// z = clamp(round_half_even(qmin − lo / s), qmin, qmax)
/// ```
///
/// Every `x` in the range then satisfies `|x̂ − x| ≤ s/2`, up to rounding in f32, although the representable range moves
/// by up to half a step. A range that starts at zero, as after `Relu`, gives `z = qmin`. A range so narrow that its scale
/// would not be a normal number (also the range that is only zero) gives `s = 1, z = qmin`: everything in it decodes to 0.
///
/// ```
/// let params = opt_quant::affine_params(-1.0, 3.0, 0..=255)?;
/// assert_eq!(params.zero_point, 64);
/// assert_eq!(params.dequantize(params.quantize(0.0)), 0.0);
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
///
/// # Errors
///
/// [`QuantError::Range`] if an end is not finite, the ends are swapped or too far apart; [`QuantError::CodeRange`].
///
/// # References
///
/// Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018,
/// arXiv:1712.05877.
pub fn affine_params(lo: f32, hi: f32, codes: RangeInclusive<i32>) -> Result<QParams> {
    let (qmin, qmax) = (*codes.start(), *codes.end());
    if qmin >= qmax || qmin < -65_536 || qmax > 65_535 {
        return Err(QuantError::CodeRange { qmin, qmax });
    }
    let refuse = |problem| Err(QuantError::Range { lo, hi, problem });
    if !(lo.is_finite() && hi.is_finite()) {
        return refuse("expected finite ends");
    }
    if lo > hi {
        return refuse("the lower end is above the upper one");
    }
    let (low, high) = (f64::from(lo.min(0.0)), f64::from(hi.max(0.0)));
    if high - low > WIDEST_RANGE {
        return refuse("the ends are too far apart for 32-bit floating point");
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the definition: computed in f64, stored as f32"
    )]
    let scale = ((high - low) / f64::from(qmax - qmin)) as f32;
    if !scale.is_normal() {
        return Ok(QParams::new(1.0, qmin, qmin, qmax)?);
    }
    let zero_point = f64::from(qmin) - low / f64::from(scale);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "clamped to the code range just before"
    )]
    let zero_point = zero_point
        .round_ties_even()
        .clamp(f64::from(qmin), f64::from(qmax)) as i32;
    Ok(QParams::new(scale, zero_point, qmin, qmax)?)
}

/// Returns the unsigned codes of a width: `0..=2^bits − 1`.
///
/// # Errors
///
/// [`QuantError::Bits`] outside 1 to 8.
pub fn unsigned_codes(bits: u8) -> Result<RangeInclusive<i32>> {
    if !(1..=8).contains(&bits) {
        return Err(QuantError::Bits {
            method: "affine",
            bits,
            min: 1,
            max: 8,
        });
    }
    Ok(0..=(1 << bits) - 1)
}

/// A tensor in the affine scheme.
#[derive(Debug, Clone, PartialEq)]
pub struct AffineWeight<D: Dimension = IxDyn> {
    /// Unsigned codes, in the shape of the tensor.
    pub codes: Array<u8, D>,
    /// What they mean.
    pub params: QParams,
}

impl<D: Dimension> AffineWeight<D> {
    /// Decodes.
    #[must_use]
    pub fn dequantize(&self) -> Array<f32, D> {
        self.codes
            .mapv(|code| self.params.dequantize(i32::from(code)))
    }
}

/// Quantizes a tensor to unsigned codes of `bits` bits, with one scale and zero point from its range.
///
/// ```
/// use opt_quant::quantizer::affine::affine;
///
/// let quantized = affine(&[-1.0, -0.2, 0.5, 1.6, 2.0], 2)?;
/// assert_eq!(quantized.codes.to_vec(), [0, 1, 1, 3, 3]);
/// assert_eq!(quantized.dequantize().to_vec(), [-1.0, 0.0, 0.0, 2.0, 2.0]);
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
///
/// # Shapes
///
/// `weights`: a view of any dimension, an array by reference or a slice; `codes` has the same shape.
///
/// # Errors
///
/// [`QuantError::Bits`] outside 1 to 8; [`QuantError::NotFinite`]; [`QuantError::Empty`]; [`QuantError::Range`].
pub fn affine<'a, D: Dimension>(
    weights: impl Into<ArrayView<'a, f32, D>>,
    bits: u8,
) -> Result<AffineWeight<D>> {
    let weights = weights.into();
    let codes = unsigned_codes(bits)?;
    let range = MinMax::of(&weights)?;
    let params = affine_params(range.min, range.max, codes)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the codes of a width and the zero point among them are 0 to 255"
    )]
    let [zero_point, lo, hi] = [params.zero_point, params.qmin, params.qmax].map(|q| q as i16);
    let codes = pieces::codes(&weights, weights.len(), |_, weights, codes| {
        nearest_codes_at(weights, params.scale, zero_point, (lo, hi), codes);
    })?;
    Ok(AffineWeight { codes, params })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr1;

    #[test]
    fn parameters_by_hand() {
        struct Case {
            range: (f32, f32),
            codes: RangeInclusive<i32>,
            scale: f32,
            zero_point: i32,
        }
        let cases = [
            // After ReLU: the lowest code is zero.
            Case {
                range: (0.0, 255.0),
                codes: 0..=255,
                scale: 1.0,
                zero_point: 0,
            },
            // Also where the range starts above zero: it is extended.
            Case {
                range: (100.0, 255.0),
                codes: 0..=255,
                scale: 1.0,
                zero_point: 0,
            },
            // All negative: the highest code is zero.
            Case {
                range: (-30.0, -2.0),
                codes: 0..=15,
                scale: 2.0,
                zero_point: 15,
            },
            // The real zero point 6.5 is a tie and goes to the even 6.
            Case {
                range: (-6.5, 8.5),
                codes: 0..=15,
                scale: 1.0,
                zero_point: 6,
            },
            // From the scale in f64 it would be just below the tie, and 126.
            Case {
                range: (-3.864, 3.925_091),
                codes: 0..=255,
                scale: 0.030_545_454,
                zero_point: 127,
            },
            // Signed codes.
            Case {
                range: (0.0, 1.0),
                codes: -1..=1,
                scale: 0.5,
                zero_point: -1,
            },
            // Only zero, also as -0.0.
            Case {
                range: (0.0, 0.0),
                codes: 0..=255,
                scale: 1.0,
                zero_point: 0,
            },
            Case {
                range: (-0.0, -0.0),
                codes: -128..=127,
                scale: 1.0,
                zero_point: -128,
            },
            // Narrower than any normal scale.
            Case {
                range: (-1e-40, 1e-40),
                codes: 0..=255,
                scale: 1.0,
                zero_point: 0,
            },
            // One bit.
            Case {
                range: (-1.0, 3.0),
                codes: 0..=1,
                scale: 4.0,
                zero_point: 0,
            },
        ];
        for case in cases {
            let params = affine_params(case.range.0, case.range.1, case.codes).unwrap();
            assert_eq!(
                (params.scale, params.zero_point),
                (case.scale, case.zero_point),
                "{:?}",
                case.range
            );
        }
    }

    #[test]
    fn unusable_ranges_are_refused() {
        for (lo, hi) in [
            (f32::NAN, 1.0),
            (0.0, f32::INFINITY),
            (1.0, 0.5),
            (f32::MIN, f32::MAX),
        ] {
            assert!(matches!(
                affine_params(lo, hi, 0..=255),
                Err(QuantError::Range { .. })
            ));
        }
        for (qmin, qmax) in [(1, 0), (3, 3), (i32::MIN, i32::MAX)] {
            assert!(matches!(
                affine_params(0.0, 1.0, qmin..=qmax),
                Err(QuantError::CodeRange { .. })
            ));
        }
        assert!(matches!(unsigned_codes(0), Err(QuantError::Bits { .. })));
        assert!(matches!(unsigned_codes(9), Err(QuantError::Bits { .. })));
        assert_eq!(unsigned_codes(8), Ok(0..=255));
    }

    #[test]
    fn a_tensor_by_hand() {
        // Range -1 to 2 on four codes: s = 1, z = 1; the tie 0.5 goes to the even 0 before z is added.
        let weights = arr1(&[-1.0, -0.2, 0.5, 1.6, 2.0]).into_dyn();
        let quantized = affine(&weights.view(), 2).unwrap();
        assert_eq!(quantized.codes, arr1(&[0, 1, 1, 3, 3]).into_dyn());
        assert_eq!(
            quantized.dequantize(),
            arr1(&[-1.0, 0.0, 0.0, 2.0, 2.0]).into_dyn()
        );
    }
}
