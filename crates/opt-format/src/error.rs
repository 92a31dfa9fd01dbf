//! What can be wrong with a checkpoint, or with a network that another format has no words for.

use thiserror::Error;

/// An error of this crate: it says what was found and what was expected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes are no safetensors container.
    #[error(transparent)]
    Container(#[from] opt_artifact::ArtifactError),
    /// The checkpoint is of another network.
    #[error(
        "the checkpoint does not fit the network{}{}",
        list(missing, unexpected, wrong),
        if *new_head {
            "; only the classifier is another: for other classes `head = \"new\"` in the recipe leaves it at its random \
             start and imports the rest"
        } else {
            ""
        }
    )]
    Mismatch {
        /// Parameters of the network that the checkpoint lacks.
        missing: Vec<String>,
        /// Tensors of the checkpoint that the network does not have.
        unexpected: Vec<String>,
        /// Tensors of another shape or type, or with a NaN or infinity: what was found and what was expected.
        wrong: Vec<String>,
        /// Whether everything but the classifier fits, so that [`crate::Head::New`] would import it.
        new_head: bool,
    },
    /// The network, or what is asked for it, has no form in ONNX.
    #[error("cannot write `{node}` as ONNX: {problem}")]
    Onnx {
        /// The node, or the option.
        node: String,
        /// What was found, what was expected and what to do.
        problem: String,
    },
    /// The model itself is unsound.
    #[error(transparent)]
    Core(#[from] opt_core::CoreError),
}

/// The first few of each kind.
fn list(missing: &[String], unexpected: &[String], wrong: &[String]) -> String {
    const SHOWN: usize = 5;
    let parts = [
        ("missing", missing),
        ("unexpected", unexpected),
        ("wrong", wrong),
    ];
    let mut text = String::new();
    for (what, names) in parts {
        if names.is_empty() {
            continue;
        }
        text += &format!(
            "; {} {what}: {}",
            names.len(),
            names[..names.len().min(SHOWN)].join(", ")
        );
        if names.len() > SHOWN {
            text += ", …";
        }
    }
    text
}
