//! Observers and quantizers: from numbers to integer codes.
//!
//! Quantizing a tensor takes four steps, and each is a call of its own:
//!
//! 1. **choose a method**: a [`WeightMethod`], uniform ([`quantizer::affine`], [`quantizer::symmetric`],
//!    [`quantizer::uniform_levels`]) or non-uniform ([`quantizer::k_means`]);
//! 2. **compute the thresholds**: a [`MinMax`] range and the parameters that follow from it;
//! 3. **quantize**: [`quantize_weight`] does steps 2 and 3 for a whole tensor;
//! 4. **update and validate**: put the decoded weights back, measure, and take a finer method if it is not good enough.
//!
//! ```
//! use opt_quant::ndarray::Array;
//! use opt_quant::{MinMax, WeightMethod, affine_params, metrics, quantize_weight};
//!
//! let weights = Array::from_shape_fn((8, 16), |(o, i)| ((o * 16 + i) as f32 * 0.7).sin());
//!
//! // 1. Choose: affine codes, from coarse to fine.
//! let mut accepted = None;
//! for bits in 2..=8 {
//!     // 2. Compute the thresholds (shown here for its own sake; step 3 does the same inside).
//!     let range = MinMax::of(&weights)?;
//!     let params = affine_params(range.min, range.max, 0..=(1 << bits) - 1)?;
//!     // 3. Quantize.
//!     let quantized = quantize_weight(&weights, &WeightMethod::Affine { bits })?;
//!     assert_eq!(i32::from(quantized.codes[[0, 0]]), params.quantize(weights[[0, 0]]));
//!     // 4. Update and validate: here by signal to noise, in earnest by the accuracy of the model that reads the weights.
//!     let updated = quantized.dequantize()?;
//!     if metrics::sqnr_db(&weights, &updated)? >= 30.0 {
//!         accepted = Some(quantized);
//!         break;
//!     }
//! }
//! assert_eq!(accepted.map(|quantized| quantized.bits), Some(5));
//! # Ok::<(), opt_quant::QuantError>(())
//! ```
//!
//! Every function that takes a tensor takes what ndarray makes a view of: `&array` or a view of any dimension, or a slice. What
//! it returns has the same dimension. The crate's [`ndarray`] is the one whose arrays it takes.
//!
//! ```
//! use opt_quant::Granularity;
//! use opt_quant::quantizer::{affine::affine, symmetric::symmetric};
//!
//! let bias = vec![0.5, -1.0, 2.0];
//! assert_eq!(affine(&bias, 8)?.codes.len(), 3);
//! let weight = opt_quant::ndarray::array![[1.27, -0.01], [0.5, 0.25]];
//! let quantized = symmetric(&weight, 8, Granularity::PerChannel)?;
//! assert_eq!(quantized.codes[[0, 0]], 127);
//! # Ok::<(), opt_quant::QuantError>(())
//! ```
//!
//! Quantizers run on the threads of the rayon pool that they are called in; the result does not depend on their number.
//!
//! # What this crate does not do
//!
//! It trains nothing and runs no network: observers are fed by whoever has the activations, and fake-quantization in
//! training lives beside the training loop. It knows neither files nor data sets, and it does not define integer
//! arithmetic: the code of an activation is an [`opt_core::QParams`]. NaN and infinity are always an error; there is no switch that
//! ignores them.

pub mod error;
mod exact_sums;
pub mod metrics;
pub mod observe;
mod pieces;
pub mod post_training;
pub mod quantizer;
mod rounding;
pub mod weight;

pub use error::QuantError;
pub use observe::min_max::MinMax;
pub use observe::{RangeMethod, RangeObserver};
pub use post_training::{WeightBits, Widths, min_max_spec};
pub use quantizer::affine::affine_params;
pub use quantizer::symmetric::Granularity;
pub use weight::{WeightMethod, quantize_weight};

pub use ndarray;
pub use opt_core::codes::{pack, unpack};
pub use opt_core::{Dequantize, QParams, QuantizedTensor};

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, QuantError>;

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
