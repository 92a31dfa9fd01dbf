//! The integer reference interpreter: the meaning of a [`QModel`], code by code.

use crate::interpret::{map_indices, pool, taps};
use crate::op::Window;
use crate::qmodel::{QEdge, QModel, QOp, QWeight};
use crate::qparams::round_clamp_u8;
use crate::{CoreError, Result};

/// What a run leaves: the codes of every node and the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// The codes of every node, flat, in graph order; empty for the logits.
    pub codes: Vec<Vec<u8>>,
    /// One number per class.
    pub logits: Vec<f32>,
}

/// Runs one image of bytes (`[C, H, W]`) through `model`.
///
/// # Errors
///
/// Those of [`QModel::validate`], or [`CoreError::Length`] if `image` is not one image.
pub fn run(model: &QModel, image: &[u8]) -> Result<Trace> {
    let shapes = model.validate()?;
    let expected: usize = shapes[0].iter().product();
    if image.len() != expected {
        return Err(CoreError::Length {
            what: "one image".to_owned(),
            found: image.len(),
            expected,
        });
    }
    let mut codes: Vec<Vec<u8>> = Vec::with_capacity(shapes.len());
    let mut logits = Vec::new();
    let none = QEdge {
        scale: 1.0,
        zero_points: vec![0],
    };
    for (id, node) in model.nodes.iter().enumerate() {
        let source = |i: usize| -> (&[u8], &QEdge) {
            node.inputs.get(i).map_or((&[], &none), |&n| {
                let edge = model.nodes[n].edge.as_ref().unwrap_or(&none);
                (codes[n].as_slice(), edge)
            })
        };
        let ((x, x_edge), y_edge) = (source(0), node.edge.as_ref().unwrap_or(&none));
        let in_shape: &[usize] = node.inputs.first().map_or(&[], |&i| &shapes[i]);
        let out_shape = shapes[id].as_slice();
        let requantize = |f: f32, lo: u8, hi: u8| round_clamp_u8(f, y_edge.zero_points[0], lo, hi);
        let result: Vec<u8> = match &node.op {
            QOp::Input => image.to_vec(),
            QOp::Conv {
                weight,
                bias,
                window,
                group,
                lo,
                hi,
            } => {
                let acc = conv(x, x_edge, in_shape, out_shape, weight, bias, window, *group);
                let plane = out_shape[1] * out_shape[2];
                let (r, r_edge) = source(1);
                let r_scale = r_edge.scale / y_edge.scale;
                let finish = |(i, acc): (usize, &i32)| {
                    let m = x_edge.scale * weight.scales[i / plane] / y_edge.scale;
                    let mut f = *acc as f32 * m;
                    if let Some(&code) = r.get(i) {
                        f += (i32::from(code) - r_edge.zero(0)) as f32 * r_scale;
                    }
                    requantize(f, *lo, *hi)
                };
                acc.iter().enumerate().map(finish).collect()
            }
            QOp::Gemm {
                weight,
                bias,
                lo,
                hi,
            } => {
                let finish = |(o, acc): (usize, i32)| {
                    let m = x_edge.scale * weight.scales[o] / y_edge.scale;
                    requantize(acc as f32 * m, *lo, *hi)
                };
                let acc = gemm(x, x_edge, weight, bias);
                acc.into_iter().enumerate().map(finish).collect()
            }
            QOp::Logits { weight, bias } => {
                let acc = gemm(x, x_edge, weight, bias);
                let scaled = acc.iter().zip(&weight.scales);
                logits = scaled
                    .map(|(a, s)| *a as f32 * (x_edge.scale * s))
                    .collect();
                Vec::new()
            }
            QOp::Add { lo, hi } => {
                let (b, b_edge) = source(1);
                let scales = [x_edge.scale / y_edge.scale, b_edge.scale / y_edge.scale];
                let sum = |(a, b): (&u8, &u8)| {
                    let a = (i32::from(*a) - x_edge.zero(0)) as f32 * scales[0];
                    let b = (i32::from(*b) - b_edge.zero(0)) as f32 * scales[1];
                    requantize(a + b, *lo, *hi)
                };
                x.iter().zip(b).map(sum).collect()
            }
            QOp::MaxPool(window) => pool(in_shape, out_shape, window, |positions| {
                positions.map(|i| x[i]).max().unwrap_or(0)
            }),
            QOp::AveragePool(window) => pool(in_shape, out_shape, window, |positions| {
                let mut n = 0i32;
                let sum: i32 = positions
                    .inspect(|_| n += 1)
                    .map(|i| i32::from(x[i]) - x_edge.zero(0))
                    .sum();
                let m = x_edge.scale / (y_edge.scale * n as f32);
                requantize(sum as f32 * m, 0, 255)
            }),
            QOp::GlobalAveragePool => {
                let plane = in_shape[1] * in_shape[2];
                let m = x_edge.scale / (y_edge.scale * plane as f32);
                let mean = |p: &[u8]| {
                    let sum: i32 = p.iter().map(|q| i32::from(*q) - x_edge.zero(0)).sum();
                    requantize(sum as f32 * m, 0, 255)
                };
                x.chunks_exact(plane).map(mean).collect()
            }
            QOp::Flatten => x.to_vec(),
            QOp::Slice { start, step, .. } => {
                let from = |index: &[usize]| {
                    let at = |a: usize| start[a] + index[a] * step[a];
                    Some((0..index.len()).map(at).collect())
                };
                map_indices(out_shape, from, in_shape, x, 0)
            }
            QOp::Pad { begin, .. } => {
                let from = |index: &[usize]| {
                    let at = |a: usize| index[a].checked_sub(begin[a]).filter(|i| *i < in_shape[a]);
                    (0..index.len()).map(at).collect()
                };
                map_indices(out_shape, from, in_shape, x, x_edge.zero_points[0])
            }
            QOp::Clamp { lo, hi } => x.iter().map(|q| *q.clamp(lo, hi)).collect(),
        };
        codes.push(result);
    }
    Ok(Trace { codes, logits })
}

