//! Kernels in portable Rust: every operation, for every CPU. Other sets replace the ones that matter.
//!
//! They are `inline(always)` so that a set for a CPU can compile them once more with its instructions.

#![expect(
    clippy::inline_always,
    reason = "compiled again inside functions with target features"
)]

use std::ops::Range;

use opt_core::qparams::round_clamp_u8;

use crate::conv::{Conv, Panel, Products};
use crate::layout::{GROUP, LANES, Layout};

/// `clamp(round_half_even(f) + zero, lo, hi)`.
#[inline(always)]
pub(crate) fn to_code(f: f32, zero: u8, lo: u8, hi: u8) -> u8 {
    round_clamp_u8(f, zero, lo, hi)
}

/// The sums of the output channels of a panel's vector, for the pixel whose first tap is at `first`.
#[inline(always)]
fn sums(products: &Products, panel: &Panel, vector: usize, x: &[u8], first: usize) -> [i32; LANES] {
    let channel = panel.channel + vector * LANES;
    let mut acc = [0; LANES];
    acc.copy_from_slice(&products.bias[channel..channel + LANES]);
    let mut block = panel.block + vector;
    for run in &products.runs {
        let bytes = &x[first + panel.input + run.offset..][..run.steps * GROUP];
        for four in bytes.as_chunks::<GROUP>().0 {
            let [a, b, c, d] = four.map(i16::from);
            let weights = &products.blocks[block].0.as_chunks::<GROUP>().0[..LANES];
            for (acc, w) in acc.iter_mut().zip(weights) {
                let [e, f, g, h] = w.map(i16::from);
                // Pairs of 16-bit products, for which most CPUs have one instruction.
                let low = i32::from(a) * i32::from(e) + i32::from(b) * i32::from(f);
                let high = i32::from(c) * i32::from(g) + i32::from(d) * i32::from(h);
                *acc = acc.wrapping_add(low + high);
            }
            block += panel.vectors;
        }
    }
    acc
}

/// Rows of a convolution; `y` holds these rows.
pub(crate) fn conv(conv: &Conv, x: &[u8], residual: &[u8], y: &mut [u8], rows: Range<usize>) {
    for (row, line) in rows.zip(y.chunks_exact_mut(conv.out_row)) {
        for panel in &conv.products.panels {
            for pixel in 0..conv.out_width {
                let first = conv.origin + row * conv.row + pixel * conv.pixel;
                for vector in 0..panel.vectors {
                    let channel = panel.channel + vector * LANES;
                    let acc = sums(&conv.products, panel, vector, x, first);
                    let whole = vector + 1 < panel.vectors;
                    let lanes = if whole { LANES } else { panel.lanes };
                    let at = (conv.out_left + pixel) * conv.out_stride + channel;
                    for (lane, code) in line[at..at + lanes].iter_mut().enumerate() {
                        let mut f = acc[lane] as f32 * conv.requant.multipliers[channel + lane];
                        if let Some(r) = &conv.residual {
                            let at = r.origin + row * r.row + pixel * r.stride + channel + lane;
                            f += (i32::from(residual[at]) - r.zero) as f32 * r.scale;
                        }
                        let q = &conv.requant;
                        *code = to_code(f, q.zero, q.lo, q.hi);
                    }
                }
            }
        }
    }
}

/// The sums of a matrix times a vector, sixteen output channels at a time.
pub(crate) fn dense(
    products: &Products,
    x: &[u8],
    first: usize,
    mut finish: impl FnMut(usize, &[i32; LANES]),
) {
    for panel in &products.panels {
        for vector in 0..panel.vectors {
            let channel = panel.channel + vector * LANES;
            finish(channel, &sums(products, panel, vector, x, first));
        }
    }
}

/// The order of an image's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageOrder {
    /// Channels, height, width: planes, as data sets, files and the interpreter have them and `opt-image` makes them.
    #[default]
    Chw,
    /// Height, width, channels: as other programs decode image files.
    Hwc,
}

