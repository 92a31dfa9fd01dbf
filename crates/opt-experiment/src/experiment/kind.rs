//! Which experiments there are.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use anyhow::{Result, bail};

/// The experiments, in the order in which `all` runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Experiment {
    /// Trains every network of the profile.
    Baseline,
    /// Removal of single weights.
    Prune,
    /// Fewer bits.
    Quantize,
    /// A student with a teacher.
    Distill,
    /// The whole chain.
    Pipeline,
}

impl Experiment {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [
        Self::Baseline,
        Self::Prune,
        Self::Quantize,
        Self::Distill,
        Self::Pipeline,
    ];

    /// The word for it on the command line and in result lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Prune => "prune",
            Self::Quantize => "quantize",
            Self::Distill => "distill",
            Self::Pipeline => "pipeline",
        }
    }

    /// What it shows, in a sentence.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Baseline => "trains the reference networks and the source text's network",
            Self::Prune => {
                "pruning of single weights at several sparsities, one-shot against iterative, beside training on without pruning"
            }
            Self::Quantize => {
                "the source text's formula against affine, symmetric and codebook weights; bit widths, post-training against quantization-aware"
            }
            Self::Distill => {
                "a small network with a larger one as teacher, beside the same student alone: as it is, with label smoothing, at other learning rates, with a loss that weighs as much"
            }
            Self::Pipeline => {
                "removes channels, fine-tunes with the unpruned network as teacher (and, beside it, without), quantizes, and writes the final model"
            }
        }
    }
}

impl Display for Experiment {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Experiment {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|e| e.name() == name) {
            Some(experiment) => Ok(experiment),
            None => bail!(
                "no experiment `{name}`; there are {}",
                Self::ALL.map(Self::name).join(", ")
            ),
        }
    }
}
