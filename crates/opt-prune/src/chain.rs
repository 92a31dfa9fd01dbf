//! Where a layer's output channels go: through which normalisations, to which reader, and what stands in the way.

use std::collections::BTreeMap;

use opt_core::shape::infer_shapes;
use opt_core::{Model, NodeId, Op};

use crate::{PruneError, Result};

/// A model with what is needed to follow its channels.
#[derive(Debug)]
pub(crate) struct Wiring<'m> {
    pub(crate) model: &'m Model,
    shapes: Vec<Vec<usize>>,
    consumers: Vec<Vec<NodeId>>,
    /// How many nodes name each parameter.
    uses: BTreeMap<&'m str, usize>,
}

/// The way of a layer's output channels.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The normalisations on it, each with the number of consecutive entries that one channel owns there.
    pub(crate) norms: Vec<(NodeId, usize)>,
    /// Where it ends.
    pub(crate) end: End,
}

/// The end of a chain.
#[derive(Debug)]
pub(crate) enum End {
    /// A Conv or Gemm reads it; one channel owns `spread` consecutive inputs there.
    Reader { node: NodeId, spread: usize },
    /// Removal of channels is not possible past this node.
    Blocked { node: NodeId, why: String },
}

impl<'m> Wiring<'m> {
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

    /// Follows the output channels of a Conv or Gemm to where they are read.
    pub(crate) fn follow(&self, layer: NodeId) -> Chain {
        let nodes = &self.model.graph.nodes;
        let mut norms = Vec::new();
        let mut spread = 1;
        let mut at = layer;
        let mut problem = self.own_problem(layer);
        let end = loop {
            if let Some(why) = problem {
                break End::Blocked { node: at, why };
            }
            if self.model.graph.is_output(at) {
                let why = "its outputs are the network's result, which is never pruned".to_owned();
                break End::Blocked { node: at, why };
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
                break End::Blocked { node: at, why };
            };
            problem = self.shared_parameter(next);
            if problem.is_none() {
                match &nodes[next].op {
                    Op::Conv { group: 1, .. } | Op::Gemm { .. } => {
                        break End::Reader { node: next, spread };
                    }
                    Op::Conv { group, .. } => {
                        problem = Some(format!(
                            "it reads channels in {group} groups; grouped convolutions are not handled yet"
                        ));
                    }
                    Op::BatchNormalization { .. } => norms.push((next, spread)),
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
        Chain { norms, end }
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

    /// The chain's norms, reader and spread.
    pub(crate) fn follow_to_reader(&self, layer: NodeId) -> Result<(Chain, NodeId, usize)> {
        let chain = self.follow(layer);
        match chain.end {
            End::Reader { node, spread } => Ok((chain, node, spread)),
            End::Blocked { node, why } => {
                let nodes = &self.model.graph.nodes;
                Err(PruneError::NotPrunable {
                    layer: nodes[layer].name.clone(),
                    node: nodes[node].name.clone(),
                    op: nodes[node].op.name(),
                    why,
                })
            }
        }
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
