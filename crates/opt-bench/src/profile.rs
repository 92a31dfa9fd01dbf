//! Profiles: which experiments are run with which recipes, as TOML inside the program.

use std::fmt::Display;
use std::path::Path;

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

impl Prune {
    fn check(&self) -> Result<()> {
        self.fine_tune.check().context("fine_tune")?;
        ensure!(
            (2..=self.fine_tune.epochs).contains(&self.rounds),
            "rounds is {}, expected 2 to the {} epochs of fine_tune, so that each round has one",
            self.rounds,
            self.fine_tune.epochs
        );
        let outside = |s: &&f64| !(**s > 0.0 && **s < 1.0);
        let wrong = self.sparsities.iter().find(outside);
        ensure!(
            wrong.is_none(),
            "sparsities has {wrong:?}, expected more than 0 and less than 1"
        );
        let in_names: Vec<f64> = self.sparsities.iter().map(|s| named_percent(*s)).collect();
        distinct(&in_names, "names have three decimals").context("sparsities, in percent")?;
        Ok(())
    }
}

impl Quantize {
    fn check(&self) -> Result<()> {
        self.aware_train.check().context("aware_train")?;
        let bits = |b: &&u8| !(2..=8).contains(*b);
        let wrong = self.post_training.iter().chain(&self.aware).find(bits);
        ensure!(
            wrong.is_none(),
            "a width is {wrong:?} bits, expected 2 to 8"
        );
        let wrong = self.weight_levels.iter().find(|l| !(3..=256).contains(*l));
        ensure!(
            wrong.is_none(),
            "weight_levels has {wrong:?}, expected 3 to 256"
        );
        let bits: Vec<u8> = self.weight_levels.iter().map(|l| bits_of(*l)).collect();
        distinct(&bits, "take one number of levels for each number of bits")
            .context("weight_levels, in bits")?;
        distinct(&self.post_training, "once is enough").context("post_training")?;
        distinct(&self.aware, "once is enough").context("aware")?;
        Ok(())
    }
}

impl Pipeline {
    fn check(&self) -> Result<()> {
        self.fine_tune.check().context("fine_tune")?;
        self.aware_train.check().context("aware_train")?;
        check_teaching(self.temperature, self.w_kd, self.w_ce)?;
        let keep = self.keep_channels;
        ensure!(
            keep > 0.0 && keep < 1.0,
            "keep_channels is {keep}, expected more than 0 and less than 1"
        );
        ensure!(
            self.multiple_of > 0,
            "multiple_of is 0, expected at least 1"
        );
        ensure!(
            (2..=8).contains(&self.bits),
            "bits is {}, expected 2 to 8",
            self.bits
        );
        Ok(())
    }
}

/// A sparsity as the names of variants give it: in percent with at most three decimals.
#[must_use]
pub fn named_percent(sparsity: f64) -> f64 {
    (100_000.0 * sparsity).round() / 1000.0
}

/// The bits that a code of so many levels needs.
#[must_use]
pub fn bits_of(levels: u16) -> u8 {
    let bits = u16::BITS - levels.saturating_sub(1).leading_zeros();
    u8::try_from(bits).unwrap_or(u8::MAX)
}

/// Names of variants are made of these values, so each may be there once.
fn distinct<T: PartialEq + Display>(values: &[T], mend: &str) -> Result<()> {
    let twice = (1..values.len()).find(|&i| values[..i].contains(&values[i]));
    match twice {
        Some(i) => bail!("{} is there twice; {mend}", values[i]),
        None => Ok(()),
    }
}

fn check_teaching(temperature: f64, w_kd: f64, w_ce: f64) -> Result<()> {
    ensure!(
        temperature.is_finite() && temperature > 0.0,
        "a temperature is {temperature}, expected a positive number"
    );
    ensure!(
        [w_kd, w_ce].iter().all(|w| w.is_finite() && *w >= 0.0) && w_kd + w_ce > 0.0,
        "w_kd is {w_kd} and w_ce is {w_ce}, expected 0 or more and not both 0"
    );
    Ok(())
}

impl Profile {
    /// A built-in profile by its name, or one of your own by its file.
    ///
    /// # Errors
    ///
    /// Names the file and the key; for a name that is neither, the names that exist.
    pub fn load(name_or_file: &str) -> Result<Self> {
        if !name_or_file.ends_with(".toml") {
            return Self::built_in(name_or_file);
        }
        let text = std::fs::read_to_string(name_or_file)
            .with_context(|| format!("reading the profile {name_or_file}"))?;
        let mut profile = Self::parse(&text)
            .with_context(|| format!("the profile {name_or_file} is not valid"))?;
        let folder = Path::new(name_or_file).parent().unwrap_or(Path::new("."));
        for recipe in &mut profile.baseline {
            recipe.weights = recipe.weights.as_ref().map(|w| folder.join(w));
        }
        Ok(profile)
    }

