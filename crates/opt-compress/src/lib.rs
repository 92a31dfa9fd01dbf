//! The steps of compressing a network, as functions over [`Model`](opt_core::Model): each takes a model and gives one, or what
//! becomes a file.
//!
//! ```text
//! prune    mask_rounds      remove single weights round by round, recover after each
//!          remove_channels  remove whole channels: the network becomes smaller
//! quantize calibrate        see the values of a network on some images
//!          Calibrated::spec, Calibrated::lower    scales, codes, the integer network
//!          quantize_weights     weights as codes, arithmetic in f32
//! ```
//!
//! ```
//! use opt_core::{Task, lower::ResidualAdd, zoo};
//! use opt_compress::{WeightBits, calibrate, remove_channels};
//! use opt_infer::{Options, Session};
//! use opt_prune::{Criterion, Norm};
//!
//! let mut task = Task::cifar10();
//! task.input.shape = [3, 8, 8];
//! let model = zoo::build("source_net", &task, 0)?;
//! let smaller = remove_channels(&model, Criterion::Magnitude(Norm::L2), 0.5, 4, None)?;
//! let images = (0..4).map(|i| vec![60 * i; 3 * 8 * 8]);
//! let calibrated = calibrate(&smaller, &Default::default(), images)?;
//! let network = calibrated.lower(ResidualAdd::Fused, WeightBits::hidden(8))?;
//! let mut session = Session::new(&network, &Options::default())?;
//! assert_eq!(session.run(&[100; 3 * 8 * 8])?.len(), 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What has to train or to measure is a closure that the caller gives, so that neither libtorch nor a data set is needed here.
//!
//! # What this crate does not do
//!
//! It holds no formula: scores, selection and schedules are `opt-prune`'s, ranges and codes `opt-quant`'s, folding and lowering
//! `opt-core`'s. It reads and writes no file.

mod calibrate;
mod error;
mod prune;
mod quantize_weights;

pub use calibrate::{Calibrated, calibrate, calibrate_with};
pub use error::CompressError;
pub use opt_quant::WeightBits;
pub use prune::{mask_rounds, remove_channels};
pub use quantize_weights::{QuantizedWeights, quantize_weights};

/// The result of this crate's fallible functions.
pub type Result<T, E = CompressError> = std::result::Result<T, E>;

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
