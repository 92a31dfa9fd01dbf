//! Plots of results as SVG text: pure functions whose output is the same byte for byte for equal input.
//!
//! Text is placed by estimated widths, because an SVG is drawn with fonts that are not known here. Every kind of point
//! differs by shape as well as by colour.

mod axis;
mod canvas;
mod curves;
mod pareto;
mod png;
mod scatter;
mod sparsity;

pub use curves::{single_epochs, training_curves};
pub use pareto::pareto_front;
pub use png::png;
pub use scatter::{accuracy_against_bytes, accuracy_against_macs};
pub use sparsity::{SparsityPlot, accuracy_against_sparsity};

/// The colour of text and axes as it stands in the SVG; a page may replace it by its own.
pub(crate) const INK: &str = canvas::INK;
