//! Step one: how important every weight, or every output channel, is.

pub mod ablation;
pub mod magnitude;
pub mod obd;
pub mod random;
pub mod taylor;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use ndarray::{ArrayD, ArrayView, ArrayViewD, Dimension};
use opt_core::{Gate, GradientSums, Model, Op, Params};
use rayon::prelude::*;

use crate::group::ChannelGraph;
use crate::rounding::to_f32;
use crate::{PruneError, Result};

pub use magnitude::Norm;
pub use taylor::TaylorForm;

/// What makes a weight important. A larger score is more important.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criterion {
    /// The size of the weight: [`magnitude`].
    Magnitude(Norm),
    /// The size of the first-order change of the loss: [`taylor`]. Needs the gradient sums of its form.
    Taylor(TaylorForm),
    /// The change of the loss to second order, with a diagonal curvature: [`obd`]. Needs sums of gradients and of their
    /// squares.
    ObdDiagonal,
    /// A uniform draw: [`random`].
    Random {
        /// Decides the draw.
        seed: u64,
    },
}

impl Criterion {
    /// Every criterion with its word, as recipes and command lines write it. The two magnitudes order single weights alike;
    /// they differ for channels.
    pub const WORDS: [(&str, Self); 7] = [
        ("magnitude", Self::Magnitude(Norm::L1)),
        ("magnitude_l2", Self::Magnitude(Norm::L2)),
        ("taylor_mean_abs", Self::Taylor(TaylorForm::MeanAbs)),
        ("taylor_mean_square", Self::Taylor(TaylorForm::MeanSquare)),
        ("taylor_abs_mean", Self::Taylor(TaylorForm::AbsMean)),
        ("obd_diagonal", Self::ObdDiagonal),
        ("random", Self::Random { seed: 0 }),
    ];

    /// Whether it needs sums of gradients.
    #[must_use]
    pub fn needs_gradients(&self) -> bool {
        match self {
            Self::Magnitude(_) | Self::Random { .. } => false,
            Self::Taylor(_) | Self::ObdDiagonal => true,
        }
    }

    /// The same criterion with this seed, if it draws.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        match self {
            Self::Random { .. } => Self::Random { seed },
            Self::Magnitude(_) | Self::Taylor(_) | Self::ObdDiagonal => self,
        }
    }
}

/// Its word; a seed is not part of it.
impl Display for Criterion {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Magnitude(Norm::L1) => "magnitude",
            Self::Magnitude(Norm::L2) => "magnitude_l2",
            Self::Taylor(TaylorForm::MeanAbs) => "taylor_mean_abs",
            Self::Taylor(TaylorForm::MeanSquare) => "taylor_mean_square",
            Self::Taylor(TaylorForm::AbsMean) => "taylor_abs_mean",
            Self::ObdDiagonal => "obd_diagonal",
            Self::Random { .. } => "random",
        })
    }
}

impl FromStr for Criterion {
    type Err = PruneError;

    fn from_str(word: &str) -> Result<Self> {
        let known = Self::WORDS.into_iter().find(|(known, _)| *known == word);
        known
            .map(|(_, criterion)| criterion)
            .ok_or_else(|| PruneError::Unknown {
                what: "criterion",
                name: word.to_owned(),
                known: Self::WORDS.map(|(word, _)| word).join(", "),
            })
    }
}

/// Scores of the weights of Conv and Gemm nodes, by parameter name, in the parameter's shape.
pub type Scores = BTreeMap<String, ArrayD<f32>>;

/// Scores of output channels, by node name: one per channel of each Conv and Gemm.
pub type ChannelScores = BTreeMap<String, Vec<f64>>;

