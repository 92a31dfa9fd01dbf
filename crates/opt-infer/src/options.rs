//! How a network runs: what a caller chooses.

use std::str::FromStr;

use crate::kernels::portable::ImageOrder;
use crate::{InferError, Kernels};

/// How a network runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Threads. Several share the images of a batch, or the rows of one image.
    pub threads: usize,
    /// The kernels; `None` takes the fastest that this CPU can run.
    pub kernels: Option<Kernels>,
    /// The order of an image's bytes: planes, as everywhere in this workspace, unless asked otherwise.
    pub order: ImageOrder,
    /// Whether every value keeps its place, so that [`Session::value`](crate::Session::value) can give it: for tests, at the price of memory.
    pub keep_codes: bool,
    /// When several threads share a run.
    pub sharing: Sharing,
    /// What a network may ask for.
    pub limits: Limits,
}

/// When several threads share a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// While it is faster than one thread, by what runs took; a worker without a core is not waited for.
    #[default]
    Measured,
    /// Always, with every worker, however long that takes: for tests.
    Always,
}

/// What a network may ask for: a file of a kilobyte can describe one that takes terabytes or days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the values of all threads and of the packed weights.
    pub bytes: usize,
    /// Products and comparisons for one image, those included that only fill the kernels' vectors.
    pub operations: u64,
}

impl Default for Limits {
    /// 1 GiB, and 500 billion operations: many times what VGG-16 asks for at 224 × 224 pixels (0.14 GiB of weights, 16 billion
    /// products).
    fn default() -> Self {
        Self {
            bytes: 1 << 30,
            operations: 500_000_000_000,
        }
    }
}

impl Default for Options {
    /// One thread, the fastest kernels, planes, the default limits.
    fn default() -> Self {
        Self {
            threads: 1,
            kernels: None,
            order: ImageOrder::Chw,
            keep_codes: false,
            sharing: Sharing::default(),
            limits: Limits::default(),
        }
    }
}

impl FromStr for Kernels {
    type Err = InferError;

    fn from_str(name: &str) -> Result<Self, InferError> {
        let found = Self::ALL.into_iter().find(|k| k.name() == name);
        found.ok_or_else(|| InferError::UnknownKernels {
            name: name.to_owned(),
        })
    }
}
