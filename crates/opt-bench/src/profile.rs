//! Profiles: which experiments are run with which recipes, as TOML inside the program.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::recipe::{Recipe, Train};

/// Names and texts of the built-in profiles.
pub const PROFILES: &[(&str, &str)] = &[
    ("smoke", include_str!("../profiles/smoke.toml")),
    ("quick", include_str!("../profiles/quick.toml")),
    ("full", include_str!("../profiles/full.toml")),
];

/// The experiments, in the order in which `all` runs them, with what each shows.
pub const EXPERIMENTS: &[(&str, &str)] = &[
    (
        "baseline",
        "trains the reference networks and the source text's network",
    ),
    (
        "prune",
        "one-shot against iterative magnitude pruning at several sparsities, beside training on without pruning",
    ),
    (
        "quantize",
        "the source text's formula against affine, symmetric and codebook weights; bit widths, post-training against quantization-aware",
    ),
    (
        "distill",
        "a small network with a larger one as teacher, beside the same student alone and with label smoothing",
    ),
    (
        "pipeline",
        "removes channels, fine-tunes with the unpruned network as teacher, quantizes, and writes the final model",
    ),
];

/// A set of experiments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// One sentence for `--help` and the plan.
    pub about: String,
    /// Seeds of every variant, unless `--seeds` says otherwise.
    pub seeds: usize,
    /// Uses only the first so many training images.
    #[serde(default)]
    pub train_images: Option<usize>,
    /// Uses only the first so many test images.
    #[serde(default)]
    pub test_images: Option<usize>,
    /// Training images, without augmentation, that calibration sees.
    pub calibration_images: usize,
    /// The networks that are trained first; the other sections name them as base.
    pub baseline: Vec<Recipe>,
    /// Pruning, once per base.
    #[serde(default)]
    pub prune: Vec<Prune>,
    /// Quantization, once per base.
    #[serde(default)]
    pub quantize: Vec<Quantize>,
    /// Distillation, once per pair.
    #[serde(default)]
    pub distill: Vec<Distill>,
    /// The whole chain, once per base.
    #[serde(default)]
    pub pipeline: Vec<Pipeline>,
}

/// Magnitude pruning of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// The baseline's name.
    pub base: String,
    /// Shares of the weights that are removed, 0 to 1.
    pub sparsities: Vec<f64>,
    /// Rounds of the iterative schedule; they share the fine-tuning epochs.
    pub rounds: usize,
    /// Where weights compete.
    pub scopes: Vec<Scope>,
    /// Fine-tuning, the same number of epochs for every variant.
    pub fine_tune: Train,
    /// Single weights whose removal is measured exactly and compared with its approximations; 0 leaves this out.
    #[serde(default)]
    pub likelihood_weights: usize,
}

/// Where weights compete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All layers together.
    Global,
    /// Each layer on its own.
    PerLayer,
}

/// Quantization of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantize {
    /// The baseline's name.
    pub base: String,
    /// Levels of the source text's formula, of affine and symmetric codes and of codebooks; weights only, f32
    /// activations.
    pub weight_levels: Vec<u16>,
    /// Weight bits of integer networks without training, 8-bit activations.
    pub post_training: Vec<u8>,
    /// Weight bits of integer networks that are trained on with fake quantization.
    pub aware: Vec<u8>,
    /// That training.
    pub aware_train: Train,
}

/// Distillation of one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    /// The large network: a baseline's name.
    pub teacher: String,
    /// The small network: a baseline's name. That baseline is the student alone.
    pub student: String,
    /// Temperatures to try.
    pub temperatures: Vec<f64>,
    /// Weight of the teacher's term.
    pub w_kd: f64,
    /// Weight of the labels' term.
    pub w_ce: f64,
    /// Label smoothing of the control arm without a teacher.
    pub control_smoothing: f64,
}

