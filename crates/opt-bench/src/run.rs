//! A run: its folder, its conditions, and the lines that it has written.

use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use opt_core::Model;
use opt_nn::Net;
use opt_nn::device;
use opt_nn::train::{Constraints, CrossEntropy, Objective, train};
use tch::Device;

use crate::data::Data;
use crate::measure::{Measured, Shipped, measure};
use crate::recipe::Train;
use crate::results::{
    CurvePoint, RecipeText, ResultLine, RunInfo, SCHEMA, Versions, append_line, cpu, discordant,
    rfc3339, write_atomic,
};
use crate::training::{Label, Watch};

/// A run in progress.
#[derive(Debug)]
pub struct Run {
    /// The folder.
    pub out: PathBuf,
    /// The conditions, for `run.json`.
    pub info: RunInfo,
    /// The images.
    pub data: Data,
    /// Where it runs.
    pub device: Device,
    /// What was written to `results.jsonl`.
    pub lines: Vec<ResultLine>,
    /// What was written to `curves.jsonl`.
    pub curves: Vec<CurvePoint>,
}

/// What is asked of a run, before anything is trained.
#[derive(Debug, Clone)]
pub struct Request {
    /// The folder; must not hold results yet.
    pub out: PathBuf,
    /// The profile's name, or `train`.
    pub profile: String,
    /// The experiments.
    pub experiments: Vec<String>,
    /// The recipes with all defaults filled in.
    pub recipes: Vec<RecipeText>,
    /// The arithmetic of training: `bf16 NHWC`.
    pub precision: String,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The repository, for the commit.
    pub root: PathBuf,
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
    pub baseline: Option<&'a Recorded>,
}

/// What later variants need to know of a finished one.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its line.
    pub line: ResultLine,
    /// Its answer to every test image.
    pub predictions: Vec<i64>,
    /// The model as its file holds it.
    pub model: Model,
}

impl Run {
    /// Makes the folder and writes `run.json`.
    ///
    /// # Errors
    ///
    /// A folder that already holds results (nothing in it is touched), or that cannot be written.
    pub fn start(request: Request, data: Data, device: Device) -> Result<Self> {
        let taken = |name: &str| request.out.join(name).exists();
        if taken("results.jsonl") || taken("curves.jsonl") {
            bail!(
                "{} already holds results; name another folder with --out, or move this one away",
                request.out.display()
            );
        }
        std::fs::create_dir_all(request.out.join("models"))
            .with_context(|| format!("making the folder {}", request.out.display()))?;
        let (commit, dirty) = git_state(&request.root);
        let info = RunInfo {
            schema: SCHEMA,
            started: rfc3339(SystemTime::now()),
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
                libtorch: env!("OPT_LIBTORCH_VERSION").to_owned(),
            },
            cpu: cpu(),
            threads: threads(),
            device: device::name(device),
            precision: request.precision,
            dataset: data.info.clone(),
            seeds: request.seeds,
            not_run: Vec::new(),
            notes: Vec::new(),
        };
        let run = Self {
            out: request.out,
            info,
            data,
            device,
            lines: Vec::new(),
            curves: Vec::new(),
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
        let mut objective = CrossEntropy {
            label_smoothing: recipe.label_smoothing,
        };
        self.train_with(net, recipe, phase, constraints, &mut objective)
    }

