//! `cargo xtask setup`: libtorch, and a Python environment for comparisons.

use std::fs;
use std::io::stderr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::libtorch::{self, Flavour};
use crate::{cache, workspace};

/// torch is what tch binds; numpy stays open because no one version runs on every Python that torch does.
const PEERS: [&str; 6] = [
    "torch==2.13.0",
    "numpy>=2.2,<3",
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "openvino==2026.4.1",
    "safetensors==0.8.0",
];

/// What to bring beside libtorch's libraries for CPU.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// All CUDA libraries as well (some gigabytes), for `--device cuda`
    #[arg(long)]
    cuda: bool,
    /// A Python environment with PyTorch, ONNX, ONNX Runtime and OpenVINO beside it, for comparisons; prints its Python
    ///
    /// The index that pip knows decides which build of torch it is: with
    /// `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` it is the small one for CPU.
    #[arg(long)]
    peers: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let flavour = if options.cuda {
        Flavour::Cuda
    } else {
        Flavour::Cpu
    };
    if libtorch::uses_python() {
        println!("libtorch: the active Python's torch, by LIBTORCH_USE_PYTORCH");
    } else {
        let folder = libtorch::set_up(flavour)?;
        println!("libtorch: {}", folder.display());
    }
    if options.peers {
        println!("peers: {}", bring_peers()?.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The Python of the environment, if that was made and is complete.
pub(crate) fn peers() -> Option<PathBuf> {
    complete_python(&cache::folder().ok()?.join("peers"))
}

/// The file that is written last into an environment, because an environment cannot be moved; it holds what was wanted.
const COMPLETE: &str = "complete";

fn complete_python(folder: &Path) -> Option<PathBuf> {
    let there = fs::read_to_string(folder.join(COMPLETE)).ok()?;
    (there == PEERS.join("\n")).then(|| folder.join("bin/python"))
}

/// The Python of the environment, made first if need be.
fn bring_peers() -> Result<PathBuf> {
    let cache = cache::folder()?;
    let _lock = cache::lock(&cache, "peers")?;
    let folder = cache.join("peers");
    if let Some(python) = complete_python(&folder) {
        return Ok(python);
    }
    let python = folder.join("bin/python");
    eprintln!("making a Python environment in {}", folder.display());
    step(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
        "python3 could not make an environment; install its venv module (Debian, Ubuntu: `sudo apt install python3-venv`)",
    )?;
    let temporary = folder.join("tmp");
    fs::create_dir_all(&temporary).with_context(|| format!("creating {}", temporary.display()))?;
    eprintln!(
        "installing {} (gigabytes, where torch comes with CUDA)",
        PEERS.join(", ")
    );
    step(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--only-binary=:all:",
            ])
            .args(PEERS)
            .env("TMPDIR", &temporary),
        "pip could not install the peers (its own words are above)",
    )?;
    step(
        Command::new(&python)
            .args([
                "-c",
                "import numpy, onnx, onnxruntime, openvino, safetensors, torch",
            ])
            .current_dir(workspace::root()),
        "the peers are installed but cannot be imported",
    )?;
    fs::remove_dir_all(&temporary).with_context(|| format!("removing {}", temporary.display()))?;
    write(&folder.join(COMPLETE), &PEERS.join("\n"))?;
    Ok(python)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Runs a step whose output is progress, not an answer.
fn step(command: &mut Command, failure: &str) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(stderr().as_fd().try_clone_to_owned()?))
        .status()
        .with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("{failure}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_counts_when_it_is_complete_and_of_these_versions() {
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("bin/python");
        assert_eq!(complete_python(folder.path()), None);
        fs::write(folder.path().join(COMPLETE), "torch==1.0").unwrap();
        assert_eq!(complete_python(folder.path()), None);
        fs::write(folder.path().join(COMPLETE), PEERS.join("\n")).unwrap();
        assert_eq!(complete_python(folder.path()), Some(python));
    }
}
