//! What can go wrong between a model and libtorch.

use thiserror::Error;

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NnError {
    /// The model, a mask or a quantization request is wrong.
    #[error(transparent)]
    Core(#[from] opt_core::CoreError),
    /// The device cannot be had.
    #[error("device `{device}`: {problem}")]
    Device {
        /// What was asked for.
        device: String,
        /// Why not, and what to do.
        problem: String,
    },
    /// libtorch refused an operation.
    #[error("while {what}: libtorch says: {message}")]
    Torch {
        /// What was being done.
        what: String,
        /// The first line of libtorch's message.
        message: String,
    },
    /// A batch does not fit the model.
    #[error("batch: {problem}")]
    Batch {
        /// What was found and what was expected.
        problem: String,
    },
    /// A gate on channels does not fit the network.
    #[error("gate of `{layer}`: {problem}; make gates from the same model")]
    Gate {
        /// Its layer.
        layer: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A tap names no node.
    #[error("the model has no node `{node}` to tap")]
    UnknownTap {
        /// The name that was asked for.
        node: String,
    },
    /// A tap names a node whose value is inside an integer operation.
    #[error(
        "node `{node}` is fused into a later one and has no value of its own under fake quantization; tap the activation \
         after it"
    )]
    FusedTap {
        /// The node.
        node: String,
    },
    /// Training gave a number that is not finite.
    #[error(
        "{what} in epoch {}, batch {}, counted from 1: training diverged; lower the learning rate, or raise it more slowly",
        .epoch + 1, .batch + 1
    )]
    Diverged {
        /// What was found where, such as `the loss is NaN`.
        what: String,
        /// Epoch, from 0.
        epoch: usize,
        /// Batch, from 0.
        batch: usize,
    },
    /// A network answered an image with a logit that is not finite, so it has no accuracy.
    #[error(
        "image {image} of those evaluated has {logit} as the logit of class {class} (all counted from 0): the network's \
         training diverged, or its file holds numbers that are too large; train it again with a lower learning rate, or \
         take another checkpoint"
    )]
    NoAnswer {
        /// The number of the image among those that are evaluated, from 0.
        image: usize,
        /// The class, from 0.
        class: usize,
        /// The logit.
        logit: f32,
    },
    /// A teacher answered an image with a logit that is not finite.
    #[error(
        "the teacher's logits hold {logit} in epoch {}, batch {}, counted from 1: its own training diverged, or its file \
         holds numbers that are too large; take another teacher",
        .epoch + 1, .batch + 1
    )]
    Teacher {
        /// The logit.
        logit: f32,
        /// Epoch, from 0.
        epoch: usize,
        /// Batch, from 0.
        batch: usize,
    },
    /// A parameter that is to keep its values does not exist.
    #[error(
        "no trainable parameter is called `{name}`, so it cannot be frozen; names are those of the model's file"
    )]
    Frozen {
        /// The name that was asked for.
        name: String,
    },
    /// A start that this network cannot have.
    #[error("{what}: {problem}")]
    Init {
        /// The method.
        what: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A saved state belongs to another training.
    #[error(
        "the saved state does not fit this training: `{buffer}`: {problem}; start it again without the state"
    )]
    State {
        /// The buffer.
        buffer: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A loss or a hook failed.
    #[error("{what}: {source}")]
    Method {
        /// What was being computed.
        what: String,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl NnError {
    /// Keeps the first line of libtorch's message; the rest is a C++ stack.
    pub(crate) fn torch(what: &str, error: &tch::TchError) -> Self {
        let message = error.to_string();
        Self::Torch {
            what: what.to_owned(),
            message: message.lines().next().unwrap_or_default().to_owned(),
        }
    }
}
