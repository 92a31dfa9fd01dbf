//! The affine code of one activation: scale, zero point and range, with ONNX's rounding.

use crate::{CoreError, Result};

/// How real numbers of one activation become integer codes.
///
/// ```text
/// q = clamp(round_half_even(x / scale) + zero_point, qmin, qmax)        x̂ = scale · (q - zero_point)
/// ```
///
/// Rounding comes first, then the zero point is added (ONNX `QuantizeLinear`): rounding the sum would move every tie
/// where the zero point is odd.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QParams {
    /// The distance between neighbouring codes; positive and normal.
    pub scale: f32,
    /// The code of real zero; inside the range.
    pub zero_point: i32,
    /// The smallest code.
    pub qmin: i32,
    /// The largest code.
    pub qmax: i32,
}

impl QParams {
    /// Checks and makes the parameters.
    ///
    /// # Errors
    ///
    /// [`CoreError::Quant`] if the scale is not positive and normal, the range is empty or zero has no code.
    pub fn new(scale: f32, zero_point: i32, qmin: i32, qmax: i32) -> Result<Self> {
        let problem = if !(scale > 0.0 && scale.is_normal()) {
            format!("the scale is {scale}, expected a positive normal number")
        } else if qmin >= qmax {
            format!("the code range {qmin} to {qmax} is empty")
        } else if !(qmin..=qmax).contains(&zero_point) {
            format!("the zero point {zero_point} lies outside {qmin} to {qmax}")
        } else {
            return Ok(Self {
                scale,
                zero_point,
                qmin,
                qmax,
            });
        };
        Err(CoreError::Quant {
            what: "parameters".to_owned(),
            problem,
        })
    }

    /// The code of `x`. NaN gives the zero point; callers that can meet one check first.
    ///
    /// ```
    /// let q = opt_core::QParams::new(0.5, 3, 0, 255)?;
    /// assert_eq!(q.quantize(0.25), 3); // the tie 0.5 rounds to 0, then 3 is added
    /// assert_eq!(q.quantize(-9.0), 0);
    /// # Ok::<(), opt_core::CoreError>(())
    /// ```
    #[must_use]
    pub fn quantize(&self, x: f32) -> i32 {
        round_clamp(x / self.scale, self.zero_point, self.qmin, self.qmax)
    }

    /// The number that a code stands for.
    #[must_use]
    pub fn dequantize(&self, q: i32) -> f32 {
        // Two i32 can be further apart than an i32 holds.
        self.scale * (i64::from(q) - i64::from(self.zero_point)) as f32
    }

    /// Quantizes and back.
    #[must_use]
    pub fn fake_quantize(&self, x: f32) -> f32 {
        self.dequantize(self.quantize(x))
    }
}

/// `clamp(round_half_even(f) + zero_point, lo, hi)` without overflow, for any `f` and all limits; NaN gives the clamped zero
/// point.
#[must_use]
pub fn round_clamp(f: f32, zero_point: i32, lo: i32, hi: i32) -> i32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, far outside all codes; a NaN becomes 0"
    )]
    let rounded = f.round_ties_even() as i64;
    let code = rounded
        .saturating_add(i64::from(zero_point))
        .clamp(i64::from(lo), i64::from(hi));
    i32::try_from(code).unwrap_or(hi)
}

