//! A run: its folder, its conditions, and the lines that it has written.

mod origin;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use opt_core::Model;
use opt_core::cost::cost;
use opt_nn::Net;
use opt_nn::device;
use opt_nn::train::{Constraints, CrossEntropy, EpochReport, Loss, train};
use opt_report::{
    Correct, CurvePoint, LayerLine, NotRun, ResultLine, RunInfo, SCHEMA, Versions, dirty_tree,
    write_atomic, write_report,
};
use opt_stats::discordant;
use tch::Device;

use crate::cpu::cpu;
use crate::data::Data;
use crate::folder::{Folder, Request};
use crate::identity::{self, Identity, Ingredient};
use crate::layers::layers;
use crate::machine::{self, LIBTORCH_VERSION, Machine, threads};
use crate::measure::{Artifact, Measurement, content, measure, stored_model};
use crate::recipe::Train;
use crate::speed::{self, planned};
use crate::trained::{CacheEntry, Finished};
use crate::training::{Label, PhaseProgress, loss};
use crate::variant::{Part, Pruning, file_of};
use origin::{command_line, git_state};

/// A run in progress.
#[derive(Debug)]
pub struct Run {
    /// The folder.
    pub out: PathBuf,
    folder: Folder,
    machine: Machine,
    /// The conditions, for `run.json`.
    pub info: RunInfo,
    /// The images.
    pub data: Data,
    /// Where it runs.
    pub device: Device,
    /// This run's lines in `results.jsonl`.
    pub lines: Vec<ResultLine>,
    /// This run's points in `curves.jsonl`.
    pub curves: Vec<CurvePoint>,
    /// This run's lines in `layers.jsonl`.
    layers: Vec<LayerLine>,
    /// This run's lines in `correct.jsonl`.
    pub correct: Vec<Correct>,
    /// The phases of training by what they follow from; when they were trained, if by an earlier process.
    phases: BTreeMap<String, Option<SystemTime>>,
}

/// A finished variant: what it is called and what it is compared with.
#[derive(Debug, Clone)]
pub struct Variant<'a> {
    /// Experiment, variant and seed.
    pub label: &'a Label,
    /// The zoo's name of the network.
    pub network: &'a str,
    /// The recipe's name.
    pub recipe: &'a str,
    /// Epochs from random weights to this model.
    pub epochs: f64,
    /// What these epochs were.
    pub epochs_of: String,
    /// Bits of a stored weight.
    pub weight_bits: u32,
    /// Bits of an activation.
    pub activation_bits: u32,
    /// Which layers keep other bits than these; empty if none do.
    pub policy: String,
    /// The arithmetic of its training: `bf16`, `f32`, or empty if it was not trained.
    pub train_precision: &'static str,
    /// Seconds of this variant beyond its baseline, measuring not included.
    pub seconds: f64,
    /// The line that this one is compared with and its answers; `None` for a baseline.
    pub baseline: Option<&'a Measured>,
    /// Its part in a comparison of several variants with each other.
    pub part: Option<Part>,
    /// How weights were pruned, if they were.
    pub pruning: Option<Pruning>,
}

/// What later variants need to know of a finished one.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Its line.
    pub line: ResultLine,
    /// Its answer to every test image.
    pub predictions: Vec<i64>,
    /// The model as its file holds it.
    pub model: Model,
}

