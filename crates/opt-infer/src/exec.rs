//! Runs the steps of a plan.

#![expect(unsafe_code, reason = "slices of the arena, see `Arena`")]

use std::ops::Range;

use crate::Kernels;
use crate::arena::Arena;
use crate::kernels::portable::{self, ImageOrder, Operand, to_code};
#[cfg(target_arch = "x86_64")]
use crate::kernels::x86_avx512vnni;
use crate::layout::LANES;
use crate::plan::{Plan, Step, Work};

/// Calls a kernel of the plan's set.
macro_rules! kernel {
    ($kernels:expr, $name:ident($($arg:expr),*)) => {
        match $kernels {
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512Vnni => x86_avx512vnni::$name($($arg),*),
            _ => portable::$name($($arg),*),
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
    logits: &mut [f32],
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
        if let Work::Logits {
            products,
            origin,
            scales,
        } = &step.work
        {
            let finish = |first: usize, sums: &[i32; LANES]| {
                let scaled = sums.iter().zip(&scales[first..]);
                for (logit, (sum, scale)) in logits[first..].iter_mut().zip(scaled) {
                    *logit = *sum as f32 * scale;
                }
            };
            kernel!(kernels, dense(products, source(0).bytes, *origin, finish));
        }
        return;
    };
    let place = &plan.places[target];
    let layout = &place.layout;
    // SAFETY: the rows are this part's alone.
    let y = unsafe { arena.write(place, &rows) };
    match &step.work {
        Work::Input => kernel!(kernels, input(layout, order, image, y, rows)),
        Work::Conv(conv) => {
            let residual = if conv.residual.is_some() {
                source(1).bytes
            } else {
                &[]
            };
            kernel!(kernels, conv(conv, source(0).bytes, residual, y, rows));
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
            kernel!(kernels, dense(products, source(0).bytes, *origin, finish));
        }
        Work::Add(sum) => kernel!(kernels, add(sum, layout, source(0), source(1), y, rows)),
        Work::MaxPool(window) => {
            kernel!(kernels, max_pool(window, layout, source(0), y, rows));
        }
        Work::Mean(mean, window) => {
            let window = window.as_ref();
            kernel!(kernels, mean(mean, window, layout, source(0), y, rows));
        }
        Work::Slice { start, step } => {
            kernel!(kernels, slice(*start, *step, layout, source(0), y, rows));
        }
        Work::Pad { begin, zero } => {
            kernel!(kernels, pad(*begin, *zero, layout, source(0), y, rows));
        }
        Work::Clamp { lo, hi } => portable::clamp(*lo, *hi, layout, source(0), y, rows),
        Work::Flatten => portable::flatten(source(0), y),
        Work::Logits { .. } => {}
    }
}
