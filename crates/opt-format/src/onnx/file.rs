//! The whole file around a graph: versions, labels, and what no reader would take.

use std::collections::BTreeSet;

use prost::Message;

use super::proto::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto};
use crate::{FormatError, Result};

/// The first version with every operator for u8 that is written here is 13; 17 came with the file format of 2022.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;
/// What every protobuf reader refuses.
const MAX_FILE: usize = (1 << 31) - 1;

/// The bytes of a file with this graph.
pub(in crate::onnx) fn file(graph: GraphProto, labels: &[String]) -> Result<Vec<u8>> {
    check_names(&graph)?;
    let labels = (!labels.is_empty()).then(|| StringStringEntryProto {
        key: "labels".to_owned(),
        value: serde_json::Value::from(labels.to_vec()).to_string(),
    });
    let file = ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: OPSET,
        }],
        producer_name: "opt-rs".to_owned(),
        graph: Some(graph),
        metadata_props: labels.into_iter().collect(),
        ..ModelProto::default()
    };
    let length = file.encoded_len();
    if length > MAX_FILE {
        let problem = format!("the file would have {length} bytes, protobuf readers take 2 GiB");
        return Err(refuse("the network", problem));
    }
    Ok(file.encode_to_vec())
}

/// Refuses runs of no image.
pub(in crate::onnx) fn check_batch(batch: Option<usize>) -> Result<()> {
    if batch == Some(0) {
        return Err(refuse("batch", "it is 0, expected at least 1 image"));
    }
    Ok(())
}

/// ONNX knows a tensor by its name alone, and an empty name as a tensor that is left out.
fn check_names(graph: &GraphProto) -> Result<()> {
    let written = graph.node.iter().flat_map(|n| &n.output);
    let constants = graph.initializer.iter().map(|t| &t.name);
    let fed = graph.input.iter().map(|v| &v.name);
    let mut seen = BTreeSet::new();
    for name in fed.chain(constants).chain(written) {
        if name.is_empty() {
            return Err(refuse(name, "a node has no name; name it"));
        }
        if !seen.insert(name) {
            let problem = "two tensors of the file would have this name; rename the node";
            return Err(refuse(name, problem));
        }
    }
    Ok(())
}

pub(in crate::onnx) fn refuse(node: &str, problem: impl Into<String>) -> FormatError {
    FormatError::Onnx {
        node: node.to_owned(),
        problem: problem.into(),
    }
}
