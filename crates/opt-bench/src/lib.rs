//! Beside other people's programs: speed, memory and codes.
//!
//! A benchmark is a file with an `Options` for its command line and a `run` that gives rows, and a variant of [`Bench`]:
//! [`train`], [`data`], [`infer`]. All share their flags (`options`), their table and file ([`outcome`]), the peer as a
//! process (`peer`, with a script in `peers/`) and the rounds in which ours and the peers run in turn (`rounds`). [`verify`]
//! compares the codes of a file, by every kernel and in ONNX Runtime.
//!
//! # What this crate does not do
//!
//! Nothing depends on it but the program, and it holds no number that a test asks for: speed is measured, never asserted.

mod clock;
pub mod data;
pub mod infer;
mod neighbour;
mod options;
pub mod outcome;
mod peer;
mod process;
mod rounds;
pub mod train;
pub mod verify;

use std::io::IsTerminal;

use anyhow::{Context, Result};
use clap::Subcommand;
use opt_report::write_atomic;

use outcome::{Outcome, machine, table};

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Training: forward, backward and SGD on three networks, images per second and peak memory, beside PyTorch.
    Train(train::Options),
    /// Random crop and flip on one core, images per second, beside PyTorch.
    Data(data::Options),
    /// Inference of ResNet-20 in integers, milliseconds, beside ONNX Runtime and OpenVINO; two threads beside one, also on a
    /// busy machine; MAC per cycle of every layer.
    Infer(infer::Options),
    /// Trains a few steps and prints the memory that took: a process of its own for `train`.
    #[command(hide = true)]
    TrainOnce(train::Once),
}

/// Runs a benchmark, prints its table and writes its file.
///
/// # Errors
///
/// A peer that is missing, fails or trains another network; a file that cannot be written.
pub fn run(bench: &Bench) -> Result<()> {
    let (name, common, findings) = match bench {
        Bench::Train(options) => ("train", &options.common, train::run(options)?),
        Bench::Data(options) => ("data", &options.common, data::run(options)?),
        Bench::Infer(options) => ("infer", &options.common, infer::run(options)?),
        Bench::TrainOnce(once) => return train::once(once),
    };
    let outcome = Outcome {
        bench: name.to_owned(),
        machine: machine(&findings),
        rows: findings.rows,
    };
    let columns = std::env::var("COLUMNS").ok().and_then(|n| n.parse().ok());
    let width = columns.filter(|_| std::io::stdout().is_terminal());
    #[expect(clippy::print_stdout, reason = "the result of the command")]
    {
        println!("{}", table(&outcome, width));
        for note in &findings.notes {
            println!("note: {note}");
        }
    }
    if let Some(path) = &common.json {
        let mut text = serde_json::to_string_pretty(&outcome)?;
        text.push('\n');
        write_atomic(path, text.as_bytes())
            .with_context(|| format!("writing the rows to {}", path.display()))?;
        eprintln!("written to {}", path.display());
    }
    Ok(())
}
