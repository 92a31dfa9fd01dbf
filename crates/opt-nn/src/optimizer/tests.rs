//! The update rule against PyTorch's numbers, and masks that hold.

use super::*;
use opt_core::mask::Mask;
use opt_core::{Task, zoo};
use tch::Device;

/// The steps of `tests/golden/optimizers.py`, run with PyTorch 2.13.
const GOLDEN: &str = include_str!("../../tests/golden/optimizers.json");

#[derive(Debug)]
struct Golden {
    rule: Rule,
    weight_decay: f64,
    lr: f64,
    weights: Vec<Vec<f32>>,
}

fn golden() -> Vec<Golden> {
    let json: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
    json["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| Golden {
            rule: match case["momentum"].as_f64() {
                Some(momentum) => Rule::Sgd(SgdOptions {
                    momentum,
                    nesterov: case["nesterov"].as_bool().unwrap(),
                }),
                None => Rule::AdamW(AdamWOptions {
                    beta1: case["beta1"].as_f64().unwrap(),
                    beta2: case["beta2"].as_f64().unwrap(),
                    epsilon: case["epsilon"].as_f64().unwrap(),
                }),
            },
            weight_decay: case["weight_decay"].as_f64().unwrap(),
            lr: case["lr"].as_f64().unwrap(),
            weights: serde_json::from_value(case["weights"].clone()).unwrap(),
        })
        .collect()
}

fn net() -> Net {
    let mut task = Task::cifar10();
    task.input.shape = [1, 28, 28];
    task.input.mean.truncate(1);
    task.input.std.truncate(1);
    Net::new(
        &zoo::build("airbench_1_1_1", &task, 2).unwrap(),
        Device::Cpu,
    )
    .unwrap()
}

#[test]
fn steps_equal_pytorchs() {
    for case in golden() {
        let mut net = net();
        let options = OptimizerOptions {
            rule: case.rule,
            weight_decay: case.weight_decay,
            ..OptimizerOptions::default()
        };
        let mut optimizer = Optimizer::new(&mut net, Vec::new(), &options, &Masks::new()).unwrap();
        let conv = "blocks.2.conv2.weight";
        let start: Vec<f32> = (0..9).map(|i| i as f32 * 0.25 - 1.0).collect();
        {
            let _no_grad = tch::no_grad_guard();
            net.tensor(conv)
                .shallow_clone()
                .copy_(&Tensor::from_slice(&start).reshape([1, 1, 3, 3]));
        }
        for (step, expected) in case.weights.iter().enumerate() {
            let gradients: Vec<Tensor> = optimizer
                .names()
                .iter()
                .map(|name| {
                    let like = net.tensor(name).zeros_like();
                    let values: Vec<f32> = (0..like.numel())
                        .map(|i| ((i + 3 * step) % 5) as f32 * 0.5 - 1.0)
                        .collect();
                    Tensor::from_slice(&values).reshape(like.size().as_slice())
                })
                .collect();
            optimizer.step(&net, case.lr, 0.5, &gradients);
            let found = Vec::<f32>::try_from(net.tensor(conv).reshape([-1])).unwrap();
            for (a, b) in found.iter().zip(expected) {
                // Three roundings a step on numbers near 1.
                assert!((a - b).abs() <= 1e-6, "{case:?} step {step}: {found:?}");
            }
        }
    }
}

#[test]
fn biases_and_normalisation_are_not_decayed() {
    let mut net = net();
    let options = OptimizerOptions {
        weight_decay: 0.5,
        ..OptimizerOptions::default()
    };
    let mut optimizer = Optimizer::new(&mut net, Vec::new(), &options, &Masks::new()).unwrap();
    let before = net.to_model().unwrap();
    let zeros: Vec<Tensor> = optimizer
        .names()
        .iter()
        .map(|n| net.tensor(n).zeros_like())
        .collect();
    optimizer.step(&net, 1.0, 0.5, &zeros);
    let after = net.to_model().unwrap();
    for (name, role) in net.trainable() {
        let same = before.params[&name] == after.params[&name];
        assert_eq!(same, role != ParamRole::Weight, "{name}");
    }
}

