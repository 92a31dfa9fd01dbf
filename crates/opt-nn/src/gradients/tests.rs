//! The sums against differences of the interpreter's loss, sample by sample, with the running statistics held.

use super::*;
use opt_core::op::Window;
use opt_core::{Graph, InputSpec, Model, Op, Params, interpret};
use tch::Device;

const CHANNELS: usize = 3;
const CLASSES: usize = 3;
const SAMPLES: usize = 4;

/// Reproducible numbers in [-1, 1).
fn noise(i: usize) -> f32 {
    ((i.wrapping_mul(2_654_435_761) >> 7) % 2000) as f32 / 1000.0 - 1.0
}

/// Conv, pool, norm, linear: smooth, so that differences are good. The running statistics are far from those of any image.
fn model() -> Model {
    let mut graph = Graph::new();
    let conv = Op::Conv {
        weight: "c.weight".to_owned(),
        bias: Some("c.bias".to_owned()),
        window: Window::square(3, 1, 1),
        group: 1,
    };
    let x = graph.push("c", conv, &[0]);
    let x = graph.push("pool", Op::AveragePool(Window::square(2, 2, 0)), &[x]);
    let norm = Op::BatchNormalization {
        scale: Some("n.weight".to_owned()),
        bias: "n.bias".to_owned(),
        mean: "n.mean".to_owned(),
        var: "n.var".to_owned(),
        epsilon: 1e-5,
        momentum: 0.1,
    };
    let x = graph.push("n", norm, &[x]);
    let x = graph.push("flatten", Op::Flatten, &[x]);
    let fc = Op::Gemm {
        weight: "f.weight".to_owned(),
        bias: Some("f.bias".to_owned()),
    };
    graph.push("f", fc, &[x]);
    let shapes: [(&str, &[usize]); 8] = [
        ("c.weight", &[CHANNELS, 1, 3, 3]),
        ("c.bias", &[CHANNELS]),
        ("n.weight", &[CHANNELS]),
        ("n.bias", &[CHANNELS]),
        ("n.mean", &[CHANNELS]),
        ("n.var", &[CHANNELS]),
        ("f.weight", &[CLASSES, 4 * CHANNELS]),
        ("f.bias", &[CLASSES]),
    ];
    let mut params = Params::new();
    let mut drawn = 0;
    for (name, shape) in shapes {
        let value = ndarray::ArrayD::from_shape_simple_fn(shape, || {
            drawn += 1;
            match name {
                "n.var" => 1.5 + noise(drawn),
                _ => noise(drawn),
            }
        });
        params.insert(name.to_owned(), value.into_shared());
    }
    let input = InputSpec {
        shape: [1, 4, 4],
        mean: vec![0.5],
        std: vec![0.25],
        preparation: opt_core::Preparation::usual([1, 4, 4]),
    };
    let model = Model {
        graph,
        params,
        input,
    };
    model.validate().unwrap();
    model
}

fn sample(n: usize) -> Batch {
    let byte = |i: usize| u8::try_from((97 * i + 53 * n + i * i * (n + 3)) % 256).unwrap();
    Batch {
        images: (0..16).map(byte).collect(),
        labels: vec![i64::try_from(n % CLASSES).unwrap()],
        indices: vec![u32::try_from(n).unwrap()],
    }
}

fn loss(model: &Model, sample: &Batch) -> f64 {
    let image = model.input.normalize(&sample.images);
    let values = interpret::run(model, &image).unwrap();
    let logits = &values[model.graph.output()];
    let sum: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
    let label = usize::try_from(sample.labels[0]).unwrap();
    sum.ln() - f64::from(logits[label])
}

/// The derivative of one sample's loss by a change of the model.
fn derivative(model: &Model, sample: &Batch, change: impl Fn(&mut Model, f32)) -> f64 {
    const STEP: f32 = 1.0 / 128.0;
    let at = |step: f32| {
        let mut moved = model.clone();
        change(&mut moved, step);
        loss(&moved, sample)
    };
    (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP)
}

/// One gate for the convolution: the filter, its bias, and a number for the norm's bias.
fn gate(model: &Model) -> Gate {
    let own = ["c.weight", "c.bias", "n.bias"];
    Gate {
        layer: "c".to_owned(),
        channels: CHANNELS,
        factors: own
            .map(|name| (name.to_owned(), model.params[name].clone()))
            .into(),
    }
}

/// f32 logits of size 5 (5e-7) over 2·STEP are 3e-5; the step's square adds as much. Sums of a few of those.
const TOLERANCE: f64 = 1e-3;

