//! The memory that values lie in while a network runs.

#![expect(
    unsafe_code,
    reason = "steps read some values while they write another"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;

use crate::plan::{ALIGN, Buffer, Plan};
use crate::{InferError, Result};

/// The values of one image.
///
/// Whoever runs steps on it keeps to this: a step's target overlaps none of its sources (no two places of a plan overlap,
/// and a plan gives no value the place of one that is still read), threads that share a step write different rows, and no
/// step begins before all threads have ended the one before.
#[derive(Debug)]
pub(crate) struct Arena {
    memory: NonNull<u8>,
    layout: Layout,
    /// Bytes up to the first line of the cache.
    skipped: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for Arena {}
// SAFETY: what threads do to it at the same time is what its description allows.
unsafe impl Sync for Arena {}

impl Arena {
    /// Memory for a plan, with the borders of all values written. What is not written costs nothing until it is.
    ///
    /// # Errors
    ///
    /// [`InferError::Allocation`] if the system does not give so much.
    pub(crate) fn new(plan: &Plan) -> Result<Self> {
        let refused = || InferError::Allocation { bytes: plan.arena };
        let size = plan.arena.checked_add(ALIGN).ok_or_else(refused)?;
        // Not aligned by the allocator: Rust's own would write zeros into memory that is aligned to more than 16 bytes.
        let layout = Layout::from_size_align(size, 1).map_err(|_| refused())?;
        // SAFETY: the size is not 0.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).ok_or_else(refused)?;
        let arena = Self {
            memory,
            layout,
            skipped: memory.addr().get().next_multiple_of(ALIGN) - memory.addr().get(),
        };
        for place in &plan.places {
            // SAFETY: nobody else has the arena yet, and a place with its rows and borders is inside of it.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(arena.start(place), place.layout.bytes()) };
            place.layout.write_border(bytes);
        }
        Ok(arena)
    }

    /// A value, its border and the bytes behind it that may be read.
    ///
    /// # Safety
    ///
    /// `place` is one of the plan that the arena was made for, and nobody writes to it while the slice lives.
    pub(crate) unsafe fn read(&self, place: &Buffer) -> &[u8] {
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
    pub(crate) unsafe fn write(&self, place: &Buffer, rows: &Range<usize>) -> &mut [u8] {
        let bytes = place.layout.rows(rows);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start(place).add(bytes.start), bytes.len()) }
    }

    fn start(&self, place: &Buffer) -> *mut u8 {
        let offset = self.skipped + place.offset;
        debug_assert!(offset + place.len() <= self.layout.size());
        self.memory.as_ptr().wrapping_add(offset)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it with this layout.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}
