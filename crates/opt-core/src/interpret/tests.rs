//! Hand-computed values for each operator.

use super::*;
use crate::op::Unary;
use crate::{Graph, InputSpec, Params, Task};
use ndarray::Array;

/// Runs one operator on one input and returns its value.
fn run_one(op: Op, shape: [usize; 3], params: &[(&str, &[usize], &[f32])], x: &[f32]) -> Vec<f32> {
    let mut graph = Graph::new();
    graph.push("op", op, &[0]);
    let params: Params = params
        .iter()
        .map(|(name, shape, values)| {
            let array = Array::from_shape_vec(shape.to_vec(), values.to_vec()).unwrap();
            ((*name).to_owned(), array.into_shared())
        })
        .collect();
    let input = InputSpec {
        shape,
        mean: vec![0.0; shape[0]],
        std: vec![1.0; shape[0]],
        preparation: crate::Preparation::usual(shape),
    };
    let model = Model {
        graph,
        params,
        input,
    };
    run(&model, x).unwrap().pop().unwrap()
}

fn conv_op(window: Window, group: usize, bias: bool) -> Op {
    Op::Conv {
        weight: "w".to_owned(),
        bias: bias.then(|| "b".to_owned()),
        window,
        group,
    }
}

#[test]
fn conv_pads_with_zeros_and_correlates() {
    let x = [1.0, 2.0, 3.0, 4.0];
    let w: &[f32] = &[1.0, 10.0, 100.0, 1000.0];
    // 2×2 kernel, padding 1 at the top and left only: the kernel is not flipped.
    let window = Window {
        kernel: [2, 2],
        stride: [1, 1],
        pads: [1, 1, 0, 0],
    };
    let y = run_one(
        conv_op(window, 1, true),
        [1, 2, 2],
        &[("w", &[1, 1, 2, 2], w), ("b", &[1], &[0.5])],
        &x,
    );
    assert_eq!(y, vec![1000.5, 2100.5, 3010.5, 4321.5]);
}

#[test]
fn conv_strides_and_groups() {
    // Two groups of one channel, stride 2, 1×1 kernel.
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let y = run_one(
        conv_op(Window::square(1, 2, 0), 2, false),
        [2, 2, 2],
        &[("w", &[2, 1, 1, 1], &[10.0, 100.0])],
        &x,
    );
    assert_eq!(y, vec![10.0, 500.0]);
}

#[test]
fn gemm_is_row_times_vector() {
    let mut graph = Graph::new();
    let flat = graph.push("flat", Op::Flatten, &[0]);
    graph.push(
        "fc",
        Op::Gemm {
            weight: "w".to_owned(),
            bias: Some("b".to_owned()),
        },
        &[flat],
    );
    let array = |shape: &[usize], v: &[f32]| {
        Array::from_shape_vec(shape.to_vec(), v.to_vec())
            .unwrap()
            .into_shared()
    };
    let model = Model {
        graph,
        params: Params::from([
            ("w".to_owned(), array(&[2, 2], &[1.0, 2.0, 3.0, 4.0])),
            ("b".to_owned(), array(&[2], &[0.5, -0.5])),
        ]),
        input: InputSpec {
            shape: [1, 1, 2],
            mean: vec![0.0],
            std: vec![1.0],
            preparation: crate::Preparation::usual([1, 1, 2]),
        },
    };
    assert_eq!(run(&model, &[10.0, 1.0]).unwrap()[2], vec![12.5, 33.5]);
}

#[test]
fn batch_normalization_uses_running_statistics_and_epsilon() {
    let op = |scale: Option<&str>| Op::BatchNormalization {
        scale: scale.map(str::to_owned),
        bias: "beta".to_owned(),
        mean: "mean".to_owned(),
        var: "var".to_owned(),
        epsilon: 1.0,
        momentum: 0.1,
    };
    let params: &[(&str, &[usize], &[f32])] = &[
        ("gamma", &[2], &[2.0, -1.0]),
        ("beta", &[2], &[1.0, 0.0]),
        ("mean", &[2], &[1.0, 3.0]),
        ("var", &[2], &[3.0, 0.0]),
    ];
    assert_eq!(
        run_one(op(Some("gamma")), [2, 1, 1], params, &[3.0, 5.0]),
        vec![3.0, -2.0]
    );
    // Without γ the factor is 1.
    assert_eq!(
        run_one(op(None), [2, 1, 1], params, &[3.0, 5.0]),
        vec![2.0, 2.0]
    );
}

#[test]
fn pools_ignore_padding() {
    let x = [-1.0, -2.0, -3.0, -4.0];
    let window = Window::square(2, 2, 1);
    // Each corner window sees one pixel: padding neither wins the maximum nor counts in the mean.
    assert_eq!(run_one(Op::MaxPool(window), [1, 2, 2], &[], &x), x.to_vec());
    assert_eq!(
        run_one(Op::AveragePool(window), [1, 2, 2], &[], &x),
        x.to_vec()
    );
    assert_eq!(
        run_one(Op::AveragePool(Window::square(2, 2, 0)), [1, 2, 2], &[], &x),
        vec![-2.5]
    );
    assert_eq!(
        run_one(Op::GlobalAveragePool, [2, 1, 2], &[], &x),
        vec![-1.5, -3.5]
    );
}

