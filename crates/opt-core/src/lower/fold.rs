//! Makes a model of the same function that is ready for integers: no BatchNormalization, bytes as input.

use ndarray::Array;

use crate::op::Op;
use crate::rounding::to_f32;
use crate::{CoreError, Graph, InputSpec, Model, Node, NodeId, Output, Result};

/// Folds every BatchNormalization and the input's normalisation into the convolutions before and after them.
///
/// ```text
/// BatchNormalization:  W'[o] = W[o]·a[o]      b'[o] = (b[o] - mean[o])·a[o] + β[o]      a = γ/sqrt(var + ε)
/// image:               W'[o,c] = W[o,c]/(255·std[c])      b'[o] = b[o] + Σ W[o,c]·(z[c]/255 - mean[c])/std[c]
///                      z[c] = round_half_even(255·mean[c]),  x' = byte - z[c]
/// ```
///
/// A BatchNormalization may follow a MaxPool that follows the convolution if all its factors are positive (then they
/// commute). A ReLU or Clip after a MaxPool is moved before it, where it fuses. The result is the same function but
/// for one thing: zero padding of the image now stands for `z`, the mean rounded to a byte. A mean outside 0 to 1 has no such
/// byte: `z` is then the nearest one, which is exact where nothing is padded. Folding twice changes nothing.
///
/// # Errors
///
/// [`CoreError::Unsupported`] names a BatchNormalization that follows something else, an input that something else
/// than a Conv reads, or a Conv that pads an image whose mean is no byte.
pub fn fold(model: &Model) -> Result<Model> {
    let mut folded = fold_batch_norms(model)?;
    if !byte_input(&folded.input) {
        fold_input(&mut folded)?;
    }
    folded.validate()?;
    Ok(folded)
}

/// Whether `model` is as [`fold()`] leaves it.
#[must_use]
pub fn is_folded(model: &Model) -> bool {
    let plain = |op: &Op| !matches!(op, Op::BatchNormalization { .. });
    model.graph.nodes.iter().all(|n| plain(&n.op)) && byte_input(&model.input)
}

/// `round_half_even(255·mean)` as a byte.
pub(super) fn byte_mean(mean: f32) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a byte"
    )]
    let byte = (255.0 * mean).round_ties_even().clamp(0.0, 255.0) as u8;
    byte
}

fn byte_input(input: &InputSpec) -> bool {
    let integral = |m: &f32| *m == f32::from(byte_mean(*m)) / 255.0;
    input.std.iter().all(|s| *s == 1.0 / 255.0) && input.mean.iter().all(integral)
}

