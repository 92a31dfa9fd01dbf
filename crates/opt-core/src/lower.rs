//! From a trained model to a quantized network: the only place that folds, fuses and fixes biases, tables and code limits.
//!
//! 1. [`fold()`] makes a model of the same function without BatchNormalization and with bytes as input.
//! 2. [`fuse()`] says which nodes become one operation, which values are rounded to codes, and which stay f32.
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
pub use fuse::{Clamp, FusedOp, Placement, ResidualAdd, Step, fuse, observed_nodes};

use std::collections::BTreeMap;

use crate::op::{Op, Unary};
use crate::qmodel::{Activation, QModel, QNode, QOp, QWeight};
use crate::qparams::round_clamp_u8;
use crate::{CoreError, InputSpec, Model, NodeId, Output, Params, QParams, Result};

/// What a quantization method decides about a folded model. What is named by none of it, and would have to be, is an error.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QuantSpec {
    /// Which values are rounded, and which stay f32.
    pub placement: Placement,
    /// Scale, zero point and codes of every value that is rounded ([`Step::requantizes`]), by node name; at most 0 to 255.
    pub activations: BTreeMap<String, QParams>,
    /// Codes of every Conv and Gemm weight that does not stay f32, by parameter name.
    pub weights: BTreeMap<String, QWeight>,
}

/// The quantized network of a folded model.
///
/// ```text
/// bias[o] = round_half_even(b[o] / (s_x·s_w[o]))
/// lo = z_y after ReLU, else the smallest code      after Clip both ends are the codes of its bounds
/// table[q] = clamp(round_half_even(f(s_x·(q - z_x))/s_y) + z_y, lo_y, hi_y)
/// ```
///
/// # Errors
///
/// [`CoreError::Quant`] for an activation or a weight that `spec` does not name (or names for nothing), for activations that are
/// not u8, and for a bias that its filter's scale does not keep ([`bias_codes`]); [`CoreError::Unsupported`] for a model that is
/// not folded.
pub fn lower(folded: &Model, spec: &QuantSpec) -> Result<QModel> {
    let steps = fuse(folded, &spec.placement)?;
    check_names(folded, &steps, spec)?;
    let activations = step_activations(folded, &steps, &spec.activations)?;
    let mut nodes = Vec::with_capacity(steps.len());
    let mut params = Params::new();
    for (id, step) in steps.iter().enumerate() {
        let y = activations[id].as_ref();
        let x = step.inputs.first().and_then(|i| activations[*i].as_ref());
        let weights = |node: NodeId| {
            let x_scale = x.map_or(1.0, |x| x.scale);
            weight_and_bias(folded, node, spec, x_scale, y.map(|y| y.scale))
        };
        let op = match &step.op {
            FusedOp::Input => QOp::Input,
            FusedOp::Conv { node, .. } => {
                let Op::Conv { window, group, .. } = &folded.graph.nodes[*node].op else {
                    return Err(internal(folded, *node));
                };
                let (weight, bias) = weights(*node)?;
                QOp::Conv {
                    weight,
                    bias,
                    window: *window,
                    group: *group,
                }
            }
            FusedOp::Gemm { node, .. } => {
                let (weight, bias) = weights(*node)?;
                QOp::Gemm { weight, bias }
            }
            FusedOp::Logits { node } => {
                let (weight, bias) = weights(*node)?;
                QOp::Logits { weight, bias }
            }
            FusedOp::Add { .. } => QOp::Add,
            FusedOp::Table { node, function } => {
                let (Some(x), Some(y)) = (x, y) else {
                    return Err(internal(folded, *node));
                };
                QOp::Table {
                    function: *function,
                    table: Box::new(code_table(*function, x, y)),
                }
            }
            FusedOp::Clamp { .. } => QOp::Clamp,
            FusedOp::Plain { node } => plain(folded, *node)?,
            FusedOp::Quantize => QOp::Quantize,
            FusedOp::Dequantize => QOp::Dequantize,
            FusedOp::Float { node } => {
                let op = &folded.graph.nodes[*node].op;
                for (name, _) in op.params() {
                    params.insert(name.to_owned(), folded.param(name)?.clone());
                }
                QOp::Float(op.clone())
            }
        };
        nodes.push(QNode {
            name: step_name(folded, step),
            op,
            inputs: step.inputs.clone(),
            activation: activations[id].clone(),
        });
    }
    let output = |output: &Output| {
        let made = |step: &Step| step.value == output.node && step.op.is_float();
        Output {
            node: steps.iter().position(made).unwrap_or_default(),
            labels: output.labels.clone(),
        }
    };
    let model = QModel {
        nodes,
        params,
        outputs: folded.graph.outputs.iter().map(output).collect(),
        input: folded.input.clone(),
    };
    model.validate()?;
    Ok(model)
}

/// The name of a step's value: its node's, and what it was converted to.
fn step_name(folded: &Model, step: &Step) -> String {
    let name = &folded.graph.nodes[step.value].name;
    match step.op {
        FusedOp::Quantize => format!("{name}/codes"),
        FusedOp::Dequantize => format!("{name}/f32"),
        FusedOp::Input
        | FusedOp::Conv { .. }
        | FusedOp::Gemm { .. }
        | FusedOp::Logits { .. }
        | FusedOp::Add { .. }
        | FusedOp::Table { .. }
        | FusedOp::Clamp { .. }
        | FusedOp::Plain { .. }
        | FusedOp::Float { .. } => name.clone(),
    }
}

