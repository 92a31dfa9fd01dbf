//! Structured pruning: which output channels stay, and their removal as zeros or for good.

use std::collections::BTreeMap;

use ndarray::{ArrayD, Axis};
use opt_core::mask::{Masks, apply_masks};
use opt_core::op::ParamRole;
use opt_core::shape::infer_shapes;
use opt_core::{Mask, Model};

use crate::filter::first_matches;
use crate::group::{ChannelGraph, ChannelGroup, Side, layer_names};
use crate::{ChannelScores, PruneError, Result};

/// The output channels that stay, ascending, by the name of the Conv or Gemm. Layers that are not named stay whole.
pub type KeepLists = BTreeMap<String, Vec<usize>>;

/// A decision about channels, made before anything is changed: print it, then [`shrink`] or [`mask_channels`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelPlan {
    /// What stays of each layer.
    pub keep: KeepLists,
}

/// How many channels stay.
#[derive(Debug, Clone, PartialEq)]
pub enum ChannelTarget {
    /// This share, more than 0 and at most 1, of every layer whose channels can be removed.
    ///
    /// A share p of the channels of every layer keeps about p² of the weights between them.
    KeepRatio(f64),
    /// These numbers, by layer name; other layers stay whole.
    KeepCounts(BTreeMap<String, usize>),
}

/// What is asked of [`plan_channels`].
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelRequest {
    /// How many channels stay.
    pub target: ChannelTarget,
    /// A ratio is rounded up to a multiple of this number (or to all channels); counts must be such a multiple.
    pub multiple_of: usize,
    /// The least number of channels that a layer keeps.
    pub min_channels: usize,
    /// Filters of layer names that a ratio leaves alone ([`filter::matches`](crate::filter::matches)).
    pub exclude: Vec<String>,
}

impl ChannelRequest {
    /// A request with multiples and a minimum of 1 and no exclusions.
    #[must_use]
    pub fn new(target: ChannelTarget) -> Self {
        Self {
            target,
            multiple_of: 1,
            min_channels: 1,
            exclude: Vec::new(),
        }
    }
}

/// Whether channels of a layer can be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prunability {
    /// The name of the Conv or Gemm.
    pub layer: String,
    /// Its number of output channels.
    pub channels: usize,
    /// Why not, if not: the node that stands in the way and the reason.
    pub blocked: Option<String>,
}

/// Lists for every Conv and Gemm whether its output channels can be removed and, if not, why.
///
/// ```
/// use opt_core::{zoo, Task};
/// let model = zoo::build("source_net", &Task::cifar10(), 0)?;
/// let layers = opt_prune::prunable_channels(&model)?;
/// assert_eq!((layers[1].layer.as_str(), layers[1].channels), ("conv2", 128));
/// assert_eq!(layers[1].blocked, None);
/// assert!(layers[2].blocked.is_some(), "these are the classes");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Those of shape inference.
pub fn prunable_channels(model: &Model) -> Result<Vec<Prunability>> {
    let graph = ChannelGraph::new(model)?;
    layer_names(model)
        .into_iter()
        .map(|name| {
            let id = graph.layer(name)?;
            let group = graph.group(id);
            let blocked = group
                .blocked
                .map(|b| format!("node `{}` ({}): {}", b.node, b.op, b.why));
            Ok(Prunability {
                layer: group.layer,
                channels: group.channels,
                blocked,
            })
        })
        .collect()
}

