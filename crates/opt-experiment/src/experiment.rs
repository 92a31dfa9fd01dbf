//! The experiments: each is ordinary code that joins methods, in the order of its three or four steps.

mod baseline;
mod distill;
mod pipeline;
mod prune;
mod quantize;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use opt_core::lower::{Adds, fold_batch_norms};
use opt_core::{Model, zoo};
use opt_nn::quantized::FakeQuant;
use opt_nn::train::{Constraints, CrossEntropy};
use opt_nn::{Net, NnError, init};
use opt_quant::WeightBits;
pub use quantize::quantize_recipe;

use crate::distillation::{Distill, Scaled};
use crate::profile::{Control, Profile};
use crate::quantization::Calibrated;
use crate::recipe::{Head, Init, Recipe, Train};
use crate::run::{Phase, Recorded, Run, Variant};
use crate::training::Label;

/// Runs experiments for every seed; networks that several experiments start from are trained once.
///
/// # Errors
///
/// The first failure, with the experiment, variant and seed.
pub fn run_all(run: &mut Run, profile: &Profile, experiments: &[String]) -> Result<()> {
    let seeds = run.info.seeds.clone();
    for seed in seeds {
        let mut bases = Bases {
            profile,
            seed,
            trained: BTreeMap::new(),
        };
        for experiment in experiments {
            eprintln!("{experiment} · seed {seed}");
            match experiment.as_str() {
                "baseline" => baseline::run(run, &mut bases)?,
                "prune" => prune::run(run, &mut bases)?,
                "quantize" => quantize::run(run, &mut bases)?,
                "distill" => distill::run(run, &mut bases)?,
                "pipeline" => pipeline::run(run, &mut bases)?,
                other => anyhow::bail!("no experiment `{other}`"),
            }
            // A report of what there is, should the run be broken off.
            opt_report::write_report(&run.out, &run.info, &run.lines, &run.curves)?;
        }
    }
    Ok(())
}

/// The trained baselines of one seed.
#[derive(Debug)]
pub(crate) struct Bases<'a> {
    profile: &'a Profile,
    seed: u64,
    trained: BTreeMap<String, Base>,
}

/// A trained baseline.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    recipe: Recipe,
    recorded: Recorded,
    /// Epochs of training.
    epochs: usize,
}

impl Bases<'_> {
    /// The baseline of this name, trained and recorded under `baseline` if it was not yet.
    fn get(&mut self, run: &mut Run, name: &str) -> Result<Base> {
        if let Some(base) = self.trained.get(name) {
            return Ok(base.clone());
        }
        let recipe = self.profile.recipe(name)?.clone();
        let label = Label {
            experiment: "baseline".to_owned(),
            variant: recipe.name.clone(),
            seed: self.seed,
        };
        let recorded = train_recipe(run, &recipe, &label)?;
        let base = Base {
            epochs: recipe.train.epochs,
            recipe,
            recorded,
        };
        self.trained.insert(name.to_owned(), base.clone());
        Ok(base)
    }

    fn label(&self, experiment: &str, variant: String) -> Label {
        Label {
            experiment: experiment.to_owned(),
            variant,
            seed: self.seed,
        }
    }
}

/// Builds, trains and records one network.
///
/// # Errors
///
/// A checkpoint that does not fit, training, measuring.
pub fn train_recipe(run: &mut Run, recipe: &Recipe, label: &Label) -> Result<Recorded> {
    let model = initial_model(run, recipe, label.seed)?;
    let mut net = Net::new(&model, run.device)?;
    let phase = Phase {
        label,
        network: &recipe.model,
        name: "train",
        epochs_before: 0,
    };
    let seconds = run.train(&mut net, &recipe.train, phase, Default::default())?;
    let trained = net.to_model()?;
    let start = if recipe.weights.is_some() {
        "from a checkpoint"
    } else {
        "from random weights"
    };
    run.record(
        Variant {
            label,
            network: &recipe.model,
            recipe: &recipe.name,
            epochs: recipe.train.epochs as f64,
            epochs_of: format!("{} {start}", recipe.train.epochs),
            weight_bits: 32,
            activation_bits: 32,
            policy: String::new(),
            train_precision: recipe.train.precision_name(run.device),
            seconds,
            baseline: None,
            part: None,
            pruning: None,
        },
        crate::measure::Shipped::Float(&trained),
    )
}

