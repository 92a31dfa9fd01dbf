//! Networks that are integers in part: simulation and training compute what the interpreter computes.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Axis;
use opt_core::lower::{Placement, QuantSpec, ScaleFloor, fold, fuse, lower, quantized_weights};
use opt_core::op::{Op, Unary, Window};
use opt_core::qmodel::QWeight;
use opt_core::{Graph, InputSpec, Model, Output, QParams, interpret, interpret_quantized};
use tch::{Device, Kind};

use super::{FakeQuant, Plan, Simulation};
use crate::net::to_vec;
use crate::{Batch, Net, Precision};

/// Three convolutions with `HardSwish` and `ReLU` between them, and two heads on their mean.
fn model() -> Model {
    let mut graph = Graph::new();
    let conv = |name: &str| Op::Conv {
        weight: format!("{name}.weight"),
        bias: Some(format!("{name}.bias")),
        window: Window::square(3, 1, 1),
        group: 1,
    };
    let x = graph.push("first", conv("first"), &[0]);
    let x = graph.push("swish", Op::Unary(Unary::HardSwish), &[x]);
    let x = graph.push("second", conv("second"), &[x]);
    let x = graph.push("relu", Op::Unary(Unary::Relu), &[x]);
    let x = graph.push("third", conv("third"), &[x]);
    let mean = graph.push("mean", Op::GlobalAveragePool, &[x]);
    let flat = graph.push("flat", Op::Flatten, &[mean]);
    let head = Op::Gemm {
        weight: "fc.weight".to_owned(),
        bias: Some("fc.bias".to_owned()),
    };
    let fc = graph.push("fc", head, &[flat]);
    graph.outputs = vec![Output::of(fc), Output::of(x)];
    let tensor = |seed: usize, shape: &[usize]| {
        let value = |i: usize| ((i * 2_654_435_761 + seed * 977) / 64 % 1000) as f32 / 1000.0 - 0.5;
        let values = (0..shape.iter().product()).map(value).collect();
        let array = ndarray::ArrayD::from_shape_vec(shape.to_vec(), values);
        array.unwrap().into_shared()
    };
    let params: [(&str, &[usize]); 8] = [
        ("first.weight", &[6, 3, 3, 3]),
        ("first.bias", &[6]),
        ("second.weight", &[5, 6, 3, 3]),
        ("second.bias", &[5]),
        ("third.weight", &[4, 5, 3, 3]),
        ("third.bias", &[4]),
        ("fc.weight", &[3, 4]),
        ("fc.bias", &[3]),
    ];
    let params = params.iter().enumerate();
    Model {
        graph,
        params: params
            .map(|(seed, (name, shape))| ((*name).to_owned(), tensor(seed, shape)))
            .collect(),
        input: InputSpec {
            shape: [3, 6, 5],
            // Bytes, so that folding is exact where the image is padded.
            mean: vec![120.0 / 255.0, 0.0, 1.0],
            std: vec![0.25, 0.5, 0.3],
            preparation: opt_core::Preparation::usual([3, 6, 5]),
        },
    }
}

fn batch() -> Batch {
    let byte = |i: usize| u8::try_from((i * 7919 + i / 3) % 256).unwrap();
    Batch {
        images: (0..2 * 90).map(byte).collect(),
        labels: vec![0, 1],
        indices: vec![0, 1],
    }
}

/// Ranges from the batch, weights of 8 bits; activations of `swish` have 5.
fn spec(folded: &Model, placement: &Placement, batch: &Batch) -> QuantSpec {
    let mut spec = QuantSpec {
        placement: placement.clone(),
        ..QuantSpec::default()
    };
    let runs: Vec<_> = batch
        .images
        .chunks_exact(90)
        .map(|image| interpret::run(folded, &folded.input.normalize(image)).unwrap())
        .collect();
    let steps = fuse(folded, placement).unwrap();
    for step in steps.iter().filter(|s| s.requantizes(folded)) {
        let name = folded.graph.nodes[step.value].name.clone();
        let values = || runs.iter().flat_map(|r| &r[step.value]).copied();
        let (lo, hi) = (values().fold(0.0, f32::min), values().fold(0.0, f32::max));
        let largest = if name == "swish" { 31 } else { 255 };
        let scale = (hi - lo) / largest as f32;
        let zero = opt_core::qparams::round_clamp(-lo / scale, 0, 0, largest);
        let params = QParams::new(scale, zero, 0, largest).unwrap();
        spec.activations.insert(name, params);
    }
    let activations = opt_core::lower::step_activations(folded, &steps, &spec.activations).unwrap();
    for name in quantized_weights(folded, placement).unwrap() {
        let weight = &folded.params[name];
        let layer = name.strip_suffix(".weight").unwrap();
        let of = |id: usize| folded.graph.nodes[steps[id].value].name.as_str();
        let reads = |id: &usize| match steps[*id].op {
            opt_core::lower::FusedOp::Conv { node, .. }
            | opt_core::lower::FusedOp::Gemm { node, .. }
            | opt_core::lower::FusedOp::Logits { node } => folded.graph.nodes[node].name == layer,
            _ => of(*id) == layer,
        };
        let step = (0..steps.len()).find(reads).unwrap();
        let x = activations[steps[step].inputs[0]].as_ref().unwrap();
        let floor = ScaleFloor::new(x.scale);
        let biases = &folded.params[&format!("{layer}.bias")];
        let mut codes = weight.mapv(|_| 0i8).to_owned();
        let mut scales = Vec::new();
        for (o, mut filter) in codes.axis_iter_mut(Axis(0)).enumerate() {
            let values = weight.index_axis(Axis(0), o);
            let largest = values.iter().fold(0f32, |m, w| m.max(w.abs()));
            let scale = floor.filter_scale(largest, biases[o], 127);
            filter.zip_mut_with(&values, |q, w| {
                let code = opt_core::qparams::round_clamp(w / scale, 0, -127, 127);
                *q = i8::try_from(code).unwrap();
            });
            scales.push(scale);
        }
        let weight = QWeight {
            codes,
            scales,
            bits: 8,
        };
        spec.weights.insert(name.to_owned(), weight);
    }
    spec
}

