//! What may fail in compressing a network.

use thiserror::Error;

/// What may fail in compressing a network.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompressError {
    /// The model.
    #[error(transparent)]
    Core(#[from] opt_core::CoreError),
    /// Scores, selection or the removal of channels.
    #[error(transparent)]
    Prune(#[from] opt_prune::PruneError),
    /// Quantizers.
    #[error(transparent)]
    Quant(#[from] opt_quant::QuantError),
    /// A weight cannot be quantized.
    #[error("quantizing `{param}`")]
    Weight {
        /// The parameter's name.
        param: String,
        /// Why.
        source: opt_quant::QuantError,
    },
    /// The network could not be run on the images of the calibration.
    #[error("calibrating")]
    Calibrate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A calibration without images.
    #[error("calibration needs at least one image, and there was none")]
    NoImages,
    /// A criterion that needs gradients, without any.
    #[error(
        "the criterion `{criterion}` needs gradients, and there are none; give a function that sums them, or take a magnitude"
    )]
    NoGradients {
        /// The criterion's word.
        criterion: String,
    },
}
