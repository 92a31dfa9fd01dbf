//! A network as nodes in topological order.

use crate::op::Op;
use crate::{CoreError, Result};

/// The index of a node; every input of a node has a smaller one.
pub type NodeId = usize;

/// One operation of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Unique name, as PyTorch names the module where there is one (`layer1.0.conv1`).
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Where its operands come from.
    pub inputs: Vec<NodeId>,
}

/// A result of a network: the value of a node, under the node's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The node.
    pub node: NodeId,
    /// The classes that the numbers stand for, in their order; empty where they stand for none.
    pub labels: Vec<String>,
}

impl Output {
    /// The value of a node, without labels.
    #[must_use]
    pub fn of(node: NodeId) -> Self {
        Self {
            node,
            labels: Vec::new(),
        }
    }
}

/// Nodes in topological order, one input, one or several outputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    /// The nodes. `nodes[0]` is the only [`Op::Input`].
    pub nodes: Vec<Node>,
    /// The results. What has one answer, such as a training loss, takes the first.
    pub outputs: Vec<Output>,
}

impl Graph {
    /// A graph that holds only the input node, named `input`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            nodes: vec![Node {
                name: "input".to_owned(),
                op: Op::Input,
                inputs: Vec::new(),
            }],
            outputs: vec![Output::of(0)],
        }
    }

    /// The node of the first output.
    #[must_use]
    pub fn output(&self) -> NodeId {
        self.outputs.first().map_or(0, |output| output.node)
    }

    /// Whether the node's value is a result.
    #[must_use]
    pub fn is_output(&self, node: NodeId) -> bool {
        self.outputs.iter().any(|output| output.node == node)
    }

    /// Appends a node, makes it the only output and returns its index.
    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        self.nodes.push(Node {
            name: name.into(),
            op,
            inputs: inputs.to_vec(),
        });
        let id = self.nodes.len() - 1;
        self.outputs = vec![Output::of(id)];
        id
    }

    /// The index of the node with this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().position(|n| n.name == name)
    }

    /// For each node, the nodes that read it, in order.
    #[must_use]
    pub fn consumers(&self) -> Vec<Vec<NodeId>> {
        let mut consumers = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            for &input in &node.inputs {
                consumers[input].push(id);
            }
        }
        consumers
    }

    /// Checks order, arity, names, outputs and that every node contributes to one.
    ///
    /// # Errors
    ///
    /// [`CoreError::Graph`] names the first offending node.
    pub fn validate(&self) -> Result<()> {
        let fail = |node: &str, problem: String| {
            Err(CoreError::Graph {
                node: node.to_owned(),
                problem,
            })
        };
        if self.outputs.is_empty() {
            return fail("graph", "it has no output".to_owned());
        }
        for (k, output) in self.outputs.iter().enumerate() {
            let Some(node) = self.nodes.get(output.node) else {
                let problem = format!("the output is node {} of {}", output.node, self.nodes.len());
                return fail("graph", problem);
            };
            if self.outputs[..k].iter().any(|o| o.node == output.node) {
                return fail(&node.name, "it is an output twice".to_owned());
            }
        }
        let mut names = std::collections::BTreeSet::new();
        for (id, node) in self.nodes.iter().enumerate() {
            if (id == 0) != (node.op == Op::Input) {
                return fail(
                    &node.name,
                    "exactly the first node must be the Input".to_owned(),
                );
            }
            if !names.insert(node.name.as_str()) {
                return fail(&node.name, "the name occurs twice".to_owned());
            }
            if node.inputs.len() != node.op.arity() {
                let problem = format!(
                    "{} reads {} tensors, expected {}",
                    node.op.name(),
                    node.inputs.len(),
                    node.op.arity()
                );
                return fail(&node.name, problem);
            }
            if let Some(late) = node.inputs.iter().find(|&&i| i >= id) {
                return fail(
                    &node.name,
                    format!("reads node {late}, which does not come before it"),
                );
            }
        }
        let consumers = self.consumers();
        for (id, node) in self.nodes.iter().enumerate() {
            if consumers[id].is_empty() && !self.is_output(id) {
                return fail(&node.name, "nothing reads it".to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Binary, Unary};

    #[test]
    fn validation_names_the_offender() {
        let sound = {
            let mut g = Graph::new();
            let a = g.push("a", Op::Unary(Unary::Relu), &[0]);
            g.push("b", Op::Binary(Binary::Add), &[a, 0]);
            g
        };
        sound.validate().unwrap();
        struct Case {
            break_it: fn(&mut Graph),
            expect: &'static str,
        }
        let cases = [
            // An input that comes later.
            Case {
                break_it: |g| g.nodes[1].inputs[0] = 2,
                expect: "node `a`: reads node 2",
            },
            // A node that reads itself.
            Case {
                break_it: |g| g.nodes[1].inputs[0] = 1,
                expect: "node `a`: reads node 1",
            },
            // One operand too few.
            Case {
                break_it: |g| g.nodes[2].inputs.truncate(1),
                expect: "node `b`: Add reads 1 tensors, expected 2",
            },
            // Two nodes of one name.
            Case {
                break_it: |g| g.nodes[2].name = "a".to_owned(),
                expect: "node `a`: the name occurs twice",
            },
            // A second input.
            Case {
                break_it: |g| g.nodes[1].op = Op::Input,
                expect: "node `a`: exactly the first node",
            },
            // A dead end.
            Case {
                break_it: |g| g.outputs[0].node = 1,
                expect: "node `b`: nothing reads it",
            },
            // An output outside the graph.
            Case {
                break_it: |g| g.outputs[0].node = 9,
                expect: "the output is node 9 of 3",
            },
            // No output, and one that is named twice.
            Case {
                break_it: |g| g.outputs.clear(),
                expect: "it has no output",
            },
            Case {
                break_it: |g| g.outputs.push(Output::of(2)),
                expect: "node `b`: it is an output twice",
            },
        ];
        for case in cases {
            let mut graph = sound.clone();
            (case.break_it)(&mut graph);
            let message = graph.validate().unwrap_err().to_string();
            assert!(message.contains(case.expect), "{message}");
        }
    }
}
