//! The integer network: what is stored, interpreted and executed.
//!
//! ```text
//! weights  : s8, per output channel, symmetric, narrow range ±(2^(bits-1) - 1), zero point 0
//! edges    : u8 with a zero point each; the input image has scale 1 and a zero point per channel
//! acc      : i32 = bias + Σ (q_x - z_x)·q_w          padding has q_x = z_x and so adds nothing
//! requant  : f = (acc as f32)·m[o],   m[o] = (s_x·s_w[o])/s_y in f32, in that order
//! residual : f = f + ((r - z_r) as f32)·(s_r/s_y)    two roundings, no fused multiply-add
//!            q = clamp(round_half_even(f) + z_y, lo, hi)
//! Add      : f = ((a - z_a) as f32)·(s_a/s_y) + ((b - z_b) as f32)·(s_b/s_y), then as above
//! averages : f = (Σ (q_x - z_x) as f32)·(s_x/(s_y·N)), then as above
//! logits   : f32 = (acc as f32)·(s_x·s_w[o])
//! others   : MaxPool, Flatten, Slice, Pad and Clamp move or compare codes; their edge is their input's
//! ```

use ndarray::ArrayD;

use crate::op::Window;
use crate::shape::{MAX_ELEMENTS, fits};
use crate::{CoreError, InputSpec, Result};

/// A weight as integer codes with a scale per output channel.
#[derive(Debug, Clone, PartialEq)]
pub struct QWeight {
    /// Codes in the shape of the f32 weight, within ±(2^(bits-1) - 1).
    pub codes: ArrayD<i8>,
    /// One scale per output channel (axis 0).
    pub scales: Vec<f32>,
    /// Width of a code, 2 to 8.
    pub bits: u8,
}

impl QWeight {
    /// The largest code, and the negative of the smallest.
    ///
    /// ```
    /// assert_eq!(opt_core::qmodel::QWeight::code_limit(4), 7);
    /// ```
    #[must_use]
    pub fn code_limit(bits: u8) -> i8 {
        i8::MAX >> (8 - bits.clamp(2, 8))
    }

    /// The numbers that the codes stand for: `code · scale[o]`.
    #[must_use]
    pub fn dequantize(&self) -> ArrayD<f32> {
        let mut out = self.codes.mapv(f32::from);
        for (mut filter, scale) in out.outer_iter_mut().zip(&self.scales) {
            filter.mapv_inplace(|q| q * scale);
        }
        out
    }

    /// The codes of output channel `o`, flat.
    pub(crate) fn filter(&self, o: usize) -> Vec<i8> {
        let mut filter = Vec::with_capacity(self.codes.len() / self.scales.len().max(1));
        filter.extend(self.codes.index_axis(ndarray::Axis(0), o));
        filter
    }
}

/// What the codes of an edge mean.
#[derive(Debug, Clone, PartialEq)]
pub struct QEdge {
    /// The distance between neighbouring codes.
    pub scale: f32,
    /// The code of real zero: one for the edge, or one per channel (the input image).
    pub zero_points: Vec<u8>,
}

impl QEdge {
    /// The zero point of channel `c`.
    #[must_use]
    pub fn zero(&self, c: usize) -> i32 {
        i32::from(self.zero_points[if self.zero_points.len() == 1 { 0 } else { c }])
    }
}

/// An integer operator.
#[derive(Debug, Clone, PartialEq)]
pub enum QOp {
    /// The image as bytes, `[C, H, W]`.
    Input,
    /// Convolution with one requantization; a second input, if there is one, is added before rounding.
    Conv {
        /// Codes, `[O, I/group, kH, kW]`.
        weight: QWeight,
        /// `round(b / (s_x·s_w[o]))` per output channel.
        bias: Vec<i32>,
        /// Kernel, stride and padding.
        window: Window,
        /// Number of groups.
        group: usize,
        /// The smallest code of the result: its zero point where a ReLU is fused, else 0.
        lo: u8,
        /// The largest code of the result.
        hi: u8,
    },
    /// Matrix times vector, requantized.
    Gemm {
        /// Codes, `[O, I]`.
        weight: QWeight,
        /// As for Conv.
        bias: Vec<i32>,
        /// As for Conv.
        lo: u8,
        /// As for Conv.
        hi: u8,
    },
    /// Matrix times vector with f32 result: the last node.
    Logits {
        /// Codes, `[O, I]`.
        weight: QWeight,
        /// As for Conv.
        bias: Vec<i32>,
    },
    /// Sum of two edges of one shape.
    Add {
        /// As for Conv.
        lo: u8,
        /// As for Conv.
        hi: u8,
    },
    /// Maximum of the codes under the window; padding never wins.
    MaxPool(Window),
    /// Mean under the window, padding not counted.
    AveragePool(Window),
    /// Mean over all positions.
    GlobalAveragePool,
    /// `[C, H, W]` to `[C·H·W]`.
    Flatten,
    /// As [`crate::Op::Slice`].
    Slice {
        /// First index per axis.
        start: Vec<usize>,
        /// End index per axis, exclusive.
        end: Vec<usize>,
        /// Step per axis.
        step: Vec<usize>,
    },
    /// As [`crate::Op::Pad`], filled with the zero point.
    Pad {
        /// Before each axis.
        begin: Vec<usize>,
        /// After each axis.
        end: Vec<usize>,
    },
    /// Limits the codes.
    Clamp {
        /// The smallest code.
        lo: u8,
        /// The largest code.
        hi: u8,
    },
}