/// A pool or a layout operator on codes.
fn plain(folded: &Model, node: NodeId) -> Result<QOp> {
    Ok(match &folded.graph.nodes[node].op {
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
        Op::Input
        | Op::Conv { .. }
        | Op::Gemm { .. }
        | Op::BatchNormalization { .. }
        | Op::Unary(_)
        | Op::Binary(_) => return Err(internal(folded, node)),
    })
}

/// The result of every code of `x`, in codes of `y`.
#[must_use]
pub fn code_table(function: Unary, x: &Activation, y: &Activation) -> [u8; 256] {
    std::array::from_fn(|q| {
        let centred = i32::try_from(q).unwrap_or_default() - x.zero(0);
        let value = function.apply(x.scale * centred as f32);
        round_clamp_u8(value / y.scale, y.zero_points[0], y.lo, y.hi)
    })
}

/// What the codes of every step mean: chosen by the method where a value is rounded, the input's where codes are kept,
/// fixed for the image, `None` for f32.
///
/// # Errors
///
/// [`CoreError::Quant`] for a missing activation or one that is not u8.
pub fn step_activations(
    folded: &Model,
    steps: &[Step],
    chosen: &BTreeMap<String, QParams>,
) -> Result<Vec<Option<Activation>>> {
    let mut activations: Vec<Option<Activation>> = Vec::with_capacity(steps.len());
    for step in steps {
        let name = &folded.graph.nodes[step.value].name;
        let activation = if step.op == FusedOp::Input {
            Some(image_bytes(&folded.input))
        } else if step.op.is_float() {
            None
        } else if step.requantizes(folded) {
            let chosen = chosen.get(name).ok_or_else(|| CoreError::Quant {
                what: name.clone(),
                problem: "no scale was chosen; calibrate this activation".to_owned(),
            })?;
            Some(limited(unsigned(name, chosen)?, step.op.clamp()))
        } else {
            let kept = activations[step.inputs[0]].clone();
            kept.map(|kept| match &step.op {
                FusedOp::Plain { node } => padded(kept, &folded.graph.nodes[*node].op),
                op => limited(kept, op.clamp()),
            })
        };
        activations.push(activation);
    }
    Ok(activations)
}

/// The bytes of the image, with the rounded mean of each channel as zero point.
fn image_bytes(input: &InputSpec) -> Activation {
    Activation {
        zero_points: input.mean.iter().map(|m| fold::byte_mean(*m)).collect(),
        ..Activation::new(1.0, 0)
    }
}

fn unsigned(name: &str, params: &QParams) -> Result<Activation> {
    let byte = |code: i32| {
        u8::try_from(code).map_err(|_| CoreError::Quant {
            what: name.to_owned(),
            problem: format!(
                "codes {} to {} around {}, expected 0 to 255 or less",
                params.qmin, params.qmax, params.zero_point
            ),
        })
    };
    let (lo, hi) = (byte(params.qmin)?, byte(params.qmax)?);
    Ok(Activation::new(params.scale, byte(params.zero_point)?).within(lo, hi))
}

fn limited(activation: Activation, clamp: Clamp) -> Activation {
    let limits = (activation.lo, activation.hi);
    let (lo, hi) = clamp.code_limits(activation.scale, activation.zero(0), limits);
    activation.within(lo, hi)
}

/// Padding adds the code of zero.
fn padded(activation: Activation, op: &Op) -> Activation {
    if !matches!(op, Op::Pad { .. }) {
        return activation;
    }
    let zero = activation.zero_points[0];
    let (lo, hi) = (activation.lo.min(zero), activation.hi.max(zero));
    activation.within(lo, hi)
}

fn weight_and_bias(
    folded: &Model,
    node: NodeId,
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
        problem: "no codes were chosen for this weight; choose them, or leave its layer in f32"
            .to_owned(),
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

/// The weights that are codes, in graph order.
///
/// # Errors
///
/// Those of [`fuse()`].
pub fn quantized_weights<'a>(folded: &'a Model, placement: &Placement) -> Result<Vec<&'a str>> {
    Ok(weights_of(folded, &fuse(folded, placement)?))
}

fn weights_of<'a>(folded: &'a Model, steps: &[Step]) -> Vec<&'a str> {
    let mut weights = Vec::new();
    for step in steps {
        if let FusedOp::Conv { node, .. } | FusedOp::Gemm { node, .. } | FusedOp::Logits { node } =
            step.op
            && let Op::Conv { weight, .. } | Op::Gemm { weight, .. } = &folded.graph.nodes[node].op
        {
            weights.push(weight.as_str());
        }
    }
    weights
}

fn check_names(folded: &Model, steps: &[Step], spec: &QuantSpec) -> Result<()> {
    let points: Vec<&str> = steps
        .iter()
        .filter(|s| s.requantizes(folded))
        .map(|s| folded.graph.nodes[s.value].name.as_str())
        .collect();
    let stray = |name: &&String, of: &[&str]| !of.contains(&name.as_str());
    let stray_activation = spec.activations.keys().find(|n| stray(n, &points));
    let weights = weights_of(folded, steps);
    let stray_weight = spec.weights.keys().find(|n| stray(n, &weights));
    match stray_activation.or(stray_weight) {
        None => Ok(()),
        Some(name) => Err(CoreError::Quant {
            what: name.clone(),
            problem: format!(
                "the specification names it, but with {:?} additions nothing of that name is quantized",
                spec.placement.adds
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
