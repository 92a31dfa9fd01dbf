//! Profiles: which experiments are run with which recipes, as TOML inside the program.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use opt_distill::Kd;
use opt_report::named_percent;
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
        "a small network with a larger one as teacher, beside the same student alone: as it is, with label smoothing, at other learning rates, with a loss that weighs as much",
    ),
    (
        "pipeline",
        "removes channels, fine-tunes with the unpruned network as teacher (and, beside it, without), quantizes, and writes the final model",
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
    /// Rounds of the iterative schedule: a cut and then training in each.
    pub rounds: usize,
    /// Epochs of every round before the last. One-shot pruning and the control have these rounds too, without a cut.
    pub round_epochs: usize,
    /// Where weights compete.
    pub scopes: Vec<Scope>,
    /// Fine-tuning after the last cut: the epochs of the last round, the same for every variant.
    pub fine_tune: Train,
    /// Single weights whose removal is measured exactly and compared with its approximations; 0 leaves this out.
    #[serde(default)]
    pub likelihood_weights: usize,
    /// Sets of weights, and as many channels, whose removal is measured exactly; 0 leaves this out.
    #[serde(default)]
    pub likelihood_sets: usize,
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

impl Display for Scope {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "global",
            Self::PerLayer => "per_layer",
        })
    }
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
    /// Label smoothing of a control arm without a teacher; the student's own gives none.
    pub control_smoothing: f64,
    /// Learning rates of further control arms; the student's own gives none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub control_lrs: Vec<f64>,
    /// Whether there is a control arm for each temperature whose cross-entropy weighs as much as the taught student's loss,
    /// `w_ce + w_kd · T²`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub control_weight: bool,
    /// Learning rates of further taught arms, for each temperature; the student's own gives none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taught_lrs: Vec<f64>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// How a network is trained without a teacher, to be compared with a taught one: as its recipe says, but for one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Control {
    /// With this label smoothing.
    Smoothing(f64),
    /// At this learning rate.
    Lr(f64),
    /// With a cross-entropy of this weight.
    Weight(f64),
}

impl Display for Control {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Smoothing(smoothing) => write!(f, "label smoothing {smoothing}"),
            Self::Lr(lr) => write!(f, "lr {lr}"),
            Self::Weight(weight) => write!(f, "loss × {weight}"),
        }
    }
}

/// How a student is taught.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lesson {
    /// The temperature.
    pub temperature: f64,
    /// Another learning rate than its recipe's.
    pub lr: Option<f64>,
}

impl Display for Lesson {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "T = {}", self.temperature)?;
        match self.lr {
            Some(lr) => write!(f, ", lr {lr}"),
            None => Ok(()),
        }
    }
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
    /// Learning rates of further arms that are fine-tuned without a teacher; the fine-tuning's own gives none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub control_lrs: Vec<f64>,
    /// Whether there is an arm without a teacher whose cross-entropy weighs as much as the taught network's loss,
    /// `w_ce + w_kd · T²`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub control_weight: bool,
    /// Weight bits of the final network.
    pub bits: u8,
    /// Training with fake quantization, taught at temperature 1.
    pub aware_train: Train,
}

impl Prune {
    /// The training of each round, in order. Every variant has the same: they differ in when what is cut.
    #[must_use]
    pub fn round_trains(&self) -> Vec<Train> {
        let before = Train {
            epochs: self.round_epochs,
            ..self.fine_tune.clone()
        };
        let mut rounds = vec![before; self.rounds - 1];
        rounds.push(self.fine_tune.clone());
        rounds
    }

    /// The epochs of all rounds.
    #[must_use]
    pub fn epochs(&self) -> usize {
        self.round_epochs * (self.rounds - 1) + self.fine_tune.epochs
    }

