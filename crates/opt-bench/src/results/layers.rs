//! What each layer of a variant is: one line of `layers.jsonl` per variant and seed.

use opt_core::{Cost, Model};
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

/// Lists the layers of `model`, whose cost is `cost`; `bits` says for the name of a weight how many bits it and the values
/// it is multiplied with have.
pub fn layers(model: &Model, cost: &Cost, bits: impl Fn(&str) -> (u32, u32)) -> Vec<Layer> {
    // Costs are listed for the nodes with parameters, in the order of the graph.
    let nodes = model.graph.nodes.iter().map(|node| node.op.params());
    let weights = nodes.filter_map(|params| params.first().map(|(name, _)| (*name).to_owned()));
    weights
        .zip(&cost.layers)
        .map(|(weight, layer)| {
            let (weight_bits, activation_bits) = bits(&weight);
            let zeros = layer.weights - layer.weights_nonzero;
            Layer {
                name: layer.name.clone(),
                op: layer.op.to_owned(),
                weight_shape: layer.weight_shape.clone(),
                output_shape: layer.output_shape.clone(),
                params: layer.params as u64,
                macs: layer.macs,
                sparsity: zeros as f64 / layer.weights.max(1) as f64,
                weight_bits,
                activation_bits,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use opt_core::cost::cost;
    use opt_core::{InputSpec, zoo};

    use super::*;

    #[test]
    fn layers_have_their_own_bits_and_zeros() {
        let mut model = zoo::build("source_net", &InputSpec::cifar10(), 0).unwrap();
        model.params.get_mut("conv2.weight").unwrap().fill(0.0);
        let bits = |weight: &str| match weight {
            "conv2.weight" => (4, 8),
            _ => (8, 8),
        };
        let cost = cost(&model).unwrap();
        let layers = layers(&model, &cost, bits);
        let of = |name: &str| layers.iter().find(|layer| layer.name == name).unwrap();
        let (first, second) = (of("conv1"), of("conv2"));
        assert_eq!((second.weight_bits, second.sparsity), (4, 1.0));
        assert_eq!((first.weight_bits, first.sparsity), (8, 0.0));
        assert_eq!(first.weight_shape, [64, 3, 3, 3]);
        assert_eq!(first.output_shape, [64, 32, 32]);
        assert_eq!(layers.iter().map(|l| l.macs).sum::<u64>(), cost.macs);
        assert_eq!(
            layers.iter().map(|l| l.params).sum::<u64>(),
            cost.params as u64
        );
    }
}
