//! Training beside PyTorch: images per second and peak memory of three networks.
//!
//! Ours is the whole path that `train` and `experiment` take: images cropped and flipped on the way, the one training
//! loop, its meters, the precision of this machine. The peer gets batches that were made before the clock ran.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use opt_core::{InputSpec, zoo};
use opt_data::batches::TrainOptions as BatchOptions;
use opt_nn::train::{Constraints, CrossEntropy, NoHooks, TrainOptions, train};
use opt_nn::{Batch, BatchSource, Net, Precision, device};
use opt_stats::{Better, ratio};
use serde::Deserialize;
use serde_json::json;
use tch::Device;

use super::memory::{self, Peer as MemoryOf};
use super::peer::{Peer, find_python, python};
use super::rounds::{Idle, in_turn};
use super::same::check_same;
use super::{Common, Findings, Row, chosen, steps_in};
use crate::data::Loader;
use crate::recipe::Train;

/// The networks of the zoo that are trained.
const NETWORKS: &[&str] = &["resnet20", "source_net", "airbench_32_64_128"];

/// Images in a batch.
pub(super) const BATCH: usize = 128;

/// What differs from the defaults of a recipe: small enough for every network to stay finite.
const RECIPE: &str = "epochs = 1\nbatch = 128\nlr = 0.02";

/// Images that ours draws its batches from: 50 batches an epoch.
const IMAGES: usize = 50 * BATCH;

/// The peer's program.
pub(super) const SCRIPT: &str = include_str!("../../peers/train.py");

/// How long a run lasts in a round, unless the steps are given.
const SECONDS: f64 = 2.0;

/// How long a peer may take for one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Threads of ours and of the peer [default: `OMP_NUM_THREADS`, else all cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Steps of every run in a round [default: as many as take about two seconds].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Seconds that torch.compile may take for a network; 0 leaves it out.
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    compile_limit: u32,
}

/// What the peer says of itself.
#[derive(Debug, Clone, Deserialize)]
struct Hello {
    version: String,
    threads: usize,
    modes: Vec<PeerMode>,
    compiler: Option<String>,
}

/// A way in which the peer trains; the first is its default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct PeerMode {
    name: String,
    /// `f32` or `bf16`.
    arithmetic: String,
    compiled: bool,
}

/// Ours, ready to train.
pub(super) struct Ours {
    net: Net,
    loader: Loader,
    options: TrainOptions,
    /// The epoch that the next run begins with.
    epoch: usize,
}

/// The first so many batches from an epoch on.
struct Steps<'a> {
    loader: &'a Loader,
    first_epoch: usize,
    steps: usize,
}

impl BatchSource for Steps<'_> {
    fn epoch(&self, _epoch: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        let epochs = (self.first_epoch..).flat_map(|epoch| self.loader.epoch(epoch));
        Box::new(epochs.take(self.steps))
    }

    fn batches_per_epoch(&self) -> usize {
        self.steps
    }
}

/// The recipe that is timed.
pub(super) fn recipe() -> Result<Train> {
    let recipe: Train = toml::from_str(RECIPE)?;
    recipe.check()?;
    Ok(recipe)
}

/// Synthetic images in the way that real ones take: cropped, flipped, made on a thread of their own.
pub(super) fn loader() -> Result<Loader> {
    let recipe = recipe()?;
    let images = opt_data::synthetic::synthetic(0, IMAGES, 0).train;
    let options = BatchOptions {
        batch_size: recipe.batch,
        augment: recipe.augmentation(images.channels),
        ..BatchOptions::default()
    };
    Ok(Loader::new(images, options))
}

impl Ours {
    pub(super) fn new(network: &str, loader: Loader) -> Result<Self> {
        let model = zoo::build(network, &InputSpec::cifar10(), 0)?;
        Ok(Self {
            net: Net::new(&model, Device::Cpu)?,
            loader,
            options: recipe()?.options(Device::Cpu),
            epoch: 0,
        })
    }

    /// Trains so many steps and returns the seconds they took.
    pub(super) fn run(&mut self, steps: usize) -> Result<f64> {
        let batches = Steps {
            loader: &self.loader,
            first_epoch: self.epoch,
            steps,
        };
        let mut objective = CrossEntropy {
            label_smoothing: 0.0,
        };
        let started = Instant::now();
        train(
            &mut self.net,
            &batches,
            &mut objective,
            &self.options,
            Constraints::default(),
            &mut NoHooks,
        )?;
        let seconds = started.elapsed().as_secs_f64();
        self.epoch += steps.div_ceil(self.loader.batches_per_epoch());
        Ok(seconds)
    }
}

