//! Plots of results as SVG text: pure functions whose output is the same byte for byte for equal input.
//!
//! Text is placed by estimated widths, because an SVG is drawn with fonts that are not known here. Every kind of point
//! differs by shape as well as by colour.

mod canvas;
mod curves;
mod pareto;
mod scatter;

pub use curves::training_curves;
pub use pareto::pareto_front;
pub use scatter::{accuracy_against_bytes, accuracy_against_macs};

/// The colour of text and axes as it stands in the SVG; a page may replace it by its own.
pub(crate) fn ink() -> String {
    let plotters::style::RGBColor(red, green, blue) = canvas::INK;
    format!("#{red:02X}{green:02X}{blue:02X}")
}
