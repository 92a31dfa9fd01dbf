//! What cargo cannot do: libtorch, data, checks, and starting the program.
#![expect(
    clippy::print_stdout,
    reason = "a command-line program answers on standard output"
)]

mod cache;
mod cmd;
mod libtorch;
mod workspace;

#[cfg(test)]
mod arrows;
#[cfg(test)]
mod circles;
#[cfg(test)]
mod tidy;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Brings libtorch, fetches data, runs the checks and starts experiments.
///
/// Every command can be the first one typed in a fresh clone: what it needs, it brings, and says so.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "\
First steps:
  cargo xtask doctor                                              what is missing, and the fix
  cargo xtask test                                                set-up, then every test
  cargo xtask experiment all --profile smoke --data synthetic     the main job in a minute
  cargo xtask experiment --help                                   its profiles, data sets, devices"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings libtorch into the user's cache folder and links it to `.libtorch`
    ///
    /// Afterwards plain `cargo build`, `cargo test` and `cargo run` work with no variable exported. The other commands
    /// do this by themselves. pip downloads, with the user's own mirrors and proxies; the wheels are verified by hash. A
    /// LIBTORCH that is exported and has the right version is used as it is; so is the torch of the active Python where
    /// `LIBTORCH_USE_PYTORCH=1` is exported.
    Setup(cmd::setup::Options),
    /// Says what is missing on this machine, and the exact fix
    Doctor,
    /// Sets up, then runs `cargo test --workspace`
    ///
    /// Without arguments, where a Chromium is found (`CHROMIUM`, else on the `PATH`), a report is opened in it too. Arguments
    /// go to `cargo test` as they are: `cargo xtask test -p opt-nn -- --nocapture`.
    Test(PassedOn),
    /// Format and lints, warnings denied
    Check,
    /// Fetches or links a data set and verifies it: `data [cifar10|cifar100] [--from DIR|URL]`
    #[command(disable_help_flag = true)]
    Data(PassedOn),
    /// Runs experiments: `experiment <list|all|baseline|prune|quantize|distill|pipeline>`
    #[command(disable_help_flag = true)]
    Experiment(PassedOn),
    /// Trains one model from a recipe: `train RECIPE`
    #[command(disable_help_flag = true)]
    Train(PassedOn),
    /// Measures speed and memory beside other programs: `bench <train|data|infer> [--json FILE]`, after `setup --peers`
    #[command(disable_help_flag = true)]
    Bench(PassedOn),
    /// Checks every code of a `.opt` file, by every kernel and in ONNX Runtime: `verify FILE.opt --data DIR`
    #[command(disable_help_flag = true)]
    Verify(PassedOn),
    /// Prints every key of recipes and profiles: `keys > docs/keys.md`
    #[command(disable_help_flag = true)]
    Keys(PassedOn),
    /// Writes the report of a results folder again: `report DIR`
    #[command(disable_help_flag = true)]
    Report(PassedOn),
}

/// Arguments that belong to the program which is started.
#[derive(Debug, clap::Args)]
struct PassedOn {
    /// Passed on as they are
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    _arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let Some(command) = Cli::parse().command else {
        // Nothing was asked for, so nothing was done: help, and no success.
        eprintln!("{}", Cli::command().render_long_help());
        return ExitCode::from(2);
    };
    // Not clap's list: that loses a leading `--`.
    let passed_on: Vec<OsString> = std::env::args_os().skip(2).collect();
    let outcome = match command {
        Command::Setup(options) => cmd::setup::run(&options),
        Command::Doctor => cmd::doctor::run(),
        Command::Test(_) => cmd::test::run(&passed_on),
        Command::Check => cmd::check::run(),
        Command::Data(_) => cmd::data::run(&passed_on),
        Command::Experiment(_) => cmd::program::run("experiment", &passed_on),
        Command::Train(_) => cmd::program::run("train", &passed_on),
        Command::Bench(_) => cmd::program::run("bench", &passed_on),
        Command::Verify(_) => cmd::program::run("verify", &passed_on),
        Command::Keys(_) => cmd::program::run("keys", &passed_on),
        Command::Report(_) => cmd::program::run("report", &passed_on),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
