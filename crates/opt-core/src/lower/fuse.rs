//! Which nodes of a folded model become one integer operation, and which values are rounded to codes.

use std::collections::{BTreeMap, BTreeSet};

use crate::op::{Op, Unary};
use crate::qparams::round_clamp;
use crate::{CoreError, Graph, Model, NodeId, Result};

/// What happens to residual additions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResidualAdd {
    /// Into a convolution's one requantization: its own result is never rounded. Smaller error, fastest engine.
    #[default]
    Fused,
    /// Each operand is rounded to codes first, as QDQ graphs need for integer kernels elsewhere.
    Explicit,
}

/// Which values are rounded to codes, and which stay f32.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// What happens to residual additions.
    pub adds: ResidualAdd,
    /// Nodes that compute in f32, by name. Functions of one value, MaxPool, Flatten, Slice and Pad stay f32 behind them.
    pub float: BTreeSet<String>,
}

impl From<ResidualAdd> for Placement {
    fn from(adds: ResidualAdd) -> Self {
        Self {
            adds,
            float: BTreeSet::new(),
        }
    }
}

/// The limits that a fused activation puts on a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clamp {
    /// No activation.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, min), max)`.
    Clip {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
}

impl Clamp {
    /// What an operator limits its operand to.
    fn of(op: &Op) -> Self {
        let Op::Unary(function) = op else {
            return Self::None;
        };
        match function.bounds() {
            None => Self::None,
            Some((0.0, f32::INFINITY)) => Self::Relu,
            Some((min, max)) => Self::Clip { min, max },
        }
    }

    /// The smallest and largest of the codes `lo` to `hi` that a value with this scale and zero point takes.
    ///
    /// ```
    /// use opt_core::lower::Clamp;
    /// assert_eq!(Clamp::None.code_limits(0.1, 7, (0, 255)), (0, 255));
    /// assert_eq!(Clamp::Relu.code_limits(0.1, 7, (0, 255)), (7, 255));
    /// assert_eq!(Clamp::Clip { min: 0.0, max: 6.0 }.code_limits(0.1, 7, (0, 255)), (7, 67));
    /// assert_eq!(Clamp::Clip { min: -0.5, max: 6.0 }.code_limits(0.1, 7, (0, 15)), (2, 15));
    /// ```
    #[must_use]
    pub fn code_limits(self, scale: f32, zero_point: i32, (lo, hi): (u8, u8)) -> (u8, u8) {
        let code = |bound: f32| {
            let code = round_clamp(bound / scale, zero_point, i32::from(lo), i32::from(hi));
            u8::try_from(code).unwrap_or(hi)
        };
        match self {
            Self::None => (lo, hi),
            Self::Relu => (code(0.0), hi),
            Self::Clip { min, max } => (code(min), code(max)),
        }
    }
}

/// One operation of the quantized network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FusedOp {
    /// The image.
    Input,
    /// A Conv with what was fused into it; a second input is the residual.
    Conv {
        /// The Conv node.
        node: NodeId,
        /// Its activation.
        clamp: Clamp,
    },
    /// A Gemm with its activation.
    Gemm {
        /// The Gemm node.
        node: NodeId,
        /// Its activation.
        clamp: Clamp,
    },
    /// A Gemm that is an output, whose result is f32 without ever being codes.
    Logits {
        /// The Gemm node.
        node: NodeId,
    },
    /// An Add that stands alone.
    Add {
        /// The Add node.
        node: NodeId,
        /// Its activation.
        clamp: Clamp,
    },
    /// A function of each code.
    Table {
        /// The node.
        node: NodeId,
        /// The function.
        function: Unary,
    },
    /// An activation that stands alone: limits codes, computes none.
    Clamp {
        /// The activation node.
        node: NodeId,
        /// Its limits.
        clamp: Clamp,
    },
    /// A pool or a layout operator.
    Plain {
        /// The node.
        node: NodeId,
    },
    /// Rounds the f32 value of the step that it reads.
    Quantize,
    /// The f32 value of the codes that it reads.
    Dequantize,
    /// An operator on f32 values.
    Float {
        /// The node.
        node: NodeId,
    },
}

impl FusedOp {
    /// The limits on its result.
    #[must_use]
    pub fn clamp(&self) -> Clamp {
        match self {
            Self::Conv { clamp, .. }
            | Self::Gemm { clamp, .. }
            | Self::Add { clamp, .. }
            | Self::Clamp { clamp, .. } => *clamp,
            Self::Input
            | Self::Logits { .. }
            | Self::Table { .. }
            | Self::Plain { .. }
            | Self::Quantize
            | Self::Dequantize
            | Self::Float { .. } => Clamp::None,
        }
    }

    /// Whether its result is f32.
    #[must_use]
    pub fn is_float(&self) -> bool {
        matches!(
            self,
            Self::Logits { .. } | Self::Dequantize | Self::Float { .. }
        )
    }

    /// Whether it reads f32 values.
    fn reads_float(&self) -> bool {
        matches!(self, Self::Quantize | Self::Float { .. })
    }
}

