//! Small integer networks with made-up codes that meet every operator and every odd case.

use ndarray::ArrayD;
use opt_core::lower::code_table;
use opt_core::op::{Unary, Window};
use opt_core::qmodel::{Activation, QModel, QNode, QOp, QWeight};
use opt_core::{InputSpec, Op, Output, Params};

pub(crate) struct Net {
    pub(crate) name: &'static str,
    pub(crate) model: QModel,
    /// Whether one convolution reads the image, so that it can be padded outside.
    pub(crate) has_stem: bool,
}

pub(crate) const IMAGES: usize = 2;

/// Every network.
pub(crate) fn nets() -> Vec<Net> {
    let net = |name, has_stem, model| Net {
        name,
        model,
        has_stem,
    };
    vec![
        net("residual", true, residual()),
        net("odd", true, odd()),
        net("grouped_stem", true, grouped_stem()),
        net("pooled_image", false, pooled_image()),
        net("mixed", false, mixed()),
    ]
}

/// `IMAGES` images of bytes that use the whole range.
pub(crate) fn images(net: &Net) -> Vec<Vec<u8>> {
    let pixels = net.model.input.shape.iter().product();
    let mut random = Random(77);
    (0..IMAGES)
        .map(|_| (0..pixels).map(|_| random.byte()).collect())
        .collect()
}

/// A basic block, then one with stride 2 and a shortcut of slicing and padding; a zero point per channel of the image.
fn residual() -> QModel {
    let mut b = Builder::new([3, 12, 12], &[125, 123, 114], 10);
    let window = Window::square(3, 1, 1);
    let relu = Limits::relu(0);
    let x = b.conv("relu", 0, [3, 8], window, 1, relu, 8);
    let y = b.conv("layer1.relu1", x, [8, 8], window, 1, relu, 8);
    let y = b.conv("layer1.conv2", y, [8, 8], window, 1, Limits::none(119), 8);
    let x = b.add("layer1.relu2", y, x, relu);
    let y = b.conv(
        "layer2.relu1",
        x,
        [8, 16],
        Window::square(3, 2, 1),
        1,
        relu,
        8,
    );
    let y = b.conv("layer2.conv2", y, [16, 16], window, 1, Limits::none(131), 8);
    let slice = QOp::Slice {
        start: vec![0, 0, 0],
        end: vec![8, 12, 12],
        step: vec![1, 2, 2],
    };
    let x = b.keep("layer2.slice", slice, x);
    let pad = QOp::Pad {
        begin: vec![4, 0, 0],
        end: vec![4, 0, 0],
    };
    let x = b.keep("layer2.pad", pad, x);
    let x = b.add("layer2.relu2", y, x, relu);
    let x = b.mean("avgpool", QOp::GlobalAveragePool, x, 0);
    let x = b.keep("flatten", QOp::Flatten, x);
    b.logits("linear", x, 16, 8)
}

/// Odd numbers of channels, limits inside the byte, narrow weights, zero points that are not 0, uneven padding.
fn odd() -> QModel {
    let mut b = Builder::new([2, 11, 9], &[7, 7], 3);
    let stem = Window {
        kernel: [3, 3],
        stride: [2, 1],
        pads: [0, 1, 2, 0],
    };
    let x = b.conv("stem", 0, [2, 5], stem, 1, Limits::clip(13, 200), 8);
    let depthwise = Window {
        kernel: [3, 2],
        stride: [1, 1],
        pads: [1, 0, 1, 1],
    };
    let x = b.conv(
        "depthwise",
        x,
        [5, 5],
        depthwise,
        5,
        Limits::clip(0, 180),
        4,
    );
    let x = b.keep("maxpool", QOp::MaxPool(Window::square(3, 2, 1)), x);
    let x = b.conv(
        "pointwise",
        x,
        [5, 7],
        Window::square(1, 1, 0),
        1,
        Limits::none(90),
        8,
    );
    let x = b.clamp("clamp", x, 25, 95);
    let pad = QOp::Pad {
        begin: vec![0, 1, 0],
        end: vec![1, 0, 2],
    };
    let x = b.keep("pad", pad, x);
    let average = Window {
        kernel: [2, 2],
        stride: [1, 1],
        pads: [1, 0, 0, 1],
    };
    let x = b.mean("avgpool", QOp::AveragePool(average), x, 21);
    let slice = QOp::Slice {
        start: vec![1, 0, 1],
        end: vec![8, 3, 6],
        step: vec![2, 1, 3],
    };
    let x = b.keep("slice", slice, x);
    let x = b.keep("flatten", QOp::Flatten, x);
    let x = b.gemm("hidden", x, [24, 6], Limits::relu(10));
    b.logits("linear", x, 6, 3)
}

/// Each channel of the image with its own zero point in its own group.
fn grouped_stem() -> QModel {
    let mut b = Builder::new([3, 9, 9], &[10, 200, 128], 4);
    let stem = Window {
        kernel: [2, 3],
        stride: [2, 1],
        pads: [0, 1, 2, 0],
    };
    let x = b.conv("stem", 0, [3, 6], stem, 3, Limits::relu(0), 8);
    let x = b.mean("avgpool", QOp::GlobalAveragePool, x, 5);
    let x = b.keep("flatten", QOp::Flatten, x);
    b.logits("linear", x, 6, 8)
}

