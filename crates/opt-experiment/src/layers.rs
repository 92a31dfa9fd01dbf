//! The layers of a variant, for `layers.jsonl`.

use opt_core::{Cost, Model};
use opt_report::Layer;

/// Lists the layers of `model`, whose cost is `cost`; `bits` says for the name of a weight how many bits it and the values
/// it is multiplied with have.
#[must_use]
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
    use opt_core::{Task, zoo};

    use super::*;

    #[test]
    fn layers_have_their_own_bits_and_zeros() {
        let mut model = zoo::build("source_net", &Task::cifar10(), 0).unwrap();
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
