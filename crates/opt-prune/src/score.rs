//! Step one: how important every weight, or every output channel, is.

pub mod ablation;
pub mod magnitude;
pub mod obd;
pub mod random;
pub mod taylor;

use std::collections::BTreeMap;

use ndarray::{ArrayD, Axis};
use opt_core::op::ParamRole;
use opt_core::{GradientSums, Model, Op};
use rayon::prelude::*;

use crate::chain::Wiring;
use crate::{PruneError, Result};

pub use magnitude::Norm;

/// What makes a weight important. A larger score is more important.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criterion {
    /// The size of the weight: [`magnitude`].
    Magnitude(Norm),
    /// The size of the first-order change of the loss: [`taylor`]. Needs gradient sums.
    Taylor,
    /// The change of the loss to second order, with a diagonal curvature: [`obd`]. Needs both gradient sums.
    ObdDiagonal,
    /// A uniform draw: [`random`].
    Random {
        /// Decides the draw.
        seed: u64,
    },
}

/// Scores of the weights of Conv and Gemm nodes, by parameter name, in the parameter's shape.
pub type Scores = BTreeMap<String, ArrayD<f32>>;

/// Scores of output channels, by node name: one per channel of each Conv and Gemm.
pub type ChannelScores = BTreeMap<String, Vec<f64>>;

/// Scores every weight of every Conv and Gemm.
///
/// The likelihood of the data gives each parameter j of layer i a share, `P(x; W) = Π_i Π_j p(x_ij | W_ij)`; what removing
/// `W_ij` costs is the change of -log P. [`ablation`] measures that change exactly, [`Criterion::Taylor`] and
/// [`Criterion::ObdDiagonal`] approximate it from gradients.
///
/// ```
/// use opt_core::{InputSpec, zoo};
/// use opt_prune::{Criterion, Norm, score};
/// let model = zoo::build("source_net", &InputSpec::cifar10(), 0)?;
/// let scores = score(&model, &Criterion::Magnitude(Norm::L1), None)?;
/// assert_eq!(scores["conv1.weight"].shape(), [64, 3, 3, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`PruneError::MissingGradient`] if the criterion needs sums that are not there, [`PruneError::Shape`] if they have
/// another shape than their parameter, [`PruneError::NanScore`] for a NaN.
pub fn score(
    model: &Model,
    criterion: &Criterion,
    gradients: Option<&GradientSums>,
) -> Result<Scores> {
    let names = model.weight_names();
    let score_one = |name: &&str| -> Result<(String, ArrayD<f32>)> {
        let weight = model.param(name)?.view();
        let scores = match criterion {
            Criterion::Magnitude(_) => magnitude::element_scores(weight),
            Criterion::Random { seed } => random::element_scores(name, weight.shape(), *seed),
            Criterion::Taylor => {
                let g = mean(model, name, First, "Taylor", gradients)?;
                taylor::element_scores(weight, g.view())
            }
            Criterion::ObdDiagonal => {
                let g = mean(model, name, First, "ObdDiagonal", gradients)?;
                let h = mean(model, name, Squared, "ObdDiagonal", gradients)?;
                obd::element_scores(weight, g.view(), h.view())
            }
        };
        match scores.iter().position(|s| s.is_nan()) {
            Some(index) => Err(PruneError::NanScore {
                param: (*name).to_owned(),
                index,
            }),
            None => Ok(((*name).to_owned(), scores)),
        }
    };
    // Collected in graph order before the first error is taken, so that it is the same one every time.
    let scored: Vec<Result<_>> = names.par_iter().map(score_one).collect();
    scored.into_iter().collect()
}

