//! `cargo xtask experiment`, `train`, `bench`, `verify`, `keys` and `report`: set-up, then the program with the same arguments.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cmd::setup;
use crate::{libtorch, workspace};

/// Builds the program of `opt-cli` and becomes it: its output, exit code and signals are its own.
pub(crate) fn run(command: &str, arguments: &[OsString]) -> Result<ExitCode> {
    libtorch::ensure()?;
    workspace::announce_first_build("release", "opt-rs")?;
    let root = workspace::root();
    let status = workspace::cargo()
        .current_dir(&root)
        .args(["build", "--release", "--package", "opt-cli"])
        .args(["--features", "libtorch"])
        .status()
        .context("starting cargo to build opt-rs")?;
    if !status.success() {
        anyhow::bail!("opt-rs did not build (see above); `cargo xtask doctor` checks this machine");
    }
    let binary = workspace::target_folder()?.join("release/opt-rs");
    let mut program = Command::new(binary);
    program.arg(command).args(arguments).env("OPT_ROOT", &root);
    // On a GPU, f32 means f32: TF32 would keep 11 bits of the mantissa, also in reported accuracy.
    program.env("NVIDIA_TF32_OVERRIDE", "0");
    if std::env::var_os("OMP_NUM_THREADS").is_none() {
        let cores = std::thread::available_parallelism().context("counting the cores")?;
        program.env("OMP_NUM_THREADS", cores.to_string());
    }
    if std::env::var_os("OPT_PEERS_PYTHON").is_none()
        && let Some(python) = setup::peers()
    {
        program.env("OPT_PEERS_PYTHON", python);
    }
    workspace::become_command(&mut program)
}