impl QOp {
    /// The operator's name in files and reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input => "Input",
            Self::Conv { .. } => "Conv",
            Self::Gemm { .. } => "Gemm",
            Self::Logits { .. } => "Logits",
            Self::Add { .. } => "Add",
            Self::MaxPool(_) => "MaxPool",
            Self::AveragePool(_) => "AveragePool",
            Self::GlobalAveragePool => "GlobalAveragePool",
            Self::Flatten => "Flatten",
            Self::Slice { .. } => "Slice",
            Self::Pad { .. } => "Pad",
            Self::Clamp { .. } => "Clamp",
        }
    }

    /// Its weight and bias, where it has them.
    #[must_use]
    pub fn weight(&self) -> Option<(&QWeight, &[i32])> {
        match self {
            Self::Conv { weight, bias, .. }
            | Self::Gemm { weight, bias, .. }
            | Self::Logits { weight, bias } => Some((weight, bias)),
            _ => None,
        }
    }

    /// Whether its result has its input's codes, moved or compared but never computed.
    #[must_use]
    pub fn keeps_codes(&self) -> bool {
        matches!(
            self,
            Self::MaxPool(_)
                | Self::Flatten
                | Self::Slice { .. }
                | Self::Pad { .. }
                | Self::Clamp { .. }
        )
    }
}

/// A node of the integer network.
#[derive(Debug, Clone, PartialEq)]
pub struct QNode {
    /// The name of the f32 node whose value it holds.
    pub name: String,
    /// What it computes.
    pub op: QOp,
    /// Where its operands come from; each is smaller than this node's index.
    pub inputs: Vec<usize>,
    /// What its codes mean; `None` for [`QOp::Logits`] alone.
    pub edge: Option<QEdge>,
}

/// An integer network: nodes in topological order, the last one [`QOp::Logits`].
#[derive(Debug, Clone, PartialEq)]
pub struct QModel {
    /// The nodes. `nodes[0]` is the only [`QOp::Input`].
    pub nodes: Vec<QNode>,
    /// Size and labels of the input. Its mean and deviation are already inside the weights; they are kept for readers.
    pub input: InputSpec,
}

impl QModel {
    /// The shape of every node's value. Checks everything that execution relies on, so that a network that passes
    /// cannot panic or overflow, whatever the image.
    ///
    /// # Errors
    ///
    /// Names the first node that is wrong.
    pub fn validate(&self) -> Result<Vec<Vec<usize>>> {
        self.input.validate()?;
        let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(self.nodes.len());
        for (id, node) in self.nodes.iter().enumerate() {
            let shape = self
                .node_shape(id, &shapes)
                .map_err(|problem| CoreError::Graph {
                    node: node.name.clone(),
                    problem: format!("{}: {problem}", node.op.name()),
                })?;
            shapes.push(shape);
        }
        self.check_logits()?;
        let classes = self.input.labels.len();
        match self.nodes.last().zip(shapes.last()) {
            Some((node, shape)) if matches!(node.op, QOp::Logits { .. }) && *shape == [classes] => {
                Ok(shapes)
            }
            _ => Err(CoreError::Graph {
                node: "output".to_owned(),
                problem: format!("the last node must be Logits of {classes} classes"),
            }),
        }
    }

    /// Logits before the end would be taken for the result, or for a value with codes.
    fn check_logits(&self) -> Result<()> {
        let before_the_end = self.nodes.split_last().map_or(&[][..], |(_, nodes)| nodes);
        let logits = |node: &&QNode| matches!(node.op, QOp::Logits { .. });
        match before_the_end.iter().find(logits) {
            None => Ok(()),
            Some(node) => Err(CoreError::Graph {
                node: node.name.clone(),
                problem: "Logits: expected once, as the last node, which gives the result"
                    .to_owned(),
            }),
        }
    }

