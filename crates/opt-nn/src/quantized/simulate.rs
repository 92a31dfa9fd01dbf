//! The exact simulation: the integer network's codes, computed on libtorch from the folded model and its specification.

use std::collections::BTreeMap;

use opt_core::lower::{FusedOp, QuantSpec, bias_codes};
use opt_core::op::{Op, Window};
use opt_core::{CoreError, Model, NodeId};
use tch::{Device, Kind, Tensor};

use super::Plan;
use crate::forward::{Mode, Precision, conv2d, layout, run_op};
use crate::net::to_vec;
use crate::{Batch, Net, NnError, Result};

/// A Conv or Gemm with its codes as a tensor.
#[derive(Debug)]
struct Linear {
    /// Codes.
    codes: Tensor,
    /// Integers.
    bias: Tensor,
    /// `s_w[o]`.
    scales: Vec<f32>,
    /// The arithmetic in which every partial sum is exact.
    kind: Kind,
}

/// An integer network on libtorch, exact in every code.
///
/// Accumulators are integers held in floats: f32 where no partial sum can reach 2^24, whatever the image, else
/// f64.
#[derive(Debug)]
pub struct Simulation {
    plan: Plan,
    linears: BTreeMap<NodeId, Linear>,
    /// What stays f32.
    net: Net,
    /// The step that gives the result.
    output: usize,
    input: opt_core::InputSpec,
    device: Device,
}

/// The values of one batch.
#[derive(Debug)]
pub struct Trace {
    /// For every step, its codes `[N, …]` flat; empty for f32 values.
    pub codes: Vec<Vec<u8>>,
    /// The first output, `[N, classes]`.
    pub logits: Tensor,
}

