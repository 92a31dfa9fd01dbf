//! Runs the steps of a plan.

#![expect(unsafe_code, reason = "slices of the arena, see `Arena`")]

use std::ops::Range;

use crate::Kernels;
use crate::arena::Arena;
use crate::conv::Requant;
use crate::kernels::float;
use crate::kernels::portable::{self, ImageOrder, Operand, to_code};
#[cfg(target_arch = "x86_64")]
use crate::kernels::x86_avx512vnni;
use crate::layout::{LANES, Layout};
use crate::plan::{FloatWork, Plan, Step, ToCaller, Work};

/// Calls a kernel of the plan's set.
macro_rules! kernel {
    ($kernels:expr, $portable:ident::$name:ident($($arg:expr),*)) => {
        match $kernels {
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512Vnni => x86_avx512vnni::$name($($arg),*),
            #[cfg(not(target_arch = "x86_64"))]
            Kernels::Avx512Vnni => $portable::$name($($arg),*),
            Kernels::Scalar => $portable::$name($($arg),*),
        }
    };
}

/// A part of the rows of a step's result: all, or those of one thread of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) index: usize,
    pub(crate) of: usize,
}

impl Part {
    pub(crate) const WHOLE: Self = Self { index: 0, of: 1 };

    fn rows(self, height: usize) -> Range<usize> {
        height * self.index / self.of..height * (self.index + 1) / self.of
    }
}

/// Runs a part of one step.
///
/// # Safety
///
/// `arena` was made for `plan`, and its rules are kept: see [`Arena`].
pub(crate) unsafe fn run_step(
    plan: &Plan,
    step: &Step,
    arena: &Arena,
    (image, order): (&[u8], ImageOrder),
    outputs: &mut [f32],
    part: Part,
) {
    let kernels = plan.kernels;
    let height = step.target.map_or(1, |t| plan.places[t].layout.height);
    let rows = part.rows(height);
    if rows.is_empty() {
        return;
    }
    let source = |i: usize| -> Operand<'_> {
        let place = &plan.places[step.sources[i]];
        Operand {
            layout: &place.layout,
            // SAFETY: a source is not written in this step.
            bytes: unsafe { arena.read(place) },
        }
    };
    let Some(target) = step.target else {
        if let Work::ToCaller(what) = &step.work {
            hand_over(kernels, what, source(0), outputs);
        }
        return;
    };
    let place = &plan.places[target];
    let layout = &place.layout;
    // SAFETY: the rows are this part's alone.
    let y = unsafe { arena.write(place, &rows) };
    match &step.work {
        Work::Input => kernel!(kernels, portable::input(layout, order, image, y, rows)),
        Work::Conv(conv) => {
            let residual = conv.residual.map_or(&[][..], |_| source(1).bytes);
            kernel!(
                kernels,
                portable::conv(conv, source(0).bytes, residual, y, rows)
            );
        }
        Work::Gemm {
            products,
            origin,
            requant,
        } => {
            let finish = to_codes(requant, y);
            kernel!(
                kernels,
                portable::dense(products, source(0).bytes, *origin, finish)
            );
        }
        Work::Add(sum) => kernel!(
            kernels,
            portable::add(sum, layout, source(0), source(1), y, rows)
        ),
        Work::MaxPool(window) => {
            kernel!(
                kernels,
                portable::max_pool(window, layout, source(0), y, rows)
            );
        }
        Work::Mean(mean, window) => {
            let window = window.as_ref();
            kernel!(
                kernels,
                portable::mean(mean, window, layout, source(0), y, rows)
            );
        }
        Work::Slice { start, step } => {
            kernel!(
                kernels,
                portable::slice(*start, *step, layout, source(0), y, rows)
            );
        }
        Work::Pad { begin, zero } => {
            kernel!(
                kernels,
                portable::pad(*begin, *zero, layout, source(0), y, rows)
            );
        }
        Work::Clamp { lo, hi } => portable::clamp(*lo, *hi, layout, source(0), y, rows),
        Work::Flatten => portable::flatten(source(0), y),
        Work::Logits {
            products,
            origin,
            scales,
        } => {
            let finish = to_numbers(scales, y.as_chunks_mut().0);
            kernel!(
                kernels,
                portable::dense(products, source(0).bytes, *origin, finish)
            );
        }
        Work::Table(table) => float::table(table, layout, source(0), y, rows),
        Work::Quantize(codes) => {
            kernel!(kernels, float::quantize(codes, layout, source(0), y, rows));
        }
        Work::Dequantize(codes) => {
            kernel!(
                kernels,
                float::dequantize(codes, layout, source(0), y, rows)
            );
        }
        Work::Float(work) => run_float(kernels, work, layout, source, y, rows),
        Work::ToCaller(_) => {}
    }
}

