//! `cargo xtask test`: set-up, then every test of the workspace, and those that need Python or a browser where there is one.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{libtorch, workspace};

pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    libtorch::ensure()?;
    workspace::announce_first_build("debug", "the tests")?;
    let mut cargo = workspace::cargo();
    cargo.current_dir(workspace::root()).arg("test");
    if !arguments.is_empty() {
        // Somebody picks tests: these alone are run.
        if !names_packages(arguments) {
            cargo.args(["--workspace", "--features", workspace::FEATURES]);
        }
        return workspace::become_command(cargo.args(arguments));
    }
    let status = cargo
        .args(["--workspace", "--features", workspace::FEATURES])
        .status()
        .context("starting cargo")?;
    if !status.success() {
        return Ok(ExitCode::FAILURE);
    }
    let mut passed = true;
    if python3() {
        println!("\npeers in Python: python3");
        let protocol = ["--lib", "peer::", "--", "--ignored"];
        passed &= ignored("opt-bench", &protocol, None)?;
    } else {
        println!("\n{NO_PYTHON}");
    }
    if let Some(chromium) = chromium() {
        println!("\nthe report in a browser: {}", chromium.display());
        let browser = ["--test", "browser", "--", "--ignored"];
        passed &= ignored("opt-report", &browser, Some(&chromium))?;
    } else {
        println!("\n{NO_CHROMIUM}");
    }
    Ok(match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Tests of a package that need a program, which is there.
fn ignored(package: &str, tests: &[&str], chromium: Option<&Path>) -> Result<bool> {
    let mut cargo = workspace::cargo();
    cargo
        .current_dir(workspace::root())
        .args(["test", "--package", package])
        .args(tests);
    if let Some(chromium) = chromium {
        cargo.env("CHROMIUM", chromium);
    }
    let status = cargo.status().context("starting cargo")?;
    Ok(status.success())
}

fn python3() -> bool {
    let version = Command::new("python3").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

const NO_PYTHON: &str = "\
!! NOT RUN: the test of the protocol that peers in Python speak, because there is no python3. Install one to run it.";

const NO_CHROMIUM: &str = "\
!! NOT RUN: the test of the report in a browser, because no Chromium was found.
!! Install one (on Debian: apt-get install chromium) or name it: CHROMIUM=/path/to/chromium cargo xtask test";

/// The browser that tests use: the one named in `CHROMIUM`, else the first on the `PATH`.
pub(crate) fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").filter(|name| !name.is_empty());
    if let Some(named) = named {
        return Some(named.into());
    }
    first_on(&std::env::var_os("PATH")?)
}

fn first_on(path: &OsStr) -> Option<PathBuf> {
    const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
    let in_folder =
        |folder: &Path, name: &str| Some(folder.join(name)).filter(|file| file.is_file());
    NAMES
        .into_iter()
        .find_map(|name| std::env::split_paths(path).find_map(|folder| in_folder(&folder, name)))
}

/// Whether cargo's own part of the arguments selects packages (`-p opt-core`).
fn names_packages(arguments: &[OsString]) -> bool {
    arguments
        .iter()
        .map(|argument| argument.to_string_lossy())
        .take_while(|argument| argument != "--")
        .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_chromium_on_the_path_is_taken() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = std::env::join_paths([one.path(), other.path()]).unwrap();
        assert_eq!(first_on(&path), None);
        std::fs::create_dir(one.path().join("chromium")).unwrap();
        std::fs::write(one.path().join("google-chrome"), "").unwrap();
        assert_eq!(first_on(&path), Some(one.path().join("google-chrome")));
        // A name that comes first in the list wins, wherever it lies; a folder is no program.
        std::fs::write(other.path().join("chromium"), "").unwrap();
        assert_eq!(first_on(&path), Some(other.path().join("chromium")));
    }

    #[test]
    fn only_cargos_own_arguments_name_packages() {
        struct Case {
            arguments: &'static [&'static str],
            expected: bool,
        }
        let cases = [
            Case {
                arguments: &[],
                expected: false,
            },
            Case {
                arguments: &["-p", "opt-core"],
                expected: true,
            },
            Case {
                arguments: &["-popt-core"],
                expected: true,
            },
            Case {
                arguments: &["--package=opt-core"],
                expected: true,
            },
            Case {
                arguments: &["--release", "prune"],
                expected: false,
            },
            // What follows belongs to the test binary.
            Case {
                arguments: &["--", "-p"],
                expected: false,
            },
        ];
        for Case {
            arguments,
            expected,
        } in cases
        {
            let given: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            assert_eq!(names_packages(&given), expected, "{arguments:?}");
        }
    }
}