/// The first half of [`fold()`]: BatchNormalization into weights, activations before pools; the input stays as it is.
///
/// This is the form to train with fake quantization: with bytes as input the first layer's gradients would be some
/// thousand times too large for its weights.
///
/// # Errors
///
/// Those of [`fold()`] about BatchNormalization.
pub fn fold_batch_norms(model: &Model) -> Result<Model> {
    model.validate()?;
    refuse_shared_params(model)?;
    let old = &model.graph;
    let consumers = old.consumers();
    let alone = |id: NodeId| consumers[id].len() == 1 && !old.is_output(id);
    let mut new = Model {
        graph: Graph {
            nodes: Vec::with_capacity(old.nodes.len()),
            outputs: Vec::new(),
        },
        params: model.params.clone(),
        input: model.input.clone(),
    };
    let mut place: Vec<NodeId> = Vec::with_capacity(old.nodes.len());
    for (id, node) in old.nodes.iter().enumerate() {
        let inputs: Vec<NodeId> = node.inputs.iter().map(|&i| place[i]).collect();
        let at = match &node.op {
            Op::BatchNormalization { .. } => {
                let source = node.inputs[0];
                let through_pool = matches!(old.nodes[source].op, Op::MaxPool(_));
                let conv = if through_pool {
                    old.nodes[source].inputs[0]
                } else {
                    source
                };
                let linear = matches!(old.nodes[conv].op, Op::Conv { .. } | Op::Gemm { .. });
                if !linear || !alone(conv) || !alone(source) {
                    return Err(CoreError::Unsupported {
                        node: node.name.clone(),
                        op: node.op.name(),
                        why: "it must be the only reader of a Conv or Gemm to be folded".to_owned(),
                    });
                }
                let conv = place[conv];
                fold_one(&mut new, conv, id, model, through_pool)?;
                inputs[0]
            }
            Op::Unary(function)
                if function.bounds().is_some()
                    && matches!(new.graph.nodes[inputs[0]].op, Op::MaxPool(_))
                    && alone(node.inputs[0]) =>
            {
                let pool = inputs[0];
                let mut activation = node.clone();
                activation.inputs = new.graph.nodes[pool].inputs.clone();
                let mut pooled = std::mem::replace(&mut new.graph.nodes[pool], activation);
                pooled.inputs = vec![pool];
                new.graph.nodes.push(pooled);
                new.graph.nodes.len() - 1
            }
            Op::Input
            | Op::Conv { .. }
            | Op::Gemm { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::MaxPool(_)
            | Op::AveragePool(_)
            | Op::GlobalAveragePool
            | Op::Flatten
            | Op::Slice { .. }
            | Op::Pad { .. } => {
                let mut node = node.clone();
                node.inputs = inputs;
                new.graph.nodes.push(node);
                new.graph.nodes.len() - 1
            }
        };
        place.push(at);
    }
    let moved = |output: &Output| Output {
        node: place[output.node],
        labels: output.labels.clone(),
    };
    new.graph.outputs = old.outputs.iter().map(moved).collect();
    Ok(new)
}

/// Folding rewrites parameters in place, which is right only if one node reads each of them, and gives biases to nodes
/// that have none, under names that must be free.
fn refuse_shared_params(model: &Model) -> Result<()> {
    let mut readers = std::collections::BTreeMap::new();
    for param in model.param_refs() {
        let first = *readers.entry(param.name).or_insert(param.node);
        let node = &model.graph.nodes[param.node];
        if first != param.node {
            return Err(CoreError::Unsupported {
                node: node.name.clone(),
                op: node.op.name(),
                why: format!(
                    "it shares parameter `{}` with node `{}`; give each a copy",
                    param.name, model.graph.nodes[first].name
                ),
            });
        }
    }
    for node in &model.graph.nodes {
        if let Op::Conv { bias: None, .. } | Op::Gemm { bias: None, .. } = &node.op {
            let name = format!("{}.bias", node.name);
            if model.params.contains_key(&name) {
                return Err(CoreError::Unsupported {
                    node: node.name.clone(),
                    op: node.op.name(),
                    why: format!(
                        "its new bias would be `{name}`, which exists; rename that parameter"
                    ),
                });
            }
        }
    }
    Ok(())
}

/// Folds the BatchNormalization `norm` of `model` into node `conv` of `new`.
fn fold_one(
    new: &mut Model,
    conv: NodeId,
    norm: NodeId,
    model: &Model,
    through_pool: bool,
) -> Result<()> {
    let norm = &model.graph.nodes[norm];
    let Op::BatchNormalization {
        scale,
        bias,
        mean,
        var,
        epsilon,
        ..
    } = &norm.op
    else {
        return Ok(());
    };
    let channels = model.param(bias)?.len();
    let mut factors = Vec::with_capacity(channels);
    for c in 0..channels {
        let gamma = match scale {
            Some(name) => f64::from(model.param(name)?[c]),
            None => 1.0,
        };
        let deviation = (f64::from(model.param(var)?[c]) + f64::from(*epsilon)).sqrt();
        factors.push(gamma / deviation);
    }
    if through_pool && !factors.iter().all(|a| *a > 0.0) {
        return Err(CoreError::Unsupported {
            node: norm.name.clone(),
            op: norm.op.name(),
            why:
                "it follows a MaxPool and has a factor that is not positive; put it before the pool"
                    .to_owned(),
        });
    }
    if !factors.iter().all(|a| a.is_finite()) {
        return Err(CoreError::Unsupported {
            node: norm.name.clone(),
            op: norm.op.name(),
            why: "its running variance and epsilon give no finite factor".to_owned(),
        });
    }
    let shift: Vec<f64> = (0..channels)
        .map(|c| {
            Ok(f64::from(model.param(bias)?[c]) - f64::from(model.param(mean)?[c]) * factors[c])
        })
        .collect::<Result<_>>()?;
    for name in norm.op.params().into_iter().map(|(name, _)| name) {
        new.params.remove(name);
    }
    scale_filters(new, conv, &factors, &shift)
}

/// `W[o] ← W[o]·factor[o]`, `b[o] ← b[o]·factor[o] + shift[o]`, adding a bias where there is none.
fn scale_filters(model: &mut Model, conv: NodeId, factor: &[f64], shift: &[f64]) -> Result<()> {
    let (weight, bias) = {
        let node = &mut model.graph.nodes[conv];
        let name = format!("{}.bias", node.name);
        let (Op::Conv { weight, bias, .. } | Op::Gemm { weight, bias }) = &mut node.op else {
            return Ok(());
        };
        (weight.clone(), bias.get_or_insert(name).clone())
    };
    let mut weights = model.param(&weight)?.to_owned();
    for (mut filter, a) in weights.outer_iter_mut().zip(factor) {
        filter.mapv_inplace(|w| to_f32(f64::from(w) * a));
    }
    let old_bias = model.params.get(&bias);
    let biases = (0..shift.len()).map(|o| {
        let b = old_bias.map_or(0.0, |b| f64::from(b[o]));
        to_f32(b * factor[o] + shift[o])
    });
    let biases = Array::from_iter(biases).into_dyn().into_shared();
    model.params.insert(weight, weights.into_shared());
    model.params.insert(bias, biases);
    Ok(())
}

/// Per channel, what [`fold()`] multiplies the first layer's weights with, and what each weight adds to the bias.
///
/// ```text
/// 1/(255·std[c])        (z[c]/255 - mean[c])/std[c]
/// ```
#[must_use]
pub fn byte_input_terms(input: &InputSpec) -> (Vec<f64>, Vec<f64>) {
    let channels = input.mean.iter().zip(&input.std);
    channels
        .map(|(mean, std)| {
            let (byte, std64) = (f64::from(byte_mean(*mean)), f64::from(*std));
            let offset = (byte / 255.0 - f64::from(*mean)) / std64;
            (1.0 / (255.0 * std64), offset)
        })
        .unzip()
}

fn fold_input(model: &mut Model) -> Result<()> {
    let readers = model.graph.consumers().swap_remove(0);
    for id in readers {
        let node = &model.graph.nodes[id];
        let Op::Conv {
            weight,
            group: 1,
            window,
            ..
        } = &node.op
        else {
            return Err(CoreError::Unsupported {
                node: node.name.clone(),
                op: node.op.name(),
                why: "only an ungrouped Conv may read the image".to_owned(),
            });
        };
        if window.pads != [0; 4] {
            refuse_padding_without_a_byte(&model.input, node)?;
        }
        let weight = weight.clone();
        let mut scaled = model.param(&weight)?.to_owned();
        let mut shift = vec![0.0; scaled.shape()[0]];
        let (factors, offsets) = byte_input_terms(&model.input);
        for (index, w) in scaled.indexed_iter_mut() {
            let (o, c) = (index[0], index[1]);
            shift[o] += f64::from(*w) * offsets[c];
            *w = to_f32(f64::from(*w) * factors[c]);
        }
        model.params.insert(weight, scaled.into_shared());
        let ones = vec![1.0; shift.len()];
        scale_filters(model, id, &ones, &shift)?;
    }
    for mean in &mut model.input.mean {
        *mean = f32::from(byte_mean(*mean)) / 255.0;
    }
    model.input.std.fill(1.0 / 255.0);
    Ok(())
}

/// Padding is real zero, which is the image's mean: only a byte can stand for it.
fn refuse_padding_without_a_byte(input: &InputSpec, conv: &Node) -> Result<()> {
    let byte = |mean: &f32| (255.0 * mean).round_ties_even();
    let means = input.mean.iter().enumerate();
    match means
        .into_iter()
        .find(|(_, m)| !(0.0..=255.0).contains(&byte(m)))
    {
        None => Ok(()),
        Some((channel, mean)) => Err(CoreError::Unsupported {
            node: conv.name.clone(),
            op: conv.op.name(),
            why: format!(
                "it pads the image with zeros, and with the mean {mean} of channel {channel} a zero is the byte {}, \
                 which there is not; train with means from 0 to 1, or do not pad the first convolution",
                byte(mean)
            ),
        }),
    }
}
