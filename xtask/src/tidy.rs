//! What every file of this repository keeps to, and no lint checks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace;

/// All files below `folder` that end so; build outputs left out.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let reading = || format!("reading the folder {}", folder.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.is_dir() && !path.ends_with("target") {
            all.extend(files(&path, ending)?);
        } else if path.is_file() && path.to_string_lossy().ends_with(ending) {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// What a file holds.
fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Those of `crates` and `xtask` that end so and break a rule, by what they hold.
fn offenders(ending: &str, breaks_rule: fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let root = workspace::root();
    let mut all = files(&root.join("crates"), ending)?;
    all.extend(files(&root.join("xtask"), ending)?);
    assert!(!all.is_empty(), "no {ending} below {}", root.display());
    let mut offenders = Vec::new();
    for path in all {
        if breaks_rule(&text(&path)?) {
            offenders.push(path);
        }
    }
    Ok(offenders)
}

/// Whether a source says first what it is.
fn opens_with_its_comment(source: &str) -> bool {
    source
        .strip_prefix("//! ")
        .is_some_and(|rest| !rest.trim_start().is_empty() && !rest.starts_with('\n'))
}

/// Whether a manifest takes the workspace's lints.
fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[lints]")
        .skip(1);
    lines
        .find(|line| !line.is_empty())
        .is_some_and(|line| line.replace(' ', "") == "workspace=true")
}

/// The first path in `text` that only one machine has.
fn path_of_one_machine(text: &[u8]) -> Option<&'static str> {
    // Written in halves, so that this file passes.
    const PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    PATHS.into_iter().find(|path| {
        text.windows(path.len()).enumerate().any(|(at, window)| {
            let starts_there = at == 0
                || !(text[at - 1].is_ascii_alphanumeric() || b"._-~}".contains(&text[at - 1]));
            window == path.as_bytes() && starts_there
        })
    })
}

#[test]
fn every_source_opens_with_its_comment() -> Result<()> {
    let silent = offenders(".rs", |source| !opens_with_its_comment(source))?;
    assert!(
        silent.is_empty(),
        "no `//!` sentence at the top of {silent:#?}"
    );
    Ok(())
}

#[test]
fn every_crate_takes_the_lints() -> Result<()> {
    let lax = offenders("/Cargo.toml", |manifest| !inherits_lints(manifest))?;
    assert!(lax.is_empty(), "no `[lints] workspace = true` in {lax:#?}");
    Ok(())
}

#[test]
fn no_file_names_a_path_of_one_machine() -> Result<()> {
    let root = workspace::root();
    let output = Command::new("git")
        .current_dir(&root)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        eprintln!("not a git checkout, so it is not known which files belong to it: not checked");
        return Ok(());
    };
    let mut found = Vec::new();
    let names = String::from_utf8(output.stdout).context("reading the names of git's files")?;
    for name in names.split_terminator('\0') {
        let path = root.join(name);
        // Listed, but deleted since; or a link or submodule.
        if !path
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_file())
        {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("reading {name}"))?;
        if let Some(bad) = path_of_one_machine(&bytes) {
            found.push(format!("{name}: {bad}"));
        }
    }
    assert!(found.is_empty(), "paths of one machine in {found:#?}");
    Ok(())
}

#[test]
fn the_rules_can_be_broken() {
    for (source, expected) in [
        ("//! What it is.\n", true),
        ("//! Several lines\n//! of it.\nuse x;\n", true),
        ("use x;\n//! Late.\n", false),
        ("// Not a doc comment.\n", false),
        ("//! \nmod x;\n", false),
        ("", false),
    ] {
        assert_eq!(opens_with_its_comment(source), expected, "{source:?}");
    }
    for (manifest, expected) in [
        ("[package]\nname = \"x\"\n[lints]\nworkspace = true\n", true),
        ("[lints]\nworkspace=true", true),
        ("[lints]\nworkspace = false\n", false),
        // Another section's line.
        ("[lints]\n[dependencies.x]\nworkspace = true\n", false),
        ("[package]\nname = \"x\"\n", false),
    ] {
        assert_eq!(inherits_lints(manifest), expected, "{manifest:?}");
    }
    for (text, expected) in [
        (concat!("at /wo", "rk/main"), true),
        (concat!("/ro", "ot/.cargo"), true),
        (concat!("https://example.org/wo", "rk/1"), false),
        (concat!("../wo", "rk/x"), false),
        ("network and roots", false),
    ] {
        assert_eq!(
            path_of_one_machine(text.as_bytes()).is_some(),
            expected,
            "{text:?}"
        );
    }
}
