//! The experiments: each is a block of a profile that becomes a list of stages, and [`run_stages`] walks over them.

mod block;
mod control;
mod distill;
mod kind;
mod likelihood;
mod pipeline;
mod prune;
mod quantize;
pub mod shard;
pub mod stage;
mod start;
mod walk;
mod word;

use anyhow::Result;

pub use block::Block;
pub use distill::Distill;
pub use kind::Experiment;
pub use pipeline::Pipeline;
pub use prune::Prune;
pub use quantize::{Quantize, bits_of};
pub use walk::run_stages;
pub use word::Word;

use crate::recipe::Recipe;
use stage::{Calibration, Stages};

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
