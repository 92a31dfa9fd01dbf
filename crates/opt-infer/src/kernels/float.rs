//! Kernels for f32 values and for the ways between them and codes, in portable Rust.
//!
//! Their sums are in f32, in the order of the taps and input channels: near those of the interpreter, not equal to them.

#![expect(
    clippy::inline_always,
    reason = "compiled again inside functions with target features"
)]

use std::ops::Range;

use opt_core::Activation;
use opt_core::op::{Binary, Unary, Window};

use super::portable::{Operand, taps, to_code};
use crate::float::{Affine, FloatConv};
use crate::layout::Layout;

/// A number as it lies in memory.
type Bytes = [u8; 4];

/// Output channels that are summed together: so many accumulators stay in registers of 64 bytes.
const BLOCK: usize = 64;

#[inline(always)]
fn get(bytes: Bytes) -> f32 {
    f32::from_ne_bytes(bytes)
}

/// The numbers of a pixel.
#[inline(always)]
fn pixel<'a>(a: &Operand<'a>, y: usize, x: usize) -> &'a [Bytes] {
    let at = a.layout.origin() + y * a.layout.row() + x * a.layout.stride;
    a.bytes[at..at + 4 * a.layout.channels].as_chunks().0
}

/// Calls `f` with each pixel of the rows that `y` holds: row, column, numbers.
#[inline(always)]
fn pixels(
    layout: &Layout,
    y: &mut [u8],
    rows: Range<usize>,
    mut f: impl FnMut(usize, usize, &mut [Bytes]),
) {
    for (row, line) in rows.zip(y.chunks_exact_mut(layout.row())) {
        for (column, pixel) in line.chunks_exact_mut(layout.stride).enumerate() {
            f(row, column, pixel.as_chunks_mut().0);
        }
    }
}

/// Rows of a convolution.
#[inline(always)]
pub(crate) fn float_conv(
    conv: &FloatConv,
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    let [per_group, out_per_group] = conv.per_group;
    let window = &conv.window;
    pixels(layout, y, rows, |row, column, out| {
        let [ys, xs] = taps(window, a.layout, row, column);
        // The tap that the first position inside the tensor belongs to.
        let tap_at = |at: usize, output: usize, axis: usize| {
            at + window.pads[axis] - output * window.stride[axis]
        };
        for (first, out) in out
            .chunks_mut(out_per_group)
            .enumerate()
            .map(|(g, out)| (g * out_per_group, out))
        {
            let group = first / out_per_group;
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let channel = block * BLOCK;
                let mut acc = [0.0f32; BLOCK];
                let acc = &mut acc[..out.len()];
                acc.copy_from_slice(&conv.bias[first + channel..][..out.len()]);
                for y in ys.clone() {
                    for x in xs.clone() {
                        let tap = tap_at(y, row, 0) * window.kernel[1] + tap_at(x, column, 1);
                        let read = &pixel(&a, y, x)[group * per_group..][..per_group];
                        let begin = (group * window.area() + tap) * per_group * out_per_group;
                        let weights = &conv.weights[begin..][..per_group * out_per_group];
                        for (value, weights) in read.iter().zip(weights.chunks_exact(out_per_group))
                        {
                            let value = get(*value);
                            for (acc, w) in acc.iter_mut().zip(&weights[channel..]) {
                                *acc += value * w;
                            }
                        }
                    }
                }
                for (out, acc) in out.iter_mut().zip(acc) {
                    *out = acc.to_ne_bytes();
                }
            }
        }
    });
}

/// Rows of a function of each number.
#[inline(always)]
pub(crate) fn unary(
    function: Unary,
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        for (out, value) in out.iter_mut().zip(pixel(&a, row, column)) {
            *out = function.apply(get(*value)).to_ne_bytes();
        }
    });
}

/// Rows of a function of two numbers.
#[inline(always)]
pub(crate) fn binary(
    function: Binary,
    layout: &Layout,
    a: Operand<'_>,
    b: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        let pairs = pixel(&a, row, column).iter().zip(pixel(&b, row, column));
        for (out, (a, b)) in out.iter_mut().zip(pairs) {
            *out = function.apply(get(*a), get(*b)).to_ne_bytes();
        }
    });
}

/// Rows of a BatchNormalization.
#[inline(always)]
pub(crate) fn affine(
    affine: &Affine,
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        let terms = affine.factor.iter().zip(&affine.shift);
        for ((out, value), (factor, shift)) in out.iter_mut().zip(pixel(&a, row, column)).zip(terms)
        {
            *out = (get(*value) * factor + shift).to_ne_bytes();
        }
    });
}

