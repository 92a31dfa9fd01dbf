//! Post-training quantization by ranges: scales from the smallest and largest values that calibration saw.

use std::collections::BTreeMap;

use opt_core::lower::{Adds, FusedOp, QuantSpec, bias_code, fuse, step_edges};
use opt_core::{Model, Op, QWeight};

use crate::exact_sums::make_sums_exact;
use crate::quantizer::affine::affine_params;
use crate::quantizer::symmetric::{
    Granularity, QuantizedWeight, scale_with_bias_headroom, symmetric, symmetric_with_scales,
};
use crate::{MinMax, Result};

/// The widths of the weights of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightBits {
    /// Of every layer but the first and the last, 2 to 8.
    pub inner: u8,
    /// Of the first and the last layer: kept at 8 by default, since they are small and sensitive.
    pub ends: u8,
}

impl WeightBits {
    /// `inner` bits, with 8 in the first and the last layer.
    #[must_use]
    pub fn inner(inner: u8) -> Self {
        Self { inner, ends: 8 }
    }

    /// The width of every weight of a model, by parameter name.
    #[must_use]
    pub fn by_name(self, model: &Model) -> BTreeMap<String, u8> {
        let names = model.weight_names();
        let last = names.len().saturating_sub(1);
        let bits = |i: usize| {
            if i == 0 || i == last {
                self.ends
            } else {
                self.inner
            }
        };
        let named = names
            .iter()
            .enumerate()
            .map(|(i, n)| ((*n).to_owned(), bits(i)));
        named.collect()
    }
}

/// Chooses scales, zero points and codes for a folded model: u8 edges from `ranges`, symmetric weights per channel.
///
/// ```text
/// edges:   affine from (min, max), extended to hold 0        weights: s[o] = max|W[o]|/(2^(bits-1) - 1), nearest codes
/// ```
///
/// With rounded additions, scales are raised a little so that sums are exact in f32 (`exact_sums.rs` says which and why). A weight's
/// scale is raised where its bias would not fit 30 bits. `ranges` may hold more nodes than this kind of
/// addition needs (calibration records for both kinds).
///
/// # Errors
///
/// [`QuantError::Core`](crate::QuantError::Core) for a graph that has no integer form or a value that was not observed; those of the quantizers.
///
/// # References
///
/// B. Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*,
/// 2017, arXiv:1712.05877.
pub fn min_max_spec(
    folded: &Model,
    adds: Adds,
    ranges: &BTreeMap<String, MinMax>,
    bits: WeightBits,
) -> Result<QuantSpec> {
    let steps = fuse(folded, adds)?;
    let mut spec = QuantSpec {
        adds,
        ..QuantSpec::default()
    };
    for step in steps.iter().filter(|s| s.requantizes(folded)) {
        let name = &folded.graph.nodes[step.value].name;
        if let Some(range) = ranges.get(name) {
            let (lo, hi) = range.range()?;
            spec.edges
                .insert(name.clone(), affine_params(lo, hi, 0..=255)?);
        }
    }
    if adds == Adds::Rounded {
        make_sums_exact(folded, &steps, &mut spec.edges);
    }
    let edges = step_edges(folded, &steps, &spec.edges)?;
    let widths = bits.by_name(folded);
    for step in &steps {
        let (FusedOp::Conv { node, .. } | FusedOp::Gemm { node, .. }) = &step.op else {
            continue;
        };
        let (Op::Conv { weight, bias, .. } | Op::Gemm { weight, bias }) =
            &folded.graph.nodes[*node].op
        else {
            continue;
        };
        let x_scale = edges[step.inputs[0]].as_ref().map_or(1.0, |e| e.scale);
        let values = folded.param(weight)?;
        let mut codes = symmetric(&values.view(), widths[weight], Granularity::PerChannel)?;
        if let Some(bias) = bias {
            let bias = folded.param(bias)?;
            let biases: Vec<f32> = bias.iter().copied().collect();
            codes = with_bias_headroom(codes, &values.view(), x_scale, &biases)?;
        }
        spec.weights.insert(
            weight.clone(),
            QWeight {
                codes: codes.codes,
                scales: codes.scales,
                bits: codes.bits,
            },
        );
    }
    Ok(spec)
}