/// An operation in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The node of the folded graph whose value the result stands for.
    pub value: NodeId,
    /// What it computes.
    pub op: FusedOp,
    /// The steps that it reads.
    pub inputs: Vec<usize>,
}

impl Step {
    /// Whether its result is rounded to codes of a scale of its own.
    #[must_use]
    pub fn requantizes(&self, folded: &Model) -> bool {
        match &self.op {
            FusedOp::Conv { .. }
            | FusedOp::Gemm { .. }
            | FusedOp::Add { .. }
            | FusedOp::Table { .. }
            | FusedOp::Quantize => true,
            FusedOp::Input
            | FusedOp::Clamp { .. }
            | FusedOp::Logits { .. }
            | FusedOp::Dequantize
            | FusedOp::Float { .. } => false,
            FusedOp::Plain { node } => matches!(
                folded.graph.nodes[*node].op,
                Op::AveragePool(_) | Op::GlobalAveragePool
            ),
        }
    }
}

/// The operations of a folded model, in order.
///
/// A ReLU or Clip joins the Conv, Gemm or Add whose only reader it is. With [`ResidualAdd::Fused`] an Add joins its first
/// operand that is a Conv with no other reader. Other functions of one value are tables. What `placement` names computes
/// in f32, and so does what keeps or limits values behind it (functions of one value, MaxPool, Flatten, Slice, Pad); between codes and
/// f32 stand Quantize and Dequantize. Every output is f32.
///
/// # Errors
///
/// [`CoreError::Unsupported`] for a model that is not folded, [`CoreError::Quant`] for a name in `placement` that is no node's.
pub fn fuse(folded: &Model, placement: &Placement) -> Result<Vec<Step>> {
    let graph = &folded.graph;
    if !super::is_folded(folded) {
        let output = &graph.nodes[graph.output()];
        return Err(CoreError::Unsupported {
            node: output.name.clone(),
            op: output.op.name(),
            why: "the model must be folded first".to_owned(),
        });
    }
    let is_float = float_nodes(folded, placement)?;
    let groups = Groups::new(graph, placement.adds, &is_float);
    let mut steps = Steps::default();
    for (id, node) in graph.nodes.iter().enumerate() {
        if groups.absorbed[id] {
            continue;
        }
        let start = groups.head[id];
        let mut inputs = graph.nodes[start].inputs.clone();
        let op = if is_float[id] {
            FusedOp::Float { node: id }
        } else {
            inputs.extend(groups.residual(graph, id));
            fused_op(
                graph,
                start,
                Clamp::of(&node.op),
                groups.is_result(graph, id),
            )
        };
        steps.push(id, op, &inputs);
    }
    for output in &graph.outputs {
        steps.read(output.node, true);
    }
    Ok(steps.list)
}

/// The nodes that one integer operation computes together.
struct Groups {
    consumers: Vec<Vec<NodeId>>,
    /// For each node, the Conv, Gemm or Add whose step its value closes.
    head: Vec<NodeId>,
    /// Whether a later node of its step takes its value in.
    absorbed: Vec<bool>,
}

impl Groups {
    fn new(graph: &Graph, adds: ResidualAdd, is_float: &[bool]) -> Self {
        let mut groups = Self {
            consumers: graph.consumers(),
            head: (0..graph.nodes.len()).collect(),
            absorbed: vec![false; graph.nodes.len()],
        };
        for (id, node) in graph.nodes.iter().enumerate() {
            if is_float[id] {
                continue;
            }
            let joins =
                |source: NodeId| groups.only_reader(graph, source) == Some(id) && !is_float[source];
            let taken = match &node.op {
                Op::Binary(_) if adds == ResidualAdd::Fused && node.inputs[0] != node.inputs[1] => {
                    let is_conv = |i: NodeId| matches!(graph.nodes[i].op, Op::Conv { .. });
                    let mut inputs = node.inputs.iter().copied();
                    inputs.find(|&i| is_conv(i) && joins(i))
                }
                Op::Unary(function) if function.bounds().is_some() => {
                    let source = node.inputs[0];
                    let open = matches!(
                        graph.nodes[source].op,
                        Op::Conv { .. } | Op::Gemm { .. } | Op::Binary(_)
                    );
                    (open && joins(source)).then_some(source)
                }
                Op::Unary(_)
                | Op::Binary(_)
                | Op::Input
                | Op::Conv { .. }
                | Op::Gemm { .. }
                | Op::BatchNormalization { .. }
                | Op::MaxPool(_)
                | Op::AveragePool(_)
                | Op::GlobalAveragePool
                | Op::Flatten
                | Op::Slice { .. }
                | Op::Pad { .. } => None,
            };
            if let Some(source) = taken {
                groups.head[id] = groups.head[source];
                groups.absorbed[source] = true;
            }
        }
        groups
    }

    /// The one node that reads a value, if nobody else needs it.
    fn only_reader(&self, graph: &Graph, id: NodeId) -> Option<NodeId> {
        match self.consumers[id].as_slice() {
            [reader] if !graph.is_output(id) => Some(*reader),
            _ => None,
        }
    }

