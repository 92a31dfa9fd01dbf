//! The graphs as JSON, minified.
//!
//! ```text
//! graph (model)   {"nodes":[{"n":NAME, "i":INPUTS, "op":OP}, …], "outputs":[OUTPUT, …]}
//! graph (qmodel)  {"nodes":[{"n":NAME, "i":INPUTS, "op":QOP, "e":{"s":SCALE, "z":[ZERO, …], "lo":0, "hi":255}}, …], "outputs":[OUTPUT, …]}
//! OP              "Relu" | {"Conv":{"w":WEIGHT, "b":BIAS, "win":WINDOW, "g":GROUP}} | …
//! QOP             "Logits" | {"Conv":{"win":WINDOW, "g":GROUP}} | {"Table":OP} | {"Float":OP} | …
//! WINDOW          {"k":[3,3], "s":[1,1], "p":[1,1,1,1]}                  pads top, left, bottom, right
//! OUTPUT          {"node":INDEX, "labels":["cat", "dog"]}
//! ```
//!
//! Left out are `i` where a node reads the one before it, strides of 1, padding of 0, one group, `lo` 0, `hi` 255, and the labels of an
//! output that has none. A node without `e` is f32. An f32 is written with the fewest digits that give it back exactly. What an unknown
//! operator, attribute or key means cannot be guessed: it is refused.
//!
//! Versions 1 and 2 have one output and its labels in `input`: `out` of a model, the last node of a quantized one; and the limits of
//! codes at the operator (`lo`, `hi`) where it has a clamp.

use opt_core::graph::NodeId;
use opt_core::op::Window;
use opt_core::{Activation, Binary, Graph, Node, Op, Output, QNode, QOp, QWeight, Unary};
use serde::{Deserialize, Serialize, Serializer};

use crate::Result;
use crate::error::tensor_error;

#[derive(Serialize, Deserialize)]
#[serde(remote = "Window", deny_unknown_fields)]
struct WindowJson {
    #[serde(rename = "k")]
    kernel: [usize; 2],
    #[serde(rename = "s", default = "ones", skip_serializing_if = "is_ones")]
    stride: [usize; 2],
    #[serde(rename = "p", default, skip_serializing_if = "is_zeros")]
    pads: [usize; 4],
}

fn ones() -> [usize; 2] {
    [1, 1]
}

fn is_ones(stride: &[usize; 2]) -> bool {
    *stride == [1, 1]
}