    fn node_shape(
        &self,
        id: usize,
        shapes: &[Vec<usize>],
    ) -> std::result::Result<Vec<usize>, String> {
        let node = &self.nodes[id];
        let arity = match node.op {
            QOp::Input => 0..=0,
            QOp::Add { .. } => 2..=2,
            QOp::Conv { .. } => 1..=2,
            _ => 1..=1,
        };
        if !arity.contains(&node.inputs.len()) || node.inputs.iter().any(|&i| i >= id) {
            return Err(format!(
                "inputs {:?}, expected {arity:?} of earlier nodes",
                node.inputs
            ));
        }
        if (id == 0) != (node.op == QOp::Input) {
            return Err("exactly the first node must be the Input".to_owned());
        }
        let in_edge = |i: usize| -> std::result::Result<&QEdge, String> {
            let source = &self.nodes[node.inputs[i]];
            let edge = source.edge.as_ref();
            edge.ok_or_else(|| format!("reads `{}`, which has no codes", source.name))
        };
        let x: &[usize] = node.inputs.first().map_or(&[], |&i| &shapes[i]);
        let image = || -> std::result::Result<[usize; 3], String> {
            x.try_into()
                .map_err(|_| format!("reads {x:?}, expected [C, H, W]"))
        };
        let windowed = |window: &Window, channels: usize| {
            let [_, h, w] = image()?;
            let out = window.output([h, w]);
            out.map(|[h, w]| vec![channels, h, w])
                .ok_or_else(|| format!("{window:?} does not fit {x:?}"))
        };
        let pooled = |window: &Window| {
            if (0..4).any(|i| window.pads[i] >= window.kernel[i % 2]) {
                return Err(format!("the padding of {window:?} reaches the kernel"));
            }
            windowed(window, image()?[0])
        };
        let shape = match &node.op {
            QOp::Input => self.input.shape.to_vec(),
            QOp::Conv {
                weight,
                bias,
                window,
                group,
                ..
            } => {
                let [c, ..] = image()?;
                let out = weight.scales.len();
                if *group == 0 || c % group != 0 || out % group != 0 {
                    return Err(format!("{c} and {out} channels in {group} groups"));
                }
                let [kh, kw] = window.kernel;
                check_weight(weight, bias, &[out, c / group, kh, kw])?;
                let y = windowed(window, out)?;
                if node.inputs.len() == 2 && shapes[node.inputs[1]] != y {
                    return Err(format!("adds {:?} to {y:?}", shapes[node.inputs[1]]));
                }
                y
            }
            QOp::Gemm { weight, bias, .. } | QOp::Logits { weight, bias } => {
                let out = weight.scales.len();
                let [features] = x else {
                    return Err(format!("reads {x:?}, expected [F]"));
                };
                check_weight(weight, bias, &[out, *features])?;
                vec![out]
            }
            QOp::Add { .. } => {
                if x != shapes[node.inputs[1]] {
                    return Err(format!("adds {:?} to {x:?}", shapes[node.inputs[1]]));
                }
                x.to_vec()
            }
            QOp::MaxPool(window) | QOp::AveragePool(window) => pooled(window)?,
            QOp::GlobalAveragePool => vec![image()?[0], 1, 1],
            QOp::Flatten => vec![x.iter().product()],
            QOp::Slice { start, end, step } => {
                let fits = start.len() == x.len()
                    && end.len() == x.len()
                    && step.len() == x.len()
                    && (0..x.len()).all(|i| step[i] > 0 && start[i] < end[i] && end[i] <= x[i]);
                if !fits {
                    return Err(format!("{start:?} to {end:?} by {step:?} is not in {x:?}"));
                }
                (0..x.len())
                    .map(|i| (end[i] - start[i]).div_ceil(step[i]))
                    .collect()
            }
            QOp::Pad { begin, end } => {
                if begin.len() != x.len() || end.len() != x.len() {
                    return Err(format!("{begin:?} and {end:?} for {x:?}"));
                }
                (0..x.len())
                    .map(|i| begin[i].saturating_add(x[i]).saturating_add(end[i]))
                    .collect()
            }
            QOp::Clamp { .. } => x.to_vec(),
        };
        if !fits(&shape) {
            return Err(format!(
                "its shape is {shape:?}, expected 1 to {MAX_ELEMENTS} elements"
            ));
        }
        let averaged = match &node.op {
            QOp::AveragePool(window) => window.area(),
            QOp::GlobalAveragePool => x[1] * x[2],
            _ => 0,
        };
        if averaged > MAX_AVERAGED {
            return Err(format!(
                "averages {averaged} values, at most {MAX_AVERAGED} have an exact sum"
            ));
        }
        let logits = matches!(node.op, QOp::Logits { .. });
        if let (true, Some((weight, _))) = (logits, node.op.weight()) {
            let x = in_edge(0)?.scale;
            check_multipliers(weight, |s| x * s)?;
        }
        match &node.edge {
            None if logits => {}
            None => return Err("has no scale and zero point".to_owned()),
            Some(_) if logits => return Err("has codes, expected f32".to_owned()),
            Some(edge) => {
                if !(edge.scale > 0.0 && edge.scale.is_normal() && edge.scale <= MAX_SCALE) {
                    return Err(format!(
                        "its scale is {:?}, expected a positive normal number up to 2^100",
                        edge.scale
                    ));
                }
                let per_channel = matches!(node.op, QOp::Input).then_some(shape[0]);
                let n = edge.zero_points.len();
                if n != 1 && Some(n) != per_channel {
                    return Err(format!("{n} zero points"));
                }
                for i in 0..node.inputs.len() {
                    let ratio = in_edge(i)?.scale / edge.scale;
                    if ratio > MAX_MULTIPLIER {
                        return Err(format!(
                            "its scale is {ratio:?} times smaller than its input's"
                        ));
                    }
                }
                if let Some((weight, _)) = node.op.weight() {
                    let x = in_edge(0)?.scale;
                    check_multipliers(weight, |s| x * s / edge.scale)?;
                }
                if node.op.keeps_codes() && in_edge(0)? != edge {
                    return Err("its scale and zero point are not its input's".to_owned());
                }
            }
        }
        for i in 0..node.inputs.len() {
            let edge = in_edge(i)?;
            let per_channel_ok = i == 0 && matches!(node.op, QOp::Conv { .. });
            if edge.zero_points.len() != 1 && !per_channel_ok {
                return Err("reads zero points per channel, which only Conv does".to_owned());
            }
        }
        let (QOp::Conv { lo, hi, .. }
        | QOp::Gemm { lo, hi, .. }
        | QOp::Add { lo, hi }
        | QOp::Clamp { lo, hi }) = &node.op
        else {
            return Ok(shape);
        };
        if lo > hi {
            return Err(format!("its smallest code {lo} is above its largest {hi}"));
        }
        Ok(shape)
    }

