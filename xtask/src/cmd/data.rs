//! `cargo xtask data`: starts opt-data, which fetches and verifies.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use anyhow::Result;

use crate::workspace;

pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    let mut cargo = workspace::cargo();
    cargo
        .args(["run", "--release", "--quiet", "--manifest-path"])
        .arg(workspace::root().join("Cargo.toml"))
        .args(["--package", "opt-data", "--bin", "opt-data", "--"])
        .args(complete(
            arguments,
            workspace::root().join("data").as_os_str(),
        ));
    workspace::become_command(&mut cargo)
}

/// Adds what may be left out: the data set's name and the folder `data`.
fn complete(arguments: &[OsString], to: &OsStr) -> Vec<OsString> {
    if arguments
        .iter()
        .any(|argument| argument == "--help" || argument == "-h")
    {
        return arguments.to_vec();
    }
    let mut given = arguments.iter().peekable();
    let name = given
        .next_if(|first| !first.to_string_lossy().starts_with('-'))
        .cloned()
        .unwrap_or_else(|| "cifar10".into());
    let names_folder = arguments
        .iter()
        .any(|argument| argument.to_string_lossy().starts_with("--to"));
    // What else opt-data can make is put where it is told to.
    let fills_in = (name == "cifar10" || name == "cifar100") && !names_folder;
    let mut all = vec![name];
    if fills_in {
        all.extend(["--to".into(), to.to_owned()]);
    }
    all.extend(given.cloned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_folder_are_filled_in() {
        struct Case {
            arguments: &'static [&'static str],
            expected: &'static [&'static str],
        }
        let cases = [
            Case {
                arguments: &[],
                expected: &["cifar10", "--to", "data"],
            },
            Case {
                arguments: &["cifar10"],
                expected: &["cifar10", "--to", "data"],
            },
            Case {
                arguments: &["--from", "there"],
                expected: &["cifar10", "--to", "data", "--from", "there"],
            },
            Case {
                arguments: &["cifar10", "--to", "here"],
                expected: &["cifar10", "--to", "here"],
            },
            Case {
                arguments: &["cifar10", "--to=here"],
                expected: &["cifar10", "--to=here"],
            },
            Case {
                arguments: &["cifar100", "--from", "there"],
                expected: &["cifar100", "--to", "data", "--from", "there"],
            },
            // Made-up images never land where real ones are looked for.
            Case {
                arguments: &["synthetic"],
                expected: &["synthetic"],
            },
            // Help is asked of opt-data, not of a data set.
            Case {
                arguments: &["--help"],
                expected: &["--help"],
            },
        ];
        for Case {
            arguments,
            expected,
        } in cases
        {
            let given: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            assert_eq!(
                complete(&given, OsStr::new("data")),
                expected,
                "{arguments:?}"
            );
        }
    }
}
