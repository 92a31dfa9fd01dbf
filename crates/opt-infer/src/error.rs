//! What can go wrong.

use crate::Kernels;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// The network cannot be executed.
    #[error(transparent)]
    Model(#[from] opt_core::CoreError),
    /// A value that nobody can look at.
    #[error("looking at node `{node}`: it is fused into another, whose value there is")]
    Unseen {
        /// The node.
        node: String,
    },
    /// Whoever looked at a value did not like it.
    #[error("looking at node `{node}`")]
    Look {
        /// The node.
        node: String,
        /// What it said.
        source: opt_core::observe::LookError,
    },
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
    /// A network that needs more memory than the session may take.
    #[error(
        "values for {threads} thread{} and packed weights need {} MiB, more than the limit of {} MiB; if no pad or shape is a \
         mistake, take fewer threads or raise `Options::limits.bytes`",
        if *threads == 1 { "" } else { "s" },
        bytes.div_ceil(1 << 20),
        limit >> 20
    )]
    Memory {
        /// What is needed, as far as it was counted.
        bytes: usize,
        /// The threads that values are for.
        threads: usize,
        /// The limit.
        limit: usize,
    },
    /// A network that takes longer than a run may.
    #[error(
        "an image needs {:.1} billion products and comparisons, more than the limit of {:.1} billion; if no kernel or shape is \
         a mistake, raise `Options::limits.operations`",
        *operations as f64 / 1e9,
        *limit as f64 / 1e9
    )]
    Work {
        /// What is needed, as far as it was counted.
        operations: u64,
        /// The limit.
        limit: u64,
    },
    /// Memory that the system does not give.
    #[error("the system does not give {} MiB for the values of an image; take fewer threads", bytes.div_ceil(1 << 20))]
    Allocation {
        /// The bytes asked for.
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