    /// The built-in profile of this name.
    ///
    /// # Errors
    ///
    /// Lists the names.
    pub fn built_in(name: &str) -> Result<Self> {
        let Some((_, text)) = PROFILES.iter().find(|(n, _)| *n == name) else {
            let names: Vec<&str> = PROFILES.iter().map(|(n, _)| *n).collect();
            bail!(
                "no profile `{name}`; there are {}, and files that end in .toml",
                names.join(", ")
            );
        };
        Self::parse(text).with_context(|| format!("the built-in profile `{name}`"))
    }

    /// Whether there is anything to do for an experiment.
    #[must_use]
    pub fn has(&self, experiment: &str) -> bool {
        match experiment {
            "baseline" => !self.baseline.is_empty(),
            "prune" => !self.prune.is_empty(),
            "quantize" => !self.quantize.is_empty(),
            "distill" => !self.distill.is_empty(),
            _ => !self.pipeline.is_empty(),
        }
    }

    /// What of this profile is about the baseline `name`: its blocks, and the teachers that they need.
    ///
    /// # Errors
    ///
    /// Lists the baselines if there is none of this name.
    pub fn only(mut self, name: &str) -> Result<Self> {
        self.recipe(name)?;
        self.prune.retain(|p| p.base == name);
        self.quantize.retain(|q| q.base == name);
        self.distill.retain(|d| d.student == name);
        self.pipeline.retain(|p| p.base == name);
        let teachers: Vec<&String> = self.distill.iter().map(|d| &d.teacher).collect();
        self.baseline
            .retain(|recipe| recipe.name == name || teachers.contains(&&recipe.name));
        Ok(self)
    }

