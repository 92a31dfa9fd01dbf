//! Scales in training are those that quantizing afterwards chooses, and no filter loses its bias.

use super::*;
use crate::net::to_vec;
use crate::quantized::Simulation;
use crate::{Batch, Precision};
use opt_core::lower::{QuantSpec, ResidualAdd, bias_code};
use opt_core::op::Window;
use opt_core::{Graph, Unary, interpret, interpret_quantized};
use tch::Device;

#[test]
fn filter_scales_are_the_floors_bit_for_bit() {
    let largest = [
        0.0f32, -0.0, 1e-45, 1e-40, 1e-30, 1e-12, 1e-6, 0.37, 1.0, 55.5,
    ];
    let biases = [
        0.0f32, -0.0, 1e-40, -1e-30, 1e-3, 0.4, -1.4, 7e3, -1e9, 1e30,
    ];
    for x_scale in [1.0f32, 0.0173, 1e-30, 3e5] {
        for bits in 2..=8 {
            let limit = QWeight::code_limit(bits);
            let floor = ScaleFloor::new(x_scale);
            for bias in biases {
                let bias_tensor = Tensor::from_slice(&vec![bias; largest.len()]);
                let largest_tensor = Tensor::from_slice(&largest).reshape([-1, 1, 1, 1]);
                let scales = filter_scales(
                    &largest_tensor,
                    Some(&bias_tensor),
                    f64::from(limit),
                    x_scale,
                );
                let found = to_vec(&scales).unwrap();
                for (l, found) in largest.iter().zip(found) {
                    let expected = floor.filter_scale(*l, bias, limit);
                    assert_eq!(
                        found.to_bits(),
                        expected.to_bits(),
                        "{l} {bias} {x_scale} {bits}: {found} for {expected}"
                    );
                }
            }
        }
    }
}