#[test]
fn what_is_integer_in_part_is_simulated_and_trained_as_it_ships() {
    let (model, batch) = (model(), batch());
    let folded = fold(&model).unwrap();
    let all = ["first", "second", "third", "fc"];
    let cases: [&[&str]; 7] = [
        &[],
        &["first"],
        &["second"],
        &["fc"],
        &["swish"],
        &["mean", "third"],
        &all,
    ];
    for float in cases {
        let placement = Placement {
            float: float
                .iter()
                .map(|n| (*n).to_owned())
                .collect::<BTreeSet<_>>(),
            ..Placement::default()
        };
        let spec = spec(&folded, &placement, &batch);
        let lowered = lower(&folded, &spec).unwrap();
        let exact = lowered.exact();
        let simulation = Simulation::new(&folded, &spec, Device::Cpu).unwrap();
        let trace = simulation.trace(&batch).unwrap();
        let logits = to_vec(&trace.logits).unwrap();
        let largest = logits.iter().fold(0f32, |m, v| m.max(v.abs()));
        let near = |a: &[f32], b: &[f32]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5 * largest)
        };
        for (n, image) in batch.images.chunks_exact(90).enumerate() {
            let expected = interpret_quantized::run(&lowered, image).unwrap();
            for (step, codes) in expected.codes().enumerate().filter(|(s, _)| exact[*s]) {
                let found = &trace.codes[step][n * codes.len()..][..codes.len()];
                assert_eq!(found, codes, "{float:?}: {}", lowered.nodes[step].name);
            }
            let expected = &expected.outputs[..3];
            let found = &logits[3 * n..][..3];
            assert!(near(found, expected), "{float:?}: {found:?}, {expected:?}");
            if exact[lowered.outputs[0].node] {
                assert_eq!(found, expected, "{float:?}");
            }
        }
        // Training on the unfolded input sees the same numbers, and every parameter has a gradient.
        let widths: BTreeMap<String, u8> =
            spec.weights.keys().map(|name| (name.clone(), 8)).collect();
        let fake = FakeQuant::new(&model, &placement, &spec.activations, widths).unwrap();
        let net = Net::new(&model, Device::Cpu).unwrap();
        for (name, _) in net.trainable() {
            let _ = net.tensor(&name).set_requires_grad(true);
        }
        let bytes = batch.bytes(net.input(), Device::Cpu).unwrap();
        let outputs = fake.forward(&net, &bytes, Precision::F32, &[]).unwrap();
        let trained = to_vec(&outputs.logits.detach()).unwrap();
        // Weights were rounded for the folded input once more, which moves a code of theirs now and then.
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 0.02 * largest;
        assert!(
            trained.iter().zip(&logits).all(close),
            "{float:?}: {trained:?}, {logits:?}"
        );
        outputs.logits.square().sum(Kind::Float).backward();
        for (name, _) in net.trainable() {
            let gradient = to_vec(&net.tensor(&name).grad()).unwrap();
            let size = gradient.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(size > 1e-4 && size.is_finite(), "{float:?}: {name}: {size}");
        }
    }
}

#[test]
fn a_table_holds_its_functions_values() {
    let (model, batch) = (model(), batch());
    let folded = fold(&model).unwrap();
    let spec = spec(&folded, &Placement::default(), &batch);
    let plan = Plan::new(&folded, &Placement::default(), &spec.activations).unwrap();
    let id = plan
        .steps
        .iter()
        .position(|s| matches!(s.op, opt_core::lower::FusedOp::Table { .. }))
        .unwrap();
    // Every code of the table, as the plan has it, is the function's value to half a code.
    let source = plan.steps[id].inputs[0];
    let (x, y) = (
        plan.activations[source].as_ref(),
        plan.activations[id].as_ref(),
    );
    let (x, y) = (x.unwrap(), y.unwrap());
    let centred: Vec<f32> = (0..256i16)
        .map(|q| f32::from(q) - x.zero(0) as f32)
        .collect();
    let found = plan.table(Unary::HardSwish, id, &tch::Tensor::from_slice(&centred));
    for (q, found) in centred.iter().zip(to_vec(&found).unwrap()) {
        let value = Unary::HardSwish.apply(q * x.scale) / y.scale;
        let (lo, hi) = plan.centred_limits(id);
        #[expect(clippy::cast_possible_truncation, reason = "small integers")]
        let limited = value.clamp(lo as f32, hi as f32);
        assert!((found - limited).abs() <= 0.5001, "{q}: {found}, {value}");
    }
}
