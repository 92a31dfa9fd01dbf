//! The symmetric scheme for weights: zero point 0 and a narrow code range, so that `q(−w) = −q(w)`.

use ndarray::{Array, ArrayView, Dimension, IxDyn};
use opt_core::QWeight;
use opt_core::lower::ScaleFloor;

use super::affine::WIDEST_RANGE;
use crate::observe::min_max::channel_ranges;
use crate::rounding::nearest_codes;
use crate::{MinMax, QuantError, Result, pieces};

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
pub struct QuantizedWeight<D: Dimension = IxDyn> {
    /// The codes, in the shape of the weight.
    pub codes: Array<i8, D>,
    /// One scale, or one per index of axis 0.
    pub scales: Vec<f32>,
    /// The width of a code.
    pub bits: u8,
}

impl<D: Dimension> QuantizedWeight<D> {
    /// Decodes.
    ///
    /// # Panics
    ///
    /// If `scales` was changed to another length.
    #[must_use]
    #[track_caller]
    pub fn dequantize(&self) -> Array<f32, D> {
        let codes = self.codes.mapv(f32::from);
        times_scales(codes, &self.scales)
    }
}

/// Multiplies by one scale, or by one per index of axis 0.
#[track_caller]
fn times_scales<D: Dimension>(mut values: Array<f32, D>, scales: &[f32]) -> Array<f32, D> {
    if let [scale] = scales {
        return values * *scale;
    }
    let channels = values.shape().first().copied().unwrap_or(1);
    assert_eq!(scales.len(), channels, "one scale per channel");
    let per_channel = values.len() / channels.max(1);
    let mut values_in_order = values.iter_mut();
    for scale in scales {
        let channel = values_in_order.by_ref().take(per_channel);
        channel.for_each(|value| *value *= scale);
    }
    values
}

/// Quantizes a weight with scales from its largest magnitudes.
///
/// ```text
/// s = max|w| / (2^(b−1) − 1)        q = round_half_even(w / s)
/// ```
///
/// Two bits are ternary: −1, 0, 1. A channel of zeros gets scale 1; a scale is never below the smallest normal number. The
/// weight of an integer layer with a bias needs [`symmetric_with_bias`].
///
/// ```
/// use opt_quant::quantizer::symmetric::{Granularity, symmetric};
///
/// let weights = ndarray::arr2(&[[1.27, -0.01], [0.5, 0.25]]);
/// let quantized = symmetric(&weights, 8, Granularity::PerChannel)?;
/// assert_eq!(quantized.codes, ndarray::arr2(&[[127, -1], [127, 64]]));
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
///
/// # Shapes
///
/// `weights`: `[channels, …]`, as a view of any dimension, an array by reference or a slice; `codes` has the same shape.
///
/// # Errors
///
/// [`QuantError::Bits`] outside 2 to 8; [`QuantError::NotFinite`]; [`QuantError::Empty`]; [`QuantError::Range`];
/// [`QuantError::NoChannels`] for scales per channel of a tensor with fewer than two axes.
pub fn symmetric<'a, D: Dimension>(
    weights: impl Into<ArrayView<'a, f32, D>>,
    bits: u8,
    granularity: Granularity,
) -> Result<QuantizedWeight<D>> {
    let weights = weights.into();
    let largest_code = largest_code(bits)?;
    let ranges = match granularity {
        Granularity::PerTensor => vec![MinMax::of(&weights)?],
        Granularity::PerChannel => channel_ranges(&weights)?,
    };
    let scales = ranges
        .iter()
        .map(|range| scale_for(range, largest_code))
        .collect::<Result<Vec<_>>>()?;
    finite_with_scales(&weights, bits, scales)
}

