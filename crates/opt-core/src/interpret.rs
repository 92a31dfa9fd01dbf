//! The f32 reference interpreter: what each operator computes, written to be read.

use crate::op::{Op, Window};
use crate::rounding::to_f32;
use crate::shape::infer_shapes;
use crate::{CoreError, Model, Params, Result};

/// Runs one normalised image (`[C, H, W]`) through `model` and returns the value of every node, flat, in graph order.
///
/// Sums are accumulated in f64 and rounded once, so that the result is the closest f32 to what the formula says. A NaN stays
/// one through every operator that reads it, ReLU, Clip and MaxPool too.
///
/// # Errors
///
/// Those of shape inference, or [`CoreError::Length`] if `image` is not one image.
pub fn run(model: &Model, image: &[f32]) -> Result<Vec<Vec<f32>>> {
    let shapes = infer_shapes(model)?;
    let expected: usize = model.input.shape.iter().product();
    if image.len() != expected {
        return Err(CoreError::Length {
            what: "one image".to_owned(),
            found: image.len(),
            expected,
        });
    }
    let mut values: Vec<Vec<f32>> = Vec::with_capacity(shapes.len());
    for (id, node) in model.graph.nodes.iter().enumerate() {
        let operands: Vec<Operand<'_>> = node
            .inputs
            .iter()
            .map(|&i| (values[i].as_slice(), shapes[i].as_slice()))
            .collect();
        let value = match &node.op {
            Op::Input => image.to_vec(),
            op => value(op, &model.params, &operands, &shapes[id]),
        };
        values.push(value);
    }
    Ok(values)
}

/// A value, flat, with its shape.
pub(crate) type Operand<'a> = (&'a [f32], &'a [usize]);

