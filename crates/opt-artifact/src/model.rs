//! f32 models: parameters under their PyTorch names, some perhaps as integer codes.

use std::collections::BTreeMap;

use ndarray::{ArcArray, IxDyn};
use opt_core::{Model, Params, QuantizedTensor, Tensor};
use safetensors::Dtype;
use serde_json::Value;

use crate::coded::{decode, fetch, store};
use crate::container::{Container, Kind, read, write};
use crate::error::tensor_error;
use crate::graph_json::GraphJson;
use crate::limits::check_model;
use crate::metadata_json::{CodecJson, CodingJson, InputJson, input};
use crate::{Provenance, Result};

/// Writes a model with all parameters in f32.
///
/// # Errors
///
/// [`crate::ArtifactError::Core`] for an unsound model, [`crate::ArtifactError::Json`] for an infinite attribute.
pub fn write_model(model: &Model, provenance: &Provenance) -> Result<Vec<u8>> {
    write_model_with_codes(model, &BTreeMap::new(), provenance)
}

/// Writes a model with the parameters in `codes` as integers and all others in f32.
///
/// The codes stand for exactly the numbers in the model, so that what was measured is what ships.
///
/// # Errors
///
/// As [`write_model`], and [`crate::ArtifactError::Tensor`] for codes that belong to no parameter, do not fit their own
/// description or decode to other numbers than the model's.
pub fn write_model_with_codes(
    model: &Model,
    codes: &BTreeMap<String, QuantizedTensor>,
    provenance: &Provenance,
) -> Result<Vec<u8>> {
    check_model(model)?;
    if let Some(stray) = codes.keys().find(|name| !model.params.contains_key(*name)) {
        return Err(tensor_error(
            stray,
            "codes for a parameter that the model does not have",
        ));
    }
    let mut content = Container::new(Kind::Model);
    let mut codec: BTreeMap<&str, CodecJson<CodingJson>> = BTreeMap::new();
    for (name, tensor) in &model.params {
        match codes.get(name) {
            Some(coded) => {
                codec.insert(name, store(&mut content, name, coded, tensor)?);
            }
            None => {
                let values: Vec<f32> = tensor.iter().copied().collect();
                content.insert_f32s(name.clone(), tensor.shape(), &values)?;
            }
        }
    }
    content.set_json("graph", &GraphJson::from(&model.graph))?;
    content.set_json("input", &InputJson::from(&model.input))?;
    content.set_json("provenance", provenance)?;
    if !codec.is_empty() {
        content.set_json("codec", &codec)?;
    }
    write(content)
}

/// Reads a model; coded parameters are decoded as [`QuantizedTensor::decode`] says.
///
/// # Errors
///
/// Any [`crate::ArtifactError`] but those of paths: what was found and what was expected.
pub fn read_model(bytes: &[u8]) -> Result<Model> {
    let mut content = read(bytes)?;
    content.expect_kind(Kind::Model)?;
    let (input, old_labels) = input(&content)?;
    let graph = content.json::<GraphJson>("graph")?.graph(old_labels)?;
    let mut params = Params::new();
    if content.metadata.contains_key("codec") {
        for (name, codec) in content.json::<BTreeMap<String, CodecJson<Value>>>("codec")? {
            let coded = fetch(&mut content, &name, codec)?;
            params.insert(name.clone(), decode(&name, &coded)?.into_shared());
        }
    }
    for name in content.tensors.keys().cloned().collect::<Vec<_>>() {
        let stored = content.take(&name, Dtype::F32)?;
        let tensor = to_tensor(&name, &stored.shape, stored.f32s())?;
        if params.insert(name.clone(), tensor).is_some() {
            return Err(tensor_error(&name, "stored twice, as numbers and as codes"));
        }
    }
    let model = Model {
        graph,
        params,
        input,
    };
    check_model(&model)?;
    Ok(model)
}

/// A parameter of a model.
pub(crate) fn to_tensor(name: &str, shape: &[usize], values: Vec<f32>) -> Result<Tensor> {
    ArcArray::from_shape_vec(IxDyn(shape), values)
        .map_err(|e| tensor_error(name, format!("shape {shape:?}: {e}")))
}

#[cfg(test)]
mod tests;
