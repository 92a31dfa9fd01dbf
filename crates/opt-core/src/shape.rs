//! Shape inference: the shape of every node's value, without the batch axis.

use crate::op::{Op, Window};
use crate::{CoreError, Model, Params, Result};

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
/// [`CoreError::Graph`], [`CoreError::Shape`], [`CoreError::ParamShape`] or [`CoreError::MissingParam`] for the first node
/// that does not fit.
pub fn infer_shapes(model: &Model) -> Result<Vec<Vec<usize>>> {
    let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(model.graph.nodes.len());
    for node in &model.graph.nodes {
        let input = |&i: &usize| match shapes.get(i) {
            Some(shape) => Ok(shape.as_slice()),
            None => Err(CoreError::Graph {
                node: node.name.clone(),
                problem: format!("it reads node {i}, expected one before it"),
            }),
        };
        let inputs: Vec<&[usize]> = node.inputs.iter().map(input).collect::<Result<_>>()?;
        let shape = match &node.op {
            Op::Input => model.input.shape.to_vec(),
            op => infer_node(&model.params, &node.name, op, &inputs)?,
        };
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

/// The shape of what an operator gives for operands of these shapes. [`Op::Input`] has none.
pub(crate) fn infer_node(
    params: &Params,
    name: &str,
    op: &Op,
    inputs: &[&[usize]],
) -> Result<Vec<usize>> {
    let first: &[usize] = inputs.first().copied().unwrap_or(&[]);
    let misfit = |expected: String| CoreError::Shape {
        node: name.to_owned(),
        op: op.name(),
        input: first.to_vec(),
        expected,
    };
    let find = |param: &str| param_shape(params, name, param);
    match op {
        Op::Input => Err(misfit("an input has no operands".to_owned())),
        Op::Conv {
            weight,
            bias,
            window,
            group,
        } => {
            let found = find(weight)?;
            let out = found.first().copied().unwrap_or(0);
            let per_group = grouped(first, out, *group).map_err(misfit)?;
            let [kh, kw] = window.kernel;
            check_shape(weight, &found, &[out, per_group, kh, kw])?;
            if let Some(bias) = bias {
                check_shape(bias, &find(bias)?, &[out])?;
            }
            windowed(window, first, out).map_err(misfit)
        }
        Op::Gemm { weight, bias } => {
            let [features] = first else {
                return Err(misfit("expected [F]; put a Flatten before it".to_owned()));
            };
            let found = find(weight)?;
            let out = found.first().copied().unwrap_or(0);
            check_shape(weight, &found, &[out, *features])?;
            if let Some(bias) = bias {
                check_shape(bias, &find(bias)?, &[out])?;
            }
            Ok(vec![out])
        }
        Op::BatchNormalization { .. } => {
            let channels = *first
                .first()
                .ok_or_else(|| misfit("expected [C, …]".to_owned()))?;
            for (param, _) in op.params() {
                check_shape(param, &find(param)?, &[channels])?;
            }
            Ok(first.to_vec())
        }
        Op::Unary(function) => match function.problem() {
            Some(problem) => Err(misfit(problem)),
            None => Ok(first.to_vec()),
        },
        Op::Binary(_) => equal(inputs).map_err(misfit),
        Op::MaxPool(window) | Op::AveragePool(window) => pooled(window, first).map_err(misfit),
        Op::GlobalAveragePool => Ok(vec![image(first).map_err(misfit)?[0], 1, 1]),
        Op::Flatten => Ok(vec![first.iter().product()]),
        Op::Slice { start, end, step } => sliced(first, start, end, step).map_err(misfit),
        Op::Pad { begin, end } => padded(first, begin, end).map_err(misfit),
    }
}

// The rules that float and integer operators share. Their errors say what does not fit; the callers add the node.

pub(crate) type Rule<T> = std::result::Result<T, String>;

/// Channels, rows and columns.
pub(crate) fn image(x: &[usize]) -> Rule<[usize; 3]> {
    x.try_into()
        .map_err(|_| format!("expected [C, H, W], found {x:?}"))
}

/// Input channels of a group.
pub(crate) fn grouped(x: &[usize], out: usize, group: usize) -> Rule<usize> {
    let [channels, ..] = image(x)?;
    if group == 0 || channels % group != 0 || !out.is_multiple_of(group) || out == 0 {
        return Err(format!(
            "{channels} input and {out} output channels do not split into {group} groups"
        ));
    }
    Ok(channels / group)
}

/// What a window gives that is put on every position where it fits.
pub(crate) fn windowed(window: &Window, x: &[usize], channels: usize) -> Rule<Vec<usize>> {
    let [_, h, w] = image(x)?;
    let [h, w] = window
        .output([h, w])
        .ok_or_else(|| format!("the window {window:?} does not fit once"))?;
    Ok(vec![channels, h, w])
}

/// What a pool gives. A window that lies in the padding alone would have no value.
pub(crate) fn pooled(window: &Window, x: &[usize]) -> Rule<Vec<usize>> {
    if (0..4).any(|i| window.pads[i] >= window.kernel[i % 2]) {
        return Err(format!(
            "padding {:?} reaches the kernel {:?}",
            window.pads, window.kernel
        ));
    }
    windowed(window, x, image(x)?[0])
}

/// Operands of one shape.
pub(crate) fn equal(inputs: &[&[usize]]) -> Rule<Vec<usize>> {
    match inputs {
        [a, b] if a == b => Ok(a.to_vec()),
        [_, b] => Err(format!("the other operand has {b:?}")),
        _ => Err(format!("{} operands, expected 2", inputs.len())),
    }
}

/// What a slice leaves.
pub(crate) fn sliced(
    x: &[usize],
    start: &[usize],
    end: &[usize],
    step: &[usize],
) -> Rule<Vec<usize>> {
    let inside = start.len() == x.len()
        && end.len() == x.len()
        && step.len() == x.len()
        && (0..x.len()).all(|i| step[i] > 0 && start[i] < end[i] && end[i] <= x[i]);
    if !inside {
        return Err(format!(
            "start {start:?}, end {end:?}, step {step:?} are not inside it"
        ));
    }
    Ok((0..x.len())
        .map(|i| (end[i] - start[i]).div_ceil(step[i]))
        .collect())
}

/// What padding makes.
pub(crate) fn padded(x: &[usize], begin: &[usize], end: &[usize]) -> Rule<Vec<usize>> {
    if begin.len() != x.len() || end.len() != x.len() {
        return Err(format!("padding {begin:?} and {end:?} has other axes"));
    }
    Ok((0..x.len())
        .map(|i| begin[i].saturating_add(x[i]).saturating_add(end[i]))
        .collect())
}

fn param_shape(params: &Params, node: &str, name: &str) -> Result<Vec<usize>> {
    let tensor = params.get(name).ok_or_else(|| CoreError::MissingParam {
        node: node.to_owned(),
        param: name.to_owned(),
    })?;
    Ok(tensor.shape().to_vec())
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
