//! Networks of codes and f32 values: codes that follow from codes alone are the interpreter's; every other value is what the
//! interpreter makes of the engine's operands.

use ndarray::{ArrayD, IxDyn};
use opt_core::interpret_quantized::{Interpreter, Value};
use opt_core::op::{Binary, Unary, Window};
use opt_core::qmodel::{Activation, QModel, QOp};
use opt_core::{Op, Output};
use opt_infer::{Options, Session, Sharing, first_difference};

use crate::net::{Net, Values};
use crate::{available, options};

/// Every node by itself, from the engine's operands, and the outputs.
fn compare(what: &str, model: &QModel, image: &[u8]) {
    let interpreter = Interpreter::new(model).unwrap();
    let exact = model.exact();
    let whole = opt_core::interpret_quantized::run(model, image).unwrap();
    for kernels in available() {
        let keep = Options {
            keep_codes: true,
            ..options(kernels)
        };
        let mut session = Session::new(model, &keep).unwrap();
        let outputs = session.run(image).unwrap().to_vec();
        let differs = first_difference(&mut session, model, &interpreter, image).unwrap();
        let name = differs.map(|id| &model.nodes[id].name);
        assert_eq!(name, None, "{what}: {kernels}");
        let values: Vec<Value> = (0..model.nodes.len())
            .map(|id| session.value(id).unwrap())
            .collect();
        for (id, node) in model.nodes.iter().enumerate().filter(|(id, _)| exact[*id]) {
            let name = &node.name;
            assert_eq!(
                values[id], whole.values[id],
                "{what}: {kernels} at `{name}`"
            );
        }
        let kept = model.outputs.iter().map(|o| values[o.node].floats());
        assert_eq!(
            outputs,
            kept.collect::<Vec<_>>().concat(),
            "{what}: {kernels}"
        );
        // The same with places used again, and with threads.
        for threads in [1, 3] {
            let options = Options {
                threads,
                sharing: Sharing::Always,
                ..options(kernels)
            };
            let what = format!("{what}: {kernels}, {threads} threads");
            let mut session = Session::new(model, &options).unwrap();
            assert_eq!(session.run(image).unwrap(), outputs, "{what}");
            let both = session.run_batch(&[image, image].concat(), 2).unwrap();
            assert_eq!(both, [&*outputs, &*outputs].concat(), "{what}");
        }
    }
}

impl Net {
    fn param(&mut self, name: &str, shape: &[usize], low: f32, high: f32) -> String {
        let values = ArrayD::from_shape_simple_fn(IxDyn(shape), || {
            low + (high - low) * self.below(256) as f32 / 255.0
        });
        let name = format!("{}.{name}", self.shapes.len());
        self.model.params.insert(name.clone(), values.into_shared());
        name
    }

    fn float(&mut self, op: Op, inputs: &[usize], shape: Vec<usize>) -> usize {
        self.push(QOp::Float(op), inputs, None, shape)
    }

    fn dequantize(&mut self, x: usize) -> usize {
        self.push(QOp::Dequantize, &[x], None, self.shapes[x].clone())
    }

    fn quantize(&mut self, x: usize, y: Activation) -> usize {
        self.push(QOp::Quantize, &[x], Some(y), self.shapes[x].clone())
    }

    /// An operator on the f32 value `x`, drawn; none where it does not fit.
    fn grow_float(&mut self, x: usize) -> Option<usize> {
        let shape = self.shapes[x].clone();
        let window = Window {
            kernel: [1 + self.below(3), 1 + self.below(3)],
            stride: [1 + self.below(2), 1 + self.below(2)],
            pads: [0, 1, 2, 3].map(|_| self.below(2)),
        };
        let same: Vec<usize> = (0..self.shapes.len())
            .filter(|i| self.model.nodes[*i].op.is_float() && self.shapes[*i] == shape)
            .collect();
        Some(match (self.below(12), shape.as_slice()) {
            (0..=2, &[c, h, w]) => {
                let [oh, ow] = window.output([h, w])?;
                let group = [1, 1, c, 2][self.below(4)];
                let out = group * (1 + self.below([70, 4][usize::from(group > 1)]));
                if c % group != 0 {
                    return None;
                }
                let [kh, kw] = window.kernel;
                let weight = self.param("w", &[out, c / group, kh, kw], -0.5, 0.5);
                let bias = (self.below(2) == 0).then(|| self.param("b", &[out], -1.0, 1.0));
                let op = Op::Conv {
                    weight,
                    bias,
                    window,
                    group,
                };
                self.float(op, &[x], vec![out, oh, ow])
            }
            (3, _) => {
                let c = shape[0];
                let scale = (self.below(2) == 0).then(|| self.param("g", &[c], -1.0, 2.0));
                let op = Op::BatchNormalization {
                    scale,
                    bias: self.param("b", &[c], -1.0, 1.0),
                    mean: self.param("m", &[c], -1.0, 1.0),
                    var: self.param("v", &[c], 0.1, 2.0),
                    epsilon: 1e-5,
                    momentum: 0.1,
                };
                self.float(op, &[x], shape)
            }
            (4, _) => {
                let clip = Unary::Clip {
                    min: -0.5,
                    max: 2.0,
                };
                let function = [Unary::Relu, Unary::HardSwish, clip][self.below(3)];
                self.float(Op::Unary(function), &[x], shape)
            }
            (5, _) => {
                let other = same[self.below(same.len())];
                self.float(Op::Binary(Binary::Add), &[x, other], shape)
            }
            (6, &[c, h, w]) => {
                let pads = [0, 1, 2, 3].map(|i| window.pads[i].min(window.kernel[i % 2] - 1));
                let window = Window { pads, ..window };
                let [oh, ow] = window.output([h, w])?;
                let op = [Op::MaxPool as fn(Window) -> Op, Op::AveragePool][self.below(2)];
                self.float(op(window), &[x], vec![c, oh, ow])
            }
            (7, &[c, _, _]) => self.float(Op::GlobalAveragePool, &[x], vec![c, 1, 1]),
            (8, _) => {
                let start: Vec<usize> = shape.iter().map(|n| self.below(*n)).collect();
                let step: Vec<usize> = shape.iter().map(|_| 1 + self.below(3)).collect();
                let cut = (0..shape.len()).map(|i| (shape[i] - start[i]).div_ceil(step[i]));
                let cut = cut.collect();
                let end = shape;
                self.float(Op::Slice { start, end, step }, &[x], cut)
            }
            (9, _) => {
                let begin: Vec<usize> = shape.iter().map(|_| self.below(3)).collect();
                let end: Vec<usize> = shape.iter().map(|_| self.below(3)).collect();
                let wider = (0..shape.len()).map(|i| begin[i] + shape[i] + end[i]);
                let wider = wider.collect();
                self.float(Op::Pad { begin, end }, &[x], wider)
            }
            (10, _) => self.float(Op::Flatten, &[x], vec![shape.iter().product()]),
            (11, &[features]) => {
                let out = 1 + self.below(70);
                let weight = self.param("w", &[out, features], -0.5, 0.5);
                let bias = Some(self.param("b", &[out], -1.0, 1.0));
                self.float(Op::Gemm { weight, bias }, &[x], vec![out])
            }
            _ => return None,
        })
    }
}

