//! `report`: the report of a folder of results, written again; or the parts of a run, joined.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use opt_report::{join, rewrite_report};

/// The command line.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The folder of a run, also one that was broken off: run.json, results.jsonl, curves.jsonl, layers.jsonl and
    /// correct.jsonl are read. Or the folders of all parts of a run (--shard), which become one in --out.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// The folder for the run that the parts make.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
pub(crate) fn run(options: &Options) -> Result<()> {
    let files = match (options.dirs.as_slice(), &options.out) {
        ([dir], None) => rewrite_report(dir)?,
        (parts, Some(out)) => join(parts, out)?,
        (_, None) => {
            bail!("several folders are the parts of one run: name the folder for it with --out")
        }
    };
    for file in files {
        println!("{}", file.display());
    }
    Ok(())
}
