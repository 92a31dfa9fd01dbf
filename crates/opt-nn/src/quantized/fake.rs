//! Training with fake quantization: rounds where the integer network rounds, lets gradients through.

use std::collections::BTreeMap;

use opt_core::lower::{FusedOp, Placement, ScaleFloor, byte_input_terms, fold, quantized_weights};
use opt_core::op::Op;
use opt_core::qmodel::QWeight;
use opt_core::{CoreError, InputSpec, Model, NodeId, QParams};
use tch::{Kind, Tensor};

use super::Plan;
use crate::forward::{Mode, Outputs, Precision, conv2d, layout, run_op, unary};
use crate::{Net, NnError, Result};

/// Where and how a network is rounded during training.
///
/// The network has its BatchNormalization folded ([`opt_core::lower::fold_batch_norms`]) but not its input: the first
/// layer's weights are brought to bytes inside the forward pass, so that their gradients have the size of all others.
/// Activations keep the scales they are given. Weight scales follow the weights, `s[o] = max|W[o]|/(2^(bits-1) - 1)`, and are
/// never below what the bias needs ([`ScaleFloor`]), so that symmetric quantization afterwards gives the codes that training
/// saw.
#[derive(Debug, Clone)]
pub struct FakeQuant {
    plan: Plan,
    placement: Placement,
    activations: BTreeMap<String, QParams>,
    weight_bits: BTreeMap<String, u8>,
    byte_factors: Vec<f32>,
    byte_offsets: Vec<f32>,
    input: InputSpec,
    /// The step that gives the result.
    output: usize,
}

impl FakeQuant {
    /// Prepares training of `model`, whose BatchNormalization is folded.
    ///
    /// # Errors
    ///
    /// Those of [`opt_core::lower::fuse`] and [`opt_core::lower::step_activations`]; a weight without bits.
    pub fn new(
        model: &Model,
        placement: &Placement,
        activations: &BTreeMap<String, QParams>,
        weight_bits: BTreeMap<String, u8>,
    ) -> Result<Self> {
        let folded = fold(model)?;
        if folded.graph.nodes.len() != model.graph.nodes.len() {
            return Err(CoreError::Quant {
                what: "model".to_owned(),
                problem: "fold its BatchNormalization before fake quantization".to_owned(),
            }
            .into());
        }
        let plan = Plan::new(&folded, placement, activations)?;
        let (factors, offsets) = byte_input_terms(&model.input);
        #[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
        let to_f32 = |terms: Vec<f64>| terms.into_iter().map(|t| t as f32).collect();
        if let Some(missing) = quantized_weights(&folded, placement)?
            .into_iter()
            .find(|n| !weight_bits.get(*n).is_some_and(|b| (2..=8).contains(b)))
        {
            return Err(CoreError::Quant {
                what: missing.to_owned(),
                problem: "no width from 2 to 8 bits was chosen".to_owned(),
            }
            .into());
        }
        Ok(Self {
            output: plan.output(&folded),
            plan,
            placement: placement.clone(),
            activations: activations.clone(),
            weight_bits,
            byte_factors: to_f32(factors),
            byte_offsets: to_f32(offsets),
            input: model.input.clone(),
        })
    }

    /// Which values are rounded.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The scales that activations keep, by the name of their node.
    #[must_use]
    pub fn activations(&self) -> &BTreeMap<String, QParams> {
        &self.activations
    }

    /// The bits of each weight, by its name.
    #[must_use]
    pub fn weight_bits(&self) -> &BTreeMap<String, u8> {
        &self.weight_bits
    }

