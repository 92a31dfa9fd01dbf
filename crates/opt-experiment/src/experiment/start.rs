//! The network that a recipe begins with: random weights, a start of their own, or a checkpoint.

use anyhow::{Context, Result, ensure};
use opt_core::{Model, zoo};
use opt_nn::init;

use crate::recipe::{Head, Init, Recipe};
use crate::run::Run;

/// Random weights with the recipe's other starts applied.
fn started(run: &Run, recipe: &Recipe, mut model: Model) -> Result<Model> {
    for init in &recipe.init {
        model = match init {
            Init::Dirac => init::dirac(model),
            Init::Whiten => {
                let mut batches = run.data.calibration(WHITENING_IMAGES, WHITENING_IMAGES);
                let images = batches.next().context("there are no training images")?;
                init::whiten(model, &images)
                    .with_context(|| format!("in key `init` of the recipe `{}`", recipe.name))?
            }
        };
    }
    Ok(model)
}

/// Training images whose patches decide the whitening.
const WHITENING_IMAGES: usize = 5000;

/// The network that a recipe begins with.
///
/// # Errors
///
/// A network that is not there, a checkpoint that does not fit.
pub(super) fn initial_model(run: &Run, recipe: &Recipe, seed: u64) -> Result<Model> {
    let model = zoo::build(&recipe.model, &run.data.task_for(recipe)?, seed)?;
    let Some(path) = &recipe.weights else {
        ensure!(
            recipe.head == Head::Imported,
            "the recipe `{}` has a new head and no weights: all of it is new; leave `head` out or name `weights`",
            recipe.name
        );
        return started(run, recipe, model);
    };
    let head = match recipe.head {
        Head::Imported => opt_format::Head::Imported,
        Head::New => opt_format::Head::New,
    };
    let read = || -> Result<Model> {
        let bytes = std::fs::read(path)?;
        let (imported, report) = opt_format::import_safetensors(&bytes, &model, head)?;
        if !report.stripped.is_empty() {
            eprintln!(
                "  {}: the prefix `{}` of all names in the checkpoint is left out",
                recipe.name, report.stripped
            );
        }
        if !report.kept.is_empty() {
            eprintln!(
                "  {}: a new head, at random weights: {}",
                recipe.name,
                report.kept.join(", ")
            );
        }
        Ok(imported)
    };
    read().with_context(|| {
        format!(
            "importing {} into the network `{}` of the recipe `{}`",
            path.display(),
            recipe.model,
            recipe.name
        )
    })
}