/// What an operator gives for operands that shape inference has accepted; [`Op::Input`] gives nothing.
pub(crate) fn value(
    op: &Op,
    params: &Params,
    operands: &[Operand<'_>],
    out_shape: &[usize],
) -> Vec<f32> {
    let (x, in_shape): Operand<'_> = operands.first().copied().unwrap_or((&[], &[]));
    let param = |name: &str| -> Vec<f32> { params[name].iter().copied().collect() };
    match op {
        Op::Input => Vec::new(),
        Op::Conv {
            weight,
            bias,
            window,
            group,
        } => conv(
            x,
            in_shape,
            out_shape,
            &param(weight),
            bias.as_deref().map(param).as_deref(),
            window,
            *group,
        ),
        Op::Gemm { weight, bias } => {
            let weight = param(weight);
            let bias = bias.as_deref().map(param);
            let row = |o: usize| {
                let products = x.iter().zip(&weight[o * x.len()..]);
                let sum: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                to_f32(sum + bias.as_ref().map_or(0.0, |b| f64::from(b[o])))
            };
            (0..out_shape[0]).map(row).collect()
        }
        Op::BatchNormalization {
            scale,
            bias,
            mean,
            var,
            epsilon,
            ..
        } => {
            let (bias, mean, var) = (param(bias), param(mean), param(var));
            let scale = scale.as_deref().map(param);
            let plane = x.len() / bias.len().max(1);
            let normalize = |(i, v): (usize, &f32)| {
                let c = i / plane;
                let gamma = scale.as_ref().map_or(1.0, |s| f64::from(s[c]));
                let deviation = (f64::from(var[c]) + f64::from(*epsilon)).sqrt();
                to_f32(
                    (f64::from(*v) - f64::from(mean[c])) / deviation * gamma + f64::from(bias[c]),
                )
            };
            x.iter().enumerate().map(normalize).collect()
        }
        Op::Unary(function) => x.iter().map(|v| function.apply(*v)).collect(),
        Op::Binary(function) => x
            .iter()
            .zip(operands[1].0)
            .map(|(a, b)| function.apply(*a, *b))
            .collect(),
        Op::MaxPool(window) => pool(in_shape, out_shape, window, |positions| {
            positions.map(|i| x[i]).fold(f32::NEG_INFINITY, larger)
        }),
        Op::AveragePool(window) => pool(in_shape, out_shape, window, |positions| {
            let (sum, n) = positions.fold((0.0, 0u32), |(s, n), i| (s + f64::from(x[i]), n + 1));
            to_f32(sum / f64::from(n))
        }),
        Op::GlobalAveragePool => {
            let plane = in_shape[1] * in_shape[2];
            x.chunks_exact(plane)
                .map(|p| to_f32(p.iter().copied().map(f64::from).sum::<f64>() / plane as f64))
                .collect()
        }
        Op::Flatten => x.to_vec(),
        Op::Slice { start, step, .. } => slice(x, in_shape, out_shape, start, step),
        Op::Pad { begin, .. } => pad(x, in_shape, out_shape, begin, 0.0),
    }
}

/// Every `step`-th element from `start`, along each axis.
pub(crate) fn slice<T: Copy>(
    x: &[T],
    in_shape: &[usize],
    out_shape: &[usize],
    start: &[usize],
    step: &[usize],
) -> Vec<T> {
    let from = |index: &[usize]| {
        let at = |a: usize| start[a] + index[a] * step[a];
        Some((0..index.len()).map(at).collect())
    };
    // Every index has a source: the fill is never used.
    x.first().map_or_else(Vec::new, |fill| {
        map_indices(out_shape, from, in_shape, x, *fill)
    })
}

/// `fill` before and after each axis.
pub(crate) fn pad<T: Copy>(
    x: &[T],
    in_shape: &[usize],
    out_shape: &[usize],
    begin: &[usize],
    fill: T,
) -> Vec<T> {
    let from = |index: &[usize]| {
        let at = |a: usize| index[a].checked_sub(begin[a]).filter(|i| *i < in_shape[a]);
        (0..index.len()).map(at).collect()
    };
    map_indices(out_shape, from, in_shape, x, fill)
}

/// The larger of two numbers; NaN if one of them is.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

fn conv(
    x: &[f32],
    in_shape: &[usize],
    out_shape: &[usize],
    weight: &[f32],
    bias: Option<&[f32]>,
    window: &Window,
    group: usize,
) -> Vec<f32> {
    let per_group = in_shape[0] / group;
    let out_per_group = out_shape[0] / group;
    let mut y = Vec::with_capacity(out_shape.iter().product());
    for o in 0..out_shape[0] {
        let first_channel = o / out_per_group * per_group;
        for i in 0..out_shape[1] {
            for j in 0..out_shape[2] {
                let mut sum = bias.map_or(0.0, |b| f64::from(b[o]));
                for c in 0..per_group {
                    for (tap, position) in taps(in_shape, window, i, j) {
                        let w = weight[(o * per_group + c) * window.area() + tap];
                        let v = x[(first_channel + c) * in_shape[1] * in_shape[2] + position];
                        sum += f64::from(w) * f64::from(v);
                    }
                }
                y.push(to_f32(sum));
            }
        }
    }
    y
}

/// The taps of a window at output position (`i`, `j`) that lie inside the image: (index in the kernel, index in the
/// plane).
pub(crate) fn taps(
    in_shape: &[usize],
    window: &Window,
    i: usize,
    j: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let (h, w) = (in_shape[1], in_shape[2]);
    let Window {
        kernel,
        stride,
        pads,
    } = *window;
    (0..kernel[0]).flat_map(move |u| {
        (0..kernel[1]).filter_map(move |v| {
            let row = (i * stride[0] + u).checked_sub(pads[0])?;
            let col = (j * stride[1] + v).checked_sub(pads[1])?;
            (row < h && col < w).then_some((u * kernel[1] + v, row * w + col))
        })
    })
}

/// Applies `reduce` to the flat indices under each window position.
pub(crate) fn pool<T>(
    in_shape: &[usize],
    out_shape: &[usize],
    window: &Window,
    reduce: impl Fn(&mut dyn Iterator<Item = usize>) -> T,
) -> Vec<T> {
    let mut y = Vec::with_capacity(out_shape.iter().product());
    for c in 0..out_shape[0] {
        let plane = c * in_shape[1] * in_shape[2];
        for i in 0..out_shape[1] {
            for j in 0..out_shape[2] {
                y.push(reduce(
                    &mut taps(in_shape, window, i, j).map(|(_, position)| plane + position),
                ));
            }
        }
    }
    y
}

/// Gathers: each output index names the input index that it copies, or none for the fill value.
fn map_indices<T: Copy>(
    out_shape: &[usize],
    source: impl Fn(&[usize]) -> Option<Vec<usize>>,
    in_shape: &[usize],
    x: &[T],
    fill: T,
) -> Vec<T> {
    ndarray::indices(out_shape)
        .into_iter()
        .map(|index| match source(ndarray::Dimension::slice(&index)) {
            Some(s) => x[s.iter().zip(in_shape).fold(0, |flat, (i, n)| flat * n + i)],
            None => fill,
        })
        .collect()
}

#[cfg(test)]
mod tests;
