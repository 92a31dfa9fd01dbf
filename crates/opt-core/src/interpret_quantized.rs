//! The reference interpreter of quantized networks: the meaning of a [`QModel`], code by code.

use crate::interpret::{self, pad, pool, slice, taps};
use crate::op::Window;
use crate::qmodel::{Activation, QModel, QNode, QOp, QWeight};
use crate::qparams::round_clamp_u8;
use crate::{CoreError, Params, Result};

/// The value of a node, flat.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Codes.
    Codes(Vec<u8>),
    /// Numbers.
    Float(Vec<f32>),
}

impl Value {
    /// Its codes; none if it is f32.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        match self {
            Self::Codes(codes) => codes,
            Self::Float(_) => &[],
        }
    }

    /// Its numbers; none if it is codes.
    #[must_use]
    pub fn floats(&self) -> &[f32] {
        match self {
            Self::Codes(_) => &[],
            Self::Float(numbers) => numbers,
        }
    }
}

/// What a run leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// The value of every node, in graph order.
    pub values: Vec<Value>,
    /// All outputs, one after another.
    pub outputs: Vec<f32>,
}

impl Trace {
    /// The codes of every node, in graph order; empty where the value is f32.
    pub fn codes(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.values.iter().map(Value::codes)
    }
}

/// Runs one image of bytes (`[C, H, W]`) through `model`.
///
/// # Errors
///
/// Those of [`QModel::validate`], or [`CoreError::Length`] if `image` is not one image.
pub fn run(model: &QModel, image: &[u8]) -> Result<Trace> {
    let interpreter = Interpreter::new(model)?;
    let mut values: Vec<Value> = Vec::with_capacity(model.nodes.len());
    for id in 0..model.nodes.len() {
        let operands: Vec<&Value> = model.nodes[id].inputs.iter().map(|i| &values[*i]).collect();
        let value = interpreter.node(id, image, &operands)?;
        values.push(value);
    }
    let outputs = model.outputs.iter().flat_map(|o| values[o.node].floats());
    Ok(Trace {
        outputs: outputs.copied().collect(),
        values,
    })
}

/// A network that was found sound, to be interpreted node by node.
///
/// What stands behind f32 operators may differ between executors, whose sums are in another order: then each node is compared by
/// giving the interpreter the other executor's operands.
#[derive(Debug)]
pub struct Interpreter<'a> {
    model: &'a QModel,
    shapes: Vec<Vec<usize>>,
}

impl<'a> Interpreter<'a> {
    /// Checks the network.
    ///
    /// # Errors
    ///
    /// Those of [`QModel::validate`].
    pub fn new(model: &'a QModel) -> Result<Self> {
        let shapes = model.validate()?;
        Ok(Self { model, shapes })
    }

    /// The shape of every node's value.
    #[must_use]
    pub fn shapes(&self) -> &[Vec<usize>] {
        &self.shapes
    }

    /// The value of a node for these operands; the first node takes `image`.
    ///
    /// # Errors
    ///
    /// [`CoreError::Length`] for an image or an operand of another size or kind.
    pub fn node(&self, id: usize, image: &[u8], operands: &[&Value]) -> Result<Value> {
        let node = &self.model.nodes[id];
        let length = |what: String, found: usize, expected: usize| CoreError::Length {
            what,
            found,
            expected,
        };
        let pixels: usize = self.shapes[0].iter().product();
        if image.len() != pixels {
            return Err(length("one image".to_owned(), image.len(), pixels));
        }
        if operands.len() != node.inputs.len() {
            let what = format!("operands of `{}`", node.name);
            return Err(length(what, operands.len(), node.inputs.len()));
        }
        for (input, operand) in node.inputs.iter().zip(operands) {
            let elements: usize = self.shapes[*input].iter().product();
            let source = &self.model.nodes[*input];
            let found = match source.activation {
                Some(_) => operand.codes().len(),
                None => operand.floats().len(),
            };
            if found != elements {
                let what = format!("the value of `{}`", source.name);
                return Err(length(what, found, elements));
            }
        }
        let operand = |i: usize| -> Operand<'_> {
            node.inputs.get(i).map_or(Operand::NONE, |&n| Operand {
                value: operands[i],
                activation: self.model.nodes[n].activation.as_ref().unwrap_or(&NONE),
                shape: &self.shapes[n],
            })
        };
        let inputs: Vec<Operand<'_>> = (0..node.inputs.len().max(1)).map(operand).collect();
        Ok(value(
            &self.model.params,
            node,
            image,
            &inputs,
            &self.shapes[id],
        ))
    }
}

