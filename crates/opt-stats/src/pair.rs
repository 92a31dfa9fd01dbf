//! Two variants on the same test images.

use crate::Discordant;

/// Two variants with one seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Accuracy of the variant, in percent.
    pub top1: f64,
    /// Accuracy of the other, in percent.
    pub other: f64,
    /// Images in the test set.
    pub n_test: u64,
    /// The images on which exactly one of them is right, if known.
    pub discordant: Option<Discordant>,
}