/// Rows of the image.
#[inline(always)]
pub(crate) fn input(
    layout: &Layout,
    order: ImageOrder,
    image: &[u8],
    y: &mut [u8],
    rows: Range<usize>,
) {
    let (channels, width, stride) = (layout.channels, layout.width, layout.stride);
    let left = layout.border[1] * stride;
    for (row, line) in rows.zip(y.chunks_exact_mut(layout.row())) {
        let line = &mut line[left..][..width * stride];
        match order {
            ImageOrder::Hwc => {
                let source = &image[row * width * channels..][..width * channels];
                for (to, from) in line
                    .chunks_exact_mut(stride)
                    .zip(source.chunks_exact(channels))
                {
                    to[..channels].copy_from_slice(from);
                }
            }
            ImageOrder::Chw if channels == 3 && stride == GROUP => {
                let plane = |c: usize| &image[(c * layout.height + row) * width..][..width];
                let planes = plane(0).iter().zip(plane(1)).zip(plane(2));
                for (to, ((r, g), b)) in line.as_chunks_mut::<GROUP>().0.iter_mut().zip(planes) {
                    *to = [*r, *g, *b, 0];
                }
            }
            ImageOrder::Chw => {
                for c in 0..channels {
                    let plane = &image[(c * layout.height + row) * width..][..width];
                    for (to, from) in line.chunks_exact_mut(stride).zip(plane) {
                        to[c] = *from;
                    }
                }
            }
        }
    }
}

/// Copies as many bytes as `to` has; whole vectors without a call.
#[inline(always)]
fn copy(to: &mut [u8], from: &[u8]) {
    let from = &from[..to.len()];
    if to.len().is_multiple_of(LANES) {
        let vectors = to.as_chunks_mut::<LANES>().0.iter_mut();
        for (to, from) in vectors.zip(from.as_chunks::<LANES>().0) {
            *to = *from;
        }
    } else {
        to.copy_from_slice(from);
    }
}

/// A value that is read beside its layout and its meaning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Operand<'a> {
    /// The channels of a pixel.
    #[inline(always)]
    pub(crate) fn pixel(&self, y: usize, x: usize) -> &'a [u8] {
        let layout = self.layout;
        let at = layout.origin() + y * layout.row() + x * layout.stride;
        &self.bytes[at..at + layout.channels]
    }
}

/// Calls `f` with each pixel of the rows that `y` holds: row, column, channels.
#[inline(always)]
pub(crate) fn pixels(
    layout: &Layout,
    y: &mut [u8],
    rows: Range<usize>,
    mut f: impl FnMut(usize, usize, &mut [u8]),
) {
    let left = layout.border[1] * layout.stride;
    for (row, line) in rows.zip(y.chunks_exact_mut(layout.row())) {
        let inner = &mut line[left..][..layout.width * layout.stride];
        for (column, pixel) in inner.chunks_exact_mut(layout.stride).enumerate() {
            f(row, column, &mut pixel[..layout.channels]);
        }
    }
}

/// How two values are added: each with its zero point and its scale over the sum's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sum {
    pub(crate) zeros: [i32; 2],
    pub(crate) scales: [f32; 2],
    pub(crate) zero: u8,
    pub(crate) lo: u8,
    pub(crate) hi: u8,
}

/// Rows of a sum of two values.
#[inline(always)]
pub(crate) fn add(
    sum: &Sum,
    layout: &Layout,
    a: Operand<'_>,
    b: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        let pairs = a.pixel(row, column).iter().zip(b.pixel(row, column));
        for (out, (a, b)) in out.iter_mut().zip(pairs) {
            let a = (i32::from(*a) - sum.zeros[0]) as f32 * sum.scales[0];
            let b = (i32::from(*b) - sum.zeros[1]) as f32 * sum.scales[1];
            *out = to_code(a + b, sum.zero, sum.lo, sum.hi);
        }
    });
}

