//! The symmetric scheme for weights: zero point 0 and a narrow code range, so that `q(−w) = −q(w)`.

use ndarray::{ArrayD, ArrayViewD, Axis};
use opt_core::qparams::round_clamp;

use super::affine::WIDEST_RANGE;
use crate::observe::min_max::channel_ranges;
use crate::{MinMax, QuantError, Result};

/// How many scales a weight has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// One for all.
    PerTensor,
    /// One for each output channel (axis 0).
    PerChannel,
}

/// A weight as signed codes.
///
/// ```text
/// ŵ = scale · code        |code| ≤ 2^(bits−1) − 1
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedWeight {
    /// The codes, in the shape of the weight.
    pub codes: ArrayD<i8>,
    /// One scale, or one per index of axis 0.
    pub scales: Vec<f32>,
    /// The width of a code.
    pub bits: u8,
}

impl QuantizedWeight {
    /// Decodes.
    ///
    /// # Panics
    ///
    /// If `scales` was changed to another length.
    #[must_use]
    #[track_caller]
    pub fn dequantize(&self) -> ArrayD<f32> {
        let codes = self.codes.mapv(f32::from);
        times_scales(codes, &self.scales)
    }
}

/// Multiplies by one scale, or by one per index of axis 0.
#[track_caller]
fn times_scales(mut values: ArrayD<f32>, scales: &[f32]) -> ArrayD<f32> {
    if let [scale] = scales {
        return values * *scale;
    }
    assert_eq!(
        scales.len(),
        values.len_of(Axis(0)),
        "one scale per channel"
    );
    for (mut channel, &scale) in values.axis_iter_mut(Axis(0)).zip(scales) {
        channel *= scale;
    }
    values
}

/// Quantizes a weight with scales from its largest magnitudes.
///
/// ```text
/// s = max|w| / (2^(b−1) − 1)        q = round_half_even(w / s)
/// ```
///
/// Two bits are ternary: −1, 0, 1. A channel of zeros gets scale 1; a scale is never below the smallest normal number.
///
/// ```
/// use opt_quant::quantizer::symmetric::{Granularity, symmetric};
///
/// let weights = ndarray::arr2(&[[1.27, -0.01], [0.5, 0.25]]).into_dyn();
/// let quantized = symmetric(&weights.view(), 8, Granularity::PerChannel)?;
/// assert_eq!(quantized.codes, ndarray::arr2(&[[127, -1], [127, 64]]).into_dyn());
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
///
/// # Shapes
///
/// `weights`: `[channels, …]`; `codes` has the same shape.
///
/// # Errors
///
/// [`QuantError::Bits`] outside 2 to 8; [`QuantError::NotFinite`]; [`QuantError::Empty`]; [`QuantError::Range`].
pub fn symmetric(
    weights: &ArrayViewD<'_, f32>,
    bits: u8,
    granularity: Granularity,
) -> Result<QuantizedWeight> {
    let largest_code = largest_code(bits)?;
    let ranges = match granularity {
        Granularity::PerTensor => vec![MinMax::of(weights)?],
        Granularity::PerChannel => channel_ranges(weights)?,
    };
    let scales = ranges
        .iter()
        .map(|range| scale_for(range, largest_code))
        .collect::<Result<Vec<_>>>()?;
    symmetric_with_scales(weights, bits, scales)
}

