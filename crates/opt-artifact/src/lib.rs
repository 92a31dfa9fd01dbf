//! The files that ship: models and quantized models with their graphs, integer codes and checks.
//!
//! A file is a safetensors container, so any safetensors reader sees its tensors by their PyTorch names. Its metadata
//! hold what those readers ignore:
//!
//! ```text
//! format      "opt"
//! version     "1"                              another version is refused
//! kind        "model" | "qmodel"
//! graph       JSON, see graph_json.rs          loads without the code that built or pruned the network
//! input       JSON: shape, mean, std, labels
//! codec       JSON: parameter → how its codes are stored and decoded      models with codes only
//! provenance  JSON: string → string
//! sha256      over all other metadata and all tensors
//! ```
//!
//! In reading order: [`model`] and [`qmodel`] (what is written and read), [`container`] (the bytes, and [`inspect`] for
//! the facts about a file), [`file`](mod@file) (paths).
//!
//! ```
//! use opt_artifact::{Provenance, read_model, write_model};
//!
//! let model = opt_core::zoo::build("airbench_4_4_4", &opt_core::InputSpec::cifar10(), 0)?;
//! let bytes = write_model(&model, &Provenance::from([("seed".into(), "0".into())]))?;
//! assert_eq!(read_model(&bytes)?, model);
//! assert_eq!(opt_artifact::inspect(&bytes)?.provenance["seed"], "0");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What this crate does not do
//!
//! It chooses no codes and computes no network; it writes what it is given or refuses it. It reads no other program's
//! files and no older version's. It compresses nothing yet: the coding of each tensor is named in the file, `packed` is
//! the only one, and a name it does not know is an error.

pub mod container;
pub mod error;
pub mod file;
pub mod model;
pub mod qmodel;

mod coded;
mod graph_json;
mod limits;

pub use container::{Info, Kind, inspect};
pub use error::ArtifactError;
pub use file::{load, load_model, load_qmodel, save};
pub use model::{read_model, write_model, write_model_with_codes};
pub use qmodel::{read_qmodel, write_qmodel};

/// Where a file comes from: base model, recipe, seed, accuracy, as the caller names them.
pub type Provenance = std::collections::BTreeMap<String, String>;

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, ArtifactError>;

#[cfg(test)]
mod tests;