    /// Trains a network with an objective of its own. Returns the seconds it took; the curve is written at once.
    ///
    /// # Errors
    ///
    /// Those of the loop.
    pub fn train_with(
        &mut self,
        net: &mut Net,
        recipe: &Train,
        phase: Phase<'_>,
        constraints: Constraints<'_>,
        objective: &mut dyn Objective,
    ) -> Result<f64> {
        let started = Instant::now();
        device::seed(phase.label.seed);
        let mut loader = self.data.training(recipe, phase.label.seed);
        loader.first_epoch = phase.epochs_before;
        let mut watch = Watch::new(
            phase.label,
            phase.name,
            recipe.epochs,
            phase.epochs_before as f64,
        );
        let options = recipe.options(self.device);
        let trained = train(net, &loader, objective, &options, constraints, &mut watch);
        watch.finish();
        for point in &watch.curve {
            append_line(&self.out.join("curves.jsonl"), point)?;
        }
        self.curves.append(&mut watch.curve);
        trained.with_context(|| {
            format!(
                "{} · {} · seed {} · {}",
                phase.label.experiment, phase.label.variant, phase.label.seed, phase.name
            )
        })?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Writes a variant's file, measures it and writes its line at once.
    ///
    /// # Errors
    ///
    /// Those of measuring and writing.
    pub fn record(&mut self, variant: Variant<'_>, shipped: Shipped<'_>) -> Result<Recorded> {
        let label = variant.label;
        let file = format!(
            "models/{}-{}-{}-s{}.{}",
            label.experiment,
            variant.network,
            slug(&label.variant),
            label.seed,
            match shipped {
                Shipped::Integer { .. } => "opt",
                _ => "safetensors",
            }
        );
        // The file's name holds experiment, network, variant and seed.
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
        let provenance = opt_artifact::Provenance::from([
            ("experiment".to_owned(), label.experiment.clone()),
            ("variant".to_owned(), label.variant.clone()),
            ("network".to_owned(), variant.network.to_owned()),
            ("recipe".to_owned(), variant.recipe.to_owned()),
            ("seed".to_owned(), label.seed.to_string()),
            ("dataset".to_owned(), self.data.info.name.clone()),
            ("commit".to_owned(), self.info.commit.clone()),
        ]);
        let path = self.out.join(&file);
        let measured = measure(shipped, &path, &provenance, &self.data, self.device)
            .with_context(|| format!("measuring {} · {}", label.experiment, label.variant))?;
        let line = self.line(&variant, &measured, file);
        append_line(&self.out.join("results.jsonl"), &line)?;
        eprintln!(
            "  {} · {} · seed {}: top-1 {:.2} %{}, {:.1} kB, {:.0} s",
            line.experiment,
            line.variant,
            line.seed,
            line.top1,
            match &line.baseline {
                Some(_) => format!(" ({:+.2} points)", line.top1 - line.top1_baseline),
                None => String::new(),
            },
            line.bytes as f64 / 1000.0,
            line.seconds
        );
        self.lines.push(line.clone());
        Ok(Recorded {
            line,
            predictions: measured.evaluation.predictions,
            model: measured.model,
        })
    }

    fn line(&self, variant: &Variant<'_>, measured: &Measured, file: String) -> ResultLine {
        let answers = &measured.evaluation.predictions;
        let base = variant.baseline;
        let same = |b: &Recorded| {
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
            bytes_baseline: base.map(|b| b.line.bytes),
            macs_baseline: base.map(|b| b.line.macs),
            agreement: base.map(same),
            discordant: base.map(|b| discordant(&self.data.test.labels, answers, &b.predictions)),
            n_test: answers.len() as u64,
            params: measured.cost.params as u64,
            nonzero: measured.cost.nonzero as u64,
            macs: measured.cost.macs,
            bytes: measured.bytes,
            layers: u32::try_from(layers).unwrap_or(u32::MAX),
            weight_bits: variant.weight_bits,
            activation_bits: variant.activation_bits,
            policy: variant.policy.clone(),
            train_precision: variant.train_precision.to_owned(),
            precision: measured.precision.to_owned(),
            seconds: variant.seconds,
            recipe: variant.recipe.to_owned(),
            file,
            commit: self.info.commit.clone(),
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
        write_atomic(&self.out.join("run.json"), text.as_bytes())
    }

    /// Notes the end and writes the report.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn finish(&mut self) -> Result<Vec<PathBuf>> {
        self.info.finished = Some(rfc3339(SystemTime::now()));
        self.write_info()?;
        crate::report::write_report(&self.out, &self.info, &self.lines, &self.curves)
    }
}

/// A phase of training within a variant.
#[derive(Debug, Clone, Copy)]
pub struct Phase<'a> {
    /// The variant.
    pub label: &'a Label,
    /// `train`, `fine-tune`, `quantization-aware`.
    pub name: &'a str,
    /// Epochs of earlier phases; orders and variations of images go on from there.
    pub epochs_before: usize,
}

/// The threads that libtorch uses: `OMP_NUM_THREADS`, else all cores.
#[must_use]
pub fn threads() -> usize {
    let wish = std::env::var("OMP_NUM_THREADS").ok();
    wish.and_then(|n| n.parse().ok())
        .filter(|n| *n > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// The command as a person would type it. Folders and files that only this machine has are named for what they are:
/// results are made to be passed on.
fn command_line(args: impl Iterator<Item = String>) -> String {
    let mut command = "cargo xtask".to_owned();
    let mut option = String::new();
    for arg in args {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), value),
            _ => (option.clone(), arg.as_str()),
        };
        let path = Path::new(value);
        let outside = path.is_absolute() || path.components().any(|c| c == Component::ParentDir);
        let shown = match name.as_str() {
            _ if !outside => value,
            "--data" | "--out" => "DIR",
            "--weights" => "FILE",
            _ => path.file_name().and_then(|n| n.to_str()).unwrap_or("FILE"),
        };
        if arg.contains('=') && name.starts_with("--") {
            command += &format!(" {name}={shown}");
        } else {
            command += &format!(" {shown}");
        }
        option = arg;
    }
    command
}

fn git_state(root: &Path) -> (String, Option<bool>) {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(args).output();
        let output = output.ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_default();
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).map(|s| !s.is_empty());
    (commit, dirty)
}

/// A variant's name as part of a file name: letters, digits, dots and single dashes.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        if c.is_ascii_alphanumeric() || c == '.' {
            slug.push(c);
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_no_folder_of_this_machine() {
        let cases = [
            (
                "experiment all --data /somewhere/cifar --out /tmp/x --seeds 2",
                "cargo xtask experiment all --data DIR --out DIR --seeds 2",
            ),
            (
                "train recipes/a.toml --weights=/home/me/w.safetensors --data=synthetic",
                "cargo xtask train recipes/a.toml --weights=FILE --data=synthetic",
            ),
            (
                "experiment all --profile /home/me/p.toml --data ../cifar",
                "cargo xtask experiment all --profile p.toml --data DIR",
            ),
            (
                "train ../recipes/a.toml --data data",
                "cargo xtask train a.toml --data data",
            ),
            (
                "experiment prune --data data --out results",
                "cargo xtask experiment prune --data data --out results",
            ),
        ];
        for (args, expect) in cases {
            assert_eq!(command_line(args.split(' ').map(str::to_owned)), expect);
        }
    }

    #[test]
    fn variants_become_file_names() {
        let cases = [
            ("one-shot 80 %, global", "one-shot-80-global"),
            ("W8A8 post-training", "w8a8-post-training"),
            ("../../etc", "..-..-etc"),
            ("T = 2.5", "t-2.5"),
        ];
        for (name, expect) in cases {
            assert_eq!(slug(name), expect);
        }
    }
}
