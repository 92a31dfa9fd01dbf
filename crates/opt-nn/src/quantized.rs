//! The integer network on libtorch: trained with fake quantization, and simulated exactly.
//!
//! Both walk the [`Step`]s of [`opt_core::lower::fuse`] and compute with centred codes `q - z`:
//!
//! ```text
//! acc = conv(q_x - z_x, q_w)            f = acc·m + (r - z_r)·(s_r/s_y)            q - z = clamp(round_half_even(f), lo - z, hi - z)
//! ```
//!
//! [`FakeQuant`] lets gradients through the rounding (straight-through, zero where it clamps) and may sum in bfloat16;
//! [`Simulation`] takes the codes that were chosen, accumulates without error and agrees with
//! [`opt_core::interpret_integer`] on every code.
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

use opt_core::Model;
use opt_core::lower::Step;
use opt_core::qmodel::QEdge;

/// The integer operations with the meaning of their codes, and the node whose value each holds.
#[derive(Debug, Clone)]
struct Plan {
    steps: Vec<Step>,
    edges: Vec<Option<QEdge>>,
    nodes: Vec<opt_core::Node>,
}

impl Plan {
    fn new(
        folded: &Model,
        adds: opt_core::lower::Adds,
        edges: &std::collections::BTreeMap<String, opt_core::QParams>,
    ) -> crate::Result<Self> {
        let steps = opt_core::lower::fuse(folded, adds)?;
        let edges = opt_core::lower::step_edges(folded, &steps, edges)?;
        Ok(Self {
            steps,
            edges,
            nodes: folded.graph.nodes.clone(),
        })
    }

    fn scale(&self, step: usize) -> f32 {
        self.edges[step].as_ref().map_or(1.0, |e| e.scale)
    }

    fn zero(&self, step: usize) -> i32 {
        self.edges[step].as_ref().map_or(0, |e| e.zero(0))
    }

    /// The limits of a step's centred codes.
    fn centred_limits(&self, step: usize) -> (f64, f64) {
        let zero = self.zero(step);
        let (lo, hi) = self.steps[step]
            .op
            .clamp()
            .code_limits(self.scale(step), zero);
        (
            f64::from(i32::from(lo) - zero),
            f64::from(i32::from(hi) - zero),
        )
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
mod tests;
