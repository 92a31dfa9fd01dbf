//! What each layer of a variant is: one line of `layers.jsonl` per variant and seed.

use serde::{Deserialize, Serialize};

/// One line of `layers.jsonl`: the layers of one variant with one seed, as its file holds them.
///
/// As in `results.jsonl`, a line that repeats experiment, variant, model and seed replaces the earlier one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerLine {
    /// The experiment.
    pub experiment: String,
    /// The variant within the experiment.
    pub variant: String,
    /// The zoo name of the network.
    pub model: String,
    /// The seed.
    pub seed: u64,
    /// Conv, Gemm and BatchNormalization in graph order.
    pub layers: Vec<Layer>,
}

/// One layer of a variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Its name in the model file.
    pub name: String,
    /// The ONNX name of its operator.
    pub op: String,
    /// The shape of its weight, or of its scale: `[O, I, kH, kW]` of a Conv, `[O, I]` of a Gemm.
    pub weight_shape: Vec<usize>,
    /// The shape of its result for one image.
    pub output_shape: Vec<usize>,
    /// Trainable parameters.
    pub params: u64,
    /// Multiply-accumulates for one image, zeros included.
    pub macs: u64,
    /// The share of its weights that are zero, 0 to 1; 0 for a layer without weights.
    pub sparsity: f64,
    /// Bits of a stored weight; 32 for float.
    pub weight_bits: u32,
    /// Bits of a value that it reads; 32 for float.
    pub activation_bits: u32,
}
