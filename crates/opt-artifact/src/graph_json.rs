//! The graphs as JSON, minified.
//!
//! ```text
//! graph (model)   {"nodes":[{"n":NAME, "i":INPUTS, "op":OP}, …], "out":INDEX}
//! graph (qmodel)  {"nodes":[{"n":NAME, "i":INPUTS, "op":QOP, "e":{"s":SCALE, "z":[ZERO, …]}}, …]}
//! OP              "Relu" | {"Conv":{"w":WEIGHT, "b":BIAS, "win":WINDOW, "g":GROUP}} | …
//! QOP             "Logits" | {"Conv":{"win":WINDOW, "g":GROUP, "lo":0, "hi":255}} | …
//! WINDOW          {"k":[3,3], "s":[1,1], "p":[1,1,1,1]}                  pads top, left, bottom, right
//! ```
//!
//! Left out are `i` where a node reads the one before it, strides of 1, padding of 0, one group, `lo` 0 and `hi` 255. An
//! f32 is written with the fewest digits that give it back exactly. What an unknown
//! operator, attribute or key means cannot be guessed: it is refused.

use opt_core::graph::NodeId;
use opt_core::op::Window;
use opt_core::qmodel::QEdge;
use opt_core::{Graph, Node, Op, QNode, QOp, QWeight};
use serde::{Deserialize, Serialize, Serializer};

use crate::Result;

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

#[derive(Serialize, Deserialize)]
#[serde(remote = "Op", deny_unknown_fields)]
enum OpJson {
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeJson {
    n: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<Vec<NodeId>>,
    #[serde(with = "OpJson")]
    op: Op,
}

/// `None` where a node reads the one before it (and the first node nothing).
fn shorten(id: NodeId, inputs: &[NodeId]) -> Option<Vec<NodeId>> {
    (inputs != previous(id)).then(|| inputs.to_vec())
}

fn previous(id: NodeId) -> Vec<NodeId> {
    id.checked_sub(1).into_iter().collect()
}

/// [`Graph`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GraphJson {
    nodes: Vec<NodeJson>,
    out: NodeId,
}

impl From<&Graph> for GraphJson {
    fn from(graph: &Graph) -> Self {
        let Graph { nodes, output } = graph;
        let nodes = nodes.iter().enumerate().map(|(id, node)| NodeJson {
            n: node.name.clone(),
            i: shorten(id, &node.inputs),
            op: node.op.clone(),
        });
        Self {
            nodes: nodes.collect(),
            out: *output,
        }
    }
}

impl From<GraphJson> for Graph {
    fn from(json: GraphJson) -> Self {
        let nodes = json.nodes.into_iter().enumerate().map(|(id, node)| Node {
            name: node.n,
            op: node.op,
            inputs: node.i.unwrap_or_else(|| previous(id)),
        });
        Self {
            nodes: nodes.collect(),
            output: json.out,
        }
    }
}

