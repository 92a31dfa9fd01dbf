//! Augmentation on one core beside PyTorch: random crop and flip, bytes to bytes, in shuffled batches.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use opt_data::Dataset;
use opt_data::batches::{Batch, TrainOptions, train_batches};
use opt_stats::{Better, ratio};
use serde::Deserialize;
use serde_json::json;

use crate::options::{Common, chosen, steps_in};
use crate::outcome::{Findings, Row};
use crate::peer::{Peer, find_python, python};
use crate::rounds::{Idle, in_turn};

/// The one case.
const CASE: &str = "crop and flip, 1 core";

/// Images in the set: as many as CIFAR has for training, so that they do not fit into a cache.
const IMAGES: usize = 50_000;

/// Images in a batch.
const BATCH: usize = 128;

/// How long a run lasts in a round.
const SECONDS: f64 = 1.0;

/// The peer's program.
const SCRIPT: &str = include_str!("../peers/data.py");

/// How long a peer may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What the peer says of itself.
#[derive(Debug, Clone, Deserialize)]
struct Hello {
    version: String,
    threads: usize,
    /// Ways of augmenting; the first is its default.
    modes: Vec<String>,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Findings> {
    let common = &options.common;
    chosen(&[CASE], common.case.as_deref())?;
    let path = find_python(
        common.python.as_deref(),
        std::env::var_os("OPT_PEERS_PYTHON"),
    )?;
    let mut peer = Peer::start(&mut python(&path, SCRIPT, 1))?;
    let hello: Hello = peer.ask(&json!({"do": "hello", "images": IMAGES}), TIMEOUT)?;
    ensure!(
        hello.threads == 1 && hello.modes.len() > 1,
        "the peer runs on {} threads in {} modes, expected one thread and at least two modes",
        hello.threads,
        hello.modes.len()
    );
    let ask = |peer: &mut Peer, mode: &str, batches: usize| -> Result<f64> {
        let request = json!({"do": "run", "mode": mode, "batches": batches, "batch": BATCH});
        peer.ask(&request, TIMEOUT)
    };
    eprintln!("{CASE}: the peer's modes");
    let mut tried = Vec::new();
    for mode in &hello.modes {
        let mut seconds = f64::INFINITY;
        for _ in 0..3 {
            seconds = seconds.min(ask(&mut peer, mode, 20)? / 20.0);
        }
        eprintln!("  {:>8.0} images/s  {mode}", BATCH as f64 / seconds);
        tried.push((seconds, mode));
    }
    let best = tried
        .iter()
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .context("the peer has no mode")?;
    let peers = [("PyTorch default", tried[0]), ("PyTorch best", *best)];
    let mut images = Shuffled {
        images: opt_data::synthetic::synthetic(0, IMAGES, 0).train,
        epoch: 0,
        batches: Box::new(std::iter::empty()),
    };
    let ours = images.take(200)? / 200.0;
    let times = [ours, peers[0].1.0, peers[1].1.0];
    let batches = times.map(|seconds| steps_in(SECONDS, seconds));
    eprintln!("{CASE}: {} rounds", common.rounds);
    let mut idle = Idle::default();
    let values = in_turn(common.rounds.into(), 3, |program| {
        let n = batches[program];
        let seconds = if program == 0 {
            idle.during(peer.id(), || images.take(n))?
        } else {
            let mode = peers[program - 1].1.1;
            idle.during(std::process::id(), || ask(&mut peer, mode, n))?
        };
        Ok((n * BATCH) as f64 / seconds)
    })?;
    let mut findings = Findings {
        threads: 1,
        peer: hello.version,
        ..Findings::default()
    };
    for (values_of, (name, (_, mode))) in values[1..].iter().zip(&peers) {
        let compared = ratio(&values[0], values_of, Better::Larger)?;
        findings
            .rows
            .push(Row::new(CASE, name, "images/s", compared));
        findings.facts.push(format!("{name}: {mode}"));
    }
    findings.facts.extend(idle.words());
    Ok(findings)
}

/// Ours: batches without end.
struct Shuffled {
    images: Dataset,
    /// The next epoch.
    epoch: u64,
    batches: Box<dyn Iterator<Item = Batch>>,
}

impl Shuffled {
    /// Makes so many batches on this thread and returns the seconds it took.
    fn take(&mut self, n: usize) -> Result<f64> {
        let options = TrainOptions {
            batch_size: BATCH,
            drop_last: true,
            ..TrainOptions::default()
        };
        ensure!(
            self.images.len() >= BATCH,
            "{} images are less than a batch",
            self.images.len()
        );
        let started = Instant::now();
        let mut made = 0;
        while made < n {
            match self.batches.next() {
                Some(batch) => {
                    black_box(batch);
                    made += 1;
                }
                None => {
                    self.batches = Box::new(train_batches(&self.images, &options, self.epoch));
                    self.epoch += 1;
                }
            }
        }
        Ok(started.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_go_on_over_the_ends_of_epochs() {
        let mut images = Shuffled {
            images: opt_data::synthetic::synthetic(0, 2 * BATCH + 1, 0).train,
            epoch: 0,
            batches: Box::new(std::iter::empty()),
        };
        assert!(images.take(5).unwrap() > 0.0);
        // Two batches an epoch: two epochs and the first batch of a third.
        assert_eq!((images.epoch, images.batches.count()), (3, 1));
        images.images = opt_data::synthetic::synthetic(0, BATCH - 1, 0).train;
        images.batches = Box::new(std::iter::empty());
        images.take(1).unwrap_err();
    }
}
