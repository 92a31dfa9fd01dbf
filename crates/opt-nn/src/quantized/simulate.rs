//! The exact simulation: the integer network's codes, computed on libtorch from the folded model and its specification.

use std::collections::BTreeMap;

use opt_core::lower::{FusedOp, QuantSpec, bias_codes};
use opt_core::op::Op;
use opt_core::{CoreError, Model, NodeId};
use tch::{Device, Kind, Tensor};

use super::Plan;
use crate::forward::{conv2d, layout};
use crate::net::to_vec;
use crate::{Batch, NnError, Result};

/// A Conv or Gemm with its codes as a tensor.
#[derive(Debug)]
struct Linear {
    /// Codes.
    codes: Tensor,
    /// Whole numbers.
    bias: Tensor,
    /// `s_w[o]`.
    scales: Vec<f32>,
    /// The arithmetic in which every partial sum is exact.
    kind: Kind,
}

/// An integer network on libtorch, exact in every code.
///
/// Accumulators are whole numbers held in floats: f32 where no partial sum can reach 2^24, whatever the image, else
/// f64.
#[derive(Debug)]
pub struct Simulation {
    plan: Plan,
    linears: BTreeMap<NodeId, Linear>,
    input: opt_core::InputSpec,
    device: Device,
}

/// The codes of one batch.
#[derive(Debug)]
pub struct Trace {
    /// For every step, its codes `[N, …]` flat; empty for the logits.
    pub codes: Vec<Vec<u8>>,
    /// `[N, classes]`.
    pub logits: Tensor,
}

impl Simulation {
    /// Prepares the network that [`opt_core::lower::lower()`] would give for the same arguments.
    ///
    /// # Errors
    ///
    /// Those of lowering.
    pub fn new(folded: &Model, spec: &QuantSpec, device: Device) -> Result<Self> {
        let plan = Plan::new(folded, spec.adds, &spec.edges)?;
        let mut linears = BTreeMap::new();
        for (id, step) in plan.steps.iter().enumerate() {
            let (FusedOp::Conv { node, .. } | FusedOp::Gemm { node, .. }) = &step.op else {
                continue;
            };
            let (Op::Conv { weight, bias, .. } | Op::Gemm { weight, bias }) = &plan.nodes[*node].op
            else {
                continue;
            };
            let quant = |problem: &str| CoreError::Quant {
                what: weight.clone(),
                problem: problem.to_owned(),
            };
            let chosen = spec
                .weights
                .get(weight)
                .ok_or_else(|| quant("no codes were chosen for this weight"))?;
            if chosen.codes.shape() != folded.param(weight)?.shape() {
                return Err(quant("the codes have another shape than the weight").into());
            }
            let x_scale = plan.scale(step.inputs[0]);
            let outputs = chosen.scales.len();
            let bias: Vec<f64> = match bias {
                None => vec![0.0; outputs],
                Some(name) => {
                    let bias: Vec<f32> = folded.param(name)?.iter().copied().collect();
                    let y_scale = plan.edges[id].as_ref().map(|e| e.scale);
                    let codes = bias_codes(name, &bias, chosen, x_scale, y_scale)?;
                    codes.into_iter().map(f64::from).collect()
                }
            };
            // Bound every partial sum by what the largest codes could add up to.
            let largest_x = plan.edges[step.inputs[0]].as_ref().map_or(255, |e| {
                let farthest = |z: &u8| i64::from((*z).max(255 - *z));
                e.zero_points.iter().map(farthest).max().unwrap_or(255)
            });
            let mut bound = 0;
            for (filter, b) in chosen.codes.outer_iter().zip(&bias) {
                let sum: i64 = filter.iter().map(|q| i64::from(q.unsigned_abs())).sum();
                #[expect(clippy::cast_possible_truncation, reason = "a bias code has 30 bits")]
                let b = b.abs() as i64;
                bound = bound.max(sum * largest_x + b);
            }
            // CUDA may multiply f32 in TF32, which holds 11 bits.
            let exact = bound < 1 << 24 && !device.is_cuda();
            let kind = if exact { Kind::Float } else { Kind::Double };
            let shape: Vec<i64> = chosen.codes.shape().iter().map(|d| *d as i64).collect();
            let codes: Vec<i8> = chosen.codes.iter().copied().collect();
            let tensor = |t: Tensor| t.to_kind(kind).to_device(device);
            linears.insert(
                *node,
                Linear {
                    codes: tensor(Tensor::from_slice(&codes).reshape(shape)),
                    bias: tensor(Tensor::from_slice(&bias)),
                    scales: chosen.scales.clone(),
                    kind,
                },
            );
        }
        Ok(Self {
            plan,
            linears,
            input: folded.input.clone(),
            device,
        })
    }

