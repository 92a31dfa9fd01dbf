//! `cargo xtask test`: set-up, then every test of the workspace.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::{libtorch, workspace};

pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    libtorch::ensure()?;
    let mut cargo = workspace::cargo();
    cargo.current_dir(workspace::root()).arg("test");
    if !names_packages(arguments) {
        cargo.arg("--workspace");
    }
    workspace::become_command(cargo.args(arguments))
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
