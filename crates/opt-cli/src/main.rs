//! The program: networks trained, compressed, measured and compared.
//!
//! Each command is a file with its `Options` and a `run`. Without the feature `libtorch` there is only what needs none.

#[cfg(feature = "libtorch")]
mod common;
#[cfg(feature = "libtorch")]
mod experiment;
#[cfg(feature = "libtorch")]
mod keys;
mod report;
#[cfg(feature = "libtorch")]
mod session;
#[cfg(feature = "libtorch")]
mod threads;
#[cfg(feature = "libtorch")]
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Trains, prunes, quantizes and distils networks, measures the files that ship, and reports.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run experiments and write their report.
    #[cfg(feature = "libtorch")]
    #[command(after_help = experiment::help())]
    Experiment(experiment::Options),
    /// Train one network from a recipe file, and quantize it if the recipe says so; leaves a safetensors file, .opt files and
    /// their result lines.
    #[cfg(feature = "libtorch")]
    #[command(after_help = train::HELP)]
    Train(train::Options),
    /// Measure speed and memory beside other people's programs.
    #[cfg(feature = "libtorch")]
    #[command(subcommand)]
    Bench(opt_bench::Bench),
    /// Check a `.opt` file: every kernel's codes against the interpreter's, and ONNX Runtime's.
    #[cfg(feature = "libtorch")]
    Verify(opt_bench::verify::Options),
    /// Print every key of recipes and profiles with its type, default and meaning, as Markdown.
    #[cfg(feature = "libtorch")]
    Keys,
    /// Write the report of a results folder again, from the files that the run left in it.
    Report(report::Options),
}

#[cfg(feature = "libtorch")]
impl Command {
    /// The flags of a command that trains.
    fn trains(&self) -> Option<&common::Common> {
        match self {
            Self::Experiment(options) if options.lists() => None,
            Self::Experiment(options) => Some(&options.common),
            Self::Train(options) => Some(&options.common),
            Self::Bench(_) | Self::Verify(_) | Self::Keys | Self::Report(_) => None,
        }
    }
}

/// Errors are printed with their causes and what to do next.
fn main() -> ExitCode {
    let cli = Cli::parse();
    #[cfg(feature = "libtorch")]
    threads::set(cli.command.trains());
    let done = match cli.command {
        #[cfg(feature = "libtorch")]
        Command::Experiment(options) => experiment::run(options),
        #[cfg(feature = "libtorch")]
        Command::Train(options) => train::run(options),
        #[cfg(feature = "libtorch")]
        Command::Bench(bench) => opt_bench::run(&bench),
        #[cfg(feature = "libtorch")]
        Command::Verify(options) => opt_bench::verify::run(&options, &common::root()),
        #[cfg(feature = "libtorch")]
        Command::Keys => keys::run(),
        Command::Report(options) => report::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
