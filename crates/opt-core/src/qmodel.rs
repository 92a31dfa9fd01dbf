//! The quantized network: what is stored, interpreted and executed. Each value is codes, or f32.
//!
//! ```text
//! weights    : s8, per output channel, symmetric, narrow range ±(2^(bits-1) - 1), zero point 0
//! codes      : u8 within lo..hi, with a zero point each; the input image has scale 1 and a zero point per channel
//! acc        : i32 = bias + Σ (q_x - z_x)·q_w          padding has q_x = z_x and so adds nothing
//! requant    : f = (acc as f32)·m[o],   m[o] = (s_x·s_w[o])/s_y in f32, in that order
//! residual   : f = f + ((r - z_r) as f32)·(s_r/s_y)    two roundings, no fused multiply-add
//!              q = clamp(round_half_even(f) + z_y, lo_y, hi_y)
//! Add        : f = ((a - z_a) as f32)·(s_a/s_y) + ((b - z_b) as f32)·(s_b/s_y), then as above
//! averages   : f = (Σ (q_x - z_x) as f32)·(s_x/(s_y·N)), then as above
//! Table      : q = table[q_x]
//! Clamp      : q = clamp(q_x, lo_y, hi_y)
//! others     : MaxPool, Flatten, Slice and Pad move or compare codes; what their codes mean is what their input's mean
//!
//! logits     : x = (acc as f32)·(s_x·s_w[o])
//! Dequantize : x = ((q - z) as f32)·s
//! Quantize   : q = clamp(round_half_even(x/s) + z, lo, hi); NaN becomes z
//! Float(op)  : op on f32, as `interpret` has it; an engine may sum in another order
//! ```

use std::ops::RangeInclusive;

use ndarray::ArrayD;

use crate::op::{Op, Unary, Window};
use crate::shape::{self, MAX_ELEMENTS, Rule, fits, image, infer_node};
use crate::validate::{check_deviations, check_finite, check_labels};
use crate::{CoreError, InputSpec, Output, Params, Result};

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

/// What the codes of a value mean, and which there are.
#[derive(Debug, Clone, PartialEq)]
pub struct Activation {
    /// The distance between neighbouring codes.
    pub scale: f32,
    /// The code of real zero: one for the value, or one per channel (the input image).
    pub zero_points: Vec<u8>,
    /// The smallest code: 0, or the zero point where a ReLU is fused.
    pub lo: u8,
    /// The largest code: 2^bits - 1, or less where a Clip is fused.
    pub hi: u8,
}

impl Activation {
    /// All 256 codes.
    ///
    /// ```
    /// let bytes = opt_core::qmodel::Activation::new(0.5, 3);
    /// assert_eq!((bytes.zero(7), bytes.lo, bytes.hi), (3, 0, 255));
    /// ```
    #[must_use]
    pub fn new(scale: f32, zero_point: u8) -> Self {
        Self {
            scale,
            zero_points: vec![zero_point],
            lo: 0,
            hi: u8::MAX,
        }
    }

    /// With these codes alone.
    #[must_use]
    pub fn within(self, lo: u8, hi: u8) -> Self {
        Self { lo, hi, ..self }
    }

    /// The zero point of channel `c`.
    #[must_use]
    pub fn zero(&self, c: usize) -> i32 {
        i32::from(self.zero_points[if self.zero_points.len() == 1 { 0 } else { c }])
    }

    /// Whether codes mean the same, wherever they are limited.
    fn means(&self, other: &Self) -> bool {
        self.scale == other.scale && self.zero_points == other.zero_points
    }
}

/// An operator of a quantized network.
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
    },
    /// Matrix times vector, requantized.
    Gemm {
        /// Codes, `[O, I]`.
        weight: QWeight,
        /// As for Conv.
        bias: Vec<i32>,
    },
    /// Matrix times vector with f32 result.
    Logits {
        /// Codes, `[O, I]`.
        weight: QWeight,
        /// As for Conv.
        bias: Vec<i32>,
    },
    /// Sum of two values of one shape.
    Add,
    /// A function of each code.
    Table {
        /// What the table was computed for; only readers and exports look at it.
        function: Unary,
        /// The result of every code.
        table: Box<[u8; 256]>,
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
    Clamp,
    /// From f32 to codes.
    Quantize,
    /// From codes to f32.
    Dequantize,
    /// An operator on f32 values; its parameters are in [`QModel::params`].
    Float(Op),
}