    pub(crate) fn forward(
        &self,
        net: &Net,
        bytes: &Tensor,
        precision: Precision,
        taps: &[NodeId],
    ) -> Result<Outputs> {
        let plan = &self.plan;
        if net.input() != &self.input || net.graph().nodes.len() != plan.nodes.len() {
            return Err(CoreError::Quant {
                what: "network".to_owned(),
                problem: "it is not the model that this rounding was prepared for".to_owned(),
            }
            .into());
        }
        let find = |tap: &NodeId| {
            let step = plan.steps.iter().position(|s| s.value == *tap);
            step.ok_or_else(|| NnError::FusedTap {
                node: plan.nodes[*tap].name.clone(),
            })
        };
        let kept: Vec<usize> = taps.iter().map(find).collect::<Result<_>>()?;
        let read_at_the_end: Vec<usize> = kept.iter().copied().chain([self.output]).collect();
        let last = plan.last_readers(&read_at_the_end);
        let mut values: Vec<Option<Tensor>> = Vec::with_capacity(plan.steps.len());
        for (id, step) in plan.steps.iter().enumerate() {
            let inputs: Vec<&Tensor> = step
                .inputs
                .iter()
                .filter_map(|&i| values[i].as_ref())
                .collect();
            let value = match &step.op {
                FusedOp::Input => bytes.to_kind(Kind::Float) - plan.zeros(id, net.device()),
                FusedOp::Conv { node, .. } | FusedOp::Gemm { node, .. } => {
                    let (acc, scale) =
                        self.linear(net, *node, step.inputs[0], inputs[0], precision);
                    let y_scale = plan.scale(id);
                    let mut f = acc * (scale / f64::from(y_scale));
                    if let Some(residual) = inputs.get(1) {
                        let r_scale = plan.scale(step.inputs[1]) / y_scale;
                        f += *residual * f64::from(r_scale);
                    }
                    self.round(id, &f)
                }
                FusedOp::Logits { node } => {
                    let (acc, scale) =
                        self.linear(net, *node, step.inputs[0], inputs[0], precision);
                    acc * scale
                }
                FusedOp::Table { function, .. } => {
                    let x = inputs[0] * f64::from(plan.scale(step.inputs[0]));
                    let soft = unary(*function, &x) / f64::from(plan.scale(id));
                    let (lo, hi) = plan.centred_limits(id);
                    with_value(
                        &soft.clamp(lo, hi),
                        &plan.table(*function, id, &inputs[0].detach()),
                    )
                }
                FusedOp::Quantize => self.round(id, &(inputs[0] / f64::from(plan.scale(id)))),
                FusedOp::Dequantize => inputs[0] * f64::from(plan.scale(step.inputs[0])),
                FusedOp::Float { node } => {
                    let reads_image = plan.reads_image(id);
                    self.float(net, *node, &inputs, reads_image, precision)
                }
                FusedOp::Add { .. } => {
                    let scale = |i: usize| f64::from(plan.scale(step.inputs[i]) / plan.scale(id));
                    self.round(id, &(inputs[0] * scale(0) + inputs[1] * scale(1)))
                }
                FusedOp::Clamp { .. } => {
                    let (lo, hi) = plan.centred_limits(id);
                    inputs[0].clamp(lo, hi)
                }
                FusedOp::Plain { node } => {
                    let op = &plan.nodes[*node].op;
                    let y = layout(op, inputs[0]);
                    if matches!(op, Op::AveragePool(_) | Op::GlobalAveragePool) {
                        let m = f64::from(plan.scale(step.inputs[0]) / plan.scale(id));
                        self.round(id, &(y * m))
                    } else {
                        y
                    }
                }
            };
            values.push(Some(value));
            for &input in &step.inputs {
                if last[input] == id {
                    values[input] = None;
                }
            }
        }
        let value = |id: usize| {
            let value = values[id].as_ref();
            value.map_or_else(Tensor::new, |v| match plan.steps[id].op.is_float() {
                true => v.to_kind(Kind::Float),
                false => v * f64::from(plan.scale(id)),
            })
        };
        Ok(Outputs {
            taps: kept.iter().map(|id| value(*id)).collect(),
            logits: value(self.output),
        })
    }

