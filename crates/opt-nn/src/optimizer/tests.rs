//! The update rule against PyTorch's numbers, and masks that hold.

use super::*;
use opt_core::mask::Mask;
use opt_core::{InputSpec, zoo};
use tch::Device;

/// The steps of `tests/golden/sgd.py`, run with PyTorch 2.13.
const GOLDEN: &str = include_str!("../../tests/golden/sgd.json");

#[derive(Debug)]
struct Golden {
    momentum: f64,
    nesterov: bool,
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
            momentum: case["momentum"].as_f64().unwrap(),
            nesterov: case["nesterov"].as_bool().unwrap(),
            weight_decay: case["weight_decay"].as_f64().unwrap(),
            lr: case["lr"].as_f64().unwrap(),
            weights: serde_json::from_value(case["weights"].clone()).unwrap(),
        })
        .collect()
}

fn net() -> Net {
    let mut input = InputSpec::cifar10();
    input.shape = [1, 28, 28];
    input.mean.truncate(1);
    input.std.truncate(1);
    Net::new(
        &zoo::build("airbench_1_1_1", &input, 2).unwrap(),
        Device::Cpu,
    )
    .unwrap()
}

#[test]
fn steps_equal_pytorchs() {
    for case in golden() {
        let mut net = net();
        let options = SgdOptions {
            momentum: case.momentum,
            nesterov: case.nesterov,
            weight_decay: case.weight_decay,
        };
        let mut sgd = Sgd::new(&mut net, Vec::new(), options, &Masks::new()).unwrap();
        let conv = "blocks.2.conv2.weight";
        let start: Vec<f32> = (0..9).map(|i| i as f32 * 0.25 - 1.0).collect();
        {
            let _no_grad = tch::no_grad_guard();
            net.tensor(conv)
                .shallow_clone()
                .copy_(&Tensor::from_slice(&start).reshape([1, 1, 3, 3]));
        }
        for (step, expected) in case.weights.iter().enumerate() {
            let gradients: Vec<Tensor> = sgd
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
            sgd.step(case.lr, &gradients);
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
    let options = SgdOptions {
        weight_decay: 0.5,
        ..SgdOptions::default()
    };
    let mut sgd = Sgd::new(&mut net, Vec::new(), options, &Masks::new()).unwrap();
    let before = net.to_model().unwrap();
    let zeros: Vec<Tensor> = sgd
        .names()
        .iter()
        .map(|n| net.tensor(n).zeros_like())
        .collect();
    sgd.step(1.0, &zeros);
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
    let mut sgd = Sgd::new(&mut net, Vec::new(), SgdOptions::default(), &masks).unwrap();
    for step in 0..100 {
        let gradients: Vec<Tensor> = sgd
            .names()
            .iter()
            .map(|n| net.tensor(n).ones_like() * f64::from(step % 7 - 3))
            .collect();
        sgd.step(0.1, &gradients);
        let weight = net.to_model().unwrap().params[name].clone();
        for (w, keep) in weight.iter().zip(&keep) {
            assert_eq!(*w != 0.0, *keep, "step {step}");
        }
    }
    assert!(sgd.momentum.abs().max().double_value(&[]) > 0.0);
}

#[test]
fn a_new_mask_clears_momentum_and_keeps_it_clear() {
    let mut net = net();
    let name = "head.weight";
    let options = SgdOptions {
        weight_decay: 0.0,
        ..SgdOptions::default()
    };
    let mut sgd = Sgd::new(&mut net, Vec::new(), options, &Masks::new()).unwrap();
    let step = |sgd: &mut Sgd, net: &Net, size: f64| {
        let gradients: Vec<Tensor> = sgd
            .names()
            .iter()
            .map(|n| net.tensor(n).ones_like() * size)
            .collect();
        sgd.step(0.1, &gradients);
    };
    step(&mut sgd, &net, 1.0);
    let shape = net.to_model().unwrap().params[name].shape().to_vec();
    let keep = ndarray::ArrayD::from_shape_fn(shape, |i| i[0] % 3 == 0);
    let masks = Masks::from([(name.to_owned(), Mask::new(keep.clone()))]);
    sgd.set_masks(&net, &masks).unwrap();
    let at = sgd.names().iter().position(|n| n == name).unwrap();
    let before: usize = sgd.names()[..at]
        .iter()
        .map(|n| net.tensor(n).numel())
        .sum();
    let momentum = |sgd: &Sgd| {
        let flat = Vec::<f32>::try_from(sgd.momentum()).unwrap();
        flat[before..][..keep.len()].to_vec()
    };
    for _ in 0..3 {
        for (v, keep) in momentum(&sgd).iter().zip(&keep) {
            assert_eq!(*v != 0.0, *keep);
        }
        step(&mut sgd, &net, 1.0);
    }
    // Released, nothing pushes what was masked: it had no momentum.
    sgd.set_masks(&net, &Masks::new()).unwrap();
    step(&mut sgd, &net, 0.0);
    for (w, keep) in net.to_model().unwrap().params[name].iter().zip(&keep) {
        assert!(*keep || *w == 0.0);
    }
}

#[test]
fn a_mask_for_something_else_is_an_error() {
    let mut net = net();
    let mask = Mask::new(ndarray::ArrayD::from_elem(vec![3], true));
    let masks = Masks::from([("head.weight".to_owned(), mask)]);
    let error = Sgd::new(&mut net, Vec::new(), SgdOptions::default(), &masks).unwrap_err();
    assert!(
        error.to_string().contains("mask for `head.weight`"),
        "{error}"
    );
}