/// An operator of a quantized model, without its weight.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum QOpJson {
    Input,
    Conv {
        #[serde(rename = "win", with = "WindowJson")]
        window: Window,
        #[serde(rename = "g", default = "one", skip_serializing_if = "is_one")]
        group: usize,
        #[serde(default, skip_serializing_if = "is_byte_min")]
        lo: u8,
        #[serde(default = "byte_max", skip_serializing_if = "is_byte_max")]
        hi: u8,
    },
    Gemm {
        #[serde(default, skip_serializing_if = "is_byte_min")]
        lo: u8,
        #[serde(default = "byte_max", skip_serializing_if = "is_byte_max")]
        hi: u8,
    },
    Logits,
    Add {
        #[serde(default, skip_serializing_if = "is_byte_min")]
        lo: u8,
        #[serde(default = "byte_max", skip_serializing_if = "is_byte_max")]
        hi: u8,
    },
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
    Clamp {
        lo: u8,
        hi: u8,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgeJson {
    #[serde(rename = "s", serialize_with = "finite")]
    scale: f32,
    #[serde(rename = "z")]
    zero_points: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QNodeJson {
    n: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<Vec<NodeId>>,
    op: QOpJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<EdgeJson>,
}

/// The nodes of a [`opt_core::QModel`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QGraphJson {
    nodes: Vec<QNodeJson>,
}

/// The nodes as JSON; `store` keeps a node's weight and bias elsewhere.
pub(crate) fn to_qgraph_json(
    nodes: &[QNode],
    mut store: impl FnMut(&str, &QWeight, &[i32]) -> Result<()>,
) -> Result<QGraphJson> {
    let mut json = Vec::with_capacity(nodes.len());
    for (id, node) in nodes.iter().enumerate() {
        if let Some((weight, bias)) = node.op.weight() {
            store(&node.name, weight, bias)?;
        }
        json.push(QNodeJson {
            n: node.name.clone(),
            i: shorten(id, &node.inputs),
            op: to_qop_json(&node.op),
            e: node.edge.as_ref().map(|edge| EdgeJson {
                scale: edge.scale,
                zero_points: edge.zero_points.clone(),
            }),
        });
    }
    Ok(QGraphJson { nodes: json })
}

/// The nodes again; `fetch` brings a node's weight and bias back.
pub(crate) fn from_qgraph_json(
    json: QGraphJson,
    mut fetch: impl FnMut(&str) -> Result<(QWeight, Vec<i32>)>,
) -> Result<Vec<QNode>> {
    let mut nodes = Vec::with_capacity(json.nodes.len());
    for (id, node) in json.nodes.into_iter().enumerate() {
        let QNodeJson { n, i, op, e } = node;
        let op = from_qop_json(op, || fetch(&n))?;
        nodes.push(QNode {
            op,
            name: n,
            inputs: i.unwrap_or_else(|| previous(id)),
            edge: e.map(|e| QEdge {
                scale: e.scale,
                zero_points: e.zero_points,
            }),
        });
    }
    Ok(nodes)
}

fn to_qop_json(op: &QOp) -> QOpJson {
    match op {
        QOp::Input => QOpJson::Input,
        QOp::Conv {
            weight: _,
            bias: _,
            window,
            group,
            lo,
            hi,
        } => QOpJson::Conv {
            window: *window,
            group: *group,
            lo: *lo,
            hi: *hi,
        },
        QOp::Gemm { lo, hi, .. } => QOpJson::Gemm { lo: *lo, hi: *hi },
        QOp::Logits { .. } => QOpJson::Logits,
        QOp::Add { lo, hi } => QOpJson::Add { lo: *lo, hi: *hi },
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
        QOp::Clamp { lo, hi } => QOpJson::Clamp { lo: *lo, hi: *hi },
    }
}

fn from_qop_json(op: QOpJson, fetch: impl FnOnce() -> Result<(QWeight, Vec<i32>)>) -> Result<QOp> {
    Ok(match op {
        QOpJson::Input => QOp::Input,
        QOpJson::Conv {
            window,
            group,
            lo,
            hi,
        } => {
            let (weight, bias) = fetch()?;
            QOp::Conv {
                weight,
                bias,
                window,
                group,
                lo,
                hi,
            }
        }
        QOpJson::Gemm { lo, hi } => {
            let (weight, bias) = fetch()?;
            QOp::Gemm {
                weight,
                bias,
                lo,
                hi,
            }
        }
        QOpJson::Logits => {
            let (weight, bias) = fetch()?;
            QOp::Logits { weight, bias }
        }
        QOpJson::Add { lo, hi } => QOp::Add { lo, hi },
        QOpJson::MaxPool(window) => QOp::MaxPool(window),
        QOpJson::AveragePool(window) => QOp::AveragePool(window),
        QOpJson::GlobalAveragePool => QOp::GlobalAveragePool,
        QOpJson::Flatten => QOp::Flatten,
        QOpJson::Slice { start, end, step } => QOp::Slice { start, end, step },
        QOpJson::Pad { begin, end } => QOp::Pad { begin, end },
        QOpJson::Clamp { lo, hi } => QOp::Clamp { lo, hi },
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
            output: 0,
        };
        let text = serde_json::to_string(&GraphJson::from(&graph)).unwrap();
        let back: Graph = serde_json::from_str::<GraphJson>(&text).unwrap().into();
        assert_eq!(back, graph);
        let text = text.strip_prefix(r#"{"nodes":[{"n":"a","op":"#).unwrap();
        text.strip_suffix(r#"}],"out":0}"#).unwrap().to_owned()
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
                op: Op::Relu,
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
        graph.push("clip", Op::Clip { min: 0.0, max }, &[0]);
        let error = serde_json::to_string(&GraphJson::from(&graph)).unwrap_err();
        assert!(
            error.to_string().contains("inf cannot be stored"),
            "{error}"
        );
        for text in ["1e39", "-1e39", "1e999", "null"] {
            let json = format!(r#"{{"s":{text},"z":[0]}}"#);
            assert!(serde_json::from_str::<EdgeJson>(&json).is_err(), "{text}");
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
            let edge = EdgeJson { scale, zero_points: vec![0] };
            let text = serde_json::to_string(&edge).unwrap();
            let back: EdgeJson = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.scale.to_bits(), bits, "{}", text);
        }
    }
}