fn is_zeros(pads: &[usize; 4]) -> bool {
    *pads == [0; 4]
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(group: &usize) -> bool {
    *group == 1
}

fn byte_max() -> u8 {
    u8::MAX
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_byte_max(hi: &u8) -> bool {
    *hi == u8::MAX
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_byte_min(lo: &u8) -> bool {
    *lo == 0
}

/// JSON has no infinity; without this it would be written as null.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(crate) fn finite<S: Serializer>(
    value: &f32,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    if value.is_finite() {
        return serializer.serialize_f32(*value);
    }
    let message = format!("the number {value} cannot be stored, expected a finite one");
    Err(serde::ser::Error::custom(message))
}

/// [`Op`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum OpJson {
    Input,
    Conv {
        #[serde(rename = "w")]
        weight: String,
        #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
        bias: Option<String>,
        #[serde(rename = "win", with = "WindowJson")]
        window: Window,
        #[serde(rename = "g", default = "one", skip_serializing_if = "is_one")]
        group: usize,
    },
    Gemm {
        #[serde(rename = "w")]
        weight: String,
        #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
        bias: Option<String>,
    },
    BatchNormalization {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scale: Option<String>,
        bias: String,
        mean: String,
        var: String,
        #[serde(rename = "eps", serialize_with = "finite")]
        epsilon: f32,
        #[serde(rename = "mom", serialize_with = "finite")]
        momentum: f32,
    },
    Relu,
    Clip {
        #[serde(serialize_with = "finite")]
        min: f32,
        #[serde(serialize_with = "finite")]
        max: f32,
    },
    HardSwish,
    Add,
    MaxPool(#[serde(with = "WindowJson")] Window),
    AveragePool(#[serde(with = "WindowJson")] Window),
    GlobalAveragePool,
    Flatten,
    Slice {
        start: Vec<usize>,
        end: Vec<usize>,
        step: Vec<usize>,
    },
    Pad {
        begin: Vec<usize>,
        end: Vec<usize>,
    },
}

impl From<&Op> for OpJson {
    fn from(op: &Op) -> Self {
        match op.clone() {
            Op::Input => Self::Input,
            Op::Conv {
                weight,
                bias,
                window,
                group,
            } => Self::Conv {
                weight,
                bias,
                window,
                group,
            },
            Op::Gemm { weight, bias } => Self::Gemm { weight, bias },
            Op::BatchNormalization {
                scale,
                bias,
                mean,
                var,
                epsilon,
                momentum,
            } => Self::BatchNormalization {
                scale,
                bias,
                mean,
                var,
                epsilon,
                momentum,
            },
            Op::Unary(Unary::Relu) => Self::Relu,
            Op::Unary(Unary::Clip { min, max }) => Self::Clip { min, max },
            Op::Unary(Unary::HardSwish) => Self::HardSwish,
            Op::Binary(Binary::Add) => Self::Add,
            Op::MaxPool(window) => Self::MaxPool(window),
            Op::AveragePool(window) => Self::AveragePool(window),
            Op::GlobalAveragePool => Self::GlobalAveragePool,
            Op::Flatten => Self::Flatten,
            Op::Slice { start, end, step } => Self::Slice { start, end, step },
            Op::Pad { begin, end } => Self::Pad { begin, end },
        }
    }
}

impl From<OpJson> for Op {
    fn from(json: OpJson) -> Self {
        match json {
            OpJson::Input => Self::Input,
            OpJson::Conv {
                weight,
                bias,
                window,
                group,
            } => Self::Conv {
                weight,
                bias,
                window,
                group,
            },
            OpJson::Gemm { weight, bias } => Self::Gemm { weight, bias },
            OpJson::BatchNormalization {
                scale,
                bias,
                mean,
                var,
                epsilon,
                momentum,
            } => Self::BatchNormalization {
                scale,
                bias,
                mean,
                var,
                epsilon,
                momentum,
            },
            OpJson::Relu => Self::Unary(Unary::Relu),
            OpJson::Clip { min, max } => Self::Unary(Unary::Clip { min, max }),
            OpJson::HardSwish => Self::Unary(Unary::HardSwish),
            OpJson::Add => Self::Binary(Binary::Add),
            OpJson::MaxPool(window) => Self::MaxPool(window),
            OpJson::AveragePool(window) => Self::AveragePool(window),
            OpJson::GlobalAveragePool => Self::GlobalAveragePool,
            OpJson::Flatten => Self::Flatten,
            OpJson::Slice { start, end, step } => Self::Slice { start, end, step },
            OpJson::Pad { begin, end } => Self::Pad { begin, end },
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeJson {
    n: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<Vec<NodeId>>,
    op: OpJson,
}

/// `None` where a node reads the one before it (and the first node nothing).
fn shorten(id: NodeId, inputs: &[NodeId]) -> Option<Vec<NodeId>> {
    (inputs != previous(id)).then(|| inputs.to_vec())
}

fn previous(id: NodeId) -> Vec<NodeId> {
    id.checked_sub(1).into_iter().collect()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputJson {
    node: NodeId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
}

fn to_outputs_json(outputs: &[Output]) -> Option<Vec<OutputJson>> {
    let json = |output: &Output| OutputJson {
        node: output.node,
        labels: output.labels.clone(),
    };
    Some(outputs.iter().map(json).collect())
}

/// The outputs of a graph: its own, or the one of an older version with the labels that its input has.
fn outputs(
    own: Option<Vec<OutputJson>>,
    old_node: Option<NodeId>,
    old_labels: Option<Vec<String>>,
) -> Result<Vec<Output>> {
    match (own, old_node, old_labels) {
        (Some(own), None, None) => {
            let output = |json: OutputJson| Output {
                node: json.node,
                labels: json.labels,
            };
            Ok(own.into_iter().map(output).collect())
        }
        (None, Some(node), Some(labels)) => Ok(vec![Output { node, labels }]),
        (Some(_), _, _) => Err(tensor_error(
            "graph",
            "`outputs`, which a file of version 1 or 2 does not have beside `out` and `labels`",
        )),
        (None, _, _) => Err(tensor_error("graph", "no `outputs`")),
    }
}

/// [`Graph`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GraphJson {
    nodes: Vec<NodeJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    out: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<OutputJson>>,
}

impl From<&Graph> for GraphJson {
    fn from(graph: &Graph) -> Self {
        let Graph { nodes, outputs } = graph;
        let nodes = nodes.iter().enumerate().map(|(id, node)| NodeJson {
            n: node.name.clone(),
            i: shorten(id, &node.inputs),
            op: (&node.op).into(),
        });
        Self {
            nodes: nodes.collect(),
            out: None,
            outputs: to_outputs_json(outputs),
        }
    }
}

impl GraphJson {
    /// The graph again. `old_labels` are those of the input in versions 1 and 2.
    pub(crate) fn graph(self, old_labels: Option<Vec<String>>) -> Result<Graph> {
        let outputs = outputs(self.outputs, self.out, old_labels)?;
        let nodes = self.nodes.into_iter().enumerate().map(|(id, node)| Node {
            name: node.n,
            op: node.op.into(),
            inputs: node.i.unwrap_or_else(|| previous(id)),
        });
        Ok(Graph {
            nodes: nodes.collect(),
            outputs,
        })
    }
}

/// The limits of codes at an operator, in versions 1 and 2.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OldLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lo: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hi: Option<u8>,
}

/// An operator of a quantized model, without its weight, table and parameters.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum QOpJson {
    Input,
    Conv {
        #[serde(rename = "win", with = "WindowJson")]
        window: Window,
        #[serde(rename = "g", default = "one", skip_serializing_if = "is_one")]
        group: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lo: Option<u8>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hi: Option<u8>,
    },
    Gemm(OldLimits),
    Logits,
    Add(OldLimits),
    Clamp(OldLimits),
    Table(OpJson),
    MaxPool(#[serde(with = "WindowJson")] Window),
    AveragePool(#[serde(with = "WindowJson")] Window),
    GlobalAveragePool,
    Flatten,
    Slice {
        start: Vec<usize>,
        end: Vec<usize>,
        step: Vec<usize>,
    },
    Pad {
        begin: Vec<usize>,
        end: Vec<usize>,
    },
    Quantize,
    Dequantize,
    Float(OpJson),
}

impl QOpJson {
    /// The limits that it has by an older version.
    fn old_limits(&self) -> OldLimits {
        match self {
            Self::Conv { lo, hi, .. } => OldLimits { lo: *lo, hi: *hi },
            Self::Gemm(limits) | Self::Add(limits) | Self::Clamp(limits) => *limits,
            Self::Input
            | Self::Logits
            | Self::Table(_)
            | Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Flatten
            | Self::Slice { .. }
            | Self::Pad { .. }
            | Self::Quantize
            | Self::Dequantize
            | Self::Float(_) => OldLimits::default(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActivationJson {
    #[serde(rename = "s", serialize_with = "finite")]
    scale: f32,
    #[serde(rename = "z")]
    zero_points: Vec<u8>,
    #[serde(default, skip_serializing_if = "is_byte_min")]
    lo: u8,
    #[serde(default = "byte_max", skip_serializing_if = "is_byte_max")]
    hi: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QNodeJson {
    n: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<Vec<NodeId>>,
    op: QOpJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<ActivationJson>,
}

/// Nodes and outputs of a [`opt_core::QModel`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QGraphJson {
    nodes: Vec<QNodeJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outputs: Option<Vec<OutputJson>>,
}

/// What is stored beside the graph.
pub(crate) trait Beside {
    /// A node's weight and bias.
    fn weight(&mut self, node: &str) -> Result<(QWeight, Vec<i32>)>;
    /// A node's table.
    fn table(&mut self, node: &str) -> Result<Box<[u8; 256]>>;
}

/// Nodes and outputs as JSON.
pub(crate) fn to_qgraph_json(nodes: &[QNode], outputs: &[Output]) -> QGraphJson {
    let node = |(id, node): (usize, &QNode)| QNodeJson {
        n: node.name.clone(),
        i: shorten(id, &node.inputs),
        op: to_qop_json(&node.op),
        e: node.activation.as_ref().map(|activation| ActivationJson {
            scale: activation.scale,
            zero_points: activation.zero_points.clone(),
            lo: activation.lo,
            hi: activation.hi,
        }),
    };
    QGraphJson {
        nodes: nodes.iter().enumerate().map(node).collect(),
        outputs: to_outputs_json(outputs),
    }
}

/// Nodes and outputs again; `beside` brings back what is stored elsewhere. `old_labels` are those of the input in versions 1 and 2.
pub(crate) fn from_qgraph_json(
    json: QGraphJson,
    old_labels: Option<Vec<String>>,
    beside: &mut impl Beside,
) -> Result<(Vec<QNode>, Vec<Output>)> {
    let is_old = old_labels.is_some();
    let last = json.nodes.len().checked_sub(1);
    let outputs = outputs(json.outputs, last.filter(|_| is_old), old_labels)?;
    let mut nodes: Vec<QNode> = Vec::with_capacity(json.nodes.len());
    for (id, node) in json.nodes.into_iter().enumerate() {
        let QNodeJson { n, i, op, e } = node;
        let old = op.old_limits();
        if !is_old && (old.lo.is_some() || old.hi.is_some()) {
            return Err(tensor_error(
                &n,
                "limits of its codes at the operator, which files of versions 1 and 2 have",
            ));
        }
        let inputs = i.unwrap_or_else(|| previous(id));
        let mut node = QNode {
            op: from_qop_json(op, &n, beside)?,
            name: n,
            inputs,
            activation: e.map(|e| Activation {
                scale: e.scale,
                zero_points: e.zero_points,
                lo: e.lo,
                hi: e.hi,
            }),
        };
        if is_old {
            limit_as_then(&mut node, &nodes, old);
        }
        nodes.push(node);
    }
    Ok((nodes, outputs))
}

/// The limits of codes that versions 1 and 2 left to be derived: those of the operator's own clamp, and of moved codes those of
/// what was moved.
fn limit_as_then(node: &mut QNode, before: &[QNode], old: OldLimits) {
    let source = node.inputs.first().and_then(|i| before.get(*i));
    let x = source.and_then(|source| source.activation.as_ref());
    let (keeps, pads) = (node.op.keeps_codes(), matches!(node.op, QOp::Pad { .. }));
    let Some(y) = &mut node.activation else {
        return;
    };
    if let Some(x) = x.filter(|_| keeps) {
        (y.lo, y.hi) = (x.lo, x.hi);
        if let Some(zero) = y.zero_points.first().filter(|_| pads) {
            (y.lo, y.hi) = (y.lo.min(*zero), y.hi.max(*zero));
        }
    }
    y.lo = old.lo.map_or(y.lo, |lo| lo.max(y.lo));
    y.hi = old.hi.map_or(y.hi, |hi| hi.min(y.hi));
}

fn to_qop_json(op: &QOp) -> QOpJson {
    match op {
        QOp::Input => QOpJson::Input,
        QOp::Conv {
            weight: _,
            bias: _,
            window,
            group,
        } => QOpJson::Conv {
            window: *window,
            group: *group,
            lo: None,
            hi: None,
        },
        QOp::Gemm { .. } => QOpJson::Gemm(OldLimits::default()),
        QOp::Logits { .. } => QOpJson::Logits,
        QOp::Add => QOpJson::Add(OldLimits::default()),
        QOp::Clamp => QOpJson::Clamp(OldLimits::default()),
        QOp::Table { function, table: _ } => QOpJson::Table((&Op::Unary(*function)).into()),
        QOp::MaxPool(window) => QOpJson::MaxPool(*window),
        QOp::AveragePool(window) => QOpJson::AveragePool(*window),
        QOp::GlobalAveragePool => QOpJson::GlobalAveragePool,
        QOp::Flatten => QOpJson::Flatten,
        QOp::Slice { start, end, step } => QOpJson::Slice {
            start: start.clone(),
            end: end.clone(),
            step: step.clone(),
        },
        QOp::Pad { begin, end } => QOpJson::Pad {
            begin: begin.clone(),
            end: end.clone(),
        },
        QOp::Quantize => QOpJson::Quantize,
        QOp::Dequantize => QOpJson::Dequantize,
        QOp::Float(op) => QOpJson::Float(op.into()),
    }
}

fn from_qop_json(op: QOpJson, node: &str, beside: &mut impl Beside) -> Result<QOp> {
    Ok(match op {
        QOpJson::Input => QOp::Input,
        QOpJson::Conv {
            window,
            group,
            lo: _,
            hi: _,
        } => {
            let (weight, bias) = beside.weight(node)?;
            QOp::Conv {
                weight,
                bias,
                window,
                group,
            }
        }
        QOpJson::Gemm(_) => {
            let (weight, bias) = beside.weight(node)?;
            QOp::Gemm { weight, bias }
        }
        QOpJson::Logits => {
            let (weight, bias) = beside.weight(node)?;
            QOp::Logits { weight, bias }
        }
        QOpJson::Add(_) => QOp::Add,
        QOpJson::Clamp(_) => QOp::Clamp,
        QOpJson::Table(function) => match Op::from(function) {
            Op::Unary(function) => QOp::Table {
                function,
                table: beside.table(node)?,
            },
            other => {
                return Err(tensor_error(
                    node,
                    format!(
                        "a table of {}, which is no function of one value",
                        other.name()
                    ),
                ));
            }
        },
        QOpJson::MaxPool(window) => QOp::MaxPool(window),
        QOpJson::AveragePool(window) => QOp::AveragePool(window),
        QOpJson::GlobalAveragePool => QOp::GlobalAveragePool,
        QOpJson::Flatten => QOp::Flatten,
        QOpJson::Slice { start, end, step } => QOp::Slice { start, end, step },
        QOpJson::Pad { begin, end } => QOp::Pad { begin, end },
        QOpJson::Quantize => QOp::Quantize,
        QOpJson::Dequantize => QOp::Dequantize,
        QOpJson::Float(op) => QOp::Float(op.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn op_text(op: Op) -> String {
        let graph = Graph {
            nodes: vec![Node {
                name: "a".to_owned(),
                op,
                inputs: Vec::new(),
            }],
            outputs: vec![Output::of(0)],
        };
        let text = serde_json::to_string(&GraphJson::from(&graph)).unwrap();
        let back = serde_json::from_str::<GraphJson>(&text).unwrap();
        assert_eq!(back.graph(None).unwrap(), graph);
        let text = text.strip_prefix(r#"{"nodes":[{"n":"a","op":"#).unwrap();
        text.strip_suffix(r#"}],"outputs":[{"node":0}]}"#)
            .unwrap()
            .to_owned()
    }

    #[test]
    fn operators_are_written_in_few_words() {
        let conv = |window, group, bias: Option<&str>| Op::Conv {
            weight: "a.w".to_owned(),
            bias: bias.map(str::to_owned),
            window,
            group,
        };
        let uneven = Window {
            kernel: [1, 3],
            stride: [2, 1],
            pads: [0, 0, 0, 1],
        };
        let norm = Op::BatchNormalization {
            scale: None,
            bias: "b".to_owned(),
            mean: "m".to_owned(),
            var: "v".to_owned(),
            epsilon: 1e-5,
            momentum: 0.1,
        };
        struct Case {
            op: Op,
            expect: &'static str,
        }
        let cases = [
            // A unit variant is a word.
            Case {
                op: Op::Unary(Unary::Relu),
                expect: r#""Relu""#,
            },
            // Defaults are left out.
            Case {
                op: conv(Window::square(1, 1, 0), 1, None),
                expect: r#"{"Conv":{"w":"a.w","win":{"k":[1,1]}}}"#,
            },
            // Nothing is left out.
            Case {
                op: conv(uneven, 2, Some("a.b")),
                expect: r#"{"Conv":{"w":"a.w","b":"a.b","win":{"k":[1,3],"s":[2,1],"p":[0,0,0,1]},"g":2}}"#,
            },
            // f32 with the fewest digits.
            Case {
                op: norm,
                expect: r#"{"BatchNormalization":{"bias":"b","mean":"m","var":"v","eps":0.00001,"mom":0.1}}"#,
            },
            Case {
                op: Op::MaxPool(Window::square(2, 2, 0)),
                expect: r#"{"MaxPool":{"k":[2,2],"s":[2,2]}}"#,
            },
        ];
        for case in cases {
            assert_eq!(op_text(case.op), case.expect);
        }
    }

    #[test]
    fn infinity_is_refused() {
        let mut graph = Graph::new();
        let max = f32::INFINITY;
        graph.push("clip", Op::Unary(Unary::Clip { min: 0.0, max }), &[0]);
        let error = serde_json::to_string(&GraphJson::from(&graph)).unwrap_err();
        assert!(
            error.to_string().contains("inf cannot be stored"),
            "{error}"
        );
        for text in ["1e39", "-1e39", "1e999", "null"] {
            let json = format!(r#"{{"s":{text},"z":[0]}}"#);
            assert!(
                serde_json::from_str::<ActivationJson>(&json).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn unknown_attributes_are_refused() {
        let problem = |op: &str, quantized: bool| {
            let result = if quantized {
                let text = format!(r#"{{"nodes":[{{"n":"a","op":{op}}}]}}"#);
                serde_json::from_str::<QGraphJson>(&text).map(drop)
            } else {
                let text = format!(r#"{{"nodes":[{{"n":"a","op":{op}}}],"out":0}}"#);
                serde_json::from_str::<GraphJson>(&text).map(drop)
            };
            result.map_err(|e| e.to_string())
        };
        struct Case {
            op: &'static str,
            quantized: bool,
            unknown: &'static str,
        }
        let cases = [
            // An attribute that changes what the operator computes.
            Case {
                op: r#"{"Conv":{"w":"a.w","win":{"k":[1,1]},"dilations":[2,2]}}"#,
                quantized: false,
                unknown: "dilations",
            },
            Case {
                op: r#"{"Conv":{"win":{"k":[1,1]},"dilations":[2,2]}}"#,
                quantized: true,
                unknown: "dilations",
            },
            // In the window of an operator.
            Case {
                op: r#"{"MaxPool":{"k":[2,2],"ceil_mode":1}}"#,
                quantized: false,
                unknown: "ceil_mode",
            },
            Case {
                op: r#"{"AveragePool":{"k":[2,2],"count_include_pad":1}}"#,
                quantized: true,
                unknown: "count_include_pad",
            },
            // Beside the operator.
            Case {
                op: r#""Relu","next":1"#,
                quantized: false,
                unknown: "next",
            },
        ];
        for case in cases {
            let message = problem(case.op, case.quantized).unwrap_err();
            assert!(
                message.contains(&format!("unknown field `{}`", case.unknown)),
                "{message}"
            );
        }
        let sound = r#"{"Conv":{"w":"a.w","win":{"k":[1,1]}}}"#;
        assert_eq!(problem(sound, false), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn every_finite_f32_comes_back(bits in any::<u32>()) {
            let scale = f32::from_bits(bits);
            prop_assume!(scale.is_finite());
            let activation = ActivationJson { scale, zero_points: vec![0], lo: 0, hi: 255 };
            let text = serde_json::to_string(&activation).unwrap();
            let back: ActivationJson = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.scale.to_bits(), bits, "{}", text);
        }
    }
}
