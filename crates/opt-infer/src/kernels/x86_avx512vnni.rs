//! Convolutions and matrix products for x86-64 with AVX-512 VNNI.
//!
//! A tile is up to eight pixels of a row times one or two vectors of 16 output channels: its sums stay in registers from the
//! bias to the byte that is stored. For each step, four input channels of each pixel are broadcast and meet one block of
//! weights per vector:
//!
//! ```text
//! vpdpbusd acc[pixel][vector], broadcast(x[pixel]), w[vector]       16 output channels × 4 input channels
//! ```
//!
//! Rounding is the interpreter's, operation by operation: convert, multiply, add the residual, limit, round half to even.
//! Limits come before rounding here; they are integers, so the order does not matter.

#![expect(
    unsafe_code,
    reason = "vector instructions and the pointers that they read"
)]

use std::arch::x86_64::*;
use std::ops::Range;

use opt_core::Activation;
use opt_core::op::{Binary, Unary, Window};

use super::float;
use super::portable::{self, Mean, Operand, Sum};
use crate::conv::{Conv, MAX_VECTORS, Panel, Products};
use crate::float::{Affine, FloatConv};
use crate::layout::{GROUP, LANES, Layout};

/// The most pixels in a tile.
const MAX_PIXELS: usize = 8;

/// Everything a tile reads and writes.
struct Tile<'a> {
    conv: &'a Conv,
    panel: &'a Panel,
    /// The first tap of the first pixel.
    x: *const u8,
    /// The first pixel's residual, at the panel's first channel.
    residual: *const u8,
    /// The first pixel's result, at the panel's first channel.
    y: *mut u8,
}

