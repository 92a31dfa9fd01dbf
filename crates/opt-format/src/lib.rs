//! Other people's formats: safetensors checkpoints.
//!
//! - [`safetensors`](mod@safetensors): parameters by PyTorch name, in and out.
//!
//! # What this crate does not do
//!
//! A checkpoint has no graph, so it is imported into a network that is already there; nothing is guessed, renamed or left
//! out to make it fit. The files that this project ships, with graph and codes, are another crate's. It reads no pickles.

pub mod error;
pub mod safetensors;

pub use error::FormatError;
pub use safetensors::{Converted, ImportReport, export_safetensors, import_safetensors};

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, FormatError>;
