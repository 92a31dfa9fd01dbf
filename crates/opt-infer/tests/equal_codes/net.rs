//! Networks of random numbers, built node by node.

use ndarray::{ArrayD, IxDyn};
use opt_core::op::Window;
use opt_core::qmodel::{Activation, QModel, QNode, QOp, QWeight};
use opt_core::{InputSpec, Output, Params};

/// Small numbers from a seed: `SplitMix64` (G. Steele, D. Lea, C. Flood, *Fast splittable pseudorandom number generators*,
/// 2014).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    /// A code of 8 bits, -127 to 127.
    fn code(&mut self) -> i8 {
        self.byte().cast_signed().max(-127)
    }
}

/// What the weights and the image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    Random,
    /// Weights 127, image 255: the largest sums.
    High,
    /// Weights -127, image 255: the smallest.
    Low,
    /// Random weights, image 0: padding is brighter.
    Dark,
}

/// A network under construction.
pub(crate) struct Net {
    pub(crate) model: QModel,
    pub(crate) shapes: Vec<Vec<usize>>,
    /// Whether every activation but the image's has zero point 0, so that values of one shape can take each other's place, and scale
    /// 1, so that early values count in late sums.
    pub(crate) plain: bool,
    numbers: Numbers,
    values: Values,
}

impl Net {
    pub(crate) fn new(shape: [usize; 3], values: Values, seed: u64) -> Self {
        let mut net = Self {
            model: QModel {
                nodes: Vec::new(),
                params: Params::new(),
                outputs: Vec::new(),
                input: InputSpec {
                    shape,
                    mean: vec![0.5; shape[0]],
                    std: vec![0.25; shape[0]],
                    preparation: opt_core::Preparation::usual(shape),
                },
            },
            shapes: Vec::new(),
            plain: false,
            numbers: Numbers(seed),
            values,
        };
        let image = Activation {
            zero_points: (0..shape[0]).map(|_| net.numbers.byte()).collect(),
            ..Activation::new(1.0, 0)
        };
        net.push(QOp::Input, &[], Some(image), shape.to_vec());
        net
    }

    /// An image of the network.
    pub(crate) fn image(&mut self) -> Vec<u8> {
        let values = self.values;
        let byte = |_| match values {
            Values::Random => self.numbers.byte(),
            Values::High | Values::Low => 255,
            Values::Dark => 0,
        };
        (0..self.model.input.shape.iter().product::<usize>())
            .map(byte)
            .collect()
    }

    pub(crate) fn conv(
        &mut self,
        x: usize,
        out: usize,
        window: Window,
        group: usize,
        residual: Option<usize>,
        relu: bool,
    ) -> usize {
        let [c, h, w] = self.shapes[x][..] else {
            panic!("{:?}", self.shapes[x]);
        };
        let [height, width] = window.output([h, w]).unwrap();
        let shape = [out, c / group, window.kernel[0], window.kernel[1]];
        let (weight, bias) = self.weight(&shape);
        let y = self.activation(x, shape[1..].iter().product());
        let zero = y.zero_points[0];
        let y = match relu {
            true => y.within(zero, zero.saturating_add(200)),
            false => y,
        };
        let op = QOp::Conv {
            weight,
            bias,
            window,
            group,
        };
        let inputs: Vec<usize> = std::iter::once(x).chain(residual).collect();
        self.push(op, &inputs, Some(y), vec![out, height, width])
    }

    pub(crate) fn gemm(&mut self, x: usize, out: usize) -> usize {
        let features = self.shapes[x][0];
        let (weight, bias) = self.weight(&[out, features]);
        let y = self.activation(x, features);
        let zero = y.zero_points[0];
        let op = QOp::Gemm { weight, bias };
        self.push(op, &[x], Some(y.within(zero, 255)), vec![out])
    }

    pub(crate) fn add(&mut self, a: usize, b: usize) -> usize {
        let y = self.activation(a, 4).within(0, 250);
        self.push(QOp::Add, &[a, b], Some(y), self.shapes[a].clone())
    }

    pub(crate) fn pool(&mut self, x: usize, op: fn(Window) -> QOp, window: Window) -> usize {
        let [c, h, w] = self.shapes[x][..] else {
            panic!("{:?}", self.shapes[x]);
        };
        let [h, w] = window.output([h, w]).unwrap();
        let op = op(window);
        let y = match op.keeps_codes() {
            true => self.meaning(x),
            // Means have limits too.
            false => self.activation(x, 1).within(2, 251),
        };
        self.push(op, &[x], Some(y), vec![c, h, w])
    }

