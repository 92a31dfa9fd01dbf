//! `train`: one recipe.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use opt_experiment::data::{Data, Limits};
use opt_experiment::experiment::{recipe_stages, run_stages};
use opt_experiment::folder::Request;
use opt_experiment::recipe::Recipe;
use opt_experiment::run::Run;
use opt_nn::device;
use opt_report::RecipeText;

use crate::common::{Common, default_out, normalise, passed_on, precision, root};
use crate::session::{finish, note, say_data, watch_for_stops};

/// The command line.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The recipe file (TOML).
    recipe: PathBuf,
    /// A PyTorch checkpoint as safetensors to start from, in place of the recipe's `weights`.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// The seed of weights and order.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// So many seeds, from --seed on: their mean, spread and single values are reported.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// A recipe as an example.
pub(crate) const HELP: &str = r#"A recipe:
  name = "resnet20"
  model = "resnet20"                # a network of the zoo: see docs/recipes.md
  weights = "start.safetensors"     # optional: a PyTorch checkpoint as safetensors, relative to this file
  [train]
  epochs = 4
  batch = 128
  lr = 0.05
  schedule = { one_cycle = { peak = 0.2, start = 0.1, end = 0.0 } }
  [quantize]                        # optional: integer networks of the result, an .opt file and a result line each
  bits = 8                          # of a weight, 2 to 8; activations have 8
  residual_add = ["fused", "explicit"]       # what happens to residual additions; one network for each
  calibration_images = 2000"#;

/// Trains, measures and writes.
pub(crate) fn run(options: Options) -> Result<()> {
    let mut recipe = Recipe::load(&options.recipe)?;
    if options.weights.is_some() {
        recipe.weights = options.weights;
    }
    normalise(&mut recipe, &options.common)?;
    let device = device::parse(&options.common.device)?;
    let limits = Limits {
        holdout: options.common.holdout,
        image_size: options.common.image_size,
        ..Limits::default()
    };
    let data = Data::load(&options.common.data, &root(), limits)?;
    say_data(&data, device);
    let seeds: Vec<u64> = (0..options.seeds)
        .map(|i| options.seed.wrapping_add(i))
        .collect();
    let request = Request {
        out: options.common.out.unwrap_or_else(|| {
            let seed = format!("seed {}", options.seed);
            let seeds = format!("{} seeds", options.seeds);
            let mut parts = vec!["train", &recipe.name, &seed];
            if options.seeds > 1 {
                parts.push(&seeds);
            }
            default_out(&parts, &data)
        }),
        profile: "train".to_owned(),
        experiments: vec!["train".to_owned()],
        recipes: vec![RecipeText {
            name: recipe.name.clone(),
            text: toml::to_string(&passed_on(&recipe))?,
        }],
        precision: precision(&[&recipe.train], device),
        seeds,
        shard: None,
        root: root(),
    };
    let stages = recipe_stages(&recipe)?;
    watch_for_stops()?;
    let notes = data.normalisation_notes(std::slice::from_ref(&recipe));
    let mut run = Run::start(request, data, device)?;
    note(&mut run, notes);
    run.write_info()?;
    run_stages(&mut run, &stages, None)?;
    finish(&mut run)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_recipe_in_the_help_is_one() {
        let text = HELP.split_once('\n').unwrap().1;
        let mut recipe: Recipe = toml::from_str(text).unwrap();
        recipe.check().unwrap();
        assert!(recipe.quantize.is_some());
        recipe.weights = Some("/somewhere/else/start.safetensors".into());
        let weights = passed_on(&recipe).weights.unwrap();
        assert_eq!(weights, Path::new("start.safetensors"));
    }
}