impl Run {
    /// Makes the folder, or takes up the run that it holds, and writes `run.json`.
    ///
    /// # Errors
    ///
    /// A folder that holds results of another profile or of other data (nothing in it is touched), in which another run is
    /// at work, or that cannot be written.
    pub fn start(request: Request, data: Data, device: Device) -> Result<Self> {
        let mut folder = Folder::lock(&request.out)?;
        let earlier = folder.earlier(&request, &data.info)?;
        let (mut commit, dirty) = git_state(&request.root);
        let warning = dirty_tree(&commit, dirty);
        if let Some(warning) = &warning {
            eprintln!("WARNING: {warning}");
            if !commit.is_empty() {
                commit += "-dirty";
            }
        }
        let now = rfc3339(SystemTime::now());
        let (started, resumed) = match earlier {
            Some(earlier) => {
                let sittings = earlier.resumed.into_iter().chain([now]);
                (earlier.started, sittings.collect())
            }
            None => (now, Vec::new()),
        };
        let info = RunInfo {
            schema: SCHEMA,
            warning,
            started,
            resumed,
            finished: None,
            command: command_line(std::env::args().skip(1)),
            profile: request.profile,
            experiments: request.experiments,
            recipes: request.recipes,
            commit,
            dirty,
            versions: Versions {
                opt: env!("CARGO_PKG_VERSION").to_owned(),
                rustc: env!("OPT_RUSTC_VERSION").to_owned(),
                tch: env!("OPT_TCH_VERSION").to_owned(),
                libtorch: LIBTORCH_VERSION.to_owned(),
            },
            cpu: cpu(),
            settings: machine::settings(device),
            threads: threads(),
            device: device::name(device),
            precision: request.precision,
            dataset: data.info.clone(),
            seeds: request.seeds,
            shard: request.shard,
            not_run: Vec::new(),
            notes: Vec::new(),
        };
        let run = Self {
            out: request.out,
            folder,
            machine: Machine::new(&info.cpu, device),
            info,
            data,
            device,
            lines: Vec::new(),
            curves: Vec::new(),
            layers: Vec::new(),
            correct: Vec::new(),
            phases: BTreeMap::new(),
        };
        run.write_info()?;
        Ok(run)
    }

    /// Trains a network with cross-entropy.
    ///
    /// # Errors
    ///
    /// Those of the loop.
    pub fn train(
        &mut self,
        net: &mut Net,
        recipe: &Train,
        phase: Phase<'_>,
        constraints: Constraints<'_>,
    ) -> Result<f64> {
        let mut loss = CrossEntropy {
            label_smoothing: recipe.label_smoothing,
        };
        self.train_with(net, recipe, phase, constraints, &mut loss)
    }

    /// Trains a network with a loss of its own, or takes the result from the cache if the same was trained before.
    /// Returns the seconds that it took then; the curve is written at once.
    ///
    /// # Errors
    ///
    /// Those of the loop; a cache that cannot be written.
    pub fn train_with<O: Loss + Ingredient>(
        &mut self,
        net: &mut Net,
        recipe: &Train,
        phase: Phase<'_>,
        constraints: Constraints<'_>,
        loss: &mut O,
    ) -> Result<f64> {
        if recipe.epochs == 0 {
            return Ok(0.0);
        }
        let label = phase.label;
        let place = || {
            format!(
                "{} · {} · seed {} · {}",
                label.experiment, label.variant, label.seed, phase.name
            )
        };
        device::seed(label.seed);
        let mut loader = self.data.training(recipe, label.seed);
        loader.first_epoch = phase.epochs_before;
        let options = recipe.options(self.device);
        let teacher = constraints.teacher.map(Net::to_model).transpose()?;
        let identity = self
            .identity(env!("OPT_TRAINING_CODE"))
            .with("images", &self.data.train_hash)
            .with("batches", loader.identity())
            .with("network", identity::model(&net.to_model()?))
            .with("options", &options)
            .with("loss", &*loss)
            .with("teacher", teacher.as_ref().map(identity::model))
            .with("masks", constraints.masks.map(identity::masks))
            .with("rounding", constraints.fake_quant);
        // What a loss trains of its own does not come back from the cache.
        ensure!(
            loss.parameters().is_empty(),
            "a loss with parameters of its own cannot be kept"
        );
        let entry = CacheEntry::open(&identity)?;
        let phases = &mut self.phases;
        let reports = if let Some(Finished { model, reports }) = entry.finished() {
            *net = Net::new(&model, self.device)?;
            // What this process trained itself is there already.
            let since = entry.since()?;
            phases.entry(identity.hash()).or_insert(Some(since));
            let seconds = reports.iter().map(|r| r.seconds).sum::<f64>();
            eprintln!("  {}: trained before ({seconds:.0} s)", place());
            reports
        } else {
            let work = speed::Training {
                model: &net.to_model()?,
                teacher: teacher.as_ref(),
                fake_quant: constraints.fake_quant.is_some(),
                precision: options.precision,
            };
            let planned = planned(work, self.device);
            let mut progress =
                PhaseProgress::new(label, phase.name, recipe.epochs, planned, &entry);
            let trained = train(net, &loader, loss, &options, constraints, &mut progress);
            progress.finish();
            let reports = trained.with_context(place)?;
            entry.finish(&net.to_model()?, &reports)?;
            phases.insert(identity.hash(), None);
            reports
        };
        let curve: Vec<CurvePoint> = reports.iter().map(|r| point(phase, r)).collect();
        self.folder.add_curve(&curve)?;
        self.curves.extend(curve);
        Ok(reports.iter().map(|r| r.seconds).sum())
    }

