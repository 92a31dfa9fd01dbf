//! Sizes that a graph from a file may ask for, checked before anything computes with them.

use opt_core::op::Window;
use opt_core::shape::infer_shapes;
use opt_core::{InputSpec, Model, Op, Preparation};

use crate::Result;
use crate::error::tensor_error;

/// The largest number in a window, and the largest number of elements of a value.
const LARGEST: usize = 1 << 28;

/// The most images to check programs with.
const MOST_GOLDEN: usize = 1024;

/// Refuses a number of images to check programs with that nothing needs; every length follows from it.
pub(crate) fn check_golden_count(count: usize) -> Result<()> {
    if (1..=MOST_GOLDEN).contains(&count) {
        return Ok(());
    }
    Err(tensor_error(
        "golden.images",
        format!("{count} images, expected 1 to {MOST_GOLDEN}"),
    ))
}

/// Refuses windows whose numbers could overflow in sums with each other.
pub(crate) fn check_window(node: &str, window: &Window) -> Result<()> {
    let Window {
        kernel,
        stride,
        pads,
    } = window;
    match kernel
        .iter()
        .chain(stride)
        .chain(pads)
        .find(|n| **n > LARGEST)
    {
        None => Ok(()),
        Some(n) => Err(tensor_error(
            node,
            format!("{n} in its window, expected at most {LARGEST}"),
        )),
    }
}

/// Refuses an input that no network can have.
pub(crate) fn check_input(input: &InputSpec) -> Result<()> {
    let InputSpec {
        shape,
        mean,
        std,
        preparation: Preparation {
            orientation: _,
            cover,
        },
    } = input;
    let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    if !elements.is_some_and(|n| (1..=LARGEST).contains(&n)) {
        return Err(tensor_error(
            "input",
            format!("shape {shape:?}, expected 1 to {LARGEST} elements"),
        ));
    }
    if cover[0] < shape[1]
        || cover[1] < shape[2]
        || cover.iter().any(|side| *side > Preparation::MAX_SIDE)
    {
        return Err(tensor_error(
            "input",
            format!(
                "images are resized to cover {cover:?}, expected {:?} at least and {} at most",
                &shape[1..],
                Preparation::MAX_SIDE
            ),
        ));
    }
    let sound = mean.len() == shape[0]
        && std.len() == shape[0]
        && mean.iter().all(|m| m.is_finite())
        && std.iter().all(|s| s.is_finite() && *s > 0.0);
    if !sound {
        let expected = format!(
            "expected a finite mean and a positive deviation for {} channels",
            shape[0]
        );
        return Err(tensor_error(
            "input",
            format!("means {mean:?}, deviations {std:?}, {expected}"),
        ));
    }
    Ok(())
}

/// Validates a model from a file, whatever its numbers.
///
/// Shape inference adds and multiplies unchecked, so an upper bound of all its sums is checked first: no axis can become
/// longer than the longest there is plus all padding.
pub(crate) fn check_model(model: &Model) -> Result<()> {
    check_input(&model.input)?;
    let mut padding = 0usize;
    for node in &model.graph.nodes {
        let numbers: Vec<usize> = match &node.op {
            Op::Conv { window, .. } | Op::MaxPool(window) | Op::AveragePool(window) => {
                check_window(&node.name, window)?;
                window.pads.to_vec()
            }
            Op::Pad { begin, end } => [begin.as_slice(), end].concat(),
            Op::Input
            | Op::Gemm { .. }
            | Op::BatchNormalization { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::GlobalAveragePool
            | Op::Flatten
            | Op::Slice { .. } => Vec::new(),
        };
        padding = numbers.into_iter().fold(padding, usize::saturating_add);
    }
    let axis_0 = model.params.values().filter_map(|p| p.shape().first());
    let channels = axis_0.fold(model.input.shape[0], |n, d| n.max(*d));
    let side = model.input.shape[1].max(model.input.shape[2]);
    let bound = [channels, side, side]
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(d.checked_add(padding)?));
    if bound.is_none_or(|n| n > 1 << 48) {
        return Err(tensor_error(
            "graph",
            format!(
                "{padding} of padding in all on images of side {side} and {channels} channels is too much"
            ),
        ));
    }
    model.validate()?;
    for (node, shape) in model.graph.nodes.iter().zip(infer_shapes(model)?) {
        if shape.iter().product::<usize>() > LARGEST {
            return Err(tensor_error(
                &node.name,
                format!("its shape {shape:?} is over {LARGEST} elements"),
            ));
        }
    }
    Ok(())
}