#[test]
fn masked_elements_stay_exactly_zero() {
    let mut net = net();
    let name = "head.weight";
    let size = net.to_model().unwrap().params[name].shape().to_vec();
    let keep = ndarray::ArrayD::from_shape_fn(size, |i| i[0] % 3 == 0);
    let masks = Masks::from([(name.to_owned(), Mask::new(keep.clone()))]);
    let mut optimizer =
        Optimizer::new(&mut net, Vec::new(), &OptimizerOptions::default(), &masks).unwrap();
    for step in 0..100 {
        let gradients: Vec<Tensor> = optimizer
            .names()
            .iter()
            .map(|n| net.tensor(n).ones_like() * f64::from(step % 7 - 3))
            .collect();
        optimizer.step(&net, 0.1, 0.5, &gradients);
        let weight = net.to_model().unwrap().params[name].clone();
        for (w, keep) in weight.iter().zip(&keep) {
            assert_eq!(*w != 0.0, *keep, "step {step}");
        }
    }
    assert!(optimizer.momentum().abs().max().double_value(&[]) > 0.0);
}

#[test]
fn a_new_mask_clears_momentum_and_keeps_it_clear() {
    let mut net = net();
    let name = "head.weight";
    let options = OptimizerOptions {
        weight_decay: 0.0,
        ..OptimizerOptions::default()
    };
    let mut optimizer = Optimizer::new(&mut net, Vec::new(), &options, &Masks::new()).unwrap();
    let step = |optimizer: &mut Optimizer, net: &Net, size: f64| {
        let gradients: Vec<Tensor> = optimizer
            .names()
            .iter()
            .map(|n| net.tensor(n).ones_like() * size)
            .collect();
        optimizer.step(net, 0.1, 0.5, &gradients);
    };
    step(&mut optimizer, &net, 1.0);
    let shape = net.to_model().unwrap().params[name].shape().to_vec();
    let keep = ndarray::ArrayD::from_shape_fn(shape, |i| i[0] % 3 == 0);
    let masks = Masks::from([(name.to_owned(), Mask::new(keep.clone()))]);
    optimizer.set_masks(&net, &masks).unwrap();
    let at = optimizer.names().iter().position(|n| n == name).unwrap();
    let before: usize = optimizer.names()[..at]
        .iter()
        .map(|n| net.tensor(n).numel())
        .sum();
    let momentum = |optimizer: &Optimizer| {
        let flat = Vec::<f32>::try_from(optimizer.momentum()).unwrap();
        flat[before..][..keep.len()].to_vec()
    };
    for _ in 0..3 {
        for (v, keep) in momentum(&optimizer).iter().zip(&keep) {
            assert_eq!(*v != 0.0, *keep);
        }
        step(&mut optimizer, &net, 1.0);
    }
    // Released, nothing pushes what was masked: it had no momentum.
    optimizer.set_masks(&net, &Masks::new()).unwrap();
    step(&mut optimizer, &net, 0.0);
    for (w, keep) in net.to_model().unwrap().params[name].iter().zip(&keep) {
        assert!(*keep || *w == 0.0);
    }
}

#[test]
fn a_mask_for_something_else_is_an_error() {
    let mut net = net();
    let mask = Mask::new(ndarray::ArrayD::from_elem(vec![3], true));
    let masks = Masks::from([("head.weight".to_owned(), mask)]);
    let error =
        Optimizer::new(&mut net, Vec::new(), &OptimizerOptions::default(), &masks).unwrap_err();
    assert!(
        error.to_string().contains("mask for `head.weight`"),
        "{error}"
    );
}

/// Constant gradients of this value for every parameter.
fn constant(optimizer: &Optimizer, net: &Net, value: f64) -> Vec<Tensor> {
    let names = optimizer.names().iter();
    names.map(|n| net.tensor(n).full_like(value)).collect()
}

#[test]
fn factors_scale_the_shifts_steps_and_stop_what_is_frozen() {
    let mut net = net();
    let options = OptimizerOptions {
        rule: Rule::Sgd(SgdOptions {
            momentum: 0.0,
            nesterov: false,
        }),
        weight_decay: 0.0,
        norm_bias_lr: 64.0,
        frozen: vec!["stem.weight".to_owned()],
        averaging: Averaging::None,
    };
    let mut optimizer = Optimizer::new(&mut net, Vec::new(), &options, &Masks::new()).unwrap();
    let before = net.to_model().unwrap();
    let gradients = constant(&optimizer, &net, 1.0);
    optimizer.step(&net, 0.5, 1.0, &gradients);
    let after = net.to_model().unwrap();
    for (name, role) in net.trainable() {
        let step = match role {
            _ if name == "stem.weight" => 0.0,
            ParamRole::NormBias => 32.0,
            _ => 0.5,
        };
        for (a, b) in before.params[&name].iter().zip(&after.params[&name]) {
            // One rounding of a number below 33.
            assert!((a - b - step).abs() < 4e-6, "{name}: {a} {b}");
        }
    }
    let options = OptimizerOptions {
        frozen: vec!["stem.wait".to_owned()],
        ..options
    };
    let error = Optimizer::new(&mut net, Vec::new(), &options, &Masks::new()).unwrap_err();
    assert!(error.to_string().contains("`stem.wait`"), "{error}");
}

