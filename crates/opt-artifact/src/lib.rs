//! The files that ship: models and quantized models with their graphs, integer codes and checks.
//!
//! A file is a safetensors container, so any safetensors reader sees its tensors by their PyTorch names. Its metadata
//! hold what those readers ignore:
//!
//! ```text
//! format      "opt"
//! version     "3"                              "1" and "2" are read too, any other is refused
//! kind        "model" | "qmodel"
//! graph       JSON, see graph_json.rs          loads without the code that built or pruned the network
//! input       JSON: layout, dtype, shape, mean, std, preparation
//! codec       JSON: parameter or weight → how its codes are stored and decoded; see metadata_json.rs
//! golden      JSON: checksums of the codes for the tensor golden.images, if there is one; see golden.rs
//! provenance  JSON: string → string
//! sha256      over all other metadata and all tensors
//! ```
//!
//! An image is bytes in the order `layout` says: C planes (red, green, blue) of H rows. A model expects
//! `(byte / 255 - mean[c]) / std[c]`; a quantized model takes the bytes as they are, its mean and deviation are inside the
//! weights. Number k of an output belongs to its label k. `preparation` says how an image file becomes those bytes; the crate `opt-image` does
//! it.
//!
//! In reading order: [`model`] and [`qmodel`] (what is written and read), [`golden`](mod@golden) (images with which an
//! engine checks itself), [`container`] (the bytes, and [`inspect`] for the facts about a file), [`file`](mod@file) (paths).
//!
//! ```
//! use opt_artifact::{Provenance, read_model, write_model};
//!
//! let model = opt_core::zoo::build("airbench_4_4_4", &opt_core::Task::cifar10(), 0)?;
//! let bytes = write_model(&model, &Provenance::from([("seed".into(), "0".into())]))?;
//! assert_eq!(read_model(&bytes)?, model);
//! assert_eq!(opt_artifact::inspect(&bytes)?.provenance["seed"], "0");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What this crate does not do
//!
//! It chooses no codes and computes no network; it writes what it is given or refuses it. It reads no other program's
//! files; of its own it reads version 1, which has no `preparation`, as what was done then, and versions 1 and 2, which have one output. It compresses nothing yet: the coding of each weight is named in the file, `raw` and
//! `packed` are those there are, and a name it does not know is an error.

pub mod container;
pub mod error;
pub mod file;
pub mod golden;
pub mod model;
pub mod qmodel;

mod coded;
mod graph_json;
mod limits;
mod metadata_json;

pub use container::{Info, Kind, inspect};
pub use error::ArtifactError;
pub use file::{load, load_model, load_qmodel, load_qmodel_with_golden, save};
pub use golden::{Golden, codes_sha256, golden};
pub use model::{read_model, write_model, write_model_with_codes};
pub use qmodel::{read_qmodel, read_qmodel_with_golden, write_qmodel, write_qmodel_with_golden};

/// Where a file comes from: base model, recipe, seed, accuracy, as the caller names them.
pub type Provenance = std::collections::BTreeMap<String, String>;

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, ArtifactError>;

#[cfg(test)]
mod tests;

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
