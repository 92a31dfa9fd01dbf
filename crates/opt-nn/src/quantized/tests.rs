//! Where gradients pass the rounding and where not, to the boundary; what the first layer's weights are told.

use std::collections::BTreeMap;

use super::fake::straight_through;
use super::*;
use crate::net::to_vec;
use crate::{Batch, Net, Precision};
use opt_core::lower::{ResidualAdd, fold};
use opt_core::op::{Op, Unary, Window};
use opt_core::{Graph, InputSpec, QParams};
use tch::{Device, Kind, Tensor};

#[test]
fn gradients_pass_inside_the_clamp_and_on_its_boundary_only() {
    // Limits -1 and 3.
    let cases = [
        // x, rounded and clamped, gradient
        (f32::MIN, -1.0, 0.0),
        (-1.25, -1.0, 0.0),
        ((-1.0f32).next_up(), -1.0, 1.0),
        (-1.0, -1.0, 1.0),
        ((-1.0f32).next_down(), -1.0, 0.0),
        // Half to even.
        (-0.5, 0.0, 1.0),
        (0.5, 0.0, 1.0),
        (1.5, 2.0, 1.0),
        (2.5, 2.0, 1.0),
        (3.0, 3.0, 1.0),
        (3.0f32.next_up(), 3.0, 0.0),
        (f32::MAX, 3.0, 0.0),
    ];
    let x = Tensor::from_slice(&cases.map(|case| case.0)).set_requires_grad(true);
    let y = straight_through(&x, -1.0, 3.0);
    assert_eq!(to_vec(&y).unwrap(), cases.map(|case| case.1));
    // Every element has a weight of its own in the sum.
    let weights = Tensor::arange(12, (Kind::Float, Device::Cpu)) + 1.0;
    (y * weights).sum(Kind::Float).backward();
    let expected: Vec<f32> = (1u8..)
        .zip(cases)
        .map(|(n, case)| f32::from(n) * case.2)
        .collect();
    assert_eq!(to_vec(&x.grad()).unwrap(), expected);
}

#[test]
fn what_rounding_was_made_of_can_be_asked() {
    let model = pointwise(&[0.5], 3.0, 0.5, 0.25);
    let activations: BTreeMap<String, QParams> = ["relu", "mean"]
        .map(|name| (name.to_owned(), QParams::new(0.05, 0, 0, 255).unwrap()))
        .into();
    let widths = BTreeMap::from([("conv.weight".to_owned(), 4), ("fc.weight".to_owned(), 8)]);
    for adds in [ResidualAdd::Fused, ResidualAdd::Explicit] {
        let fake = FakeQuant::new(&model, &adds.into(), &activations, widths.clone()).unwrap();
        assert_eq!(
            (fake.placement(), fake.activations(), fake.weight_bits()),
            (&adds.into(), &activations, &widths)
        );
    }
}

/// 1×4×4 image with the given mean and deviation, Conv 1→N 1×1, ReLU, mean, Gemm of ones.
fn pointwise(weights: &[f32], bias: f32, mean: f32, std: f32) -> Model {
    let n = weights.len();
    let mut graph = Graph::new();
    let named = |name: &str| (format!("{name}.weight"), Some(format!("{name}.bias")));
    let (weight, bias_name) = named("conv");
    let op = Op::Conv {
        weight,
        bias: bias_name,
        window: Window::square(1, 1, 0),
        group: 1,
    };
    let conv = graph.push("conv", op, &[0]);
    let relu = graph.push("relu", Op::Unary(Unary::Relu), &[conv]);
    let pool = graph.push("mean", Op::GlobalAveragePool, &[relu]);
    let flat = graph.push("flat", Op::Flatten, &[pool]);
    let (weight, bias_name) = named("fc");
    let op = Op::Gemm {
        weight,
        bias: bias_name,
    };
    graph.push("fc", op, &[flat]);
    let tensor = |shape: &[usize], values: Vec<f32>| {
        let array = ndarray::ArrayD::from_shape_vec(shape.to_vec(), values);
        array.unwrap().into_shared()
    };
    let params = [
        ("conv.weight", tensor(&[n, 1, 1, 1], weights.to_vec())),
        ("conv.bias", tensor(&[n], vec![bias; n])),
        ("fc.weight", tensor(&[1, n], vec![1.0; n])),
        ("fc.bias", tensor(&[1], vec![0.0])),
    ];
    Model {
        graph,
        params: params.map(|(name, t)| (name.to_owned(), t)).into(),
        input: InputSpec {
            shape: [1, 4, 4],
            mean: vec![mean],
            std: vec![std],
            preparation: opt_core::Preparation::usual([1, 4, 4]),
        },
    }
}