/// Chooses the channels that stay: in each layer those with the largest scores, ties towards the lower index.
///
/// ```text
/// KeepRatio(p) of n channels: k = round(p·n), at least min_channels, rounded up to a multiple, at most n
/// ```
///
/// # Errors
///
/// [`PruneError::NothingRemoved`] if every layer would stay whole, unless the ratio is exactly 1;
/// [`PruneError::OutOfRange`] for ratios, counts, multiples and minima that make no sense; [`PruneError::Unknown`] for a
/// layer that is not there or has no scores; [`PruneError::NotPrunable`] for a count for a layer whose channels cannot
/// be removed; [`PruneError::FilterMatchesNothing`]; [`PruneError::NanScore`].
pub fn plan_channels(
    model: &Model,
    scores: &ChannelScores,
    request: &ChannelRequest,
) -> Result<ChannelPlan> {
    let graph = ChannelGraph::new(model)?;
    for (what, value) in [
        ("multiple_of", request.multiple_of),
        ("min_channels", request.min_channels),
    ] {
        if value == 0 {
            return Err(out_of_range(
                what.to_owned(),
                &value,
                "1 or more".to_owned(),
            ));
        }
    }
    let names = layer_names(model);
    let excluded = first_matches(&request.exclude, &names)?;
    let mut counts = Vec::new();
    match &request.target {
        ChannelTarget::KeepRatio(ratio) => {
            if !(*ratio > 0.0 && *ratio <= 1.0) {
                let expected = "more than 0 and at most 1".to_owned();
                return Err(out_of_range("the keep ratio".to_owned(), ratio, expected));
            }
            for (name, excluded) in names.iter().zip(&excluded) {
                let id = graph.layer(name)?;
                if excluded.is_none() && graph.group(id).blocked.is_none() {
                    let n_keep = count_of(*ratio, graph.channels(id), request);
                    counts.push((id, n_keep));
                }
            }
        }
        ChannelTarget::KeepCounts(wanted) => {
            for (name, &n_keep) in wanted {
                let id = graph.layer(name)?;
                graph.free_group(id)?;
                check_count(name, n_keep, graph.channels(id), request)?;
                counts.push((id, n_keep));
            }
        }
    }
    let total: usize = counts.iter().map(|&(id, _)| graph.channels(id)).sum();
    let n_keep: usize = counts.iter().map(|(_, n)| n).sum();
    if n_keep == total && request.target != ChannelTarget::KeepRatio(1.0) {
        return Err(PruneError::NothingRemoved {
            request: format!(
                "{:?} in multiples of {}",
                request.target, request.multiple_of
            ),
            total,
            units: "removable channels",
        });
    }
    let mut plan = ChannelPlan::default();
    for (id, n_keep) in counts {
        let name = &model.graph.nodes[id].name;
        let scores = scores.get(name).ok_or_else(|| PruneError::Unknown {
            what: "channel scores of",
            name: name.clone(),
            known: scores.keys().cloned().collect::<Vec<_>>().join(", "),
        })?;
        let kept = largest(name, scores, graph.channels(id), n_keep)?;
        plan.keep.insert(name.clone(), kept);
    }
    Ok(plan)
}

fn out_of_range(what: String, found: &dyn std::fmt::Display, expected: String) -> PruneError {
    PruneError::OutOfRange {
        what,
        found: found.to_string(),
        expected,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a number of channels"
)]
fn count_of(ratio: f64, channels: usize, request: &ChannelRequest) -> usize {
    let rounded = (ratio * channels as f64).round() as usize;
    let floored = rounded.max(request.min_channels);
    floored
        .checked_next_multiple_of(request.multiple_of)
        .unwrap_or(channels)
        .min(channels)
}

fn check_count(name: &str, n_keep: usize, channels: usize, request: &ChannelRequest) -> Result<()> {
    let least = request.min_channels.min(channels);
    let is_multiple = n_keep.is_multiple_of(request.multiple_of) || n_keep == channels;
    if n_keep < least || n_keep > channels || !is_multiple {
        return Err(out_of_range(
            format!("the number of channels to keep of `{name}`"),
            &n_keep,
            format!(
                "{least} to {channels}, a multiple of {} or all",
                request.multiple_of
            ),
        ));
    }
    Ok(())
}

fn largest(name: &str, scores: &[f64], channels: usize, n_keep: usize) -> Result<Vec<usize>> {
    if scores.len() != channels {
        return Err(PruneError::Shape {
            what: "channel scores",
            param: name.to_owned(),
            found: vec![scores.len()],
            expected: vec![channels],
        });
    }
    if let Some(index) = scores.iter().position(|s| s.is_nan()) {
        return Err(PruneError::NanScore {
            param: name.to_owned(),
            index,
        });
    }
    let mut order: Vec<usize> = (0..channels).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(n_keep);
    order.sort_unstable();
    Ok(order)
}

/// The masks that hold the removed channels at zero while a model that [`mask_channels`] made is trained: weights, biases,
/// and scale and shift of the normalisations on the way.
///
/// Only trained parameters have a mask. The running means need none: what a removed channel brings to a normalisation is
/// 0, so a mean that [`mask_channels`] set to 0 stays there, and the masked model stays equal to the shrunk one.
///
/// # Errors
///
/// Those of [`shrink`].
pub fn channel_masks(model: &Model, plan: &ChannelPlan) -> Result<Masks> {
    let mut masks = all_masks(model, plan)?;
    for param in model.param_refs().filter(|p| !p.role.is_trainable()) {
        masks.remove(param.name);
    }
    Ok(masks)
}