/// Rows of a convolution; `y` holds these rows.
///
/// # Panics
///
/// If a slice is too short for what the rows read and write, or on a CPU without the instructions.
pub(crate) fn conv(conv: &Conv, x: &[u8], residual: &[u8], y: &mut [u8], rows: Range<usize>) {
    assert!(super::Kernels::Avx512Vnni.available());
    let Some(last_row) = rows.len().checked_sub(1) else {
        return;
    };
    let last_pixel = conv.out_width - 1;
    let reads = conv.origin + (rows.end - 1) * conv.row + last_pixel * conv.pixel;
    assert!(reads + conv.products.reach <= x.len());
    let writes = last_row * conv.out_row + (conv.out_left + last_pixel) * conv.out_stride;
    assert!(writes + conv.products.written <= y.len());
    if let Some(r) = &conv.residual {
        let reads = r.origin + (rows.end - 1) * r.row + last_pixel * r.stride;
        assert!(reads + conv.products.read <= residual.len());
    }
    // SAFETY: the CPU has the instructions, and the last bytes that any tile touches are inside the slices. `Products::new`
    // makes as many blocks as the runs of its panels have steps, and pads biases and multipliers to whole vectors.
    unsafe { conv_rows(conv, x.as_ptr(), residual.as_ptr(), y.as_mut_ptr(), rows) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn conv_rows(
    conv: &Conv,
    x: *const u8,
    residual: *const u8,
    y: *mut u8,
    rows: Range<usize>,
) {
    // Tiles of nearly equal width: 17 pixels are 6 + 6 + 5.
    let tiles = conv.out_width.div_ceil(MAX_PIXELS);
    let (width, wider) = (conv.out_width / tiles, conv.out_width % tiles);
    let r = conv.residual.unwrap_or(crate::conv::Residual {
        scale: 0.0,
        zero: 0,
        origin: 0,
        row: 0,
        stride: 0,
    });
    for panel in &conv.products.panels {
        for row in rows.clone() {
            // SAFETY: see `conv`.
            let tile = |pixel: usize| unsafe {
                let reads = conv.origin + row * conv.row + pixel * conv.pixel + panel.input;
                let writes = (row - rows.start) * conv.out_row
                    + (conv.out_left + pixel) * conv.out_stride
                    + panel.channel;
                let added = r.origin + row * r.row + pixel * r.stride + panel.channel;
                Tile {
                    conv,
                    panel,
                    x: x.add(reads),
                    residual: residual.wrapping_add(added),
                    y: y.add(writes),
                }
            };
            let mut pixel = 0;
            for t in 0..tiles {
                let pixels = width + usize::from(t < wider);
                // SAFETY: as above, and `pixels` is 1 to 8.
                unsafe { any_tile(&tile(pixel), pixels) };
                pixel += pixels;
            }
        }
    }
}

/// Chooses the tile's code.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn any_tile(tile: &Tile<'_>, pixels: usize) {
    macro_rules! of_pixels {
        ($($n:literal)*) => {
            match (pixels, tile.panel.vectors) {
                // SAFETY: see `conv`.
                $(($n, 1) => unsafe { conv_tile::<$n, 1>(tile) },
                ($n, 2) => unsafe { conv_tile::<$n, 2>(tile) },)*
                _ => unreachable!("a tile of {pixels} pixels and {} vectors", tile.panel.vectors),
            }
        };
    }
    const { assert!(MAX_PIXELS == 8 && MAX_VECTORS == 2) };
    of_pixels!(8 7 6 5 4 3 2 1);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn conv_tile<const PIXELS: usize, const VECTORS: usize>(tile: &Tile<'_>) {
    let Tile { conv, panel, x, .. } = tile;
    let products = &conv.products;
    // SAFETY: see `conv`; a load of 16 lanes from any channel is inside the padded vectors.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); VECTORS]; PIXELS];
        for v in 0..VECTORS {
            let bias = products.bias.as_ptr().add(panel.channel + v * LANES);
            let bias = _mm512_loadu_si512(bias.cast());
            for acc in &mut acc {
                acc[v] = bias;
            }
        }
        let mut w = products.blocks.as_ptr().add(panel.block);
        for run in &products.runs {
            let mut x = x.add(run.offset);
            for _ in 0..run.steps {
                let mut weights = [_mm512_setzero_si512(); VECTORS];
                for (v, weight) in weights.iter_mut().enumerate() {
                    *weight = _mm512_load_si512(w.add(v).cast());
                }
                for (p, acc) in acc.iter_mut().enumerate() {
                    let four = x.add(p * conv.pixel).cast::<i32>().read_unaligned();
                    let four = _mm512_set1_epi32(four);
                    for (acc, weight) in acc.iter_mut().zip(weights) {
                        *acc = _mm512_dpbusd_epi32(*acc, four, weight);
                    }
                }
                x = x.add(GROUP);
                w = w.add(VECTORS);
            }
        }
        let q = &conv.requant;
        // After a ReLU every zero point is 0, and storing with saturation is the upper limit.
        let plain = (q.zero, q.lo, q.hi) == (0, 0, 255);
        match &conv.residual {
            None if plain => store::<PIXELS, VECTORS, false, true>(tile, acc),
            None => store::<PIXELS, VECTORS, false, false>(tile, acc),
            Some(r) if plain && r.zero == 0 => store::<PIXELS, VECTORS, true, true>(tile, acc),
            Some(_) => store::<PIXELS, VECTORS, true, false>(tile, acc),
        }
    }
}

/// From sums to bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn store<
    const PIXELS: usize,
    const VECTORS: usize,
    const RESIDUAL: bool,
    const PLAIN: bool,
>(
    tile: &Tile<'_>,
    acc: [[__m512i; VECTORS]; PIXELS],
) {
    let Tile { conv, panel, .. } = tile;
    let q = &conv.requant;
    let zero = i32::from(q.zero);
    let lo = _mm512_set1_ps((i32::from(q.lo) - zero) as f32);
    let hi = _mm512_set1_ps((i32::from(q.hi) - zero) as f32);
    let zero = _mm512_set1_epi32(zero);
    let (r_scale, r_zero, r_stride) = match &conv.residual {
        Some(r) => (r.scale, r.zero, r.stride),
        None => (0.0, 0, 0),
    };
    let r_scale = _mm512_set1_ps(r_scale);
    let r_zero = _mm512_set1_epi32(r_zero);
    let whole = panel.lanes == LANES;
    // SAFETY: see `conv`.
    unsafe {
        for v in 0..VECTORS {
            let m = q.multipliers.as_ptr().add(panel.channel + v * LANES);
            let m = _mm512_loadu_ps(m);
            for (p, acc) in acc.iter().enumerate() {
                let mut f = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[v]), m);
                if RESIDUAL {
                    let r = tile.residual.add(p * r_stride + v * LANES);
                    let r = _mm512_cvtepu8_epi32(_mm_loadu_si128(r.cast()));
                    let r = if PLAIN {
                        r
                    } else {
                        _mm512_sub_epi32(r, r_zero)
                    };
                    f = _mm512_add_ps(f, _mm512_mul_ps(_mm512_cvtepi32_ps(r), r_scale));
                }
                f = _mm512_max_ps(f, lo);
                let code = if PLAIN {
                    // What does not fit 32 bits becomes 2^31, which saturates too.
                    _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(f))
                } else {
                    let code = _mm512_cvtps_epi32(_mm512_min_ps(f, hi));
                    _mm512_cvtepi32_epi8(_mm512_add_epi32(code, zero))
                };
                let y = tile.y.add(p * conv.out_stride + v * LANES);
                if whole || v + 1 < VECTORS {
                    _mm_storeu_si128(y.cast(), code);
                } else {
                    let lanes = u16::MAX >> (LANES - panel.lanes);
                    _mm_mask_storeu_epi8(y.cast(), lanes, code);
                }
            }
        }
    }
}

