//! Ablation: the exact cost of removing a unit, measured by removing it.

use std::collections::{BTreeMap, BTreeSet};

use opt_core::mask::apply_masks;
use opt_core::{Model, Op};

use crate::channels::zero_channels;
use crate::group::ChannelGraph;
use crate::{PruneError, Result};

/// Something that can be removed on its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// One element of a parameter.
    Weight {
        /// The parameter's name.
        param: String,
        /// The flat index of the element.
        index: usize,
    },
    /// Several elements, which are removed together.
    Weights(Vec<(String, usize)>),
    /// One output channel of a Conv or Gemm, with its bias and the normalisations that follow it.
    Channel {
        /// The node's name.
        layer: String,
        /// The channel.
        channel: usize,
    },
}

/// What each unit's removal adds to the loss; negative where removal helps.
///
/// With the mean negative log-likelihood of n samples as the loss, this is importance by likelihood without
/// approximation, for a model in which each parameter j of layer i has its share, `P(x; W) = Π_i Π_j p(x_ij | W_ij)`:
///
/// ```text
/// cost(u) = 1/n · (log P(x; W) - log P(x; W without u)) = L(W without u) - L(W)
/// ```
///
/// Calls `loss` once for the model and once for every unit: meant for small networks, for samples of units, and as the
/// reference that [`taylor`](super::taylor) and [`obd`](super::obd) approximate.
///
/// ```
/// use opt_core::{Model, zoo, Task};
/// use opt_prune::PruneError;
/// use opt_prune::score::ablation::{Unit, loss_changes};
/// let model = zoo::build("source_net", &Task::cifar10(), 0)?;
/// let units = [Unit::Weight { param: "fc.bias".into(), index: 3 }];
/// let half_square = |m: &Model| Ok::<_, PruneError>(0.5 * f64::from(m.params["fc.bias"][3]).powi(2));
/// let before = half_square(&model)?;
/// assert_eq!(loss_changes(&model, &units, half_square)?, [-before]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`PruneError::Unknown`] or [`PruneError::OutOfRange`] for a unit that the model does not have (before any call of
/// `loss`), [`PruneError::NanScore`] for a NaN loss, and what `loss` returns.
pub fn loss_changes<E: From<PruneError>>(
    model: &Model,
    units: &[Unit],
    mut loss: impl FnMut(&Model) -> std::result::Result<f64, E>,
) -> std::result::Result<Vec<f64>, E> {
    for unit in units {
        check(model, unit)?;
    }
    let before = loss(model)?;
    let mut changes = Vec::with_capacity(units.len());
    for unit in units {
        let change = loss(&without(model, unit)?)? - before;
        if change.is_nan() {
            let (param, index) = match unit {
                Unit::Weight { param, index } => (param.clone(), *index),
                Unit::Weights(weights) => weights.first().cloned().unwrap_or_default(),
                Unit::Channel { layer, channel } => (layer.clone(), *channel),
            };
            return Err(E::from(PruneError::NanScore { param, index }));
        }
        changes.push(change);
    }
    Ok(changes)
}

fn check(model: &Model, unit: &Unit) -> Result<()> {
    match unit {
        Unit::Weight { param, index } => check_weight(model, param, *index),
        Unit::Weights(weights) => weights
            .iter()
            .try_for_each(|(param, index)| check_weight(model, param, *index)),
        Unit::Channel { layer, channel } => {
            let node = model.graph.nodes.iter().find(|n| n.name == *layer);
            let Some(Op::Conv { weight, .. } | Op::Gemm { weight, .. }) = node.map(|n| &n.op)
            else {
                return Err(PruneError::Unknown {
                    what: "Conv or Gemm",
                    name: layer.clone(),
                    known: crate::group::layer_names(model).join(", "),
                });
            };
            check_index(layer, *channel, model.param(weight)?.shape()[0])
        }
    }
}

fn check_weight(model: &Model, param: &str, index: usize) -> Result<()> {
    let tensor = model.params.get(param).ok_or_else(|| {
        let names: Vec<&str> = model.params.keys().map(String::as_str).collect();
        PruneError::Unknown {
            what: "parameter",
            name: param.to_owned(),
            known: names.join(", "),
        }
    })?;
    check_index(param, index, tensor.len())
}

fn check_index(name: &str, index: usize, len: usize) -> Result<()> {
    if index >= len {
        return Err(PruneError::OutOfRange {
            what: format!("the unit of `{name}`"),
            found: index.to_string(),
            expected: format!("less than {len}"),
        });
    }
    Ok(())
}

/// The model with the unit's parameters set to zero.
fn without(model: &Model, unit: &Unit) -> Result<Model> {
    match unit {
        Unit::Weight { param, index } => Ok(without_weights(model, [(param.as_str(), *index)])),
        Unit::Weights(weights) => {
            let weights = weights
                .iter()
                .map(|(param, index)| (param.as_str(), *index));
            Ok(without_weights(model, weights))
        }
        Unit::Channel { layer, channel } => {
            let graph = ChannelGraph::new(model)?;
            let group = graph.group(graph.layer(layer)?);
            let masks = zero_channels(model, &group, |c| c != *channel)?;
            Ok(apply_masks(model, &masks)?)
        }
    }
}

/// The model with these elements set to zero, each of which was checked.
fn without_weights<'a>(
    model: &Model,
    weights: impl IntoIterator<Item = (&'a str, usize)>,
) -> Model {
    let mut by_param: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (param, index) in weights {
        by_param.entry(param).or_default().insert(index);
    }
    let mut ablated = model.clone();
    for (param, indices) in by_param {
        let Some(tensor) = ablated.params.get_mut(param) else {
            continue;
        };
        for (index, value) in tensor.iter_mut().enumerate() {
            if indices.contains(&index) {
                *value = 0.0;
            }
        }
    }
    ablated
}
