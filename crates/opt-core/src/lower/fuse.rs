//! Which nodes of a folded model become one integer operation, and which values are rounded to codes.

use crate::op::Op;
use crate::qparams::round_clamp;
use crate::{CoreError, Model, NodeId, Result};

/// What happens to residual additions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Adds {
    /// Into a convolution's one requantization: its own result is never rounded. Smaller error, fastest engine.
    #[default]
    Fused,
    /// Each operand is rounded to codes first, as QDQ graphs need for integer kernels elsewhere.
    Rounded,
}

/// The limits that a fused activation puts on a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clamp {
    /// No activation.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), max)`.
    Clip {
        /// Upper bound, positive.
        max: f32,
    },
}

impl Clamp {
    /// The smallest and largest code of an edge with this scale and zero point.
    ///
    /// ```
    /// use opt_core::lower::Clamp;
    /// assert_eq!(Clamp::None.code_limits(0.1, 7), (0, 255));
    /// assert_eq!(Clamp::Relu.code_limits(0.1, 7), (7, 255));
    /// assert_eq!(Clamp::Clip { max: 6.0 }.code_limits(0.1, 7), (7, 67));
    /// ```
    #[must_use]
    pub fn code_limits(self, scale: f32, zero_point: i32) -> (u8, u8) {
        let byte = |q: i32| u8::try_from(q.clamp(0, 255)).unwrap_or(u8::MAX);
        match self {
            Self::None => (0, 255),
            Self::Relu => (byte(zero_point), 255),
            Self::Clip { max } => {
                let hi = round_clamp(max / scale, zero_point, zero_point, 255);
                (byte(zero_point), byte(hi))
            }
        }
    }
}

/// One integer operation.
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
    /// An Add that stands alone.
    Add {
        /// The Add node.
        node: NodeId,
        /// Its activation.
        clamp: Clamp,
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
            Self::Input | Self::Plain { .. } => Clamp::None,
        }
    }
}

/// An integer operation in its place.
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
    /// Whether its result is rounded to codes of a scale of its own (the logits are not rounded).
    #[must_use]
    pub fn requantizes(&self, folded: &Model) -> bool {
        match &self.op {
            FusedOp::Input | FusedOp::Clamp { .. } => false,
            FusedOp::Conv { .. } | FusedOp::Add { .. } => true,
            FusedOp::Gemm { .. } => self.value != folded.graph.output,
            FusedOp::Plain { node } => matches!(
                folded.graph.nodes[*node].op,
                Op::AveragePool(_) | Op::GlobalAveragePool
            ),
        }
    }
}

/// The integer operations of a folded model, in order.
///
/// A ReLU or Clip joins the Conv, Gemm or Add whose only reader it is. With [`Adds::Fused`] an Add joins its first
/// operand that is a Conv with no other reader.
///
/// # Errors
///
/// [`CoreError::Unsupported`] for a model that is not folded, a Clip that does not start at 0, and an output that is
/// not a Gemm.
pub fn fuse(folded: &Model, adds: Adds) -> Result<Vec<Step>> {
    let graph = &folded.graph;
    let unsupported = |id: NodeId, why: &str| CoreError::Unsupported {
        node: graph.nodes[id].name.clone(),
        op: graph.nodes[id].op.name(),
        why: why.to_owned(),
    };
    if !super::is_folded(folded) {
        return Err(unsupported(graph.output, "the model must be folded first"));
    }
    if !matches!(graph.nodes[graph.output].op, Op::Gemm { .. }) {
        return Err(unsupported(graph.output, "the output must be a Gemm"));
    }
    let consumers = graph.consumers();
    let only_reader = |id: NodeId| match consumers[id].as_slice() {
        [reader] if id != graph.output => Some(*reader),
        _ => None,
    };
    // For each node, the Conv, Gemm or Add whose step its value closes.
    let mut head: Vec<NodeId> = (0..graph.nodes.len()).collect();
    let mut absorbed = vec![false; graph.nodes.len()];
    for (id, node) in graph.nodes.iter().enumerate() {
        match &node.op {
            Op::Add if adds == Adds::Fused && node.inputs[0] != node.inputs[1] => {
                let fits = |&&i: &&NodeId| {
                    matches!(graph.nodes[i].op, Op::Conv { .. }) && only_reader(i) == Some(id)
                };
                if let Some(&conv) = node.inputs.iter().find(fits) {
                    head[id] = conv;
                    absorbed[conv] = true;
                }
            }
            Op::Relu | Op::Clip { .. } => {
                let source = node.inputs[0];
                let open = matches!(
                    graph.nodes[source].op,
                    Op::Conv { .. } | Op::Gemm { .. } | Op::Add
                );
                if open && only_reader(source) == Some(id) {
                    head[id] = head[source];
                    absorbed[source] = true;
                }
            }
            _ => {}
        }
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut step_of = vec![usize::MAX; graph.nodes.len()];
    for (id, node) in graph.nodes.iter().enumerate() {
        if absorbed[id] {
            continue;
        }
        let clamp = match &node.op {
            Op::Relu => Clamp::Relu,
            Op::Clip { min: 0.0, max } if *max > 0.0 => Clamp::Clip { max: *max },
            Op::Clip { .. } => return Err(unsupported(id, "only Clip from 0 has an integer form")),
            _ => Clamp::None,
        };
        let start = head[id];
        let mut inputs: Vec<NodeId> = graph.nodes[start].inputs.clone();
        let op = match &graph.nodes[start].op {
            Op::Input => FusedOp::Input,
            Op::Conv { .. } => {
                // The Add between the Conv and this value, if there is one, brings the residual.
                let add = only_reader(start).filter(|&r| {
                    start != id && head[r] == start && matches!(graph.nodes[r].op, Op::Add)
                });
                if let Some(add) = add {
                    inputs.extend(graph.nodes[add].inputs.iter().filter(|&&i| i != start));
                }
                FusedOp::Conv { node: start, clamp }
            }
            Op::Gemm { .. } => FusedOp::Gemm { node: start, clamp },
            Op::Add => FusedOp::Add { node: start, clamp },
            Op::Relu | Op::Clip { .. } => FusedOp::Clamp { node: start, clamp },
            _ => FusedOp::Plain { node: start },
        };
        step_of[id] = steps.len();
        steps.push(Step {
            value: id,
            op,
            inputs: inputs.iter().map(|&i| step_of[i]).collect(),
        });
    }
    Ok(steps)
}

/// The nodes of a folded model whose range a calibration records: every value that is rounded with either kind of
/// addition, so that one calibration serves both.
///
/// # Errors
///
/// Those of [`fuse()`].
pub fn observed_nodes(folded: &Model) -> Result<Vec<NodeId>> {
    let mut nodes = std::collections::BTreeSet::new();
    for adds in [Adds::Fused, Adds::Rounded] {
        let steps = fuse(folded, adds)?;
        nodes.extend(
            steps
                .iter()
                .filter(|s| s.requantizes(folded))
                .map(|s| s.value),
        );
    }
    Ok(nodes.into_iter().collect())
}
