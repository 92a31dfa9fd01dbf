//! `report`: the report of a folder of results, written again.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use opt_report::rewrite_report;

/// The command line.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The folder of a run, also one that was broken off: run.json, results.jsonl, curves.jsonl and layers.jsonl are read.
    dir: PathBuf,
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
pub(crate) fn run(options: &Options) -> Result<()> {
    for file in rewrite_report(&options.dir)? {
        println!("{}", file.display());
    }
    Ok(())
}
