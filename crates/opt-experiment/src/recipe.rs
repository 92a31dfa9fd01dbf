//! Recipes: how one network is trained and quantized, as TOML. Unknown keys are errors.

mod quantize;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use opt_data::augment::{AugmentConfig, Border, Crop, Flip};
use opt_nn::Precision;
use opt_nn::optimizer::{AdamWOptions, Averaging, OptimizerOptions, Rule, SgdOptions};
use opt_nn::train::TrainOptions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::renamed::from_toml;

pub use quantize::{Additions, OneOrMore, Quantize};

/// A network and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The name that results carry, and files: letters, digits, dashes and single dots.
    pub name: String,
    /// The zoo's name of the network, such as `resnet20`.
    pub model: String,
    /// A safetensors checkpoint to start from; relative to the recipe's file. Without it, seeded random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// What becomes of the classifier of `weights`; `new` where these images have other classes.
    #[serde(default, skip_serializing_if = "Head::is_imported")]
    #[schemars(extend("default" = Head::default()))]
    pub head: Head,
    /// The means per channel, on the scale 0 to 1, that images are normalised with: those that `weights` was trained with.
    /// With `std`; without both, those of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f32>>,
    /// The standard deviations per channel, on the scale 0 to 1; with `mean`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f32>>,
    /// What is done to the random weights before training, in this order; without `weights`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init: Vec<Init>,
    /// How the network is trained.
    pub train: Train,
    /// How the result is quantized; without it, not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantize>,
}

/// What becomes of the classifier of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// It is imported like every other layer.
    #[default]
    Imported,
    /// It starts from random weights.
    New,
}

impl Head {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_imported(&self) -> bool {
        *self == Self::Imported
    }
}

/// Another start than random weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Convolutions after the first begin as the identity: [`opt_nn::init::dirac`].
    Dirac,
    /// The first convolution whitens patches of the training images: [`opt_nn::init::whiten`]. Freeze its weight.
    Whiten,
}

/// A phase of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Passes over the training images; 0 evaluates the network as it is.
    pub epochs: usize,
    /// Images in a batch.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Peak learning rate, for a loss that is a mean over the batch.
    pub lr: f64,
    /// How the learning rate moves.
    #[serde(default)]
    pub schedule: Schedule,
    /// How gradients become steps.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Weight decay, on weights of convolutions and linear layers only.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// The learning rate of BatchNormalization's shifts is this many times the others'.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(extend("default" = one()))]
    pub norm_bias_lr: f64,
    /// Parameters that keep their values, by name, such as `stem.weight`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<String>,
    /// What becomes of the weights along the way.
    #[serde(default, skip_serializing_if = "Average::is_none")]
    #[schemars(extend("default" = Average::default()))]
    pub average: Average,
    /// The share of each label that is spread over all classes, 0 to less than 1.
    #[serde(default)]
    pub label_smoothing: f64,
    /// How training images are varied.
    #[serde(default)]
    pub augment: Augment,
    /// The arithmetic of convolutions in training.
    #[serde(default)]
    pub precision: TrainPrecision,
}

fn default_batch() -> usize {
    128
}
fn default_weight_decay() -> f64 {
    5e-4
}
fn one() -> f64 {
    1.0
}
fn is_one(factor: &f64) -> bool {
    *factor == 1.0
}

/// How gradients become steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd {
        /// Share of the last step that stays, 0 to less than 1.
        momentum: f64,
        /// Whether momentum has Nesterov's form.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay.
    #[serde(rename = "adamw")]
    AdamW {
        /// β1, of the moving mean of gradients, 0 to less than 1.
        #[serde(default = "default_beta1")]
        beta1: f64,
        /// β2, of the moving mean of their squares, 0 to less than 1.
        #[serde(default = "default_beta2")]
        beta2: f64,
        /// ε, beside the root of the mean square, more than 0.
        #[serde(default = "default_epsilon")]
        epsilon: f64,
    },
}

fn default_beta1() -> f64 {
    AdamWOptions::default().beta1
}
fn default_beta2() -> f64 {
    AdamWOptions::default().beta2
}
fn default_epsilon() -> f64 {
    AdamWOptions::default().epsilon
}

impl Default for Optimizer {
    fn default() -> Self {
        let SgdOptions { momentum, nesterov } = SgdOptions::default();
        Self::Sgd { momentum, nesterov }
    }
}

/// What becomes of the weights along the way.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Average {
    /// The last weights are the result.
    #[default]
    None,
    /// The exponential moving average is the result.
    Ema {
        /// The share of the average that stays in each step, 0 to less than 1.
        decay: f64,
    },
    /// Every so many steps the weights are set to their slow average.
    Lookahead {
        /// Steps from one average to the next, at least 1.
        every: u64,
        /// The share of the average that stays at the end of the training, 0 to 1.
        decay: f64,
    },
}