    /// Every second row and column, and channels behind and before.
    pub(crate) fn shortcut(&mut self, x: usize, channels: [usize; 2]) -> usize {
        let [c, h, w] = self.shapes[x][..] else {
            panic!("{:?}", self.shapes[x]);
        };
        let y = self.meaning(x);
        let (h, w) = (h.div_ceil(2), w.div_ceil(2));
        let op = QOp::Slice {
            start: vec![0, 0, 0],
            end: self.shapes[x].clone(),
            step: vec![1, 2, 2],
        };
        let x = self.push(op, &[x], Some(y.clone()), vec![c, h, w]);
        let op = QOp::Pad {
            begin: vec![channels[0], 0, 0],
            end: vec![channels[1], 0, 0],
        };
        let c = channels[0] + c + channels[1];
        self.push(op, &[x], Some(padded(y)), vec![c, h, w])
    }

    /// Mean over all positions, Flatten and Logits.
    pub(crate) fn close(mut self, x: usize) -> Self {
        let c = self.shapes[x][0];
        let y = self.activation(x, 1);
        let x = self.push(QOp::GlobalAveragePool, &[x], Some(y), vec![c, 1, 1]);
        let x = self.flatten(x);
        self.logits(x)
    }

    pub(crate) fn flatten(&mut self, x: usize) -> usize {
        let y = self.meaning(x);
        let features = self.shapes[x].iter().product();
        self.push(QOp::Flatten, &[x], Some(y), vec![features])
    }

    pub(crate) fn logits(mut self, x: usize) -> Self {
        let (weight, bias) = self.weight(&[5, self.shapes[x][0]]);
        let node = self.push(QOp::Logits { weight, bias }, &[x], None, vec![5]);
        let labels = (0..5).map(|i| format!("class {i}")).collect();
        self.model.outputs.push(Output { node, labels });
        assert_eq!(self.model.validate().unwrap(), self.shapes);
        self
    }

    pub(crate) fn push(
        &mut self,
        op: QOp,
        inputs: &[usize],
        activation: Option<Activation>,
        shape: Vec<usize>,
    ) -> usize {
        self.model.nodes.push(QNode {
            name: format!("{} {}", op.name(), self.shapes.len()),
            op,
            inputs: inputs.to_vec(),
            activation,
        });
        self.shapes.push(shape);
        self.shapes.len() - 1
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(self.numbers.byte()) % n
    }

    /// Whether a value has one zero point for all channels.
    pub(crate) fn one_zero(&self, id: usize) -> bool {
        let activation = self.model.nodes[id].activation.as_ref();
        activation.is_some_and(|a| a.zero_points.len() == 1)
    }

    /// What the codes of a value mean.
    pub(crate) fn meaning(&self, id: usize) -> Activation {
        self.model.nodes[id].activation.clone().unwrap()
    }

    pub(crate) fn weight(&mut self, shape: &[usize]) -> (QWeight, Vec<i32>) {
        let values = self.values;
        let codes = ArrayD::from_shape_simple_fn(IxDyn(shape), || match values {
            Values::High => 127,
            Values::Low => -127,
            Values::Random | Values::Dark => self.numbers.code(),
        });
        let products = shape[1..].iter().product::<usize>() as f32;
        let unit = if self.plain {
            products.sqrt() * 1.5
        } else {
            1.0
        };
        let scales = (0..shape[0]).map(|_| (0.01 + f32::from(self.numbers.byte()) / 1e4) / unit);
        let scales = scales.collect();
        let bias = (0..shape[0]).map(|_| i32::from(self.numbers.code()) * 100);
        let bias = bias.collect();
        let weight = QWeight {
            codes,
            scales,
            bits: 8,
        };
        (weight, bias)
    }

    /// An activation on which sums of so many products spread over the codes, or saturate; every second one has zero point 0.
    pub(crate) fn activation(&mut self, x: usize, products: usize) -> Activation {
        let x = self.meaning(x).scale;
        let spread = x * (products as f32).sqrt() * 1.5;
        let factor = [0.2, 0.7, 1.0, 1.7][usize::from(self.numbers.byte() % 4)];
        let zero = self.numbers.byte();
        let scale = if self.plain { 1.0 } else { spread * factor };
        let odd = !self.plain && !zero.is_multiple_of(2);
        Activation::new(scale, if odd { zero } else { 0 })
    }
}

/// With the code of zero, which padding adds.
pub(crate) fn padded(y: Activation) -> Activation {
    let zero = y.zero_points[0];
    let (lo, hi) = (y.lo.min(zero), y.hi.max(zero));
    y.within(lo, hi)
}
