//! ONNX: integer networks as graphs of `QuantizeLinear` and `DequantizeLinear`.

mod message;
pub mod proto;
mod qdq;

pub use qdq::{LOGITS, QdqOptions, padded_image, write_qdq};