    /// Writes a variant's file, measures it and writes its line at once; or finds the line in the folder, if an earlier
    /// run measured the same.
    ///
    /// # Errors
    ///
    /// Those of measuring and writing.
    pub fn record(&mut self, variant: Variant<'_>, artifact: Artifact<'_>) -> Result<Measured> {
        let label = variant.label;
        let file = self.free_file(&variant, artifact)?;
        let path = self.out.join(&file);
        let key = self.key(&variant, &file, artifact)?;
        let known = self.folder.known(&key);
        let is_known = known.is_some();
        let (line, predictions, model) = match known {
            Some((line, predictions)) => {
                let model = stored_model(artifact, &path)?;
                (line, predictions, model)
            }
            None => {
                let provenance = self.provenance(&variant);
                let measured = measure(artifact, &path, &provenance, &self.data, self.device)
                    .with_context(|| {
                        format!("measuring {} · {}", label.experiment, label.variant)
                    })?;
                let line = self.line(&variant, &measured, file, key);
                (line, measured.evaluation.predictions, measured.model)
            }
        };
        // Before the result, so that no result is without its layers and pairs.
        self.record_layers(label, variant.network, artifact, &model)?;
        self.record_correct(&line, &predictions)?;
        if is_known {
            eprintln!(
                "  {} · {} · seed {}: measured before: top-1 {:.2} %",
                line.experiment, line.variant, line.seed, line.top1
            );
        } else {
            self.folder.add_line(&line, predictions.clone())?;
            eprintln!("  {}", in_words(&line));
        }
        self.lines.push(line.clone());
        Ok(Measured {
            line,
            predictions,
            model,
        })
    }

    /// The file of a variant's model: it holds experiment, network, variant and seed, and no earlier line has it.
    fn free_file(&self, variant: &Variant<'_>, artifact: Artifact<'_>) -> Result<String> {
        let label = variant.label;
        let file = format!(
            "models/{}-s{}.{}",
            file_of(&label.experiment, variant.network, &label.variant),
            label.seed,
            match artifact {
                Artifact::Integer { .. } => "opt",
                Artifact::Float(_) | Artifact::Weights(_) => "safetensors",
            }
        );
        if let Some(first) = self.lines.iter().find(|l| l.file == file) {
            bail!(
                "{} · {} · {} · seed {} would overwrite the model of `{}`; rename one in the profile",
                label.experiment,
                label.variant,
                variant.network,
                label.seed,
                first.variant
            );
        }
        Ok(file)
    }

    /// What a model's file says of where it comes from.
    fn provenance(&self, variant: &Variant<'_>) -> opt_artifact::Provenance {
        let label = variant.label;
        opt_artifact::Provenance::from([
            ("experiment".to_owned(), label.experiment.clone()),
            ("variant".to_owned(), label.variant.clone()),
            ("network".to_owned(), variant.network.to_owned()),
            ("recipe".to_owned(), variant.recipe.to_owned()),
            ("seed".to_owned(), label.seed.to_string()),
            ("dataset".to_owned(), self.data.info.name.clone()),
            ("commit".to_owned(), self.info.commit.clone()),
        ])
    }

    /// The key of a variant's line: everything that the line follows from.
    fn key(&self, variant: &Variant<'_>, file: &str, artifact: Artifact<'_>) -> Result<String> {
        let Variant {
            label,
            network: _,
            recipe,
            epochs,
            epochs_of,
            weight_bits,
            activation_bits,
            policy,
            train_precision,
            seconds: _,
            baseline,
            part,
            pruning,
        } = variant;
        let pruning = pruning.as_ref();
        let part = part.as_ref();
        let identity = self
            .identity(env!("OPT_MEASURING_CODE"))
            .with("images", &self.data.test_hash)
            .with("label", (&label.experiment, &label.variant, label.seed))
            .with("file", file)
            .with("content", content(artifact)?)
            .with("recipe", *recipe)
            .with("epochs", (*epochs, epochs_of))
            .with("bits", (*weight_bits, *activation_bits, policy))
            .with("precision", *train_precision)
            .with("pruning", pruning.map(|p| (p.sparsity, p.method.as_str())))
            .with("compared with", baseline.map(|b| b.line.key.as_str()))
            .with("part", part.map(|p| (p.group.as_str(), p.arm.name())));
        Ok(identity.hash())
    }

