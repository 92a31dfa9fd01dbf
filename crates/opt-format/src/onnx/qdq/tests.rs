//! The graph that is written, node by node, and networks and wishes that must be refused.

use super::*;
use crate::onnx::proto::{DimensionValue, ModelProto, NodeProto, TensorProto};
use ndarray::ArrayD;
use opt_core::qmodel::{Activation, QNode, QWeight};
use opt_core::{InputSpec, Output, Params};
use prost::Message;

fn codes(scale: f32, zero_points: &[u8]) -> Option<Activation> {
    Some(Activation {
        zero_points: zero_points.to_vec(),
        ..Activation::new(scale, 0)
    })
}

fn weight_of(shape: &[usize], codes: &[i8], scales: &[f32]) -> QWeight {
    QWeight {
        codes: ArrayD::from_shape_vec(shape.to_vec(), codes.to_vec()).unwrap(),
        scales: scales.to_vec(),
        bits: 8,
    }
}

fn node(name: &str, op: QOp, inputs: &[usize], activation: Option<Activation>) -> QNode {
    QNode {
        name: name.to_owned(),
        op,
        inputs: inputs.to_vec(),
        activation,
    }
}

/// Two channels of 2×3 pixels, a convolution with two filters, and logits of two classes.
fn net(zero_points: &[u8], [zero, lo, hi]: [u8; 3]) -> QModel {
    let conv = QOp::Conv {
        weight: weight_of(&[2, 2, 1, 2], &[1, 2, 30, -4, 5, -6, 70, 8], &[0.5, 0.25]),
        bias: vec![1000, -1000],
        window: Window {
            kernel: [1, 2],
            stride: [1, 1],
            pads: [0, 1, 2, 0],
        },
        group: 1,
    };
    let y = || codes(3.0, &[zero]).map(|y| y.within(lo, hi));
    let logits = QOp::Logits {
        weight: weight_of(&[2, 24], &[1; 48], &[0.5, 2.0]),
        bias: vec![1, 2],
    };
    QModel {
        nodes: vec![
            node("input", QOp::Input, &[], codes(1.0, zero_points)),
            node("conv", conv, &[0], y()),
            node("flatten", QOp::Flatten, &[1], y()),
            node("linear", logits, &[2], None),
        ],
        params: Params::new(),
        outputs: vec![Output {
            node: 3,
            labels: vec!["a \"cat\"".to_owned(), "chien\n".to_owned()],
        }],
        input: InputSpec {
            shape: [2, 2, 3],
            mean: vec![0.0; 2],
            std: vec![1.0; 2],
            preparation: opt_core::Preparation::usual([2, 2, 3]),
        },
    }
}

fn write(model: &QModel, options: QdqOptions) -> ModelProto {
    ModelProto::decode(&*write_qdq(model, &options).unwrap()).unwrap()
}

fn graph_of(model: &QModel, options: QdqOptions) -> GraphProto {
    write(model, options).graph.unwrap()
}

fn ops(graph: &GraphProto) -> Vec<&str> {
    let ops = graph.node.iter().map(|n| n.op_type.as_str());
    ops.filter(|op| *op != "DequantizeLinear").collect()
}

fn find<'a>(graph: &'a GraphProto, op: &str) -> &'a NodeProto {
    graph.node.iter().find(|n| n.op_type == op).unwrap()
}

fn ints<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    let attribute = node.attribute.iter().find(|a| a.name == name).unwrap();
    &attribute.ints
}

fn constant<'a>(graph: &'a GraphProto, name: &str) -> &'a TensorProto {
    graph.initializer.iter().find(|t| t.name == name).unwrap()
}

fn bytes(graph: &GraphProto, name: &str) -> Vec<u8> {
    let tensor = constant(graph, name);
    assert_eq!(tensor.data_type(), DataType::Uint8, "{name}");
    tensor.raw_data.clone()
}

fn numbers(graph: &GraphProto, name: &str) -> Vec<f32> {
    let tensor = constant(graph, name);
    assert_eq!(tensor.data_type(), DataType::Float, "{name}");
    let words = tensor.raw_data.chunks_exact(4);
    words
        .map(|w| f32::from_le_bytes(w.try_into().unwrap()))
        .collect()
}