    /// Parses and checks a profile.
    ///
    /// # Errors
    ///
    /// Names the key or the base that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let profile: Self = toml::from_str(text)?;
        ensure!(profile.seeds > 0, "seeds is 0, expected at least 1");
        for (key, images) in [
            ("train_images", profile.train_images),
            ("test_images", profile.test_images),
            ("calibration_images", Some(profile.calibration_images)),
        ] {
            ensure!(
                images.is_none_or(|n| (1..=10_000_000).contains(&n)),
                "{key} is {images:?}, expected 1 to 10,000,000"
            );
        }
        for (i, recipe) in profile.baseline.iter().enumerate() {
            ensure!(
                profile.baseline[..i].iter().all(|r| r.name != recipe.name),
                "two baselines are called `{}`",
                recipe.name
            );
            recipe
                .check()
                .with_context(|| format!("in the baseline `{}`", recipe.name))?;
            ensure!(
                recipe.quantize.is_none(),
                "in the baseline `{}`: `quantize` belongs into a recipe of its own; a profile quantizes in [[quantize]]",
                recipe.name
            );
        }
        let bases = |of: Vec<&String>, section: &str| -> Result<()> {
            let models = of.into_iter().map(|base| Ok(&profile.recipe(base)?.model));
            let models = models.collect::<Result<Vec<_>>>()?;
            distinct(
                &models,
                "its variants would have the names of others: put it into a profile of its own",
            )
            .with_context(|| format!("in {section}, the network of `base`"))
        };
        bases(profile.prune.iter().map(|p| &p.base).collect(), "[[prune]]")?;
        bases(
            profile.quantize.iter().map(|q| &q.base).collect(),
            "[[quantize]]",
        )?;
        bases(
            profile.pipeline.iter().map(|p| &p.base).collect(),
            "[[pipeline]]",
        )?;
        for p in &profile.prune {
            p.check().context("in [[prune]]")?;
        }
        for q in &profile.quantize {
            q.check().context("in [[quantize]]")?;
        }
        for d in &profile.distill {
            profile.recipe(&d.teacher)?;
            profile.recipe(&d.student)?;
            for temperature in &d.temperatures {
                check_teaching(*temperature, d.w_kd, d.w_ce).context("in [[distill]]")?;
            }
            let smoothing = d.control_smoothing;
            ensure!(
                (0.0..1.0).contains(&smoothing),
                "in [[distill]]: control_smoothing is {smoothing}, expected 0 to less than 1"
            );
        }
        let lessons = profile.distill.iter().flat_map(|d| {
            let with = |t: &f64| format!("{} taught by {}, T = {t}", d.student, d.teacher);
            d.temperatures.iter().map(with)
        });
        distinct(&lessons.collect::<Vec<_>>(), "once is enough").context("in [[distill]]")?;
        for p in &profile.pipeline {
            p.check().context("in [[pipeline]]")?;
        }
        Ok(profile)
    }

    /// Whether block `i` of [[distill]] is the first with its student and smoothing: teachers share the control without one.
    #[must_use]
    pub fn trains_control(&self, i: usize) -> bool {
        let arm = |d: &Distill| (d.student.clone(), d.control_smoothing);
        let mut earlier = self.distill[..i].iter();
        earlier.all(|d| arm(d) != arm(&self.distill[i]))
    }

    /// Every phase of training.
    #[must_use]
    pub fn trains(&self) -> Vec<&Train> {
        let baseline = self.baseline.iter().map(|r| &r.train);
        let prune = self.prune.iter().map(|p| &p.fine_tune);
        let quantize = self.quantize.iter().map(|q| &q.aware_train);
        let pipeline = self
            .pipeline
            .iter()
            .flat_map(|p| [&p.fine_tune, &p.aware_train]);
        baseline
            .chain(prune)
            .chain(quantize)
            .chain(pipeline)
            .collect()
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
        assert_eq!(
            error,
            "no profile `fast`; there are smoke, quick, full, and files that end in .toml"
        );
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
    fn mistakes_are_named() {
        let (_, text) = PROFILES[0];
        let cases = [
            ("rounds = 2", "turns = 2", "unknown field `turns`"),
            // A recipe's table, which no experiment would read.
            (
                "[baseline.train]",
                "[baseline.quantize]\nbits = 8\n[baseline.train]",
                "`quantize` belongs into a recipe of its own",
            ),
            (
                "rounds = 2",
                "rounds = 3",
                "rounds is 3, expected 2 to the 2 epochs",
            ),
            (
                "train_images = 2000",
                "train_images = 0",
                "train_images is Some(0)",
            ),
            (
                "name = \"small\"",
                "name = \"large\"",
                "two baselines are called `large`",
            ),
            (
                "sparsities = [0.7]",
                "sparsities = [1.0]",
                "sparsities has Some(1.0)",
            ),
            (
                "weight_levels = [16]",
                "weight_levels = [0]",
                "weight_levels has Some(0)",
            ),
            (
                "post_training = [8, 4]",
                "post_training = [9]",
                "a width is Some(9) bits",
            ),
            // Their variants would overwrite one another.
            (
                "sparsities = [0.7]",
                "sparsities = [0.7, 0.700001]",
                "sparsities, in percent: 70 is there twice",
            ),
            (
                "weight_levels = [16]",
                "weight_levels = [16, 9]",
                "weight_levels, in bits: 4 is there twice",
            ),
            (
                "post_training = [8, 4]",
                "post_training = [8, 8]",
                "post_training: 8 is there twice",
            ),
            (
                "temperatures = [4.0]",
                "temperatures = [4.0, 4.0]",
                "small taught by large, T = 4 is there twice",
            ),
            (
                "keep_channels = 0.75",
                "keep_channels = 0.0",
                "keep_channels is 0",
            ),
            (
                "temperatures = [4.0]",
                "temperatures = [0.0]",
                "a temperature is 0",
            ),
        ];
        for (from, to, expect) in cases {
            assert!(text.contains(from), "{from}");
            let error = format!("{:#}", Profile::parse(&text.replace(from, to)).unwrap_err());
            assert!(error.contains(expect), "{to}: {error}");
        }
    }

    #[test]
    fn two_networks_of_one_kind_need_a_profile_each() {
        let mut profile = Profile::built_in("smoke").unwrap();
        let mut twin = profile.recipe(&profile.prune[0].base).unwrap().clone();
        twin.name = "twin".to_owned();
        profile.baseline.push(twin);
        let mut again = profile.prune[0].clone();
        again.base = "twin".to_owned();
        profile.prune.push(again);
        let text = toml::to_string(&profile).unwrap();
        let error = format!("{:#}", Profile::parse(&text).unwrap_err());
        assert!(
            error.contains("in [[prune]]") && error.contains("is there twice"),
            "{error}"
        );
    }

    #[test]
    fn teachers_of_one_student_share_its_control() {
        let mut profile = Profile::built_in("smoke").unwrap();
        let mut again = profile.distill[0].clone();
        again.teacher = "source".to_owned();
        profile.distill.push(again.clone());
        again.control_smoothing += 0.1;
        profile.distill.push(again);
        let trained: Vec<bool> = (0..3).map(|i| profile.trains_control(i)).collect();
        assert_eq!(trained, [true, false, true]);
    }

    #[test]
    fn bits_hold_their_levels() {
        for (levels, bits) in [(3, 2), (4, 2), (5, 3), (16, 4), (17, 5), (256, 8)] {
            assert_eq!(bits_of(levels), bits, "{levels}");
        }
    }

    #[test]
    fn one_base_comes_with_its_teacher_and_nothing_else() {
        let full = Profile::built_in("full").unwrap();
        let only = full.clone().only("source").unwrap();
        let names: Vec<&str> = only.baseline.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["source", "teacher"]);
        assert!(only.prune.iter().all(|p| p.base == "source"));
        assert_eq!((only.prune.len(), only.distill.len()), (1, 1));
        // A teacher alone brings none of its students.
        let teacher = full.clone().only("teacher").unwrap();
        assert_eq!((teacher.baseline.len(), teacher.distill.len()), (1, 0));
        let error = format!("{:#}", full.only("sauce").unwrap_err());
        assert!(
            error.contains("sauce") && error.contains("source"),
            "{error}"
        );
    }
}
