//! Hand-computed codes, a slow reference for convolutions, and networks that must be refused.

use super::*;
use crate::op::Unary;
use crate::qmodel::QNode;
use crate::{InputSpec, Op, Output};
use ndarray::Array;
use proptest::prelude::*;

fn codes(scale: f32, zero: u8) -> Option<Activation> {
    Some(Activation::new(scale, zero))
}

/// Limited to these codes.
fn within(scale: f32, zero: u8, lo: u8, hi: u8) -> Option<Activation> {
    Some(Activation::new(scale, zero).within(lo, hi))
}

fn weight(shape: &[usize], codes: &[i8], scales: &[f32]) -> QWeight {
    QWeight {
        codes: Array::from_shape_vec(shape.to_vec(), codes.to_vec()).unwrap(),
        scales: scales.to_vec(),
        bits: 8,
    }
}

/// Operators in a row (or with the given inputs) behind an image of bytes, closed by one logit that sums everything.
fn model(shape: [usize; 3], ops: Vec<(QOp, Vec<usize>, Option<Activation>)>, len: usize) -> QModel {
    let mut nodes = vec![QNode {
        name: "input".to_owned(),
        op: QOp::Input,
        inputs: Vec::new(),
        activation: codes(1.0, 0),
    }];
    for (op, inputs, activation) in ops {
        nodes.push(QNode {
            name: format!("n{}", nodes.len()),
            op,
            inputs,
            activation,
        });
    }
    let last = nodes.len() - 1;
    let flat = nodes[last].activation.clone();
    nodes.push(QNode {
        name: "flat".to_owned(),
        op: QOp::Flatten,
        inputs: vec![last],
        activation: flat,
    });
    nodes.push(QNode {
        name: "logits".to_owned(),
        op: QOp::Logits {
            weight: weight(&[1, len], &vec![1; len], &[0.5]),
            bias: vec![2],
        },
        inputs: vec![last + 1],
        activation: None,
    });
    let logits = Output {
        node: nodes.len() - 1,
        labels: vec!["only".to_owned()],
    };
    QModel {
        nodes,
        params: Params::new(),
        outputs: vec![logits],
        input: InputSpec {
            shape,
            mean: vec![0.0; shape[0]],
            std: vec![1.0; shape[0]],
            preparation: crate::Preparation::usual(shape),
        },
    }
}

#[test]
fn requantization_rounds_once_and_clamps() {
    let conv = || QOp::Conv {
        weight: weight(&[1, 1, 1, 1], &[1], &[1.0]),
        bias: vec![0],
        window: Window::square(1, 1, 0),
        group: 1,
    };
    // m = 0.5: 1 → 0.5 → 0 and 3 → 1.5 → 2 (half to even), then the odd zero point is added.
    let plain = model([1, 1, 3], vec![(conv(), vec![0], codes(2.0, 7))], 3);
    let trace = run(&plain, &[1, 3, 255]).unwrap();
    assert_eq!(trace.values[1].codes(), vec![7, 9, 135]);
    // logits = (2 + Σ (q - z))·2·0.5
    assert_eq!(trace.outputs, vec![132.0]);
    // Limits of a fused activation.
    let clamped = model(
        [1, 1, 3],
        vec![(conv(), vec![0], within(2.0, 7, 8, 100))],
        3,
    );
    assert_eq!(
        run(&clamped, &[1, 3, 255]).unwrap().values[1].codes(),
        vec![8, 9, 100]
    );
}

