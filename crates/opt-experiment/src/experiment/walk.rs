//! Walks over stages: trains, compresses, measures and writes each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use opt_compress::{
    Calibrated, QuantizedWeights, WeightBits, calibrate_with, mask_rounds, quantize_weights,
    remove_channels,
};
use opt_core::lower::{QuantSpec, ResidualAdd, fold_batch_norms};
use opt_core::mask::Masks;
use opt_core::{GradientSums, Model, cost};
use opt_nn::gradients::gradient_sums;
use opt_nn::quantized::FakeQuant;
use opt_nn::train::{Constraints, CrossEntropy};
use opt_nn::{Batch, Net, NnError};
use opt_prune::{Criterion, Scope, gates};

use super::likelihood;
use super::shard::Shard;
use super::stage::{Calibration, Loss, Round, Stage, StageId, Stages, Work};
use super::start::initial_model;
use crate::distillation::Scaled;
use crate::measure::Artifact;
use crate::recipe::Train;
use crate::run::{Measured, Phase, Run, Variant};
use crate::training::Label;

/// Training images whose gradients a criterion rests on.
const GRADIENT_IMAGES: usize = 256;

/// Runs stages for every seed of the run, or those of a part of it.
///
/// # Errors
///
/// The first failure, with the experiment, variant and seed.
pub fn run_stages(run: &mut Run, stages: &Stages, part: Option<&Shard>) -> Result<()> {
    for seed in run.info.seeds.clone() {
        let own: BTreeSet<StageId> = match part {
            Some(part) => stages.with_needs(part.of_seed(seed)),
            None => stages.iter().map(|(id, _)| id).collect(),
        };
        let mut walk = Walk {
            stages,
            seed,
            left: uses(stages, &own),
            done: BTreeMap::new(),
            calibrated: BTreeMap::new(),
            left_out: BTreeMap::new(),
        };
        let mut experiment = "";
        for id in own {
            let stage = stages.get(id);
            if stage.experiment != experiment {
                experiment = stage.experiment;
                eprintln!("{experiment} · seed {seed}");
                // A report of what there is, should the run be broken off.
                run.write_report()?;
            }
            walk.stage(run, id)?;
        }
    }
    Ok(())
}

/// How many of these stages need each stage.
fn uses(stages: &Stages, own: &BTreeSet<StageId>) -> BTreeMap<StageId, usize> {
    let mut uses = BTreeMap::new();
    for needed in own.iter().flat_map(|id| stages.needs(*id)) {
        *uses.entry(needed).or_default() += 1;
    }
    uses
}

/// A finished stage.
#[derive(Debug)]
struct Done {
    recorded: Measured,
    /// Seconds beyond those of the baseline that it stands on.
    seconds: f64,
}

/// The way through the stages of one seed.
struct Walk<'a> {
    stages: &'a Stages,
    seed: u64,
    /// How often each stage is still needed.
    left: BTreeMap<StageId, usize>,
    /// Stages that are still needed.
    done: BTreeMap<StageId, Done>,
    calibrated: BTreeMap<(StageId, Calibration), (Calibrated, f64)>,
    /// Stages without a result, and why.
    left_out: BTreeMap<StageId, String>,
}

/// What a stage made.
enum Made {
    Float(Model),
    Weights(QuantizedWeights),
    Integer { folded: Model, spec: QuantSpec },
}

impl Made {
    fn artifact(&self) -> Artifact<'_> {
        match self {
            Self::Float(model) => Artifact::Float(model),
            Self::Weights(coded) => Artifact::Weights(coded),
            Self::Integer { folded, spec } => Artifact::Integer { folded, spec },
        }
    }
}