/// Quantizes a weight with scales that are already known, as learned ones are.
///
/// # Shapes
///
/// `weights`: `[channels, …]`; `scales`: one, or one per channel.
///
/// # Errors
///
/// [`QuantError::Bits`] outside 2 to 8; [`QuantError::NotFinite`]; [`QuantError::Scales`]; [`QuantError::NoChannels`].
pub fn symmetric_with_scales<'a, D: Dimension>(
    weights: impl Into<ArrayView<'a, f32, D>>,
    bits: u8,
    scales: Vec<f32>,
) -> Result<QuantizedWeight<D>> {
    let weights = weights.into();
    largest_code(bits)?;
    let channels = weights.shape().first().copied().unwrap_or(1);
    let refuse = |problem| Err(QuantError::Scales { problem, channels });
    if scales.len() > 1 && weights.ndim() < 2 {
        return Err(QuantError::NoChannels {
            shape: weights.shape().to_vec(),
        });
    }
    if scales.len() != 1 && scales.len() != channels {
        return refuse(format!("found {} scales", scales.len()));
    }
    if let Some((i, s)) = (scales.iter().enumerate()).find(|(_, s)| !(**s > 0.0 && s.is_normal())) {
        return refuse(format!("scale {i} is {s}"));
    }
    if !weights.is_empty() {
        MinMax::of(&weights)?;
    }
    finite_with_scales(&weights, bits, scales)
}

/// The codes of finite weights: one normal scale, or one per channel.
fn finite_with_scales<D: Dimension>(
    weights: &ArrayView<'_, f32, D>,
    bits: u8,
    scales: Vec<f32>,
) -> Result<QuantizedWeight<D>> {
    let largest_code = largest_code(bits)?;
    let per_scale = weights.len() / scales.len().max(1);
    let codes = pieces::codes(weights, per_scale, |i, weights, codes: &mut [i8]| {
        nearest_codes(weights, scales[i], (-largest_code, largest_code), codes);
    })?;
    Ok(QuantizedWeight {
        codes,
        scales,
        bits,
    })
}

/// Quantizes the weight of a layer with a scale per channel that also keeps its bias.
///
/// The bias is stored at scale `x_scale · s[o]` in 30 bits; where the weights of a channel are tiny or all zero, the scale
/// that is best for them alone would cut it off or round it away. [`ScaleFloor::filter_scale`] is the rule; channels
/// whose weights ask for more have the scales that [`symmetric`] gives.
///
/// # Shapes
///
/// `weights`: `[channels, …]`, at least two axes; `bias`: `[channels]`.
///
/// # Errors
///
/// Those of [`symmetric`]; [`QuantError::Scales`] for a bias that no scale keeps, or one per something else than a channel.
pub fn symmetric_with_bias<'a, D: Dimension>(
    weights: impl Into<ArrayView<'a, f32, D>>,
    bits: u8,
    bias: &[f32],
    x_scale: f32,
) -> Result<QuantizedWeight<D>> {
    let weights = weights.into();
    let largest_code = largest_code(bits)?;
    let ranges = channel_ranges(&weights)?;
    let channels = ranges.len();
    let refuse = |problem| Err(QuantError::Scales { problem, channels });
    if bias.len() != channels {
        return refuse(format!("found {} biases", bias.len()));
    }
    let floor = ScaleFloor::new(x_scale);
    let mut scales = Vec::with_capacity(channels);
    for (channel, (range, &bias)) in ranges.iter().zip(bias).enumerate() {
        scale_for(range, largest_code)?;
        let largest = range.max.max(-range.min);
        let scale = floor.filter_scale(largest, bias, QWeight::code_limit(bits));
        if !(bias.is_finite() && scale.is_normal()) {
            return refuse(format!(
                "the bias {bias} of channel {channel} has no code at input scale {x_scale}"
            ));
        }
        scales.push(scale);
    }
    finite_with_scales(&weights, bits, scales)
}