#[test]
fn the_multiplier_is_computed_in_the_defined_order() {
    // 23105 = 255·90 + 155 at (s_x·s_w)/s_y rounds to 195; s_x·(s_w/s_y) differs in its last bit and gives 194.
    let [s_x, s_w, s_y] = [0.021_988_476, 0.004_804_185, 0.012_548_771];
    let first = QOp::AveragePool(Window::square(1, 1, 0));
    let conv = QOp::Conv {
        weight: weight(&[1, 2, 1, 1], &[90, 1], &[s_w]),
        bias: vec![0],
        window: Window::square(1, 1, 0),
        group: 1,
    };
    let mut net = model(
        [2, 1, 1],
        vec![
            (first, vec![0], codes(s_x, 0)),
            (conv, vec![1], codes(s_y, 0)),
        ],
        1,
    );
    // The pool keeps the bytes: its input has its scale.
    net.nodes[0].activation = codes(s_x, 0);
    assert_eq!(run(&net, &[255, 155]).unwrap().values[2].codes(), vec![195]);
}

#[test]
fn residual_is_added_before_the_rounding() {
    let conv = QOp::Conv {
        weight: weight(&[1, 1, 1, 1], &[1], &[0.25]),
        bias: vec![1],
        window: Window::square(1, 1, 0),
        group: 1,
    };
    let net = model([1, 1, 2], vec![(conv, vec![0, 0], codes(1.0, 10))], 2);
    // f = (x + 1)/4 + x: 1 → 1.5 → 2, 2 → 2.75 → 3. Rounding the sum's parts first would give 1 and 3.
    assert_eq!(run(&net, &[1, 2]).unwrap().values[1].codes(), vec![12, 13]);
}

#[test]
fn sums_and_means_rescale_their_operands() {
    let halves = QOp::AveragePool(Window::square(2, 2, 0));
    let ops = vec![
        (halves, vec![0], codes(0.5, 3)),
        (QOp::GlobalAveragePool, vec![0], codes(0.5, 3)),
        (QOp::Add, vec![1, 2], codes(1.0, 1)),
    ];
    let net = model([1, 2, 2], ops, 1);
    // The mean of 1, 2, 3, 4 is 2.5: code 5 + 3. The sum is 5.0: code 5 + 1.
    let trace = run(&net, &[1, 2, 3, 4]).unwrap();
    let codes: Vec<&[u8]> = trace.codes().skip(1).take(3).collect();
    assert_eq!(codes, [[8], [8], [6]]);
}

#[test]
fn layout_operators_move_codes_and_pad_with_the_zero_point() {
    let ops = vec![
        (
            QOp::AveragePool(Window::square(1, 1, 0)),
            vec![0],
            codes(1.0, 9),
        ),
        (
            QOp::Slice {
                start: vec![0, 0, 0],
                end: vec![1, 1, 4],
                step: vec![1, 1, 2],
            },
            vec![1],
            codes(1.0, 9),
        ),
        (
            QOp::Pad {
                begin: vec![1, 0, 0],
                end: vec![0, 0, 0],
            },
            vec![2],
            codes(1.0, 9),
        ),
        (QOp::Clamp, vec![3], within(1.0, 9, 9, 12)),
    ];
    let net = model([1, 1, 4], ops, 4);
    let trace = run(&net, &[1, 2, 4, 8]).unwrap();
    assert_eq!(trace.values[2].codes(), vec![10, 13]);
    assert_eq!(trace.values[3].codes(), vec![9, 9, 10, 13]);
    assert_eq!(trace.values[4].codes(), vec![9, 9, 10, 12]);
}

