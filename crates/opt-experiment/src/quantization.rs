//! Joins calibration, quantizers and files: ranges from a data set, coded weights for the artifact.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use opt_core::lower::{Adds, QuantSpec, fold, observed_nodes};
use opt_core::{CodedTensor, Model};
use opt_nn::observe::observe;
use opt_nn::{Batch, Net, NnError};
use opt_quant::{MinMax, WeightBits, WeightMethod, min_max_spec, quantize_weight};

/// A folded model with the ranges that calibration saw.
#[derive(Debug, Clone)]
pub struct Calibrated {
    /// Ready for integers.
    pub folded: Model,
    /// The smallest and largest value of every node that is rounded, by name.
    pub ranges: BTreeMap<String, MinMax>,
}

/// Folds `model` and watches it on `images`.
///
/// # Errors
///
/// A model without an integer form, a value that is not finite (names the node).
pub fn calibrate(
    model: &Model,
    images: impl Iterator<Item = Batch>,
    device: tch::Device,
) -> Result<Calibrated> {
    let folded = fold(model)?;
    let nodes = observed_nodes(&folded)?;
    let net = Net::new(&folded, device)?;
    let mut ranges: BTreeMap<String, MinMax> = BTreeMap::new();
    observe(&net, images, &nodes, |node, values| {
        let name = folded.graph.nodes[node].name.clone();
        let range = ranges.entry(name.clone()).or_default();
        range.observe(values).map_err(|source| NnError::Method {
            what: format!("observing node `{name}`"),
            source: Box::new(source),
        })
    })
    .context("calibrating")?;
    Ok(Calibrated { folded, ranges })
}

impl Calibrated {
    /// Min-max scales and nearest codes, with additions of this kind.
    ///
    /// # Errors
    ///
    /// Those of the quantizers.
    pub fn spec(&self, adds: Adds, bits: WeightBits) -> Result<QuantSpec> {
        Ok(min_max_spec(&self.folded, adds, &self.ranges, bits)?)
    }

    /// The same calibration for weights that were trained on: `trained` is the network of the same graph, its
    /// BatchNormalization folded.
    ///
    /// # Errors
    ///
    /// Those of folding.
    pub fn with_weights(&self, trained: &Model) -> Result<Self> {
        Ok(Self {
            folded: fold(trained)?,
            ranges: self.ranges.clone(),
        })
    }
}

/// A model with some weights as codes.
#[derive(Debug, Clone)]
pub struct CodedModel {
    /// The model with the numbers that the codes stand for.
    pub model: Model,
    /// The codes, by parameter name.
    pub codes: BTreeMap<String, CodedTensor>,
}

/// Quantizes every Conv and Gemm weight by one method; biases and normalisation stay f32.
///
/// # Errors
///
/// Names the parameter.
pub fn code_weights(model: &Model, method: WeightMethod) -> Result<CodedModel> {
    let mut coded = CodedModel {
        model: model.clone(),
        codes: BTreeMap::new(),
    };
    for name in model.weight_names() {
        let weight = model.param(name)?;
        let quantized = quantize_weight(&weight.view(), &method)
            .with_context(|| format!("quantizing `{name}`"))?;
        let decoded = quantized.decode()?.into_shared();
        coded.model.params.insert(name.to_owned(), decoded);
        coded.codes.insert(name.to_owned(), quantized);
    }
    Ok(coded)
}
