//! Integer models come back equal and compute the same logits.

use super::*;
use crate::tests::{quantized, resealed};
use opt_core::lower::ResidualAdd;
use opt_core::{Activation, InputSpec, Output, QNode, Unary, interpret_quantized};

#[test]
fn zoo_nets_come_back_and_compute_the_same() {
    for name in ["resnet20", "resnet20_b", "airbench_8_8_8", "source_net"] {
        for (adds, bits) in [
            (ResidualAdd::Fused, 8),
            (ResidualAdd::Explicit, 8),
            (ResidualAdd::Fused, 4),
            (ResidualAdd::Fused, 3),
        ] {
            let model = quantized(name, adds, bits);
            let bytes = write_qmodel(&model, &Provenance::new()).unwrap();
            assert_eq!(bytes, write_qmodel(&model, &Provenance::new()).unwrap());
            let back = read_qmodel(&bytes).unwrap();
            assert_eq!(back, model, "{name} {adds:?} {bits}");
            if (adds, bits) != (ResidualAdd::Fused, 4) && name != "airbench_8_8_8" {
                continue;
            }
            let [c, h, w] = model.input.shape;
            let image: Vec<u8> = (0..c * h * w)
                .map(|i| (i * 37 % 251).to_le_bytes()[0])
                .collect();
            let expected = interpret_quantized::run(&model, &image).unwrap();
            let found = interpret_quantized::run(&back, &image).unwrap();
            assert!(found.codes().eq(expected.codes()));
            let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(found.outputs), bits(expected.outputs));
        }
    }
}

#[test]
fn every_width_is_stored_at_its_size() {
    for bits in 2..=8 {
        let model = quantized("airbench_8_8_8", ResidualAdd::Fused, bits);
        let bytes = write_qmodel(&model, &Provenance::new()).unwrap();
        let (header, rest) = bytes.split_at(8);
        let header = usize::try_from(u64::from_le_bytes(header.try_into().unwrap())).unwrap();
        assert_eq!(rest.len() - header, model.payload_bytes(), "{bits}");
        assert_eq!(read_qmodel(&bytes).unwrap(), model);
    }
}

#[test]
fn every_weight_names_its_coding() {
    let mut model = quantized("airbench_8_8_8", ResidualAdd::Fused, 8);
    let bytes = write_qmodel(&model, &Provenance::new()).unwrap();
    let weights = model.nodes.iter().filter(|n| n.op.weight().is_some());
    let names: Vec<String> = weights.map(|n| format!("{}.weight", n.name)).collect();
    let content = read(&bytes).unwrap();
    let codec: BTreeMap<String, Value> = content.json("codec").unwrap();
    assert_eq!(codec.len(), names.len());
    for name in &names {
        assert_eq!(codec[name], serde_json::json!({"coding": "raw"}));
    }
    // Raw is what a weight is without its entry; packed is not.
    let without = resealed(&bytes, |c| drop(c.metadata.remove("codec")));
    assert_eq!(read_qmodel(&without).unwrap(), model);
    let second = model.nodes.iter_mut().filter_map(|n| match &mut n.op {
        QOp::Conv { weight, .. } => Some(weight),
        _ => None,
    });
    let weight = second.take(2).last().unwrap();
    weight.codes.mapv_inplace(|q| q / 19);
    weight.bits = 4;
    let shape = weight.codes.shape().to_vec();
    let bytes = write_qmodel(&model, &Provenance::new()).unwrap();
    let codec: BTreeMap<String, Value> = read(&bytes).unwrap().json("codec").unwrap();
    let packed = serde_json::json!({"coding": "packed", "bits": 4, "shape": shape});
    assert_eq!(codec[&names[1]], packed);
    assert_eq!(codec[&names[0]]["coding"], "raw");
    assert_eq!(read_qmodel(&bytes).unwrap(), model);
    let without = resealed(&bytes, |c| drop(c.metadata.remove("codec")));
    let message = read_qmodel(&without).unwrap_err().to_string();
    let expect = format!("`{}`: the file has no tensor of this name", names[1]);
    assert_eq!(message, expect);
}