#[test]
fn pointwise_and_layout_operators() {
    let x = [-1.0, 2.0, 7.0, 4.0];
    assert_eq!(
        run_one(Op::Unary(Unary::Relu), [1, 2, 2], &[], &x),
        vec![0.0, 2.0, 7.0, 4.0]
    );
    assert_eq!(
        run_one(
            Op::Unary(Unary::Clip { min: 0.0, max: 6.0 }),
            [1, 2, 2],
            &[],
            &x
        ),
        vec![0.0, 2.0, 6.0, 4.0]
    );
    // Every second column, as option A's shortcut takes it.
    let slice = Op::Slice {
        start: vec![0, 0, 0],
        end: vec![1, 2, 2],
        step: vec![1, 2, 2],
    };
    assert_eq!(run_one(slice, [1, 2, 2], &[], &x), vec![-1.0]);
    let pad = Op::Pad {
        begin: vec![1, 0, 0],
        end: vec![1, 0, 1],
    };
    assert_eq!(
        run_one(pad, [1, 2, 1], &[], &x[..2]),
        vec![0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    );
}

#[test]
fn an_image_of_the_wrong_size_is_an_error() {
    let mut graph = Graph::new();
    graph.push("relu", Op::Unary(Unary::Relu), &[0]);
    let model = Model {
        graph,
        params: Params::new(),
        input: Task::cifar10().input,
    };
    let message = run(&model, &[0.0; 7]).unwrap_err().to_string();
    assert_eq!(message, "one image: 7 elements, expected 3072");
}

#[test]
fn a_nan_stays_one_through_every_operator() {
    // One NaN among larger and smaller numbers, first, in the middle and last.
    for at in 0..4 {
        let mut x = [3.0, -1.0, 0.5, 7.0];
        x[at] = f32::NAN;
        let pool = Window::square(2, 1, 0);
        let params: &[(&str, &[usize], &[f32])] = &[];
        let one = |op| run_one(op, [1, 2, 2], params, &x);
        let same_place = |y: Vec<f32>| {
            assert_eq!(y.len(), 4);
            for (i, v) in y.iter().enumerate() {
                assert_eq!(v.is_nan(), i == at, "{y:?}");
            }
        };
        same_place(one(Op::Unary(Unary::Relu)));
        same_place(one(Op::Unary(Unary::Clip { min: 0.0, max: 6.0 })));
        same_place(one(Op::Flatten));
        for op in [
            Op::MaxPool(pool),
            Op::AveragePool(pool),
            Op::GlobalAveragePool,
        ] {
            let y = one(op.clone());
            assert!(y.len() == 1 && y[0].is_nan(), "{op:?}: {y:?}");
        }
        // Padding never wins, and hides no NaN either.
        let padded = Window {
            kernel: [2, 2],
            stride: [2, 2],
            pads: [1, 1, 1, 1],
        };
        same_place(one(Op::MaxPool(padded)));
        let weight: &[(&str, &[usize], &[f32])] = &[("w", &[1, 1, 2, 2], &[0.0; 4])];
        let y = run_one(conv_op(pool, 1, false), [1, 2, 2], weight, &x);
        assert!(y[0].is_nan(), "{y:?}");
    }
}

#[test]
fn a_negative_variance_gives_nan_to_the_end() {
    let mut model = crate::zoo::build("source_net", &Task::cifar10(), 1).unwrap();
    let relu = model.graph.find("relu1").unwrap();
    let conv = model.graph.nodes[relu].inputs[0];
    let values = |v: f32| ndarray::ArrayD::from_elem(vec![64], v).into_shared();
    let norm = Op::BatchNormalization {
        scale: None,
        bias: "bn.bias".to_owned(),
        mean: "bn.mean".to_owned(),
        var: "bn.var".to_owned(),
        epsilon: 1e-5,
        momentum: 0.1,
    };
    // In place of the first activation, so that the second ReLU reads what comes of it.
    model.graph.nodes[relu].op = norm;
    let channels = model.params["conv1.bias"].len();
    assert_eq!((conv, channels), (1, 64));
    for (name, v) in [("bn.bias", 0.0), ("bn.mean", 0.0), ("bn.var", -0.5)] {
        model.params.insert(name.to_owned(), values(v));
    }
    let image = vec![0.3; 3 * 32 * 32];
    let logits = run(&model, &image).unwrap().pop().unwrap();
    assert!(logits.iter().all(|v| v.is_nan()), "{logits:?}");
    assert!(model.validate().is_err());
}