#[test]
fn networks_that_could_panic_or_overflow_are_refused() {
    let conv = |weight: QWeight, bias: i32| QOp::Conv {
        bias: vec![bias; weight.scales.len()],
        weight,
        window: Window::square(1, 1, 0),
        group: 1,
    };
    let sound = model(
        [1, 1, 1],
        vec![(
            conv(weight(&[1, 1, 1, 1], &[1], &[1.0]), 0),
            vec![0],
            codes(1.0, 0),
        )],
        1,
    );
    sound.validate().unwrap();
    struct Case {
        break_it: fn(&mut QModel),
        expect: &'static str,
    }
    let cases = [
        // Reads a later node.
        Case {
            break_it: |m| m.nodes[1].inputs = vec![3],
            expect: "node `n1`: Conv: inputs [3]",
        },
        // Reads nothing.
        Case {
            break_it: |m| m.nodes[2].inputs.clear(),
            expect: "node `flat`: Flatten: inputs []",
        },
        // A bias that overflows with the largest sum.
        Case {
            break_it: |m| match &mut m.nodes[1].op {
                QOp::Conv { bias, .. } => bias[0] = i32::MIN,
                _ => panic!("node 1 is a Conv"),
            },
            expect: "channel 0 can overflow",
        },
        // A NaN scale.
        Case {
            break_it: |m| m.nodes[1].activation.as_mut().unwrap().scale = f32::NAN,
            expect: "node `n1`: Conv: its scale is NaN",
        },
        // A layout operator that changes the meaning of codes.
        Case {
            break_it: |m| m.nodes[2].activation.as_mut().unwrap().scale = 2.0,
            expect: "node `flat`: Flatten: its scale and zero point are not its input's",
        },
        // Zero points per channel where no Conv reads them.
        Case {
            break_it: |m| m.nodes[1].activation.as_mut().unwrap().zero_points = vec![1, 2],
            expect: "2 zero points",
        },
        // The output is gone, is codes, is there twice, or there is none.
        Case {
            break_it: |m| drop(m.nodes.pop()),
            expect: "an output is a node that there is not",
        },
        Case {
            break_it: |m| m.outputs[0].node = 2,
            expect: "node `flat`: an output must be f32",
        },
        Case {
            break_it: |m| m.outputs.push(Output::of(3)),
            expect: "node `logits`: it is an output twice",
        },
        Case {
            break_it: |m| m.outputs.clear(),
            expect: "the network has no output",
        },
        // Too few classes.
        Case {
            break_it: |m| m.outputs[0].labels.push("other".to_owned()),
            expect: "node `logits`: gives 1 numbers for 2 labels",
        },
        // A parameter that nothing reads.
        Case {
            break_it: |m| {
                let stray = ndarray::arr1(&[1.0]).into_dyn().into_shared();
                m.params.insert("stray".to_owned(), stray);
            },
            expect: "node `stray`: this parameter belongs to no node",
        },
        // Codes where f32 is read, and the reverse.
        Case {
            break_it: |m| {
                m.nodes[2].op = QOp::Float(Op::Flatten);
                m.nodes[2].activation = None;
            },
            expect: "node `flat`: Flatten: reads `n1`, which is codes, expected f32",
        },
        // A value of no meaning, and one that has two.
        Case {
            break_it: |m| m.nodes[1].activation = None,
            expect: "node `n1`: Conv: has no scale and zero point",
        },
        Case {
            break_it: |m| m.nodes[3].activation = Some(Activation::new(1.0, 0)),
            expect: "node `logits`: Logits: has codes, expected f32",
        },
        // Limits in the wrong order, and others than those of the codes that are moved.
        Case {
            break_it: |m| m.nodes[1].activation.as_mut().unwrap().lo = 255,
            expect: "node `flat`: Flatten: its codes are 0 to 255, its input's 255 to 255",
        },
        Case {
            break_it: |m| {
                let y = m.nodes[1].activation.as_mut().unwrap();
                (y.lo, y.hi) = (9, 8);
            },
            expect: "node `n1`: Conv: its smallest code 9 is above its largest 8",
        },
        // A table that leaves the codes.
        Case {
            break_it: |m| {
                m.nodes[1].op = QOp::Table {
                    function: Unary::HardSwish,
                    table: Box::new([200; 256]),
                };
                for node in &mut m.nodes[1..3] {
                    node.activation.as_mut().unwrap().hi = 199;
                }
            },
            expect: "node `n1`: Table: its table holds 200, outside 0 to 199",
        },
        // A mean over more values than a sum can hold.
        Case {
            break_it: |m| {
                m.input.shape = [1, 300, 300];
                m.nodes[1].op = QOp::GlobalAveragePool;
            },
            expect: "averages 90000 values",
        },
        // A window whose numbers overflow.
        Case {
            break_it: |m| match &mut m.nodes[1].op {
                QOp::Conv { window, .. } => window.pads = [usize::MAX; 4],
                _ => panic!("node 1 is a Conv"),
            },
            expect: "does not fit",
        },
        // A scale beside which the multiplier is infinite.
        Case {
            break_it: |m| match &mut m.nodes[1].op {
                QOp::Conv { weight, .. } => {
                    weight.scales[0] = 1e28;
                    m.nodes[1].activation.as_mut().unwrap().scale = 1e-20;
                }
                _ => panic!("node 1 is a Conv"),
            },
            expect: "node `n1`: Conv: the multiplier of channel 0 is inf",
        },
        // Logits that would be infinite.
        Case {
            break_it: |m| {
                m.nodes[1].activation.as_mut().unwrap().scale = 1e30;
                m.nodes[2].activation.as_mut().unwrap().scale = 1e30;
            },
            expect: "node `logits`: Logits: the multiplier of channel 0 is 5e29",
        },
        Case {
            break_it: |m| match &mut m.nodes[3].op {
                QOp::Logits { weight, .. } => weight.scales[0] = 1e31,
                _ => panic!("node 3 is the Logits"),
            },
            expect: "node `logits`: Logits: the scale of channel 0 is 1e31",
        },
        // Codes that would decode to infinity.
        Case {
            break_it: |m| m.nodes[1].activation.as_mut().unwrap().scale = 1e37,
            expect: "node `n1`: Conv: its scale is 1e37",
        },
        // A residual that would be infinite.
        Case {
            break_it: |m| {
                m.nodes[0].activation.as_mut().unwrap().scale = 1e20;
                m.nodes[1].activation.as_mut().unwrap().scale = 1e-10;
                m.nodes[1].inputs.push(0);
            },
            expect: "node `n1`: Conv: its scale is 1e30 times smaller than its input's",
        },
        // Logits that something reads.
        Case {
            break_it: |m| {
                let mut second = m.nodes[3].clone();
                second.inputs = vec![3];
                m.nodes.push(second);
            },
            expect: "reads `logits`, which has no codes",
        },
        // A mean too few, as readers of the input would index it.
        Case {
            break_it: |m| m.input.mean.clear(),
            expect: "node `input`: 0 means and 1 deviations for 1 channels",
        },
        // An image without pixels.
        Case {
            break_it: |m| m.input.shape = [1, 0, 1],
            expect: "node `input`: Input: its shape is [1, 0, 1]",
        },
        // Padding that asks for the whole memory.
        Case {
            break_it: |m| {
                m.nodes[2].op = QOp::Pad {
                    begin: vec![usize::MAX, 0, 0],
                    end: vec![0; 3],
                };
            },
            expect: "elements",
        },
    ];
    // Codes that nothing reads are computed for nothing and do no harm.
    let mut dead = sound.clone();
    let other = dead.nodes[2].clone();
    dead.nodes.insert(3, other);
    dead.outputs[0].node = 4;
    assert_eq!(
        run(&dead, &[9]).unwrap().outputs,
        run(&sound, &[9]).unwrap().outputs
    );
    for case in cases {
        let mut net = sound.clone();
        (case.break_it)(&mut net);
        let message = run(&net, &[0]).unwrap_err().to_string();
        assert!(message.contains(case.expect), "{message}");
    }
}