/// Prune, fine-tune with a teacher, quantize.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The baseline's name; it is the teacher too.
    pub base: String,
    /// Share of the channels that stays.
    pub keep_channels: f64,
    /// Channel counts are multiples of this number.
    pub multiple_of: usize,
    /// Fine-tuning with the unpruned network as teacher.
    pub fine_tune: Train,
    /// Its temperature.
    pub temperature: f64,
    /// Weight of the teacher's term.
    pub w_kd: f64,
    /// Weight of the labels' term.
    pub w_ce: f64,
    /// Weight bits of the final network.
    pub bits: u8,
    /// Training with fake quantization, taught at temperature 1.
    pub aware_train: Train,
}

impl Profile {
    /// The built-in profile of this name.
    ///
    /// # Errors
    ///
    /// Lists the names.
    pub fn built_in(name: &str) -> Result<Self> {
        let Some((_, text)) = PROFILES.iter().find(|(n, _)| *n == name) else {
            let names: Vec<&str> = PROFILES.iter().map(|(n, _)| *n).collect();
            bail!("no profile `{name}`; there are {}", names.join(", "));
        };
        Self::parse(text).with_context(|| format!("the built-in profile `{name}`"))
    }

    /// Parses and checks a profile.
    ///
    /// # Errors
    ///
    /// Names the key or the base that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let profile: Self = toml::from_str(text)?;
        ensure!(profile.seeds > 0, "seeds is 0, expected at least 1");
        ensure!(profile.calibration_images > 0, "calibration_images is 0");
        for recipe in &profile.baseline {
            recipe
                .check()
                .with_context(|| format!("in the baseline `{}`", recipe.name))?;
        }
        for p in &profile.prune {
            profile.recipe(&p.base)?;
            p.fine_tune.check().context("in [[prune]] fine_tune")?;
            ensure!(p.rounds > 0, "[[prune]] rounds is 0");
        }
        for q in &profile.quantize {
            profile.recipe(&q.base)?;
            q.aware_train
                .check()
                .context("in [[quantize]] aware_train")?;
        }
        for d in &profile.distill {
            profile.recipe(&d.teacher)?;
            profile.recipe(&d.student)?;
        }
        for p in &profile.pipeline {
            profile.recipe(&p.base)?;
            p.fine_tune.check().context("in [[pipeline]] fine_tune")?;
            p.aware_train
                .check()
                .context("in [[pipeline]] aware_train")?;
        }
        Ok(profile)
    }

    /// The baseline of this name.
    ///
    /// # Errors
    ///
    /// Lists the names.
    pub fn recipe(&self, name: &str) -> Result<&Recipe> {
        self.baseline
            .iter()
            .find(|r| r.name == name)
            .with_context(|| {
                let names: Vec<&str> = self.baseline.iter().map(|r| r.name.as_str()).collect();
                format!("no baseline `{name}`; there are {}", names.join(", "))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_are_sound_and_have_every_experiment() {
        for (name, _) in PROFILES {
            let profile = Profile::built_in(name).unwrap();
            assert!(
                !profile.prune.is_empty() && !profile.quantize.is_empty(),
                "{name}"
            );
            assert!(
                !profile.distill.is_empty() && !profile.pipeline.is_empty(),
                "{name}"
            );
        }
        let error = Profile::built_in("fast").unwrap_err().to_string();
        assert_eq!(error, "no profile `fast`; there are smoke, quick, full");
    }

    #[test]
    fn a_base_that_is_not_there_is_named() {
        let (_, text) = PROFILES[0];
        let base = Profile::parse(text).unwrap().prune[0].base.clone();
        let broken = text.replace(&format!("base = \"{base}\""), "base = \"nothing\"");
        let error = Profile::parse(&broken).unwrap_err().to_string();
        assert!(error.contains("no baseline `nothing`"), "{error}");
    }

    #[test]
    fn unknown_keys_are_errors() {
        let (_, text) = PROFILES[0];
        let broken = text.replace("rounds", "turns");
        assert!(Profile::parse(&broken).is_err());
    }
}