/// A value that is read.
struct Operand<'a> {
    value: &'a Value,
    activation: &'a Activation,
    shape: &'a [usize],
}

/// What stands for the meaning of values that have no codes.
static NONE: Activation = Activation {
    scale: 1.0,
    zero_points: Vec::new(),
    lo: 0,
    hi: u8::MAX,
};

impl Operand<'_> {
    const NONE: Self = Operand {
        value: &Value::Float(Vec::new()),
        activation: &NONE,
        shape: &[],
    };
}

fn value(
    params: &Params,
    node: &QNode,
    image: &[u8],
    operands: &[Operand<'_>],
    out_shape: &[usize],
) -> Value {
    let (x, x_act, in_shape) = (
        operands[0].value.codes(),
        operands[0].activation,
        operands[0].shape,
    );
    let y_act = node.activation.as_ref().unwrap_or(&NONE);
    let requantize = |f: f32| round_clamp_u8(f, y_act.zero_points[0], y_act.lo, y_act.hi);
    let codes: Vec<u8> = match &node.op {
        QOp::Input => image.to_vec(),
        QOp::Conv {
            weight,
            bias,
            window,
            group,
        } => {
            let acc = conv(x, x_act, in_shape, out_shape, weight, bias, window, *group);
            let plane = out_shape[1] * out_shape[2];
            let residual = operands.get(1);
            let finish = |(i, acc): (usize, &i32)| {
                let m = x_act.scale * weight.scales[i / plane] / y_act.scale;
                let mut f = *acc as f32 * m;
                if let Some(r) = residual {
                    let centred = i32::from(r.value.codes()[i]) - r.activation.zero(0);
                    f += centred as f32 * (r.activation.scale / y_act.scale);
                }
                requantize(f)
            };
            acc.iter().enumerate().map(finish).collect()
        }
        QOp::Gemm { weight, bias } => {
            let finish = |(o, acc): (usize, i32)| {
                let m = x_act.scale * weight.scales[o] / y_act.scale;
                requantize(acc as f32 * m)
            };
            let acc = gemm(x, x_act, weight, bias);
            acc.into_iter().enumerate().map(finish).collect()
        }
        QOp::Logits { weight, bias } => {
            let acc = gemm(x, x_act, weight, bias);
            let scaled = acc.iter().zip(&weight.scales);
            let logits = scaled.map(|(a, s)| *a as f32 * (x_act.scale * s));
            return Value::Float(logits.collect());
        }
        QOp::Add => {
            let (b, b_act) = (operands[1].value.codes(), operands[1].activation);
            let scales = [x_act.scale / y_act.scale, b_act.scale / y_act.scale];
            let sum = |(a, b): (&u8, &u8)| {
                let a = (i32::from(*a) - x_act.zero(0)) as f32 * scales[0];
                let b = (i32::from(*b) - b_act.zero(0)) as f32 * scales[1];
                requantize(a + b)
            };
            x.iter().zip(b).map(sum).collect()
        }
        QOp::Table { table, .. } => x.iter().map(|q| table[usize::from(*q)]).collect(),
        QOp::MaxPool(window) => pool(in_shape, out_shape, window, |positions| {
            positions.map(|i| x[i]).max().unwrap_or(0)
        }),
        QOp::AveragePool(window) => pool(in_shape, out_shape, window, |positions| {
            requantize(mean(positions.map(|i| x[i]), x_act, y_act))
        }),
        QOp::GlobalAveragePool => {
            let planes = x.chunks_exact(in_shape[1] * in_shape[2]);
            let of = |plane: &[u8]| requantize(mean(plane.iter().copied(), x_act, y_act));
            planes.map(of).collect()
        }
        QOp::Flatten => x.to_vec(),
        QOp::Slice { start, step, .. } => slice(x, in_shape, out_shape, start, step),
        QOp::Pad { begin, .. } => pad(x, in_shape, out_shape, begin, x_act.zero_points[0]),
        QOp::Clamp => x.iter().map(|q| *q.clamp(&y_act.lo, &y_act.hi)).collect(),
        QOp::Quantize => {
            let numbers = operands[0].value.floats();
            numbers
                .iter()
                .map(|v| requantize(v / y_act.scale))
                .collect()
        }
        QOp::Dequantize => {
            let plane = (x.len() / in_shape[0]).max(1);
            let number =
                |(i, q): (usize, &u8)| (i32::from(*q) - x_act.zero(i / plane)) as f32 * x_act.scale;
            return Value::Float(x.iter().enumerate().map(number).collect());
        }
        QOp::Float(op) => {
            let operands: Vec<interpret::Operand<'_>> = operands
                .iter()
                .map(|o| (o.value.floats(), o.shape))
                .collect();
            return Value::Float(interpret::value(op, params, &operands, out_shape));
        }
    };
    Value::Codes(codes)
}

/// The mean of codes, in scales of the result.
fn mean(codes: impl Iterator<Item = u8>, x: &Activation, y: &Activation) -> f32 {
    let mut n = 0i32;
    let centred = codes.inspect(|_| n += 1).map(|q| i32::from(q) - x.zero(0));
    let sum: i32 = centred.sum();
    sum as f32 * (x.scale / (y.scale * n as f32))
}

#[expect(
    clippy::too_many_arguments,
    reason = "a convolution has this many parts"
)]
fn conv(
    x: &[u8],
    activation: &Activation,
    in_shape: &[usize],
    out_shape: &[usize],
    weight: &QWeight,
    bias: &[i32],
    window: &Window,
    group: usize,
) -> Vec<i32> {
    let per_group = in_shape[0] / group;
    let out_per_group = out_shape[0] / group;
    let in_plane = in_shape[1] * in_shape[2];
    let out_plane = out_shape[1] * out_shape[2];
    let centred: Vec<i32> = x
        .iter()
        .enumerate()
        .map(|(i, q)| i32::from(*q) - activation.zero(i / in_plane))
        .collect();
    // Which pixel each tap reads at each output position, the same for all channels.
    let mut reads: Vec<Vec<(usize, usize)>> = vec![Vec::with_capacity(out_plane); window.area()];
    for (position, (i, j)) in (0..out_shape[1])
        .flat_map(|i| (0..out_shape[2]).map(move |j| (i, j)))
        .enumerate()
    {
        for (tap, pixel) in taps(in_shape, window, i, j) {
            reads[tap].push((position, pixel));
        }
    }
    let mut acc = Vec::with_capacity(out_shape[0] * out_plane);
    for (o, b) in bias.iter().enumerate() {
        let filter = weight.filter(o);
        let first = o / out_per_group * per_group;
        let mut plane = vec![*b; out_plane];
        for c in 0..per_group {
            let channel = &centred[(first + c) * in_plane..][..in_plane];
            for (tap, reads) in reads.iter().enumerate() {
                let w = i32::from(filter[c * window.area() + tap]);
                if w != 0 {
                    for &(position, pixel) in reads {
                        plane[position] += w * channel[pixel];
                    }
                }
            }
        }
        acc.extend(plane);
    }
    acc
}

fn gemm(x: &[u8], activation: &Activation, weight: &QWeight, bias: &[i32]) -> Vec<i32> {
    let row = |(o, b): (usize, &i32)| {
        let products = x.iter().zip(weight.filter(o));
        b + products
            .map(|(q, w)| (i32::from(*q) - activation.zero(0)) * i32::from(w))
            .sum::<i32>()
    };
    bias.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests;