    /// Bytes of codes, scales and biases as they are packed in a file, without any header.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        let weights = self.nodes.iter().filter_map(|n| n.op.weight());
        weights
            .map(|(w, b)| {
                (w.codes.len() * usize::from(w.bits)).div_ceil(8) + 4 * (w.scales.len() + b.len())
            })
            .sum()
    }
}

/// The largest scale: 255 codes of it, and products with a multiplier's share, stay finite.
const MAX_SCALE: f32 = 1_267_650_600_228_229_401_496_703_205_376.0;

/// The largest number that an accumulator or a centred code may be multiplied with, 2^90: two products of 32 bits with it, and
/// their sum, are finite in f32, so that no logit is infinite and no sum `inf - inf`.
const MAX_MULTIPLIER: f32 = 1_237_940_039_285_380_274_899_124_224.0;

fn check_multipliers(
    weight: &QWeight,
    multiplier: impl Fn(f32) -> f32,
) -> std::result::Result<(), String> {
    for (o, scale) in weight.scales.iter().enumerate() {
        let m = multiplier(*scale);
        if m.is_nan() || m > MAX_MULTIPLIER {
            return Err(format!(
                "the multiplier of channel {o} is {m:?}, expected at most 2^90: its scales are too large beside each other"
            ));
        }
    }
    Ok(())
}

/// The most values that a mean may cover: their centred sum stays below 2^24, where f32 is exact.
const MAX_AVERAGED: usize = 1 << 16;

fn check_weight(
    weight: &QWeight,
    bias: &[i32],
    expected: &[usize],
) -> std::result::Result<(), String> {
    if weight.codes.shape() != expected || bias.len() != expected[0] || expected[0] == 0 {
        return Err(format!(
            "weight {:?} with {} biases, expected {expected:?}",
            weight.codes.shape(),
            bias.len()
        ));
    }
    if !(2..=8).contains(&weight.bits) {
        return Err(format!("{} bits, expected 2 to 8", weight.bits));
    }
    let limit = QWeight::code_limit(weight.bits);
    if let Some(code) = weight.codes.iter().find(|q| !(-limit..=limit).contains(q)) {
        return Err(format!("the code {code} is outside ±{limit}"));
    }
    for (o, scale) in weight.scales.iter().enumerate() {
        if !(*scale > 0.0 && scale.is_normal() && *scale <= MAX_SCALE) {
            return Err(format!(
                "the scale of channel {o} is {scale:?}, expected a positive normal number up to 2^100"
            ));
        }
        let codes = weight.codes.index_axis(ndarray::Axis(0), o);
        let largest = 255
            * codes
                .iter()
                .map(|q| i64::from(q.unsigned_abs()))
                .sum::<i64>();
        if largest + i64::from(bias[o].unsigned_abs()) > i64::from(i32::MAX) {
            return Err(format!("channel {o} can overflow the 32-bit accumulator"));
        }
    }
    Ok(())
}
