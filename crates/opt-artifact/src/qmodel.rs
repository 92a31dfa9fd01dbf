//! Integer models: weight codes at their width, scales in f32, biases in i32.
//!
//! ```text
//! NODE.weight          I8  [O, I/group, kH, kW]    codes of 8 bits
//! NODE.weight_packed   U8  [bytes]                 codes of 2 to 7 bits plus 2^(bits-1) - 1, low bits first
//! NODE.weight_scale    F32 [O]
//! NODE.bias            I32 [O]
//! ```

use std::collections::BTreeSet;

use ndarray::{ArrayD, IxDyn};
use opt_core::op::Window;
use opt_core::{InputSpec, QModel, QOp, QWeight};
use safetensors::Dtype;

use crate::coded::{decode_codes, pack_codes, packing};
use crate::container::{Container, Kind, read, write};
use crate::error::tensor_error;
use crate::graph_json::{InputJson, PackingJson, QGraphJson, from_qgraph_json, to_qgraph_json};
use crate::limits::{check_input, check_window};
use crate::{Provenance, Result};

/// Writes an integer model.
///
/// # Errors
///
/// [`crate::ArtifactError::Core`] for an unsound model, [`crate::ArtifactError::Tensor`] for two nodes of one name.
pub fn write_qmodel(model: &QModel, provenance: &Provenance) -> Result<Vec<u8>> {
    check(model)?;
    let mut content = Container::new(Kind::QModel);
    let graph = to_qgraph_json(&model.nodes, |name, weight, bias| {
        store(&mut content, name, weight, bias)
    })?;
    content.set_json("graph", &graph)?;
    content.set_json("input", &InputJson(model.input.clone()))?;
    content.set_json("provenance", provenance)?;
    write(content)
}

/// Reads an integer model. What passes can be executed: it ends with [`QModel::validate`].
///
/// # Errors
///
/// Any [`crate::ArtifactError`] but those of paths: what was found and what was expected.
pub fn read_qmodel(bytes: &[u8]) -> Result<QModel> {
    let mut content = read(bytes)?;
    content.expect_kind(Kind::QModel)?;
    let graph: QGraphJson = content.json("graph")?;
    let input: InputSpec = content.json::<InputJson>("input")?.0;
    let nodes = from_qgraph_json(graph, |name, packing| fetch(&mut content, name, packing))?;
    content.expect_empty()?;
    let model = QModel { nodes, input };
    check(&model)?;
    Ok(model)
}

fn check(model: &QModel) -> Result<()> {
    check_input(&model.input)?;
    let mut names = BTreeSet::new();
    for node in &model.nodes {
        if !names.insert(node.name.as_str()) {
            return Err(tensor_error(&node.name, "two nodes have this name"));
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
) -> Result<Option<PackingJson>> {
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
        return Ok(None);
    }
    let offset = QWeight::code_limit(*bits);
    let shifted = codes
        .iter()
        .map(|code| code.wrapping_add(offset).cast_unsigned());
    let name = format!("{node}.weight_packed");
    let bytes = pack_codes(&name, shifted, *bits)?;
    content.insert(name, Dtype::U8, &[bytes.len()], bytes)?;
    Ok(Some(packing(*bits, codes.shape())))
}

fn fetch(
    content: &mut Container<'_>,
    node: &str,
    packing: Option<PackingJson>,
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
    let (name, bits, shape, codes) = match packing {
        None => {
            let name = format!("{node}.weight");
            let stored = content.take(&name, Dtype::I8)?;
            let codes: Vec<i8> = stored.bytes.iter().map(|b| b.cast_signed()).collect();
            (name, 8, stored.shape, codes)
        }
        Some(packing) => {
            let name = format!("{node}.weight_packed");
            let stored = content.take(&name, Dtype::U8)?;
            let offset = QWeight::code_limit(packing.bits);
            let codes = decode_codes(&name, &stored.bytes, &packing)?;
            let codes = codes
                .iter()
                .map(|code| code.cast_signed().wrapping_sub(offset));
            (name, packing.bits, packing.shape, codes.collect())
        }
    };
    let codes = ArrayD::from_shape_vec(IxDyn(&shape), codes)
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
