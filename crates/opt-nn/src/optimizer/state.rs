//! Everything that an optimizer and its network hold between two steps, as data.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::Optimizer;
use crate::net::to_vec;
use crate::{Net, NnError, Result};

/// The state after a step: with it, the next step is the one that would have followed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OptimizerState {
    /// Updates done.
    pub steps: u64,
    /// Flat f32 buffers by name: `weights`, `moment.N`, `mask`, `average`, and the running statistics as
    /// `statistic.NAME` and `average.NAME`.
    pub buffers: BTreeMap<String, Vec<f32>>,
}

impl Optimizer {
    /// Copies the state.
    ///
    /// # Errors
    ///
    /// [`NnError::Torch`] if a tensor cannot be read.
    pub fn state(&self, net: &Net) -> Result<OptimizerState> {
        let mut buffers = BTreeMap::new();
        for (name, tensor) in self.buffers(net) {
            let values = to_vec(&tensor)
                .map_err(|e| NnError::torch(&format!("reading the state `{name}`"), &e))?;
            buffers.insert(name, values);
        }
        Ok(OptimizerState {
            steps: self.steps,
            buffers,
        })
    }

    /// Goes on from a state of the same network and options.
    ///
    /// # Errors
    ///
    /// [`NnError::State`] for a buffer that is missing, left over or of another length; then nothing changes.
    pub fn restore(&mut self, net: &Net, state: &OptimizerState) -> Result<()> {
        let problem = |name: &str, problem: String| {
            Err(NnError::State {
                buffer: name.to_owned(),
                problem,
            })
        };
        let _no_grad = tch::no_grad_guard();
        // A schedule may have set masks that this optimizer does not have yet.
        let masked = state.buffers.contains_key("mask");
        let mask = self.mask.take();
        self.mask = masked.then(|| self.weights.ones_like());
        let buffers = self.buffers(net);
        let check = || {
            for (name, tensor) in &buffers {
                match state.buffers.get(name).map(Vec::len) {
                    Some(found) if found == tensor.numel() => {}
                    Some(found) => {
                        let expected = tensor.numel();
                        return problem(name, format!("{found} numbers, expected {expected}"));
                    }
                    None => return problem(name, "it is missing".to_owned()),
                }
            }
            let known = |name: &&String| buffers.iter().any(|(n, _)| n == *name);
            match state.buffers.keys().find(|name| !known(name)) {
                Some(name) => problem(name, "this training has no such buffer".to_owned()),
                None => Ok(()),
            }
        };
        if let Err(error) = check() {
            self.mask = mask;
            return Err(error);
        }
        for (name, mut tensor) in buffers {
            let values = Tensor::from_slice(&state.buffers[&name])
                .to_kind(Kind::Float)
                .reshape(tensor.size().as_slice());
            tensor.copy_(&values);
        }
        self.steps = state.steps;
        Ok(())
    }

    /// Where a number is not finite, of all that training leaves behind; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`NnError::Torch`] if a tensor cannot be read.
    pub(crate) fn not_finite(&self, net: &Net) -> Result<Option<String>> {
        let _no_grad = tch::no_grad_guard();
        let finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
        let broken = |(_, tensor): &(String, Tensor)| !finite(tensor);
        let Some((buffer, tensor)) = self.buffers(net).into_iter().find(broken) else {
            return Ok(None);
        };
        let values =
            to_vec(&tensor).map_err(|e| NnError::torch(&format!("reading `{buffer}`"), &e))?;
        let at = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
        let value = values.get(at).copied().unwrap_or(f32::NAN);
        // The flat buffers hold the parameters one after another, projectors last.
        let flat =
            matches!(buffer.as_str(), "weights" | "average") || buffer.starts_with("moment.");
        let mut end = 0;
        let parameter = self.names.iter().find(|name| {
            end += net.tensor(name).numel();
            at < end
        });
        let of = match parameter {
            Some(name) if flat => format!(" at the parameter `{name}`"),
            _ => String::new(),
        };
        Ok(Some(format!("the buffer `{buffer}` holds {value}{of}")))
    }

    /// All buffers by name; they share memory with the optimizer and the network.
    fn buffers(&self, net: &Net) -> Vec<(String, Tensor)> {
        let mut buffers = vec![("weights".to_owned(), self.weights.shallow_clone())];
        for (i, moment) in self.moments.iter().enumerate() {
            buffers.push((format!("moment.{i}"), moment.shallow_clone()));
        }
        if let Some(mask) = &self.mask {
            buffers.push(("mask".to_owned(), mask.shallow_clone()));
        }
        for name in net.statistics() {
            let tensor = net.tensor(&name).shallow_clone();
            buffers.push((format!("statistic.{name}"), tensor));
        }
        if let Some(average) = &self.average {
            buffers.push(("average".to_owned(), average.weights.shallow_clone()));
            for (name, tensor) in &average.statistics {
                buffers.push((format!("average.{name}"), tensor.shallow_clone()));
            }
        }
        buffers
    }
}