/// Scores every weight of every Conv and Gemm.
///
/// The likelihood of the data gives each parameter j of layer i a share, `P(x; W) = Π_i Π_j p(x_ij | W_ij)`; what removing
/// `W_ij` costs is the change of -log P. [`ablation`] measures that change exactly. [`taylor::loss_change`] and
/// [`Criterion::ObdDiagonal`] approximate it from gradients, with its sign; magnitude and [`Criterion::Taylor`] have no sign and
/// stand for its size.
///
/// ```
/// use opt_core::{zoo, Task};
/// use opt_prune::{Criterion, Norm, score};
/// let model = zoo::build("source_net", &Task::cifar10(), 0)?;
/// let scores = score(&model, &Criterion::Magnitude(Norm::L1), None)?;
/// assert_eq!(scores["conv1.weight"].shape(), [64, 3, 3, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Without a model, see [`score_arrays`].
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
    let names = model.weight_names().into_iter();
    let weights: Result<Vec<_>> = names
        .map(|name| Ok((name, model.param(name)?.view())))
        .collect();
    score_views(&weights?, criterion, gradients)
}

/// Scores every element of named arrays: [`score`] without a model.
///
/// `weights` gives names and weights: a map by reference, or pairs of a name and whatever gives a view (`&array`, a view, a
/// slice), all with the same number of axes or of any number as `ArrayViewD`. Gradient sums are found by the same names.
///
/// ```
/// use opt_prune::ndarray::array;
/// use opt_prune::{Criterion, Norm, score_arrays};
///
/// let weights = array![[1.0, -2.0], [0.5, 0.0]];
/// let scores = score_arrays([("layer", &weights)], &Criterion::Magnitude(Norm::L1), None)?;
/// assert_eq!(scores["layer"], array![[1.0, 2.0], [0.5, 0.0]].into_dyn());
/// # Ok::<(), opt_prune::PruneError>(())
/// ```
///
/// # Errors
///
/// Those of [`score`], and [`PruneError::DuplicateName`].
pub fn score_arrays<'a, N, V, D>(
    weights: impl IntoIterator<Item = (N, V)>,
    criterion: &Criterion,
    gradients: Option<&GradientSums>,
) -> Result<Scores>
where
    N: AsRef<str>,
    V: Into<ArrayView<'a, f32, D>>,
    D: Dimension,
{
    let arrays: Vec<(N, ArrayViewD<'a, f32>)> = weights
        .into_iter()
        .map(|(name, weights)| (name, weights.into().into_dyn()))
        .collect();
    let weights = arrays.iter().map(|(name, w)| (name.as_ref(), w.view()));
    let weights: Vec<(&str, ArrayViewD<'_, f32>)> = weights.collect();
    let mut seen = BTreeSet::new();
    if let Some((name, _)) = weights.iter().find(|(name, _)| !seen.insert(*name)) {
        let name = (*name).to_owned();
        return Err(PruneError::DuplicateName { name });
    }
    score_views(&weights, criterion, gradients)
}

fn score_views(
    weights: &[(&str, ArrayViewD<'_, f32>)],
    criterion: &Criterion,
    gradients: Option<&GradientSums>,
) -> Result<Scores> {
    let score_one =
        |(name, weight): &(&str, ArrayViewD<'_, f32>)| -> Result<(String, ArrayD<f32>)> {
            let shape = weight.shape();
            let scores = match criterion {
                Criterion::Magnitude(_) => magnitude::element_scores(weight),
                Criterion::Random { seed } => random::element_scores(name, shape, *seed),
                Criterion::Taylor(form) => {
                    let averaged = mean(shape, name, form.sum(), "Taylor", gradients)?;
                    taylor::element_scores(*form, weight, &averaged)
                }
                Criterion::ObdDiagonal => {
                    let g = mean(shape, name, Sum::Plain, "ObdDiagonal", gradients)?;
                    let h = mean(shape, name, Sum::Squared, "ObdDiagonal", gradients)?;
                    obd::element_scores(weight, &g, &h)
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
    // Collected in order before the first error is taken, so that it is the same one every time.
    let scored: Vec<Result<_>> = weights.par_iter().map(score_one).collect();
    scored.into_iter().collect()
}

/// Scores every output channel of every Conv and Gemm.
///
/// A channel is removed by a factor (a gate) of 0 on its value after the normalisation that follows it. The
/// criteria that follow the loss score the change of the loss by that gate: with y = γ·(x - m)/σ + β, the derivative by
/// the gate is the sum over the filter's weights and what stands on it, each times its gradient, for each sample n:
///
/// ```text
/// gate_n = Σ_w g_w·w + g_b·b + g_β·(β - γ·m/σ)
/// Taylor: E[|gate|], E[gate²] or |E[gate]|
/// ObdDiagonal: -E[gate] + ½·(Σ_w h_w·w² + h_b·b² + h_β·(β - γ·m/σ)²)
/// ```
///
/// The mean sizes and squares of gates are sums over single samples that cannot be had from those of single weights: give
/// [`gates`] to whoever sums the gradients. The diagonal of the second order leaves out how the weights of a channel work
/// together, which `E[gate²]` does not; for few channels, [`ablation`] is exact. Magnitude is a mean over the filter
/// ([`magnitude::channel_scores`]), so layers are comparable.
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
    let graph = ChannelGraph::new(model)?;
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
            Criterion::Taylor(form) => {
                let n = values.shape()[0];
                match form.sum() {
                    Sum::Plain => {
                        let gate = layer_gate(&graph, id)?;
                        let mean = mean_gate(model, &gate, Sum::Plain, "Taylor", gradients)?;
                        mean.into_iter().map(f64::abs).collect()
                    }
                    Sum::Absolute => {
                        let of = |g: &GradientSums| g.sum_abs_gate.get(&node.name).cloned();
                        summed_gate(&node.name, n, "sum of absolute gates", gradients, of)?
                    }
                    Sum::Squared => {
                        let of = |g: &GradientSums| g.sum_squared_gate.get(&node.name).cloned();
                        summed_gate(&node.name, n, "sum of squared gates", gradients, of)?
                    }
                }
            }
            Criterion::ObdDiagonal => {
                let gate = layer_gate(&graph, id)?;
                let first = mean_gate(model, &gate, Sum::Plain, "ObdDiagonal", gradients)?;
                let second = mean_gate(model, &gate, Sum::Squared, "ObdDiagonal", gradients)?;
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

/// The derivative by the factor on each channel of every Conv and Gemm, for whoever sums gradients of single samples.
///
/// # Errors
///
/// Those of shape inference.
pub fn gates(model: &Model) -> Result<Vec<Gate>> {
    let graph = ChannelGraph::new(model)?;
    let layers = model.graph.nodes.iter().enumerate();
    layers
        .filter(|(_, node)| matches!(node.op, Op::Conv { .. } | Op::Gemm { .. }))
        .map(|(id, _)| layer_gate(&graph, id))
        .collect()
}

/// The first-order change of the loss when each channel is removed, `-E[gate]`; negative where removal helps.
///
/// # Errors
///
/// Those of [`score_channels`].
pub fn channel_loss_changes(model: &Model, gradients: &GradientSums) -> Result<ChannelScores> {
    let of = |gate: Gate| -> Result<(String, Vec<f64>)> {
        let mean = mean_gate(model, &gate, Sum::Plain, "Taylor", Some(gradients))?;
        Ok((gate.layer, mean.into_iter().map(|g| -g).collect()))
    };
    gates(model)?.into_iter().map(of).collect()
}

/// Which gradient sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sum {
    Plain,
    Absolute,
    Squared,
}

impl TaylorForm {
    /// The sum that this form averages.
    fn sum(self) -> Sum {
        match self {
            Self::MeanAbs => Sum::Absolute,
            Self::MeanSquare => Sum::Squared,
            Self::AbsMean => Sum::Plain,
        }
    }
}

/// The mean over the samples of a parameter's gradient, of its size or of its square.
fn mean(
    expected: &[usize],
    name: &str,
    sum: Sum,
    criterion: &'static str,
    gradients: Option<&GradientSums>,
) -> Result<ArrayD<f64>> {
    let what = match sum {
        Sum::Plain => "gradient",
        Sum::Absolute => "absolute gradient",
        Sum::Squared => "squared gradient",
    };
    let missing = || PruneError::MissingGradient {
        param: name.to_owned(),
        criterion,
        what,
    };
    let sums = gradients.filter(|g| g.n_samples > 0).ok_or_else(missing)?;
    let sum = match sum {
        Sum::Plain => &sums.sum_gradient,
        Sum::Absolute => &sums.sum_abs_gradient,
        Sum::Squared => &sums.sum_squared_gradient,
    };
    let sum = sum.get(name).ok_or_else(missing)?;
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

/// What a layer's gate is made of: its weight and bias, and what the first normalisation after it adds.
fn layer_gate(graph: &ChannelGraph<'_>, layer: usize) -> Result<Gate> {
    let model = graph.model;
    let node = &model.graph.nodes[layer];
    let mut factors = Params::new();
    for (name, _) in node.op.params() {
        factors.insert(name.to_owned(), model.param(name)?.clone());
    }
    if let Some(Op::BatchNormalization {
        scale,
        bias,
        mean,
        var,
        epsilon,
        ..
    }) = graph.first_norm(layer)
    {
        let (mean, var) = (model.param(mean)?, model.param(var)?);
        let gamma = scale.as_deref().map(|s| model.param(s)).transpose()?;
        let mut at_zero = model.param(bias)?.clone();
        for (i, beta) in at_zero.iter_mut().enumerate() {
            let sigma = (f64::from(var[i]) + f64::from(*epsilon)).sqrt();
            let gamma = gamma.map_or(1.0, |gamma| f64::from(gamma[i]));
            *beta = to_f32(f64::from(*beta) - gamma * f64::from(mean[i]) / sigma);
        }
        factors.insert(bias.clone(), at_zero);
    }
    Ok(Gate {
        layer: node.name.clone(),
        channels: graph.channels(layer),
        factors,
    })
}

/// Per channel, the sum over what makes it of gradient · factor, or of squared gradient · factor².
fn mean_gate(
    model: &Model,
    gate: &Gate,
    sum: Sum,
    criterion: &'static str,
    gradients: Option<&GradientSums>,
) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; gate.channels];
    for (name, factors) in &gate.factors {
        let expected = model.param(name)?.shape();
        let g = mean(expected, name, sum, criterion, gradients)?;
        let each = factors.len() / gate.channels;
        for (i, (g, factor)) in g.iter().zip(factors).enumerate() {
            let factor = f64::from(*factor);
            sums[i / each] += match sum {
                Sum::Plain => g * factor,
                Sum::Absolute => g * factor.abs(),
                Sum::Squared => g * factor * factor,
            };
        }
    }
    Ok(sums)
}

/// The mean over the samples of what was summed for each of a layer's `channels`.
fn summed_gate(
    layer: &str,
    channels: usize,
    what: &'static str,
    gradients: Option<&GradientSums>,
    of: impl Fn(&GradientSums) -> Option<Vec<f64>>,
) -> Result<Vec<f64>> {
    let sums = gradients.filter(|g| g.n_samples > 0);
    let found = sums.and_then(|g| Some((of(g)?, g.n_samples as f64)));
    let (sum, n) = found.ok_or_else(|| PruneError::MissingGradient {
        param: layer.to_owned(),
        criterion: "Taylor",
        what,
    })?;
    if sum.len() != channels {
        return Err(PruneError::Shape {
            what,
            param: layer.to_owned(),
            found: vec![sum.len()],
            expected: vec![channels],
        });
    }
    Ok(sum.into_iter().map(|v| v / n).collect())
}

#[cfg(test)]
mod tests;
