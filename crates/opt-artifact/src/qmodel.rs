//! Integer models: weight codes at their width, scales in f32, biases in i32.
//!
//! ```text
//! NODE.weight          I8  [O, I/group, kH, kW]    codes of 8 bits
//! NODE.weight_packed   U8  [bytes]                 codes of 2 to 7 bits plus 2^(bits-1) - 1, low bits first
//! NODE.weight_scale    F32 [O]
//! NODE.bias            I32 [O]
//! ```
//!
//! The metadata's `codec` names the coding of every weight under `NODE.weight`. With them a file may carry images and what
//! the network must answer to them: [`crate::golden`](mod@crate::golden).

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{ArrayD, IxDyn};
use opt_core::op::Window;
use opt_core::{QModel, QOp, QWeight};
use safetensors::Dtype;
use serde_json::Value;

use crate::coded::{Codes, decode_codes, pack_codes};
use crate::container::{Container, Kind, read, write};
use crate::error::tensor_error;
use crate::golden::{self, Golden};
use crate::graph_json::{QGraphJson, from_qgraph_json, to_qgraph_json};
use crate::limits::{check_input, check_window};
use crate::metadata_json::{CodingJson, InputJson, coding, input};
use crate::{Provenance, Result};

/// Writes an integer model.
///
/// # Errors
///
/// [`crate::ArtifactError::Core`] for an unsound model, [`crate::ArtifactError::Tensor`] for two nodes of one name or a
/// name that begins with `golden.`
pub fn write_qmodel(model: &QModel, provenance: &Provenance) -> Result<Vec<u8>> {
    write(content(model, provenance)?)
}

/// Writes an integer model with images and what it answers to them, as [`golden()`](crate::golden::golden) computed it.
///
/// # Errors
///
/// As [`write_qmodel`], and [`crate::ArtifactError::Tensor`] for numbers of bytes, logits and checksums that do not belong
/// together. The answers are not computed again.
pub fn write_qmodel_with_golden(
    model: &QModel,
    golden: &Golden,
    provenance: &Provenance,
) -> Result<Vec<u8>> {
    let mut content = content(model, provenance)?;
    golden::store(&mut content, &model.input, golden)?;
    write(content)
}

fn content(model: &QModel, provenance: &Provenance) -> Result<Container<'static>> {
    check(model)?;
    let mut content = Container::new(Kind::QModel);
    let mut codec: BTreeMap<String, CodingJson> = BTreeMap::new();
    let graph = to_qgraph_json(&model.nodes, |node, weight, bias| {
        let coding = store(&mut content, node, weight, bias)?;
        codec.insert(format!("{node}.weight"), coding);
        Ok(())
    })?;
    content.set_json("graph", &graph)?;
    content.set_json("input", &InputJson::from(&model.input))?;
    content.set_json("codec", &codec)?;
    content.set_json("provenance", provenance)?;
    Ok(content)
}

/// Reads an integer model. What passes can be executed: it ends with [`QModel::validate`].
///
/// # Errors
///
/// Any [`crate::ArtifactError`] but those of paths: what was found and what was expected.
pub fn read_qmodel(bytes: &[u8]) -> Result<QModel> {
    Ok(read_qmodel_with_golden(bytes)?.0)
}

/// Reads an integer model and, if the file has them, the images to check a program with. Nothing is computed: whoever runs
/// the model compares with [`Golden::check_logits`] and [`Golden::check_codes`].
///
/// # Errors
///
/// As [`read_qmodel`].
pub fn read_qmodel_with_golden(bytes: &[u8]) -> Result<(QModel, Option<Golden>)> {
    let mut content = read(bytes)?;
    content.expect_kind(Kind::QModel)?;
    let graph: QGraphJson = content.json("graph")?;
    let input = input(&content)?;
    let mut codec: BTreeMap<String, Value> = match content.metadata.contains_key("codec") {
        true => content.json("codec")?,
        false => BTreeMap::new(),
    };
    let nodes = from_qgraph_json(graph, |node| {
        let name = format!("{node}.weight");
        let coding = match codec.remove(&name) {
            Some(json) => coding(&name, json)?,
            None => CodingJson::Raw {},
        };
        fetch(&mut content, node, coding)
    })?;
    if let Some(stray) = codec.keys().next() {
        return Err(tensor_error(
            stray,
            "a coding for a weight that the graph does not have",
        ));
    }
    let model = QModel { nodes, input };
    check(&model)?;
    let golden = golden::fetch(&mut content, &model.input)?;
    content.expect_empty()?;
    Ok((model, golden))
}

