//! One entry for all methods: a weight becomes an [`opt_core::QuantizedTensor`].

use ndarray::{ArrayView, Dimension};
use opt_core::{Dequantize, QuantizedTensor};

use crate::Result;
use crate::quantizer::affine::affine;
use crate::quantizer::codebook::Codebook;
use crate::quantizer::k_means::k_means;
use crate::quantizer::symmetric::{Granularity, QuantizedWeight, symmetric};
use crate::quantizer::uniform_levels::{uniform_levels, uniform_levels_keeping_zero};

/// How a weight is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightMethod {
    /// The literal formula; see [`uniform_levels`].
    UniformLevels {
        /// 2 to 256.
        levels: u16,
    },
    /// The literal formula on the weights that are not zero; see [`uniform_levels_keeping_zero`].
    UniformLevelsKeepingZero {
        /// 2 to 8.
        bits: u8,
    },
    /// A scale and a zero point for the tensor; see [`affine`].
    Affine {
        /// 1 to 8.
        bits: u8,
    },
    /// Scales only; see [`symmetric`].
    Symmetric {
        /// 2 to 8.
        bits: u8,
        /// For what each scale holds.
        granularity: Granularity,
    },
    /// A codebook; see [`k_means`].
    KMeans {
        /// 2 to 256.
        levels: u16,
        /// Whether zero stays exactly zero.
        pin_zero: bool,
    },
}

impl<D: Dimension> From<QuantizedWeight<D>> for QuantizedTensor {
    fn from(weight: QuantizedWeight<D>) -> Self {
        let zero_point = (1u8 << (weight.bits - 1)) - 1;
        let codes = (weight.codes).mapv(|code| zero_point.wrapping_add_signed(code));
        Self {
            codes: codes.into_dyn(),
            bits: weight.bits,
            dequantize: Dequantize::Affine {
                scales: weight.scales,
                zero_point,
            },
        }
    }
}

impl<D: Dimension> From<Codebook<D>> for QuantizedTensor {
    fn from(codebook: Codebook<D>) -> Self {
        Self {
            bits: bits_for(codebook.centroids.len()),
            codes: codebook.codes.into_dyn(),
            dequantize: Dequantize::Codebook(codebook.centroids),
        }
    }
}

/// Quantizes a weight: computes the thresholds that the method needs and the codes.
///
/// Signed codes get an offset of `2^(bits−1) − 1`, which is the zero point; the levels 1…L of the literal formula are
/// stored minus one. The weights are a view of any dimension, an array by reference or a slice.
///
/// ```
/// use opt_quant::{WeightMethod, pack, quantize_weight};
///
/// let quantized = quantize_weight(&[-1.0, 0.0, 0.5, 2.0], &WeightMethod::Affine { bits: 2 })?;
/// assert_eq!(quantized.dequantize()?, ndarray::arr1(&[-1.0, 0.0, 0.0, 2.0]).into_dyn());
/// let codes: Vec<u8> = quantized.codes.iter().copied().collect();
/// assert_eq!(pack(&codes, quantized.bits)?.len(), 1);
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
///
/// # Errors
///
/// As the method's own function: a width or a number of levels that it does not have, an empty tensor, a NaN or infinity.
pub fn quantize_weight<'a, D: Dimension>(
    weights: impl Into<ArrayView<'a, f32, D>>,
    method: &WeightMethod,
) -> Result<QuantizedTensor> {
    let weights = weights.into();
    let weights = &weights;
    Ok(match *method {
        WeightMethod::UniformLevels { levels } => {
            let quantized = uniform_levels(weights, levels)?;
            QuantizedTensor {
                codes: quantized.codes.into_dyn(),
                bits: bits_for(usize::from(levels)),
                dequantize: Dequantize::MinMax {
                    min: quantized.min,
                    step: quantized.step,
                },
            }
        }
        WeightMethod::UniformLevelsKeepingZero { bits } => {
            uniform_levels_keeping_zero(weights, bits)?.into()
        }
        WeightMethod::Affine { bits } => {
            let quantized = affine(weights, bits)?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a zero point lies within its codes, here 0 to 255"
            )]
            let zero_point = quantized.params.zero_point as u8;
            QuantizedTensor {
                codes: quantized.codes.into_dyn(),
                bits,
                dequantize: Dequantize::Affine {
                    scales: vec![quantized.params.scale],
                    zero_point,
                },
            }
        }
        WeightMethod::Symmetric { bits, granularity } => {
            symmetric(weights, bits, granularity)?.into()
        }
        WeightMethod::KMeans { levels, pin_zero } => k_means(weights, levels, pin_zero)?.into(),
    })
}

/// Returns the width that indices below `n` need, at least 1.
fn bits_for(n: usize) -> u8 {
    (1..8).find(|&bits| n <= 1 << bits).unwrap_or(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    #[test]
    fn widths() {
        for (n, bits) in [
            (1, 1),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (128, 7),
            (129, 8),
            (256, 8),
        ] {
            assert_eq!(bits_for(n), bits, "{n}");
        }
    }

    #[test]
    fn signed_codes_are_stored_with_their_offset() {
        let weights = arr2(&[[-3.0, 0.0, 3.0], [1.0, 0.5, -0.3]]).into_dyn();
        let method = WeightMethod::Symmetric {
            bits: 3,
            granularity: Granularity::PerChannel,
        };
        let quantized = quantize_weight(&weights.view(), &method).unwrap();
        assert_eq!(quantized.codes, arr2(&[[0, 3, 6], [6, 5, 2]]).into_dyn());
        let signed = symmetric(&weights.view(), 3, Granularity::PerChannel).unwrap();
        assert_eq!(quantized.dequantize().unwrap(), signed.dequantize());
    }

    #[test]
    fn the_one_entry_decodes_as_the_method_itself() {
        let weights = arr2(&[[-3.0, 0.0, 3.5], [1.0, 0.5, -0.25]]).into_dyn();
        let view = weights.view();
        let decoded = |method| {
            quantize_weight(&view, &method)
                .unwrap()
                .dequantize()
                .unwrap()
        };
        assert_eq!(
            decoded(WeightMethod::Affine { bits: 3 }),
            affine(&view, 3).unwrap().dequantize()
        );
        assert_eq!(
            decoded(WeightMethod::UniformLevels { levels: 5 }),
            uniform_levels(&view, 5).unwrap().dequantize()
        );
        assert_eq!(
            decoded(WeightMethod::UniformLevelsKeepingZero { bits: 2 }),
            uniform_levels_keeping_zero(&view, 2).unwrap().dequantize()
        );
        assert_eq!(
            decoded(WeightMethod::KMeans {
                levels: 3,
                pin_zero: false
            }),
            k_means(&view, 3, false).unwrap().dequantize()
        );
    }
}
