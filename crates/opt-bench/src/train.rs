//! Training beside PyTorch: images per second and peak memory of three networks.
//!
//! Ours is the whole path that `train` and `experiment` take: images cropped and flipped on the way, the one training
//! loop, its meters, the precision of this machine. The peer gets batches that were made before the clock ran.

mod memory;
mod ours;
mod peer;
mod same;

use anyhow::{Context, Result};
use opt_nn::{Precision, device};
use opt_stats::{Better, ratio};
use tch::Device;

use memory::MemoryOf;
pub(crate) use memory::{Once, once};
use ours::{BATCH, Ours, loader};
use peer::{TIMEOUT, TrainingPeer};
use same::check_same;

use crate::options::{Common, chosen, steps_in};
use crate::outcome::{Findings, Row};
use crate::peer::find_python;
use crate::rounds::{Idle, in_turn};

/// The networks of the zoo that are trained.
const NETWORKS: &[&str] = &["resnet20", "source_net", "airbench_32_64_128"];

/// How long a run lasts in a round, unless the steps are given.
const SECONDS: f64 = 2.0;

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
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

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Findings> {
    let common = &options.common;
    let networks = chosen(NETWORKS, common.case.as_deref())?;
    let path = find_python(
        common.python.as_deref(),
        std::env::var_os("OPT_PEERS_PYTHON"),
    )?;
    let threads = options
        .threads
        .map_or_else(opt_experiment::machine::threads, usize::from);
    device::set_threads(threads);
    let mut training = TrainingPeer::start(&path, threads)?;
    let precision = Precision::for_training(Device::Cpu).name();
    let mut findings = Findings {
        threads,
        peer: training.hello.version.clone(),
        facts: vec![format!("ours trains in {precision} NHWC")],
        ..Findings::default()
    };
    let loader = loader()?;
    let mut idle = Idle::default();
    for network in networks {
        check_same(&mut training.peer, network)
            .with_context(|| format!("comparing the networks `{network}`"))?;
        eprintln!("{network}: the peer's modes");
        let best = training.fastest(network, options.compile_limit, &mut findings.notes)?;
        let default = training.hello.modes[0].name.clone();
        let peers = [("PyTorch default", default), ("PyTorch best", best)];
        for (name, mode) in &peers {
            findings.facts.push(format!("{name} of {network}: {mode}"));
        }
        let mut ours = Ours::new(network, loader.clone())?;
        // Program 0 is ours.
        let mut run = |program: usize, steps: usize| -> Result<f64> {
            if program == 0 {
                idle.during(training.peer.id(), || ours.run(steps))
            } else {
                let mode = &peers[program - 1].1;
                idle.during(std::process::id(), || {
                    training.run(network, mode, steps, TIMEOUT)
                })
            }
        };
        let mut steps = [1; 3];
        for (program, steps) in steps.iter_mut().enumerate() {
            run(program, 3)?;
            let step = run(program, 5)? / 5.0;
            *steps = options
                .steps
                .map_or_else(|| steps_in(SECONDS, step), |n| n as usize);
        }
        eprintln!(
            "{network}: {} rounds of {} steps of ours and {} and {} of the peers",
            common.rounds, steps[0], steps[1], steps[2]
        );
        let values = in_turn(common.rounds.into(), 3, |program| {
            let steps = steps[program];
            Ok((steps * BATCH) as f64 / run(program, steps)?)
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

    #[test]
    #[ignore = "needs PyTorch: OPT_PEERS_PYTHON names its Python"]
    fn the_peers_networks_are_the_zoos() {
        let path = find_python(None, std::env::var_os("OPT_PEERS_PYTHON")).unwrap();
        let mut training = TrainingPeer::start(&path, 1).unwrap();
        for network in NETWORKS {
            check_same(&mut training.peer, network).unwrap();
        }
    }
}