/// A weight that loses 1 in each step, and its average by the formula in f64.
#[test]
fn averages_follow_their_formulas() {
    let total = 12u64;
    for averaging in [
        Averaging::Ema { decay: 0.5 },
        // The limit is above every (t + 1)/(t + 10) here.
        Averaging::Ema { decay: 0.99 },
        Averaging::Lookahead {
            every: 5,
            decay: 0.8,
        },
    ] {
        let mut net = net();
        let options = OptimizerOptions {
            rule: Rule::Sgd(SgdOptions {
                momentum: 0.0,
                nesterov: false,
            }),
            weight_decay: 0.0,
            averaging,
            ..OptimizerOptions::default()
        };
        let mut optimizer = Optimizer::new(&mut net, Vec::new(), &options, &Masks::new()).unwrap();
        let at = |net: &Net| f64::from(net.to_model().unwrap().params["head.bias"][[0]]);
        let (mut w, mut a) = (at(&net), at(&net));
        for t in 1..=total {
            let progress = t as f64 / total as f64;
            let gradients = constant(&optimizer, &net, 1.0);
            optimizer.step(&net, 1.0, progress, &gradients);
            w -= 1.0;
            match averaging {
                Averaging::Ema { decay } => {
                    let d = decay.min((t as f64 + 1.0) / (t as f64 + 10.0));
                    a = d * a + (1.0 - d) * w;
                }
                Averaging::Lookahead { every, decay } if t % every == 0 => {
                    let d = decay * progress.powi(3);
                    a = d * a + (1.0 - d) * w;
                    w = a;
                }
                _ => {}
            }
            // f32 against f64 over 12 steps of numbers below 16.
            assert!((at(&net) - w).abs() < 1e-5, "{averaging:?} step {t}");
        }
        optimizer.finish(&net);
        assert!((at(&net) - a).abs() < 1e-5, "{averaging:?}");
        assert!(
            (a - w).abs() > 0.1,
            "{averaging:?}: the average is the weight"
        );
    }
}

#[test]
fn what_is_frozen_stays_to_the_last_bit_under_averages() {
    for averaging in [
        Averaging::Ema { decay: 0.9 },
        Averaging::Lookahead {
            every: 1,
            decay: 0.7,
        },
    ] {
        let mut net = net();
        let options = OptimizerOptions {
            frozen: vec!["stem.weight".to_owned()],
            averaging,
            ..OptimizerOptions::default()
        };
        let mut optimizer = Optimizer::new(&mut net, Vec::new(), &options, &Masks::new()).unwrap();
        let before = net.to_model().unwrap();
        for step in 1..=50 {
            let gradients = constant(&optimizer, &net, 1.0);
            optimizer.step(&net, 0.01, f64::from(step) / 50.0, &gradients);
        }
        optimizer.finish(&net);
        let after = net.to_model().unwrap();
        assert_eq!(before.params["stem.weight"], after.params["stem.weight"]);
        assert_ne!(before.params["head.weight"], after.params["head.weight"]);
    }
}

#[test]
fn a_state_that_does_not_fit_changes_nothing() {
    let mut net = net();
    let options = OptimizerOptions::default();
    let mut optimizer = Optimizer::new(&mut net, Vec::new(), &options, &Masks::new()).unwrap();
    let sound = optimizer.state(&net).unwrap();
    let gradients = constant(&optimizer, &net, 1.0);
    optimizer.step(&net, 0.1, 0.5, &gradients);
    let moved = optimizer.state(&net).unwrap();
    assert_ne!(sound, moved);
    // A buffer too few, one of another length, one too many.
    let mut missing = sound.clone();
    missing.buffers.remove("moment.0");
    let mut short = sound.clone();
    short.buffers.get_mut("weights").unwrap().pop();
    let mut other = sound.clone();
    other.buffers.insert("moment.1".to_owned(), vec![0.0]);
    for (state, name) in [
        (missing, "moment.0"),
        (short, "weights"),
        (other, "moment.1"),
    ] {
        let error = optimizer.restore(&net, &state).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert_eq!(optimizer.state(&net).unwrap(), moved);
    }
    optimizer.restore(&net, &sound).unwrap();
    assert_eq!(optimizer.state(&net).unwrap(), sound);
}