    /// Notes that a variant was asked for and has no result; its comparisons are without it.
    ///
    /// # Errors
    ///
    /// `run.json` cannot be written.
    pub fn leave_out(&mut self, label: &Label, network: &str, why: String) -> Result<()> {
        let Label {
            experiment,
            variant,
            seed,
        } = label;
        let what = format!("{experiment} · {variant} · seed {seed}");
        eprintln!("  {what}: {why}; the run goes on without it");
        let note = format!("{what} {why}: it has no line, and comparisons are without it.");
        self.info.notes.push(note);
        let file = Some(format!("{}-s{seed}", file_of(experiment, network, variant)));
        self.info.not_run.push(NotRun { what, why, file });
        self.write_info()
    }

    /// Writes the layers of a variant, as its file holds them.
    fn record_layers(
        &mut self,
        label: &Label,
        network: &str,
        artifact: Artifact<'_>,
        model: &Model,
    ) -> Result<()> {
        let line = LayerLine {
            experiment: label.experiment.clone(),
            variant: label.variant.clone(),
            model: network.to_owned(),
            seed: label.seed,
            layers: layers(model, &cost(model)?, |weight| artifact.bits(weight)),
        };
        self.folder.add_layers(&line)?;
        self.layers.push(line);
        Ok(())
    }

    /// Writes which test images a variant has right.
    fn record_correct(&mut self, line: &ResultLine, answers: &[i64]) -> Result<()> {
        let correct = Correct::new(line, &self.data.test.labels, answers);
        self.folder.add_correct(&correct)?;
        self.correct.push(correct);
        Ok(())
    }

    /// What every result follows from: the code and the machine.
    fn identity(&self, code: &str) -> Identity {
        Identity::default()
            .with("code", code)
            .with("compiler", &self.info.versions.rustc)
            .with("machine", &self.machine)
            .with("device and threads", (&self.info.device, self.info.threads))
            .with("settings", &self.info.settings)
    }

    fn line(
        &self,
        variant: &Variant<'_>,
        measured: &Measurement,
        file: String,
        key: String,
    ) -> ResultLine {
        let answers = &measured.evaluation.predictions;
        let base = variant.baseline;
        let same = |b: &Measured| {
            let equal = b
                .predictions
                .iter()
                .zip(answers)
                .filter(|(a, b)| a == b)
                .count();
            100.0 * equal as f64 / answers.len().max(1) as f64
        };
        let layers = measured
            .cost
            .layers
            .iter()
            .filter(|l| l.weights > 0)
            .count();
        ResultLine {
            experiment: variant.label.experiment.clone(),
            variant: variant.label.variant.clone(),
            model: variant.network.to_owned(),
            dataset: self.data.info.name.clone(),
            seed: variant.label.seed,
            device: self.info.device.clone(),
            epochs: variant.epochs,
            epochs_of: variant.epochs_of.clone(),
            top1: measured.evaluation.top1,
            top1_baseline: base.map_or(measured.evaluation.top1, |b| b.line.top1),
            baseline: base.map(|b| b.line.variant.clone()),
            group: (variant.part.as_ref()).map_or_else(String::new, |part| part.group.clone()),
            arm: variant.part.as_ref().map(|part| part.arm),
            bytes_baseline: base.map(|b| b.line.bytes),
            macs_baseline: base.map(|b| b.line.macs),
            agreement: base.map(same),
            discordant: base.map(|b| discordant(&self.data.test.labels, answers, &b.predictions)),
            sparsity: variant.pruning.as_ref().map(|p| p.sparsity),
            method: variant
                .pruning
                .as_ref()
                .map_or_else(String::new, |p| p.method.clone()),
            n_test: answers.len() as u64,
            params: measured.cost.params as u64,
            nonzero: measured.cost.nonzero as u64,
            macs: measured.cost.macs,
            bytes: measured.bytes,
            bytes_provenance: measured.bytes_provenance,
            latency_ms: measured.latency_ms,
            layers: u32::try_from(layers).unwrap_or(u32::MAX),
            weight_bits: variant.weight_bits,
            activation_bits: variant.activation_bits,
            policy: variant.policy.clone(),
            train_precision: variant.train_precision.to_owned(),
            precision: measured.precision.clone(),
            seconds: variant.seconds,
            recipe: variant.recipe.to_owned(),
            file,
            commit: self.info.commit.clone(),
            key,
        }
    }

