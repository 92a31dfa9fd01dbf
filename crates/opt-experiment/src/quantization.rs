//! Joins calibration, quantizers and files: ranges from a data set, coded weights for the artifact.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use opt_core::lower::{Adds, Placement, QuantSpec, fold, observed_nodes};
use opt_core::observe::{LookError, Observe, Observed};
use opt_core::{CodedTensor, Model};
use opt_nn::{Batch, Net};
use opt_quant::{MinMax, WeightBits, WeightMethod, min_max_spec, quantize_weight};

/// A folded model with the ranges that calibration saw.
#[derive(Debug, Clone)]
pub struct Calibrated {
    /// Ready for integers.
    pub folded: Model,
    /// The smallest and largest value of every node that is rounded, by name.
    pub ranges: BTreeMap<String, MinMax>,
    /// Nodes that stay f32, by name.
    pub float: BTreeSet<String>,
}

/// Folds `model` and watches it on `images`. Nodes of the names in `float` stay f32.
///
/// # Errors
///
/// A model without an integer form, a value that is not finite (names the node).
pub fn calibrate(
    model: &Model,
    images: impl Iterator<Item = Batch>,
    device: tch::Device,
    float: &BTreeSet<String>,
) -> Result<Calibrated> {
    let folded = fold(model)?;
    let nodes = observed_nodes(&folded, float)?;
    let net = Net::new(&folded, device)?;
    let mut ranges: BTreeMap<String, MinMax> = BTreeMap::new();
    let mut see = |seen: &Observed<'_>| -> Result<(), LookError> {
        let name = folded.graph.nodes[seen.node].name.clone();
        Ok(ranges.entry(name).or_default().observe(seen.values)?)
    };
    net.observe(&mut images.map(|batch| batch.images), &nodes, &mut see)
        .context("calibrating")?;
    Ok(Calibrated {
        folded,
        ranges,
        float: float.clone(),
    })
}

impl Calibrated {
    /// Min-max scales and nearest codes, with additions of this kind.
    ///
    /// # Errors
    ///
    /// Those of the quantizers.
    pub fn spec(&self, adds: Adds, bits: WeightBits) -> Result<QuantSpec> {
        let widths = bits.by_name(&self.folded).into();
        let placement = self.placement(adds);
        Ok(min_max_spec(
            &self.folded,
            &placement,
            &self.ranges,
            &widths,
        )?)
    }

    /// Which values are rounded, with additions of this kind.
    #[must_use]
    pub fn placement(&self, adds: Adds) -> Placement {
        Placement {
            adds,
            float: self.float.clone(),
        }
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
            float: self.float.clone(),
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
