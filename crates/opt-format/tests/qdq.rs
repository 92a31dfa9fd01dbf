//! ONNX Runtime's codes for the files that `write_qdq` writes, beside those of the integer interpreter.
//!
//! `golden/qdq.json` holds what ONNX Runtime computed and the checksums of the files that it was given; a file that has
//! changed since fails here, and `golden/qdq.py` says how to ask again.

#![expect(clippy::unwrap_used, reason = "a test may fail in its helpers too")]

#[path = "qdq/nets.rs"]
mod nets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nets::{IMAGES, Net, images, nets};
use opt_core::interpret_quantized;
use opt_format::onnx::{QdqOptions, padded_image, write_qdq};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What ONNX Runtime is given of a network: its files by name.
fn files(net: &Net) -> BTreeMap<String, Vec<u8>> {
    let plain = QdqOptions::default();
    let codes = QdqOptions {
        all_codes: true,
        ..plain
    };
    let padded = QdqOptions {
        padded_input: true,
        batch: Some(IMAGES),
        ..codes
    };
    let images = images(net);
    let mut files = BTreeMap::new();
    let mut write = |kind: &str, bytes: Vec<u8>| {
        files.insert(format!("{}.{kind}", net.name), bytes);
    };
    write("plain.onnx", write_qdq(&net.model, &plain).unwrap());
    write("edges.onnx", write_qdq(&net.model, &codes).unwrap());
    write("images", images.concat());
    if net.has_stem {
        write("padded.onnx", write_qdq(&net.model, &padded).unwrap());
        let pad = |image: &Vec<u8>| padded_image(&net.model, image).unwrap();
        write("padded.images", images.iter().flat_map(pad).collect());
    }
    files
}

#[test]
#[ignore = "writes the files that golden/qdq.py gives to ONNX Runtime"]
fn write_the_files_for_onnx_runtime() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qdq");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in nets().iter().flat_map(files) {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/qdq.json")).unwrap()
}

#[test]
fn onnx_runtime_was_given_these_files() {
    let golden = golden();
    let mut seen = 0;
    for (name, bytes) in nets().iter().flat_map(files) {
        let digest = Sha256::digest(&bytes);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(golden["sha256"][&name], digest, "{name}");
        seen += 1;
    }
    assert_eq!(golden["sha256"].as_object().unwrap().len(), seen);
}

/// Every code of five small networks, two images each: 19,150 in all, of which 11 differ, by one.
///
/// ONNX Runtime's means and additions add the zero point before they round, so that with an odd one they break ties the other
/// way: 7 means of `odd` are such ties, and 4 codes are those of other nodes that keep them. Convolutions, Gemms and logits
/// agree in every bit. In a deep network the convolutions behind an addition carry its differences on.
#[test]
fn onnx_runtime_computes_the_interpreters_codes() {
    let golden = golden();
    let (mut codes, mut different) = (0, Vec::new());
    for net in nets() {
        let runs: Vec<_> = images(&net)
            .iter()
            .map(|image| interpret_quantized::run(&net.model, image).unwrap())
            .collect();
        let theirs = &golden["nets"][net.name];
        for (id, node) in net.model.nodes.iter().enumerate().skip(1) {
            if node.activation.is_none() {
                continue;
            }
            let theirs = unhex(theirs["codes"][&node.name].as_str().unwrap());
            let ours: Vec<u8> = runs
                .iter()
                .flat_map(|r| r.values[id].codes())
                .copied()
                .collect();
            assert_eq!(theirs.len(), ours.len(), "{} {}", net.name, node.name);
            let distances = theirs.iter().zip(&ours).map(|(a, b)| a.abs_diff(*b));
            assert!(
                distances.clone().max() <= Some(1),
                "{} {}",
                net.name,
                node.name
            );
            let n = distances.filter(|distance| *distance > 0).count();
            if n > 0 {
                different.push((net.name, node.name.clone(), n));
            }
            codes += ours.len();
            spreads(net.name, &node.name, &ours);
        }
        let logits = theirs["logits"].as_array().unwrap().iter();
        let logits: Vec<f64> = logits.map(|x| x.as_f64().unwrap()).collect();
        // f32 numbers, exact as f64.
        let ours = runs.iter().flat_map(|run| &run.outputs);
        let ours: Vec<f64> = ours.map(|x| f64::from(*x)).collect();
        let exact = net.model.exact()[net.model.outputs[0].node];
        // Where f32 sums are in another order, the last bits are others.
        let near = |(a, b): (&f64, &f64)| a == b || !exact && (a - b).abs() < 1e-6;
        assert_eq!(logits.len(), ours.len(), "{}", net.name);
        assert!(
            logits.iter().zip(&ours).all(near),
            "{}: {logits:?} {ours:?}",
            net.name
        );
    }
    let n: usize = different.iter().map(|(.., n)| n).sum();
    assert!(1000 * n <= codes, "{n} of {codes}");
    let expected = [("avgpool", 7), ("slice", 2), ("flatten", 2)];
    assert_eq!(
        different,
        expected.map(|(node, n)| ("odd", node.to_owned(), n))
    );
    assert_eq!(codes, 19_150);
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Codes that are all at a limit would agree whatever was computed.
fn spreads(net: &str, node: &str, codes: &[u8]) {
    let different: BTreeSet<_> = codes.iter().collect();
    assert!(different.len() > 4, "{net} {node}: {}", different.len());
}

#[test]
fn onnx_runtime_runs_integer_kernels_alone() {
    let golden = golden();
    // The transposes are the way into channels-last and the way out; in so small a network the branch of Slice and Pad gets
    // its own.
    let expected = [
        (
            "residual",
            "Concat 1, Flatten 1, Pad 4, QGemm 1, QLinearAdd 2, QLinearConv 5, QLinearGlobalAveragePool 1, Slice 1, Split 1, Transpose 3",
        ),
        (
            "odd",
            "Clip 4, Flatten 1, NhwcMaxPool 1, Pad 1, QGemm 2, QLinearAveragePool 1, QLinearConv 3, Slice 1, Transpose 2",
        ),
        (
            "grouped_stem",
            "Concat 1, Flatten 1, Pad 3, QGemm 1, QLinearConv 1, QLinearGlobalAveragePool 1, Split 1, Transpose 2",
        ),
        (
            "pooled_image",
            "Flatten 1, MaxPool 1, QGemm 1, QLinearConv 1, Transpose 2",
        ),
    ];
    for (name, expected) in expected {
        let ops = golden["nets"][name]["optimised"].as_object().unwrap();
        let ops: Vec<String> = ops.iter().map(|(op, n)| format!("{op} {n}")).collect();
        assert_eq!(ops.join(", "), expected, "{name}");
    }
}