/// Quantizes a weight with scales that are already known, as learned ones are.
///
/// # Shapes
///
/// `weights`: `[channels, …]`; `scales`: one, or one per channel.
///
/// # Errors
///
/// [`QuantError::Bits`] outside 2 to 8; [`QuantError::NotFinite`]; [`QuantError::Scales`].
pub fn symmetric_with_scales(
    weights: &ArrayViewD<'_, f32>,
    bits: u8,
    scales: Vec<f32>,
) -> Result<QuantizedWeight> {
    let largest_code = largest_code(bits)?;
    let channels = weights.shape().first().copied().unwrap_or(1);
    let refuse = |problem| Err(QuantError::Scales { problem, channels });
    if scales.len() != 1 && scales.len() != channels {
        return refuse(format!("found {} scales", scales.len()));
    }
    if let Some((i, s)) = (scales.iter().enumerate()).find(|(_, s)| !(**s > 0.0 && s.is_normal())) {
        return refuse(format!("scale {i} is {s}"));
    }
    let not_finite = weights.iter().enumerate().find(|(_, w)| !w.is_finite());
    if let Some((index, &value)) = not_finite {
        return Err(QuantError::NotFinite { index, value });
    }
    let code = |w: f32, scale: f32| {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "clamped to -127..=127 by the call"
        )]
        let code = round_clamp(w / scale, 0, -largest_code, largest_code) as i8;
        code
    };
    let codes = if let [scale] = scales[..] {
        weights.mapv(|w| code(w, scale))
    } else {
        let mut codes = ArrayD::zeros(weights.raw_dim());
        for ((mut to, from), &scale) in (codes.axis_iter_mut(Axis(0)))
            .zip(weights.axis_iter(Axis(0)))
            .zip(&scales)
        {
            to.assign(&from.mapv(|w| code(w, scale)));
        }
        codes
    };
    Ok(QuantizedWeight {
        codes,
        scales,
        bits,
    })
}

/// Raises a weight's scale until its bias fits the 32-bit accumulator beside the largest possible sum.
///
/// The bias is stored at scale `input_scale · weight_scale`; where the weights of a channel are tiny, that code would
/// overflow. Clipping the bias instead would shift every output of the channel.
///
/// ```text
/// |bias| / (s_x · s_w) + largest_sum < 2^31        largest_sum = K · max|q_x − z_x| · max|q_w|
/// ```
///
/// # Errors
///
/// [`QuantError::Scales`] if no scale helps: `largest_sum` alone leaves no room, or a number is not finite.
pub fn scale_with_bias_headroom(
    weight_scale: f32,
    input_scale: f32,
    bias: f32,
    largest_sum: u32,
) -> Result<f32> {
    let room = f64::from(i32::MAX) - 1.0 - f64::from(largest_sum);
    let needed = f64::from(bias).abs() / f64::from(input_scale) / room;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "one step up undoes the rounding"
    )]
    let scale = weight_scale.max((needed as f32).next_up());
    if room < 1.0 || !needed.is_finite() || !(scale > 0.0 && scale.is_normal()) {
        return Err(QuantError::Scales {
            problem: format!(
                "no weight scale makes the bias {bias} at input scale {input_scale} fit 32 bits beside sums up to {largest_sum}"
            ),
            channels: 1,
        });
    }
    Ok(if needed < f64::from(weight_scale) {
        weight_scale
    } else {
        scale
    })
}

fn largest_code(bits: u8) -> Result<i32> {
    if !(2..=8).contains(&bits) {
        return Err(QuantError::Bits {
            method: "symmetric",
            bits,
            min: 2,
            max: 8,
        });
    }
    Ok((1 << (bits - 1)) - 1)
}