/// A float variant that was not trained after its base: what differs from that, the experiments say.
fn variant<'a>(base: &'a Base, label: &'a Label, seconds: f64) -> Variant<'a> {
    Variant {
        label,
        network: &base.recipe.model,
        recipe: &base.recipe.name,
        epochs: base.epochs as f64,
        epochs_of: format!("{} base", base.epochs),
        weight_bits: 32,
        activation_bits: 32,
        policy: String::new(),
        train_precision: "",
        seconds,
        baseline: Some(&base.recorded),
        part: None,
        pruning: None,
    }
}

/// Trains a baseline on as it is, for as many epochs as a variant gets: what these epochs alone are worth. Variants that are
/// trained after their baseline are compared with this.
fn train_on(run: &mut Run, base: &Base, train: &Train, label: &Label) -> Result<Recorded> {
    let mut net = Net::new(&base.recorded.model, run.device)?;
    let phase = Phase {
        label,
        network: &base.recipe.model,
        name: "train on",
        epochs_before: base.epochs,
    };
    let seconds = run.train(&mut net, train, phase, Constraints::default())?;
    let model = net.to_model()?;
    let variant = Variant {
        epochs: (base.epochs + train.epochs) as f64,
        epochs_of: format!(
            "{} base + {} without compression",
            base.epochs, train.epochs
        ),
        train_precision: train.precision_name(run.device),
        ..variant(base, label, seconds)
    };
    run.record(variant, crate::measure::Shipped::Float(&model))
}

/// Trains a network without a teacher, as a control of one that is taught: with `train`, but for what `control` changes.
fn train_control(
    run: &mut Run,
    net: &mut Net,
    train: &Train,
    control: Control,
    phase: Phase<'_>,
) -> Result<f64> {
    let mut train = train.clone();
    match control {
        Control::Smoothing(smoothing) => train.label_smoothing = smoothing,
        Control::Lr(lr) => train.lr = lr,
        Control::Weight(weight) => {
            let objective = CrossEntropy {
                label_smoothing: train.label_smoothing,
            };
            let mut scaled = Scaled { objective, weight };
            return run.train_with(net, &train, phase, Constraints::default(), &mut scaled);
        }
    }
    run.train(net, &train, phase, Constraints::default())
}

/// The result of a training, or none if it diverged: then that is noted, and the run goes on without this variant.
fn unless_diverged<T>(run: &mut Run, label: &Label, result: Result<T>) -> Result<Option<T>> {
    let error = match result {
        Ok(result) => return Ok(Some(result)),
        Err(error) => error,
    };
    let when = match error.downcast_ref::<NnError>() {
        Some(NnError::Diverged { epoch, .. }) => format!("diverged at epoch {}", epoch + 1),
        Some(NnError::NoAnswer { .. }) => "diverged: its logits are not finite".to_owned(),
        _ => return Err(error),
    };
    run.leave_out(label, when)?;
    Ok(None)
}

/// Trains a network on with fake quantization: where it is rounded follows from `calibrated`, its weight scales follow
/// the weights. Returns the calibration with the trained weights, and the seconds it took.
fn train_aware(
    run: &mut Run,
    model: &Model,
    calibrated: &Calibrated,
    bits: WeightBits,
    recipe: &Train,
    phase: Phase<'_>,
    teaching: Option<(&Net, Distill)>,
) -> Result<(Calibrated, f64)> {
    let plain = fold_batch_norms(model)?;
    let spec = calibrated.spec(Adds::Fused, bits)?;
    let fake_quant = FakeQuant::new(
        &plain,
        &spec.placement,
        &spec.activations,
        bits.by_name(&plain),
    )?;
    let mut net = Net::new(&plain, run.device)?;
    let constraints = Constraints {
        fake_quant: Some(&fake_quant),
        teacher: teaching.map(|(teacher, _)| teacher),
        ..Constraints::default()
    };
    let seconds = match teaching {
        Some((_, mut distill)) => {
            run.train_with(&mut net, recipe, phase, constraints, &mut distill)?
        }
        None => run.train(&mut net, recipe, phase, constraints)?,
    };
    Ok((calibrated.with_weights(&net.to_model()?)?, seconds))
}

/// Which layers of an integer network keep other bits than `bits`, for its result line.
fn policy(bits: u8) -> String {
    if bits == 8 {
        String::new()
    } else {
        "first and last layer 8 bits".to_owned()
    }
}

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

fn initial_model(run: &Run, recipe: &Recipe, seed: u64) -> Result<Model> {
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