impl Average {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// How the learning rate moves over a phase.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The same throughout.
    #[default]
    Constant,
    /// Up to the peak, then down.
    OneCycle {
        /// Where the peak is, as a share of the phase, 0 to 1.
        peak: f64,
        /// The learning rate at the start, as a share of `lr`, 0 to 1.
        start: f64,
        /// The learning rate at the end, as a share of `lr`, 0 to 1.
        end: f64,
    },
    /// Up over a warm-up, then down on half a cosine.
    Cosine {
        /// Where the peak is, as a share of the phase, 0 to 1.
        warmup: f64,
        /// The learning rate at the end, as a share of `lr`, 0 to 1.
        end: f64,
    },
    /// Multiplied by a factor at fractions of the phase.
    Step {
        /// Shares of the phase, 0 to 1, ascending.
        at: Vec<f64>,
        /// What the learning rate is multiplied by at each, more than 0.
        factor: f64,
    },
}

/// How training images are varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Augment {
    /// Not at all.
    None,
    /// Shifted by up to 4 pixels (what comes in is black) and mirrored at random.
    #[default]
    CropFlip,
    /// Shifted by up to 2 pixels (what comes in is a reflection) and mirrored every other epoch.
    ReflectAlternate,
}

/// The arithmetic of convolutions in training. Reported accuracy is f32 or integer always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainPrecision {
    /// bfloat16 where the hardware has it, else f32.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
}

impl Train {
    /// The knobs of the loop on this device.
    #[must_use]
    pub fn options(&self, device: tch::Device) -> TrainOptions {
        let schedule = match &self.schedule {
            Schedule::Constant => opt_nn::schedule::Schedule::Constant,
            &Schedule::OneCycle { peak, start, end } => {
                opt_nn::schedule::Schedule::OneCycle { peak, start, end }
            }
            &Schedule::Cosine { warmup, end } => opt_nn::schedule::Schedule::Cosine { warmup, end },
            Schedule::Step { at, factor } => opt_nn::schedule::Schedule::Step {
                at: at.clone(),
                factor: *factor,
            },
        };
        TrainOptions {
            epochs: self.epochs,
            lr: self.lr,
            schedule,
            optimizer: OptimizerOptions {
                rule: match self.optimizer {
                    Optimizer::Sgd { momentum, nesterov } => {
                        Rule::Sgd(SgdOptions { momentum, nesterov })
                    }
                    Optimizer::AdamW {
                        beta1,
                        beta2,
                        epsilon,
                    } => Rule::AdamW(AdamWOptions {
                        beta1,
                        beta2,
                        epsilon,
                    }),
                },
                weight_decay: self.weight_decay,
                norm_bias_lr: self.norm_bias_lr,
                frozen: self.frozen.clone(),
                averaging: match self.average {
                    Average::None => Averaging::None,
                    Average::Ema { decay } => Averaging::Ema { decay },
                    Average::Lookahead { every, decay } => Averaging::Lookahead { every, decay },
                },
            },
            precision: match self.precision {
                TrainPrecision::Auto => Precision::for_training(device),
                TrainPrecision::F32 => Precision::F32,
                TrainPrecision::Bf16 => Precision::Bf16,
            },
        }
    }