fn check(model: &QModel) -> Result<()> {
    check_input(&model.input)?;
    let mut names = BTreeSet::new();
    for node in &model.nodes {
        if !names.insert(node.name.as_str()) {
            return Err(tensor_error(&node.name, "two nodes have this name"));
        }
        if node.name == "golden" || node.name.starts_with("golden.") {
            return Err(tensor_error(
                &node.name,
                "`golden` and what begins with `golden.` are names for the images that programs check themselves with; \
                 rename the node",
            ));
        }
        if let QOp::Conv { window, .. } | QOp::MaxPool(window) | QOp::AveragePool(window) = &node.op
        {
            let window: &Window = window;
            check_window(&node.name, window)?;
        }
    }
    model.validate()?;
    Ok(())
}

fn store(
    content: &mut Container<'_>,
    node: &str,
    weight: &QWeight,
    bias: &[i32],
) -> Result<CodingJson> {
    let QWeight {
        codes,
        scales,
        bits,
    } = weight;
    content.insert_f32s(format!("{node}.weight_scale"), &[scales.len()], scales)?;
    let bias_bytes = bias.iter().flat_map(|b| b.to_le_bytes()).collect();
    content.insert(
        format!("{node}.bias"),
        Dtype::I32,
        &[bias.len()],
        bias_bytes,
    )?;
    if *bits == 8 {
        let bytes = codes.iter().map(|code| code.cast_unsigned()).collect();
        content.insert(format!("{node}.weight"), Dtype::I8, codes.shape(), bytes)?;
        return Ok(CodingJson::Raw {});
    }
    let offset = QWeight::code_limit(*bits);
    let shifted = codes
        .iter()
        .map(|code| code.wrapping_add(offset).cast_unsigned());
    let name = format!("{node}.weight_packed");
    let bytes = pack_codes(&name, shifted, *bits)?;
    content.insert(name, Dtype::U8, &[bytes.len()], bytes)?;
    Ok(CodingJson::Packed {
        bits: *bits,
        shape: codes.shape().to_vec(),
    })
}

fn fetch(
    content: &mut Container<'_>,
    node: &str,
    coding: CodingJson,
) -> Result<(QWeight, Vec<i32>)> {
    let vector = |name: &str, shape: &[usize]| match shape {
        [_] => Ok(()),
        _ => Err(tensor_error(
            name,
            format!("shape {shape:?}, expected one axis"),
        )),
    };
    let scale_name = format!("{node}.weight_scale");
    let scales = content.take(&scale_name, Dtype::F32)?;
    vector(&scale_name, &scales.shape)?;
    let bias_name = format!("{node}.bias");
    let bias = content.take(&bias_name, Dtype::I32)?;
    vector(&bias_name, &bias.shape)?;
    let (suffix, dtype, offset) = match coding {
        CodingJson::Raw {} => ("weight", Dtype::I8, 0),
        CodingJson::Packed { bits, .. } => ("weight_packed", Dtype::U8, QWeight::code_limit(bits)),
    };
    let name = format!("{node}.{suffix}");
    let stored = content.take(&name, dtype)?;
    let Codes {
        values,
        shape,
        bits,
    } = decode_codes(&name, &stored, coding)?;
    let codes = values
        .iter()
        .map(|code| code.cast_signed().wrapping_sub(offset));
    let codes = ArrayD::from_shape_vec(IxDyn(&shape), codes.collect())
        .map_err(|e| tensor_error(&name, format!("shape {shape:?}: {e}")))?;
    let weight = QWeight {
        codes,
        scales: scales.f32s(),
        bits,
    };
    Ok((weight, bias.i32s()))
}

#[cfg(test)]
mod tests;