/// Rounds the sums of sixteen output channels to codes.
fn to_codes(requant: &Requant, codes: &mut [u8]) -> impl FnMut(usize, &[i32; LANES]) {
    |first, sums| {
        let scaled = sums.iter().zip(&requant.multipliers[first..]);
        for (code, (sum, m)) in codes[first..].iter_mut().zip(scaled) {
            *code = to_code(*sum as f32 * m, requant.zero, requant.lo, requant.hi);
        }
    }
}

/// Scales the sums of sixteen output channels.
fn to_numbers(scales: &[f32], numbers: &mut [[u8; 4]]) -> impl FnMut(usize, &[i32; LANES]) {
    |first, sums| {
        let scaled = sums.iter().zip(&scales[first..]);
        for (number, (sum, scale)) in numbers[first..].iter_mut().zip(scaled) {
            *number = (*sum as f32 * scale).to_ne_bytes();
        }
    }
}

/// Runs rows of an operator on f32 values.
fn run_float<'a>(
    kernels: Kernels,
    work: &FloatWork,
    layout: &Layout,
    source: impl Fn(usize) -> Operand<'a>,
    y: &mut [u8],
    rows: Range<usize>,
) {
    match work {
        FloatWork::Conv(conv) => {
            kernel!(kernels, float::float_conv(conv, layout, source(0), y, rows));
        }
        FloatWork::Unary(function) => {
            kernel!(kernels, float::unary(*function, layout, source(0), y, rows));
        }
        FloatWork::Binary(function) => {
            kernel!(
                kernels,
                float::binary(*function, layout, source(0), source(1), y, rows)
            );
        }
        FloatWork::Affine(affine) => {
            kernel!(kernels, float::affine(affine, layout, source(0), y, rows));
        }
        FloatWork::MaxPool(window) => float::float_max_pool(window, layout, source(0), y, rows),
        FloatWork::Mean(window) => float::float_mean(window.as_ref(), layout, source(0), y, rows),
        FloatWork::Slice { start, step } => {
            float::float_slice(*start, *step, layout, source(0), y, rows);
        }
        FloatWork::Pad { begin } => float::float_pad(*begin, layout, source(0), y, rows),
        FloatWork::Flatten => float::float_flatten(source(0), y),
    }
}

/// Writes a value, or the logits that follow from it, where the caller has them.
fn hand_over(kernels: Kernels, what: &ToCaller, source: Operand<'_>, outputs: &mut [f32]) {
    match what {
        ToCaller::Logits {
            products,
            origin,
            scales,
            first_output,
        } => {
            let logits = &mut outputs[*first_output..][..scales.len()];
            let finish = |first: usize, sums: &[i32; LANES]| {
                let scaled = sums.iter().zip(&scales[first..]);
                for (logit, (sum, scale)) in logits[first..].iter_mut().zip(scaled) {
                    *logit = *sum as f32 * scale;
                }
            };
            kernel!(
                kernels,
                portable::dense(products, source.bytes, *origin, finish)
            );
        }
        ToCaller::Value { first_output } => {
            let numbers = float::numbers(source);
            outputs[*first_output..][..numbers.len()].copy_from_slice(&numbers);
        }
    }
}