/// Numbers that a damaged or hostile file may hold.
const SCALES: [f32; 12] = [
    1.0,
    0.02,
    0.0,
    -1.0,
    f32::NAN,
    f32::INFINITY,
    1e-40,
    f32::MIN_POSITIVE,
    1e-20,
    1e20,
    1e30,
    f32::MAX,
];

/// Changes one thing of a network.
fn damage(model: &mut QModel, [what, at, value]: [usize; 3]) {
    let at = at % model.nodes.len();
    let small = [0, 1, 2, 3, 7, 4096, usize::MAX][value % 7];
    let scale = SCALES[value % SCALES.len()];
    let byte = u8::try_from(value % 256).unwrap();
    match what % 9 {
        0 => {
            let copy = model.nodes[at].clone();
            model.nodes.insert(value % (model.nodes.len() + 1), copy);
        }
        1 => drop(model.nodes.remove(at)),
        2 => {
            let n = model.nodes[at].inputs.len();
            if n > 0 {
                model.nodes[at].inputs[value % n] = value / 2 % model.nodes.len();
            }
        }
        3 => {
            let other = value % model.nodes.len();
            model.nodes[at].inputs.push(other);
        }
        4 => {
            if let Some(activation) = &mut model.nodes[at].activation {
                activation.scale = scale;
            }
        }
        5 => {
            if let Some(activation) = &mut model.nodes[at].activation {
                match value % 5 {
                    4 => (activation.lo, activation.hi) = (byte, 255 - byte),
                    n => activation.zero_points = vec![byte; n],
                }
            }
        }
        6 => model.input.shape[value % 3] = [0, 1, 2, 5, 9][at % 5],
        7 => model.nodes[at].activation = None,
        _ => match &mut model.nodes[at].op {
            QOp::Conv {
                weight,
                bias,
                window,
                group,
            } => match value % 5 {
                0 => weight.scales[0] = SCALES[value / 5 % SCALES.len()],
                1 => bias[0] = [i32::MIN, i32::MAX, 1 << 30][value / 5 % 3],
                2 => window.pads[value / 5 % 4] = small,
                3 => window.stride[0] = small,
                _ => *group = small,
            },
            QOp::Gemm { weight, bias, .. } | QOp::Logits { weight, bias } => match value % 3 {
                0 => weight.scales[0] = scale,
                1 => bias[0] = [i32::MIN, i32::MAX, 1 << 30][value / 3 % 3],
                _ => weight.codes.fill(i8::MAX),
            },
            QOp::Table { table, .. } => table[value % 256] = byte,
            QOp::Float(op) => *op = Op::Binary(crate::Binary::Add),
            QOp::MaxPool(window) | QOp::AveragePool(window) => window.kernel[value % 2] = small,
            QOp::Slice { start, end, step } => {
                let list = [start, end, step].into_iter().nth(value % 3).unwrap();
                list[0] = small;
            }
            QOp::Pad { begin, end } => {
                let list = [begin, end].into_iter().nth(value % 2).unwrap();
                list[0] = small.min(1 << 20);
            }
            QOp::Input
            | QOp::Add
            | QOp::GlobalAveragePool
            | QOp::Flatten
            | QOp::Clamp
            | QOp::Quantize
            | QOp::Dequantize => {
                let outputs = model.outputs.len();
                model.outputs[value % outputs].node = value;
            }
        },
    }
}

