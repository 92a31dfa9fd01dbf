//! The experiments: each is a block of a profile that becomes a list of stages, and [`run_stages`] walks over them.

mod block;
mod control;
mod distill;
mod likelihood;
mod pipeline;
mod prune;
mod quantize;
pub mod shard;
pub mod stage;
mod start;
mod walk;
mod word;

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use anyhow::{Result, bail};

pub use block::Block;
pub use distill::Distill;
pub use pipeline::Pipeline;
pub use prune::Prune;
pub use quantize::{Quantize, bits_of};
pub use walk::run_stages;
pub use word::Word;

use crate::recipe::Recipe;
use stage::{Calibration, Stages};

/// The experiments, in the order in which `all` runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Experiment {
    /// Trains every network of the profile.
    Baseline,
    /// [`Prune`].
    Prune,
    /// [`Quantize`].
    Quantize,
    /// [`Distill`].
    Distill,
    /// [`Pipeline`].
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
            Self::Baseline => stage::BASELINE,
            Self::Prune => prune::NAME,
            Self::Quantize => quantize::NAME,
            Self::Distill => distill::NAME,
            Self::Pipeline => pipeline::NAME,
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

/// The stages of one recipe on its own: its training, and the integer networks that it asks for.
///
/// # Errors
///
/// Two of them would have one name.
pub fn recipe_stages(recipe: &Recipe) -> Result<Stages> {
    let calibration = Calibration {
        images: recipe.quantize.as_ref().map_or(0, |q| q.calibration_images),
        ..Calibration::default()
    };
    let mut list = Stages::new(vec![recipe.clone()], calibration);
    let trained = list.trained("train", &recipe.name)?;
    if let Some(quantize) = &recipe.quantize {
        quantize::recipe_stages(&mut list, trained, quantize)?;
    }
    Ok(list)
}