/// The sums of a matrix times a vector, sixteen output channels at a time.
///
/// # Panics
///
/// If `x` is too short, or on a CPU without the instructions.
pub(crate) fn dense(
    products: &Products,
    x: &[u8],
    first: usize,
    mut finish: impl FnMut(usize, &[i32; LANES]),
) {
    assert!(super::Kernels::Avx512Vnni.available());
    assert!(first + products.reach <= x.len());
    // SAFETY: the CPU has the instructions and the last byte read is inside `x`; see `conv` for the products.
    unsafe {
        for panel in &products.panels {
            for vector in 0..panel.vectors {
                let channel = panel.channel + vector * LANES;
                let sums = dense_vector(products, panel, vector, x.as_ptr().add(first));
                finish(channel, &sums);
            }
        }
    }
}

/// Four chains of sums, since each instruction waits four cycles for the one before.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn dense_vector(
    products: &Products,
    panel: &Panel,
    vector: usize,
    x: *const u8,
) -> [i32; LANES] {
    const CHAINS: usize = 4;
    // SAFETY: see `dense`.
    unsafe {
        let bias = products.bias.as_ptr().add(panel.channel + vector * LANES);
        let mut acc = [_mm512_setzero_si512(); CHAINS];
        acc[0] = _mm512_loadu_si512(bias.cast());
        let mut w = products.blocks.as_ptr().wrapping_add(panel.block + vector);
        for run in &products.runs {
            let mut x = x.add(panel.input + run.offset);
            for _ in 0..run.steps / CHAINS {
                for (k, acc) in acc.iter_mut().enumerate() {
                    let four = x.add(k * GROUP).cast::<i32>().read_unaligned();
                    let weight = _mm512_load_si512(w.add(k * panel.vectors).cast());
                    *acc = _mm512_dpbusd_epi32(*acc, _mm512_set1_epi32(four), weight);
                }
                x = x.add(CHAINS * GROUP);
                w = w.wrapping_add(CHAINS * panel.vectors);
            }
            for _ in 0..run.steps % CHAINS {
                let four = x.cast::<i32>().read_unaligned();
                let weight = _mm512_load_si512(w.cast());
                acc[0] = _mm512_dpbusd_epi32(acc[0], _mm512_set1_epi32(four), weight);
                x = x.add(GROUP);
                w = w.wrapping_add(panel.vectors);
            }
        }
        let sum = _mm512_add_epi32(
            _mm512_add_epi32(acc[0], acc[1]),
            _mm512_add_epi32(acc[2], acc[3]),
        );
        let mut sums = [0; LANES];
        _mm512_storeu_si512(sums.as_mut_ptr().cast(), sum);
        sums
    }
}

/// Rows of a sum of two values.
///
/// # Panics
///
/// If a slice is too short for the rows, or on a CPU without the instructions.
pub(crate) fn add(
    sum: &Sum,
    layout: &Layout,
    a: Operand<'_>,
    b: Operand<'_>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    // Only the image is not padded to whole vectors.
    let whole = [a, b].iter().all(|x| x.layout.stride == layout.stride)
        && layout.stride.is_multiple_of(LANES);
    if !whole {
        return portable::add(sum, layout, a, b, y, rows);
    }
    assert!(super::Kernels::Avx512Vnni.available());
    let bytes = layout.width * layout.stride;
    let left = layout.border[1] * layout.stride;
    for (row, line) in rows.zip(y.chunks_exact_mut(layout.row())) {
        let [a, b] = [a, b].map(|x| {
            let first = x.layout.origin() + row * x.layout.row();
            &x.bytes[first..first + bytes]
        });
        // SAFETY: the CPU has the instructions.
        unsafe { add_row(sum, a, b, &mut line[left..left + bytes]) }
    }
}

