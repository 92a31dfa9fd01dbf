//! The quantized network on libtorch: trained with fake quantization, and simulated exactly.
//!
//! Both walk the [`Step`]s of [`opt_core::lower::fuse`] and compute with centred codes `q - z`:
//!
//! ```text
//! acc = conv(q_x - z_x, q_w)            f = acc·m + (r - z_r)·(s_r/s_y)            q - z = clamp(round_half_even(f), lo - z, hi - z)
//! ```
//!
//! [`FakeQuant`] lets gradients through the rounding (straight-through, zero where it clamps) and may sum in bfloat16;
//! [`Simulation`] takes the codes that were chosen, accumulates without error and agrees with
//! [`opt_core::interpret_quantized`] on every code.
//!
//! # References
//!
//! Y. Bengio, N. Léonard, A. Courville, *Estimating or Propagating Gradients Through Stochastic Neurons*, 2013,
//! arXiv:1308.3432. B. Jacob et al., *Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference*, 2017, arXiv:1712.05877.

mod fake;
mod simulate;

pub use fake::FakeQuant;
pub use simulate::{Simulation, Trace};

use opt_core::lower::{Placement, Step, code_table};
use opt_core::qmodel::Activation;
use opt_core::{Model, Unary};
use tch::{Device, Kind, Tensor};

/// The operations with the meaning of their codes, and the node whose value each holds.
#[derive(Debug, Clone)]
struct Plan {
    steps: Vec<Step>,
    activations: Vec<Option<Activation>>,
    nodes: Vec<opt_core::Node>,
}

impl Plan {
    fn new(
        folded: &Model,
        placement: &Placement,
        activations: &std::collections::BTreeMap<String, opt_core::QParams>,
    ) -> crate::Result<Self> {
        let steps = opt_core::lower::fuse(folded, placement)?;
        let activations = opt_core::lower::step_activations(folded, &steps, activations)?;
        Ok(Self {
            steps,
            activations,
            nodes: folded.graph.nodes.clone(),
        })
    }

    fn scale(&self, step: usize) -> f32 {
        self.activations[step].as_ref().map_or(1.0, |a| a.scale)
    }

    fn zero(&self, step: usize) -> i32 {
        self.activations[step].as_ref().map_or(0, |a| a.zero(0))
    }

    /// The limits of a step's centred codes.
    fn centred_limits(&self, step: usize) -> (f64, f64) {
        let zero = self.zero(step);
        let (lo, hi) = self.activations[step]
            .as_ref()
            .map_or((0, u8::MAX), |a| (a.lo, a.hi));
        (
            f64::from(i32::from(lo) - zero),
            f64::from(i32::from(hi) - zero),
        )
    }

    /// The step that gives the first output.
    fn output(&self, folded: &Model) -> usize {
        let node = folded.graph.output();
        let gives = |step: &Step| step.value == node && step.op.is_float();
        self.steps.iter().rposition(gives).unwrap_or_default()
    }

    /// Whether a step reads the image's bytes, perhaps as f32.
    fn reads_image(&self, step: usize) -> bool {
        let source = self.steps[step].inputs.first();
        source.is_some_and(|s| *s == 0 || self.steps[*s].value == 0)
    }

    /// The zero points of a step, shaped to be added to its centred codes.
    fn zeros(&self, step: usize, device: Device) -> Tensor {
        let zeros: Vec<f32> = match &self.activations[step] {
            Some(activation) => activation
                .zero_points
                .iter()
                .map(|z| f32::from(*z))
                .collect(),
            None => vec![0.0],
        };
        let tensor = Tensor::from_slice(&zeros).to_device(device);
        if zeros.len() == 1 {
            tensor.reshape([] as [i64; 0])
        } else {
            tensor.reshape([1, -1, 1, 1])
        }
    }

    /// The centred codes of a function of each code, from centred codes.
    fn table(&self, function: Unary, id: usize, x: &Tensor) -> Tensor {
        let source = self.steps[id].inputs[0];
        let (Some(from), Some(to)) = (&self.activations[source], &self.activations[id]) else {
            return x.shallow_clone();
        };
        let table = code_table(function, from, to).map(|q| f32::from(q) - to.zero(0) as f32);
        let codes = (x + self.zeros(source, x.device())).to_kind(Kind::Int64);
        let table = Tensor::from_slice(&table).to_device(x.device());
        table
            .index_select(0, &codes.reshape([-1]))
            .reshape(x.size())
    }

    /// Drops values after their last reader; `kept` are read at the end.
    fn last_readers(&self, kept: &[usize]) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.steps.len()).collect();
        for (id, step) in self.steps.iter().enumerate() {
            for &input in &step.inputs {
                last[input] = id;
            }
        }
        for &id in kept {
            last[id] = usize::MAX;
        }
        last
    }
}

#[cfg(test)]
mod mixed_tests;
#[cfg(test)]
mod tests;
