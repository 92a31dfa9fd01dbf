//! Channel groups: what belongs to the output channels of a layer, through which normalisations to which reader, and what
//! stands in the way. Scoring, masking and removal walk over members and know no operator.

use std::collections::BTreeMap;

use opt_core::op::ParamRole;
use opt_core::shape::infer_shapes;
use opt_core::{Model, NodeId, Op};

use crate::{PruneError, Result};

/// The channels of a layer with everything that belongs to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelGroup {
    /// The Conv or Gemm that makes the channels.
    pub layer: String,
    /// How many there are.
    pub channels: usize,
    /// What belongs to them, in the order of their way.
    pub members: Vec<Member>,
    /// Why channels cannot be removed, if they cannot.
    pub blocked: Option<Blocked>,
}

/// Entries of a parameter that belong to the channels of a group: channel c owns those from `offset + c·width` to
/// `offset + (c + 1)·width - 1` along `axis`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The parameter's name.
    pub param: String,
    /// What it is in its node.
    pub role: ParamRole,
    /// Whether it makes the channel (with it at zero the channel is zero), or reads it.
    pub side: Side,
    /// The axis.
    pub axis: usize,
    /// The first entry of channel 0.
    pub offset: usize,
    /// Entries of each channel.
    pub width: usize,
}

/// On which side of a channel a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It makes the channel.
    Makes,
    /// It reads it.
    Reads,
}

/// What stands in the way of removing channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The node.
    pub node: String,
    /// Its operator.
    pub op: &'static str,
    /// Why, and what to do.
    pub why: String,
}

impl Member {
    /// The channel that an entry along its axis belongs to, if it belongs to one of `channels`.
    #[must_use]
    pub fn channel_of(&self, entry: usize, channels: usize) -> Option<usize> {
        let channel = entry.checked_sub(self.offset)? / self.width;
        (channel < channels).then_some(channel)
    }

    /// Of `len` entries along its axis those that stay, where only the channels in `keep` do.
    #[must_use]
    pub fn kept_entries(&self, len: usize, channels: usize, keep: &[usize]) -> Vec<usize> {
        let stays = |entry: &usize| match self.channel_of(*entry, channels) {
            Some(channel) => keep.binary_search(&channel).is_ok(),
            None => true,
        };
        (0..len).filter(stays).collect()
    }
}

/// The groups of every Conv and Gemm, in graph order.
///
/// ```
/// use opt_core::{zoo, Task};
/// let model = zoo::build("source_net", &Task::cifar10(), 0)?;
/// let groups = opt_prune::channel_groups(&model)?;
/// let reader = groups[1].members.last().unwrap();
/// // Behind the Flatten each channel is 8×8 numbers.
/// assert_eq!((reader.param.as_str(), reader.axis, reader.width), ("fc.weight", 1, 64));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Those of shape inference.
pub fn channel_groups(model: &Model) -> Result<Vec<ChannelGroup>> {
    let graph = ChannelGraph::new(model)?;
    let names = layer_names(model).into_iter();
    names
        .map(|name| Ok(graph.group(graph.layer(name)?)))
        .collect()
}

/// A model with what is needed to follow its channels.
#[derive(Debug)]
pub(crate) struct ChannelGraph<'m> {
    pub(crate) model: &'m Model,
    shapes: Vec<Vec<usize>>,
    consumers: Vec<Vec<NodeId>>,
    /// How many nodes name each parameter.
    uses: BTreeMap<&'m str, usize>,
}

impl<'m> ChannelGraph<'m> {
    pub(crate) fn new(model: &'m Model) -> Result<Self> {
        model.graph.validate()?;
        let mut uses = BTreeMap::new();
        for param in model.param_refs() {
            *uses.entry(param.name).or_insert(0) += 1;
        }
        Ok(Self {
            model,
            shapes: infer_shapes(model)?,
            consumers: model.graph.consumers(),
            uses,
        })
    }

    /// The Conv or Gemm of this name.
    pub(crate) fn layer(&self, name: &str) -> Result<NodeId> {
        let unknown = || PruneError::Unknown {
            what: "Conv or Gemm",
            name: name.to_owned(),
            known: layer_names(self.model).join(", "),
        };
        let id = self.model.graph.find(name).ok_or_else(unknown)?;
        if matches!(
            self.model.graph.nodes[id].op,
            Op::Conv { .. } | Op::Gemm { .. }
        ) {
            return Ok(id);
        }
        Err(unknown())
    }

    /// The number of output channels of a Conv or Gemm.
    pub(crate) fn channels(&self, layer: NodeId) -> usize {
        self.shapes[layer][0]
    }