/// The larger of two numbers; NaN if one of them is.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// Rows of maxima.
#[inline(always)]
pub(crate) fn float_max_pool(
    window: &Window,
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        out.fill(f32::NEG_INFINITY.to_ne_bytes());
        let [ys, xs] = taps(window, a.layout, row, column);
        for y in ys {
            for x in xs.clone() {
                for (out, value) in out.iter_mut().zip(pixel(&a, y, x)) {
                    *out = larger(get(*out), get(*value)).to_ne_bytes();
                }
            }
        }
    });
}

/// Rows of means; without a window, over everything.
#[inline(always)]
pub(crate) fn float_mean(
    window: Option<&Window>,
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        let [ys, xs] = match window {
            Some(window) => taps(window, a.layout, row, column),
            None => [0..a.layout.height, 0..a.layout.width],
        };
        let share = 1.0 / (ys.len() * xs.len()) as f64;
        for (channel, out) in out.iter_mut().enumerate() {
            let positions = ys.clone().flat_map(|y| xs.clone().map(move |x| (y, x)));
            let sum: f64 = positions
                .map(|(y, x)| f64::from(get(pixel(&a, y, x)[channel])))
                .sum();
            #[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
            let mean = (sum * share) as f32;
            *out = mean.to_ne_bytes();
        }
    });
}

/// Rows of a slice; starts and steps are of channels, rows and columns.
#[inline(always)]
pub(crate) fn float_slice(
    start: [usize; 3],
    step: [usize; 3],
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        let from = pixel(&a, start[1] + row * step[1], start[2] + column * step[2]);
        let chosen = from[start[0]..].iter().step_by(step[0]);
        for (out, value) in out.iter_mut().zip(chosen) {
            *out = *value;
        }
    });
}

/// Rows of a value with zeros around it; `begin` counts channels, rows and columns.
#[inline(always)]
pub(crate) fn float_pad(
    begin: [usize; 3],
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        out.fill(0.0f32.to_ne_bytes());
        let at = |i: usize, begin: usize, size: usize| i.checked_sub(begin).filter(|i| *i < size);
        let from = at(row, begin[1], a.layout.height).zip(at(column, begin[2], a.layout.width));
        if let Some((y, x)) = from {
            let values = pixel(&a, y, x);
            out[begin[0]..begin[0] + values.len()].copy_from_slice(values);
        }
    });
}

/// A value as a vector, in the order channels, rows, columns.
#[inline(always)]
pub(crate) fn float_flatten(a: Operand<'_>, y: &mut [u8]) {
    let positions = (0..a.layout.height).flat_map(|y| (0..a.layout.width).map(move |x| (y, x)));
    let positions: Vec<(usize, usize)> = positions.collect();
    let from = (0..a.layout.channels).flat_map(|c| positions.iter().map(move |(y, x)| (c, *y, *x)));
    for (out, (c, y, x)) in y.as_chunks_mut::<4>().0.iter_mut().zip(from) {
        *out = pixel(&a, y, x)[c];
    }
}

/// The numbers of a value, in the order channels, rows, columns.
pub(crate) fn numbers(a: Operand<'_>) -> Vec<f32> {
    let mut bytes = vec![0; 4 * a.layout.channels * a.layout.height * a.layout.width];
    float_flatten(a, &mut bytes);
    bytes.as_chunks().0.iter().map(|b| get(*b)).collect()
}

/// Rows of codes of f32 values.
#[inline(always)]
pub(crate) fn quantize(
    codes: &Activation,
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    let zero = codes.zero_points.first().copied().unwrap_or_default();
    super::portable::pixels(layout, y, rows, |row, column, out| {
        for (out, value) in out.iter_mut().zip(pixel(&a, row, column)) {
            *out = to_code(get(*value) / codes.scale, zero, codes.lo, codes.hi);
        }
    });
}

/// Rows of f32 values of codes.
#[inline(always)]
pub(crate) fn dequantize(
    codes: &Activation,
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        let from = a.pixel(row, column).iter().enumerate();
        for (out, (channel, code)) in out.iter_mut().zip(from) {
            let centred = i32::from(*code) - codes.zero(channel);
            *out = (centred as f32 * codes.scale).to_ne_bytes();
        }
    });
}

/// Rows of a function of each code.
#[inline(always)]
pub(crate) fn table(
    table: &[u8; 256],
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    super::portable::pixels(layout, y, rows, |row, column, out| {
        for (out, code) in out.iter_mut().zip(a.pixel(row, column)) {
            *out = table[usize::from(*code)];
        }
    });
}
