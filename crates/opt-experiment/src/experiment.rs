//! The experiments: each is a block of a profile that becomes a list of stages, and [`run_stages`] walks over them.

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

pub use distill::Distill;
pub use pipeline::Pipeline;
pub use prune::Prune;
pub use quantize::{Quantize, bits_of};
pub use walk::run_stages;
pub use word::Word;

use crate::recipe::{Recipe, Train};
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

/// A block of a profile: what one experiment does with one network.
pub trait Block {
    /// The experiment.
    fn experiment(&self) -> Experiment;

    /// The baseline that it is about: what `--base` names.
    fn base(&self) -> &str;

    /// A further baseline that it needs, as teacher.
    fn teacher(&self) -> Option<&str>;

    /// Its phases of training.
    fn trains(&self) -> Vec<&Train>;

    /// The epochs of all its phases, to be scaled.
    fn epochs_mut(&mut self) -> Vec<&mut usize>;

    /// Checks every number.
    ///
    /// # Errors
    ///
    /// Names the key, what it holds and what is expected.
    fn check(&self) -> Result<()>;

    /// Adds what it does to the list.
    ///
    /// # Errors
    ///
    /// A baseline that is not there, a name that is taken.
    fn stages(&self, list: &mut Stages) -> Result<()>;
}

/// Names of variants are made of these values, so each may be there once.
fn distinct<T: PartialEq + Display>(values: &[T], fix: &str) -> Result<()> {
    let twice = (1..values.len()).find(|&i| values[..i].contains(&values[i]));
    match twice {
        Some(i) => bail!("{} is there twice; {fix}", values[i]),
        None => Ok(()),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
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
