//! Post-training quantization by ranges: scales from the smallest and largest values that calibration saw.

use std::collections::BTreeMap;

use opt_core::lower::{FusedOp, Placement, QuantSpec, ResidualAdd, Step, fuse, step_activations};
use opt_core::{CoreError, Model, Op, QParams, QWeight};

use crate::exact_sums::make_sums_exact;
use crate::quantizer::affine::affine_params;
use crate::quantizer::symmetric::symmetric_with_bias;
use crate::{MinMax, Result};

/// The widths of the weights of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightBits {
    /// Of every layer but the first and the last, 2 to 8.
    pub hidden: u8,
    /// Of the first and the last layer: kept at 8 by default, since they are small and sensitive.
    pub first_and_last: u8,
}

impl WeightBits {
    /// `hidden` bits, with 8 in the first and the last layer.
    #[must_use]
    pub fn hidden(hidden: u8) -> Self {
        Self {
            hidden,
            first_and_last: 8,
        }
    }

    /// The width of every weight of a model, by parameter name.
    #[must_use]
    pub fn by_name(self, model: &Model) -> BTreeMap<String, u8> {
        let names = model.weight_names();
        let last = names.len().saturating_sub(1);
        let bits = |i: usize| {
            if i == 0 || i == last {
                self.first_and_last
            } else {
                self.hidden
            }
        };
        let named = names
            .iter()
            .enumerate()
            .map(|(i, n)| ((*n).to_owned(), bits(i)));
        named.collect()
    }
}

/// The width of every weight and of every value that is rounded, in bits. A policy such as [`WeightBits`] makes it, or a search.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Widths {
    /// By parameter name, 2 to 8. Every weight that is quantized is named.
    pub weights: BTreeMap<String, u8>,
    /// By node name, 2 to 8; 8 where nothing is said.
    pub activations: BTreeMap<String, u8>,
}

impl From<BTreeMap<String, u8>> for Widths {
    fn from(weights: BTreeMap<String, u8>) -> Self {
        Self {
            weights,
            activations: BTreeMap::new(),
        }
    }
}

