//! `cargo xtask check`: format and lints.

use std::process::ExitCode;

use anyhow::Result;

use crate::{libtorch, workspace};

pub(crate) fn run() -> Result<ExitCode> {
    libtorch::ensure()?;
    workspace::announce_first_build("debug", "what the lints need")?;
    let gates: [(&str, &[&str]); 2] = [
        ("cargo fmt --all", &["fmt", "--all", "--check"]),
        (
            "cargo xtask check",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--features",
                workspace::FEATURES,
                "--",
                "-D",
                "warnings",
            ],
        ),
    ];
    for (fix, arguments) in gates {
        let status = workspace::cargo()
            .current_dir(workspace::root())
            .args(arguments)
            .status()?;
        if !status.success() {
            anyhow::bail!(
                "`cargo {}` failed; fix it, then: {fix}",
                arguments.join(" ")
            );
        }
    }
    println!("check: ok");
    Ok(ExitCode::SUCCESS)
}
