//! Weights as codes, arithmetic in f32.

use std::collections::BTreeMap;

use opt_core::{Model, QuantizedTensor};
use opt_quant::{WeightMethod, quantize_weight};

use crate::{CompressError, Result};

/// A model with some weights as codes.
#[derive(Debug, Clone)]
pub struct QuantizedWeights {
    /// The model with the numbers that the codes stand for.
    pub model: Model,
    /// The codes, by parameter name.
    pub codes: BTreeMap<String, QuantizedTensor>,
}

/// Quantizes every Conv and Gemm weight by one method; biases and normalisation stay f32.
///
/// # Errors
///
/// Names the parameter.
pub fn quantize_weights(model: &Model, method: WeightMethod) -> Result<QuantizedWeights> {
    let mut coded = QuantizedWeights {
        model: model.clone(),
        codes: BTreeMap::new(),
    };
    for name in model.weight_names() {
        let weight = model.param(name)?;
        let quantized =
            quantize_weight(&weight.view(), &method).map_err(|source| CompressError::Weight {
                param: name.to_owned(),
                source,
            })?;
        let dequantized = quantized.dequantize()?.into_shared();
        coded.model.params.insert(name.to_owned(), dequantized);
        coded.codes.insert(name.to_owned(), quantized);
    }
    Ok(coded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::{Task, zoo};

    #[test]
    fn the_model_holds_what_its_codes_stand_for() {
        let model = zoo::build("source_net", &Task::cifar10(), 1).unwrap();
        let coded = quantize_weights(&model, WeightMethod::Affine { bits: 4 }).unwrap();
        let names: Vec<&str> = coded.codes.keys().map(String::as_str).collect();
        assert_eq!(names, ["conv1.weight", "conv2.weight", "fc.weight"]);
        for (name, codes) in &coded.codes {
            assert_eq!(
                coded.model.params[name],
                codes.dequantize().unwrap().into_shared()
            );
            assert_ne!(coded.model.params[name], model.params[name]);
        }
        assert_eq!(coded.model.params["fc.bias"], model.params["fc.bias"]);
    }

    #[test]
    fn a_weight_that_is_not_finite_is_named() {
        let mut model = zoo::build("source_net", &Task::cifar10(), 1).unwrap();
        let weight = model.params.get_mut("conv2.weight").unwrap();
        *weight = weight.mapv(|_| f32::NAN).into_shared();
        let error = quantize_weights(&model, WeightMethod::Affine { bits: 4 }).unwrap_err();
        assert_eq!(error.to_string(), "quantizing `conv2.weight`");
    }
}