/// Bytes 0, 17, … 255.
fn ramp() -> Batch {
    Batch {
        images: (0..16).map(|i| i * 17).collect(),
        labels: vec![0],
        indices: vec![0],
    }
}

/// The gradients of the logit at `conv.weight` and `conv.bias`, with codes of `scale` after the ReLU.
fn gradients(model: &Model, bits: u8, scale: f32) -> (Vec<f32>, Vec<f32>) {
    let folded = fold(model).unwrap();
    let activations: BTreeMap<String, QParams> = ["relu", "mean"]
        .map(|name| (name.to_owned(), QParams::new(scale, 0, 0, 255).unwrap()))
        .into();
    let widths = folded.weight_names().into_iter();
    let widths = widths.map(|name| (name.to_owned(), bits)).collect();
    let fake = FakeQuant::new(model, &ResidualAdd::Fused.into(), &activations, widths).unwrap();
    let net = Net::new(model, Device::Cpu).unwrap();
    for name in ["conv.weight", "conv.bias"] {
        let _ = net.tensor(name).set_requires_grad(true);
    }
    let bytes = ramp().bytes(&model.input, Device::Cpu).unwrap();
    let outputs = fake.forward(&net, &bytes, Precision::F32, &[]).unwrap();
    outputs.logits.sum(Kind::Float).backward();
    let gradient = |name: &str| to_vec(&net.tensor(name).grad()).unwrap();
    (gradient("conv.weight"), gradient("conv.bias"))
}

/// The first layer computes with bytes, and what that adds to its bias depends on its weights.
#[test]
fn the_first_layers_gradient_is_that_of_normalised_images() {
    for (mean, std) in [(0.5f32, 0.25f32), (0.0, 1.0), (0.25, 0.5)] {
        let model = pointwise(&[0.5], 3.0, mean, std);
        let (weight, bias) = gradients(&model, 8, 0.05);
        let pixels = ramp().images.into_iter();
        let normalised = pixels.map(|b| (f32::from(b) / 255.0 - mean) / std);
        let expected = normalised.sum::<f32>() / 16.0;
        // f32 sums of 16 terms below 4, through two factors that cancel.
        assert!(
            (weight[0] - expected).abs() < 1e-4,
            "{mean} {std}: {weight:?} for {expected}"
        );
        assert!((bias[0] - 1.0).abs() < 1e-4, "{mean} {std}: {bias:?}");
    }
}

/// Values 0, 17, … 255 of a 255th each: with codes up to 255·scale, those above are cut off and pass no gradient.
#[test]
fn what_an_edge_cuts_off_passes_no_gradient() {
    for (scale, passed) in [(1.0f32 / 255.0, 16u8), (0.6 / 255.0, 10), (0.2 / 255.0, 4)] {
        // The bias keeps a value of 0 on the ReLU's side of the clamp.
        let model = pointwise(&[1.0], 1e-3, 0.0, 1.0);
        let (_, bias) = gradients(&model, 8, scale * 1.01);
        let expected = f32::from(passed) / 16.0;
        assert!(
            (bias[0] - expected).abs() < 1e-4,
            "{scale}: {bias:?} for {expected}"
        );
    }
}

/// The largest weight of a filter over its own scale can pass the limit by a rounding error.
#[test]
fn the_largest_weight_keeps_its_gradient() {
    let weights: Vec<f32> = (1..=64u8).map(|i| 0.01 + f32::from(i) / 97.0).collect();
    for bits in 2..=8 {
        let (gradient, _) = gradients(&pointwise(&weights, 0.5, 0.0, 1.0), bits, 0.05);
        // The mean of 0, 17, … 255 over 255.
        for g in &gradient {
            assert!((g - 0.5).abs() < 1e-4, "{bits} bits: {gradient:?}");
        }
    }
}
