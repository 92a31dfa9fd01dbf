//! Quantized models: weight codes at their width, scales in f32, biases in i32; what stays f32 with its parameters.
//!
//! ```text
//! NODE.weight          I8  [O, I/group, kH, kW]    codes of 8 bits
//! NODE.weight_packed   U8  [bytes]                 codes of 2 to 7 bits plus 2^(bits-1) - 1, low bits first
//! NODE.weight_scale    F32 [O]
//! NODE.bias            I32 [O]
//! NODE.table           U8  [256]                   the result of every code
//! PARAMETER            F32                         of an operator on f32 values
//! ```
//!
//! The metadata's `codec` names the coding of every weight under `NODE.weight`. With them a file may carry images and what
//! the network must answer to them: [`crate::golden`](mod@crate::golden).

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{ArrayD, IxDyn};
use opt_core::op::Window;
use opt_core::{Op, Params, QModel, QOp, QWeight};
use safetensors::Dtype;
use serde_json::Value;

use crate::coded::{Codes, decode_codes, pack_codes};
use crate::container::{Container, Kind, read, write};
use crate::error::tensor_error;
use crate::golden::{self, Golden};
use crate::graph_json::{Beside, QGraphJson, from_qgraph_json, to_qgraph_json};
use crate::limits::{check_input, check_window};
use crate::metadata_json::{CodingJson, InputJson, coding, input};
use crate::model::to_tensor;
use crate::{Provenance, Result};

/// Writes a quantized model.
///
/// # Errors
///
/// [`crate::ArtifactError::Core`] for an unsound model, [`crate::ArtifactError::Tensor`] for two nodes of one name or a
/// name that begins with `golden.`
pub fn write_qmodel(model: &QModel, provenance: &Provenance) -> Result<Vec<u8>> {
    write(content(model, provenance)?)
}

/// Writes a quantized model with images and what it answers to them, as [`golden()`](crate::golden::golden) computed it.
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
    golden::store(&mut content, model, golden)?;
    write(content)
}

fn content(model: &QModel, provenance: &Provenance) -> Result<Container<'static>> {
    check(model)?;
    let mut content = Container::new(Kind::QModel);
    let mut codec: BTreeMap<String, CodingJson> = BTreeMap::new();
    for node in &model.nodes {
        if let Some((weight, bias)) = node.op.weight() {
            let coding = store(&mut content, &node.name, weight, bias)?;
            codec.insert(format!("{}.weight", node.name), coding);
        } else if let QOp::Table { table, .. } = &node.op {
            let name = format!("{}.table", node.name);
            content.insert(name, Dtype::U8, &[table.len()], table.to_vec())?;
        }
    }
    for (name, tensor) in &model.params {
        let values: Vec<f32> = tensor.iter().copied().collect();
        content.insert_f32s(name.clone(), tensor.shape(), &values)?;
    }
    content.set_json("graph", &to_qgraph_json(&model.nodes, &model.outputs))?;
    content.set_json("input", &InputJson::from(&model.input))?;
    content.set_json("codec", &codec)?;
    content.set_json("provenance", provenance)?;
    Ok(content)
}

/// Reads a quantized model. What passes can be executed: it ends with [`QModel::validate`].
///
/// # Errors
///
/// Any [`crate::ArtifactError`] but those of paths: what was found and what was expected.
pub fn read_qmodel(bytes: &[u8]) -> Result<QModel> {
    Ok(read_qmodel_with_golden(bytes)?.0)
}

/// Reads a quantized model and, if the file has them, the images to check a program with. Nothing is computed: whoever runs
/// the model compares with [`Golden::check_logits`] and [`Golden::check_codes`].
///
/// # Errors
///
/// As [`read_qmodel`].
pub fn read_qmodel_with_golden(bytes: &[u8]) -> Result<(QModel, Option<Golden>)> {
    let mut content = read(bytes)?;
    content.expect_kind(Kind::QModel)?;
    let graph: QGraphJson = content.json("graph")?;
    let (input, old_labels) = input(&content)?;
    let codec: BTreeMap<String, Value> = match content.metadata.contains_key("codec") {
        true => content.json("codec")?,
        false => BTreeMap::new(),
    };
    let mut stored = StoredBeside {
        content: &mut content,
        codec,
    };
    let (nodes, outputs) = from_qgraph_json(graph, old_labels, &mut stored)?;
    if let Some(stray) = stored.codec.keys().next() {
        return Err(tensor_error(
            stray,
            "a coding for a weight that the graph does not have",
        ));
    }
    let mut params = Params::new();
    for node in &nodes {
        if let QOp::Float(op) = &node.op {
            for (name, _) in op.params() {
                if !params.contains_key(name) {
                    let stored = content.take(name, Dtype::F32)?;
                    let tensor = to_tensor(name, &stored.shape, stored.f32s())?;
                    params.insert(name.to_owned(), tensor);
                }
            }
        }
    }
    let model = QModel {
        nodes,
        params,
        outputs,
        input,
    };
    check(&model)?;
    let golden = golden::fetch(&mut content, &model)?;
    content.expect_empty()?;
    Ok((model, golden))
}

/// Tensors of the file that belong to nodes.
struct StoredBeside<'a, 'b> {
    content: &'a mut Container<'b>,
    codec: BTreeMap<String, Value>,
}

impl Beside for StoredBeside<'_, '_> {
    fn weight(&mut self, node: &str) -> Result<(QWeight, Vec<i32>)> {
        let name = format!("{node}.weight");
        let coding = match self.codec.remove(&name) {
            Some(json) => coding(&name, json)?,
            None => CodingJson::Raw {},
        };
        fetch(self.content, node, coding)
    }

    fn table(&mut self, node: &str) -> Result<Box<[u8; 256]>> {
        let name = format!("{node}.table");
        let stored = self.content.take(&name, Dtype::U8)?;
        let table: [u8; 256] = stored.bytes.as_ref().try_into().map_err(|_| {
            tensor_error(&name, format!("shape {:?}, expected [256]", stored.shape))
        })?;
        Ok(Box::new(table))
    }
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
        let window: Option<&Window> = match &node.op {
            QOp::Conv { window, .. } | QOp::MaxPool(window) | QOp::AveragePool(window) => {
                Some(window)
            }
            QOp::Float(Op::Conv { window, .. } | Op::MaxPool(window) | Op::AveragePool(window)) => {
                Some(window)
            }
            QOp::Input
            | QOp::Gemm { .. }
            | QOp::Logits { .. }
            | QOp::Add
            | QOp::Table { .. }
            | QOp::GlobalAveragePool
            | QOp::Flatten
            | QOp::Slice { .. }
            | QOp::Pad { .. }
            | QOp::Clamp
            | QOp::Quantize
            | QOp::Dequantize
            | QOp::Float(
                Op::Input
                | Op::Gemm { .. }
                | Op::BatchNormalization { .. }
                | Op::Unary(_)
                | Op::Binary(_)
                | Op::GlobalAveragePool
                | Op::Flatten
                | Op::Slice { .. }
                | Op::Pad { .. },
            ) => None,
        };
        if let Some(window) = window {
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