/// A peer that trains, and how it is started again.
struct Rival<'a> {
    python: &'a Path,
    threads: usize,
    peer: Peer,
    hello: Hello,
}

impl<'a> Rival<'a> {
    fn start(path: &'a Path, threads: usize) -> Result<Self> {
        let mut peer = Peer::start(&mut python(path, SCRIPT, threads))?;
        let hello: Hello = peer.ask(&json!({"do": "hello", "threads": threads}), PATIENCE)?;
        ensure!(
            hello.threads == threads && !hello.modes.is_empty(),
            "the peer runs on {} threads in {} modes, expected {threads} threads and at least one mode",
            hello.threads,
            hello.modes.len()
        );
        Ok(Self {
            python: path,
            threads,
            peer,
            hello,
        })
    }

    fn run(&mut self, network: &str, mode: &str, steps: usize, limit: Duration) -> Result<f64> {
        let request = json!({
            "do": "run", "network": network, "mode": mode, "steps": steps, "batch": BATCH
        });
        self.peer.ask(&request, limit)
    }

    /// The seconds of a step: the best of a few short runs after a warm-up, which may take `limit`.
    fn try_mode(&mut self, network: &str, mode: &str, limit: Duration) -> Result<f64> {
        self.run(network, mode, 2, limit)?;
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            best = best.min(self.run(network, mode, 3, PATIENCE)? / 3.0);
        }
        Ok(best)
    }

    /// Picks the peer's fastest mode for a network by a short trial.
    fn fastest(
        &mut self,
        network: &str,
        compile_limit: u32,
        notes: &mut Vec<String>,
    ) -> Result<String> {
        let modes = self.hello.modes.clone();
        let mut tried = Vec::new();
        for mode in modes.iter().filter(|m| !m.compiled) {
            tried.push((self.try_mode(network, &mode.name, PATIENCE)?, mode));
        }
        let eager = quickest(&tried).context("the peer has no mode without a compiler")?;
        let limit = Duration::from_secs(compile_limit.into());
        let compiled = modes
            .iter()
            .filter(|m| m.compiled && m.arithmetic == eager.arithmetic);
        if limit.is_zero() {
            notes.push(format!("{network}: torch.compile was left out, as asked"));
        } else if self.hello.compiler.is_none() {
            notes.push(format!(
                "{network}: torch.compile was left out: there is no C++ compiler"
            ));
        } else {
            for mode in compiled {
                match self.try_mode(network, &mode.name, limit) {
                    Ok(seconds) => tried.push((seconds, mode)),
                    Err(error) => {
                        let text = format!("{error:#}");
                        let last = text.trim_end().lines().last().unwrap_or_default();
                        notes.push(format!("{network}: {} was left out: {last}", mode.name));
                        // It may still be compiling.
                        *self = Self::start(self.python, self.threads)?;
                    }
                }
            }
        }
        for (seconds, mode) in &tried {
            eprintln!("  {:>6.0} images/s  {}", BATCH as f64 / seconds, mode.name);
        }
        self.peer.ask::<()>(&json!({"do": "forget"}), PATIENCE)?;
        let best = quickest(&tried).unwrap_or(eager);
        Ok(best.name.clone())
    }
}

fn quickest<'m>(tried: &[(f64, &'m PeerMode)]) -> Option<&'m PeerMode> {
    let best = tried.iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(best.1)
}

