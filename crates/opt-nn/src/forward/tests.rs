//! BatchNormalization by its formula, in both modes, and what it remembers.

use super::*;
use crate::Batch;
use crate::net::to_vec;
use opt_core::{Graph, InputSpec, Model, interpret};

const MOMENTUM: f32 = 0.1;
const EPSILON: f32 = 1e-3;

/// libtorch's own padding is symmetric and at most half of the kernel; every other is done by hand.
#[test]
fn average_pools_of_every_padding_are_the_interpreters() {
    let batch = Batch {
        images: (0..16).map(|i| i * i).collect(),
        labels: vec![0],
        indices: vec![0],
    };
    for pads in [[0; 4], [1; 4], [2; 4], [1, 0, 0, 1], [0, 2, 1, 0]] {
        let mut graph = Graph::new();
        let window = Window {
            kernel: [3, 3],
            stride: [1, 1],
            pads,
        };
        let pool = graph.push("pool", Op::AveragePool(window), &[0]);
        graph.push("flat", Op::Flatten, &[pool]);
        let input = InputSpec {
            shape: [1, 4, 4],
            ..normalised().input
        };
        let model = Model {
            graph,
            params: opt_core::Params::new(),
            input,
        };
        let net = Net::new(&model, Device::Cpu).unwrap();
        let bytes = batch.bytes(&model.input, Device::Cpu).unwrap();
        let outputs = forward(&net, &bytes, Mode::Evaluate, Precision::F32, &[]);
        let found = to_vec(&outputs.logits).unwrap();
        let expected = interpret::run(&model, &model.input.normalize(&batch.images)).unwrap();
        for (a, b) in found.iter().zip(&expected[model.graph.output()]) {
            // f32 means of nine numbers below 1.
            assert!((a - b).abs() < 1e-6, "{pads:?}: {found:?}");
        }
        assert_eq!(found.len(), expected[model.graph.output()].len());
    }
}

/// 1×2×2 image, BatchNormalization with scale 2, shift 3, mean 0.25 and variance 4; Gemm that takes the first pixel.
fn normalised() -> Model {
    let mut graph = Graph::new();
    let op = Op::BatchNormalization {
        scale: Some("norm.weight".to_owned()),
        bias: "norm.bias".to_owned(),
        mean: "norm.mean".to_owned(),
        var: "norm.var".to_owned(),
        epsilon: EPSILON,
        momentum: MOMENTUM,
    };
    let norm = graph.push("norm", op, &[0]);
    let flat = graph.push("flat", Op::Flatten, &[norm]);
    let op = Op::Gemm {
        weight: "fc.weight".to_owned(),
        bias: None,
    };
    graph.push("fc", op, &[flat]);
    let tensor = |shape: &[usize], values: &[f32]| {
        let array = ndarray::ArrayD::from_shape_vec(shape.to_vec(), values.to_vec());
        array.unwrap().into_shared()
    };
    let params = [
        ("norm.weight", tensor(&[1], &[2.0])),
        ("norm.bias", tensor(&[1], &[3.0])),
        ("norm.mean", tensor(&[1], &[0.25])),
        ("norm.var", tensor(&[1], &[4.0])),
        ("fc.weight", tensor(&[1, 4], &[1.0, 0.0, 0.0, 0.0])),
    ];
    Model {
        graph,
        params: params.map(|(name, t)| (name.to_owned(), t)).into(),
        input: InputSpec {
            shape: [1, 2, 2],
            mean: vec![0.0],
            std: vec![1.0],
            preparation: opt_core::Preparation::usual([1, 2, 2]),
        },
    }
}

#[test]
fn normalisation_follows_its_formulas_and_remembers_a_tenth_of_the_batch() {
    // Values 0, 0.2, 0.4, 1 and 1, 0.8, 0.6, 0: mean 0.5, squared deviations 0.25 + 0.09 + 0.01 + 0.25, twice.
    let batch = Batch {
        images: vec![0, 51, 102, 255, 255, 204, 153, 0],
        labels: vec![0, 0],
        indices: vec![0, 1],
    };
    let (mean, squares) = (0.5f32, 1.2f32);
    for (mode, centre, variance, remembered) in [
        (Mode::Evaluate, 0.25, 4.0, (0.25, 4.0)),
        (
            Mode::Train,
            mean,
            squares / 8.0,
            (
                (1.0 - MOMENTUM) * 0.25 + MOMENTUM * mean,
                (1.0 - MOMENTUM) * 4.0 + MOMENTUM * squares / 7.0,
            ),
        ),
    ] {
        let model = normalised();
        let net = Net::new(&model, Device::Cpu).unwrap();
        let bytes = batch.bytes(&model.input, Device::Cpu).unwrap();
        let logits = forward(&net, &bytes, mode, Precision::F32, &[]).logits;
        let logits = to_vec(&logits).unwrap();
        for (logit, x) in logits.iter().zip([0.0f32, 1.0]) {
            let expected = (x - centre) / (variance + EPSILON).sqrt() * 2.0 + 3.0;
            // A few roundings of numbers below 8.
            assert!(
                (logit - expected).abs() < 1e-5,
                "{mode:?}: {logits:?} for {expected}"
            );
        }
        let after = net.to_model().unwrap();
        let found = (
            after.params["norm.mean"][[0]],
            after.params["norm.var"][[0]],
        );
        assert!((found.0 - remembered.0).abs() < 1e-6, "{mode:?}: {found:?}");
        assert!(
            (found.1 - remembered.1).abs() < 1e-5,
            "{mode:?}: {found:?} for {remembered:?}"
        );
    }
}

#[test]
fn taps_are_found_by_name() {
    let net = Net::new(&normalised(), Device::Cpu).unwrap();
    let names = ["fc", "norm"].map(str::to_owned);
    assert_eq!(resolve_taps(&net, &names).unwrap(), [3, 1]);
    let error = resolve_taps(&net, &["relu".to_owned()]).unwrap_err();
    assert!(
        matches!(error, NnError::UnknownTap { ref node } if node == "relu"),
        "{error}"
    );
}
