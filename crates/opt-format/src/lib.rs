//! Other people's formats: safetensors checkpoints in and out, ONNX out.
//!
//! - [`safetensors`](mod@safetensors): parameters by PyTorch name, in and out.
//! - [`onnx`]: networks in f32, and integer networks as QDQ graphs, which ONNX Runtime runs on its integer kernels.
//!
//! # What this crate does not do
//!
//! A checkpoint has no graph, so it is imported into a network that is already there; nothing is guessed, renamed or left
//! out to make it fit, but for the prefixes of known wrappers and, if asked, the classifier. The files that this project ships, with graph and codes, are another crate's. It reads no pickles and no
//! ONNX.

pub mod error;
pub mod onnx;
pub mod safetensors;

pub use error::FormatError;
pub use safetensors::{Converted, Head, ImportReport, export_safetensors, import_safetensors};

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, FormatError>;

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