/// Chooses scales, zero points and codes for a folded model: u8 activations from `ranges`, symmetric weights per channel.
///
/// ```text
/// activations: affine from (min, max), extended to hold 0, codes 0 to 2^bits - 1
/// weights:     s[o] = max|W[o]|/(2^(bits-1) - 1), nearest codes
/// ```
///
/// With explicit residual additions, scales are raised a little so that sums are exact in f32 (`exact_sums.rs` says which and why). The
/// scale of a filter of tiny weights or zeros is what its bias needs
/// ([`symmetric_with_bias`]), and a value that never left zero gets a scale beside which the values that are computed from it
/// keep their biases. `ranges` may hold more nodes than this kind of addition needs (calibration records for both kinds).
///
/// # Errors
///
/// [`QuantError::Core`](crate::QuantError::Core) for a graph that has no integer form or a value that was not observed; those of
/// the quantizers, with the name of the value or weight.
///
/// # References
///
/// B. Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*,
/// 2017, arXiv:1712.05877.
pub fn min_max_spec(
    folded: &Model,
    placement: &Placement,
    ranges: &BTreeMap<String, MinMax>,
    widths: &Widths,
) -> Result<QuantSpec> {
    let steps = fuse(folded, placement)?;
    let mut spec = QuantSpec {
        placement: placement.clone(),
        ..QuantSpec::default()
    };
    for step in steps.iter().filter(|s| s.requantizes(folded)) {
        let name = &folded.graph.nodes[step.value].name;
        if let Some(range) = ranges.get(name) {
            let bits = check_width(name, widths.activations.get(name).copied().unwrap_or(8))?;
            let codes = 0..=(1 << bits) - 1;
            let params = range
                .range()
                .and_then(|(lo, hi)| affine_params(lo, hi, codes))
                .map_err(|error| error.of("value", name))?;
            spec.activations.insert(name.clone(), params);
        }
    }
    scale_silent_values(
        folded,
        &steps,
        ranges,
        &widths.weights,
        &mut spec.activations,
    )?;
    if placement.adds == ResidualAdd::Explicit {
        make_sums_exact(folded, &steps, &mut spec.activations);
    }
    let activations = step_activations(folded, &steps, &spec.activations)?;
    for step in &steps {
        let (FusedOp::Conv { node, .. } | FusedOp::Gemm { node, .. } | FusedOp::Logits { node }) =
            &step.op
        else {
            continue;
        };
        let (Op::Conv { weight, bias, .. } | Op::Gemm { weight, bias }) =
            &folded.graph.nodes[*node].op
        else {
            continue;
        };
        let x_scale = activations[step.inputs[0]]
            .as_ref()
            .map_or(1.0, |a| a.scale);
        let values = folded.param(weight)?;
        let biases: Vec<f32> = match bias {
            Some(bias) => folded.param(bias)?.iter().copied().collect(),
            None => vec![0.0; values.shape()[0]],
        };
        let codes =
            symmetric_with_bias(&values.view(), width_of(widths, weight)?, &biases, x_scale)
                .map_err(|error| error.of("weight", weight))?;
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

/// Gives a scale to the values that calibration saw at zero alone: their own range says nothing, and the biases of what reads
/// them are stored at a multiple of it.
///
/// ```text
/// convolution, Gemm:  s_x = s_y/(256·s_w)        logits:  s_x = max|b|/(2^16·s_w)        sum, mean:  s_x = s_y
/// ```
///
/// with the largest `s_w` of the layer, and the smallest of what the readers of a value ask for; 1 where none asks
/// for less, as readers of tiny weights do.
fn scale_silent_values(
    folded: &Model,
    steps: &[Step],
    ranges: &BTreeMap<String, MinMax>,
    widths: &BTreeMap<String, u8>,
    activations: &mut BTreeMap<String, QParams>,
) -> Result<()> {
    let name = |step: usize| folded.graph.nodes[steps[step].value].name.as_str();
    let silent = |step: usize| {
        let range = steps[step]
            .requantizes(folded)
            .then(|| ranges.get(name(step)));
        range
            .flatten()
            .is_some_and(|r| r.min == 0.0 && r.max == 0.0)
    };
    if !(0..steps.len()).any(silent) {
        return Ok(());
    }
    // The step whose scale a step's codes have.
    let root = |mut step: usize| {
        while !steps[step].requantizes(folded)
            && !steps[step].op.is_float()
            && !steps[step].inputs.is_empty()
        {
            step = steps[step].inputs[0];
        }
        step
    };
    // Readers come after what they read, so that theirs are known.
    for silent in (0..steps.len()).rev().filter(|step| silent(*step)) {
        let mut scale = 1.0f32;
        for (reader, step) in steps.iter().enumerate() {
            let y_scale = activations
                .get(name(reader))
                .filter(|_| !step.op.is_float())
                .map(|y| y.scale);
            for (place, _) in (step.inputs.iter().enumerate()).filter(|(_, i)| root(**i) == silent)
            {
                let asked = match &step.op {
                    FusedOp::Conv { node, .. }
                    | FusedOp::Gemm { node, .. }
                    | FusedOp::Logits { node }
                        if place == 0 =>
                    {
                        let (Op::Conv { weight, bias, .. } | Op::Gemm { weight, bias }) =
                            &folded.graph.nodes[*node].op
                        else {
                            continue;
                        };
                        let largest = |values: &opt_core::model::Tensor| {
                            values.iter().fold(0f32, |m, v| m.max(v.abs()))
                        };
                        let w_scale = largest(folded.param(weight)?)
                            / f32::from(QWeight::code_limit(
                                widths.get(weight).copied().unwrap_or(8),
                            ));
                        match (y_scale, bias) {
                            (Some(y_scale), _) => y_scale / 256.0 / w_scale,
                            (None, Some(bias)) => largest(folded.param(bias)?) / 65_536.0 / w_scale,
                            (None, None) => continue,
                        }
                    }
                    FusedOp::Conv { .. }
                    | FusedOp::Gemm { .. }
                    | FusedOp::Logits { .. }
                    | FusedOp::Add { .. }
                    | FusedOp::Table { .. } => y_scale.unwrap_or(f32::INFINITY),
                    FusedOp::Plain { .. } if step.requantizes(folded) => {
                        y_scale.unwrap_or(f32::INFINITY)
                    }
                    // Their readers are asked instead.
                    FusedOp::Plain { .. } | FusedOp::Clamp { .. } | FusedOp::Input => continue,
                    // f32 has no use for a finer scale.
                    FusedOp::Quantize | FusedOp::Dequantize | FusedOp::Float { .. } => continue,
                };
                scale = scale.min(asked);
            }
        }
        if let Some(params) = activations
            .get_mut(name(silent))
            .filter(|_| scale.is_normal())
        {
            params.scale = scale;
        }
    }
    Ok(())
}

fn width_of(widths: &Widths, weight: &str) -> Result<u8> {
    let bits = widths.weights.get(weight).copied();
    check_width(weight, bits.unwrap_or_default())
}

fn check_width(name: &str, bits: u8) -> Result<u8> {
    if (2..=8).contains(&bits) {
        return Ok(bits);
    }
    Err(CoreError::Quant {
        what: name.to_owned(),
        problem: match bits {
            0 => "no width was chosen, expected 2 to 8 bits".to_owned(),
            _ => format!("{bits} bits, expected 2 to 8"),
        },
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::symmetric::{Granularity, symmetric};
    use opt_core::lower::{fold, lower, observed_nodes};
    use opt_core::{Binary, InputSpec, Output, Task, Unary, interpret, interpret_quantized, zoo};
    use std::collections::BTreeSet;

    fn task() -> Task {
        let mut task = Task::cifar10();
        task.input.shape = [3, 12, 12];
        task
    }

    fn widths(folded: &Model, bits: u8) -> Widths {
        WeightBits::hidden(bits).by_name(folded).into()
    }

    fn image(seed: usize) -> Vec<u8> {
        let byte = |i: usize| u8::try_from((i * 2_654_435_761 + seed * 977) / 64 % 256).unwrap();
        (0..3 * 12 * 12).map(byte).collect()
    }

    fn ranges(folded: &Model, images: &[Vec<u8>]) -> BTreeMap<String, MinMax> {
        let mut ranges: BTreeMap<String, MinMax> = BTreeMap::new();
        for image in images {
            let values = interpret::run(folded, &folded.input.normalize(image)).unwrap();
            for id in observed_nodes(folded, &BTreeSet::new()).unwrap() {
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
        let folded = fold(&zoo::build("resnet20", &task(), 3).unwrap()).unwrap();
        let images: Vec<Vec<u8>> = (0..3).map(image).collect();
        let ranges = ranges(&folded, &images);
        for adds in [ResidualAdd::Fused, ResidualAdd::Explicit] {
            let spec = min_max_spec(&folded, &adds.into(), &ranges, &widths(&folded, 8)).unwrap();
            let lowered = lower(&folded, &spec).unwrap();
            for image in &images {
                let real = interpret::run(&folded, &folded.input.normalize(image)).unwrap();
                let real = &real[folded.graph.output()];
                let logits = interpret_quantized::run(&lowered, image).unwrap().outputs;
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
        let folded = fold(&zoo::build("source_net", &task(), 3).unwrap()).unwrap();
        let ranges = ranges(&folded, &[image(0)]);
        let spec = min_max_spec(
            &folded,
            &ResidualAdd::Fused.into(),
            &ranges,
            &widths(&folded, 3),
        )
        .unwrap();
        let bits: Vec<u8> = spec.weights.values().map(|w| w.bits).collect();
        assert_eq!(bits, [8, 3, 8]);
    }

    fn tensor(shape: &[usize], values: &[f32]) -> opt_core::model::Tensor {
        let array = ndarray::ArrayD::from_shape_vec(shape.to_vec(), values.to_vec());
        array.unwrap().into_shared()
    }

    /// 1×4×4 image, Conv 1→2 1×1, ReLU, mean, Gemm [0, 10]: the logit is ten times what the second filter and its bias give.
    fn two_filters(weights: [f32; 2], bias: [f32; 2]) -> Model {
        let mut graph = opt_core::Graph::new();
        let linear = |weight: &str, bias: &str| (weight.to_owned(), Some(bias.to_owned()));
        let (weight, b) = linear("conv.weight", "conv.bias");
        let op = Op::Conv {
            weight,
            bias: b,
            window: opt_core::op::Window::square(1, 1, 0),
            group: 1,
        };
        let conv = graph.push("conv", op, &[0]);
        let relu = graph.push("relu", Op::Unary(Unary::Relu), &[conv]);
        let mean = graph.push("mean", Op::GlobalAveragePool, &[relu]);
        let flat = graph.push("flat", Op::Flatten, &[mean]);
        let (weight, b) = linear("fc.weight", "fc.bias");
        graph.push("fc", Op::Gemm { weight, bias: b }, &[flat]);
        let params = [
            ("conv.weight", tensor(&[2, 1, 1, 1], &weights)),
            ("conv.bias", tensor(&[2], &bias)),
            ("fc.weight", tensor(&[1, 2], &[0.0, 10.0])),
            ("fc.bias", tensor(&[1], &[0.0])),
        ];
        Model {
            graph,
            params: params.map(|(n, t)| (n.to_owned(), t)).into(),
            input: InputSpec {
                shape: [1, 4, 4],
                mean: vec![0.0],
                std: vec![1.0],
                preparation: opt_core::Preparation::usual([1, 4, 4]),
            },
        }
    }

    /// The logits of the folded model and of its integer network.
    fn both_logits(
        model: &Model,
        adds: ResidualAdd,
        bits: u8,
        image: &[u8],
    ) -> (Vec<f32>, Vec<f32>) {
        let folded = fold(model).unwrap();
        let ranges = ranges(&folded, &[image.to_vec()]);
        let spec = min_max_spec(&folded, &adds.into(), &ranges, &widths(&folded, bits)).unwrap();
        let lowered = lower(&folded, &spec).unwrap();
        let real = interpret::run(&folded, &folded.input.normalize(image)).unwrap();
        let logits = interpret_quantized::run(&lowered, image).unwrap().outputs;
        (real[folded.graph.output()].clone(), logits)
    }

    #[test]
    fn a_filter_of_zeros_keeps_its_bias() {
        let image: Vec<u8> = (0..16).map(|i| i * 16).collect();
        struct Case {
            weights: [f32; 2],
            bias: [f32; 2],
            expect: f32,
        }
        let case = |weight, bias, expect| Case {
            weights: [0.5, weight],
            bias: [0.0, bias],
            expect,
        };
        let cases = [
            // The issue's two: integer logits were 0 and 9.99.
            case(0.0, 0.4, 4.0),
            case(0.0, 1.4, 14.0),
            case(-0.0, 0.4, 4.0),
            // Tiny and denormal weights.
            case(1e-6, 0.4, 4.0),
            case(1e-20, 0.4, 4.0),
            case(1e-40, 0.4, 4.0),
            // A bias far above everything else, and one far below.
            case(0.0, 4e6, 4e7),
            case(1e-6, 4e6, 4e7),
            case(0.0, 1e-3, 1e-2),
            // Neither weights nor bias.
            case(0.0, 0.0, 0.0),
            case(1e-40, 0.0, 0.0),
            // Behind the ReLU.
            case(0.0, -3.0, 0.0),
            // Nothing but zeros and biases.
            Case {
                weights: [0.0, 0.0],
                bias: [0.3, 0.4],
                expect: 4.0,
            },
        ];
        for Case {
            weights,
            bias,
            expect,
        } in cases
        {
            for bits in [8, 4, 2] {
                let model = two_filters(weights, bias);
                let (real, logits) = both_logits(&model, ResidualAdd::Fused, bits, &image);
                assert!(
                    (real[0] - expect).abs() <= 1e-5 * expect.max(1e-6),
                    "{real:?}"
                );
                // Half a code of the convolution's and of the mean's result, of 255 for the largest value.
                let largest = bias[1].abs().max(0.5);
                let codes = 10.0 * largest / 255.0;
                assert!(
                    (logits[0] - real[0]).abs() <= codes * 1.001,
                    "{weights:?} {bias:?} at {bits} bits: {real:?} {logits:?}"
                );
            }
        }
    }

    #[test]
    fn networks_with_dead_channels_stay_what_they_are() {
        let mut model = zoo::build("resnet20", &task(), 3).unwrap();
        for (k, (name, param)) in model.params.iter_mut().enumerate() {
            // Every second factor is pruned away; shifts are what a trained network has.
            let is_norm = param.ndim() == 1 && name.contains("bn");
            for (i, v) in param.iter_mut().enumerate() {
                if is_norm && name.ends_with("weight") && i % 2 == 0 {
                    *v = 0.0;
                }
                if is_norm && name.ends_with("bias") {
                    *v = ((i * 37 + k * 11) % 101) as f32 / 101.0 - 0.4;
                }
            }
        }
        for adds in [ResidualAdd::Fused, ResidualAdd::Explicit] {
            let (real, logits) = both_logits(&model, adds, 8, &image(0));
            let size = real.iter().map(|v| v * v).sum::<f32>().sqrt();
            let error = real.iter().zip(&logits).map(|(a, b)| (a - b).powi(2));
            let error = error.sum::<f32>().sqrt() / size;
            // 0.0155 with the scale 1 for filters of zeros, 0.0086 with theirs.
            assert!(error < 0.011, "{adds:?}: {error}");
        }
    }

    #[test]
    fn an_edge_that_never_leaves_zero_costs_no_bias() {
        // The first filters stay behind their ReLU; what reads them sees zeros, and adds a bias far smaller than its weights.
        let mut model = two_filters([0.5, 0.5], [-1.0, -1.0]);
        let mut graph = opt_core::Graph::new();
        let conv = |name: &str| Op::Conv {
            weight: format!("{name}.weight"),
            bias: Some(format!("{name}.bias")),
            window: opt_core::op::Window::square(1, 1, 0),
            group: 1,
        };
        let first = graph.push("conv", conv("conv"), &[0]);
        let dead = graph.push("dead", Op::Unary(Unary::Relu), &[first]);
        let pool = graph.push(
            "pool",
            Op::MaxPool(opt_core::op::Window::square(2, 2, 0)),
            &[dead],
        );
        let second = graph.push("second", conv("second"), &[pool]);
        let residual = graph.push("residual", conv("residual"), &[pool]);
        let sum = graph.push("sum", Op::Binary(Binary::Add), &[second, residual]);
        let mean = graph.push("mean", Op::GlobalAveragePool, &[sum]);
        let flat = graph.push("flat", Op::Flatten, &[mean]);
        let mut fc = model.graph.nodes.swap_remove(5);
        fc.inputs = vec![flat];
        graph.nodes.push(fc);
        graph.outputs = vec![Output::of(flat + 1)];
        model.graph = graph;
        for (name, bias) in [("second", [0.0, 0.04]), ("residual", [0.01, 0.03])] {
            let weights = tensor(&[2, 2, 1, 1], &[12.7, 3.0, 1.0, -12.7]);
            model.params.insert(format!("{name}.weight"), weights);
            model
                .params
                .insert(format!("{name}.bias"), tensor(&[2], &bias));
        }
        let image: Vec<u8> = (0..16).map(|i| i * 16).collect();
        let ordinary = model;
        // Readers of tiny weights ask for more than a scale may be.
        for (adds, size) in [ResidualAdd::Fused, ResidualAdd::Explicit]
            .into_iter()
            .flat_map(|adds| [1.0, 1e-36, 1e-40].map(|size| (adds, size)))
        {
            let mut model = ordinary.clone();
            for name in ["second.weight", "residual.weight"] {
                let weights = tensor(&[2, 2, 1, 1], &[12.7, 3.0, 1.0, -12.7].map(|w| w * size));
                model.params.insert(name.to_owned(), weights);
            }
            let (real, logits) = both_logits(&model, adds, 8, &image);
            assert!((real[0] - 0.7).abs() < 1e-6, "{real:?}");
            // Two roundings of 255 codes for 0.07, times 10; with the scale 1 for the edge of zeros, nothing was left.
            assert!(
                (logits[0] - 0.7).abs() < 2.0 * 0.7 / 255.0,
                "{adds:?}: {logits:?}"
            );
        }
        // A network whose last layer sees nothing but zeros has its biases as logits.
        let mut model = two_filters([0.5, 0.5], [-1.0, -1.0]);
        model
            .params
            .insert("fc.bias".to_owned(), tensor(&[1], &[0.013]));
        for weights in [[0.0, 10.0], [1e-36, 1e-36], [1e-40, 1e-40]] {
            let weights = tensor(&[1, 2], &weights);
            model.params.insert("fc.weight".to_owned(), weights);
            let (_, logits) = both_logits(&model, ResidualAdd::Fused, 8, &image);
            assert!((logits[0] - 0.013).abs() < 1e-6, "{logits:?}");
        }
    }

    #[test]
    fn ordinary_filters_have_the_scales_of_their_weights() {
        let folded = fold(&zoo::build("resnet20", &task(), 3).unwrap()).unwrap();
        let ranges = ranges(&folded, &[image(0)]);
        for bits in [8, 4, 2] {
            let spec = min_max_spec(
                &folded,
                &ResidualAdd::Fused.into(),
                &ranges,
                &widths(&folded, bits),
            )
            .unwrap();
            for (name, weight) in &spec.weights {
                let values = folded.param(name).unwrap();
                let plain =
                    symmetric(&values.view(), weight.bits, Granularity::PerChannel).unwrap();
                assert_eq!(weight.scales, plain.scales, "{name}");
                assert_eq!(weight.codes, plain.codes, "{name}");
            }
        }
    }

    #[test]
    fn errors_of_the_quantizers_name_the_value_or_the_weight() {
        let folded = fold(&zoo::build("source_net", &task(), 3).unwrap()).unwrap();
        let sound = ranges(&folded, &[image(0)]);
        let message = |ranges: &BTreeMap<String, MinMax>, bits| {
            let error = min_max_spec(
                &folded,
                &ResidualAdd::Fused.into(),
                ranges,
                &widths(&folded, bits),
            );
            error.unwrap_err().to_string()
        };
        let mut empty = sound.clone();
        empty.insert("relu2".to_owned(), MinMax::default());
        let found = message(&empty, 8);
        assert!(
            found.starts_with("value `relu2`: no values were observed"),
            "{found}"
        );
        let mut wide = sound.clone();
        wide.get_mut("pool").unwrap().max = f32::MAX;
        let found = message(&wide, 8);
        assert!(found.starts_with("value `pool`: the range 0 to"), "{found}");
        let found = message(&sound, 9);
        assert!(
            found.contains("`conv2.weight`: 9 bits, expected 2 to 8"),
            "{found}"
        );
    }

    #[test]
    fn a_value_that_was_not_observed_is_named() {
        let folded = fold(&zoo::build("source_net", &task(), 3).unwrap()).unwrap();
        let mut ranges = ranges(&folded, &[image(0)]);
        ranges.remove("relu2");
        let error = min_max_spec(
            &folded,
            &ResidualAdd::Fused.into(),
            &ranges,
            &widths(&folded, 8),
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("`relu2`: no scale was chosen"),
            "{error}"
        );
    }
}