#[expect(
    clippy::too_many_arguments,
    reason = "a convolution has this many parts"
)]
fn conv(
    x: &[u8],
    edge: &QEdge,
    in_shape: &[usize],
    out_shape: &[usize],
    weight: &QWeight,
    bias: &[i32],
    window: &Window,
    group: usize,
) -> Vec<i32> {
    let per_group = in_shape[0] / group;
    let out_per_group = out_shape[0] / group;
    let in_plane = in_shape[1] * in_shape[2];
    let out_plane = out_shape[1] * out_shape[2];
    let centred: Vec<i32> = x
        .iter()
        .enumerate()
        .map(|(i, q)| i32::from(*q) - edge.zero(i / in_plane))
        .collect();
    // Which pixel each tap reads at each output position, the same for all channels.
    let mut reads: Vec<Vec<(usize, usize)>> = vec![Vec::with_capacity(out_plane); window.area()];
    for (position, (i, j)) in (0..out_shape[1])
        .flat_map(|i| (0..out_shape[2]).map(move |j| (i, j)))
        .enumerate()
    {
        for (tap, pixel) in taps(in_shape, window, i, j) {
            reads[tap].push((position, pixel));
        }
    }
    let mut acc = Vec::with_capacity(out_shape[0] * out_plane);
    for (o, b) in bias.iter().enumerate() {
        let filter = weight.filter(o);
        let first = o / out_per_group * per_group;
        let mut plane = vec![*b; out_plane];
        for c in 0..per_group {
            let channel = &centred[(first + c) * in_plane..][..in_plane];
            for (tap, reads) in reads.iter().enumerate() {
                let w = i32::from(filter[c * window.area() + tap]);
                if w != 0 {
                    for &(position, pixel) in reads {
                        plane[position] += w * channel[pixel];
                    }
                }
            }
        }
        acc.extend(plane);
    }
    acc
}

fn gemm(x: &[u8], edge: &QEdge, weight: &QWeight, bias: &[i32]) -> Vec<i32> {
    let row = |(o, b): (usize, &i32)| {
        let products = x.iter().zip(weight.filter(o));
        b + products
            .map(|(q, w)| (i32::from(*q) - edge.zero(0)) * i32::from(w))
            .sum::<i32>()
    };
    bias.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests;