    /// Conv or Gemm on centred codes. Returns the accumulator with the bias in it, and the scale of its unit per output
    /// channel, both f32.
    fn linear(
        &self,
        net: &Net,
        node: NodeId,
        source: usize,
        x: &Tensor,
        precision: Precision,
    ) -> (Tensor, Tensor) {
        let (Op::Conv { weight, .. } | Op::Gemm { weight, .. }) = &self.plan.nodes[node].op else {
            return (Tensor::new(), Tensor::new());
        };
        let x_scale = self.plan.scale(source);
        let (Op::Conv { bias, .. } | Op::Gemm { bias, .. }) = &net.graph().nodes[node].op else {
            return (Tensor::new(), Tensor::new());
        };
        let master = net.tensor(weight).shallow_clone();
        let bias = bias.as_deref().map(|b| net.tensor(b).shallow_clone());
        let (master, bias) = match source {
            0 => self.for_bytes(net, &master, bias),
            _ => (master, bias),
        };
        let limit = f64::from(QWeight::code_limit(self.weight_bits[weight]));
        let rank = master.dim();
        let others: Vec<i64> = (1..rank as i64).collect();
        let w_scale = {
            let _no_grad = tch::no_grad_guard();
            let largest = master.detach().abs().amax(others.as_slice(), true);
            filter_scales(&largest, bias.as_ref(), limit, x_scale)
        };
        // The largest weight over its own scale can pass the limit by a rounding error; it must keep its gradient, and what
        // lies within half a code of the limit rounds to it.
        let codes = straight_through(&(&master / &w_scale), -limit - 0.25, limit + 0.25);
        let kind = precision.kind();
        let (x, codes) = (x.to_kind(kind), codes.to_kind(kind));
        let scale = w_scale.detach().reshape([1, -1]) * f64::from(x_scale);
        let (acc, scale) = match &self.plan.nodes[node].op {
            Op::Conv { window, group, .. } => (
                conv2d(&x, &codes, None, window, *group).to_kind(Kind::Float),
                scale.reshape([1, -1, 1, 1]),
            ),
            // A Gemm, see above.
            Op::Gemm { .. }
            | Op::Input
            | Op::BatchNormalization { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::MaxPool(_)
            | Op::AveragePool(_)
            | Op::GlobalAveragePool
            | Op::Flatten
            | Op::Slice { .. }
            | Op::Pad { .. } => (
                x.linear(&codes, None::<&Tensor>).to_kind(Kind::Float),
                scale,
            ),
        };
        let acc = match bias {
            Some(bias) => {
                let whole = bias.reshape(scale.size().as_slice()) / &scale;
                acc + straight_through(&whole, -BIAS_LIMIT, BIAS_LIMIT)
            }
            None => acc,
        };
        (acc, scale)
    }

    /// A layer's weight and bias for bytes in place of normalised numbers.
    fn for_bytes(
        &self,
        net: &Net,
        master: &Tensor,
        bias: Option<Tensor>,
    ) -> (Tensor, Option<Tensor>) {
        let offsets = per_channel(self.byte_offsets.iter().copied(), net);
        let shift = (master * offsets).sum_dim_intlist([1i64, 2, 3].as_slice(), false, None);
        let bias = bias.map_or_else(|| shift.shallow_clone(), |b| b + &shift);
        // Not in place: the master is a leaf of the gradient's graph.
        let master = master * per_channel(self.byte_factors.iter().copied(), net);
        (master, Some(bias))
    }

    /// An operator that stays f32, with the master's parameters.
    fn float(
        &self,
        net: &Net,
        node: NodeId,
        inputs: &[&Tensor],
        reads_image: bool,
        precision: Precision,
    ) -> Tensor {
        let op = &net.graph().nodes[node].op;
        let Op::Conv {
            weight,
            bias,
            window,
            group,
        } = op
        else {
            return run_op(net, op, inputs, false, Mode::Train, precision);
        };
        if !reads_image {
            return run_op(net, op, inputs, false, Mode::Train, precision);
        }
        let bias = bias.as_deref().map(|b| net.tensor(b).shallow_clone());
        let (master, bias) = self.for_bytes(net, net.tensor(weight), bias);
        let kind = precision.kind();
        let bias = bias.map(|b| b.to_kind(kind));
        let (x, master) = (inputs[0].to_kind(kind), master.to_kind(kind));
        conv2d(&x, &master, bias.as_ref(), window, *group).to_kind(Kind::Float)
    }

    fn round(&self, step: usize, f: &Tensor) -> Tensor {
        let (lo, hi) = self.plan.centred_limits(step);
        straight_through(f, lo, hi)
    }
}

/// [`ScaleFloor::filter_scale`] of every filter of a layer: f32 in the same order, so bit for bit the same on the CPU; CUDA
/// multiplies by the reciprocal of `limit`.
fn filter_scales(largest: &Tensor, bias: Option<&Tensor>, limit: f64, x_scale: f32) -> Tensor {
    let floor = ScaleFloor::new(x_scale);
    let size = match bias {
        Some(bias) => bias.detach().abs().reshape(largest.size().as_slice()),
        None => largest.zeros_like(),
    };
    let needed = &size * f64::from(floor.per_bias);
    let scales = (largest / limit)
        .maximum(&needed)
        .clamp_min(f64::from(floor.least));
    // A filter without weights and bias has codes of zero at any scale.
    let empty = largest.eq(0.0).logical_and(&size.eq(0.0));
    scales.where_self(&empty.logical_not(), &scales.ones_like())
}

/// Where a bias has no code.
const BIAS_LIMIT: f64 = 1_073_741_824.0;

/// `[1, C, 1, 1]`, to be combined with images or with the first layer's weights.
fn per_channel(values: impl Iterator<Item = f32>, net: &Net) -> Tensor {
    let values: Vec<f32> = values.collect();
    Tensor::from_slice(&values)
        .reshape([1, -1, 1, 1])
        .to_device(net.device())
}

/// `value` with the gradient of `soft`.
fn with_value(soft: &Tensor, value: &Tensor) -> Tensor {
    let residue = {
        let _no_grad = tch::no_grad_guard();
        value - soft
    };
    soft + residue.detach()
}

/// `round_half_even(clamp(x, lo, hi))`, which for whole `lo` and `hi` is `clamp(round_half_even(x), lo, hi)`, whose gradient is 1 inside and 0 outside.
pub(super) fn straight_through(x: &Tensor, lo: f64, hi: f64) -> Tensor {
    let inside = x.clamp(lo, hi);
    let residue = {
        let _no_grad = tch::no_grad_guard();
        inside.round() - &inside
    };
    inside + residue.detach()
}

#[cfg(test)]
mod tests;
