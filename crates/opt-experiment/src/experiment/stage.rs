//! Stages: what an experiment consists of, as data.
//!
//! A block of a profile gives a list of stages. Each is one network with a result line: what it starts from, what is done,
//! what it is compared with. The plan and its times, the budget, clashes of names, the parts of a divided run and the run
//! itself walk over this one list.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use opt_core::lower::ResidualAdd;
use opt_prune::{Criterion, Scope};
use opt_quant::{RangeMethod, WeightMethod};

use crate::distillation::Teaching;
use crate::recipe::{Recipe, Train};
use crate::variant::{Part, Pruning, file_of};

/// The experiment of stages that train a recipe from its start.
pub const BASELINE: &str = "baseline";

/// A stage by its place in [`Stages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StageId(usize);

/// One network of a run, or a study that has a file of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// The experiment's name, as result lines carry it.
    pub experiment: &'static str,
    /// The variant's name, as result lines carry it.
    pub name: String,
    /// The recipe of the network that it is made of.
    pub recipe: String,
    /// The zoo's name of that network.
    pub network: String,
    /// The network that it starts from; `None` for the recipe's start: random weights or a checkpoint.
    pub from: Option<StageId>,
    /// What is done.
    pub work: Work,
    /// The stage that its result is compared with.
    pub compared_with: Option<StageId>,
    /// Epochs from the recipe's start.
    pub epochs: usize,
    /// What these epochs were.
    pub epochs_of: String,
    /// Its part in a comparison of several stages with each other.
    pub part: Option<Part>,
    /// How weights were pruned, if they were.
    pub pruning: Option<Pruning>,
}

/// What a stage does to the network that it starts from.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Trains it.
    Train {
        /// What the phase is called: `train`, `fine-tune`.
        phase: &'static str,
        /// How.
        train: Train,
        /// What is minimised.
        loss: Loss,
    },
    /// Measures it again under this stage's experiment and name, so that what is compared stands side by side.
    Again,
    /// Removes weights and trains what is left, round by round.
    Mask {
        /// What makes a weight important.
        criterion: Criterion,
        /// Where weights compete.
        scope: Scope,
        /// In order.
        rounds: Vec<Round>,
    },
    /// Compares importance with the measured change of likelihood. Has a file of its own and no result line.
    Likelihood {
        /// Single weights.
        weights: usize,
        /// Sets of weights, and as many channels.
        sets: usize,
    },
    /// Removes whole channels: the network becomes smaller.
    Shrink {
        /// What makes a channel important.
        criterion: Criterion,
        /// Share of the channels that stays.
        keep: f64,
        /// Channel counts are multiples of this number.
        multiple_of: usize,
    },
    /// Stores weights as codes; activations stay f32.
    QuantizeWeights {
        /// How.
        method: WeightMethod,
        /// The bits that a code needs.
        bits: u8,
    },
    /// Makes an integer network without training.
    PostTraining {
        /// Whose ranges it rests on.
        calibration: Calibration,
        /// How residual additions are rounded.
        adds: ResidualAdd,
        /// Bits of the weights of hidden layers.
        bits: u8,
    },
    /// Trains with fake quantization and makes an integer network.
    QuantizationAware {
        /// Whose ranges it begins with.
        calibration: Calibration,
        /// Bits of the weights of hidden layers.
        bits: u8,
        /// How it is trained.
        train: Train,
        /// What is minimised.
        loss: Loss,
    },
}

/// What a training minimises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// Cross-entropy with the labels.
    CrossEntropy,
    /// Cross-entropy times this weight: a control with the step's length of a larger loss.
    Weighted(f64),
    /// A distillation loss.
    Distill {
        /// The stage whose network teaches.
        teacher: StageId,
        /// Which one.
        teaching: Teaching,
    },
}

/// A round of pruning: a cut, then training.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// The share of the weights that is gone after the cut; 0 cuts nothing.
    pub sparsity: f64,
    /// The training that follows.
    pub train: Train,
}