impl Simulation {
    /// Prepares the network that [`opt_core::lower::lower()`] would give for the same arguments.
    ///
    /// # Errors
    ///
    /// Those of lowering.
    pub fn new(folded: &Model, spec: &QuantSpec, device: Device) -> Result<Self> {
        let plan = Plan::new(folded, &spec.placement, &spec.activations)?;
        let mut linears = BTreeMap::new();
        for (id, step) in plan.steps.iter().enumerate() {
            let (FusedOp::Conv { node, .. }
            | FusedOp::Gemm { node, .. }
            | FusedOp::Logits { node }) = &step.op
            else {
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
                    let y_scale = plan.activations[id].as_ref().map(|a| a.scale);
                    let codes = bias_codes(name, &bias, chosen, x_scale, y_scale)?;
                    codes.into_iter().map(f64::from).collect()
                }
            };
            // Bound every partial sum by what the largest codes could add up to.
            let largest_x = plan.activations[step.inputs[0]].as_ref().map_or(255, |a| {
                let farthest = |z: &u8| i64::from((*z).max(255 - *z));
                a.zero_points.iter().map(farthest).max().unwrap_or(255)
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
            output: plan.output(folded),
            plan,
            linears,
            net: Net::new(folded, device)?,
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

    /// The codes of every activation of a batch.
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
        let last = plan.last_readers(&[self.output]);
        let bytes = batch.bytes(&self.input, self.device)?;
        let mut values: Vec<Option<Tensor>> = Vec::with_capacity(plan.steps.len());
        let mut codes = Vec::new();
        for (id, step) in plan.steps.iter().enumerate() {
            let inputs: Vec<&Tensor> = step
                .inputs
                .iter()
                .filter_map(|&i| values[i].as_ref())
                .collect();
            let value = match &step.op {
                FusedOp::Input => bytes.to_kind(Kind::Float) - plan.zeros(id, self.device),
                FusedOp::Conv { node, .. } | FusedOp::Gemm { node, .. } => {
                    let linear = &self.linears[node];
                    let acc = self.accumulate(*node, linear, inputs[0]);
                    let x_scale = plan.scale(step.inputs[0]);
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
                FusedOp::Logits { node } => {
                    let linear = &self.linears[node];
                    let x_scale = plan.scale(step.inputs[0]);
                    let acc = self.accumulate(*node, linear, inputs[0]);
                    acc * row(&linear.scales, &|s| x_scale * s, 2, self.device)
                }
                FusedOp::Table { function, .. } => plan.table(*function, id, inputs[0]),
                FusedOp::Quantize => {
                    let scale = scalar(plan.scale(id), self.device);
                    self.round(id, &(inputs[0] / scale))
                }
                FusedOp::Dequantize => inputs[0] * scalar(plan.scale(step.inputs[0]), self.device),
                FusedOp::Float { node } => {
                    let op = &plan.nodes[*node].op;
                    run_op(
                        &self.net,
                        op,
                        &inputs,
                        false,
                        Mode::Evaluate,
                        Precision::F32,
                    )
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
                    Op::AveragePool(window) => self.mean(id, Some(window), inputs[0]),
                    Op::GlobalAveragePool => self.mean(id, None, inputs[0]),
                    op @ (Op::Input
                    | Op::Conv { .. }
                    | Op::Gemm { .. }
                    | Op::BatchNormalization { .. }
                    | Op::Unary(_)
                    | Op::Binary(_)
                    | Op::MaxPool(_)
                    | Op::Flatten
                    | Op::Slice { .. }
                    | Op::Pad { .. }) => layout(op, inputs[0]),
                },
            };
            if keep && step.op.is_float() {
                codes.push(Vec::new());
            } else if keep {
                let shifted = &value + plan.zeros(id, self.device);
                let floats = to_vec(&shifted).map_err(|e| NnError::torch("reading codes", &e))?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "integers from 0 to 255"
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
        let logits = values[self.output]
            .take()
            .unwrap_or_default()
            .to_kind(Kind::Float);
        Ok(Trace { codes, logits })
    }

    /// `Σ (q_x - z_x)·q_w + bias`, rounded to f32 once.
    fn accumulate(&self, node: NodeId, linear: &Linear, x: &Tensor) -> Tensor {
        let x = x.to_kind(linear.kind);
        let bias = Some(&linear.bias);
        let acc = match &self.plan.nodes[node].op {
            Op::Conv { window, group, .. } => conv2d(&x, &linear.codes, bias, window, *group),
            Op::Gemm { .. } => x.linear(&linear.codes, bias),
            // Nothing else has weights.
            Op::Input
            | Op::BatchNormalization { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::MaxPool(_)
            | Op::AveragePool(_)
            | Op::GlobalAveragePool
            | Op::Flatten
            | Op::Slice { .. }
            | Op::Pad { .. } => x,
        };
        acc.to_kind(Kind::Float)
    }

    /// Codes of means under windows, or over everything.
    fn mean(&self, step: usize, window: Option<&Window>, x: &Tensor) -> Tensor {
        let (sum, count) = window_sums(window, x);
        let x_scale = self.plan.scale(self.plan.steps[step].inputs[0]);
        let y_scale = scalar(self.plan.scale(step), self.device);
        let m = scalar(x_scale, self.device) / (y_scale * count);
        self.round(step, &(sum * m))
    }

    fn round(&self, step: usize, f: &Tensor) -> Tensor {
        let (lo, hi) = self.plan.centred_limits(step);
        f.round().clamp(lo, hi)
    }
}

/// Sums under each window (or over everything) and how many values each has, f32: integers below 2^24 for windows up to 65,000 values.
fn window_sums(window: Option<&Window>, x: &Tensor) -> (Tensor, Tensor) {
    let Some(w) = window else {
        let plane: i64 = x.size()[2..].iter().product();
        let count = Tensor::from(plane as f32).to_device(x.device());
        let sum = x.sum_dim_intlist([2i64, 3].as_slice(), true, Kind::Float);
        return (sum, count);
    };
    let summed = |t: &Tensor| {
        let [top, left, bottom, right] = w.pads.map(|p| p as i64);
        let kernel = w.kernel.map(|d| d as i64);
        let stride = w.stride.map(|d| d as i64);
        t.pad([left, right, top, bottom], "constant", 0.0)
            .avg_pool2d(kernel, stride, [0, 0], false, true, Some(1))
    };
    (summed(x), summed(&x.ones_like()))
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