#[test]
fn networks_of_codes_and_f32() {
    for seed in 0..300 {
        let channels = 1 + usize::try_from(seed % 5).unwrap();
        let mut net = Net::new([channels, 7, 6], Values::Random, seed);
        let image = net.image();
        // Of the image itself, or of what an integer convolution makes of it.
        let mut x = match net.below(2) {
            0 => net.dequantize(0),
            _ => {
                let conv = net.conv(0, 17, Window::square(3, 1, 1), 1, None, true);
                net.dequantize(conv)
            }
        };
        let mut outputs = Vec::new();
        for _ in 0..1 + net.below(8) {
            if net.shapes[x].iter().product::<usize>() > 3000 {
                break;
            }
            let Some(next) = net.grow_float(x) else {
                continue;
            };
            x = next;
            if net.below(4) == 0 {
                outputs.push(x);
            }
            if net.below(5) == 0 {
                // To codes of few bits, through a table, and back.
                let y = Activation::new(0.3, 7).within(0, 15);
                let codes = net.quantize(x, y);
                let result = |q: usize| u8::try_from(20 + q % 64).unwrap();
                let table = QOp::Table {
                    function: Unary::HardSwish,
                    table: Box::new(std::array::from_fn(result)),
                };
                let y = Activation::new(0.1, 40).within(20, 83);
                let codes = net.push(table, &[codes], Some(y), net.shapes[x].clone());
                x = net.dequantize(codes);
            }
        }
        if !outputs.contains(&x) {
            outputs.push(x);
        }
        net.model.outputs = outputs.into_iter().map(Output::of).collect();
        assert_eq!(net.model.validate().unwrap(), net.shapes, "seed {seed}");
        compare(&format!("seed {seed}"), &net.model, &image);
    }
}

#[test]
fn wide_f32_convolutions_cross_the_blocks() {
    for (seed, channels) in [(1, [3, 63]), (2, [64, 64]), (3, [65, 130]), (4, [7, 129])] {
        let mut net = Net::new([channels[0], 5, 9], Values::Random, seed);
        let image = net.image();
        let x = net.dequantize(0);
        let op = Op::Conv {
            weight: net.param("w", &[channels[1], channels[0], 3, 2], -0.1, 0.1),
            bias: None,
            window: Window {
                kernel: [3, 2],
                stride: [2, 1],
                pads: [1, 0, 2, 1],
            },
            group: 1,
        };
        let y = net.float(op, &[x], vec![channels[1], 3, 9]);
        net.model.outputs = vec![Output::of(y)];
        compare(&format!("{channels:?}"), &net.model, &image);
    }
}

#[test]
fn a_wrong_node_is_found() {
    let mut net = Net::new([2, 4, 4], Values::Random, 1);
    let image = net.image();
    let conv = net.conv(0, 5, Window::square(3, 1, 1), 1, None, true);
    let x = net.dequantize(conv);
    let op = Op::Conv {
        weight: net.param("w", &[3, 5, 1, 1], -0.5, 0.5),
        bias: None,
        window: Window::square(1, 1, 0),
        group: 1,
    };
    let y = net.float(op, &[x], vec![3, 4, 4]);
    net.model.outputs = vec![Output::of(y)];
    let keep = Options {
        keep_codes: true,
        ..Options::default()
    };
    let mut session = Session::new(&net.model, &keep).unwrap();
    // The interpreter of another network: one weight, one bias, each in turn.
    let mut other = net.model.clone();
    let weight = other.params.values_mut().next().unwrap();
    weight[[2, 0, 0, 0]] += 0.01;
    let mut wrong_bias = net.model.clone();
    if let QOp::Conv { bias, .. } = &mut wrong_bias.nodes[conv].op {
        bias[1] += 900;
    }
    for (model, expect) in [
        (&net.model, None),
        (&other, Some(y)),
        (&wrong_bias, Some(conv)),
    ] {
        let interpreter = Interpreter::new(model).unwrap();
        let found = first_difference(&mut session, model, &interpreter, &image);
        assert_eq!(found.unwrap(), expect);
    }
}