    /// The output channels of a Conv or Gemm, followed to where they are read.
    pub(crate) fn group(&self, layer: NodeId) -> ChannelGroup {
        let nodes = &self.model.graph.nodes;
        let mut members = self.made_by(layer, 1);
        let mut spread = 1;
        let mut at = layer;
        let mut problem = self.own_problem(layer);
        let blocked = loop {
            if let Some(why) = problem {
                break Some((at, why));
            }
            if self.model.graph.is_output(at) {
                let why = "its outputs are the network's result, which is never pruned".to_owned();
                break Some((at, why));
            }
            let [next] = self.consumers[at][..] else {
                let readers: Vec<&str> = self.consumers[at]
                    .iter()
                    .map(|&id| nodes[id].name.as_str())
                    .collect();
                let why = format!(
                    "the path forks to {}; coupling of channels across a fork is not handled yet, leave `{}` out",
                    readers.join(" and "),
                    nodes[layer].name
                );
                break Some((at, why));
            };
            problem = self.shared_parameter(next);
            if problem.is_none() {
                match &nodes[next].op {
                    Op::Conv {
                        group: 1, weight, ..
                    }
                    | Op::Gemm { weight, .. } => {
                        members.push(Member {
                            param: weight.clone(),
                            role: ParamRole::Weight,
                            side: Side::Reads,
                            axis: 1,
                            offset: 0,
                            width: spread,
                        });
                        break None;
                    }
                    Op::Conv { group, .. } => {
                        problem = Some(format!(
                            "it reads channels in {group} groups; grouped convolutions are not handled yet"
                        ));
                    }
                    Op::BatchNormalization { .. } => members.extend(self.made_by(next, spread)),
                    Op::Unary(function) if function.apply(0.0) != 0.0 => {
                        problem = Some(format!(
                            "it turns a removed channel's 0 into a constant, {}",
                            function.apply(0.0)
                        ));
                    }
                    Op::Flatten => spread *= self.shapes[at][1..].iter().product::<usize>(),
                    Op::Unary(_) | Op::MaxPool(_) | Op::AveragePool(_) | Op::GlobalAveragePool => {}
                    other @ (Op::Input | Op::Binary(_) | Op::Slice { .. } | Op::Pad { .. }) => {
                        problem = Some(format!(
                            "coupling of channels through {} is not handled yet, leave `{}` out",
                            other.name(),
                            nodes[layer].name
                        ));
                    }
                }
            }
            at = next;
        };
        ChannelGroup {
            layer: nodes[layer].name.clone(),
            channels: self.channels(layer),
            members,
            blocked: blocked.map(|(node, why)| Blocked {
                node: nodes[node].name.clone(),
                op: nodes[node].op.name(),
                why,
            }),
        }
    }

    /// The parameters of a node of which each channel owns `width` consecutive entries of the first axis.
    fn made_by(&self, node: NodeId, width: usize) -> Vec<Member> {
        let params = self.model.graph.nodes[node].op.params().into_iter();
        let member = |(param, role): (&str, ParamRole)| Member {
            param: param.to_owned(),
            role,
            side: Side::Makes,
            axis: 0,
            offset: 0,
            width,
        };
        params.map(member).collect()
    }

    fn own_problem(&self, layer: NodeId) -> Option<String> {
        if let Op::Conv { group, .. } = &self.model.graph.nodes[layer].op
            && *group != 1
        {
            return Some(format!(
                "it works in {group} groups; grouped convolutions are not handled yet"
            ));
        }
        self.shared_parameter(layer)
    }

    fn shared_parameter(&self, node: NodeId) -> Option<String> {
        let params = self.model.graph.nodes[node].op.params();
        let (name, _) = params.into_iter().find(|(name, _)| self.uses[name] > 1)?;
        Some(format!(
            "its parameter `{name}` is shared with another node, which is not handled yet"
        ))
    }

    /// The group of a layer whose channels can be removed.
    pub(crate) fn free_group(&self, layer: NodeId) -> Result<ChannelGroup> {
        let group = self.group(layer);
        match group.blocked {
            None => Ok(group),
            Some(Blocked { node, op, why }) => Err(PruneError::NotPrunable {
                layer: group.layer,
                node,
                op,
                why,
            }),
        }
    }

    /// The first normalisation that a layer's channels meet.
    pub(crate) fn first_norm(&self, layer: NodeId) -> Option<&'m Op> {
        let group = self.group(layer);
        let scale = group
            .members
            .iter()
            .find(|m| m.role == ParamRole::NormBias)?;
        let nodes = self.model.graph.nodes.iter();
        let ops = nodes.map(|node| &node.op);
        ops.filter(|op| matches!(op, Op::BatchNormalization { .. }))
            .find(|op| op.params().iter().any(|(name, _)| *name == scale.param))
    }
}

/// The names of the Conv and Gemm nodes, in graph order.
pub(crate) fn layer_names(model: &Model) -> Vec<&str> {
    let layers = model.graph.nodes.iter();
    layers
        .filter(|n| matches!(n.op, Op::Conv { .. } | Op::Gemm { .. }))
        .map(|n| n.name.as_str())
        .collect()
}
