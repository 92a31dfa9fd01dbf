//! Integer models come back equal and compute the same logits.

use super::*;
use crate::tests::{quantized, resealed};
use opt_core::interpret_integer;
use opt_core::lower::Adds;

#[test]
fn zoo_nets_come_back_and_compute_the_same() {
    for name in ["resnet20", "resnet20_b", "airbench_8_8_8", "source_net"] {
        for (adds, bits) in [
            (Adds::Fused, 8),
            (Adds::Rounded, 8),
            (Adds::Fused, 4),
            (Adds::Fused, 3),
        ] {
            let model = quantized(name, adds, bits);
            let bytes = write_qmodel(&model, &Provenance::new()).unwrap();
            assert_eq!(bytes, write_qmodel(&model, &Provenance::new()).unwrap());
            let back = read_qmodel(&bytes).unwrap();
            assert_eq!(back, model, "{name} {adds:?} {bits}");
            if (adds, bits) != (Adds::Fused, 4) && name != "airbench_8_8_8" {
                continue;
            }
            let [c, h, w] = model.input.shape;
            let image: Vec<u8> = (0..c * h * w)
                .map(|i| (i * 37 % 251).to_le_bytes()[0])
                .collect();
            let expected = interpret_integer::run(&model, &image).unwrap();
            let found = interpret_integer::run(&back, &image).unwrap();
            assert_eq!(found.codes, expected.codes);
            let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(found.logits), bits(expected.logits));
        }
    }
}

#[test]
fn every_width_is_stored_at_its_size() {
    for bits in 2..=8 {
        let model = quantized("airbench_8_8_8", Adds::Fused, bits);
        let bytes = write_qmodel(&model, &Provenance::new()).unwrap();
        let (header, rest) = bytes.split_at(8);
        let header = usize::try_from(u64::from_le_bytes(header.try_into().unwrap())).unwrap();
        assert_eq!(rest.len() - header, model.payload_bytes(), "{bits}");
        assert_eq!(read_qmodel(&bytes).unwrap(), model);
    }
}

#[test]
fn every_weight_names_its_coding() {
    let mut model = quantized("airbench_8_8_8", Adds::Fused, 8);
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
    let model = quantized("resnet20", Adds::Fused, 8);
    let length = write_qmodel(&model, &Provenance::new()).unwrap().len();
    let overhead = length - model.payload_bytes();
    println!("resnet20 W8A8: {length} bytes, {overhead} of them header");
    // 60 tensors and 27 nodes; a change that doubles it should be noticed.
    assert!(overhead < 10_000, "{overhead} of {length}");
}

#[test]
fn two_nodes_of_one_name_are_refused() {
    let mut model = quantized("airbench_8_8_8", Adds::Fused, 8);
    model.nodes[2].name = model.nodes[1].name.clone();
    let error = write_qmodel(&model, &Provenance::new()).unwrap_err();
    assert!(
        error.to_string().contains("two nodes have this name"),
        "{error}"
    );
}

#[test]
fn unsound_models_are_not_written() {
    let mut model = quantized("airbench_8_8_8", Adds::Fused, 8);
    model.nodes[1].edge.as_mut().unwrap().scale = f32::NAN;
    let error = write_qmodel(&model, &Provenance::new()).unwrap_err();
    assert!(error.to_string().contains("its scale is NaN"), "{error}");
    let mut model = quantized("airbench_8_8_8", Adds::Fused, 8);
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
    let trace = interpret_integer::run(&model, &[9, 1, 1, 3]).unwrap();
    assert_eq!(trace.logits, [3.0, -2.0]);
    // What was done to images then: the usual, and no look at how a file is to be turned.
    let expected = opt_core::Preparation {
        orientation: opt_core::Orientation::Stored,
        cover: [2, 2],
    };
    assert_eq!(model.input.preparation, expected);
    // Written again it is of this version, says so itself, and means the same.
    let again = write_qmodel(&model, &Provenance::new()).unwrap();
    let text = String::from_utf8_lossy(&again);
    assert!(text.contains(r#""version":"2""#) && text.contains(r#"\"orientation\":\"stored\""#));
    assert_eq!(read_qmodel(&again).unwrap(), model);
    // The checksum is that of then.
    let mut damaged = version_1();
    *damaged.last_mut().unwrap() ^= 1;
    let message = read_qmodel(&damaged).unwrap_err().to_string();
    assert!(message.contains("the checksum does not match"), "{message}");
}