/// Runs the benchmark.
pub(super) fn run(options: &Options) -> Result<Findings> {
    let common = &options.common;
    let networks = chosen(NETWORKS, common.case.as_deref())?;
    let path = find_python(
        common.python.as_deref(),
        std::env::var_os("OPT_PEERS_PYTHON"),
    )?;
    let threads = options
        .threads
        .map_or_else(crate::run::threads, usize::from);
    device::set_threads(threads);
    let mut rival = Rival::start(&path, threads)?;
    let precision = Precision::for_training(Device::Cpu).name();
    let mut findings = Findings {
        threads,
        peer: rival.hello.version.clone(),
        facts: vec![format!("ours trains in {precision} NHWC")],
        ..Findings::default()
    };
    let loader = loader()?;
    let mut idle = Idle::default();
    for network in networks {
        check_same(&mut rival.peer, network)
            .with_context(|| format!("comparing the networks `{network}`"))?;
        eprintln!("{network}: the peer's modes");
        let best = rival.fastest(network, options.compile_limit, &mut findings.notes)?;
        let default = rival.hello.modes[0].name.clone();
        let peers = [("PyTorch default", default), ("PyTorch best", best)];
        for (name, mode) in &peers {
            findings.facts.push(format!("{name} of {network}: {mode}"));
        }
        let mut ours = Ours::new(network, loader.clone())?;
        // Contestant 0 is ours.
        let mut run = |contestant: usize, steps: usize| -> Result<f64> {
            if contestant == 0 {
                idle.during(rival.peer.id(), || ours.run(steps))
            } else {
                let mode = &peers[contestant - 1].1;
                idle.during(std::process::id(), || {
                    rival.run(network, mode, steps, PATIENCE)
                })
            }
        };
        let mut steps = [1; 3];
        for (contestant, steps) in steps.iter_mut().enumerate() {
            run(contestant, 3)?;
            let step = run(contestant, 5)? / 5.0;
            *steps = options
                .steps
                .map_or_else(|| steps_in(SECONDS, step), |n| n as usize);
        }
        eprintln!(
            "{network}: {} rounds of {} steps of ours and {} and {} of the peers",
            common.rounds, steps[0], steps[1], steps[2]
        );
        let values = in_turn(common.rounds.into(), 3, |contestant| {
            let steps = steps[contestant];
            Ok((steps * BATCH) as f64 / run(contestant, steps)?)
        })?;
        for (values_of, (name, _)) in values[1..].iter().zip(&peers) {
            let compared = ratio(&values[0], values_of, Better::Larger)?;
            findings
                .rows
                .push(Row::new(network, name, "images/s", compared));
        }
        let memory_of = peers.each_ref().map(|(name, mode)| MemoryOf { name, mode });
        eprintln!("{network}: peak memory");
        memory::rows(&path, threads, network, &memory_of, &mut findings)?;
    }
    findings.facts.extend(idle.words());
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Optimizer;

    fn mode(name: &str) -> PeerMode {
        PeerMode {
            name: name.to_owned(),
            arithmetic: "f32".to_owned(),
            compiled: false,
        }
    }

    #[test]
    fn the_quickest_mode_is_taken_and_the_first_of_equals() {
        let (a, b, c) = (mode("a"), mode("b"), mode("c"));
        let found = quickest(&[(2.0, &a), (1.0, &b), (1.0, &c)]).unwrap();
        assert_eq!(found.name, "b");
        assert!(quickest(&[]).is_none());
    }

    #[test]
    fn runs_take_as_many_steps_as_asked_over_the_ends_of_epochs() {
        let images = opt_data::synthetic::synthetic(0, 20, 0).train;
        let options = BatchOptions {
            batch_size: 10,
            ..BatchOptions::default()
        };
        let loader = Loader::new(images, options);
        let steps = Steps {
            loader: &loader,
            first_epoch: 3,
            steps: 5,
        };
        let batches: Vec<Batch> = steps.epoch(0).collect();
        assert_eq!((batches.len(), steps.batches_per_epoch()), (5, 5));
        // Two batches an epoch, beginning with epoch 3.
        let expected: Vec<Batch> = (3..6).flat_map(|e| loader.epoch(e)).take(5).collect();
        assert_eq!(batches, expected);
        assert_ne!(batches[0], loader.epoch(0).next().unwrap());
    }

    #[test]
    fn ours_trains_what_it_is_timed_for() {
        let images = opt_data::synthetic::synthetic(0, 20, 0).train;
        let options = BatchOptions {
            batch_size: 10,
            ..BatchOptions::default()
        };
        let mut ours = Ours::new("airbench_2_2_2", Loader::new(images, options)).unwrap();
        let before = ours.net.to_model().unwrap();
        assert!(ours.run(3).unwrap() > 0.0);
        // The weights moved, and the next run goes on with the epoch after the two that were begun.
        assert_ne!(ours.net.to_model().unwrap().params, before.params);
        assert_eq!(ours.epoch, 2);
        let recipe = recipe().unwrap();
        assert!(recipe.weight_decay > 0.0);
        let nesterov = matches!(recipe.optimizer, Optimizer::Sgd { nesterov: true, .. });
        assert!(nesterov, "{recipe:?}");
        assert_eq!(recipe.batch, BATCH);
    }

    #[test]
    #[ignore = "needs PyTorch: OPT_PEERS_PYTHON names its Python"]
    fn the_peers_networks_are_the_zoos() {
        let path = find_python(None, std::env::var_os("OPT_PEERS_PYTHON")).unwrap();
        let mut rival = Rival::start(&path, 1).unwrap();
        for network in NETWORKS {
            check_same(&mut rival.peer, network).unwrap();
        }
    }
}