/// Something else than a convolution reads the image, whose zero point is one for all.
fn pooled_image() -> QModel {
    let mut b = Builder::new([1, 10, 10], &[128], 2);
    let x = b.keep("maxpool", QOp::MaxPool(Window::square(2, 2, 0)), 0);
    let x = b.conv(
        "conv",
        x,
        [1, 4],
        Window::square(3, 1, 1),
        1,
        Limits::relu(0),
        8,
    );
    let x = b.keep("flatten", QOp::Flatten, x);
    b.logits("linear", x, 100, 8)
}

/// The image's own numbers through a convolution in f32, codes of 6 bits, `HardSwish` as a table, and f32 again at the end.
fn mixed() -> QModel {
    let mut b = Builder::new([3, 8, 7], &[125, 123, 114], 5);
    let image = b.push("input/f32", QOp::Dequantize, &[0], None);
    let window = Window {
        kernel: [3, 3],
        stride: [2, 1],
        pads: [1, 1, 0, 2],
    };
    let conv = Op::Conv {
        weight: b.param("stem.weight", &[6, 3, 3, 3], 0.004),
        bias: Some(b.param("stem.bias", &[6], 0.5)),
        window,
        group: 1,
    };
    let x = b.push("stem", QOp::Float(conv), &[image], None);
    let norm = Op::BatchNormalization {
        scale: None,
        bias: b.param("norm.bias", &[6], 0.3),
        mean: b.param("norm.mean", &[6], 0.2),
        var: b.param("norm.var", &[6], 0.5),
        epsilon: 1.0,
        momentum: 0.1,
    };
    let x = b.push("norm", QOp::Float(norm), &[x], None);
    let swish = QOp::Float(Op::Unary(Unary::HardSwish));
    let x = b.push("swish", swish, &[x], None);
    // Codes of 6 bits.
    let y = Activation::new(0.05, 9).within(0, 63);
    let x = b.push("swish/codes", QOp::Quantize, &[x], Some(y));
    let window = Window::square(3, 1, 1);
    let x = b.conv("conv", x, [6, 8], window, 1, Limits::none(120), 8);
    let x_codes = b.model.nodes[x].activation.clone().unwrap();
    let y = Activation::new(0.02, 20);
    let table = code_table(Unary::HardSwish, &x_codes, &y);
    let op = QOp::Table {
        function: Unary::HardSwish,
        table: Box::new(table),
    };
    let x = b.push("act", op, &[x], Some(y));
    let x = b.mean("avgpool", QOp::GlobalAveragePool, x, 30);
    let x = b.keep("flatten", QOp::Flatten, x);
    let x = b.push("flatten/f32", QOp::Dequantize, &[x], None);
    let gemm = Op::Gemm {
        weight: b.param("linear.weight", &[5, 8], 0.7),
        bias: Some(b.param("linear.bias", &[5], 0.5)),
    };
    let node = b.push("linear", QOp::Float(gemm), &[x], None);
    b.model.outputs[0].node = node;
    b.model.validate().unwrap();
    b.model
}

/// Zero point, smallest and largest code of a result.
#[derive(Clone, Copy)]
struct Limits {
    zero: u8,
    lo: u8,
    hi: u8,
}

impl Limits {
    fn none(zero: u8) -> Self {
        Self {
            zero,
            lo: 0,
            hi: 255,
        }
    }

    fn relu(zero: u8) -> Self {
        Self::clip(zero, 255)
    }

    fn clip(zero: u8, hi: u8) -> Self {
        Self { zero, lo: zero, hi }
    }

    fn codes(self, scale: f32) -> Option<Activation> {
        Some(Activation::new(scale, self.zero).within(self.lo, self.hi))
    }
}

/// Numerical Recipes' generator: the same numbers everywhere, and all that is asked of them is to be uneven.
struct Random(u32);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0.to_be_bytes()[0]
    }

    /// Between 0 and 1.
    fn share(&mut self) -> f32 {
        f32::from(self.byte()) / 255.0
    }
}

struct Builder {
    model: QModel,
    random: Random,
}

impl Builder {
    fn new(shape: [usize; 3], zero_points: &[u8], classes: usize) -> Self {
        let input = QNode {
            name: "input".to_owned(),
            op: QOp::Input,
            inputs: Vec::new(),
            activation: Some(Activation {
                zero_points: zero_points.to_vec(),
                ..Activation::new(1.0, 0)
            }),
        };
        Self {
            model: QModel {
                nodes: vec![input],
                params: Params::new(),
                outputs: vec![Output {
                    node: 0,
                    labels: (0..classes).map(|c| format!("class \"{c}\"")).collect(),
                }],
                input: InputSpec {
                    shape,
                    mean: vec![0.5; shape[0]],
                    std: vec![0.25; shape[0]],
                    preparation: opt_core::Preparation::usual(shape),
                },
            },
            random: Random(1),
        }
    }