/// The masks of [`channel_masks`] and those of the running means.
fn all_masks(model: &Model, plan: &ChannelPlan) -> Result<Masks> {
    let graph = ChannelGraph::new(model)?;
    let mut masks = Masks::new();
    for (name, keep) in &plan.keep {
        let layer = graph.layer(name)?;
        let group = graph.free_group(layer)?;
        check_keep(name, keep, group.channels)?;
        masks.extend(zero_channels(model, &group, |c| {
            keep.binary_search(&c).is_ok()
        })?);
    }
    Ok(masks)
}

/// The model with removed channels set to zero: the same shapes and the same result as the one that [`shrink`] returns.
///
/// A removed channel is exactly 0 wherever it is read. Zero weights alone would not do that: a normalisation turns 0
/// into β - γ·mean/σ, so β and the running mean become 0 too (and γ, where there is one).
///
/// # Errors
///
/// Those of [`shrink`].
pub fn mask_channels(model: &Model, plan: &ChannelPlan) -> Result<Model> {
    Ok(apply_masks(model, &all_masks(model, plan)?)?)
}

/// Masks under which the channels of a group that `keep` refuses are 0 wherever they are read.
pub(crate) fn zero_channels(
    model: &Model,
    group: &ChannelGroup,
    keep: impl Fn(usize) -> bool,
) -> Result<Masks> {
    let mut masks = Masks::new();
    let makes = group.members.iter().filter(|m| m.side == Side::Makes);
    for member in makes.filter(|m| m.role != ParamRole::RunningVar) {
        let mut mask = ArrayD::from_elem(model.param(&member.param)?.shape(), true);
        for (i, mut entries) in mask.axis_iter_mut(Axis(member.axis)).enumerate() {
            let channel = member.channel_of(i, group.channels);
            entries.fill(channel.is_none_or(&keep));
        }
        masks.insert(member.param.clone(), Mask::new(mask));
    }
    Ok(masks)
}

/// Removes channels for good: smaller weights here, smaller normalisations on the way, fewer inputs at the reader.
///
/// The way of a channel may lead through normalisations, Relu, Clip, the three pools and Flatten to a Conv (of one group)
/// or a Gemm. Behind a Flatten channel c owns the features c·H·W to (c+1)·H·W - 1. The image
/// and the network's result are never touched.
///
/// # Errors
///
/// [`PruneError::NotPrunable`] names the node that stands in the way (an Add, a Slice, a Pad, a fork, groups, a shared
/// parameter); [`PruneError::KeepList`] for an empty, unsorted or too large list; [`PruneError::Unknown`] for a layer
/// that is not there.
///
/// # References
///
/// H. Li and others, *Pruning Filters for Efficient `ConvNets`*, 2016, arXiv:1608.08710.
pub fn shrink(model: &Model, plan: &ChannelPlan) -> Result<Model> {
    let graph = ChannelGraph::new(model)?;
    let mut shrunk = model.clone();
    for (name, keep) in &plan.keep {
        let layer = graph.layer(name)?;
        let group = graph.free_group(layer)?;
        check_keep(name, keep, group.channels)?;
        for member in &group.members {
            let Some(tensor) = shrunk.params.get_mut(&member.param) else {
                continue;
            };
            let axis = Axis(member.axis);
            let entries = member.kept_entries(tensor.len_of(axis), group.channels, keep);
            *tensor = tensor.select(axis, &entries).into_shared();
        }
    }
    infer_shapes(&shrunk)?;
    Ok(shrunk)
}

fn check_keep(layer: &str, keep: &[usize], channels: usize) -> Result<()> {
    let problem = if keep.is_empty() {
        "it is empty, at least one channel must stay".to_owned()
    } else if !keep.is_sorted_by(|a, b| a < b) {
        "its indices do not ascend".to_owned()
    } else if let Some(late) = keep.iter().find(|c| **c >= channels) {
        format!("it names channel {late} of {channels}")
    } else {
        return Ok(());
    };
    Err(PruneError::KeepList {
        layer: layer.to_owned(),
        problem,
    })
}

#[cfg(test)]
mod tests;
