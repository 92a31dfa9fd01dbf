//! The simulation and the integer interpreter agree on every code, whatever the scales.

use super::super::FakeQuant;
use super::*;
use crate::forward::Precision;
use crate::net::Net;
use opt_core::lower::{ResidualAdd, fold, fold_batch_norms, fuse, lower, step_activations};
use opt_core::observe::{LookError, Observe, Observed};
use opt_core::qmodel::QWeight;
use opt_core::{QParams, Task, interpret_quantized, zoo};

/// Reproducible numbers from 0 to 999.
fn noise(i: usize) -> usize {
    (i.wrapping_mul(2_654_435_761) >> 7) % 1000
}

/// Scales and zero points that no calibration would choose: equality must not depend on a good choice.
fn odd_spec(folded: &Model, adds: ResidualAdd, bits: u8, seed: usize) -> QuantSpec {
    let mut spec = QuantSpec {
        placement: adds.into(),
        ..QuantSpec::default()
    };
    for (i, step) in fuse(folded, &adds.into()).unwrap().into_iter().enumerate() {
        if step.requantizes(folded) {
            let scale = 0.01 + noise(seed + i) as f32 / 20_000.0;
            let zero = i32::try_from(noise(seed + 7 * i + 3) % 256).unwrap();
            let params = QParams::new(scale, zero, 0, 255).unwrap();
            let name = folded.graph.nodes[step.value].name.clone();
            spec.activations.insert(name, params);
        }
    }
    for name in folded.weight_names() {
        let weight = &folded.params[name];
        let limit = QWeight::code_limit(bits);
        let mut scales = Vec::new();
        let mut codes = weight.mapv(|_| 0i8);
        for (filter, mut out) in weight.outer_iter().zip(codes.outer_iter_mut()) {
            let scale = filter.iter().fold(0f32, |m, w| m.max(w.abs())) / f32::from(limit);
            out.zip_mut_with(&filter, |q, w| {
                let code = opt_core::qparams::round_clamp(
                    w / scale,
                    0,
                    -i32::from(limit),
                    i32::from(limit),
                );
                *q = i8::try_from(code).unwrap();
            });
            scales.push(scale);
        }
        let codes = codes.to_owned();
        spec.weights.insert(
            name.to_owned(),
            QWeight {
                codes,
                scales,
                bits,
            },
        );
    }
    spec
}

fn images(n: usize, seed: usize) -> Batch {
    let byte = |i: usize| u8::try_from(noise(i + seed) % 256).unwrap();
    Batch {
        images: (0..n * 3 * 28 * 28).map(byte).collect(),
        labels: vec![0; n],
        indices: vec![0; n],
    }
}

fn task() -> Task {
    let mut task = Task::cifar10();
    task.input.shape = [3, 28, 28];
    task
}

#[test]
fn every_code_and_logit_equals_the_interpreters() {
    for (seed, name) in ["resnet20", "resnet20_b", "airbench_5_9_17", "source_net"]
        .iter()
        .enumerate()
    {
        let folded = fold(&zoo::build(name, &task(), 11).unwrap()).unwrap();
        for (adds, bits) in [
            (ResidualAdd::Fused, 8),
            (ResidualAdd::Explicit, 8),
            (ResidualAdd::Fused, 3),
        ] {
            let spec = odd_spec(&folded, adds, bits, 17 * seed);
            let lowered = lower(&folded, &spec).unwrap();
            let batch = images(2, seed);
            let trace = Simulation::new(&folded, &spec, Device::Cpu)
                .unwrap()
                .trace(&batch)
                .unwrap();
            let logits = to_vec(&trace.logits).unwrap();
            for (n, image) in batch.images.chunks_exact(3 * 28 * 28).enumerate() {
                let expected = interpret_quantized::run(&lowered, image).unwrap();
                for (step, codes) in expected.codes().enumerate() {
                    let found = &trace.codes[step][n * codes.len()..][..codes.len()];
                    assert_eq!(found, codes, "{name} {adds:?}: step {step}");
                }
                let found: Vec<u32> = logits[n * 10..][..10].iter().map(|v| v.to_bits()).collect();
                let expected: Vec<u32> = expected.outputs.iter().map(|v| v.to_bits()).collect();
                assert_eq!(found, expected, "{name} {adds:?}: logits");
            }
        }
    }
}