#[test]
fn sums_are_those_of_single_samples() {
    let model = model();
    let mut net = Net::new(&model, Device::Cpu).unwrap();
    let gate = gate(&model);
    let sums = gradient_sums(
        &mut net,
        (0..SAMPLES).map(sample),
        std::slice::from_ref(&gate),
    )
    .unwrap();
    assert_eq!(sums.n_samples, SAMPLES);
    let mut names: Vec<&String> = sums.sum_gradient.keys().collect();
    names.sort();
    assert_eq!(
        names,
        [
            "c.bias", "c.weight", "f.bias", "f.weight", "n.bias", "n.weight"
        ]
    );
    // How far apart the three sums are, at most.
    let (mut square_from_size, mut size_from_plain) = (0f64, 0f64);
    for (name, found) in &sums.sum_gradient {
        for i in 0..found.len() {
            let of_one = |n: usize| {
                derivative(&model, &sample(n), |m, step| {
                    let tensor = m.params.get_mut(name).unwrap();
                    *tensor.iter_mut().nth(i).unwrap() += step;
                })
            };
            let singles: Vec<f64> = (0..SAMPLES).map(of_one).collect();
            let plain: f64 = singles.iter().sum();
            let size: f64 = singles.iter().map(|g| g.abs()).sum();
            let square: f64 = singles.iter().map(|g| g * g).sum();
            for (of, expect) in [
                (&sums.sum_gradient, plain),
                (&sums.sum_abs_gradient, size),
                (&sums.sum_squared_gradient, square),
            ] {
                let found = f64::from(*of[name].iter().nth(i).unwrap());
                assert!(
                    (found - expect).abs() < TOLERANCE * (1.0 + expect.abs()),
                    "{name}[{i}]: {found}, expected {expect}"
                );
            }
            square_from_size = square_from_size.max((square - size).abs());
            size_from_plain = size_from_plain.max((size - plain.abs()).abs());
        }
    }
    // So that none of them can stand for another.
    assert!(
        square_from_size > 0.5 && size_from_plain > 0.5,
        "{square_from_size} {size_from_plain}"
    );
    for channel in 0..CHANNELS {
        let of_one = |n: usize| {
            derivative(&model, &sample(n), |m, step| {
                for (name, factors) in &gate.factors {
                    let each = factors.len() / CHANNELS;
                    let own = channel * each..(channel + 1) * each;
                    let values = m.params.get_mut(name).unwrap().iter_mut().zip(factors);
                    for (_, (value, factor)) in values.enumerate().filter(|(i, _)| own.contains(i))
                    {
                        *value += step * factor;
                    }
                }
            })
        };
        let singles: Vec<f64> = (0..SAMPLES).map(of_one).collect();
        let size: f64 = singles.iter().map(|g| g.abs()).sum();
        let square: f64 = singles.iter().map(|g| g * g).sum();
        for (found, expect) in [
            (sums.sum_abs_gate["c"][channel], size),
            (sums.sum_squared_gate["c"][channel], square),
        ] {
            assert!(
                (found - expect).abs() < TOLERANCE * (1.0 + expect.abs()),
                "gate {channel}: {found}, expected {expect}"
            );
            assert!(expect > 1e-2, "nothing to see");
        }
    }
    // The model is as it was, running statistics too.
    assert_eq!(net.to_model().unwrap(), model);
}

#[test]
fn refusals() {
    let model = model();
    let mut net = Net::new(&model, Device::Cpu).unwrap();
    let two = Batch {
        images: [sample(0).images, sample(1).images].concat(),
        labels: vec![0, 1],
        indices: vec![0, 1],
    };
    let error = gradient_sums(&mut net, [two].into_iter(), &[]).unwrap_err();
    assert!(error.to_string().contains("2 images, expected one"));
    let error = gradient_sums(&mut net, std::iter::empty(), &[]).unwrap_err();
    assert!(error.to_string().contains("there are no images"));
    type Case = (fn(&mut Gate), &'static str);
    let break_it: [Case; 4] = [
        (
            |g| {
                drop(
                    g.factors
                        .insert("c.wait".to_owned(), g.factors["c.bias"].clone()),
                )
            },
            "gate of `c`: no trainable parameter is called `c.wait`",
        ),
        // A running statistic has no gradient.
        (
            |g| {
                drop(
                    g.factors
                        .insert("n.mean".to_owned(), g.factors["c.bias"].clone()),
                )
            },
            "no trainable parameter is called `n.mean`",
        ),
        (
            |g| {
                drop(
                    g.factors
                        .insert("c.weight".to_owned(), g.factors["c.bias"].clone()),
                )
            },
            "factors [3] of `c.weight`, expected [3, 1, 3, 3], which 3 channels share equally",
        ),
        (|g| g.channels = 2, "which 2 channels share equally"),
    ];
    for (break_it, expect) in break_it {
        let mut gate = gate(&model);
        break_it(&mut gate);
        let error = gradient_sums(&mut net, [sample(0)].into_iter(), &[gate]).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }
}