fn integers(graph: &GraphProto, name: &str) -> Vec<i32> {
    let tensor = constant(graph, name);
    assert_eq!(tensor.data_type(), DataType::Int32, "{name}");
    let words = tensor.raw_data.chunks_exact(4);
    words
        .map(|w| i32::from_le_bytes(w.try_into().unwrap()))
        .collect()
}

fn dims(value: &crate::onnx::proto::ValueInfoProto) -> Vec<String> {
    let tensor = value.r#type.clone().unwrap().tensor_type.unwrap();
    let text = |value| match value {
        Some(DimensionValue::Fixed(n)) => n.to_string(),
        Some(DimensionValue::Named(name)) => name,
        None => "?".to_owned(),
    };
    let dims = tensor.shape.unwrap().dim.into_iter();
    dims.map(|dim| text(dim.value)).collect()
}

#[test]
fn zero_points_of_channels_move_into_the_bias_and_the_padding() {
    let graph = graph_of(&net(&[10, 20], [0, 0, 255]), QdqOptions::default());
    let padding = ["Split", "Pad", "Pad", "Concat"];
    assert_eq!(ops(&graph)[..4], padding);
    assert_eq!(bytes(&graph, "conv/plane0/zero_point"), [10]);
    assert_eq!(bytes(&graph, "conv/plane1/zero_point"), [20]);
    // Both axes of the batch and the channels stay; top, left, then bottom, right.
    let pads = &constant(&graph, "conv/plane1/padded/pads").raw_data;
    let pads: Vec<u8> = pads.iter().copied().step_by(8).collect();
    assert_eq!(pads, [0, 0, 0, 1, 0, 0, 2, 0]);
    assert_eq!(ints(find(&graph, "Conv"), "pads"), [0; 4]);
    assert_eq!(bytes(&graph, "input/zero_point"), [0]);
    // 1000 - 10·(1 + 2) - 20·(30 - 4) and -1000 - 10·(5 - 6) - 20·(70 + 8)
    assert_eq!(integers(&graph, "conv/bias"), [450, -2550]);
}

#[test]
fn one_zero_point_stays_where_it_is() {
    // The same for all channels, said once or for each.
    for zero_points in [&[7][..], &[7, 7]] {
        let graph = graph_of(&net(zero_points, [0, 0, 255]), QdqOptions::default());
        assert_eq!(
            ops(&graph),
            ["Conv", "QuantizeLinear", "Flatten", "Gemm"],
            "{zero_points:?}"
        );
        assert_eq!(bytes(&graph, "input/zero_point"), [7]);
        assert_eq!(ints(find(&graph, "Conv"), "pads"), [0, 1, 2, 0]);
        assert_eq!(integers(&graph, "conv/bias"), [1000, -1000]);
    }
}

#[test]
fn the_padded_image_is_what_the_nodes_would_have_made() {
    let options = QdqOptions {
        padded_input: true,
        ..QdqOptions::default()
    };
    let model = net(&[10, 20], [0, 0, 255]);
    let graph = graph_of(&model, options);
    assert_eq!(ops(&graph)[0], "Conv");
    assert_eq!(dims(&graph.input[0]), ["N", "2", "4", "4"]);
    assert_eq!(ints(find(&graph, "Conv"), "pads"), [0; 4]);
    assert_eq!(integers(&graph, "conv/bias"), [450, -2550]);
    let image: Vec<u8> = (1..=12).collect();
    let rows = [
        [10, 1, 2, 3],
        [10, 4, 5, 6],
        [10; 4],
        [10; 4],
        [20, 7, 8, 9],
        [20, 10, 11, 12],
        [20; 4],
        [20; 4],
    ];
    assert_eq!(padded_image(&model, &image).unwrap(), rows.concat());
    // One zero point stays in the graph; the image is padded all the same.
    let one = net(&[7], [0, 0, 255]);
    let graph = graph_of(&one, options);
    assert_eq!(bytes(&graph, "input/zero_point"), [7]);
    assert_eq!(dims(&graph.input[0]), ["N", "2", "4", "4"]);
    assert_eq!(ints(find(&graph, "Conv"), "pads"), [0; 4]);
    assert_eq!(padded_image(&one, &image).unwrap()[..4], [7, 1, 2, 3]);
}