    /// The logits of a batch, `[N, classes]`.
    ///
    /// # Errors
    ///
    /// [`NnError::Batch`] if it does not fit.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        Ok(self.run(batch, false)?.logits)
    }

    /// The codes at every edge of a batch.
    ///
    /// # Errors
    ///
    /// [`NnError::Batch`] if it does not fit.
    pub fn trace(&self, batch: &Batch) -> Result<Trace> {
        self.run(batch, true)
    }

    fn run(&self, batch: &Batch, keep: bool) -> Result<Trace> {
        let _no_grad = tch::no_grad_guard();
        let plan = &self.plan;
        let last = plan.last_readers(&[]);
        let bytes = batch.bytes(&self.input, self.device)?;
        let mut values: Vec<Option<Tensor>> = Vec::with_capacity(plan.steps.len());
        let mut codes = Vec::new();
        let mut logits = Tensor::new();
        for (id, step) in plan.steps.iter().enumerate() {
            let inputs: Vec<&Tensor> = step
                .inputs
                .iter()
                .filter_map(|&i| values[i].as_ref())
                .collect();
            let value = match &step.op {
                FusedOp::Input => bytes.to_kind(Kind::Float) - self.zeros(id),
                FusedOp::Conv { node, .. } | FusedOp::Gemm { node, .. } => {
                    let linear = &self.linears[node];
                    let acc = self.accumulate(*node, linear, inputs[0]);
                    let x_scale = plan.scale(step.inputs[0]);
                    if plan.edges[id].is_none() {
                        logits = acc * row(&linear.scales, &|s| x_scale * s, 2, self.device);
                        values.push(None);
                        codes.push(Vec::new());
                        continue;
                    }
                    let y_scale = plan.scale(id);
                    let m = row(
                        &linear.scales,
                        &|s| x_scale * s / y_scale,
                        acc.dim(),
                        self.device,
                    );
                    let mut f = acc * m;
                    if let Some(residual) = inputs.get(1) {
                        f += *residual * scalar(plan.scale(step.inputs[1]) / y_scale, self.device);
                    }
                    self.round(id, &f)
                }
                FusedOp::Add { .. } => {
                    let scale =
                        |i: usize| scalar(plan.scale(step.inputs[i]) / plan.scale(id), self.device);
                    self.round(id, &(inputs[0] * scale(0) + inputs[1] * scale(1)))
                }
                FusedOp::Clamp { .. } => {
                    let (lo, hi) = plan.centred_limits(id);
                    inputs[0].clamp(lo, hi)
                }
                FusedOp::Plain { node } => match &plan.nodes[*node].op {
                    op @ (Op::AveragePool(_) | Op::GlobalAveragePool) => {
                        let (sum, count) = window_sums(op, inputs[0]);
                        let y_scale = scalar(plan.scale(id), self.device);
                        let m = scalar(plan.scale(step.inputs[0]), self.device) / (y_scale * count);
                        self.round(id, &(sum * m))
                    }
                    op => layout(op, inputs[0]),
                },
            };
            if keep {
                let shifted = &value + self.zeros(id);
                let floats = to_vec(&shifted).map_err(|e| NnError::torch("reading codes", &e))?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "whole numbers from 0 to 255"
                )]
                codes.push(floats.into_iter().map(|q| q as u8).collect());
            }
            values.push(Some(value));
            for &input in &step.inputs {
                if last[input] == id {
                    values[input] = None;
                }
            }
        }
        Ok(Trace { codes, logits })
    }

    /// `Σ (q_x - z_x)·q_w + bias`, rounded to f32 once.
    fn accumulate(&self, node: NodeId, linear: &Linear, x: &Tensor) -> Tensor {
        let x = x.to_kind(linear.kind);
        let bias = Some(&linear.bias);
        let acc = match &self.plan.nodes[node].op {
            Op::Conv { window, group, .. } => conv2d(&x, &linear.codes, bias, window, *group),
            _ => x.linear(&linear.codes, bias),
        };
        acc.to_kind(Kind::Float)
    }

    /// The zero points of a step, shaped to be added to its centred codes.
    fn zeros(&self, step: usize) -> Tensor {
        let zeros: Vec<f32> = match &self.plan.edges[step] {
            Some(edge) => edge.zero_points.iter().map(|z| f32::from(*z)).collect(),
            None => vec![0.0],
        };
        let tensor = Tensor::from_slice(&zeros).to_device(self.device);
        if zeros.len() == 1 {
            tensor.reshape([] as [i64; 0])
        } else {
            tensor.reshape([1, -1, 1, 1])
        }
    }

    fn round(&self, step: usize, f: &Tensor) -> Tensor {
        let (lo, hi) = self.plan.centred_limits(step);
        f.round().clamp(lo, hi)
    }
}

/// Sums under each window and how many values each has, f32: whole numbers below 2^24 for windows up to 65,000 values.
fn window_sums(op: &Op, x: &Tensor) -> (Tensor, Tensor) {
    match op {
        Op::AveragePool(w) => {
            let summed = |t: &Tensor| {
                let [top, left, bottom, right] = w.pads.map(|p| p as i64);
                let kernel = w.kernel.map(|d| d as i64);
                let stride = w.stride.map(|d| d as i64);
                t.pad([left, right, top, bottom], "constant", 0.0)
                    .avg_pool2d(kernel, stride, [0, 0], false, true, Some(1))
            };
            (summed(x), summed(&x.ones_like()))
        }
        _ => {
            let plane: i64 = x.size()[2..].iter().product();
            let count = Tensor::from(plane as f32).to_device(x.device());
            (
                x.sum_dim_intlist([2i64, 3].as_slice(), true, Kind::Float),
                count,
            )
        }
    }
}

/// An f32 scalar tensor: arithmetic with it rounds to f32 at each step, as the definition does.
fn scalar(value: f32, device: Device) -> Tensor {
    Tensor::from(value).to_device(device)
}

fn row(scales: &[f32], f: &dyn Fn(f32) -> f32, rank: usize, device: Device) -> Tensor {
    let values: Vec<f32> = scales.iter().map(|s| f(*s)).collect();
    let mut shape = vec![1i64; rank];
    shape[1] = -1;
    Tensor::from_slice(&values).reshape(shape).to_device(device)
}

#[cfg(test)]
mod tests;
