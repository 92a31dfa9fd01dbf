//! ONNX: networks in f32, and integer networks as graphs of `QuantizeLinear` and `DequantizeLinear`.

mod file;
mod float;
mod message;
pub mod proto;
mod qdq;

pub use float::write_float;
pub use qdq::{LOGITS, QdqOptions, padded_image, write_qdq};
