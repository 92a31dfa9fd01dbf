//! Where the workspace is, and how its cargo is started.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// What of the workspace is not built unless it is asked for: everything of the program.
pub(crate) const FEATURES: &str = "opt-cli/libtorch";

/// The folder with the workspace's Cargo.toml.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// A cargo that does not see what `cargo run` has told xtask about itself.
///
/// Build scripts that watch such variables would run again each time that `cargo xtask` and plain `cargo` alternate.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text == "CARGO_BIN_NAME"
        {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Where cargo puts what it builds, by cargo's own account.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("asking cargo for the target folder")?;
    Ok(metadata.target_directory.into_std_path_buf())
}

/// Replaces this process by `command`; returns only where that fails.
pub(crate) fn become_command(command: &mut Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", command.get_program().to_string_lossy()))
}

/// Says that a build takes minutes, where it is the first of its profile (`release`, `debug`): `what` is built. cargo then
/// shows its own progress.
pub(crate) fn announce_first_build(profile: &str, what: &str) -> Result<()> {
    let folder = target_folder()?.join(profile);
    if is_built(&folder) {
        return Ok(());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    eprintln!("{}", first_build(what, cores));
    Ok(())
}

/// Whether torch-sys was built into this folder, the C++ that every other build waits for.
fn is_built(profile_folder: &Path) -> bool {
    let entries = std::fs::read_dir(profile_folder.join(".fingerprint"));
    let mut entries = entries.into_iter().flatten().flatten();
    entries.any(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .starts_with("torch-sys-")
    })
}

fn first_build(what: &str, cores: usize) -> String {
    let cores = match cores {
        1 => "1 core".to_owned(),
        cores => format!("{cores} cores"),
    };
    format!(
        "building {what}: the first time takes some minutes (three or more on two cores; here are {cores}), later ones seconds"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_build_is_announced() {
        let target = tempfile::tempdir().unwrap();
        let release = target.path().join("release");
        assert!(!is_built(&release));
        // Another crate alone is not yet the long part.
        std::fs::create_dir_all(release.join(".fingerprint/anyhow-0123")).unwrap();
        assert!(!is_built(&release));
        std::fs::create_dir_all(release.join(".fingerprint/torch-sys-0123")).unwrap();
        assert!(is_built(&release) && !is_built(&target.path().join("debug")));
        for (cores, expected) in [(1, "1 core)"), (2, "2 cores)")] {
            let text = first_build("opt-rs", cores);
            assert!(
                text.contains("minutes") && text.contains(expected),
                "{text}"
            );
        }
    }
}