/// Every operator once, on four numbers of four pixels.
fn every_operator() -> QModel {
    let [a, b] = [codes(0.02, 3), codes(0.05, 128)];
    let conv = |inputs: usize, group: usize| QOp::Conv {
        weight: weight(
            &[4, inputs / group, 1, 1],
            &vec![9; 4 * inputs / group],
            &[0.1; 4],
        ),
        bias: vec![5; 4],
        window: Window::square(1, 1, 0),
        group,
    };
    let table = QOp::Table {
        function: Unary::HardSwish,
        table: Box::new(std::array::from_fn(|q| u8::try_from(255 - q).unwrap())),
    };
    let pool = Window::square(1, 1, 0);
    let rows = vec![
        (conv(2, 1), vec![0], a.clone()),
        (conv(4, 4), vec![1, 1], b.clone()),
        (QOp::Add, vec![1, 2], a.clone()),
        (QOp::Clamp, vec![3], a.clone().map(|a| a.within(3, 200))),
        (
            QOp::MaxPool(pool),
            vec![4],
            a.clone().map(|a| a.within(3, 200)),
        ),
        (QOp::AveragePool(pool), vec![5], b.clone()),
        (
            QOp::Pad {
                begin: vec![0; 3],
                end: vec![1, 0, 0],
            },
            vec![6],
            b.clone(),
        ),
        (
            QOp::Slice {
                start: vec![1, 0, 0],
                end: vec![5, 2, 2],
                step: vec![1; 3],
            },
            vec![7],
            b.clone(),
        ),
        (QOp::Dequantize, vec![8], None),
        (QOp::Float(Op::Unary(Unary::HardSwish)), vec![9], None),
        (
            QOp::Quantize,
            vec![10],
            b.clone().map(|b| b.within(100, 160)),
        ),
        (table, vec![11], b),
        (QOp::GlobalAveragePool, vec![12], a),
    ];
    model([2, 2, 2], rows, 4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_passes_validation_runs_to_finite_logits(
        damages in proptest::collection::vec(any::<[usize; 3]>(), 0..4),
        pixels in any::<[u8; 8]>(),
    ) {
        let mut net = every_operator();
        for damages in damages {
            if !net.nodes.is_empty() {
                damage(&mut net, damages);
            }
        }
        let Ok(shapes) = net.validate() else { return Ok(()) };
        let image: Vec<u8> = pixels.iter().copied().cycle().take(shapes[0].iter().product()).collect();
        let trace = run(&net, &image).unwrap();
        prop_assert!(trace.outputs.iter().all(|v| v.is_finite()), "{:?}", trace.outputs);
        for ((value, node), shape) in trace.values.iter().zip(&net.nodes).zip(&shapes) {
            let elements = shape.iter().product::<usize>();
            let expected = if node.activation.is_some() { (elements, 0) } else { (0, elements) };
            prop_assert_eq!((value.codes().len(), value.floats().len()), expected);
        }
    }
}

proptest! {
    #[test]
    fn convolution_equals_the_formula(
        (c, o, h, w) in (1usize..4, 1usize..4, 1usize..6, 1usize..6),
        (kernel, stride, pad) in (1usize..4, 1usize..3, 0usize..2),
        zero in any::<u8>(),
        numbers in proptest::collection::vec(any::<u8>(), 200),
    ) {
        let window = Window::square(kernel, stride, pad);
        let Some([oh, ow]) = window.output([h, w]) else { return Ok(()) };
        let byte = |i: usize| numbers[i % numbers.len()];
        let x: Vec<u8> = (0..c * h * w).map(byte).collect();
        let codes: Vec<i8> = (0..o * c * kernel * kernel).map(|i| i8::try_from(byte(3 * i + 1) / 2).unwrap() - 60).collect();
        let bias: Vec<i32> = (0..o).map(|i| i32::from(byte(i)) - 128).collect();
        let x_act = Activation::new(1.0, zero);
        let weight = weight(&[o, c, kernel, kernel], &codes, &vec![1.0; o]);
        let acc = conv(&x, &x_act, &[c, h, w], &[o, oh, ow], &weight, &bias, &window, 1);
        // The formula, over an explicitly padded image in which padding holds the zero point.
        let padded = |ch: usize, row: usize, col: usize| -> i64 {
            match (row.checked_sub(pad), col.checked_sub(pad)) {
                (Some(r), Some(q)) if r < h && q < w => i64::from(x[(ch * h + r) * w + q]),
                _ => i64::from(zero),
            }
        };
        for f in 0..o { for i in 0..oh { for j in 0..ow {
            let mut sum = i64::from(bias[f]);
            for ch in 0..c { for u in 0..kernel { for v in 0..kernel {
                let q = padded(ch, i * stride + u, j * stride + v);
                let k = codes[((f * c + ch) * kernel + u) * kernel + v];
                sum += (q - i64::from(zero)) * i64::from(k);
            }}}
            prop_assert_eq!(i64::from(acc[(f * oh + i) * ow + j]), sum);
        }}}
    }
}
