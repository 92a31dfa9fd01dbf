//! From numbers to codes: one file per scheme.

pub mod affine;
pub mod codebook;
pub mod symmetric;
pub mod uniform_levels;
