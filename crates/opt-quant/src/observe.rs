//! What must be known about numbers before they can be quantized.

pub mod min_max;
