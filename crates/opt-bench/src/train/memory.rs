//! Peak memory of training, each program in a process of its own.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use opt_nn::device;
use opt_stats::{Better, ratio};
use serde_json::json;

use super::ours::{BATCH, Ours, loader};
use super::peer::{SCRIPT, TIMEOUT};
use crate::outcome::{Findings, Row};
use crate::peer::{Peer, python};
use crate::process::{self, Memory};

/// Steps of a process: all buffers are there after the second.
const STEPS: usize = 5;

/// Processes of each kind.
const REPEATS: usize = 3;

/// The command line of the process that trains ours.
#[derive(Debug, Clone, clap::Args)]
pub struct Once {
    /// A network of the zoo.
    network: String,
    /// Threads.
    threads: usize,
}

/// The peer whose memory is counted: its name and mode.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemoryOf<'a> {
    pub(super) name: &'a str,
    pub(super) mode: &'a str,
}

/// What a process held before it built the network, and at most, in MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Peak {
    start: f64,
    peak: f64,
}

impl Peak {
    fn new(start: Memory, end: Memory) -> Self {
        let mib = |kib: u64| kib as f64 / 1024.0;
        Self {
            start: mib(start.now),
            peak: mib(end.peak),
        }
    }
}

/// Trains ours in this process and prints its memory.
pub(crate) fn once(once: &Once) -> Result<()> {
    device::set_threads(once.threads);
    let start = process::memory();
    let loader = loader()?;
    Ours::new(&once.network, loader)?.run(STEPS)?;
    let memory = start.zip(process::memory());
    #[expect(clippy::print_stdout, reason = "the answer to the process that asked")]
    {
        println!("{}", serde_json::to_string(&memory)?);
    }
    Ok(())
}

/// Adds the rows of a network: the whole process, and what training adds to the program at rest.
pub(super) fn rows(
    path: &Path,
    threads: usize,
    network: &str,
    peers: &[MemoryOf<'_>],
    findings: &mut Findings,
) -> Result<()> {
    if process::memory().is_none() {
        let note = format!("{network}: peak memory is left out: this system has no /proc");
        findings.notes.push(note);
        return Ok(());
    }
    let repeat = |measure: &dyn Fn() -> Result<Peak>| -> Result<Vec<Peak>> {
        (0..REPEATS).map(|_| measure()).collect()
    };
    let ours = repeat(&|| ours(network, threads))?;
    for peer in peers {
        let theirs = repeat(&|| theirs(path, threads, network, peer.mode))?;
        let whole: fn(&Peak) -> f64 = |p| p.peak;
        let added: fn(&Peak) -> f64 = |p| p.peak - p.start;
        for (unit, value) in [
            ("MiB peak memory", whole),
            ("MiB peak memory beyond start-up", added),
        ] {
            let of = |peaks: &[Peak]| peaks.iter().map(value).collect::<Vec<f64>>();
            let compared = ratio(&of(&ours), &of(&theirs), Better::Smaller)
                .with_context(|| format!("{unit} of {network} and {}", peer.name))?;
            findings
                .rows
                .push(Row::new(network, peer.name, unit, compared));
        }
    }
    Ok(())
}

fn ours(network: &str, threads: usize) -> Result<Peak> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = Command::new(program)
        .args(["bench", "train-once", network, &threads.to_string()])
        .env("OMP_NUM_THREADS", threads.to_string())
        .stderr(Stdio::inherit())
        .output()
        .context("starting this program again")?;
    ensure!(
        output.status.success(),
        "training `{network}` in a process of its own ended with {}",
        output.status
    );
    let memory: Option<(Memory, Memory)> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("reading what `bench train-once {network}` answered"))?;
    let (start, end) = memory.context("there is no /proc in a process of its own")?;
    Ok(Peak::new(start, end))
}

fn theirs(path: &Path, threads: usize, network: &str, mode: &str) -> Result<Peak> {
    let mut peer = Peer::start(&mut python(path, SCRIPT, threads))?;
    let hello = json!({"do": "hello", "threads": threads});
    peer.ask::<serde_json::Value>(&hello, TIMEOUT)?;
    let start = memory_of(&mut peer)?;
    let request = json!({
        "do": "run", "network": network, "mode": mode, "steps": STEPS, "batch": BATCH
    });
    peer.ask::<f64>(&request, TIMEOUT)?;
    let end = memory_of(&mut peer)?;
    Ok(Peak::new(start, end))
}

fn memory_of(peer: &mut Peer) -> Result<Memory> {
    let found: Option<Memory> = peer.ask(&json!({"do": "memory"}), TIMEOUT)?;
    found.context("the peer sees no /proc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_in_mib() {
        let start = Memory {
            now: 2048,
            peak: 9000,
        };
        let end = Memory {
            now: 4096,
            peak: 10_240,
        };
        let expected = Peak {
            start: 2.0,
            peak: 10.0,
        };
        assert_eq!(Peak::new(start, end), expected);
    }
}