fn scale_for(range: &MinMax, largest_code: i32) -> Result<f32> {
    let largest = f64::from(range.max.max(-range.min));
    if largest == 0.0 {
        return Ok(1.0);
    }
    if largest > WIDEST_RANGE {
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
    let scale = (largest / f64::from(largest_code)) as f32;
    Ok(scale.max(f32::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr1, arr2};

    #[test]
    fn codes_by_hand() {
        struct Case {
            bits: u8,
            weights: &'static [f32],
            scale: f32,
            codes: &'static [i8],
        }
        let cases = [
            // Ties go to the even code on both sides of zero.
            Case {
                bits: 4,
                weights: &[7.0, 0.5, 1.5, -0.5, -1.5],
                scale: 1.0,
                codes: &[7, 0, 2, 0, -2],
            },
            // The largest magnitude is negative and is met exactly; -8 is no code.
            Case {
                bits: 4,
                weights: &[-14.0, 13.0],
                scale: 2.0,
                codes: &[-7, 6],
            },
            // Ternary.
            Case {
                bits: 2,
                weights: &[0.9, -1.0, 0.4, 0.0],
                scale: 1.0,
                codes: &[1, -1, 0, 0],
            },
            // Dead.
            Case {
                bits: 8,
                weights: &[0.0, -0.0],
                scale: 1.0,
                codes: &[0, 0],
            },
            // Subnormal: the scale stays normal.
            Case {
                bits: 8,
                weights: &[1e-40],
                scale: f32::MIN_POSITIVE,
                codes: &[0],
            },
            // One element.
            Case {
                bits: 3,
                weights: &[-6.0],
                scale: 2.0,
                codes: &[-3],
            },
        ];
        for case in cases {
            let weights = arr1(case.weights).into_dyn();
            let quantized = symmetric(&weights.view(), case.bits, Granularity::PerTensor).unwrap();
            assert_eq!(quantized.scales, [case.scale]);
            assert_eq!(quantized.codes, arr1(case.codes).into_dyn());
        }
    }

    #[test]
    fn a_dead_channel_does_not_disturb_the_others() {
        let weights = arr2(&[[0.0, 0.0], [127.0, -1.0]]).into_dyn();
        let quantized = symmetric(&weights.view(), 8, Granularity::PerChannel).unwrap();
        assert_eq!(quantized.scales, [1.0, 1.0]);
        assert_eq!(quantized.dequantize(), weights);
    }

    #[test]
    fn given_scales_clamp_to_the_narrow_range() {
        let weights = arr2(&[[10.0, -10.0], [5.0, -30.0]]).into_dyn();
        let quantized = symmetric_with_scales(&weights.view(), 4, vec![1.0, 2.0]).unwrap();
        assert_eq!(quantized.codes, arr2(&[[7, -7], [2, -7]]).into_dyn());
    }

    #[test]
    fn unusable_requests_are_refused() {
        let weights = arr1(&[1.0, 2.0, 3.0]).into_dyn();
        for bits in [0, 1, 9] {
            let result = symmetric(&weights.view(), bits, Granularity::PerTensor);
            assert!(matches!(result, Err(QuantError::Bits { .. })));
        }
        for scales in [
            vec![],
            vec![1.0, 1.0],
            vec![0.0],
            vec![f32::NAN],
            vec![1.0, -1.0, 1.0],
            vec![1e-40],
        ] {
            let result = symmetric_with_scales(&weights.view(), 8, scales);
            assert!(matches!(result, Err(QuantError::Scales { .. })));
        }
        let broken = arr1(&[1.0, f32::NAN]).into_dyn();
        for granularity in [Granularity::PerTensor, Granularity::PerChannel] {
            let result = symmetric(&broken.view(), 8, granularity);
            assert!(matches!(
                result,
                Err(QuantError::NotFinite { index: 1, .. })
            ));
        }
        let result = symmetric_with_scales(&broken.view(), 8, vec![1.0]);
        assert!(matches!(
            result,
            Err(QuantError::NotFinite { index: 1, .. })
        ));
        let wide = arr1(&[f32::MAX]).into_dyn();
        let result = symmetric(&wide.view(), 8, Granularity::PerTensor);
        assert!(matches!(result, Err(QuantError::Range { .. })));
    }

    #[test]
    fn the_bias_gets_its_room() {
        let largest_sum = 576 * 255 * 127;
        // Plenty of room: nothing changes.
        assert_eq!(
            scale_with_bias_headroom(0.01, 0.02, 1.0, largest_sum),
            Ok(0.01)
        );
        assert_eq!(
            scale_with_bias_headroom(0.01, 0.02, 0.0, largest_sum),
            Ok(0.01)
        );
        // A nearly dead channel with a large bias.
        let scale = scale_with_bias_headroom(1e-12, 0.02, -3.0, largest_sum).unwrap();
        assert!(scale > 1e-12);
        let code = (3.0 / (0.02f32 as f64 * scale as f64)).round();
        assert!(code + largest_sum as f64 <= i32::MAX as f64);
        // And not more than it needs.
        assert!(code + largest_sum as f64 > i32::MAX as f64 * 0.999);
        // The sum alone overflows.
        assert!(scale_with_bias_headroom(0.01, 0.02, 1.0, u32::MAX).is_err());
        assert!(scale_with_bias_headroom(0.01, 0.02, f32::NAN, 0).is_err());
    }
}