/// As many codes as `y` has: whole vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add_row(sum: &Sum, a: &[u8], b: &[u8], y: &mut [u8]) {
    let zero = i32::from(sum.zero);
    let lo = _mm512_set1_ps((i32::from(sum.lo) - zero) as f32);
    let hi = _mm512_set1_ps((i32::from(sum.hi) - zero) as f32);
    let zero = _mm512_set1_epi32(zero);
    let zeros = sum.zeros.map(|z| _mm512_set1_epi32(z));
    let scales = sum.scales.map(|s| _mm512_set1_ps(s));
    let vectors = y.as_chunks_mut::<LANES>().0.iter_mut();
    let operands = a
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(b.as_chunks::<LANES>().0);
    for (y, (a, b)) in vectors.zip(operands) {
        let product = |codes: &[u8; LANES], i: usize| {
            // SAFETY: a vector of 16 bytes.
            let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
            let codes = _mm512_sub_epi32(_mm512_cvtepu8_epi32(codes), zeros[i]);
            _mm512_mul_ps(_mm512_cvtepi32_ps(codes), scales[i])
        };
        let f = _mm512_add_ps(product(a, 0), product(b, 1));
        let f = _mm512_min_ps(_mm512_max_ps(f, lo), hi);
        let code = _mm512_add_epi32(_mm512_cvtps_epi32(f), zero);
        // SAFETY: a vector of 16 bytes.
        unsafe { _mm_storeu_si128(y.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(code)) }
    }
}

/// Compiles a portable kernel again with this CPU's instructions.
macro_rules! again {
    ($(#[$doc:meta])* $module:ident $name:ident($($arg:ident: $type:ty),*)) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $type),*) {
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
            fn with_features($($arg: $type),*) {
                $module::$name($($arg),*);
            }
            assert!(super::Kernels::Avx512Vnni.available());
            // SAFETY: the CPU has the instructions.
            unsafe { with_features($($arg),*) }
        }
    };
}

again!(
    /// Rows of the image.
    portable input(layout: &Layout, order: portable::ImageOrder, image: &[u8], y: &mut [u8], rows: Range<usize>)
);
again!(
    /// Rows of maxima.
    portable max_pool(window: &Window, layout: &Layout, a: Operand<'_>, y: &mut [u8], rows: Range<usize>)
);
again!(
    /// Rows of means.
    portable mean(mean: &Mean, window: Option<&Window>, layout: &Layout, a: Operand<'_>, y: &mut [u8], rows: Range<usize>)
);
again!(
    /// Rows of a slice.
    portable slice(start: [usize; 3], step: [usize; 3], layout: &Layout, a: Operand<'_>, y: &mut [u8], rows: Range<usize>)
);
again!(
    /// Rows of a value with a border.
    portable pad(begin: [usize; 3], zero: u8, layout: &Layout, a: Operand<'_>, y: &mut [u8], rows: Range<usize>)
);
again!(
    /// Rows of a convolution of f32 values.
    float float_conv(conv: &FloatConv, layout: &Layout, a: Operand<'_>, y: &mut [u8], rows: Range<usize>)
);
again!(
    /// Rows of a function of each f32 value.
    float unary(function: Unary, layout: &Layout, a: Operand<'_>, y: &mut [u8], rows: Range<usize>)
);
again!(
    /// Rows of a function of two f32 values.
    float binary(function: Binary, layout: &Layout, a: Operand<'_>, b: Operand<'_>, y: &mut [u8], rows: Range<usize>)
);
again!(
    /// Rows of a BatchNormalization.
    float affine(affine: &Affine, layout: &Layout, a: Operand<'_>, y: &mut [u8], rows: Range<usize>)
);
again!(
    /// Rows of codes of f32 values.
    float quantize(codes: &Activation, layout: &Layout, a: Operand<'_>, y: &mut [u8], rows: Range<usize>)
);
again!(
    /// Rows of f32 values of codes.
    float dequantize(codes: &Activation, layout: &Layout, a: Operand<'_>, y: &mut [u8], rows: Range<usize>)
);
