//! A tensor as indices into a table of values.

use ndarray::{Array, Dimension, IxDyn};

/// A tensor as indices into a table of values.
///
/// ```text
/// ŵ = centroids[code]
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Codebook<D: Dimension = IxDyn> {
    /// The values; at most 256.
    pub centroids: Vec<f32>,
    /// Indices into them, in the shape of the tensor.
    pub codes: Array<u8, D>,
}

impl<D: Dimension> Codebook<D> {
    /// Decodes.
    ///
    /// # Panics
    ///
    /// If a code was changed to one that has no centroid.
    #[must_use]
    #[track_caller]
    pub fn dequantize(&self) -> Array<f32, D> {
        self.codes.mapv(|code| self.centroids[usize::from(code)])
    }
}