    /// Writes `run.json` as it stands.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_info(&self) -> Result<()> {
        let mut text = serde_json::to_string_pretty(&self.info)?;
        text.push('\n');
        Ok(write_atomic(&self.out.join("run.json"), text.as_bytes())?)
    }

    /// Writes the report of what there is.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn write_report(&self) -> Result<Vec<PathBuf>> {
        let (lines, curves) = (&self.lines, &self.curves);
        Ok(write_report(&self.out, &self.info, lines, curves)?)
    }

    /// Notes the end and writes the report.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn finish(&mut self) -> Result<Vec<PathBuf>> {
        let before: Vec<SystemTime> = self.phases.values().flatten().copied().collect();
        if let (Some(first), Some(last)) = (before.iter().min(), before.iter().max()) {
            self.info.notes.push(format!(
                "{} of {} phases of training were done before, from {} to {}, with the same code, data and recipe and were \
                 taken from the cache; seconds and speeds are those of that time.",
                before.len(),
                self.phases.len(),
                rfc3339(*first),
                rfc3339(*last),
            ));
        }
        let elsewhere = |line: &&ResultLine| line.commit != self.info.commit;
        let others = self.lines.iter().filter(elsewhere).count();
        if others > 0 {
            self.info.notes.push(format!(
                "{others} of {} variants were measured before, by the same code at another commit; each line of \
                 results.jsonl names its own.",
                self.lines.len()
            ));
        }
        self.info.finished = Some(rfc3339(SystemTime::now()));
        self.folder
            .tidy(&self.lines, &self.curves, &self.layers, &self.correct)?;
        self.write_info()?;
        self.write_report()
    }
}

/// A finished variant in a line of the terminal.
fn in_words(line: &ResultLine) -> String {
    let delta = match &line.baseline {
        Some(_) => format!(" ({:+.2} points)", line.top1 - line.top1_baseline),
        None => String::new(),
    };
    let latency = line.latency_ms.map(|ms| format!(", {ms:.3} ms"));
    format!(
        "{} · {} · seed {}: top-1 {:.2} %{delta}, {:.1} kB{}, {:.0} s",
        line.experiment,
        line.variant,
        line.seed,
        line.top1,
        line.bytes as f64 / 1000.0,
        latency.unwrap_or_default(),
        line.seconds
    )
}

/// A phase of training within a variant.
#[derive(Debug, Clone, Copy)]
pub struct Phase<'a> {
    /// The variant.
    pub label: &'a Label,
    /// The zoo's name of the network.
    pub network: &'a str,
    /// `train`, `fine-tune`, `quantization-aware`.
    pub name: &'a str,
    /// Epochs of earlier phases; orders and variations of images go on from there.
    pub epochs_before: usize,
}

/// An epoch as a point of the variant's curve.
fn point(phase: Phase<'_>, report: &EpochReport) -> CurvePoint {
    let label = phase.label;
    CurvePoint {
        experiment: label.experiment.clone(),
        variant: label.variant.clone(),
        model: phase.network.to_owned(),
        seed: label.seed,
        phase: phase.name.to_owned(),
        epoch: (phase.epochs_before + report.epoch + 1) as f64,
        loss: loss(report),
        train_top1: report.train_top1,
        lr: report.lr,
        images_per_second: report.images_per_second,
    }
}

/// A time as RFC 3339 in UTC with whole seconds. What lies outside of 1970 to 9999, as the time of a file may, reads as its
/// nearest second within.
fn rfc3339(time: SystemTime) -> String {
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(time.clamp(UNIX_EPOCH, last)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_no_calendar_has_are_times_all_the_same() {
        let seconds = Duration::from_secs;
        let cases = [
            (UNIX_EPOCH, "1970-01-01T00:00:00Z"),
            (UNIX_EPOCH - seconds(1), "1970-01-01T00:00:00Z"),
            (UNIX_EPOCH + seconds(951_868_799), "2000-02-29T23:59:59Z"),
            (
                UNIX_EPOCH + seconds(253_402_300_800),
                "9999-12-31T23:59:59Z",
            ),
            (UNIX_EPOCH + seconds(1 << 60), "9999-12-31T23:59:59Z"),
        ];
        for (time, text) in cases {
            assert_eq!(rfc3339(time), text);
        }
    }
}
