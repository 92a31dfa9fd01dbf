//! Other starts than random weights: pure functions from a model to a model.

mod dirac;
mod whiten;

pub use dirac::dirac;
pub use whiten::whiten;
