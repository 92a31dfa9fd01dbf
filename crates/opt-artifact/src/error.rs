//! What can be wrong with a file or with a model that is to be written.

use std::path::PathBuf;

use thiserror::Error;

/// An error of this crate: it names the tensor or the part of the file, what was found and what was expected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Something is wrong with the content of this file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<Self>,
    },
    /// The bytes are no safetensors container.
    #[error(
        "not a safetensors container: {problem}; the file is truncated, damaged or of another format"
    )]
    Container {
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The bytes are known to be something else.
    #[error("this is {what}, not a safetensors container: {advice}")]
    OtherFile {
        /// What it is.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A safetensors file that this crate did not write.
    #[error(
        "format {found}, expected `opt`; a checkpoint of another program is to be imported into a network instead"
    )]
    Format {
        /// What the file says.
        found: String,
    },
    /// A file of another version.
    #[error(
        "format version `{found}`, expected `1`, `2` or `3`; read it with the version of the program that wrote it, or write it again with \
         this one"
    )]
    Version {
        /// What the file says.
        found: String,
    },
    /// A model where a quantized model was expected, or the reverse.
    #[error("the file holds a `{found}`, expected a `{expected}`")]
    Kind {
        /// What the file says.
        found: String,
        /// What was to be read.
        expected: &'static str,
    },
    /// The content is not what was written.
    #[error(
        "the checksum does not match: the file says {found}, its content gives {expected}; the file is damaged, fetch or write it again"
    )]
    Checksum {
        /// The SHA-256 in the file.
        found: String,
        /// The SHA-256 of its content.
        expected: String,
    },
    /// A part of the metadata is not there.
    #[error("the metadata have no `{key}`; the file was not written completely or was edited")]
    MissingKey {
        /// The part.
        key: &'static str,
    },
    /// A part of the metadata cannot be read or written.
    #[error("the metadata's `{key}`: {source}")]
    Json {
        /// The part.
        key: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A coding that this version does not know.
    #[error(
        "`{tensor}` is coded as `{coding}`, expected `raw` or `packed`; a newer version of the program can read it"
    )]
    UnknownCoding {
        /// The parameter or weight.
        tensor: String,
        /// What the file says.
        coding: String,
    },
    /// A tensor that does not fit what the graph or its own description says.
    #[error("`{tensor}`: {problem}")]
    Tensor {
        /// The tensor, parameter or node.
        tensor: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A program computes something else than the one that wrote the file.
    #[error(
        "image {image} of the {count} to check with: {problem}; this program computes something else than the one that wrote the file"
    )]
    Golden {
        /// The image, from 0.
        image: usize,
        /// How many there are.
        count: usize,
        /// What differs, what was found and what was expected.
        problem: String,
    },
    /// The model itself is unsound.
    #[error(transparent)]
    Core(#[from] opt_core::CoreError),
}

/// An [`ArtifactError::Tensor`].
pub(crate) fn tensor_error(tensor: &str, problem: impl Into<String>) -> ArtifactError {
    ArtifactError::Tensor {
        tensor: tensor.to_owned(),
        problem: problem.into(),
    }
}
