//! Walks over the elements of a tensor in pieces, on several threads.
//!
//! A result never depends on their number: codes are computed element by element, and the smallest and largest of numbers are the
//! same in any order.

use std::borrow::Cow;

use ndarray::{Array, ArrayView, Dimension};
use rayon::prelude::*;

use crate::{QuantError, Result};

/// Elements per piece: enough that handing it to a thread costs little.
pub(crate) const PIECE: usize = 1 << 15;

/// All elements in logical order; copied where they do not lie so in memory.
pub(crate) fn elements<'v, D: Dimension>(values: &'v ArrayView<'_, f32, D>) -> Cow<'v, [f32]> {
    match values.as_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(values.iter().copied().collect()),
    }
}

/// How many rows of a length make a piece.
pub(crate) fn rows_per_piece(row: usize) -> usize {
    (PIECE / row.max(1)).max(1)
}

/// Computes the codes of a tensor: `code` gets the index of a row, consecutive elements of it, and where their codes go.
///
/// A row has `row` elements; the whole tensor is one if `row` is its length.
pub(crate) fn codes<T: Clone + Default + Send, D: Dimension>(
    values: &ArrayView<'_, f32, D>,
    row: usize,
    code: impl Fn(usize, &[f32], &mut [T]) + Sync,
) -> Result<Array<T, D>> {
    let from = elements(values);
    let mut to = vec![T::default(); from.len()];
    let row = row.max(1);
    let n_rows = rows_per_piece(row);
    (from
        .par_chunks(n_rows * row)
        .zip(to.par_chunks_mut(n_rows * row)))
    .enumerate()
    .for_each(|(group, (from, to))| {
        let rows = from.chunks(row).zip(to.chunks_mut(row));
        for (i, (from, to)) in (group * n_rows..).zip(rows) {
            let pieces = from.par_chunks(PIECE).zip(to.par_chunks_mut(PIECE));
            pieces.for_each(|(from, to)| code(i, from, to));
        }
    });
    let found = vec![to.len()];
    Array::from_shape_vec(values.raw_dim(), to).map_err(|_| QuantError::Shape {
        found,
        expected: values.shape().to_vec(),
    })
}

/// The smallest and the largest of finite numbers, +∞ and −∞ without one; nothing if one is not finite.
///
/// Zeros have no sign: -0.0 counts as 0.0.
pub(crate) fn extremes(values: &[f32]) -> Option<(f32, f32)> {
    const LANES: usize = 16;
    /// All ones in a NaN and an infinity alone.
    const EXPONENT: u32 = 0x7F80_0000;
    let mut low = [f32::INFINITY; LANES];
    let mut high = [f32::NEG_INFINITY; LANES];
    let mut not_finite = [false; LANES];
    let mut see = |lane: usize, value: f32| {
        low[lane] = if value < low[lane] { value } else { low[lane] };
        high[lane] = if value > high[lane] {
            value
        } else {
            high[lane]
        };
        not_finite[lane] |= value.to_bits() & EXPONENT == EXPONENT;
    };
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &value) in block.iter().enumerate() {
            see(lane, value);
        }
    }
    rest.iter().for_each(|&value| see(0, value));
    if not_finite.contains(&true) {
        return None;
    }
    let low = low.into_iter().fold(f32::INFINITY, f32::min);
    let high = high.into_iter().fold(f32::NEG_INFINITY, f32::max);
    Some((low + 0.0, high + 0.0))
}
