//! The memory that values lie in while a network runs.

#![expect(
    unsafe_code,
    reason = "steps read some values while they write another"
)]

use std::ops::Range;
use std::ptr::NonNull;

use crate::plan::{Place, Plan};
use crate::{InferError, Result};

/// A line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
#[expect(dead_code, reason = "its bytes are reached through pointers")]
struct Line([u8; 64]);

/// The values of one image.
///
/// Whoever runs steps on it keeps to this: a step's target overlaps none of its sources (no two places of a plan overlap,
/// and a plan gives no value the place of one that is still read), threads that share a step write different rows, and no
/// step begins before all threads have ended the one before.
#[derive(Debug)]
pub(crate) struct Arena {
    lines: NonNull<[Line]>,
}

// SAFETY: it owns its memory.
unsafe impl Send for Arena {}
// SAFETY: what threads do to it at the same time is what its description allows.
unsafe impl Sync for Arena {}

impl Arena {
    /// Memory for a plan, with the borders of all values written.
    ///
    /// # Errors
    ///
    /// [`InferError::Memory`] if the system does not give so much.
    pub(crate) fn new(plan: &Plan) -> Result<Self> {
        let mut lines = Vec::new();
        let count = plan.arena.div_ceil(64);
        let bytes = plan.arena;
        lines
            .try_reserve_exact(count)
            .map_err(|_| InferError::Memory { bytes })?;
        lines.resize(count, Line([0; 64]));
        let arena = Self {
            lines: NonNull::from(Box::leak(lines.into_boxed_slice())),
        };
        for place in &plan.places {
            // SAFETY: nobody else has the arena yet, and a place with its rows and borders is inside of it.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(arena.start(place), place.layout.bytes()) };
            place.layout.clear(bytes);
        }
        Ok(arena)
    }

    /// A value, its border and the bytes behind it that may be read.
    ///
    /// # Safety
    ///
    /// `place` is one of the plan that the arena was made for, and nobody writes to it while the slice lives.
    pub(crate) unsafe fn read(&self, place: &Place) -> &[u8] {
        // SAFETY: the place is inside the arena; the caller sees to the rest.
        unsafe { std::slice::from_raw_parts(self.start(place), place.len()) }
    }

    /// Rows of a value, their borders left and right included.
    ///
    /// # Safety
    ///
    /// `place` is one of the plan that the arena was made for, and nobody else reads or writes these rows while the slice
    /// lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller sees to it that nobody else has these rows"
    )]
    pub(crate) unsafe fn write(&self, place: &Place, rows: &Range<usize>) -> &mut [u8] {
        let bytes = place.layout.rows(rows);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start(place).add(bytes.start), bytes.len()) }
    }

    fn start(&self, place: &Place) -> *mut u8 {
        debug_assert!(place.offset + place.len() <= self.lines.len() * 64);
        self.lines.cast::<u8>().as_ptr().wrapping_add(place.offset)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `new` leaked this box.
        drop(unsafe { Box::from_raw(self.lines.as_ptr()) });
    }
}
