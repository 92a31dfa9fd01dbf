//! What can be wrong with the inputs of a distillation loss.

use tch::{Kind, TchError};
use thiserror::Error;

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DistillError {
    /// A tensor does not have the shape that the loss needs.
    #[error("{what}: shape {found:?}, expected {expected}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// Its shape.
        found: Vec<i64>,
        /// What the loss needs.
        expected: String,
    },
    /// A tensor does not have the element type that the loss needs.
    #[error("{what}: elements of type {found:?}, expected {expected}")]
    ElementType {
        /// Which tensor.
        what: &'static str,
        /// Its element type.
        found: Kind,
        /// What the loss needs.
        expected: &'static str,
    },
    /// A setting is outside its range.
    #[error("{name} is {value}, expected {expected}")]
    Setting {
        /// The field.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The range.
        expected: &'static str,
    },
    /// Libtorch refused; labels that are no class and tensors on different devices end here.
    #[error("libtorch could not compute the distillation loss: {0}")]
    Torch(#[from] TchError),
}
