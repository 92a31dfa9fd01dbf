//! From a trained model to an integer network: the only place that folds, fuses and fixes biases and code limits.
//!
//! 1. [`fold()`] makes a model of the same function without BatchNormalization and with bytes as input.
//! 2. [`fuse()`] says which nodes become one integer operation, and so which values are rounded to codes.
//! 3. A method crate chooses scales, zero points and weight codes for these (a [`QuantSpec`]).
//! 4. [`lower()`] writes the [`QModel`].
//!
//! Training with fake quantization and the exact simulation walk the same [`Step`]s, so they round where the integer
//! network rounds.

mod filter_scale;
mod fold;
mod fuse;

pub use filter_scale::{ScaleFloor, bias_code, bias_codes};
pub use fold::{byte_input_terms, fold, fold_batch_norms, is_folded};
pub use fuse::{Adds, Clamp, FusedOp, Step, fuse, observed_nodes};

use std::collections::BTreeMap;

use crate::op::Op;
use crate::qmodel::{QEdge, QModel, QNode, QOp, QWeight};
use crate::{CoreError, InputSpec, Model, QParams, Result};

/// What a quantization method decides about a folded model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QuantSpec {
    /// What happens to residual additions.
    pub adds: Adds,
    /// Scale and zero point of every value that is rounded ([`Step::requantizes`]), by node name.
    pub edges: BTreeMap<String, QParams>,
    /// Codes of every Conv and Gemm weight, by parameter name.
    pub weights: BTreeMap<String, QWeight>,
}

/// The integer network of a folded model.
///
/// ```text
/// bias[o] = round_half_even(b[o] / (s_x·s_w[o]))
/// lo = z_y after ReLU or Clip, else 0        hi = min(255, round_half_even(max/s_y) + z_y) after Clip, else 255
/// ```
///
/// # Errors
///
/// [`CoreError::Quant`] for an edge or a weight that `spec` does not name (or names for nothing), for edges that are
/// not u8, and for a bias that its filter's scale does not keep ([`bias_codes`]); [`CoreError::Unsupported`] for graphs that have no integer form.
pub fn lower(folded: &Model, spec: &QuantSpec) -> Result<QModel> {
    let steps = fuse(folded, spec.adds)?;
    check_names(folded, &steps, spec)?;
    let edges = step_edges(folded, &steps, &spec.edges)?;
    let mut nodes = Vec::with_capacity(steps.len());
    for (id, step) in steps.iter().enumerate() {
        let zero = edges[id].as_ref().map_or(0, |e| e.zero(0));
        let scale = edges[id].as_ref().map_or(1.0, |e| e.scale);
        let (lo, hi) = step.op.clamp().code_limits(scale, zero);
        let y_scale = edges[id].as_ref().map(|e| e.scale);
        let x_scale = |i: usize| -> Result<f32> {
            let edge = edges[step.inputs[i]].as_ref();
            edge.map(|e| e.scale).ok_or_else(|| CoreError::Graph {
                node: folded.graph.nodes[step.value].name.clone(),
                problem: "reads the logits, which have no codes".to_owned(),
            })
        };
        let op = match &step.op {
            FusedOp::Input => QOp::Input,
            FusedOp::Conv { node, .. } => {
                let Op::Conv { window, group, .. } = &folded.graph.nodes[*node].op else {
                    return Err(internal(folded, *node));
                };
                let (weight, bias) = weight_and_bias(folded, *node, spec, x_scale(0)?, y_scale)?;
                QOp::Conv {
                    weight,
                    bias,
                    window: *window,
                    group: *group,
                    lo,
                    hi,
                }
            }
            FusedOp::Gemm { node, .. } => {
                let (weight, bias) = weight_and_bias(folded, *node, spec, x_scale(0)?, y_scale)?;
                if edges[id].is_none() {
                    QOp::Logits { weight, bias }
                } else {
                    QOp::Gemm {
                        weight,
                        bias,
                        lo,
                        hi,
                    }
                }
            }
            FusedOp::Add { .. } => QOp::Add { lo, hi },
            FusedOp::Clamp { .. } => QOp::Clamp { lo, hi },
            FusedOp::Plain { node } => match &folded.graph.nodes[*node].op {
                Op::MaxPool(window) => QOp::MaxPool(*window),
                Op::AveragePool(window) => QOp::AveragePool(*window),
                Op::GlobalAveragePool => QOp::GlobalAveragePool,
                Op::Flatten => QOp::Flatten,
                Op::Slice { start, end, step } => QOp::Slice {
                    start: start.clone(),
                    end: end.clone(),
                    step: step.clone(),
                },
                Op::Pad { begin, end } => QOp::Pad {
                    begin: begin.clone(),
                    end: end.clone(),
                },
                _ => return Err(internal(folded, *node)),
            },
        };
        nodes.push(QNode {
            name: folded.graph.nodes[step.value].name.clone(),
            op,
            inputs: step.inputs.clone(),
            edge: edges[id].clone(),
        });
    }
    let model = QModel {
        nodes,
        input: folded.input.clone(),
    };
    model.validate()?;
    Ok(model)
}