    /// What is added to a Conv whose step `id` closes, if there is an Add between them.
    fn residual(&self, graph: &Graph, id: NodeId) -> Option<NodeId> {
        let start = self.head[id];
        if start == id || !matches!(graph.nodes[start].op, Op::Conv { .. }) {
            return None;
        }
        let add = self.only_reader(graph, start)?;
        let is_add = self.head[add] == start && matches!(graph.nodes[add].op, Op::Binary(_));
        let mut others = graph.nodes[add].inputs.iter().filter(|&&i| i != start);
        others.next().copied().filter(|_| is_add)
    }

    /// Whether a node is an output and nothing else.
    fn is_result(&self, graph: &Graph, id: NodeId) -> bool {
        self.head[id] == id && graph.is_output(id) && self.consumers[id].is_empty()
    }
}

/// The integer operation that begins at `node` and ends with `clamp`.
fn fused_op(graph: &Graph, node: NodeId, clamp: Clamp, is_result: bool) -> FusedOp {
    match &graph.nodes[node].op {
        Op::Input => FusedOp::Input,
        Op::Conv { .. } => FusedOp::Conv { node, clamp },
        Op::Gemm { .. } if is_result => FusedOp::Logits { node },
        Op::Gemm { .. } => FusedOp::Gemm { node, clamp },
        Op::Binary(_) => FusedOp::Add { node, clamp },
        Op::Unary(_) if clamp != Clamp::None => FusedOp::Clamp { node, clamp },
        Op::Unary(function) => FusedOp::Table {
            node,
            function: *function,
        },
        Op::BatchNormalization { .. }
        | Op::MaxPool(_)
        | Op::AveragePool(_)
        | Op::GlobalAveragePool
        | Op::Flatten
        | Op::Slice { .. }
        | Op::Pad { .. } => FusedOp::Plain { node },
    }
}

/// Which nodes compute in f32.
fn float_nodes(folded: &Model, placement: &Placement) -> Result<Vec<bool>> {
    let nodes = &folded.graph.nodes;
    for name in &placement.float {
        if !nodes.iter().any(|n| n.name == *name && n.op != Op::Input) {
            return Err(CoreError::Quant {
                what: name.clone(),
                problem: "it is to stay f32, but no operator of the folded network has this name"
                    .to_owned(),
            });
        }
    }
    let mut is_float: Vec<bool> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let follows = match &node.op {
            Op::Unary(_) | Op::MaxPool(_) | Op::Flatten | Op::Slice { .. } | Op::Pad { .. } => {
                is_float[node.inputs[0]]
            }
            Op::Input
            | Op::Conv { .. }
            | Op::Gemm { .. }
            | Op::BatchNormalization { .. }
            | Op::Binary(_)
            | Op::AveragePool(_)
            | Op::GlobalAveragePool => false,
        };
        is_float.push(follows || placement.float.contains(&node.name));
    }
    Ok(is_float)
}

/// Steps under construction, with the form in which each node's value is there.
#[derive(Debug, Default)]
struct Steps {
    list: Vec<Step>,
    /// The step that has a node's value as codes (`false`) or as f32 (`true`).
    of: BTreeMap<(NodeId, bool), usize>,
}

impl Steps {
    fn push(&mut self, value: NodeId, op: FusedOp, reads: &[NodeId]) {
        let inputs = reads
            .iter()
            .map(|&i| self.read(i, op.reads_float()))
            .collect();
        self.add(Step { value, op, inputs });
    }

    fn add(&mut self, step: Step) -> usize {
        let at = self.list.len();
        self.of.insert((step.value, step.op.is_float()), at);
        self.list.push(step);
        at
    }

    /// The step that has the value in this form, which is converted where it is not.
    fn read(&mut self, value: NodeId, float: bool) -> usize {
        if let Some(at) = self.of.get(&(value, float)) {
            return *at;
        }
        // Every node that is read has a step in one form.
        let other = self.of.get(&(value, !float)).copied().unwrap_or_default();
        self.add(Step {
            value,
            op: if float {
                FusedOp::Dequantize
            } else {
                FusedOp::Quantize
            },
            inputs: vec![other],
        })
    }
}

/// The nodes of a folded model whose range a calibration records: every value that is rounded with either kind of
/// addition, so that one calibration serves both. `float` are the names of [`Placement::float`].
///
/// # Errors
///
/// Those of [`fuse()`].
pub fn observed_nodes(folded: &Model, float: &BTreeSet<String>) -> Result<Vec<NodeId>> {
    let mut nodes = BTreeSet::new();
    for adds in [ResidualAdd::Fused, ResidualAdd::Explicit] {
        let placement = Placement {
            adds,
            float: float.clone(),
        };
        let steps = fuse(folded, &placement)?;
        let rounded = steps.iter().filter(|s| s.requantizes(folded));
        nodes.extend(rounded.map(|s| s.value));
    }
    Ok(nodes.into_iter().collect())
}