#[test]
fn limits_inside_the_byte_are_limits_of_codes() {
    struct Case {
        limits: [u8; 3],
        clips: bool,
    }
    let cases = [
        // No activation.
        Case {
            limits: [9, 0, 255],
            clips: false,
        },
        // A ReLU that the saturation at 0 is.
        Case {
            limits: [0, 0, 255],
            clips: false,
        },
        // A ReLU at another zero point.
        Case {
            limits: [9, 9, 255],
            clips: true,
        },
        // A Clip whose upper bound lies inside.
        Case {
            limits: [0, 0, 254],
            clips: true,
        },
    ];
    for Case { limits, clips } in cases {
        let graph = graph_of(&net(&[7], limits), QdqOptions::default());
        let codes = &find(&graph, "QuantizeLinear").output[0];
        assert_eq!(codes == "conv/unlimited", clips, "{limits:?}");
        assert_eq!(ops(&graph).contains(&"Clip"), clips, "{limits:?}");
        if clips {
            let clip = find(&graph, "Clip");
            assert_eq!(clip.input, ["conv/unlimited", "conv/min", "conv/max"]);
            assert_eq!(clip.output, ["conv"]);
            assert_eq!(bytes(&graph, "conv/min"), [limits[1]]);
            assert_eq!(bytes(&graph, "conv/max"), [limits[2]]);
        }
        assert_eq!(bytes(&graph, "conv/zero_point"), [limits[0]]);
    }
}

#[test]
fn weights_and_biases_are_integers_with_scales_per_filter() {
    let graph = graph_of(&net(&[7], [3, 0, 255]), QdqOptions::default());
    let gemm = find(&graph, "Gemm");
    let [x, w, b] = &gemm.input[..] else {
        panic!("{:?}", gemm.input)
    };
    let source = |output: &String| graph.node.iter().find(|n| n.output[0] == *output).unwrap();
    // What Flatten moves has the scale of the convolution.
    assert_eq!(
        source(x).input,
        ["flatten", "conv/scale", "conv/zero_point"]
    );
    for parameter in [w, b] {
        let axis = &source(parameter).attribute[0];
        assert_eq!((axis.name.as_str(), axis.i), ("axis", Some(0)));
    }
    let [codes, scales, zero_points] = &source(w).input[..] else {
        panic!("{:?}", source(w))
    };
    assert_eq!(constant(&graph, codes).dims, [2, 24]);
    assert_eq!(constant(&graph, codes).data_type(), DataType::Int8);
    assert_eq!(numbers(&graph, scales), [0.5, 2.0]);
    assert_eq!(constant(&graph, zero_points).raw_data, [0, 0]);
    let [codes, scales, zero_points] = &source(b).input[..] else {
        panic!("{:?}", source(b))
    };
    assert_eq!(integers(&graph, codes), [1, 2]);
    assert_eq!(numbers(&graph, scales), [1.5, 6.0]);
    assert_eq!(integers(&graph, zero_points), [0, 0]);
    assert_eq!(gemm.output, [LOGITS]);
    assert_eq!(gemm.name, "linear");
    let negative = constant(&graph, "conv/weight").raw_data[3];
    assert_eq!(i8::from_le_bytes([negative]), -4);
}

#[test]
fn options_choose_batch_and_outputs() {
    let model = net(&[10, 20], [0, 0, 255]);
    let outputs = |options| {
        let graph = graph_of(&model, options);
        let value = |v: &crate::onnx::proto::ValueInfoProto| (v.name.clone(), dims(v).join(" "));
        let values = graph.input.iter().chain(&graph.output).map(value);
        values.collect::<Vec<_>>()
    };
    let expected = |pairs: &[(&str, &str)]| {
        let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        pairs.iter().map(own).collect::<Vec<_>>()
    };
    assert_eq!(
        outputs(QdqOptions::default()),
        expected(&[("input", "N 2 2 3"), ("logits", "N 2")])
    );
    let options = QdqOptions {
        batch: Some(5),
        all_codes: true,
        ..QdqOptions::default()
    };
    let all = [
        ("input", "5 2 2 3"),
        ("logits", "5 2"),
        ("conv", "5 2 4 3"),
        ("flatten", "5 24"),
    ];
    assert_eq!(outputs(options), expected(&all));
}

