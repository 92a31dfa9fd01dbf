//! What can go wrong.

use crate::Kernels;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// The network cannot be executed.
    #[error(transparent)]
    Model(#[from] opt_core::CoreError),
    /// The file cannot be read.
    #[error(transparent)]
    Artifact(#[from] opt_artifact::ArtifactError),
    /// This CPU lacks the instructions.
    #[error(
        "the kernels `{kernels}` need a CPU with {needs}; leave the choice to the engine, or take `scalar`"
    )]
    Kernels {
        /// The kernels asked for.
        kernels: Kernels,
        /// What they need.
        needs: &'static str,
    },
    /// No kernels of this name.
    #[error("there are no kernels `{name}`; there are {}", Kernels::ALL.map(Kernels::name).join(", "))]
    UnknownKernels {
        /// The name.
        name: String,
    },
    /// A number of threads that cannot be.
    #[error("{threads} threads, expected 1 to {most}")]
    Threads {
        /// The number asked for.
        threads: usize,
        /// The most.
        most: usize,
    },
    /// A network that needs more memory than any that is meant in earnest, or than the system gives.
    #[error(
        "values and packed weights need {} MiB, more than a session takes ({} MiB) or the system gives; look for pads and \
         shapes that are not meant in earnest",
        bytes >> 20,
        crate::plan::MOST_BYTES >> 20
    )]
    Memory {
        /// What it needs.
        bytes: usize,
    },
    /// No such step.
    #[error("there is no step {step}; there are {steps}, counted from 0")]
    Step {
        /// The step asked for.
        step: usize,
        /// How many there are.
        steps: usize,
    },
    /// A worker could not be started.
    #[error("starting a worker thread: {0}")]
    Spawn(#[source] std::io::Error),
    /// Bytes that are not so many images, or logits that are not so many.
    #[error("{what} of {found} values, expected {expected}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What was expected, in words.
        expected: String,
    },
}
