//! Sums of gradients, of their sizes and of their squares over single images, for importance scores.

use opt_core::{Gate, GradientSums};
use tch::{Kind, Tensor};

use crate::batch::Batch;
use crate::forward::{Mode, Precision, forward};
use crate::net::{to_array, to_vec};
use crate::{Net, NnError, Result};

/// Computes the sums over batches of **one** image each, in f32 with running statistics, which do not move.
///
/// `gates` are summed too, by their layers' names; `&[]` where nothing scores channels.
///
/// # Errors
///
/// [`NnError::Batch`] for a batch that does not fit or holds more than one image, and where there is none;
/// [`NnError::Gate`] for a gate that does not fit the network.
pub fn gradient_sums(
    net: &mut Net,
    images: impl Iterator<Item = Batch>,
    gates: &[Gate],
) -> Result<GradientSums> {
    let names: Vec<String> = net.trainable().into_iter().map(|(name, _)| name).collect();
    let gates = gates
        .iter()
        .map(|gate| GateSums::new(gate, net, &names))
        .collect::<Result<Vec<_>>>();
    let mut gates = gates?;
    for name in &names {
        let leaf = net.tensor(name).detach().set_requires_grad(true);
        net.replace(name, leaf);
    }
    let mut totals: Vec<Totals> = names.iter().map(|n| Totals::new(net.tensor(n))).collect();
    let mut n_samples = 0;
    for batch in images {
        if batch.labels.len() != 1 {
            let problem = format!(
                "{} images, expected one: sizes and squares are of single gradients",
                batch.labels.len()
            );
            return Err(NnError::Batch { problem });
        }
        let bytes = batch.bytes(net.input(), net.device())?;
        let labels = batch.labels(net.classes(), net.device())?;
        let logits = forward(net, &bytes, Mode::Evaluate, Precision::F32, &[]).logits;
        let loss = logits.cross_entropy_for_logits(&labels);
        let parameters: Vec<&Tensor> = names.iter().map(|n| net.tensor(n)).collect();
        let gradients = Tensor::f_run_backward(&[&loss], &parameters, false, false)
            .map_err(|e| NnError::torch("computing gradients", &e))?;
        let _no_grad = tch::no_grad_guard();
        for (total, gradient) in totals.iter_mut().zip(&gradients) {
            total.add(gradient);
        }
        for gate in &mut gates {
            gate.add(&gradients);
        }
        n_samples += 1;
    }
    if n_samples == 0 {
        let problem = "there are no images to compute gradients on".to_owned();
        return Err(NnError::Batch { problem });
    }
    let mut sums = GradientSums {
        n_samples,
        ..GradientSums::default()
    };
    for (name, total) in names.iter().zip(&totals) {
        let shared = |t: &Tensor| Ok::<_, NnError>(to_array(t, name)?.into_shared());
        sums.sum_gradient.insert(name.clone(), shared(&total.sum)?);
        sums.sum_abs_gradient
            .insert(name.clone(), shared(&total.absolute)?);
        sums.sum_squared_gradient
            .insert(name.clone(), shared(&total.squared)?);
    }
    for gate in gates {
        let read = |t: &Tensor| -> Result<Vec<f64>> {
            let values =
                to_vec(t).map_err(|e| NnError::torch(&format!("reading `{}`", gate.layer), &e))?;
            Ok(values.into_iter().map(f64::from).collect())
        };
        sums.sum_abs_gate
            .insert(gate.layer.clone(), read(&gate.totals.absolute)?);
        sums.sum_squared_gate
            .insert(gate.layer.clone(), read(&gate.totals.squared)?);
    }
    Ok(sums)
}

/// The three sums of one quantity.
struct Totals {
    sum: Tensor,
    absolute: Tensor,
    squared: Tensor,
}

impl Totals {
    /// Zeros in the shape of `like`.
    fn new(like: &Tensor) -> Self {
        let _no_grad = tch::no_grad_guard();
        let zeros = || like.zeros_like();
        Self {
            sum: zeros(),
            absolute: zeros(),
            squared: zeros(),
        }
    }

    fn add(&mut self, of_one: &Tensor) {
        let _ = self.sum.g_add_(of_one);
        let _ = self.absolute.g_add_(&of_one.abs());
        let _ = self.squared.g_add_(&of_one.square());
    }
}

/// A gate on the network's device, with its sums.
struct GateSums {
    layer: String,
    channels: i64,
    /// Positions among the trainable parameters, and the factors.
    factors: Vec<(usize, Tensor)>,
    totals: Totals,
}

impl GateSums {
    fn new(gate: &Gate, net: &Net, names: &[String]) -> Result<Self> {
        let wrong = |problem: String| NnError::Gate {
            layer: gate.layer.clone(),
            problem,
        };
        let mut factors = Vec::new();
        for (name, values) in &gate.factors {
            let position = names
                .iter()
                .position(|n| n == name)
                .ok_or_else(|| wrong(format!("no trainable parameter is called `{name}`")))?;
            let shape = net.tensor(name).size();
            let found: Vec<i64> = values.shape().iter().map(|d| *d as i64).collect();
            if found != shape || !values.len().is_multiple_of(gate.channels.max(1)) {
                return Err(wrong(format!(
                    "factors {found:?} of `{name}`, expected {shape:?}, which {} channels share equally",
                    gate.channels
                )));
            }
            let values: Vec<f32> = values.iter().copied().collect();
            let tensor = Tensor::from_slice(&values)
                .reshape(shape)
                .to_device(net.device());
            factors.push((position, tensor));
        }
        if gate.channels == 0 || factors.is_empty() {
            return Err(wrong("it has no channels or no factors".to_owned()));
        }
        let channels = gate.channels as i64;
        Ok(Self {
            layer: gate.layer.clone(),
            channels,
            factors,
            totals: Totals::new(&Tensor::zeros([channels], (Kind::Float, net.device()))),
        })
    }

    fn add(&mut self, gradients: &[Tensor]) {
        let terms = self.factors.iter().map(|(position, factors)| {
            let products = &gradients[*position] * factors;
            products.reshape([self.channels, -1]).sum_dim_intlist(
                [1i64].as_slice(),
                false,
                Kind::Float,
            )
        });
        if let Some(gate) = terms.reduce(|a, b| a + b) {
            self.totals.add(&gate);
        }
    }
}

#[cfg(test)]
mod tests;