    fn push(
        &mut self,
        name: &str,
        op: QOp,
        inputs: &[usize],
        activation: Option<Activation>,
    ) -> usize {
        self.model.nodes.push(QNode {
            name: name.to_owned(),
            op,
            inputs: inputs.to_vec(),
            activation,
        });
        self.model.nodes.len() - 1
    }

    /// Numbers from 0 to `largest` for variances, else to both sides of 0.
    fn param(&mut self, name: &str, shape: &[usize], largest: f32) -> String {
        let low = if name.ends_with("var") { 0.0 } else { -largest };
        let draw = || low + (largest - low) * self.random.share();
        let values = ArrayD::from_shape_simple_fn(shape, draw).into_shared();
        self.model.params.insert(name.to_owned(), values);
        name.to_owned()
    }

    fn scale(&self, id: usize) -> f32 {
        self.model.nodes[id].activation.as_ref().unwrap().scale
    }

    /// Codes over the whole width, and scales that bring results of centred codes to most of the byte.
    fn weight(&mut self, shape: &[usize], bits: u8, x_scale: f32, y_scale: f32) -> QWeight {
        let limit = QWeight::code_limit(bits);
        let fan_in: usize = shape[1..].iter().product();
        let code = |r: u8| {
            let width = 2 * i32::from(limit) + 1;
            i8::try_from(i32::from(r) * width / 256 - i32::from(limit)).unwrap()
        };
        let codes = ArrayD::from_shape_simple_fn(shape, || code(self.random.byte()));
        let multiplier = 1.2 / (f32::from(limit) * (fan_in as f32).sqrt());
        let scales = (0..shape[0])
            .map(|_| multiplier * y_scale / x_scale * (0.75 + 0.5 * self.random.share()))
            .collect();
        QWeight {
            codes,
            scales,
            bits,
        }
    }

    fn bias(&mut self, n: usize, fan_in: usize, bits: u8) -> Vec<i32> {
        let step = i32::try_from(fan_in).unwrap() * i32::from(QWeight::code_limit(bits)) / 6;
        (0..n)
            .map(|_| (i32::from(self.random.byte()) - 128) * step)
            .collect()
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a convolution has this many parts"
    )]
    fn conv(
        &mut self,
        name: &str,
        x: usize,
        [n_in, n_out]: [usize; 2],
        window: Window,
        group: usize,
        limits: Limits,
        bits: u8,
    ) -> usize {
        let n_in = n_in / group;
        let y_scale = 0.02 + 0.03 * self.random.share();
        let [kh, kw] = window.kernel;
        let weight = self.weight(&[n_out, n_in, kh, kw], bits, self.scale(x), y_scale);
        let bias = self.bias(n_out, n_in * kh * kw, bits);
        let op = QOp::Conv {
            weight,
            bias,
            window,
            group,
        };
        self.push(name, op, &[x], limits.codes(y_scale))
    }

    fn gemm(&mut self, name: &str, x: usize, [n_in, n]: [usize; 2], limits: Limits) -> usize {
        let weight = self.weight(&[n, n_in], 8, self.scale(x), 0.03);
        let bias = self.bias(n, n_in, 8);
        let op = QOp::Gemm { weight, bias };
        self.push(name, op, &[x], limits.codes(0.03))
    }

    fn add(&mut self, name: &str, a: usize, b: usize, limits: Limits) -> usize {
        let scale = 0.7 * (self.scale(a) + self.scale(b));
        self.push(name, QOp::Add, &[a, b], limits.codes(scale))
    }

    fn mean(&mut self, name: &str, op: QOp, x: usize, zero: u8) -> usize {
        let scale = 0.8 * self.scale(x);
        self.push(name, op, &[x], Limits::none(zero).codes(scale))
    }

    fn keep(&mut self, name: &str, op: QOp, x: usize) -> usize {
        let x_codes = self.model.nodes[x].activation.clone().unwrap();
        let zero = x_codes.zero_points[0];
        let (lo, hi) = match op {
            QOp::Pad { .. } => (x_codes.lo.min(zero), x_codes.hi.max(zero)),
            _ => (x_codes.lo, x_codes.hi),
        };
        self.push(name, op, &[x], Some(x_codes.within(lo, hi)))
    }

    fn clamp(&mut self, name: &str, x: usize, lo: u8, hi: u8) -> usize {
        let x_codes = self.model.nodes[x].activation.clone().unwrap();
        self.push(name, QOp::Clamp, &[x], Some(x_codes.within(lo, hi)))
    }

    fn logits(mut self, name: &str, x: usize, n_in: usize, bits: u8) -> QModel {
        let n = self.model.labels().len();
        let weight = self.weight(&[n, n_in], bits, self.scale(x), 0.1);
        let bias = self.bias(n, n_in, bits);
        let node = self.push(name, QOp::Logits { weight, bias }, &[x], None);
        self.model.outputs[0].node = node;
        self.model.validate().unwrap();
        self.model
    }
}