#[test]
fn large_sums_are_accumulated_in_f64() {
    let folded = fold(&zoo::build("source_net", &task(), 1).unwrap()).unwrap();
    let mut spec = odd_spec(&folded, ResidualAdd::Fused, 8, 0);
    // 6272 products of 127 and up to 255 pass 2^24, where f32 loses the last bit.
    spec.weights.get_mut("fc.weight").unwrap().codes.fill(127);
    let simulation = Simulation::new(&folded, &spec, Device::Cpu).unwrap();
    let kinds: Vec<Kind> = simulation.linears.values().map(|l| l.kind).collect();
    assert_eq!(kinds, [Kind::Float, Kind::Float, Kind::Double]);
    let batch = images(1, 9);
    let logits = to_vec(&simulation.logits(&batch).unwrap()).unwrap();
    let lowered = lower(&folded, &spec).unwrap();
    assert_eq!(
        interpret_quantized::run(&lowered, &batch.images)
            .unwrap()
            .outputs,
        logits
    );
}

#[test]
fn a_missing_weight_is_an_error() {
    let folded = fold(&zoo::build("resnet20", &task(), 1).unwrap()).unwrap();
    let mut spec = odd_spec(&folded, ResidualAdd::Fused, 8, 0);
    spec.weights.remove("linear.weight");
    let error = Simulation::new(&folded, &spec, Device::Cpu).unwrap_err();
    assert!(
        error.to_string().contains("`linear.weight`: no codes"),
        "{error}"
    );
}

/// Scales that fit the values, in place of odd ones: twenty layers of odd scales would amplify a single code.
fn calibrate(folded: &Model, batch: &Batch, spec: &mut QuantSpec) {
    let net = Net::new(folded, Device::Cpu).unwrap();
    let steps = fuse(folded, &spec.placement).unwrap();
    let nodes: Vec<NodeId> = steps
        .iter()
        .filter(|s| s.requantizes(folded))
        .map(|s| s.value)
        .collect();
    let mut see = |seen: &Observed<'_>| -> std::result::Result<(), LookError> {
        let (lo, hi) = seen
            .values
            .iter()
            .fold((0f32, 0f32), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
        let scale = (hi - lo) / 255.0;
        let zero = opt_core::qparams::round_clamp(-lo / scale, 0, 0, 255);
        let name = folded.graph.nodes[seen.node].name.clone();
        spec.activations
            .insert(name, QParams::new(scale, zero, 0, 255)?);
        Ok(())
    };
    net.observe(&mut std::iter::once(batch.images.clone()), &nodes, &mut see)
        .unwrap();
}

#[test]
fn fake_quantization_rounds_to_the_codes_that_ship() {
    let every = [
        ("resnet20", ResidualAdd::Fused),
        ("resnet20", ResidualAdd::Explicit),
        ("airbench_5_9_17", ResidualAdd::Fused),
    ];
    for (name, adds) in every {
        let plain = fold_batch_norms(&zoo::build(name, &task(), 11).unwrap()).unwrap();
        let folded = fold(&plain).unwrap();
        let batch = images(2, 5);
        let mut spec = odd_spec(&folded, adds, 8, 3);
        calibrate(&folded, &batch, &mut spec);
        let bits = spec.weights.keys().map(|n| (n.clone(), 8)).collect();
        let fake = FakeQuant::new(&plain, &adds.into(), &spec.activations, bits).unwrap();
        let net = Net::new(&plain, Device::Cpu).unwrap();
        let trace = Simulation::new(&folded, &spec, Device::Cpu)
            .unwrap()
            .trace(&batch)
            .unwrap();
        let steps = fuse(&folded, &adds.into()).unwrap();
        let taps: Vec<NodeId> = steps[1..].iter().map(|s| s.value).collect();
        let _no_grad = tch::no_grad_guard();
        let bytes = batch.bytes(&plain.input, Device::Cpu).unwrap();
        let outputs = fake.forward(&net, &bytes, Precision::F32, &taps).unwrap();
        let (mut equal, mut close, mut total) = (0, 0, 0);
        let activations = step_activations(&folded, &steps, &spec.activations).unwrap();
        for (i, tap) in outputs.taps.iter().enumerate() {
            let Some(activation) = activations[i + 1].as_ref() else {
                assert_eq!(tap, &outputs.logits, "a tap on the output is the logits");
                continue;
            };
            for (value, code) in to_vec(tap).unwrap().iter().zip(&trace.codes[i + 1]) {
                let found = value / activation.scale + activation.zero(0) as f32;
                let difference = (found - f32::from(*code)).abs();
                equal += usize::from(difference < 0.5);
                close += usize::from(difference < 1.5);
                total += 1;
            }
        }
        // Scales are rounded to f32 in another order, so a value beside a tie may get the neighbouring code.
        let share = |n: usize| n as f64 / total as f64;
        assert!(
            share(equal) > 0.98 && share(close) > 0.999,
            "{name} {adds:?}: {equal} equal and {close} close of {total}"
        );
    }
}