impl QOp {
    /// How many values it reads.
    fn arity(&self) -> RangeInclusive<usize> {
        match self {
            Self::Input => 0..=0,
            Self::Add => 2..=2,
            Self::Conv { .. } => 1..=2,
            Self::Float(op) => op.arity()..=op.arity(),
            Self::Gemm { .. }
            | Self::Logits { .. }
            | Self::Table { .. }
            | Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Flatten
            | Self::Slice { .. }
            | Self::Pad { .. }
            | Self::Clamp
            | Self::Quantize
            | Self::Dequantize => 1..=1,
        }
    }

    /// The operator's name in files and reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input => "Input",
            Self::Conv { .. } => "Conv",
            Self::Gemm { .. } => "Gemm",
            Self::Logits { .. } => "Logits",
            Self::Add => "Add",
            Self::Table { .. } => "Table",
            Self::MaxPool(_) => "MaxPool",
            Self::AveragePool(_) => "AveragePool",
            Self::GlobalAveragePool => "GlobalAveragePool",
            Self::Flatten => "Flatten",
            Self::Slice { .. } => "Slice",
            Self::Pad { .. } => "Pad",
            Self::Clamp => "Clamp",
            Self::Quantize => "Quantize",
            Self::Dequantize => "Dequantize",
            Self::Float(op) => op.name(),
        }
    }

    /// Its quantized weight and bias, where it has them.
    #[must_use]
    pub fn weight(&self) -> Option<(&QWeight, &[i32])> {
        match self {
            Self::Conv { weight, bias, .. }
            | Self::Gemm { weight, bias }
            | Self::Logits { weight, bias } => Some((weight, bias)),
            Self::Input
            | Self::Add
            | Self::Table { .. }
            | Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Flatten
            | Self::Slice { .. }
            | Self::Pad { .. }
            | Self::Clamp
            | Self::Quantize
            | Self::Dequantize
            | Self::Float(_) => None,
        }
    }

    /// Whether its result's codes mean what its input's do: they are moved, compared or limited, never computed.
    #[must_use]
    pub fn keeps_codes(&self) -> bool {
        match self {
            Self::MaxPool(_)
            | Self::Flatten
            | Self::Slice { .. }
            | Self::Pad { .. }
            | Self::Clamp => true,
            Self::Input
            | Self::Conv { .. }
            | Self::Gemm { .. }
            | Self::Logits { .. }
            | Self::Add
            | Self::Table { .. }
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Quantize
            | Self::Dequantize
            | Self::Float(_) => false,
        }
    }

    /// Whether its result is f32.
    #[must_use]
    pub fn is_float(&self) -> bool {
        matches!(
            self,
            Self::Logits { .. } | Self::Dequantize | Self::Float(_)
        )
    }

    /// Whether it reads f32 values.
    fn reads_float(&self) -> bool {
        matches!(self, Self::Quantize | Self::Float(_))
    }
}

/// A node of the quantized network.
#[derive(Debug, Clone, PartialEq)]
pub struct QNode {
    /// The name of the f32 node whose value it holds; `NAME/codes` and `NAME/f32` where that value is converted.
    pub name: String,
    /// What it computes.
    pub op: QOp,
    /// Where its operands come from; each is smaller than this node's index.
    pub inputs: Vec<usize>,
    /// What its codes mean; `None` where its value is f32 ([`QOp::is_float`]).
    pub activation: Option<Activation>,
}

/// A quantized network: nodes in topological order.
#[derive(Debug, Clone, PartialEq)]
pub struct QModel {
    /// The nodes. `nodes[0]` is the only [`QOp::Input`].
    pub nodes: Vec<QNode>,
    /// The parameters of the operators on f32 values, by the names that these use.
    pub params: Params,
    /// The results, all of them f32.
    pub outputs: Vec<Output>,
    /// The image. Its mean and deviation are already inside the weights; they are kept for readers.
    pub input: InputSpec,
}