/// What the codes of every step mean: chosen by the method where a value is rounded, the input's where codes are kept,
/// fixed for the image, `None` for the logits.
///
/// # Errors
///
/// [`CoreError::Quant`] for a missing edge or one that is not u8.
pub fn step_edges(
    folded: &Model,
    steps: &[Step],
    chosen: &BTreeMap<String, QParams>,
) -> Result<Vec<Option<QEdge>>> {
    let mut edges: Vec<Option<QEdge>> = Vec::with_capacity(steps.len());
    for step in steps {
        let name = &folded.graph.nodes[step.value].name;
        let edge = match &step.op {
            FusedOp::Input => Some(input_edge(&folded.input)),
            FusedOp::Gemm { .. } if step.value == folded.graph.output => None,
            _ if step.requantizes(folded) => {
                let quant = |problem: String| CoreError::Quant {
                    what: name.clone(),
                    problem,
                };
                let params = chosen
                    .get(name)
                    .ok_or_else(|| quant("no scale was chosen; calibrate this edge".to_owned()))?;
                let zero = u8::try_from(params.zero_point).ok();
                match zero {
                    Some(zero) if (params.qmin, params.qmax) == (0, 255) => Some(QEdge {
                        scale: params.scale,
                        zero_points: vec![zero],
                    }),
                    _ => {
                        let (qmin, qmax) = (params.qmin, params.qmax);
                        return Err(quant(format!("codes {qmin} to {qmax}, expected 0 to 255")));
                    }
                }
            }
            _ => edges[step.inputs[0]].clone(),
        };
        edges.push(edge);
    }
    Ok(edges)
}

/// The image's edge: bytes with the rounded mean of each channel as zero point.
fn input_edge(input: &InputSpec) -> QEdge {
    QEdge {
        scale: 1.0,
        zero_points: input.mean.iter().map(|m| fold::byte_mean(*m)).collect(),
    }
}

fn weight_and_bias(
    folded: &Model,
    node: usize,
    spec: &QuantSpec,
    x_scale: f32,
    y_scale: Option<f32>,
) -> Result<(QWeight, Vec<i32>)> {
    let (Op::Conv { weight, bias, .. } | Op::Gemm { weight, bias }) = &folded.graph.nodes[node].op
    else {
        return Err(internal(folded, node));
    };
    let codes = spec.weights.get(weight).ok_or_else(|| CoreError::Quant {
        what: weight.clone(),
        problem: "no codes were chosen for this weight".to_owned(),
    })?;
    let bias = match bias {
        None => vec![0; codes.scales.len()],
        Some(name) => {
            let bias: Vec<f32> = folded.param(name)?.iter().copied().collect();
            bias_codes(name, &bias, codes, x_scale, y_scale)?
        }
    };
    Ok((codes.clone(), bias))
}

fn check_names(folded: &Model, steps: &[Step], spec: &QuantSpec) -> Result<()> {
    let points: Vec<&str> = steps
        .iter()
        .filter(|s| s.requantizes(folded))
        .map(|s| folded.graph.nodes[s.value].name.as_str())
        .collect();
    let stray_edge = spec.edges.keys().find(|n| !points.contains(&n.as_str()));
    let weights = folded.weight_names();
    let stray_weight = spec.weights.keys().find(|n| !weights.contains(&n.as_str()));
    match stray_edge.or(stray_weight) {
        None => Ok(()),
        Some(name) => Err(CoreError::Quant {
            what: name.clone(),
            problem: format!(
                "the specification names it, but with {:?} additions nothing of that name is quantized",
                spec.adds
            ),
        }),
    }
}

fn internal(folded: &Model, node: usize) -> CoreError {
    let node = &folded.graph.nodes[node];
    CoreError::Unsupported {
        node: node.name.clone(),
        op: node.op.name(),
        why: "its step is of another kind".to_owned(),
    }
}

#[cfg(test)]
mod tests;
