//! Runs the steps of a plan.

#![expect(unsafe_code, reason = "slices of the arena, see `Arena`")]

use std::ops::Range;

use crate::Kernels;
use crate::arena::Arena;
use crate::kernels::float;
use crate::kernels::portable::{self, ImageOrder, Operand, to_code};
#[cfg(target_arch = "x86_64")]
use crate::kernels::x86_avx512vnni;
use crate::layout::LANES;
use crate::plan::{Plan, Step, Work};

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
        match &step.work {
            Work::Logits {
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
                    portable::dense(products, source(0).bytes, *origin, finish)
                );
            }
            Work::Output { first_output } => {
                let numbers = float::numbers(source(0));
                outputs[*first_output..][..numbers.len()].copy_from_slice(&numbers);
            }
            Work::Input
            | Work::Conv(_)
            | Work::Gemm { .. }
            | Work::FloatLogits { .. }
            | Work::Add(_)
            | Work::MaxPool(_)
            | Work::Mean(..)
            | Work::Slice { .. }
            | Work::Pad { .. }
            | Work::Clamp { .. }
            | Work::Flatten
            | Work::Table(_)
            | Work::Quantize(_)
            | Work::Dequantize(_)
            | Work::FloatConv(_)
            | Work::Unary(_)
            | Work::Binary(_)
            | Work::Affine(_)
            | Work::FloatMaxPool(_)
            | Work::FloatMean(_)
            | Work::FloatSlice { .. }
            | Work::FloatPad { .. }
            | Work::FloatFlatten => {}
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
            let residual = if conv.residual.is_some() {
                source(1).bytes
            } else {
                &[]
            };
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
            let finish = |first: usize, sums: &[i32; LANES]| {
                let scaled = sums.iter().zip(&requant.multipliers[first..]);
                for (code, (sum, m)) in y[first..].iter_mut().zip(scaled) {
                    *code = to_code(*sum as f32 * m, requant.zero, requant.lo, requant.hi);
                }
            };
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
        Work::FloatLogits {
            products,
            origin,
            scales,
        } => {
            let finish = |first: usize, sums: &[i32; LANES]| {
                let scaled = sums.iter().zip(&scales[first..]);
                let numbers = y.as_chunks_mut::<4>().0[first..].iter_mut();
                for (number, (sum, scale)) in numbers.zip(scaled) {
                    *number = (*sum as f32 * scale).to_ne_bytes();
                }
            };
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
        Work::FloatConv(conv) => {
            kernel!(kernels, float::float_conv(conv, layout, source(0), y, rows));
        }
        Work::Unary(function) => {
            kernel!(kernels, float::unary(*function, layout, source(0), y, rows));
        }
        Work::Binary(function) => {
            kernel!(
                kernels,
                float::binary(*function, layout, source(0), source(1), y, rows)
            );
        }
        Work::Affine(affine) => {
            kernel!(kernels, float::affine(affine, layout, source(0), y, rows));
        }
        Work::FloatMaxPool(window) => float::float_max_pool(window, layout, source(0), y, rows),
        Work::FloatMean(window) => float::float_mean(window.as_ref(), layout, source(0), y, rows),
        Work::FloatSlice { start, step } => {
            float::float_slice(*start, *step, layout, source(0), y, rows);
        }
        Work::FloatPad { begin } => float::float_pad(*begin, layout, source(0), y, rows),
        Work::FloatFlatten => float::float_flatten(source(0), y),
        Work::Logits { .. } | Work::Output { .. } => {}
    }
}