#[test]
fn the_header_of_a_resnet_is_small() {
    let model = quantized("resnet20", ResidualAdd::Fused, 8);
    let length = write_qmodel(&model, &Provenance::new()).unwrap().len();
    let overhead = length - model.payload_bytes();
    println!("resnet20 W8A8: {length} bytes, {overhead} of them header");
    // 60 tensors and 27 nodes; a change that doubles it should be noticed.
    assert!(overhead < 10_000, "{overhead} of {length}");
}

#[test]
fn two_nodes_of_one_name_are_refused() {
    let mut model = quantized("airbench_8_8_8", ResidualAdd::Fused, 8);
    model.nodes[2].name = model.nodes[1].name.clone();
    let error = write_qmodel(&model, &Provenance::new()).unwrap_err();
    assert!(
        error.to_string().contains("two nodes have this name"),
        "{error}"
    );
}

#[test]
fn unsound_models_are_not_written() {
    let mut model = quantized("airbench_8_8_8", ResidualAdd::Fused, 8);
    model.nodes[1].activation.as_mut().unwrap().scale = f32::NAN;
    let error = write_qmodel(&model, &Provenance::new()).unwrap_err();
    assert!(error.to_string().contains("its scale is NaN"), "{error}");
    let mut model = quantized("airbench_8_8_8", ResidualAdd::Fused, 8);
    model.input.mean.pop();
    let error = write_qmodel(&model, &Provenance::new()).unwrap_err();
    assert!(error.to_string().contains("3 channels"), "{error}");
}

/// A file as the first version wrote it: 0.5·(a - d) and -(b + c) for an image a, b, c, d of 2×2.
fn version_1() -> Vec<u8> {
    let header = r#"{"__metadata__":{
        "codec":"{\"head.weight\":{\"coding\":\"raw\"}}",
        "format":"opt",
        "graph":"{\"nodes\":[{\"n\":\"input\",\"op\":\"Input\",\"i\":[],\"e\":{\"s\":1.0,\"z\":[0]}},{\"n\":\"flat\",\"op\":\"Flatten\",\"e\":{\"s\":1.0,\"z\":[0]}},{\"n\":\"head\",\"op\":\"Logits\"}]}",
        "input":"{\"layout\":\"CHW\",\"dtype\":\"u8\",\"shape\":[1,2,2],\"mean\":[0.0],\"std\":[1.0],\"labels\":[\"a\",\"b\"]}",
        "kind":"qmodel",
        "provenance":"{}",
        "sha256":"551f2e86f569f59a8ecfd580236a7788f718d16d99bbededd7b46e436efca34d",
        "version":"1"},
        "head.bias":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},
        "head.weight_scale":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},
        "head.weight":{"dtype":"I8","shape":[2,4],"data_offsets":[16,24]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    let biases = [0u8; 8];
    let scales = [0.5f32.to_le_bytes(), 1f32.to_le_bytes()].concat();
    let codes = [1u8, 0, 0, 255, 0, 255, 255, 0];
    [&length, header.as_bytes(), &biases, &scales, &codes].concat()
}