/// [`round_clamp`] to a byte: the same code, without 64-bit integers, for kernels and interpreters.
#[inline]
#[must_use]
pub fn round_clamp_u8(f: f32, zero_point: u8, lo: u8, hi: u8) -> u8 {
    // Far beyond all codes, and near enough that the sum is an i32.
    const FAR: f32 = 1_048_576.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "within the limits by the clamp; a NaN becomes 0"
    )]
    let rounded = f.round_ties_even().clamp(-FAR, FAR) as i32;
    let code = (rounded + i32::from(zero_point)).clamp(i32::from(lo), i32::from(hi));
    u8::try_from(code).unwrap_or(hi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rounding_is_half_even_before_the_zero_point() {
        struct Case {
            x: f32,
            zero_point: i32,
            expect: i32,
        }
        let cases = [
            // Ties go to the even quotient, whatever the zero point's parity.
            Case {
                x: 0.5,
                zero_point: 0,
                expect: 0,
            },
            Case {
                x: 0.5,
                zero_point: 101,
                expect: 101,
            },
            Case {
                x: 1.5,
                zero_point: 101,
                expect: 103,
            },
            Case {
                x: -0.5,
                zero_point: 101,
                expect: 101,
            },
            // Just below the tie: floor(x + 0.5) would be wrong here.
            Case {
                x: 0.499_999_97,
                zero_point: 0,
                expect: 0,
            },
            // Saturation at both ends, also at infinity.
            Case {
                x: f32::MAX,
                zero_point: 7,
                expect: 255,
            },
            Case {
                x: f32::NEG_INFINITY,
                zero_point: 7,
                expect: 0,
            },
            // NaN gives the zero code.
            Case {
                x: f32::NAN,
                zero_point: 7,
                expect: 7,
            },
        ];
        for case in cases {
            let q = QParams::new(1.0, case.zero_point, 0, 255).unwrap();
            assert_eq!(q.quantize(case.x), case.expect, "{}", case.x);
        }
    }

    #[test]
    fn codes_reach_as_far_as_their_range() {
        struct Case {
            zero_point: i32,
            range: (i32, i32),
            x: f32,
            expect: i32,
        }
        let case = |zero_point, range, x, expect| Case {
            zero_point,
            range,
            x,
            expect,
        };
        let all = (i32::MIN, i32::MAX);
        let cases = [
            // The issue's two: they were 1,048,576 and 0.
            case(0, all, 3e6, 3_000_000),
            case(i32::MAX - 5, (0, i32::MAX), 100.0, i32::MAX),
            case(0, all, -3e9, i32::MIN),
            case(0, all, f32::INFINITY, i32::MAX),
            case(0, all, f32::NEG_INFINITY, i32::MIN),
            case(i32::MIN, all, f32::MAX, i32::MAX),
            case(i32::MIN, all, -1.0, i32::MIN),
            case(i32::MIN, all, 3e9, 852_516_352),
            case(-7, (-65_536, 65_535), 40_000.5, 39_993),
            case(3, all, f32::NAN, 3),
        ];
        for case in cases {
            let (lo, hi) = case.range;
            let q = QParams::new(1.0, case.zero_point, lo, hi).unwrap();
            assert_eq!(
                q.quantize(case.x),
                case.expect,
                "{} + {}",
                case.x,
                case.zero_point
            );
        }
        let far = QParams::new(1.0, i32::MIN, i32::MIN, i32::MAX).unwrap();
        assert_eq!(far.dequantize(i32::MAX), 4_294_967_295.0);
    }

    #[test]
    fn unusable_parameters_are_refused() {
        for (scale, zero, qmin, qmax) in [
            (0.0, 0, 0, 255),
            (-1.0, 0, 0, 255),
            (f32::NAN, 0, 0, 255),
            (f32::INFINITY, 0, 0, 255),
            (1e-40, 0, 0, 255),
            (1.0, 256, 0, 255),
            (1.0, 0, 5, 5),
        ] {
            assert!(QParams::new(scale, zero, qmin, qmax).is_err());
        }
    }

    proptest! {
        #[test]
        fn codes_survive_the_round_trip(scale in 1e-20f32..1e20, z in 0..=255i32, q in 0..=255i32) {
            let params = QParams::new(scale, z, 0, 255).unwrap();
            prop_assert_eq!(params.quantize(params.dequantize(q)), q);
            prop_assert_eq!(params.dequantize(z).to_bits(), 0f32.to_bits());
        }

        #[test]
        fn a_code_is_the_sum_of_the_definition(f in any::<f32>(), z in any::<i32>(), a in any::<i32>(), b in any::<i32>()) {
            let (lo, hi) = (a.min(b), a.max(b));
            // Both fit f64 where the sum is within reach of a code; beyond, the side decides.
            let sum = if f.is_nan() { 0.0 } else { f64::from(f).round_ties_even() } + f64::from(z);
            let expected = sum.clamp(f64::from(lo), f64::from(hi));
            prop_assert_eq!(f64::from(round_clamp(f, z, lo, hi)), expected);
        }

        #[test]
        fn codes_of_a_byte_are_the_same_without_64_bits(
            any in any::<f32>(), near in -600f32..600.0, z in any::<u8>(), a in any::<u8>(), b in any::<u8>()
        ) {
            let (lo, hi) = (a.min(b), a.max(b));
            // Ties too.
            for f in [any, near, near.floor() + 0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let wide = round_clamp(f, i32::from(z), i32::from(lo), i32::from(hi));
                prop_assert_eq!(i32::from(round_clamp_u8(f, z, lo, hi)), wide, "{}", f);
            }
        }

        #[test]
        fn quantizing_is_monotone(scale in 1e-3f32..1e3, z in 0..=255i32, a in -1e5f32..1e5, b in -1e5f32..1e5) {
            let params = QParams::new(scale, z, 0, 255).unwrap();
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(params.quantize(a) <= params.quantize(b));
        }
    }
}
