//! The scale of a filter's codes: what its weights ask for, and never so small that its bias has no code.

use crate::qmodel::QWeight;
use crate::{CoreError, Result};

/// The smallest scales that the filters of one layer may have.
///
/// A bias is stored at the scale `s_x·s_w`, in 30 bits and a sign. Filters of very small weights need a scale above that
/// of their weights, or the bias is cut off. In a filter of zeros the bias alone decides: any fixed scale would round it.
///
/// ```text
/// s_w ≥ |b|·per_bias        per_bias = 1.0001/(2^30·s_x)
/// s_w ≥ least               least·s_x ≥ the smallest normal number
/// ```
///
/// All is in f32 and in this order, so that training with fake quantization, which computes it on tensors, has the scales
/// that quantizing afterwards chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleFloor {
    /// What a bias of 1 needs.
    pub per_bias: f32,
    /// What every filter needs.
    pub least: f32,
}

/// What keeps a bias code of this share below 2^30, rounding of the scales included.
const BIAS_STEP: f32 = 1.0001 / 1_073_741_824.0;

impl ScaleFloor {
    /// The floor of a layer that reads codes of the scale `x_scale`.
    #[must_use]
    pub fn new(x_scale: f32) -> Self {
        Self {
            per_bias: BIAS_STEP / x_scale,
            // Twice, since the quotient is rounded.
            least: (2.0 * f32::MIN_POSITIVE / x_scale).max(f32::MIN_POSITIVE),
        }
    }

    /// The scale of a filter whose largest magnitude is `largest`, with codes up to `code_limit`: `largest/code_limit` where
    /// nothing needs more. A filter that is nothing but zero, bias included, has scale 1.
    ///
    /// ```
    /// use opt_core::lower::{ScaleFloor, bias_code};
    ///
    /// let floor = ScaleFloor::new(0.02);
    /// assert_eq!(floor.filter_scale(1.27, 0.4, 127), 0.01);
    /// // Zeros: the bias is stored as finely as 30 bits allow.
    /// let scale = floor.filter_scale(0.0, 0.4, 127);
    /// let code = bias_code(0.4, 0.02, scale).unwrap();
    /// assert!((code as f32 * (0.02 * scale) - 0.4).abs() < 1e-7);
    /// ```
    #[must_use]
    pub fn filter_scale(&self, largest: f32, bias: f32, code_limit: i8) -> f32 {
        if largest == 0.0 && bias == 0.0 {
            return 1.0;
        }
        (largest / f32::from(code_limit))
            .max(bias.abs() * self.per_bias)
            .max(self.least)
    }
}

/// `round_half_even(b / (s_x·s_w))`, or `None` where it needs more than 30 bits and a sign.
#[must_use]
pub fn bias_code(bias: f32, x_scale: f32, w_scale: f32) -> Option<i32> {
    if bias == 0.0 {
        return Some(0);
    }
    let code = (f64::from(bias) / f64::from(x_scale * w_scale)).round_ties_even();
    #[expect(clippy::cast_possible_truncation, reason = "compared with 2^30 first")]
    (code.abs() < 1_073_741_824.0).then_some(code as i32)
}

/// The bias codes of a layer, for accumulators whose unit is `x_scale·weight.scales[o]`. `y_scale` is the scale of what it
/// writes, `None` for the logits.
///
/// # Errors
///
/// [`CoreError::Quant`] names the bias and the channel where a code does not fit 30 bits, and where a filter of zero codes
/// has a scale so coarse that its bias is off by more than half an output code (of the logits by more than 2^-16 of
/// itself); [`CoreError::ParamShape`] where there are not as many scales as biases.
pub fn bias_codes(
    name: &str,
    bias: &[f32],
    weight: &QWeight,
    x_scale: f32,
    y_scale: Option<f32>,
) -> Result<Vec<i32>> {
    if bias.len() != weight.scales.len() || weight.codes.shape().first() != Some(&bias.len()) {
        return Err(CoreError::ParamShape {
            param: name.to_owned(),
            found: vec![bias.len()],
            expected: vec![weight.scales.len()],
        });
    }
    let channels = bias
        .iter()
        .zip(&weight.scales)
        .zip(weight.codes.outer_iter());
    channels
        .enumerate()
        .map(|(o, ((&b, &s), filter))| {
            let unit = x_scale * s;
            let refuse = |problem: String| CoreError::Quant {
                what: name.to_owned(),
                problem: format!("channel {o}: {problem}"),
            };
            let code = bias_code(b, x_scale, s).ok_or_else(|| {
                refuse(format!(
                    "{b} does not fit 30 bits at scale {unit}; raise the weight's scale to what \
                     `lower::ScaleFloor` gives"
                ))
            })?;
            let error = (f64::from(code) * f64::from(unit) - f64::from(b)).abs();
            let size = f64::from(b.abs());
            let allowed = y_scale.map_or(size / 65_536.0, |s| f64::from(s) / 2.0);
            // What 30 bits cannot avoid is no reason to refuse.
            if error > allowed.max(size / 16_777_216.0) && filter.iter().all(|q| *q == 0) {
                return Err(refuse(format!(
                    "its weights have no codes but 0, and at scale {unit} its bias {b} becomes {}; lower \
                     the weight's scale to what `lower::ScaleFloor` gives",
                    f64::from(code) * f64::from(unit)
                )));
            }
            Ok(code)
        })
        .collect()
}