#[test]
fn the_file_says_what_it_is() {
    let model = net(&[10, 20], [0, 0, 255]);
    let file = write(&model, QdqOptions::default());
    assert_eq!(file.producer_name, "opt-rs");
    assert_eq!((file.ir_version, file.opset_import[0].version), (8, 17));
    assert_eq!(file.metadata_props[0].key, "labels");
    let labels: Vec<String> = serde_json::from_str(&file.metadata_props[0].value).unwrap();
    assert_eq!(labels, model.labels());
    // Nothing of it is lost in these messages.
    let bytes = write_qdq(&model, &QdqOptions::default()).unwrap();
    assert_eq!(file.encode_to_vec(), bytes);
}

#[test]
fn what_has_no_form_is_refused() {
    struct Case {
        change: fn(&mut QModel),
        options: QdqOptions,
        expect: &'static str,
    }
    let plain = QdqOptions::default();
    let padded = QdqOptions {
        padded_input: true,
        ..plain
    };
    let cases = [
        // A residual that is added before the rounding.
        Case {
            change: |model| {
                let QOp::Conv { window, .. } = &mut model.nodes[1].op else {
                    unreachable!()
                };
                window.pads = [0, 1, 0, 0];
                let mut second = model.nodes[1].clone();
                second.name = "second".to_owned();
                second.inputs = vec![1, 1];
                model.nodes.insert(2, second);
                model.nodes[3].inputs = vec![2];
                model.nodes[4].inputs = vec![3];
                model.outputs[0].node = 4;
                let QOp::Logits { weight, .. } = &mut model.nodes[4].op else {
                    unreachable!()
                };
                *weight = weight_of(&[2, 12], &[1; 24], &[1.0, 1.0]);
            },
            options: plain,
            expect: "cannot write `second` as ONNX: it adds a residual before its one rounding, for which QDQ has no \
                     form; lower the network with ResidualAdd::Explicit",
        },
        Case {
            change: |model| model.nodes[1].name.clear(),
            options: plain,
            expect: "cannot write `` as ONNX: a node has no name; name it",
        },
        // Nodes of one name.
        Case {
            change: |model| model.nodes[2].name = "conv".to_owned(),
            options: plain,
            expect: "cannot write `conv` as ONNX: two tensors",
        },
        // A node that would hide a constant of another.
        Case {
            change: |model| model.nodes[2].name = "conv/bias".to_owned(),
            options: plain,
            expect: "cannot write `conv/bias` as ONNX: two tensors",
        },
        // A node that would be the output.
        Case {
            change: |model| model.nodes[2].name = LOGITS.to_owned(),
            options: plain,
            expect: "cannot write `logits` as ONNX: two tensors",
        },
        Case {
            change: |_| (),
            options: QdqOptions {
                batch: Some(0),
                ..plain
            },
            expect: "cannot write `batch` as ONNX: it is 0",
        },
        // A second reader of the image, which would meet its padding.
        Case {
            change: |model| {
                let QOp::Conv { window, .. } = &mut model.nodes[1].op else {
                    unreachable!()
                };
                window.pads = [0, 1, 0, 0];
                let sum = node("other", QOp::Add, &[1, 0], codes(3.0, &[0]));
                model.nodes.insert(2, sum);
                model.nodes[3].inputs = vec![2];
                model.nodes[4].inputs = vec![3];
                model.outputs[0].node = 4;
                let QOp::Logits { weight, .. } = &mut model.nodes[4].op else {
                    unreachable!()
                };
                *weight = weight_of(&[2, 12], &[1; 24], &[1.0, 1.0]);
            },
            options: padded,
            expect: "cannot write `padded_input` as ONNX: the image must be read by one convolution",
        },
        Case {
            change: |model| model.nodes[1].activation = None,
            options: plain,
            expect: "node `conv`: Conv: has no scale and zero point",
        },
    ];
    for (i, case) in cases.iter().enumerate() {
        let mut model = net(&[7], [0, 0, 255]);
        (case.change)(&mut model);
        let error = write_qdq(&model, &case.options).unwrap_err().to_string();
        assert!(error.contains(case.expect), "case {i}: {error}");
    }
    let error = padded_image(&net(&[7], [0, 0, 255]), &[0; 11]).unwrap_err();
    assert!(error.to_string().contains("one image"), "{error}");
}
