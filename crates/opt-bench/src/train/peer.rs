//! PyTorch as a peer that trains: how it is started, and which of its modes is its fastest.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use super::ours::BATCH;
use crate::peer::{Peer, python};

/// The peer's program.
pub(super) const SCRIPT: &str = include_str!("../../peers/train.py");

/// How long a peer may take for one answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(600);

/// What the peer says of itself.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Hello {
    pub(super) version: String,
    threads: usize,
    pub(super) modes: Vec<PeerMode>,
    compiler: Option<String>,
}

/// A way in which the peer trains; the first is its default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct PeerMode {
    pub(super) name: String,
    /// `f32` or `bf16`.
    arithmetic: String,
    compiled: bool,
}

/// A peer that trains, and how it is started again.
pub(super) struct TrainingPeer<'a> {
    python: &'a Path,
    threads: usize,
    pub(super) peer: Peer,
    pub(super) hello: Hello,
}

impl<'a> TrainingPeer<'a> {
    pub(super) fn start(path: &'a Path, threads: usize) -> Result<Self> {
        let mut peer = Peer::start(&mut python(path, SCRIPT, threads))?;
        let hello: Hello = peer.ask(&json!({"do": "hello", "threads": threads}), TIMEOUT)?;
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

    /// The seconds of so many steps.
    pub(super) fn run(
        &mut self,
        network: &str,
        mode: &str,
        steps: usize,
        limit: Duration,
    ) -> Result<f64> {
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
            best = best.min(self.run(network, mode, 3, TIMEOUT)? / 3.0);
        }
        Ok(best)
    }

    /// Picks the peer's fastest mode for a network by a short trial.
    pub(super) fn fastest(
        &mut self,
        network: &str,
        compile_limit: u32,
        notes: &mut Vec<String>,
    ) -> Result<String> {
        let modes = self.hello.modes.clone();
        let mut tried = Vec::new();
        for mode in modes.iter().filter(|m| !m.compiled) {
            tried.push((self.try_mode(network, &mode.name, TIMEOUT)?, mode));
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
        self.peer.ask::<()>(&json!({"do": "forget"}), TIMEOUT)?;
        let best = quickest(&tried).unwrap_or(eager);
        Ok(best.name.clone())
    }
}

fn quickest<'m>(tried: &[(f64, &'m PeerMode)]) -> Option<&'m PeerMode> {
    let best = tried.iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
