//! Image classification data: CIFAR-10 and CIFAR-100 files, image folders, a synthetic set, verified download, seeded augmentation and batches.
//!
//! Images are bytes from the file to the batch: the consumer normalises them, in whatever number format it computes.
//! Everything random is a pure function of seeds that are arguments, drawn from `ChaCha8` streams, so the same
//! seeds give the same bytes on every platform and for every number of threads.
//!
//! - [`source`] decides where the data comes from; most callers need only [`source::resolve`].
//! - [`dataset`] holds the images: [`Dataset`], splits, content hash, channel statistics.
//! - [`cifar10`] reads and writes the official binary layout, [`cifar100`] reads its larger sibling; [`image_folder`]
//!   reads PNG and JPEG files, a folder per class, prepared by `opt-image`; [`synthetic`] makes a set from a seed.
//! - [`augment`] and [`batches`] turn a set into training and evaluation batches.
//! - [`download`] fetches an archive with resume and checksum and unpacks it.
//!
//! # What this crate does not do
//!
//! - It knows no tensors, models or training loops and never links libtorch.
//! - It decodes and resizes nothing itself: `opt-image` does, by the description that travels with the network.
//! - It does not normalise: mean and standard deviation belong to the model's input specification.
//! - It does not stream sets that are larger than memory.
//! - It never replaces broken data by other data: only a missing network leads to the synthetic set, and with a notice.

pub mod augment;
pub mod batches;
pub mod cifar10;
pub mod cifar100;
pub mod dataset;
pub mod download;
mod error;
pub mod image_folder;
mod random;
mod records;
pub mod source;
pub mod synthetic;

pub use dataset::{Dataset, Splits};
pub use error::DataError;
pub use records::{Loaded, Origin};

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