fn largest_code(bits: u8) -> Result<i16> {
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

fn scale_for(range: &MinMax, largest_code: i16) -> Result<f32> {
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
    use ndarray::{Axis, arr1, arr2};

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
            let rows = weights.clone().into_shape_with_order(vec![3, 1]).unwrap();
            let result = symmetric_with_scales(&rows.view(), 8, scales);
            assert!(matches!(result, Err(QuantError::Scales { .. })));
        }
        let broken = arr2(&[[1.0, f32::NAN]]).into_dyn();
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
    fn every_bias_gets_its_code() {
        use opt_core::lower::bias_code;
        struct Case {
            weights: [f32; 2],
            bias: f32,
            x_scale: f32,
        }
        let case = |weights, bias, x_scale| Case {
            weights,
            bias,
            x_scale,
        };
        let cases = [
            // Zeros: the issue's filter, a small bias, a large one, an input of a scale far from 1.
            case([0.0, -0.0], 0.4, 1.0),
            case([0.0, 0.0], -1.4, 0.02),
            case([0.0, 0.0], 1e-30, 0.02),
            case([0.0, 0.0], 1e30, 0.02),
            case([0.0, 0.0], 1.0, 1e-30),
            case([0.0, 0.0], 1.0, 1e25),
            // Tiny and denormal weights beside a bias, and without.
            case([1e-6, -1e-7], 0.4, 0.02),
            case([1e-12, 0.0], -3.0, 0.02),
            case([1e-40, -1e-41], 0.4, 0.02),
            case([1e-40, -1e-41], 0.0, 0.02),
            case([1e-40, -1e-41], 0.0, 1e-30),
        ];
        for Case {
            weights,
            bias,
            x_scale,
        } in cases
        {
            // The second channel is an ordinary one.
            let both = arr2(&[weights, [0.5, -1.0]]).into_dyn();
            for bits in 2..=8 {
                let quantized =
                    symmetric_with_bias(&both.view(), bits, &[bias, 0.25 * x_scale], x_scale)
                        .unwrap();
                let scale = quantized.scales[0];
                let code = bias_code(bias, x_scale, scale).expect("a code");
                let decoded = f64::from(code) * f64::from(x_scale * scale);
                // Half a step, of 2^-29 of the bias or less where weights ask for no more.
                let error = (decoded - f64::from(bias)).abs();
                let step = f64::from(x_scale * scale);
                assert!(
                    error <= step / 2.0 * 1.0001
                        && step <= f64::from(bias.abs()).max(1e-30) * 2f64.powi(-24),
                    "{weights:?} {bias} at {x_scale}: {decoded}"
                );
                let plain = symmetric(&both.view(), bits, Granularity::PerChannel).unwrap();
                assert_eq!(quantized.scales[1], plain.scales[1]);
                assert_eq!(
                    quantized.codes.index_axis(Axis(0), 1),
                    plain.codes.index_axis(Axis(0), 1)
                );
            }
        }
        // Nothing to keep: as without a bias.
        let zeros = arr2(&[[0.0, 0.0]]).into_dyn();
        let quantized = symmetric_with_bias(&zeros.view(), 8, &[0.0], 0.02).unwrap();
        assert_eq!(quantized.scales, [1.0]);
        // No more than the bias needs: 30 bits are used.
        let quantized = symmetric_with_bias(&zeros.view(), 8, &[0.4], 0.02).unwrap();
        let code = bias_code(0.4, 0.02, quantized.scales[0]).expect("a code");
        assert!(code > 1 << 29, "{code}");
    }

    #[test]
    fn biases_without_a_code_are_refused() {
        let weights = arr2(&[[0.0, 0.0]]).into_dyn();
        for (bias, x_scale) in [(f32::NAN, 1.0), (f32::INFINITY, 1.0), (f32::MAX, 1e-30)] {
            let error = symmetric_with_bias(&weights.view(), 8, &[bias], x_scale).unwrap_err();
            assert!(
                error.to_string().contains("of channel 0 has no code"),
                "{error}"
            );
        }
        let error = symmetric_with_bias(&weights.view(), 8, &[], 1.0).unwrap_err();
        assert!(error.to_string().contains("found 0 biases"), "{error}");
    }

    #[test]
    fn scales_per_channel_need_channels() {
        let bias = arr1(&[0.5, 1e-3, -2.0]).into_dyn();
        let error = symmetric(&bias.view(), 8, Granularity::PerChannel).unwrap_err();
        assert_eq!(error, QuantError::NoChannels { shape: vec![3] },);
        assert!(error.to_string().contains("use one scale"), "{error}");
        let error = symmetric_with_scales(&bias.view(), 8, vec![1.0; 3]).unwrap_err();
        assert_eq!(error, QuantError::NoChannels { shape: vec![3] });
        symmetric(&bias.view(), 8, Granularity::PerTensor).unwrap();
    }
}