/// What a calibration sees. Stages with the same start and the same calibration share it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Calibration {
    /// Training images, without augmentation; all if there are fewer.
    pub images: usize,
    /// How the ranges of values are found.
    pub ranges: RangeMethod,
    /// Nodes that stay f32, by name.
    pub float: BTreeSet<String>,
}

impl Work {
    /// Every phase of training, in order.
    #[must_use]
    pub fn trains(&self) -> Vec<&Train> {
        match self {
            Self::Train { train, .. } | Self::QuantizationAware { train, .. } => vec![train],
            Self::Mask { rounds, .. } => rounds.iter().map(|round| &round.train).collect(),
            Self::Again
            | Self::Likelihood { .. }
            | Self::Shrink { .. }
            | Self::QuantizeWeights { .. }
            | Self::PostTraining { .. } => Vec::new(),
        }
    }

    /// The stage whose network teaches, if one does.
    #[must_use]
    pub fn teacher(&self) -> Option<StageId> {
        match self {
            Self::Train { loss, .. } | Self::QuantizationAware { loss, .. } => match loss {
                Loss::Distill { teacher, .. } => Some(*teacher),
                Loss::CrossEntropy | Loss::Weighted(_) => None,
            },
            Self::Again
            | Self::Mask { .. }
            | Self::Likelihood { .. }
            | Self::Shrink { .. }
            | Self::QuantizeWeights { .. }
            | Self::PostTraining { .. } => None,
        }
    }

    /// Bits of a stored weight and of an activation.
    #[must_use]
    pub fn bits(&self) -> (u8, u8) {
        match self {
            Self::QuantizeWeights { bits, .. } => (*bits, 32),
            Self::PostTraining { bits, .. } | Self::QuantizationAware { bits, .. } => (*bits, 8),
            Self::Train { .. }
            | Self::Again
            | Self::Mask { .. }
            | Self::Likelihood { .. }
            | Self::Shrink { .. } => (32, 32),
        }
    }

    /// Whether it gives a network and a result line.
    #[must_use]
    pub fn has_line(&self) -> bool {
        !matches!(self, Self::Likelihood { .. })
    }
}

/// The stages of one seed, each after those that it needs, and the recipes that they begin with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stages {
    /// What calibrations see, but for the nodes that one leaves f32.
    pub calibration: Calibration,
    recipes: Vec<Recipe>,
    stages: Vec<Stage>,
    files: BTreeMap<String, StageId>,
}

impl Stages {
    /// No stages yet, of networks with these recipes.
    #[must_use]
    pub fn new(recipes: Vec<Recipe>, calibration: Calibration) -> Self {
        Self {
            calibration,
            recipes,
            ..Self::default()
        }
    }

    /// The stages with their places, in order.
    pub fn iter(&self) -> impl Iterator<Item = (StageId, &Stage)> {
        let of = |(i, stage)| (StageId(i), stage);
        self.stages.iter().enumerate().map(of)
    }

    /// The stage in this place.
    #[must_use]
    pub fn get(&self, id: StageId) -> &Stage {
        &self.stages[id.0]
    }

    /// The recipe of this name.
    ///
    /// # Errors
    ///
    /// Lists the names.
    pub fn recipe(&self, name: &str) -> Result<&Recipe> {
        self.recipes
            .iter()
            .find(|r| r.name == name)
            .with_context(|| {
                let names: Vec<&str> = self.recipes.iter().map(|r| r.name.as_str()).collect();
                format!("no baseline `{name}`; there are {}", names.join(", "))
            })
    }

    /// The stage that trains a recipe, made if it is not there yet: networks that several experiments start from are
    /// trained once.
    ///
    /// # Errors
    ///
    /// No recipe of this name.
    pub fn baseline(&mut self, name: &str) -> Result<StageId> {
        self.trained(BASELINE, name)
    }