    fn check(&self) -> Result<()> {
        self.fine_tune.check().context("fine_tune")?;
        ensure!(
            (2..=100).contains(&self.rounds),
            "rounds is {}, expected 2 to 100",
            self.rounds
        );
        for (key, epochs) in [
            ("round_epochs", self.round_epochs),
            ("fine_tune.epochs", self.fine_tune.epochs),
        ] {
            ensure!(
                (1..=10_000).contains(&epochs),
                "{key} is {epochs}, expected 1 to 10,000, so that each of the {} rounds trains",
                self.rounds
            );
        }
        let outside = |s: &&f64| !(**s > 0.0 && **s < 1.0);
        let wrong = self.sparsities.iter().find(outside);
        ensure!(
            wrong.is_none(),
            "sparsities has {wrong:?}, expected more than 0 and less than 1"
        );
        let in_names: Vec<f64> = self.sparsities.iter().map(|s| named_percent(*s)).collect();
        distinct(&in_names, "names have three decimals").context("sparsities, in percent")?;
        distinct(&self.scopes, "once is enough").context("scopes")
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

impl Distill {
    /// The arms without a teacher of a student with this recipe, beside the student as it is.
    #[must_use]
    pub fn controls(&self, student: &Train) -> Vec<Control> {
        let mut controls = vec![Control::Smoothing(self.control_smoothing)];
        controls.extend(self.control_lrs.iter().map(|lr| Control::Lr(*lr)));
        if self.control_weight {
            let weights = self.temperatures.iter().map(|t| self.kd(*t));
            controls.extend(weights.map(|kd| Control::Weight(weight_of(&kd))));
        }
        only_other(controls, student)
    }

    /// The taught arms of a student with this recipe.
    #[must_use]
    pub fn lessons(&self, student: &Train) -> Vec<Lesson> {
        let other = self.taught_lrs.iter().filter(|lr| **lr != student.lr);
        let lrs: Vec<Option<f64>> = [None]
            .into_iter()
            .chain(other.map(|lr| Some(*lr)))
            .collect();
        let of = |temperature: &f64| {
            let temperature = *temperature;
            lrs.iter().map(move |&lr| Lesson { temperature, lr })
        };
        self.temperatures.iter().flat_map(of).collect()
    }

    /// The loss at this temperature.
    #[must_use]
    pub fn kd(&self, temperature: f64) -> Kd {
        loss_at(temperature, self.w_kd, self.w_ce)
    }

    fn check(&self) -> Result<()> {
        for temperature in &self.temperatures {
            check_teaching(&self.kd(*temperature))?;
        }
        let smoothing = self.control_smoothing;
        ensure!(
            (0.0..1.0).contains(&smoothing),
            "control_smoothing is {smoothing}, expected 0 to less than 1"
        );
        check_lrs(&self.control_lrs).context("control_lrs")?;
        check_lrs(&self.taught_lrs).context("taught_lrs")
    }
}

/// A profile's loss of a taught network.
fn loss_at(temperature: f64, w_kd: f64, w_ce: f64) -> Kd {
    Kd {
        temperature,
        w_kd,
        w_ce,
        label_smoothing: 0.0,
    }
}

/// Without the arms that are the training as it is, each once.
fn only_other(controls: Vec<Control>, train: &Train) -> Vec<Control> {
    let mut other = Vec::new();
    for control in controls {
        let same = match control {
            Control::Smoothing(smoothing) => smoothing == train.label_smoothing,
            Control::Lr(lr) => lr == train.lr,
            Control::Weight(weight) => weight == 1.0,
        };
        if !same && !other.contains(&control) {
            other.push(control);
        }
    }
    other
}

/// The weight of a whole distillation loss, to six significant digits: 14.5 and not 14.500000000000002.
fn weight_of(kd: &Kd) -> f64 {
    let weight = kd.total_weight();
    format!("{weight:.5e}").parse().unwrap_or(weight)
}

fn check_lrs(lrs: &[f64]) -> Result<()> {
    let wrong = lrs.iter().find(|lr| !(lr.is_finite() && **lr > 0.0));
    ensure!(
        wrong.is_none(),
        "a learning rate is {wrong:?}, expected a positive number"
    );
    distinct(lrs, "once is enough")
}

impl Pipeline {
    /// The arms that are fine-tuned without a teacher, beside the one with the fine-tuning's own recipe.
    #[must_use]
    pub fn controls(&self) -> Vec<Control> {
        let mut controls: Vec<Control> =
            self.control_lrs.iter().map(|lr| Control::Lr(*lr)).collect();
        if self.control_weight {
            controls.push(Control::Weight(weight_of(&self.kd(self.temperature))));
        }
        only_other(controls, &self.fine_tune)
    }

    /// The loss at this temperature.
    #[must_use]
    pub fn kd(&self, temperature: f64) -> Kd {
        loss_at(temperature, self.w_kd, self.w_ce)
    }

    fn check(&self) -> Result<()> {
        self.fine_tune.check().context("fine_tune")?;
        self.aware_train.check().context("aware_train")?;
        check_teaching(&self.kd(self.temperature))?;
        check_lrs(&self.control_lrs).context("control_lrs")?;
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

fn check_teaching(kd: &Kd) -> Result<()> {
    let &Kd {
        temperature,
        w_kd,
        w_ce,
        label_smoothing: _,
    } = kd;
    ensure!(
        temperature.is_finite() && temperature > 0.0,
        "a temperature is {temperature}, expected a positive number"
    );
    ensure!(
        [w_kd, w_ce].iter().all(|w| w.is_finite() && *w >= 0.0) && w_kd + w_ce > 0.0,
        "w_kd is {w_kd} and w_ce is {w_ce}, expected 0 or more and not both 0"
    );
    let weight = kd.total_weight();
    ensure!(
        weight.is_finite() && weight > 0.0,
        "w_ce + w_kd · T² is {weight} with a temperature of {temperature}, expected a positive number"
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
        let mut lessons = Vec::new();
        for d in &profile.distill {
            profile.recipe(&d.teacher)?;
            let student = profile.recipe(&d.student)?;
            d.check().context("in [[distill]]")?;
            for lesson in d.lessons(&student.train) {
                lessons.push(format!("{} taught by {}, {lesson}", d.student, d.teacher));
            }
        }
        distinct(&lessons, "once is enough").context("in [[distill]]")?;
        for p in &profile.pipeline {
            p.check().context("in [[pipeline]]")?;
        }
        Ok(profile)
    }

    /// The arms without a teacher that block `i` of [[distill]] is the first to have with its student: teachers share them.
    ///
    /// # Errors
    ///
    /// The student is no baseline.
    pub fn controls(&self, i: usize) -> Result<Vec<Control>> {
        let block = &self.distill[i];
        let train = &self.recipe(&block.student)?.train;
        let mut controls = block.controls(train);
        for earlier in self.distill[..i]
            .iter()
            .filter(|d| d.student == block.student)
        {
            let known = earlier.controls(train);
            controls.retain(|control| !known.contains(control));
        }
        Ok(controls)
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

    /// A taught network's steps are longer: what the teacher gives is seen beside longer steps without one.
    #[test]
    fn every_teacher_has_controls_of_other_learning_rates() {
        for (name, _) in PROFILES {
            let profile = Profile::built_in(name).unwrap();
            for block in &profile.pipeline {
                let longer = |c: &Control| matches!(c, Control::Lr(lr) if *lr > block.fine_tune.lr);
                assert!(block.controls().iter().any(longer), "{name}: {block:?}");
            }
            for block in &profile.distill {
                let train = &profile.recipe(&block.student).unwrap().train;
                let longer = |c: &Control| matches!(c, Control::Lr(lr) if *lr > train.lr);
                assert!(
                    block.controls(train).iter().any(longer),
                    "{name}: {block:?}"
                );
            }
        }
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
            ("rounds = 2", "rounds = 1", "rounds is 1, expected 2 to 100"),
            (
                "round_epochs = 1",
                "round_epochs = 0",
                "round_epochs is 0, expected 1 to 10,000, so that each of the 2 rounds trains",
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
                "scopes = [\"global\"]",
                "scopes = [\"per_layer\", \"global\", \"per_layer\"]",
                "in [[prune]]: scopes: per_layer is there twice",
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
                "taught_lrs = [0.05]",
                "taught_lrs = [0.05, 0.05]",
                "in [[distill]]: taught_lrs: 0.05 is there twice",
            ),
            (
                "control_lrs = [0.2]",
                "control_lrs = [-0.2]",
                "in [[distill]]: control_lrs: a learning rate is Some(-0.2)",
            ),
            (
                "temperatures = [4.0]",
                "temperatures = [1e200]",
                "w_ce + w_kd · T² is inf",
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
        profile.distill.push(again.clone());
        again.control_lrs.push(0.7);
        again.temperatures.push(2.0);
        profile.distill.push(again);
        let trained: Vec<String> = (0..4)
            .map(|i| {
                let controls = profile.controls(i).unwrap();
                let names: Vec<String> = controls.iter().map(Control::to_string).collect();
                names.join(", ")
            })
            .collect();
        let expected = [
            "label smoothing 0.1, lr 0.2, loss × 14.5",
            "",
            "label smoothing 0.2",
            "lr 0.7, loss × 3.7",
        ];
        assert_eq!(trained, expected);
    }

    #[test]
    fn an_arm_that_is_the_student_as_it_is_is_not_trained_twice() {
        let mut profile = Profile::built_in("smoke").unwrap();
        let lr = profile.recipe("small").unwrap().train.lr;
        let block = &mut profile.distill[0];
        block.control_smoothing = 0.0;
        block.control_lrs = vec![lr, 2.0 * lr];
        block.taught_lrs = vec![lr, lr / 2.0];
        // At T = 1 the weights 0.9 and 0.1 make a whole.
        block.temperatures = vec![1.0, 2.0];
        let train = &profile.recipe("small").unwrap().train;
        let block = &profile.distill[0];
        assert_eq!(
            block.controls(train),
            [Control::Lr(2.0 * lr), Control::Weight(3.7)]
        );
        let lessons = [
            (1.0, None),
            (1.0, Some(lr / 2.0)),
            (2.0, None),
            (2.0, Some(lr / 2.0)),
        ];
        let lessons = lessons.map(|(temperature, lr)| Lesson { temperature, lr });
        assert_eq!(block.lessons(train), lessons);
    }

    /// The committed run on the hold-out tried what the profiles took from it, with the same networks and recipes.
    #[test]
    fn learning_rates_of_distillation_are_from_the_holdout() {
        let file = "../../docs/results/holdout-distill/profile.toml";
        let tried = Profile::load(file).unwrap();
        for (profile, student) in [("quick", "airbench-s"), ("full", "source")] {
            let profile = Profile::built_in(profile).unwrap();
            let of = |profile: &Profile| {
                let block = profile
                    .distill
                    .iter()
                    .find(|d| d.student == student)
                    .unwrap();
                let networks = [&block.student, &block.teacher];
                let recipes = networks.map(|name| profile.recipe(name).unwrap().clone());
                (block.clone(), recipes)
            };
            let ((taken, networks), (grid, same)) = (of(&profile), of(&tried));
            assert_eq!(networks, same, "{student}");
            let kd = |d: &Distill| d.temperatures.iter().map(|t| d.kd(*t)).collect::<Vec<_>>();
            assert_eq!(kd(&taken), kd(&grid), "{student}");
            let own = [networks[0].train.lr];
            for (taken, grid) in [
                (&taken.control_lrs, &grid.control_lrs),
                (&taken.taught_lrs, &grid.taught_lrs),
            ] {
                let tried = |lr: &f64| grid.iter().chain(&own).any(|other| other == lr);
                assert!(taken.iter().all(tried), "{student}: {taken:?}");
            }
        }
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