/// The taps of a window that lie inside a tensor: rows and columns.
#[inline(always)]
pub(crate) fn taps(
    window: &opt_core::op::Window,
    layout: &Layout,
    row: usize,
    column: usize,
) -> [Range<usize>; 2] {
    let axis = |at: usize, i: usize, size: usize| {
        let start = at * window.stride[i];
        let from = start.saturating_sub(window.pads[i]);
        from..(start + window.kernel[i])
            .saturating_sub(window.pads[i])
            .min(size)
    };
    [axis(row, 0, layout.height), axis(column, 1, layout.width)]
}

/// Rows of maxima.
#[inline(always)]
pub(crate) fn max_pool(
    window: &opt_core::op::Window,
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        out.fill(0);
        let [ys, xs] = taps(window, a.layout, row, column);
        for y in ys {
            for x in xs.clone() {
                for (out, code) in out.iter_mut().zip(a.pixel(y, x)) {
                    *out = (*out).max(*code);
                }
            }
        }
    });
}

/// How a mean is rounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mean {
    pub(crate) x_zero: i32,
    pub(crate) x_scale: f32,
    pub(crate) y_scale: f32,
    pub(crate) zero: u8,
    pub(crate) lo: u8,
    pub(crate) hi: u8,
}

/// Rows of means; without a window, over everything.
#[inline(always)]
pub(crate) fn mean(
    mean: &Mean,
    window: Option<&opt_core::op::Window>,
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
        let n = ys.len() * xs.len();
        let m = mean.x_scale / (mean.y_scale * n as f32);
        let centre = mean.x_zero * i32::try_from(n).unwrap_or(i32::MAX);
        let mut first = 0;
        for out in out.chunks_mut(LANES) {
            let mut sums = [0i32; LANES];
            for y in ys.clone() {
                for x in xs.clone() {
                    // Whole vectors: what lies behind the last channel is summed for nothing.
                    let at = a.layout.origin() + y * a.layout.row() + x * a.layout.stride + first;
                    if let Some(codes) = a.bytes[at..].first_chunk::<LANES>() {
                        for (sum, code) in sums.iter_mut().zip(codes) {
                            *sum += i32::from(*code);
                        }
                    }
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = to_code((sum - centre) as f32 * m, mean.zero, mean.lo, mean.hi);
            }
            first += LANES;
        }
    });
}

/// Rows of a slice; starts and steps are of channels, rows and columns.
#[inline(always)]
pub(crate) fn slice(
    start: [usize; 3],
    step: [usize; 3],
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        let from = a.pixel(start[1] + row * step[1], start[2] + column * step[2]);
        if step[0] == 1 {
            copy(out, &from[start[0]..]);
        } else {
            let chosen = from[start[0]..].iter().step_by(step[0]);
            for (out, code) in out.iter_mut().zip(chosen) {
                *out = *code;
            }
        }
    });
}

/// Rows of a value with `zero` around it; `begin` counts channels, rows and columns.
#[inline(always)]
pub(crate) fn pad(
    begin: [usize; 3],
    zero: u8,
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        if out.len().is_multiple_of(LANES) {
            out.as_chunks_mut().0.fill([zero; LANES]);
        } else {
            out.fill(zero);
        }
        let at = |i: usize, begin: usize, size: usize| i.checked_sub(begin).filter(|i| *i < size);
        let from = at(row, begin[1], a.layout.height).zip(at(column, begin[2], a.layout.width));
        if let Some((y, x)) = from {
            let codes = a.pixel(y, x);
            copy(&mut out[begin[0]..begin[0] + codes.len()], codes);
        }
    });
}

/// Rows of a value within limits.
#[inline(always)]
pub(crate) fn clamp(
    lo: u8,
    hi: u8,
    layout: &Layout,
    a: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    pixels(layout, y, rows, |row, column, out| {
        for (out, code) in out.iter_mut().zip(a.pixel(row, column)) {
            *out = (*code).clamp(lo, hi);
        }
    });
}

/// A value as a vector, in the order channels, rows, columns.
#[inline(always)]
pub(crate) fn flatten(a: Operand<'_>, y: &mut [u8]) {
    y[..a.layout.channels * a.layout.height * a.layout.width]
        .copy_from_slice(&a.layout.codes(a.bytes));
}