/// Raises the scales of channels whose bias has no code; the others keep theirs.
fn with_bias_headroom(
    quantized: QuantizedWeight,
    weights: &ndarray::ArrayViewD<'_, f32>,
    x_scale: f32,
    bias: &[f32],
) -> Result<QuantizedWeight> {
    let fits = |(b, s): (&f32, &f32)| bias_code(*b, x_scale, *s).is_some();
    if bias.iter().zip(&quantized.scales).all(fits) {
        return Ok(quantized);
    }
    // `bias_code` keeps to 30 bits: what it leaves of the accumulator is the room for the largest sum.
    const ROOM: u32 = 1 << 30;
    let scales = bias
        .iter()
        .zip(&quantized.scales)
        .map(|(b, s)| match bias_code(*b, x_scale, *s) {
            Some(_) => Ok(*s),
            None => scale_with_bias_headroom(*s, x_scale, *b, ROOM).map(|s| s * 1.0001),
        })
        .collect::<Result<Vec<_>>>()?;
    symmetric_with_scales(weights, quantized.bits, scales)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::lower::{fold, lower, observed_nodes};
    use opt_core::{InputSpec, interpret, interpret_integer, zoo};

    fn input() -> InputSpec {
        let mut input = InputSpec::cifar10();
        input.shape = [3, 12, 12];
        input
    }

    fn image(seed: usize) -> Vec<u8> {
        let byte = |i: usize| u8::try_from((i * 2_654_435_761 + seed * 977) / 64 % 256).unwrap();
        (0..3 * 12 * 12).map(byte).collect()
    }

    fn ranges(folded: &Model, images: &[Vec<u8>]) -> BTreeMap<String, MinMax> {
        let mut ranges: BTreeMap<String, MinMax> = BTreeMap::new();
        for image in images {
            let values = interpret::run(folded, &folded.input.normalize(image)).unwrap();
            for id in observed_nodes(folded).unwrap() {
                let name = folded.graph.nodes[id].name.clone();
                ranges
                    .entry(name)
                    .or_default()
                    .observe(&values[id])
                    .unwrap();
            }
        }
        ranges
    }

    #[test]
    fn one_calibration_serves_both_additions_and_the_network_follows() {
        let folded = fold(&zoo::build("resnet20", &input(), 3).unwrap()).unwrap();
        let images: Vec<Vec<u8>> = (0..3).map(image).collect();
        let ranges = ranges(&folded, &images);
        for adds in [Adds::Fused, Adds::Rounded] {
            let spec = min_max_spec(&folded, adds, &ranges, WeightBits::inner(8)).unwrap();
            let lowered = lower(&folded, &spec).unwrap();
            for image in &images {
                let real = interpret::run(&folded, &folded.input.normalize(image)).unwrap();
                let real = &real[folded.graph.output];
                let logits = interpret_integer::run(&lowered, image).unwrap().logits;
                let size = real.iter().fold(0f32, |m, v| m.max(v.abs()));
                for (a, b) in real.iter().zip(&logits) {
                    // Twenty roundings of 1/255 of a range each; a wrong scale is off by the size itself.
                    assert!((a - b).abs() < 0.15 * size, "{adds:?}: {real:?} {logits:?}");
                }
            }
        }
    }

    #[test]
    fn ends_keep_eight_bits() {
        let folded = fold(&zoo::build("source_net", &input(), 3).unwrap()).unwrap();
        let ranges = ranges(&folded, &[image(0)]);
        let spec = min_max_spec(&folded, Adds::Fused, &ranges, WeightBits::inner(3)).unwrap();
        let bits: Vec<u8> = spec.weights.values().map(|w| w.bits).collect();
        assert_eq!(bits, [8, 3, 8]);
    }

    #[test]
    fn a_channel_of_tiny_weights_keeps_its_bias() {
        let mut model = zoo::build("source_net", &input(), 3).unwrap();
        let weight = model.params.get_mut("conv2.weight").unwrap();
        weight.index_axis_mut(ndarray::Axis(0), 5).fill(1e-30);
        let folded = fold(&model).unwrap();
        let spec = min_max_spec(
            &folded,
            Adds::Fused,
            &ranges(&folded, &[image(0)]),
            WeightBits::inner(8),
        )
        .unwrap();
        lower(&folded, &spec).unwrap();
        let weight = &spec.weights["conv2.weight"];
        assert!(
            weight.scales[5] > 1e-15
                && weight
                    .codes
                    .index_axis(ndarray::Axis(0), 5)
                    .iter()
                    .all(|q| *q == 0)
        );
    }

    #[test]
    fn a_value_that_was_not_observed_is_named() {
        let folded = fold(&zoo::build("source_net", &input(), 3).unwrap()).unwrap();
        let mut ranges = ranges(&folded, &[image(0)]);
        ranges.remove("relu2");
        let error = min_max_spec(&folded, Adds::Fused, &ranges, WeightBits::inner(8)).unwrap_err();
        assert!(
            error.to_string().contains("`relu2`: no scale was chosen"),
            "{error}"
        );
    }
}