impl Walk<'_> {
    fn stage(&mut self, run: &mut Run, id: StageId) -> Result<()> {
        let stage = self.stages.get(id);
        let label = Label {
            experiment: stage.experiment.to_owned(),
            variant: stage.name.clone(),
            seed: self.seed,
        };
        let lost = self
            .stages
            .needs(id)
            .find(|n| self.left_out.contains_key(n));
        if let Some(lost) = lost {
            let why = format!(
                "goes on from `{}`, which diverged",
                self.stages.get(lost).name
            );
            self.left_out.insert(id, why.clone());
            run.leave_out(&label, &stage.network, why)?;
        } else if stage.work.has_line() {
            let result = self.network(run, id, &label);
            // What others are compared with must be there.
            let is_control = self.stages.iter().any(|(_, s)| s.compared_with == Some(id));
            let is_control = is_control || stage.from.is_none() && stage.compared_with.is_none();
            match result {
                Ok(done) => {
                    if self.left.contains_key(&id) {
                        self.done.insert(id, done);
                    }
                }
                Err(error) => {
                    let Some(why) = diverged(&error).filter(|_| !is_control) else {
                        return Err(error);
                    };
                    self.left_out.insert(id, why.clone());
                    run.leave_out(&label, &stage.network, why)?;
                }
            }
        } else {
            self.study(run, stage)?;
        }
        for needed in self.stages.needs(id) {
            let left = self.left.entry(needed).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.done.remove(&needed);
                self.calibrated.retain(|(from, _), _| *from != needed);
            }
        }
        Ok(())
    }

    /// Makes, measures and records the network of a stage.
    fn network(&mut self, run: &mut Run, id: StageId, label: &Label) -> Result<Done> {
        let stage = self.stages.get(id);
        let (made, own, masks) = self.make(run, stage, label)?;
        // Seconds count from the baseline: its own training is in its own line.
        let before = stage.from.map(|from| self.done(from)).transpose()?;
        let (line, seconds) = match (before, &stage.work) {
            (None, _) => (own, 0.0),
            (Some(from), Work::Again) => (from.recorded.line.seconds, from.seconds),
            (Some(from), _) => (from.seconds + own, from.seconds + own),
        };
        let (weight_bits, activation_bits) = stage.work.bits();
        let compared_with = stage.compared_with.map(|b| self.done(b)).transpose()?;
        let variant = Variant {
            label,
            network: &stage.network,
            recipe: &stage.recipe,
            epochs: stage.epochs as f64,
            epochs_of: stage.epochs_of.clone(),
            weight_bits: weight_bits.into(),
            activation_bits: activation_bits.into(),
            policy: policy(weight_bits, activation_bits),
            train_precision: self.precision(run, stage)?,
            seconds: line,
            baseline: compared_with.map(|done| &done.recorded),
            part: stage.part.clone(),
            pruning: stage.pruning.clone(),
        };
        let recorded = run.record(variant, made.artifact())?;
        if let (Some(masks), Some(pruning)) = (masks, &stage.pruning) {
            check_sparsity(&recorded.model, &masks, pruning.sparsity)?;
        }
        Ok(Done { recorded, seconds })
    }

    fn done(&self, id: StageId) -> Result<&Done> {
        let name = || format!("`{}` was not run", self.stages.get(id).name);
        self.done.get(&id).with_context(name)
    }

    /// The model that a stage starts from.
    fn start(&self, run: &Run, stage: &Stage) -> Result<Model> {
        match stage.from {
            Some(from) => Ok(self.done(from)?.recorded.model.clone()),
            None => initial_model(run, self.stages.recipe(&stage.recipe)?, self.seed),
        }
    }

    /// The arithmetic of the last training since the baseline; empty if there was none.
    fn precision(&self, run: &Run, stage: &Stage) -> Result<&'static str> {
        if let Some(train) = stage.work.trains().last() {
            return Ok(train.precision_name(run.device));
        }
        match stage.from.map(|from| self.stages.get(from)) {
            // The same network once more has its own training.
            Some(from) if from.from.is_some() || stage.work == Work::Again => {
                self.precision(run, from)
            }
            Some(_) | None => Ok(""),
        }
    }

    /// The network of a stage, the seconds that it took, and the masks that it has to hold.
    fn make(
        &mut self,
        run: &mut Run,
        stage: &Stage,
        label: &Label,
    ) -> Result<(Made, f64, Option<Masks>)> {
        let model = self.start(run, stage)?;
        let epochs_before = stage.from.map_or(0, |from| self.stages.get(from).epochs);
        let phase = Phase {
            label,
            network: &stage.network,
            name: "",
            epochs_before,
        };
        let started = Instant::now();
        let made = match &stage.work {
            Work::Train {
                phase: name,
                train,
                loss,
            } => {
                let mut net = Net::new(&model, run.device)?;
                let phase = Phase { name, ..phase };
                let seconds =
                    self.train(run, &mut net, train, phase, *loss, Constraints::default())?;
                return Ok((Made::Float(net.to_model()?), seconds, None));
            }
            Work::Again => Made::Float(model),
            Work::Mask {
                criterion,
                scope,
                rounds,
            } => {
                let (model, masks, seconds) =
                    self.mask(run, &model, (*criterion, *scope), rounds, phase)?;
                return Ok((Made::Float(model), seconds, Some(masks)));
            }
            Work::Shrink {
                criterion,
                keep,
                multiple_of,
            } => {
                let smaller = remove_channels(&model, *criterion, *keep, *multiple_of, None)?;
                Made::Float(smaller)
            }
            Work::QuantizeWeights { method, bits: _ } => {
                Made::Weights(quantize_weights(&model, *method)?)
            }
            Work::PostTraining {
                calibration,
                adds,
                bits,
            } => {
                let (calibrated, seconds) = self.calibrated(run, stage, calibration, &model)?;
                let spec = calibrated.spec(*adds, WeightBits::hidden(*bits))?;
                let folded = calibrated.folded.clone();
                return Ok((Made::Integer { folded, spec }, seconds, None));
            }
            Work::QuantizationAware {
                calibration,
                bits,
                train,
                loss,
            } => {
                let (calibrated, calibrating) = self.calibrated(run, stage, calibration, &model)?;
                let phase = Phase {
                    name: "quantization-aware",
                    ..phase
                };
                let bits = WeightBits::hidden(*bits);
                let (trained, seconds) =
                    self.train_qat(run, &model, &calibrated, bits, train, phase, *loss)?;
                let spec = trained.spec(ResidualAdd::Fused, bits)?;
                let folded = trained.folded;
                return Ok((Made::Integer { folded, spec }, calibrating + seconds, None));
            }
            Work::Likelihood { .. } => bail!("a study makes no network"),
        };
        Ok((made, started.elapsed().as_secs_f64(), None))
    }

    /// Trains a network and returns the seconds that it took.
    fn train(
        &self,
        run: &mut Run,
        net: &mut Net,
        train: &Train,
        phase: Phase<'_>,
        loss: Loss,
        constraints: Constraints<'_>,
    ) -> Result<f64> {
        match loss {
            Loss::CrossEntropy => run.train(net, train, phase, constraints),
            Loss::Weighted(weight) => {
                let loss = CrossEntropy {
                    label_smoothing: train.label_smoothing,
                };
                let mut scaled = Scaled { loss, weight };
                run.train_with(net, train, phase, constraints, &mut scaled)
            }
            Loss::Distill {
                teacher,
                mut teaching,
            } => {
                let teacher = Net::new(&self.done(teacher)?.recorded.model, run.device)?;
                let constraints = Constraints {
                    teacher: Some(&teacher),
                    ..constraints
                };
                run.train_with(net, train, phase, constraints, &mut teaching)
            }
        }
    }

    /// The three steps of every round: importance of each weight, removal of the least important, update.
    fn mask(
        &self,
        run: &mut Run,
        model: &Model,
        (criterion, scope): (Criterion, Scope),
        rounds: &[Round],
        mut phase: Phase<'_>,
    ) -> Result<(Model, Masks, f64)> {
        // A random order is another one for each seed.
        let criterion = criterion.with_seed(self.seed);
        let images: Vec<Batch> = match criterion.needs_gradients() {
            true => run.data.calibration(GRADIENT_IMAGES, 1).collect(),
            false => Vec::new(),
        };
        let device = run.device;
        let gradients = |model: &Model| -> Result<GradientSums> {
            let mut net = Net::new(model, device)?;
            let images = images.iter().cloned();
            Ok(gradient_sums(&mut net, images, &gates(model)?)?)
        };
        let mut seconds = 0.0;
        let recover = |model: Model, masks: &Masks, round: usize| -> Result<Model> {
            let Round { sparsity, train } = &rounds[round];
            let is_cut = *sparsity > 0.0;
            let mut net = Net::new(&model, device)?;
            let what = if is_cut { "fine-tune" } else { "train further" };
            let name = format!("{what} {}/{}", round + 1, rounds.len());
            let constraints = Constraints {
                masks: is_cut.then_some(masks),
                ..Constraints::default()
            };
            let named = Phase {
                name: &name,
                ..phase
            };
            seconds += run.train(&mut net, train, named, constraints)?;
            phase.epochs_before += train.epochs;
            Ok(net.to_model()?)
        };
        let targets: Vec<f64> = rounds.iter().map(|round| round.sparsity).collect();
        let (model, masks) = mask_rounds(model, criterion, scope, &targets, gradients, recover)?;
        Ok((model, masks, seconds))
    }

    /// The calibration of the stage's start and the seconds that it took: stages share it.
    fn calibrated(
        &mut self,
        run: &Run,
        stage: &Stage,
        calibration: &Calibration,
        model: &Model,
    ) -> Result<(Calibrated, f64)> {
        let from = stage.from.context("there is nothing to calibrate")?;
        let key = (from, calibration.clone());
        if let Some(known) = self.calibrated.get(&key) {
            return Ok(known.clone());
        }
        let started = Instant::now();
        let calibrated = calibrate(model, run, calibration)?;
        let found = (calibrated, started.elapsed().as_secs_f64());
        self.calibrated.insert(key, found.clone());
        Ok(found)
    }

    /// Trains a network on with fake quantization: where it is rounded follows from `calibrated`, its weight scales follow
    /// the weights. Returns the calibration with the trained weights, and the seconds it took.
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own")]
    fn train_qat(
        &self,
        run: &mut Run,
        model: &Model,
        calibrated: &Calibrated,
        bits: WeightBits,
        train: &Train,
        phase: Phase<'_>,
        loss: Loss,
    ) -> Result<(Calibrated, f64)> {
        let plain = fold_batch_norms(model)?;
        let spec = calibrated.spec(ResidualAdd::Fused, bits)?;
        let fake_quant = FakeQuant::new(
            &plain,
            &spec.placement,
            &spec.activations,
            bits.by_name(&plain),
        )?;
        let mut net = Net::new(&plain, run.device)?;
        let constraints = Constraints {
            fake_quant: Some(&fake_quant),
            ..Constraints::default()
        };
        let seconds = self.train(run, &mut net, train, phase, loss, constraints)?;
        Ok((calibrated.with_weights(&net.to_model()?)?, seconds))
    }

    /// Runs a stage that has a file of its own.
    fn study(&self, run: &mut Run, stage: &Stage) -> Result<()> {
        let Work::Likelihood { weights, sets } = stage.work else {
            return Ok(());
        };
        let from = stage.from.context("there is no network to study")?;
        let base = &self.done(from)?.recorded;
        likelihood::run(run, stage, base, weights, sets)
            .context("comparing importance with the measured change of likelihood")
    }
}

