//! Training with fake quantization: rounds where the integer network rounds, lets gradients through.

use std::collections::BTreeMap;

use opt_core::lower::{Adds, FusedOp, ScaleFloor, Step, byte_input_terms, fold};
use opt_core::op::Op;
use opt_core::qmodel::QWeight;
use opt_core::{CoreError, InputSpec, Model, NodeId, QParams};
use tch::{Kind, Tensor};

use super::Plan;
use crate::forward::{Outputs, Precision, conv2d, layout};
use crate::{Net, NnError, Result};

/// Where and how a network is rounded during training.
///
/// The network has its BatchNormalization folded ([`opt_core::lower::fold_batch_norms`]) but not its input: the first
/// layer's weights are brought to bytes inside the forward pass, so that their gradients have the size of all others.
/// Edges keep the scales they are given. Weight scales follow the weights, `s[o] = max|W[o]|/(2^(bits-1) - 1)`, and are
/// never below what the bias needs ([`ScaleFloor`]), so that symmetric quantization afterwards gives the codes that training
/// saw.
#[derive(Debug, Clone)]
pub struct FakeQuant {
    plan: Plan,
    adds: Adds,
    edges: BTreeMap<String, QParams>,
    weight_bits: BTreeMap<String, u8>,
    byte_factors: Vec<f32>,
    byte_offsets: Vec<f32>,
    input: InputSpec,
}

impl FakeQuant {
    /// Prepares training of `model`, whose BatchNormalization is folded.
    ///
    /// # Errors
    ///
    /// Those of [`opt_core::lower::fuse`] and [`opt_core::lower::step_edges`]; a weight without bits.
    pub fn new(
        model: &Model,
        adds: Adds,
        edges: &BTreeMap<String, QParams>,
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
        let plan = Plan::new(&folded, adds, edges)?;
        let (factors, offsets) = byte_input_terms(&model.input);
        #[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
        let to_f32 = |terms: Vec<f64>| terms.into_iter().map(|t| t as f32).collect();
        if let Some(missing) = folded
            .weight_names()
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
            plan,
            adds,
            edges: edges.clone(),
            weight_bits,
            byte_factors: to_f32(factors),
            byte_offsets: to_f32(offsets),
            input: model.input.clone(),
        })
    }

    /// How additions are rounded.
    #[must_use]
    pub fn adds(&self) -> Adds {
        self.adds
    }

    /// The scales that edges keep, by the name of their node.
    #[must_use]
    pub fn edges(&self) -> &BTreeMap<String, QParams> {
        &self.edges
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
        let last = plan.last_readers(&kept);
        let mut values: Vec<Option<Tensor>> = Vec::with_capacity(plan.steps.len());
        let mut logits = Tensor::new();
        for (id, step) in plan.steps.iter().enumerate() {
            let inputs: Vec<&Tensor> = step
                .inputs
                .iter()
                .filter_map(|&i| values[i].as_ref())
                .collect();
            let value = match &step.op {
                FusedOp::Input => {
                    let zeros = plan.edges[id].iter().flat_map(|e| &e.zero_points);
                    bytes.to_kind(Kind::Float) - per_channel(zeros.map(|z| f32::from(*z)), net)
                }
                FusedOp::Conv { node, .. } | FusedOp::Gemm { node, .. } => {
                    let (acc, scale) = self.linear(net, *node, step, inputs[0], precision);
                    if plan.edges[id].is_none() {
                        logits = acc * scale;
                        values.push(None);
                        continue;
                    }
                    let y_scale = plan.scale(id);
                    let mut f = acc * (scale / f64::from(y_scale));
                    if let Some(residual) = inputs.get(1) {
                        let r_scale = plan.scale(step.inputs[1]) / y_scale;
                        f += *residual * f64::from(r_scale);
                    }
                    self.round(id, &f)
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
        let tap = |id: &usize| {
            let value = values[*id].as_ref();
            value.map_or_else(
                || logits.shallow_clone(),
                |v| v * f64::from(plan.scale(*id)),
            )
        };
        Ok(Outputs {
            taps: kept.iter().map(tap).collect(),
            logits,
        })
    }

    /// Conv or Gemm on centred codes. Returns the accumulator with the bias in it, and the scale of its unit per output
    /// channel, both f32.
    fn linear(
        &self,
        net: &Net,
        node: NodeId,
        step: &Step,
        x: &Tensor,
        precision: Precision,
    ) -> (Tensor, Tensor) {
        let (Op::Conv { weight, .. } | Op::Gemm { weight, .. }) = &self.plan.nodes[node].op else {
            return (Tensor::new(), Tensor::new());
        };
        let x_scale = self.plan.scale(step.inputs[0]);
        let (Op::Conv { bias, .. } | Op::Gemm { bias, .. }) = &net.graph().nodes[node].op else {
            return (Tensor::new(), Tensor::new());
        };
        let mut master = net.tensor(weight).shallow_clone();
        let mut bias = bias.as_deref().map(|b| net.tensor(b).shallow_clone());
        if step.inputs[0] == 0 {
            let offsets = per_channel(self.byte_offsets.iter().copied(), net);
            let shift = (&master * offsets).sum_dim_intlist([1i64, 2, 3].as_slice(), false, None);
            bias = Some(bias.map_or_else(|| shift.shallow_clone(), |b| b + &shift));
            // Not in place: the master is a leaf of the gradient's graph.
            master = &master * per_channel(self.byte_factors.iter().copied(), net);
        }
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
            _ => (
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
