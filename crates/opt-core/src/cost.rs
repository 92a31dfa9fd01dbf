//! What a model needs: parameters, non-zeros, multiply-accumulates and bytes, per layer and in total.

use crate::op::ParamRole;
use crate::shape::infer_shapes;
use crate::{Model, Result};

/// The cost of one Conv, Gemm or BatchNormalization node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerCost {
    /// The node's name.
    pub name: String,
    /// The ONNX name of its operator.
    pub op: &'static str,
    /// The shape of its weight, or of its scale.
    pub weight_shape: Vec<usize>,
    /// The shape of its value, without the batch axis.
    pub output_shape: Vec<usize>,
    /// Trainable numbers.
    pub params: usize,
    /// Trainable numbers that are not zero.
    pub nonzero: usize,
    /// Numbers of the weight alone (what pruning works on).
    pub weights: usize,
    /// Numbers of the weight that are not zero.
    pub weights_nonzero: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Bytes of its parameters and statistics in f32.
    pub bytes: usize,
}

/// The cost of a model.
///
/// MACs count Conv and Gemm only: no bias, normalisation, activation or pooling. "FLOPs" in the literature are
/// either this number or twice it; this crate never uses the word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Layers in graph order.
    pub layers: Vec<LayerCost>,
    /// Trainable numbers, running statistics excluded.
    pub params: usize,
    /// Trainable numbers that are not zero.
    pub nonzero: usize,
    /// Numbers in Conv and Gemm weights.
    pub weights: usize,
    /// Of these, those that are not zero.
    pub weights_nonzero: usize,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Bytes of parameters and statistics in f32.
    pub bytes: usize,
}

/// Counts what `model` needs for one image.
///
/// ```text
/// Conv: O · I/group · kH · kW · H_out · W_out        Gemm: O · I
/// ```
///
/// # Errors
///
/// Those of shape inference.
pub fn cost(model: &Model) -> Result<Cost> {
    let shapes = infer_shapes(model)?;
    let mut layers = Vec::new();
    for (id, node) in model.graph.nodes.iter().enumerate() {
        let params = node.op.params();
        if params.is_empty() {
            continue;
        }
        let mut layer = LayerCost {
            name: node.name.clone(),
            op: node.op.name(),
            weight_shape: model.params[params[0].0].shape().to_vec(),
            output_shape: shapes[id].clone(),
            params: 0,
            nonzero: 0,
            weights: 0,
            weights_nonzero: 0,
            macs: 0,
            bytes: 0,
        };
        for (name, role) in params {
            let tensor = &model.params[name];
            let nonzero = tensor.iter().filter(|v| **v != 0.0).count();
            layer.bytes += 4 * tensor.len();
            if role.is_trainable() {
                layer.params += tensor.len();
                layer.nonzero += nonzero;
            }
            if role == ParamRole::Weight {
                layer.weights += tensor.len();
                layer.weights_nonzero += nonzero;
                // A convolution takes its weights at every position.
                let positions: usize = shapes[id].iter().skip(1).product();
                layer.macs += tensor.len() as u64 * positions as u64;
            }
        }
        layers.push(layer);
    }
    let sum = |f: fn(&LayerCost) -> usize| layers.iter().map(f).sum();
    Ok(Cost {
        params: sum(|l| l.params),
        nonzero: sum(|l| l.nonzero),
        weights: sum(|l| l.weights),
        weights_nonzero: sum(|l| l.weights_nonzero),
        macs: layers.iter().map(|l| l.macs).sum(),
        bytes: sum(|l| l.bytes),
        layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Task, zoo};

    #[test]
    fn counts_equal_the_published_ones() {
        struct Case {
            net: &'static str,
            macs: u64,
            weights: usize,
            params: usize,
        }
        let cases = [
            // Padding shortcuts.
            Case {
                net: "resnet20",
                macs: 40_551_040,
                weights: 268_336,
                params: 269_722,
            },
            // Convolution shortcuts.
            Case {
                net: "resnet20_b",
                macs: 40_813_184,
                weights: 270_896,
                params: 272_474,
            },
            Case {
                net: "resnet32",
                macs: 68_862_592,
                weights: 461_872,
                params: 464_154,
            },
            Case {
                net: "resnet32_b",
                macs: 69_124_736,
                weights: 464_432,
                params: 466_906,
            },
            Case {
                net: "resnet56",
                macs: 125_485_696,
                weights: 848_944,
                params: 853_018,
            },
            Case {
                net: "resnet56_b",
                macs: 125_747_840,
                weights: 851_504,
                params: 855_770,
            },
            // The source text's network: 64·3·9·1024 + 128·64·9·1024 + 10·8192.
            Case {
                net: "source_net",
                macs: 77_348_864,
                weights: 157_376,
                params: 157_578,
            },
        ];
        for case in cases {
            let model = zoo::build(case.net, &Task::cifar10(), 0).unwrap();
            model.validate().unwrap();
            let cost = cost(&model).unwrap();
            assert_eq!(
                (cost.macs, cost.weights, cost.params),
                (case.macs, case.weights, case.params),
                "{}",
                case.net
            );
        }
    }

    #[test]
    fn zeros_are_counted_where_they_are() {
        let mut model = zoo::build("source_net", &Task::cifar10(), 1).unwrap();
        let before = cost(&model).unwrap();
        let weight = model.params.get_mut("conv2.weight").unwrap();
        let old = weight[[0, 0, 0, 0]];
        assert_ne!(old, 0.0);
        weight[[0, 0, 0, 0]] = 0.0;
        let after = cost(&model).unwrap();
        assert_eq!(before.nonzero - after.nonzero, 1);
        assert_eq!(
            before.layers[1].weights_nonzero - after.layers[1].weights_nonzero,
            1
        );
        assert_eq!(before.bytes, after.bytes);
    }
}
