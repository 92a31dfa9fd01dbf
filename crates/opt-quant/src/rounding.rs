//! Rounds many numbers to codes, in a form that compilers vectorise without special instructions.
//!
//! Adding `3·2^22` to a number of f32 near zero rounds it half to even at its units: the lowest bits of the sum are the integer.
//! Clamping to integers before rounding gives what clamping after it does. So every code is that of
//! [`opt_core::qparams::round_clamp`], which rounds one number and calls a library function where the processor's basic set has
//! no instruction for it.

/// `3·2^22`: beside it the units of f32 are integers.
const UNITS: f32 = 12_582_912.0;

/// `3·2^51`: beside it the units of f64 are integers.
const UNITS_F64: f64 = 6_755_399_441_055_744.0;

/// A code of one byte.
pub(crate) trait Code: Copy {
    /// From the lowest byte of an integer in two's complement.
    fn from_lowest_byte(byte: u8) -> Self;
}

impl Code for u8 {
    fn from_lowest_byte(byte: u8) -> Self {
        byte
    }
}

impl Code for i8 {
    fn from_lowest_byte(byte: u8) -> Self {
        byte.cast_signed()
    }
}

fn lowest_byte(bits: u32) -> u8 {
    bits.to_le_bytes()[0]
}

/// `clamp(round_half_even(x / scale), lo, hi)` of each number that is not NaN; `lo` and `hi` fit the code.
pub(crate) fn nearest_codes<C: Code>(
    values: &[f32],
    scale: f32,
    limits: (i16, i16),
    codes: &mut [C],
) {
    nearest_codes_at(values, scale, 0, limits, codes);
}

/// `clamp(round_half_even(x / scale) + zero_point, lo, hi)` of each number that is not NaN; `lo` and `hi` fit the code.
pub(crate) fn nearest_codes_at<C: Code>(
    values: &[f32],
    scale: f32,
    zero_point: i16,
    (lo, hi): (i16, i16),
    codes: &mut [C],
) {
    let (lo, hi) = (
        f32::from(lo) - f32::from(zero_point),
        f32::from(hi) - f32::from(zero_point),
    );
    let offset = i32::from(zero_point).cast_unsigned();
    for (code, &value) in codes.iter_mut().zip(values) {
        let quotient = value / scale;
        let clamped = if quotient < hi { quotient } else { hi };
        let clamped = if clamped > lo { clamped } else { lo };
        let units = (clamped + UNITS).to_bits();
        *code = C::from_lowest_byte(lowest_byte(units.wrapping_add(offset)));
    }
}

/// `clamp(round_half_up(t), 0, last)` of a number that is not NaN; `last` is an integer to 255.
pub(crate) fn nearest_level(t: f64, last: f64) -> u8 {
    let t = if t < last { t } else { last };
    let t = if t > 0.0 { t } else { 0.0 };
    let units = t + UNITS_F64;
    // A tie that went down to an even integer goes up.
    let is_up = t - (units - UNITS_F64) == 0.5;
    units.to_bits().to_le_bytes()[0].wrapping_add(u8::from(is_up))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::qparams::round_clamp;
    use proptest::prelude::*;

    /// One number with a signed code and one with an unsigned code.
    fn codes_of(x: f32, scale: f32, zero_point: i16, lo: i16, hi: i16) -> (i8, u8) {
        let (mut signed, mut unsigned) = ([0i8], [0u8]);
        nearest_codes(&[x], scale, (-hi / 2, hi / 2), &mut signed);
        nearest_codes_at(&[x], scale, zero_point, (lo, hi), &mut unsigned);
        (signed[0], unsigned[0])
    }

    fn check(x: f32, scale: f32, zero_point: i16, lo: i16, hi: i16) {
        let (signed, unsigned) = codes_of(x, scale, zero_point, lo, hi);
        let half = i32::from(hi / 2);
        assert_eq!(
            i32::from(signed),
            round_clamp(x / scale, 0, -half, half),
            "{x} / {scale}"
        );
        let expected = round_clamp(x / scale, zero_point.into(), lo.into(), hi.into());
        assert_eq!(
            i32::from(unsigned),
            expected,
            "{x} / {scale} + {zero_point}"
        );
    }

    #[test]
    fn edges_have_the_codes_of_the_definition() {
        let tiny = f32::from_bits(1);
        let edges = [
            0.0,
            0.5,
            1.5,
            2.5,
            0.499_999_97,
            126.5,
            127.5,
            254.5,
            255.5,
            300.0,
            1e9,
        ];
        let ends = [tiny, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY];
        for x in edges.into_iter().chain(ends) {
            for x in [x, -x] {
                for scale in [1.0, f32::MIN_POSITIVE, 1e30] {
                    for zero_point in [0, 1, 100, 255] {
                        check(x, scale, zero_point, 0, 255);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn codes_are_those_of_the_definition(
            any in any::<f32>().prop_filter("NaN", |x| !x.is_nan()),
            halves in -1200..1200i16,
            scale in prop_oneof![Just(1.0f32), Just(0.25), 1e-30f32..1e30, Just(f32::MIN_POSITIVE)],
            (zero_point, lo, hi) in (0..=255i16, 0..=255i16, 0..=255i16).prop_map(|(a, b, c)| {
                let mut sorted = [a, b, c];
                sorted.sort_unstable();
                (sorted[1], sorted[0], sorted[2])
            }),
        ) {
            for x in [any, f32::from(halves) * 0.5 * scale, f32::from(halves) * 0.3 * scale] {
                check(x, scale, zero_point, lo, hi);
            }
        }

        #[test]
        fn levels_are_those_of_round(
            any in any::<f64>().prop_filter("NaN", |t| !t.is_nan()),
            halves in -20..600i16,
            last in 1..=255u8,
        ) {
            let last = f64::from(last);
            let half = f64::from(halves) * 0.5;
            let below = f64::from_bits(half.to_bits().saturating_sub(1));
            for t in [any, half, below, half + 1e-9, 0.49999999999999994] {
                prop_assert_eq!(f64::from(nearest_level(t, last)), t.round().clamp(0.0, last), "{}", t);
            }
        }
    }
}
