//! Profiles: which experiments are run with which recipes, as TOML inside the program.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use opt_quant::RangeMethod;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::experiment::stage::{Calibration, Stages};
use crate::experiment::{Block, Distill, Experiment, Pipeline, Prune, Quantize, Word};
use crate::recipe::{Recipe, Train};
use crate::renamed::from_toml;

/// Names and texts of the built-in profiles.
pub const PROFILES: &[(&str, &str)] = &[
    ("smoke", include_str!("../profiles/smoke.toml")),
    ("quick", include_str!("../profiles/quick.toml")),
    ("full", include_str!("../profiles/full.toml")),
];

/// A set of experiments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// One sentence for `--help` and the plan.
    pub about: String,
    /// How many seeds every variant has (0, 1, …), unless `--seeds` says otherwise.
    pub seeds: usize,
    /// Trains on the first so many training images only; on all without it.
    #[serde(default)]
    pub train_images: Option<usize>,
    /// Measures on the first so many test images only; on all without it.
    #[serde(default)]
    pub test_images: Option<usize>,
    /// Training images, without augmentation, whose values give the scales.
    pub calibration_images: usize,
    /// How the range of a value is found from what it was on these images.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("default" = Word::<RangeMethod>::default()))]
    pub calibration_ranges: Word<RangeMethod>,
    /// The networks that are trained first, as recipes without `quantize`; the other tables name them as base.
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

    /// Every block, in the order of the experiments.
    fn blocks(&self) -> Vec<&dyn Block> {
        let prune = self.prune.iter().map(|b| b as &dyn Block);
        let quantize = self.quantize.iter().map(|b| b as &dyn Block);
        let distill = self.distill.iter().map(|b| b as &dyn Block);
        let pipeline = self.pipeline.iter().map(|b| b as &dyn Block);
        prune
            .chain(quantize)
            .chain(distill)
            .chain(pipeline)
            .collect()
    }

    /// Keeps only some of the blocks.
    pub(crate) fn retain_blocks(&mut self, keep: impl Fn(&dyn Block) -> bool) {
        self.prune.retain(|b| keep(b));
        self.quantize.retain(|b| keep(b));
        self.distill.retain(|b| keep(b));
        self.pipeline.retain(|b| keep(b));
    }

    /// The epochs of every phase of training, to be scaled.
    pub(crate) fn epochs_mut(&mut self) -> Vec<&mut usize> {
        let mut epochs: Vec<&mut usize> = Vec::new();
        epochs.extend(self.baseline.iter_mut().map(|r| &mut r.train.epochs));
        epochs.extend(self.prune.iter_mut().flat_map(Block::epochs_mut));
        epochs.extend(self.quantize.iter_mut().flat_map(Block::epochs_mut));
        epochs.extend(self.distill.iter_mut().flat_map(Block::epochs_mut));
        epochs.extend(self.pipeline.iter_mut().flat_map(Block::epochs_mut));
        epochs
    }

    /// Whether there is anything to do for an experiment.
    #[must_use]
    pub fn has(&self, experiment: Experiment) -> bool {
        if experiment == Experiment::Baseline {
            return !self.baseline.is_empty();
        }
        self.blocks()
            .iter()
            .any(|b| b.experiment() == experiment.name())
    }

    /// What these experiments do with one seed.
    ///
    /// # Errors
    ///
    /// A block names a baseline that is not there, or two stages would have one name.
    pub fn stages(&self, experiments: &[Experiment]) -> Result<Stages> {
        let calibration = Calibration {
            images: self.calibration_images,
            ranges: self.calibration_ranges.0,
            ..Calibration::default()
        };
        let mut list = Stages::new(self.baseline.clone(), calibration);
        for experiment in experiments {
            if *experiment == Experiment::Baseline {
                for recipe in &self.baseline {
                    list.baseline(&recipe.name)?;
                }
            }
            for block in self.blocks() {
                if block.experiment() == experiment.name() {
                    block
                        .stages(&mut list)
                        .with_context(|| format!("in [[{experiment}]]"))?;
                }
            }
        }
        Ok(list)
    }

    /// What of this profile is about the baseline `name`: its blocks, and the teachers that they need.
    ///
    /// # Errors
    ///
    /// Lists the baselines if there is none of this name.
    pub fn only(mut self, name: &str) -> Result<Self> {
        self.recipe(name)?;
        self.retain_blocks(|block| block.base() == name);
        let blocks = self.blocks();
        let teachers: Vec<String> = blocks
            .iter()
            .filter_map(|b| b.teacher())
            .map(str::to_owned)
            .collect();
        self.baseline
            .retain(|recipe| recipe.name == name || teachers.contains(&recipe.name));
        Ok(self)
    }

    /// Parses and checks a profile.
    ///
    /// # Errors
    ///
    /// Names the key or the base that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let profile: Self = from_toml(text)?;
        ensure!(profile.seeds > 0, "seeds is 0, expected at least 1");
        for (key, images) in [
            ("train_images", profile.train_images),
            ("test_images", profile.test_images),
            ("calibration_images", Some(profile.calibration_images)),
        ] {
            if let Some(images) = images.filter(|n| !(1..=10_000_000).contains(n)) {
                bail!("{key} is {images}, expected 1 to 10,000,000");
            }
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
        for block in profile.blocks() {
            for name in [Some(block.base()), block.teacher()].into_iter().flatten() {
                profile.recipe(name)?;
            }
            let experiment = block.experiment();
            block
                .check()
                .with_context(|| format!("in [[{experiment}]]"))?;
        }
        profile.stages(&Experiment::ALL)?;
        Ok(profile)
    }

    /// Every phase of training.
    #[must_use]
    pub fn trains(&self) -> Vec<&Train> {
        let mut trains: Vec<&Train> = self.baseline.iter().map(|r| &r.train).collect();
        trains.extend(self.blocks().iter().flat_map(|block| block.trains()));
        trains
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

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::stage::Work;

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
                "rounds = 1",
                "rounds is 1, which is one-shot pruning",
            ),
            ("rounds = 2", "rounds = 0", "rounds is 0, expected 1 to 100"),
            (
                "round_epochs = 1",
                "round_epochs = 0",
                "round_epochs is 0, expected 1 to 10,000, so that each of the 2 rounds trains",
            ),
            (
                "train_images = 2000",
                "train_images = 0",
                "train_images is 0",
            ),
            (
                "name = \"small\"",
                "name = \"large\"",
                "two baselines are called `large`",
            ),
            (
                "sparsities = [0.7]",
                "sparsities = [1.0]",
                "sparsities has 1,",
            ),
            (
                "weight_levels = [16]",
                "weight_levels = [0]",
                "weight_levels has 0",
            ),
            (
                "post_training = [8, 4]",
                "post_training = [9]",
                "a width is 9 bits",
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
                "in [[distill]]: temperatures: 4 is there twice",
            ),
            (
                "taught_lrs = [0.05]",
                "taught_lrs = [0.05, 0.05]",
                "in [[distill]]: taught_lrs: 0.05 is there twice",
            ),
            (
                "control_lrs = [0.2]",
                "control_lrs = [-0.2]",
                "in [[distill]]: control_lrs: a learning rate is -0.2",
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
    fn every_calibration_finds_ranges_as_the_profile_says() {
        let (_, text) = PROFILES[0];
        for (word, method) in RangeMethod::WORDS {
            let line = format!("calibration_ranges = \"{word}\"\ncalibration_images");
            let profile = Profile::parse(&text.replace("calibration_images", &line)).unwrap();
            let stages = profile.stages(&Experiment::ALL).unwrap();
            let found: Vec<RangeMethod> = stages
                .iter()
                .filter_map(|(_, stage)| match &stage.work {
                    Work::PostTraining { calibration, .. }
                    | Work::QuantizationAware { calibration, .. } => Some(calibration.ranges),
                    _ => None,
                })
                .collect();
            assert!(!found.is_empty() && found.iter().all(|ranges| *ranges == method));
        }
        // The one that is the default is not written, so files of older programs and of this one are the same.
        let profile = Profile::parse(text).unwrap();
        let written = toml::to_string(&profile).unwrap();
        assert!(!written.contains("calibration_ranges"), "{written}");
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
            error.contains("in [[prune]]") && error.contains("put it into a profile of its own"),
            "{error}"
        );
    }

    const HOLDOUT: &str = "../../docs/results/holdout-distill";

    /// The committed run on the hold-out tried what the profile took from it, with the same networks and recipes.
    #[test]
    fn learning_rates_of_distillation_are_from_the_holdout() {
        let tried = Profile::load(&format!("{HOLDOUT}/profile.toml")).unwrap();
        let quick = Profile::built_in("quick").unwrap();
        let (taken, grid) = (&quick.distill[0], &tried.distill[0]);
        let pairs = [
            (&taken.student, &grid.student),
            (&taken.teacher, &grid.teacher),
        ];
        for (taken, tried_as) in pairs {
            assert_eq!(
                quick.recipe(taken).unwrap(),
                tried.recipe(tried_as).unwrap()
            );
        }
        let kd = |d: &Distill| d.temperatures.iter().map(|t| d.kd(*t)).collect::<Vec<_>>();
        assert_eq!(kd(taken), kd(grid));
        let own = [quick.recipe(&taken.student).unwrap().train.lr];
        for (taken, grid) in [
            (&taken.control_lrs, &grid.control_lrs),
            (&taken.taught_lrs, &grid.taught_lrs),
        ] {
            let tried = |lr: &f64| grid.iter().chain(&own).any(|other| other == lr);
            assert!(taken.iter().all(tried), "{taken:?}");
        }
    }

    /// The text's network alone has the rate that was best on the hold-out, and that was not at an end of the list.
    #[test]
    fn the_control_of_the_texts_network_has_the_best_rate_of_the_holdout() {
        let tried = Profile::load(&format!("{HOLDOUT}/source.toml")).unwrap();
        let full = Profile::built_in("full").unwrap();
        let student = full.recipe("source").unwrap();
        let lines = opt_report::read_lines::<opt_report::ResultLine>(
            format!("{HOLDOUT}/source/results.jsonl").as_ref(),
        );
        let lines = lines.unwrap().values;
        let mut rates: Vec<(f64, f64)> = Vec::new();
        for recipe in &tried.baseline {
            let mut same = student.clone();
            (same.name, same.train.lr) = (recipe.name.clone(), recipe.train.lr);
            assert_eq!(*recipe, same);
            let line = lines
                .iter()
                .find(|line| line.recipe == recipe.name)
                .unwrap();
            rates.push((recipe.train.lr, line.top1));
        }
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let best = rates.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        assert!(
            *best != rates[0] && *best != rates[rates.len() - 1],
            "{rates:?}"
        );
        let block = full.distill.iter().find(|d| d.student == "source").unwrap();
        assert_eq!(block.control_lrs, [best.0]);
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