/// Scores every output channel of every Conv and Gemm.
///
/// A channel is removed by a factor (a gate) of 0 on its value after the normalisation that follows it. The
/// criteria that follow the loss score the change of the loss by that gate: with y = γ·(x - m)/σ + β, the derivative by
/// the gate is the sum over the filter's weights and what stands on it, each times its gradient:
///
/// ```text
/// gate = Σ_w g_w·w + g_b·b + g_β·(β - γ·m/σ)
/// Taylor: |gate|        ObdDiagonal: -gate + ½·(Σ_w h_w·w² + h_b·b² + h_β·(β - γ·m/σ)²)
/// ```
///
/// The diagonal of the second order leaves out how the weights of a channel work together; for few channels,
/// [`ablation`] is exact. Magnitude is a mean over the filter ([`magnitude::channel_scores`]), so layers are comparable.
///
/// # Errors
///
/// Those of [`score`], and those of shape inference. The criteria that follow the loss need sums for biases and norms
/// too.
pub fn score_channels(
    model: &Model,
    criterion: &Criterion,
    gradients: Option<&GradientSums>,
) -> Result<ChannelScores> {
    let wiring = Wiring::new(model)?;
    let mut scored = ChannelScores::new();
    for (id, node) in model.graph.nodes.iter().enumerate() {
        let (Op::Conv { weight, .. } | Op::Gemm { weight, .. }) = &node.op else {
            continue;
        };
        let values = model.param(weight)?.view();
        let scores = match criterion {
            Criterion::Magnitude(norm) => magnitude::channel_scores(values, *norm),
            Criterion::Random { seed } => {
                random::channel_scores(&node.name, values.shape()[0], *seed)
            }
            Criterion::Taylor => {
                let gate = gate(&wiring, id, First, "Taylor", gradients)?;
                gate.into_iter().map(f64::abs).collect()
            }
            Criterion::ObdDiagonal => {
                let first = gate(&wiring, id, First, "ObdDiagonal", gradients)?;
                let second = gate(&wiring, id, Squared, "ObdDiagonal", gradients)?;
                let both = first.iter().zip(&second);
                both.map(|(first, second)| 0.5 * second - first).collect()
            }
        };
        if let Some(index) = scores.iter().position(|s| s.is_nan()) {
            return Err(PruneError::NanScore {
                param: node.name.clone(),
                index,
            });
        }
        scored.insert(node.name.clone(), scores);
    }
    Ok(scored)
}

/// Which gradient sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    First,
    Squared,
}
use Order::{First, Squared};

/// The mean over the samples of a parameter's gradient, or of its square.
fn mean(
    model: &Model,
    name: &str,
    order: Order,
    criterion: &'static str,
    gradients: Option<&GradientSums>,
) -> Result<ArrayD<f64>> {
    let what = match order {
        First => "gradient",
        Squared => "squared gradient",
    };
    let missing = || PruneError::MissingGradient {
        param: name.to_owned(),
        criterion,
        what,
    };
    let sums = gradients.filter(|g| g.n_samples > 0).ok_or_else(missing)?;
    let sum = match order {
        First => sums.sum_gradient.get(name),
        Squared => sums.sum_squared_gradient.get(name),
    }
    .ok_or_else(missing)?;
    let expected = model.param(name)?.shape();
    if sum.shape() != expected {
        return Err(PruneError::Shape {
            what,
            param: name.to_owned(),
            found: sum.shape().to_vec(),
            expected: expected.to_vec(),
        });
    }
    let n = sums.n_samples as f64;
    Ok(sum.mapv(|v| f64::from(v) / n))
}

/// Per channel, the sum over what makes it of gradient · value, or of squared gradient · value².
fn gate(
    wiring: &Wiring<'_>,
    layer: usize,
    order: Order,
    criterion: &'static str,
    gradients: Option<&GradientSums>,
) -> Result<Vec<f64>> {
    let model = wiring.model;
    let term = |g: f64, value: f64| match order {
        First => g * value,
        Squared => g * value * value,
    };
    let mut sums: Vec<f64> = Vec::new();
    for (name, role) in model.graph.nodes[layer].op.params() {
        let g = mean(model, name, order, criterion, gradients)?;
        let value = model.param(name)?;
        let per_channel = g.axis_iter(Axis(0)).zip(value.axis_iter(Axis(0)));
        let per_channel = per_channel
            .map(|(g, v)| -> f64 { g.iter().zip(&v).map(|(g, v)| term(*g, f64::from(*v))).sum() });
        if role == ParamRole::Weight {
            sums = per_channel.collect();
        } else {
            sums.iter_mut().zip(per_channel).for_each(|(s, t)| *s += t);
        }
    }
    let chain = wiring.follow(layer);
    let Some((norm, spread)) = chain.norms.first().copied() else {
        return Ok(sums);
    };
    let Op::BatchNormalization {
        scale,
        bias,
        mean: running_mean,
        var,
        epsilon,
        ..
    } = &model.graph.nodes[norm].op
    else {
        return Ok(sums);
    };
    let g = mean(model, bias, order, criterion, gradients)?;
    let (beta, m, var) = (
        model.param(bias)?,
        model.param(running_mean)?,
        model.param(var)?,
    );
    let gamma = scale.as_deref().map(|s| model.param(s)).transpose()?;
    for (channel, sum) in sums.iter_mut().enumerate() {
        for i in channel * spread..(channel + 1) * spread {
            let sigma = (f64::from(var[i]) + f64::from(*epsilon)).sqrt();
            let gamma = gamma.map_or(1.0, |gamma| f64::from(gamma[i]));
            *sum += term(g[i], f64::from(beta[i]) - gamma * f64::from(m[i]) / sigma);
        }
    }
    Ok(sums)
}

#[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
fn to_f32(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests;
