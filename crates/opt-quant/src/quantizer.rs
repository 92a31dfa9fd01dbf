//! From numbers to codes: one file per scheme.

pub mod affine;
pub mod codebook;
pub mod k_means;
pub mod symmetric;
pub mod uniform_levels;