    /// The stage of `experiment` that trains a recipe from its start.
    ///
    /// # Errors
    ///
    /// No recipe of this name.
    pub fn trained(&mut self, experiment: &'static str, name: &str) -> Result<StageId> {
        let recipe = self.recipe(name)?.clone();
        let start = match recipe.weights {
            Some(_) => "from a checkpoint",
            None => "from random weights",
        };
        let epochs = recipe.train.epochs;
        self.or_push(Stage {
            experiment,
            name: recipe.name.clone(),
            recipe: recipe.name,
            network: recipe.model,
            from: None,
            work: Work::Train {
                phase: "train",
                train: recipe.train,
                loss: Loss::CrossEntropy,
            },
            compared_with: None,
            epochs,
            epochs_of: format!("{epochs} {start}"),
            part: None,
            pruning: None,
        })
    }

    /// A stage that does `work` to the network of another: compared with it, with the epochs that it had and those of
    /// `work`.
    #[must_use]
    pub fn after(
        &self,
        from: StageId,
        experiment: &'static str,
        name: String,
        work: Work,
    ) -> Stage {
        let base = self.get(from);
        Stage {
            experiment,
            name,
            recipe: base.recipe.clone(),
            network: base.network.clone(),
            from: Some(from),
            epochs: base.epochs + work.trains().iter().map(|t| t.epochs).sum::<usize>(),
            epochs_of: self.epochs_of(from),
            work,
            compared_with: Some(from),
            part: None,
            pruning: None,
        }
    }

    /// The epochs of what begins with a stage: of a baseline just how many.
    fn epochs_of(&self, from: StageId) -> String {
        let base = self.get(from);
        match base.from {
            None => format!("{} base", base.epochs),
            Some(_) => base.epochs_of.clone(),
        }
    }

    /// Adds a stage.
    ///
    /// # Errors
    ///
    /// Its file would overwrite that of an earlier one.
    pub fn push(&mut self, stage: Stage) -> Result<StageId> {
        let id = StageId(self.stages.len());
        let file = file_of(stage.experiment, &stage.network, &stage.name);
        if let Some(first) = self.files.get(&file) {
            let first = self.get(*first);
            bail!(
                "{}: `{}` of `{}` and `{}` of `{}` would write one file; rename one, or put it into a profile of its own",
                stage.experiment,
                first.name,
                first.recipe,
                stage.name,
                stage.recipe
            );
        }
        ensure!(
            stage
                .from
                .into_iter()
                .chain(stage.compared_with)
                .all(|other| other < id),
            "{} · {} starts from a stage that is not there",
            stage.experiment,
            stage.name
        );
        self.files.insert(file, id);
        self.stages.push(stage);
        Ok(id)
    }

    /// Adds a stage, or finds the same if it is there: blocks may share one.
    ///
    /// # Errors
    ///
    /// Another stage has its file.
    pub fn or_push(&mut self, stage: Stage) -> Result<StageId> {
        let known = self.iter().find(|(_, known)| **known == stage);
        match known.map(|(id, _)| id) {
            Some(id) => Ok(id),
            None => self.push(stage),
        }
    }

    /// The files of all networks of these seeds, without folder and kind, in order.
    #[must_use]
    pub fn files(&self, seeds: &[u64]) -> Vec<String> {
        let of_seed = |seed: &u64| {
            let seed = *seed;
            let lines = self.stages.iter().filter(|stage| stage.work.has_line());
            lines.map(move |s| format!("{}-s{seed}", file_of(s.experiment, &s.network, &s.name)))
        };
        seeds.iter().flat_map(of_seed).collect()
    }

    /// What a stage cannot do without: where it starts, who teaches it, what it is compared with.
    pub fn needs(&self, id: StageId) -> impl Iterator<Item = StageId> {
        let stage = self.get(id);
        let needs = [stage.from, stage.work.teacher(), stage.compared_with];
        needs.into_iter().flatten()
    }

    /// `ids` with all that they need, directly or not.
    #[must_use]
    pub fn with_needs(&self, ids: impl IntoIterator<Item = StageId>) -> BTreeSet<StageId> {
        let mut all = BTreeSet::new();
        let mut open: Vec<StageId> = ids.into_iter().collect();
        while let Some(id) = open.pop() {
            if all.insert(id) {
                open.extend(self.needs(id));
            }
        }
        all
    }
}