/// 1×4×4 image, Conv 1→2 1×1, ReLU, mean, Gemm [0, 10].
fn two_filters(weight: f32, bias: f32) -> Model {
    let mut graph = Graph::new();
    let named = |name: &str| (format!("{name}.weight"), Some(format!("{name}.bias")));
    let (conv_weight, conv_bias) = named("conv");
    let op = Op::Conv {
        weight: conv_weight,
        bias: conv_bias,
        window: Window::square(1, 1, 0),
        group: 1,
    };
    let conv = graph.push("conv", op, &[0]);
    let relu = graph.push("relu", Op::Unary(Unary::Relu), &[conv]);
    let mean = graph.push("mean", Op::GlobalAveragePool, &[relu]);
    let flat = graph.push("flat", Op::Flatten, &[mean]);
    let (weight_name, bias_name) = named("fc");
    let op = Op::Gemm {
        weight: weight_name,
        bias: bias_name,
    };
    graph.push("fc", op, &[flat]);
    let tensor = |shape: &[usize], values: &[f32]| {
        let array = ndarray::ArrayD::from_shape_vec(shape.to_vec(), values.to_vec());
        array.unwrap().into_shared()
    };
    let params = [
        ("conv.weight", tensor(&[2, 1, 1, 1], &[0.5, weight])),
        ("conv.bias", tensor(&[2], &[0.0, bias])),
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

#[test]
fn a_filter_of_zeros_keeps_its_bias_in_training_and_in_the_simulation() {
    let batch = Batch {
        images: (0..16).map(|i| i * 16).collect(),
        labels: vec![0],
        indices: vec![0],
    };
    for (weight, bias, expect) in [
        (0.0, 0.4, 4.0f32),
        (0.0, 1.4, 14.0),
        (1e-6, 0.4, 4.0),
        (1e-40, 1.4, 14.0),
        // Without the floor these are cut off at 30 bits.
        (1e-6, 4e6, 4e7),
    ] {
        let model = two_filters(weight, bias);
        let folded = fold(&model).unwrap();
        let largest = bias.max(0.5);
        let activations: BTreeMap<String, QParams> = ["relu", "mean"]
            .map(|name| {
                let params = QParams::new(largest / 255.0, 0, 0, 255).unwrap();
                (name.to_owned(), params)
            })
            .into();
        for bits in [8, 3] {
            let widths: BTreeMap<String, u8> = folded
                .weight_names()
                .into_iter()
                .map(|n| (n.to_owned(), bits))
                .collect();
            // Training.
            let fake =
                FakeQuant::new(&model, &ResidualAdd::Fused.into(), &activations, widths).unwrap();
            let net = Net::new(&model, Device::Cpu).unwrap();
            let _ = net.tensor("conv.bias").set_requires_grad(true);
            let bytes = batch.bytes(&model.input, Device::Cpu).unwrap();
            let outputs = fake.forward(&net, &bytes, Precision::F32, &[]).unwrap();
            let trained = to_vec(&outputs.logits.detach()).unwrap()[0];
            // Half a code at two activations.
            let allowed = 10.0 * largest / 255.0;
            assert!(
                (trained - expect).abs() <= allowed,
                "{weight} {bias}: {trained}"
            );
            // Its gradient is the one without rounding: ten times the mean of ones.
            outputs.logits.sum(Kind::Float).backward();
            let gradient = to_vec(&net.tensor("conv.bias").grad()).unwrap();
            assert!(
                (gradient[1] - 10.0).abs() < 1e-3,
                "{weight} {bias}: {gradient:?}"
            );

            // The same network as it ships.
            let mut spec = QuantSpec {
                placement: ResidualAdd::Fused.into(),
                activations: activations.clone(),
                ..QuantSpec::default()
            };
            let x_scales = [("conv", 1.0), ("fc", largest / 255.0)];
            for (layer, x_scale) in x_scales {
                let values = &folded.params[&format!("{layer}.weight")];
                let biases = &folded.params[&format!("{layer}.bias")];
                let limit = QWeight::code_limit(bits);
                let floor = ScaleFloor::new(x_scale);
                let mut codes = values.mapv(|_| 0i8).to_owned();
                let mut scales = Vec::new();
                for ((filter, mut out), b) in values
                    .outer_iter()
                    .zip(codes.outer_iter_mut())
                    .zip(biases.iter())
                {
                    let size = filter.iter().fold(0f32, |m, w| m.max(w.abs()));
                    let scale = floor.filter_scale(size, *b, limit);
                    assert!(bias_code(*b, x_scale, scale).is_some());
                    let limit = i32::from(limit);
                    out.zip_mut_with(&filter, |q, w| {
                        let code = opt_core::qparams::round_clamp(w / scale, 0, -limit, limit);
                        *q = i8::try_from(code).unwrap();
                    });
                    scales.push(scale);
                }
                let weight = QWeight {
                    codes,
                    scales,
                    bits,
                };
                spec.weights.insert(format!("{layer}.weight"), weight);
            }
            let simulation = Simulation::new(&folded, &spec, Device::Cpu).unwrap();
            let simulated = to_vec(&simulation.logits(&batch).unwrap()).unwrap();
            let lowered = opt_core::lower::lower(&folded, &spec).unwrap();
            let integer = interpret_quantized::run(&lowered, &batch.images)
                .unwrap()
                .outputs;
            assert_eq!(simulated, integer);
            let real = interpret::run(&folded, &folded.input.normalize(&batch.images)).unwrap();
            let real = real[folded.graph.output()][0];
            assert!(
                (integer[0] - real).abs() <= allowed,
                "{weight} {bias}: {integer:?}"
            );
            assert!(
                (integer[0] - trained).abs() <= 1e-5 * expect,
                "{weight} {bias}: {integer:?} {trained}"
            );
            // A scale that loses the bias is refused by name, here as in lowering.
            if weight == 0.0 {
                let codes = spec.weights.get_mut("conv.weight").unwrap();
                codes.scales[1] = 1e8;
                let error = Simulation::new(&folded, &spec, Device::Cpu).unwrap_err();
                assert!(
                    error.to_string().contains("`conv.bias`: channel 1"),
                    "{error}"
                );
            }
        }
    }
}
