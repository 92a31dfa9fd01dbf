//! Shape inference: the shape of every node's value, without the batch axis.

use crate::op::Op;
use crate::{CoreError, Model, Node, Result};

/// The most elements that one value of one image may have: larger ones come from broken files.
pub const MAX_ELEMENTS: usize = 1 << 28;

/// Whether a value of this shape has elements, and not too many.
pub(crate) fn fits(shape: &[usize]) -> bool {
    let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    elements.is_some_and(|n| (1..=MAX_ELEMENTS).contains(&n))
}

/// The shape of every node's value, in graph order: `[C, H, W]` or `[F]`.
///
/// # Errors
///
/// [`CoreError::Shape`], [`CoreError::ParamShape`] or [`CoreError::MissingParam`] for the first node that does not fit.
pub fn infer_shapes(model: &Model) -> Result<Vec<Vec<usize>>> {
    let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(model.graph.nodes.len());
    for node in &model.graph.nodes {
        let inputs: Vec<&[usize]> = node.inputs.iter().map(|&i| shapes[i].as_slice()).collect();
        let shape = infer_node(model, node, &inputs)?;
        if !fits(&shape) {
            return Err(CoreError::Graph {
                node: node.name.clone(),
                problem: format!("its shape is {shape:?}, expected 1 to {MAX_ELEMENTS} elements"),
            });
        }
        shapes.push(shape);
    }
    Ok(shapes)
}

fn infer_node(model: &Model, node: &Node, inputs: &[&[usize]]) -> Result<Vec<usize>> {
    let first: &[usize] = inputs.first().copied().unwrap_or(&[]);
    let misfit = |expected: String| CoreError::Shape {
        node: node.name.clone(),
        op: node.op.name(),
        input: first.to_vec(),
        expected,
    };
    let image = || -> Result<[usize; 3]> {
        first
            .try_into()
            .map_err(|_| misfit("expected [C, H, W]".to_owned()))
    };
    let windowed = |window: &crate::op::Window, channels: usize| -> Result<Vec<usize>> {
        let [_, h, w] = image()?;
        let [h, w] = window
            .output([h, w])
            .ok_or_else(|| misfit(format!("the window {window:?} does not fit once")))?;
        Ok(vec![channels, h, w])
    };
    match &node.op {
        Op::Input => Ok(model.input.shape.to_vec()),
        Op::Conv {
            weight,
            bias,
            window,
            group,
        } => {
            let [channels, ..] = image()?;
            let found = param_shape(model, node, weight)?;
            let out = found.first().copied().unwrap_or(0);
            if *group == 0 || channels % group != 0 || out % group != 0 || out == 0 {
                return Err(misfit(format!(
                    "{channels} input and {out} output channels do not split into {group} groups"
                )));
            }
            let [kh, kw] = window.kernel;
            check_shape(weight, &found, &[out, channels / group, kh, kw])?;
            check_bias(model, node, bias.as_deref(), out)?;
            windowed(window, out)
        }
        Op::Gemm { weight, bias } => {
            let [features] = first else {
                return Err(misfit("expected [F]; put a Flatten before it".to_owned()));
            };
            let found = param_shape(model, node, weight)?;
            let out = found.first().copied().unwrap_or(0);
            check_shape(weight, &found, &[out, *features])?;
            check_bias(model, node, bias.as_deref(), out)?;
            Ok(vec![out])
        }
        Op::BatchNormalization { .. } => {
            let channels = *first
                .first()
                .ok_or_else(|| misfit("expected [C, …]".to_owned()))?;
            for (name, _) in node.op.params() {
                check_shape(name, &param_shape(model, node, name)?, &[channels])?;
            }
            Ok(first.to_vec())
        }
        Op::Relu => Ok(first.to_vec()),
        Op::Clip { min, max } => {
            if min.partial_cmp(max) != Some(std::cmp::Ordering::Less) {
                return Err(misfit(format!("bounds {min} and {max} are not in order")));
            }
            Ok(first.to_vec())
        }
        Op::Add => {
            if inputs[0] != inputs[1] {
                return Err(misfit(format!("the other operand has {:?}", inputs[1])));
            }
            Ok(first.to_vec())
        }
        Op::MaxPool(window) | Op::AveragePool(window) => {
            // A window that lies in the padding alone would have no value.
            if (0..4).any(|i| window.pads[i] >= window.kernel[i % 2]) {
                return Err(misfit(format!(
                    "padding {:?} reaches the kernel {:?}",
                    window.pads, window.kernel
                )));
            }
            windowed(window, image()?[0])
        }
        Op::GlobalAveragePool => Ok(vec![image()?[0], 1, 1]),
        Op::Flatten => Ok(vec![first.iter().product()]),
        Op::Slice { start, end, step } => {
            let fits = start.len() == first.len()
                && end.len() == first.len()
                && step.len() == first.len()
                && (0..first.len()).all(|i| step[i] > 0 && start[i] < end[i] && end[i] <= first[i]);
            if !fits {
                return Err(misfit(format!(
                    "start {start:?}, end {end:?}, step {step:?} are not inside it"
                )));
            }
            Ok((0..first.len())
                .map(|i| (end[i] - start[i]).div_ceil(step[i]))
                .collect())
        }
        Op::Pad { begin, end } => {
            if begin.len() != first.len() || end.len() != first.len() {
                return Err(misfit(format!(
                    "padding {begin:?} and {end:?} has other axes"
                )));
            }
            Ok((0..first.len())
                .map(|i| begin[i].saturating_add(first[i]).saturating_add(end[i]))
                .collect())
        }
    }
}

fn param_shape(model: &Model, node: &Node, name: &str) -> Result<Vec<usize>> {
    let tensor = model
        .params
        .get(name)
        .ok_or_else(|| CoreError::MissingParam {
            node: node.name.clone(),
            param: name.to_owned(),
        })?;
    Ok(tensor.shape().to_vec())
}

fn check_bias(model: &Model, node: &Node, bias: Option<&str>, out: usize) -> Result<()> {
    match bias {
        Some(name) => check_shape(name, &param_shape(model, node, name)?, &[out]),
        None => Ok(()),
    }
}

fn check_shape(param: &str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(CoreError::ParamShape {
        param: param.to_owned(),
        found: found.to_vec(),
        expected: expected.to_vec(),
    })
}