    /// The arithmetic of this training for a result line; empty if there is none.
    #[must_use]
    pub fn precision_name(&self, device: tch::Device) -> &'static str {
        match self.epochs {
            0 => "",
            _ => self.options(device).precision.name(),
        }
    }

    /// The variation of images, for a set with this many channels.
    #[must_use]
    pub fn augmentation(&self, channels: usize) -> AugmentConfig {
        match self.augment {
            Augment::None => AugmentConfig::NONE,
            Augment::CropFlip => AugmentConfig {
                crop: Crop::Random {
                    padding: 4,
                    border: Border::Fill(vec![0; channels]),
                },
                flip: Flip::Random,
            },
            Augment::ReflectAlternate => AugmentConfig {
                crop: Crop::Random {
                    padding: 2,
                    border: Border::Reflect,
                },
                flip: Flip::Alternating,
            },
        }
    }

    /// Checks every number.
    ///
    /// # Errors
    ///
    /// Names the first key whose value makes no sense.
    pub fn check(&self) -> Result<()> {
        let unit = |x: f64| (0.0..=1.0).contains(&x);
        ensure!(
            self.epochs <= 100_000,
            "epochs is {}, expected at most 100,000",
            self.epochs
        );
        ensure!(self.batch > 0, "batch is 0, expected at least 1");
        ensure!(
            self.lr.is_finite() && self.lr > 0.0,
            "lr is {}, expected a positive number",
            self.lr
        );
        match self.optimizer {
            Optimizer::Sgd { momentum, nesterov } => ensure!(
                (0.0..1.0).contains(&momentum) && (momentum > 0.0 || !nesterov),
                "optimizer.sgd: momentum is {momentum} and nesterov {nesterov}, expected 0 to less than 1, and more than 0 \
                 for nesterov"
            ),
            Optimizer::AdamW {
                beta1,
                beta2,
                epsilon,
            } => ensure!(
                (0.0..1.0).contains(&beta1)
                    && (0.0..1.0).contains(&beta2)
                    && epsilon > 0.0
                    && epsilon < 1.0,
                "optimizer.adamw: beta1 {beta1} and beta2 {beta2} must lie between 0 and 1, epsilon {epsilon} above 0"
            ),
        }
        match self.average {
            Average::None => {}
            Average::Ema { decay } => ensure!(
                (0.0..1.0).contains(&decay),
                "average.ema: decay is {decay}, expected 0 to less than 1"
            ),
            Average::Lookahead { every, decay } => ensure!(
                every > 0 && unit(decay),
                "average.lookahead: every is {every} and decay {decay}, expected 1 or more steps and 0 to 1"
            ),
        }
        ensure!(
            self.norm_bias_lr.is_finite() && self.norm_bias_lr >= 0.0,
            "norm_bias_lr is {}, expected 0 or more",
            self.norm_bias_lr
        );
        ensure!(
            self.weight_decay.is_finite() && self.weight_decay >= 0.0,
            "weight_decay is {}, expected 0 or more",
            self.weight_decay
        );
        ensure!(
            (0.0..1.0).contains(&self.label_smoothing),
            "label_smoothing is {}, expected 0 to less than 1",
            self.label_smoothing
        );
        match &self.schedule {
            Schedule::Constant => {}
            Schedule::OneCycle { peak, start, end } => ensure!(
                unit(*peak) && unit(*start) && unit(*end),
                "schedule.one_cycle: peak {peak}, start {start} and end {end} must lie between 0 and 1"
            ),
            Schedule::Cosine { warmup, end } => ensure!(
                unit(*warmup) && unit(*end),
                "schedule.cosine: warmup {warmup} and end {end} must lie between 0 and 1"
            ),
            Schedule::Step { at, factor } => ensure!(
                at.iter().all(|a| unit(*a)) && at.is_sorted() && *factor > 0.0,
                "schedule.step: at {at:?} must ascend between 0 and 1 and factor {factor} be positive"
            ),
        }
        Ok(())
    }
}

impl Recipe {
    /// Reads a recipe file.
    ///
    /// # Errors
    ///
    /// Names the file and the key.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the recipe {}", path.display()))?;
        let mut recipe: Self = from_toml(&text)
            .with_context(|| format!("the recipe {} is not valid", path.display()))?;
        recipe
            .check()
            .with_context(|| format!("the recipe {} is not valid", path.display()))?;
        if let Some(weights) = &mut recipe.weights {
            *weights = path.parent().unwrap_or(Path::new(".")).join(&*weights);
        }
        Ok(recipe)
    }

    /// Checks every number and the network's name.
    ///
    /// # Errors
    ///
    /// Names the key.
    pub fn check(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
        ensure!(
            !self.name.is_empty() && self.name.chars().all(plain) && !self.name.contains(".."),
            "name is `{}`, expected letters, digits, dashes and single dots: files are called after it",
            self.name
        );
        self.train.check().context("in [train]")?;
        check_normalisation(self.mean.as_deref(), self.std.as_deref())?;
        let model = opt_core::zoo::build(&self.model, &opt_core::Task::cifar10(), 0)
            .context("in key `model`")?;
        if let Some(name) = self
            .train
            .frozen
            .iter()
            .find(|n| !model.params.contains_key(*n))
        {
            bail!("frozen: `{}` has no parameter `{name}`", self.model);
        }
        if let Some(quantize) = &self.quantize {
            quantize.check(&model).context("in [quantize]")?;
        }
        Ok(())
    }
}