#[test]
fn files_of_version_1_are_read_as_they_were_meant() {
    let model = read_qmodel(&version_1()).unwrap();
    let trace = interpret_quantized::run(&model, &[9, 1, 1, 3]).unwrap();
    assert_eq!(trace.outputs, [3.0, -2.0]);
    // What was done to images then: the usual, and no look at how a file is to be turned.
    let expected = opt_core::Preparation {
        orientation: opt_core::Orientation::Stored,
        cover: [2, 2],
    };
    assert_eq!(model.input.preparation, expected);
    // Written again it is of this version, says so itself, and means the same.
    let again = write_qmodel(&model, &Provenance::new()).unwrap();
    let text = String::from_utf8_lossy(&again);
    assert!(text.contains(r#""version":"3""#) && text.contains(r#"\"orientation\":\"stored\""#));
    assert_eq!(read_qmodel(&again).unwrap(), model);
    // The checksum is that of then.
    let mut damaged = version_1();
    *damaged.last_mut().unwrap() ^= 1;
    let message = read_qmodel(&damaged).unwrap_err().to_string();
    assert!(message.contains("the checksum does not match"), "{message}");
}

/// What version 2 wrote for two convolutions of one channel, the first with limits, a pool between them, and a Gemm.
const VERSION_2: [(&str, &str); 3] = [
    ("version", "2"),
    (
        "graph",
        r#"{"nodes":[{"n":"input","i":[],"op":"Input","e":{"s":1.0,"z":[0]}},{"n":"conv","op":{"Conv":{"win":{"k":[1,1]},"lo":7,"hi":90}},"e":{"s":2.0,"z":[7]}},{"n":"pool","op":{"MaxPool":{"k":[1,1]}},"e":{"s":2.0,"z":[7]}},{"n":"pad","op":{"Pad":{"begin":[0,0,0],"end":[0,0,0]}},"e":{"s":2.0,"z":[7]}},{"n":"cut","op":{"Clamp":{"lo":0,"hi":80}},"e":{"s":2.0,"z":[7]}},{"n":"mean","op":"GlobalAveragePool","e":{"s":2.0,"z":[7]}},{"n":"flat","op":"Flatten","e":{"s":2.0,"z":[7]}},{"n":"head","op":"Logits"}]}"#,
    ),
    (
        "input",
        r#"{"layout":"CHW","dtype":"u8","shape":[1,2,2],"mean":[0.0],"std":[1.0],"labels":["a"],"preparation":{"orientation":"upright","colours":"grey","filter":"triangle","cover":[2,2],"cut":"centre"}}"#,
    ),
];

/// A mixed network: a convolution in integers, `HardSwish` of its codes as a table, a second convolution in f32, two
/// outputs, one of them without labels.
fn mixed() -> QModel {
    let image = Activation::new(1.0, 0);
    let node = |name: &str, op, input: usize, activation| QNode {
        name: name.to_owned(),
        op,
        inputs: vec![input],
        activation,
    };
    let weight = QWeight {
        codes: ArrayD::from_elem(vec![2, 1, 1, 1], 3i8),
        scales: vec![0.5, 0.25],
        bits: 8,
    };
    let conv = QOp::Conv {
        weight,
        bias: vec![1, -1],
        window: Window::square(1, 1, 0),
        group: 1,
    };
    let table = QOp::Table {
        function: Unary::HardSwish,
        table: Box::new(std::array::from_fn(|q| u8::try_from(q / 2).unwrap())),
    };
    let float = QOp::Float(Op::Conv {
        weight: "late.weight".to_owned(),
        bias: None,
        window: Window::square(2, 1, 0),
        group: 1,
    });
    let late = ndarray::arr1(&[0.1f32, 0.2, -0.3, 0.4, 0.5, -0.6, 0.7, 0.8]);
    let late = late.into_shape_with_order(IxDyn(&[1, 2, 2, 2])).unwrap();
    QModel {
        nodes: vec![
            QNode {
                name: "input".to_owned(),
                op: QOp::Input,
                inputs: Vec::new(),
                activation: Some(image),
            },
            node("conv", conv, 0, Some(Activation::new(3.0, 9))),
            node(
                "act",
                table,
                1,
                Some(Activation::new(2.0, 4).within(0, 127)),
            ),
            node("act/f32", QOp::Dequantize, 2, None),
            node("late", float, 3, None),
        ],
        params: [("late.weight".to_owned(), late.into_shared())].into(),
        outputs: vec![
            Output {
                node: 4,
                labels: vec!["score".to_owned()],
            },
            Output::of(3),
        ],
        input: InputSpec {
            shape: [1, 2, 2],
            mean: vec![0.0],
            std: vec![1.0],
            preparation: opt_core::Preparation::usual([1, 2, 2]),
        },
    }
}

#[test]
fn mixed_networks_come_back_with_tables_parameters_and_outputs() {
    let model = mixed();
    let answers = golden::golden(&model, &[9, 200, 1, 3]).unwrap();
    let bytes = write_qmodel_with_golden(&model, &answers, &Provenance::new()).unwrap();
    let (back, stored) = read_qmodel_with_golden(&bytes).unwrap();
    assert_eq!(back, model);
    let stored = stored.unwrap();
    // One number of the first output, 2×2×2 of the second.
    let logits = stored.logits(0).to_vec();
    assert_eq!(logits.len(), 9);
    // Behind f32 a sum may end in other bits, but not in another number.
    let largest = logits.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (share, passes) in [(0.9e-4, true), (2e-4, false)] {
        let mut other = logits.clone();
        other[0] += share * largest;
        assert_eq!(
            stored.check_logits(0, &model, &other).is_ok(),
            passes,
            "{share}"
        );
    }
    let trace = interpret_quantized::run(&model, &[9, 200, 1, 3]).unwrap();
    stored.check_codes(0, &model, trace.codes()).unwrap();
    let mut codes: Vec<Vec<u8>> = trace.codes().map(<[u8]>::to_vec).collect();
    codes[2][1] ^= 1;
    let codes = codes.iter().map(Vec::as_slice);
    stored.check_codes(0, &model, codes).unwrap_err();
    // What is missing is named.
    for (name, expect) in [
        (
            "act.table",
            "`act.table`: the file has no tensor of this name",
        ),
        (
            "late.weight",
            "`late.weight`: the file has no tensor of this name",
        ),
    ] {
        let without = resealed(&bytes, |c| drop(c.tensors.remove(name)));
        let message = read_qmodel(&without).unwrap_err().to_string();
        assert_eq!(message, expect);
    }
}

#[test]
fn files_of_version_2_have_their_limits_at_the_operators() {
    let weight = |codes: Vec<usize>| QWeight {
        codes: ArrayD::from_elem(codes, 1i8),
        scales: vec![1.0],
        bits: 8,
    };
    let old = {
        let y = |lo, hi| Some(Activation::new(2.0, 7).within(lo, hi));
        let node = |name: &str, op, inputs: &[usize], activation| QNode {
            name: name.to_owned(),
            op,
            inputs: inputs.to_vec(),
            activation,
        };
        let conv = QOp::Conv {
            weight: weight(vec![1, 1, 1, 1]),
            bias: vec![0],
            window: Window::square(1, 1, 0),
            group: 1,
        };
        let head = QOp::Logits {
            weight: weight(vec![1, 1]),
            bias: vec![0],
        };
        let pad = QOp::Pad {
            begin: vec![0; 3],
            end: vec![0; 3],
        };
        QModel {
            nodes: vec![
                node("input", QOp::Input, &[], Some(Activation::new(1.0, 0))),
                node("conv", conv, &[0], y(7, 90)),
                node(
                    "pool",
                    QOp::MaxPool(Window::square(1, 1, 0)),
                    &[1],
                    y(7, 90),
                ),
                node("pad", pad, &[2], y(7, 90)),
                node("cut", QOp::Clamp, &[3], y(7, 80)),
                node("mean", QOp::GlobalAveragePool, &[4], y(0, 255)),
                node("flat", QOp::Flatten, &[5], y(0, 255)),
                node("head", head, &[6], None),
            ],
            params: Params::new(),
            outputs: vec![Output {
                node: 7,
                labels: vec!["a".to_owned()],
            }],
            input: InputSpec {
                shape: [1, 2, 2],
                mean: vec![0.0],
                std: vec![1.0],
                preparation: opt_core::Preparation::usual([1, 2, 2]),
            },
        }
    };
    let bytes = write_qmodel(&old, &Provenance::new()).unwrap();
    let then = resealed(&bytes, |c| {
        for (key, text) in VERSION_2 {
            c.metadata.insert(key.to_owned(), text.to_owned());
        }
    });
    assert_eq!(read_qmodel(&then).unwrap(), old);
    // Such limits are no part of a newer file.
    let graph = |c: &mut Container<'_>, from: &str, to: &str| {
        let text = c.metadata["graph"].replace(from, to);
        c.metadata.insert("graph".to_owned(), text);
    };
    let both = resealed(&bytes, |c| {
        graph(c, r#"{"k":[1,1]}}}"#, r#"{"k":[1,1]},"lo":7}}"#);
    });
    let message = read_qmodel(&both).unwrap_err().to_string();
    assert!(
        message.contains("`conv`: limits of its codes at the operator"),
        "{message}"
    );
    let none = resealed(&bytes, |c| {
        graph(c, r#","outputs":[{"node":7,"labels":["a"]}]"#, "");
    });
    let message = read_qmodel(&none).unwrap_err().to_string();
    assert!(message.contains("no `outputs`"), "{message}");
}