/// Calibrates on libtorch.
fn calibrate(model: &Model, run: &Run, calibration: &Calibration) -> Result<Calibrated> {
    let images = run.data.calibration(calibration.images, 250);
    let images = images.map(|batch| batch.images);
    let net = |folded: &Model| Net::new(folded, run.device);
    let Calibration { ranges, float, .. } = calibration;
    Ok(calibrate_with(model, float, *ranges, images, net)?)
}

/// When a training diverged, if that is what an error says.
fn diverged(error: &anyhow::Error) -> Option<String> {
    match error.downcast_ref::<NnError>()? {
        NnError::Diverged { epoch, .. } => Some(format!("diverged at epoch {}", epoch + 1)),
        NnError::NoAnswer { .. } => Some("diverged: its logits are not finite".to_owned()),
        _ => None,
    }
}

/// Which layers of an integer network keep other bits than the rest, for its result line.
fn policy(weight_bits: u8, activation_bits: u8) -> String {
    match (weight_bits, activation_bits) {
        (0..8, 8) => "first and last layer 8 bits".to_owned(),
        (_, _) => String::new(),
    }
}

/// What was asked for is what ships, to the last weight.
fn check_sparsity(artifact: &Model, masks: &Masks, sparsity: f64) -> Result<()> {
    let artifact = cost::cost(artifact)?;
    let kept: usize = masks.values().map(opt_core::Mask::n_kept).sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count"
    )]
    let asked = ((1.0 - sparsity) * artifact.weights as f64).round() as usize;
    ensure!(
        artifact.weights_nonzero <= kept && kept.abs_diff(asked) <= artifact.layers.len(),
        "{} weights are not zero, the masks keep {kept}, asked for were {asked}",
        artifact.weights_nonzero
    );
    Ok(())
}