/// Checks what images are to be normalised with.
///
/// # Errors
///
/// One without the other, different numbers of channels, or values that no images on the scale 0 to 1 have.
pub fn check_normalisation(mean: Option<&[f32]>, std: Option<&[f32]>) -> Result<()> {
    let (mean, std) = match (mean, std) {
        (None, None) => return Ok(()),
        (Some(mean), Some(std)) => (mean, std),
        _ => bail!("of mean and std there is one, expected both or none"),
    };
    ensure!(
        mean.len() == std.len() && !mean.is_empty(),
        "mean has {} channels and std {}, expected one number for each channel of the images",
        mean.len(),
        std.len()
    );
    ensure!(
        mean.iter().all(|m| (0.0..=1.0).contains(m)),
        "mean is {mean:?}, expected numbers from 0 to 1; divide by 255 what is on the scale of bytes"
    );
    ensure!(
        std.iter().all(|s| *s > 0.0 && *s <= 1.0),
        "std is {std:?}, expected numbers above 0 and up to 1; divide by 255 what is on the scale of bytes"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
name = "test"
model = "resnet20"
[train]
epochs = 2
lr = 0.1
schedule = { one_cycle = { peak = 0.2, start = 0.1, end = 0.0 } }
"#;

    fn parse(text: &str) -> Result<Recipe> {
        let recipe: Recipe = toml::from_str(text)?;
        recipe.check()?;
        Ok(recipe)
    }

    #[test]
    fn defaults_are_filled_in_and_survive_writing() {
        let recipe = parse(SOUND).unwrap();
        let momentum = Optimizer::Sgd {
            momentum: 0.9,
            nesterov: true,
        };
        assert_eq!(
            (recipe.train.batch, recipe.train.optimizer),
            (128, momentum)
        );
        let again = parse(&toml::to_string(&recipe).unwrap()).unwrap();
        assert_eq!(again, recipe);
    }

    #[test]
    fn every_recipe_of_the_repository_is_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
        let mut found = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if let Err(error) = parse(&std::fs::read_to_string(&path).unwrap()) {
                panic!("{}: {error:#}", path.display());
            }
            found += 1;
        }
        assert!(found >= 4, "{found} recipes");
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            // A key that does not exist.
            ("epochs = 2", "epoch = 2", "unknown field `epoch`"),
            // A key that is missing.
            ("lr = 0.1", "", "missing field `lr`"),
            // Numbers that make no sense.
            ("lr = 0.1", "lr = -1.0", "lr is -1"),
            ("lr = 0.1", "lr = nan", "lr is NaN"),
            (
                "epochs = 2",
                "epochs = 1000000000000",
                "epochs is 1000000000000",
            ),
            // Normalisation that no images have.
            (
                "[train]",
                "mean = [0.5]\n[train]",
                "there is one, expected both",
            ),
            (
                "[train]",
                "mean = [0.5, 0.5]\nstd = [0.2]\n[train]",
                "mean has 2 channels and std 1",
            ),
            (
                "[train]",
                "mean = [125.3]\nstd = [63.0]\n[train]",
                "mean is [125.3], expected numbers from 0 to 1; divide by 255",
            ),
            (
                "[train]",
                "mean = [0.5]\nstd = [0.0]\n[train]",
                "std is [0.0], expected numbers above 0",
            ),
            (
                "[train]",
                "head = \"old\"\n[train]",
                "unknown variant `old`",
            ),
            // A name that would lead out of the folder.
            ("\"test\"", "\"../test\"", "name is `../test`"),
            ("epochs = 2", "epochs = 2\nbatch = 0", "batch is 0"),
            (
                "epochs = 2",
                "epochs = 2\noptimizer = { sgd = { momentum = 1.0, nesterov = true } }",
                "momentum is 1",
            ),
            (
                "epochs = 2",
                "epochs = 2\noptimizer = { adamw = { beta3 = 0.5 } }",
                "unexpected keys in table: beta3",
            ),
            (
                "epochs = 2",
                "epochs = 2\naverage = { ema = { decay = 1.0 } }",
                "decay is 1",
            ),
            (
                "epochs = 2",
                "epochs = 2\nfrozen = [\"stem\"]",
                "no parameter `stem`",
            ),
            ("peak = 0.2", "peak = 2.0", "peak 2"),
            // Quantization: the rest is in its own file.
            (
                "[train]",
                "[quantize]\nbits = 9\n[train]",
                "in [quantize]: bits is 9",
            ),
            (
                "[train]",
                "[quantize]\nwidth = 8\n[train]",
                "unknown field `width`",
            ),
            // A network and a schedule that do not exist.
            ("resnet20", "resnet21", "no network `resnet21`"),
            ("one_cycle", "two_cycle", "unknown variant `two_cycle`"),
        ];
        for (from, to, expect) in cases {
            let error = format!("{:#}", parse(&SOUND.replace(from, to)).unwrap_err());
            assert!(error.contains(expect), "{to}: {error}");
        }
    }
}