impl QModel {
    /// The labels of the first output; none if it has none.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        self.outputs.first().map_or(&[], |o| &o.labels)
    }

    /// For each node, whether every executor gives the same bits: no f32 operator, whose sums may be taken in another order, lies
    /// before it.
    #[must_use]
    pub fn exact(&self) -> Vec<bool> {
        let mut exact: Vec<bool> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let own = !matches!(node.op, QOp::Float(_));
            exact.push(
                own && node
                    .inputs
                    .iter()
                    .all(|i| exact.get(*i).is_some_and(|e| *e)),
            );
        }
        exact
    }

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
            let shape = if let QOp::Float(op) = &node.op {
                self.float_shape(id, op, &shapes)?
            } else {
                self.node_shape(id, &shapes).map_err(|p| wrong(node, &p))?
            };
            shapes.push(shape);
        }
        self.check_outputs(&shapes)?;
        self.check_params()?;
        Ok(shapes)
    }

    fn check_outputs(&self, shapes: &[Vec<usize>]) -> Result<()> {
        let fail = |node: &str, problem: &str| {
            Err(CoreError::Graph {
                node: node.to_owned(),
                problem: problem.to_owned(),
            })
        };
        if self.outputs.is_empty() {
            return fail("output", "the network has no output");
        }
        for (k, output) in self.outputs.iter().enumerate() {
            let Some(node) = self.nodes.get(output.node) else {
                return fail("output", "an output is a node that there is not");
            };
            if self.outputs[..k].iter().any(|o| o.node == output.node) {
                return fail(&node.name, "it is an output twice");
            }
            if node.activation.is_some() {
                return fail(
                    &node.name,
                    "an output must be f32; put a Dequantize behind it",
                );
            }
            check_labels(output, &node.name, &shapes[output.node])?;
        }
        Ok(())
    }

    fn check_params(&self) -> Result<()> {
        let mut used = std::collections::BTreeSet::new();
        for node in &self.nodes {
            if let QOp::Float(op) = &node.op {
                used.extend(op.params().into_iter().map(|(name, _)| name));
                check_deviations(&self.params, &node.name, op)?;
            }
        }
        for (name, tensor) in &self.params {
            check_finite(name, tensor)?;
            if !used.contains(name.as_str()) {
                return Err(CoreError::Graph {
                    node: name.clone(),
                    problem: "this parameter belongs to no node".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn float_shape(&self, id: usize, op: &Op, shapes: &[Vec<usize>]) -> Result<Vec<usize>> {
        let node = &self.nodes[id];
        self.check_inputs(id, node.op.arity())
            .map_err(|p| wrong(node, &p))?;
        let inputs: Vec<&[usize]> = node.inputs.iter().map(|i| shapes[*i].as_slice()).collect();
        let shape = infer_node(&self.params, &node.name, op, &inputs)?;
        if !fits(&shape) {
            return Err(wrong(node, &too_large(&shape)));
        }
        Ok(shape)
    }

    /// As many operands as the operator takes, of earlier nodes, of codes or f32 as it reads them; and a result of the kind
    /// that it gives.
    fn check_inputs(&self, id: usize, arity: RangeInclusive<usize>) -> Rule<()> {
        let node = &self.nodes[id];
        if !arity.contains(&node.inputs.len()) || node.inputs.iter().any(|&i| i >= id) {
            return Err(format!(
                "inputs {:?}, expected {arity:?} of earlier nodes",
                node.inputs
            ));
        }
        for input in &node.inputs {
            let source = &self.nodes[*input];
            match (source.activation.is_some(), node.op.reads_float()) {
                (true, true) => {
                    return Err(format!(
                        "reads `{}`, which is codes, expected f32",
                        source.name
                    ));
                }
                (false, false) => {
                    return Err(format!("reads `{}`, which has no codes", source.name));
                }
                (true, false) | (false, true) => {}
            }
        }
        match (&node.activation, node.op.is_float()) {
            (None, true) | (Some(_), false) => Ok(()),
            (None, false) => Err("has no scale and zero point".to_owned()),
            (Some(_), true) => Err("has codes, expected f32".to_owned()),
        }
    }

    /// The shape of an integer node's value, once everything about the node is sound.
    fn node_shape(&self, id: usize, shapes: &[Vec<usize>]) -> Rule<Vec<usize>> {
        let node = &self.nodes[id];
        self.check_inputs(id, node.op.arity())?;
        if (id == 0) != (node.op == QOp::Input) {
            return Err("exactly the first node must be the Input".to_owned());
        }
        let inputs: Vec<&[usize]> = node.inputs.iter().map(|&i| shapes[i].as_slice()).collect();
        let shape = if node.op == QOp::Input {
            self.input.shape.to_vec()
        } else {
            infer_op(&node.op, &inputs)?
        };
        if !fits(&shape) {
            return Err(too_large(&shape));
        }
        if let QOp::AveragePool(window) = &node.op {
            check_averaged(window.area())?;
        } else if node.op == QOp::GlobalAveragePool {
            check_averaged(inputs[0][1] * inputs[0][2])?;
        }
        self.check_activations(id, &shape)?;
        Ok(shape)
    }

    /// Scales, zero points and limits: of the node itself, and beside those of what it reads.
    fn check_activations(&self, id: usize, shape: &[usize]) -> Rule<()> {
        let node = &self.nodes[id];
        let read: Vec<&Activation> = node
            .inputs
            .iter()
            .filter_map(|i| self.nodes[*i].activation.as_ref())
            .collect();
        for (i, x) in read.iter().enumerate() {
            let first_of_conv = i == 0 && matches!(node.op, QOp::Conv { .. });
            let per_channel_ok = first_of_conv || node.op == QOp::Dequantize;
            if x.zero_points.len() != 1 && !per_channel_ok {
                return Err(
                    "reads zero points per channel, which only Conv and Dequantize do".to_owned(),
                );
            }
        }
        let Some(y) = &node.activation else {
            if let (QOp::Logits { weight, .. }, Some(x)) = (&node.op, read.first()) {
                check_multipliers(weight, |s| x.scale * s)?;
            }
            return Ok(());
        };
        check_activation(y, (node.op == QOp::Input).then_some(shape[0]))?;
        for x in &read {
            let ratio = x.scale / y.scale;
            if ratio > MAX_MULTIPLIER {
                return Err(format!(
                    "its scale is {ratio:?} times smaller than its input's"
                ));
            }
        }
        if let (Some((weight, _)), Some(x)) = (node.op.weight(), read.first()) {
            check_multipliers(weight, |s| x.scale * s / y.scale)?;
        }
        if let QOp::Table { table, .. } = &node.op
            && let Some(code) = table.iter().find(|q| !(y.lo..=y.hi).contains(q))
        {
            return Err(format!(
                "its table holds {code}, outside {} to {}",
                y.lo, y.hi
            ));
        }
        match read.first() {
            Some(x) if node.op.keeps_codes() => check_kept(&node.op, x, y),
            _ => Ok(()),
        }
    }

    /// Bytes of codes, scales, biases, tables and f32 parameters as they are packed in a file, without any header.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        let weights = self.nodes.iter().filter_map(|n| n.op.weight());
        let quantized: usize = weights
            .map(|(w, b)| {
                (w.codes.len() * usize::from(w.bits)).div_ceil(8) + 4 * (w.scales.len() + b.len())
            })
            .sum();
        let is_table = |node: &&QNode| matches!(node.op, QOp::Table { .. });
        let tables = 256 * self.nodes.iter().filter(is_table).count();
        let floats = self.params.values().map(|tensor| 4 * tensor.len());
        quantized + tables + floats.sum::<usize>()
    }
}

fn wrong(node: &QNode, problem: &str) -> CoreError {
    CoreError::Graph {
        node: node.name.clone(),
        problem: format!("{}: {problem}", node.op.name()),
    }
}

fn too_large(shape: &[usize]) -> String {
    format!("its shape is {shape:?}, expected 1 to {MAX_ELEMENTS} elements")
}

/// The shape of what an integer operator gives for operands of these shapes. [`QOp::Input`] has none.
fn infer_op(op: &QOp, inputs: &[&[usize]]) -> Rule<Vec<usize>> {
    let x: &[usize] = inputs.first().copied().unwrap_or(&[]);
    match op {
        QOp::Conv {
            weight,
            bias,
            window,
            group,
        } => {
            let out = weight.scales.len();
            let per_group = shape::grouped(x, out, *group)?;
            let [kh, kw] = window.kernel;
            check_weight(weight, bias, &[out, per_group, kh, kw])?;
            let y = shape::windowed(window, x, out)?;
            match inputs.get(1).filter(|r| **r != y) {
                Some(residual) => Err(format!("adds {residual:?} to {y:?}")),
                None => Ok(y),
            }
        }
        QOp::Gemm { weight, bias } | QOp::Logits { weight, bias } => {
            let out = weight.scales.len();
            let [features] = x else {
                return Err(format!("reads {x:?}, expected [F]"));
            };
            check_weight(weight, bias, &[out, *features])?;
            Ok(vec![out])
        }
        QOp::Add => shape::equal(inputs),
        QOp::MaxPool(window) | QOp::AveragePool(window) => shape::pooled(window, x),
        QOp::GlobalAveragePool => Ok(vec![image(x)?[0], 1, 1]),
        QOp::Flatten => Ok(vec![x.iter().product()]),
        QOp::Slice { start, end, step } => shape::sliced(x, start, end, step),
        QOp::Pad { begin, end } => shape::padded(x, begin, end),
        QOp::Input
        | QOp::Clamp
        | QOp::Table { .. }
        | QOp::Quantize
        | QOp::Dequantize
        | QOp::Float(_) => Ok(x.to_vec()),
    }
}

/// A scale in range, one zero point or one for each of `channels`, and limits in order.
fn check_activation(y: &Activation, channels: Option<usize>) -> Rule<()> {
    if !(y.scale > 0.0 && y.scale.is_normal() && y.scale <= MAX_SCALE) {
        return Err(format!(
            "its scale is {:?}, expected a positive normal number up to 2^100",
            y.scale
        ));
    }
    let n = y.zero_points.len();
    if n != 1 && Some(n) != channels {
        return Err(format!("{n} zero points"));
    }
    if y.lo > y.hi {
        return Err(format!(
            "its smallest code {} is above its largest {}",
            y.lo, y.hi
        ));
    }
    Ok(())
}

/// Of an operator that keeps codes: they mean what those of `x` mean, and their limits follow from its.
fn check_kept(op: &QOp, x: &Activation, y: &Activation) -> Rule<()> {
    let zero = y.zero_points[0];
    let fits = if *op == QOp::Clamp {
        x.lo <= y.lo && y.hi <= x.hi
    } else if matches!(op, QOp::Pad { .. }) {
        (y.lo, y.hi) == (x.lo.min(zero), x.hi.max(zero))
    } else {
        (y.lo, y.hi) == (x.lo, x.hi)
    };
    if !x.means(y) {
        return Err("its scale and zero point are not its input's".to_owned());
    }
    if !fits {
        return Err(format!(
            "its codes are {} to {}, its input's {} to {}",
            y.lo, y.hi, x.lo, x.hi
        ));
    }
    Ok(())
}

/// The largest scale: 255 codes of it, and products with a multiplier's share, stay finite.
const MAX_SCALE: f32 = 1_267_650_600_228_229_401_496_703_205_376.0;

/// The largest number that an accumulator or a centred code may be multiplied with, 2^90: two products of 32 bits with it, and
/// their sum, are finite in f32, so that no logit is infinite and no sum `inf - inf`.
const MAX_MULTIPLIER: f32 = 1_237_940_039_285_380_274_899_124_224.0;

fn check_multipliers(weight: &QWeight, multiplier: impl Fn(f32) -> f32) -> Rule<()> {
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

fn check_averaged(values: usize) -> Rule<()> {
    if values > MAX_AVERAGED {
        return Err(format!(
            "averages {values} values, at most {MAX_AVERAGED} have an exact sum"
        ));
    }
    Ok(())
}

fn check_weight(weight: &QWeight, bias: &[i32], expected: &[usize]) -> Rule<()> {
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
