//! Runs and trains a [`opt_core::Model`] on libtorch: the only crate that turns a model into tensors and back.
//!
//! In reading order: [`device`] (where), [`net`] (a model's tensors), [`forward`] (its values), [`batch`] (what it is
//! fed), [`init`] (other starts), [`optimizer`], [`schedule`] and [`train`] (the one training loop and its extension points), [`evaluate`],
//! [`observe`] (calibration) and [`gradients`] (importance), [`quantized`] (training with fake quantization and the exact
//! simulation of the integer network, which walk the same steps).
//!
//! # What this crate does not do
//!
//! It knows no dataset, no file and no compression method. Methods come in through [`train::Loss`] and
//! [`train::Hooks`], masks and quantization parameters as data.

pub mod batch;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod forward;
pub mod gradients;
pub mod init;
pub mod net;
pub mod observe;
pub mod optimizer;
pub mod quantized;
pub mod schedule;
pub mod train;

pub use batch::{Batch, BatchSource};
pub use error::NnError;
pub use forward::Precision;
pub use net::Net;

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, NnError>;

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
