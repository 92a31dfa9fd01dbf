//! The versions of the code that results follow from, as hashes of source files. The build script computes them; the crate
//! itself holds this file for its tests only.
//!
//! Files count by where they are: every crate of a [`Part`] with all that it is built on, and every module of opt-experiment
//! that [`MODULES`] does not excuse. So a new file counts before anybody has thought of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Results with one version of their code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Trained networks.
    Training,
    /// Lines of results.
    Measuring,
    /// The comparison of importance with the measured change of likelihood.
    Pruning,
}

impl Part {
    /// Every part.
    pub(crate) const ALL: [Self; 3] = [Self::Training, Self::Measuring, Self::Pruning];

    /// The variable under which the build script passes the version on.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Training => "OPT_TRAINING_CODE",
            Self::Measuring => "OPT_MEASURING_CODE",
            Self::Pruning => "OPT_PRUNING_CODE",
        }
    }

    /// The crates that compute it; those that they depend on count too.
    fn crates(self) -> &'static [&'static str] {
        match self {
            Self::Training => &["opt-data", "opt-distill", "opt-nn"],
            Self::Measuring => &[
                "opt-artifact",
                "opt-data",
                "opt-distill",
                "opt-infer",
                "opt-nn",
                "opt-stats",
            ],
            Self::Pruning => &["opt-data", "opt-distill", "opt-nn", "opt-prune"],
        }
    }
}

/// Modules of opt-experiment that do not count everywhere, with the parts for which they do and the reason. `a/b` stands for
/// `a/b.rs` and all below `a/b/`. Of the excused ones, what they hand to training or measuring is in the identity as such.
const MODULES: &[(&str, &[Part], &str)] = &[
    ("budget", &[], "chooses recipes, which are in the identity"),
    ("cache", &[], "says where results are kept"),
    ("code", &[], "this file: its hashes are the identity's code"),
    ("cpu", &[], "its answers are in the identity"),
    (
        "experiment",
        &[Part::Pruning],
        "chooses networks, masks, losses and recipes, which are in the identity; losses themselves are elsewhere",
    ),
    ("folder", &[], "keeps lines and checks them"),
    ("identity", &[], "another encoding is another key"),
    ("keys", &[], "documents keys"),
    ("layers", &[Part::Measuring], "counts"),
    ("lib", &[], "a list of modules"),
    ("machine", &[], "its answers are in the identity"),
    ("measure", &[Part::Measuring], "measures files"),
    ("plan", &[], "expects times"),
    ("profile", &[], "chooses recipes, which are in the identity"),
    ("recipe", &[], "the options made of it are in the identity"),
    ("renamed", &[], "reads recipes and names their keys"),
    (
        "run",
        &[Part::Measuring],
        "makes lines; what it hands to the loop is in the identity",
    ),
    ("speed", &[], "measures the speed of this machine"),
    ("trained", &[], "keeps networks and checks them"),
    ("training", &[], "watches the loop and shows its progress"),
    ("variant", &[Part::Measuring], "names lines"),
];

/// Dependencies that compute nothing that a trained network or a line follows from but through what is in the identity.
/// All others of a counted crate count with their version.
const NEUTRAL_DEPENDENCIES: &[(&str, &str)] = &[
    ("anyhow", "errors"),
    ("clap", "the command line"),
    ("flate2", "unpacks images, whose hash is in the identity"),
    ("image", "reads images, whose hash is in the identity"),
    ("indicatif", "progress"),
    ("libc", "declarations"),
    ("libloading", "loads libraries, which are in the identity"),
    ("md-5", "verifies downloads"),
    ("schemars", "documents keys"),
    ("sha2", "hashes"),
    ("tar", "unpacks images, whose hash is in the identity"),
    ("thiserror", "errors"),
    ("ureq", "downloads"),
];

/// The version of the code of `part`: 16 hexadecimal digits. `crates` is the folder with all crates of the workspace, the
/// lock file lies beside it; `libraries` is what else of the build counts.
///
/// # Errors
///
/// A file that cannot be read, or a crate that is not there.
pub(crate) fn version(crates: &Path, part: Part, libraries: &str) -> Result<String> {
    let Counted {
        files,
        packages,
        declared,
    } = counted(crates, part)?;
    let lock = read(&crates.join("../Cargo.lock"))?;
    let workspace = dependencies(&read(&crates.join("../Cargo.toml"))?, WORKSPACE)?;
    let mut hasher = Sha256::new();
    let mut field = |text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    field(libraries);
    // With which features: what each crate asks for, and what the workspace says for all.
    for line in declared {
        field(&line);
    }
    for (name, line) in workspace {
        if packages.contains(&name) {
            field(&line);
        }
    }
    for package in built_on(&lock, packages) {
        field(&package);
        field(&locked_versions(&lock, &package).join(" "));
    }
    for source in files {
        field(&source);
        field(&code_of(&read(&crates.join(&source))?));
    }
    Ok(digits(hasher))
}

/// Whether the crate in `folder` came as a package: cargo keeps the manifest as it was written in every one, beside its own.
pub(crate) fn is_packaged(folder: &Path) -> bool {
    folder.join("Cargo.toml.orig").exists()
}

/// What stands for [`version`] in a package, which sees neither the sources of the other crates nor the lock file it is
/// built with: 16 hexadecimal digits for the `release`, the crate's own version.
///
/// It says less. Another version of a dependency, or a crate of ours that somebody has changed, keeps it: who builds from a
/// package with those, and keeps trained phases, has to name another cache folder.
pub(crate) fn version_of_package(release: &str, part: Part, libraries: &str) -> String {
    let mut hasher = Sha256::new();
    for field in ["package", release, part.variable(), libraries] {
        hasher.update((field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    digits(hasher)
}

/// The first 16 hexadecimal digits.
fn digits(hasher: Sha256) -> String {
    let digest = hasher.finalize();
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// What counts for a part.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Files, relative to the folder of the crates and in the order of their names.
    pub(crate) files: Vec<String>,
    /// Packages of others that the crates name.
    packages: BTreeSet<String>,
    /// How they name them, with the crate in front.
    declared: BTreeSet<String>,
}

/// What counts for `part`.
///
/// # Errors
///
/// A folder or manifest that cannot be read.
pub(crate) fn counted(crates: &Path, part: Part) -> Result<Counted> {
    let mut names = BTreeSet::new();
    let mut packages = BTreeSet::new();
    let mut declared = BTreeSet::new();
    let mut open: Vec<String> = part.crates().iter().map(|c| (*c).to_owned()).collect();
    while let Some(name) = open.pop() {
        if !names.insert(name.clone()) {
            continue;
        }
        let path = crates.join(&name).join("Cargo.toml");
        let found = dependencies(&read(&path)?, OF_CRATE).map_err(|error| named(&path, &error))?;
        for (dependency, line) in found {
            if dependency.starts_with("opt-") {
                open.push(dependency);
            } else if !is_neutral(&dependency) {
                declared.insert(format!("{name}: {line}"));
                packages.insert(dependency);
            }
        }
    }
    let mut files = Vec::new();
    for name in &names {
        collect(crates, &format!("{name}/src"), &mut files)?;
    }
    let mut own = Vec::new();
    collect(crates, OWN, &mut own)?;
    files.extend(own.into_iter().filter(|file| counts(file, part)));
    files.sort();
    Ok(Counted {
        files,
        packages,
        declared,
    })
}

fn is_neutral(package: &str) -> bool {
    NEUTRAL_DEPENDENCIES
        .iter()
        .any(|(name, _)| *name == package)
}

/// The folder of this crate's modules.
const OWN: &str = "opt-experiment/src";

/// Whether a file of this crate counts for `part`.
fn counts(file: &str, part: Part) -> bool {
    let module = file
        .strip_prefix(OWN)
        .unwrap_or(file)
        .trim_start_matches('/');
    let module = module.strip_suffix(".rs").unwrap_or(module);
    let listed = MODULES.iter().find(|(name, _, _)| {
        let rest = module.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    listed.is_none_or(|(_, parts, _)| parts.contains(&part))
}

/// The table of a crate's dependencies, and of the workspace's.
const OF_CRATE: &str = "dependencies";
const WORKSPACE: &str = "workspace.dependencies";

/// The names below `[table]` of a manifest, each with its whole entry on one line, comments left out.
///
/// # Errors
///
/// Dependencies in a table of their own or for some systems only, which nobody would count.
fn dependencies(manifest: &str, table: &str) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    // Brackets that are open: an entry may go on over several lines.
    let mut depth = 0;
    for line in manifest.lines() {
        let line = without_comment(line).trim();
        if line.is_empty() {
            continue;
        }
        if depth == 0 && line.starts_with('[') {
            let header = line.trim_matches(['[', ']']);
            inside = header == table;
            let apart = header.starts_with(&format!("{table}."));
            if apart || header.starts_with("target.") && header.contains(".dependencies") {
                return Err(Error::other(format!(
                    "{line} is not read here: write it as a line below [{table}], or teach code.rs to count it"
                )));
            }
            continue;
        }
        let opened = line.matches(['[', '{']).count();
        let closed = line.matches([']', '}']).count();
        if inside {
            match found.last_mut().filter(|_| depth > 0) {
                Some((_, entry)) => {
                    entry.push(' ');
                    entry.push_str(line);
                }
                None => {
                    let end = line.find(['.', '=', ' ']).unwrap_or(line.len());
                    found.push((line[..end].to_owned(), line.to_owned()));
                }
            }
        }
        depth = (depth + opened).saturating_sub(closed);
    }
    Ok(found)
}

/// A line of a manifest up to its comment.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let end = line.find(|c| {
        quoted ^= c == '"';
        c == '#' && !quoted
    });
    &line[..end.unwrap_or(line.len())]
}

/// These packages of a lock file with all that they are built on, but for neutral ones and what is below those alone.
fn built_on(lock: &str, packages: BTreeSet<String>) -> BTreeSet<String> {
    let mut below: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut at = "";
    for line in lock.lines() {
        if let Some(name) = line.strip_prefix("name = ") {
            at = name.trim_matches('"');
        } else if let Some(entry) = line.strip_prefix(" \"") {
            // `name`, with the version behind it where there are several.
            let entry = entry.split(['"', ' ']).next().unwrap_or_default();
            below.entry(at).or_default().insert(entry);
        }
    }
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = packages.into_iter().collect();
    while let Some(name) = open.pop() {
        if is_neutral(&name) || found.contains(&name) {
            continue;
        }
        let more = below.get(name.as_str()).into_iter().flatten();
        open.extend(more.map(|name| (*name).to_owned()));
        found.insert(name);
    }
    found
}

/// The versions of a package in a lock file.
pub(crate) fn locked_versions(lock: &str, package: &str) -> Vec<String> {
    let name = format!("name = \"{package}\"");
    let lines: Vec<&str> = lock.lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[0] == name);
    let versions = pairs.filter_map(|pair| pair[1].strip_prefix("version = "));
    versions.map(|v| v.trim_matches('"').to_owned()).collect()
}

/// The Rust files below a folder, relative to `root`; programs beside a library and files of tests are left out.
fn collect(root: &Path, folder: &str, files: &mut Vec<String>) -> Result<()> {
    let path = root.join(folder);
    let entries = fs::read_dir(&path).map_err(|error| named(&path, &error))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let place = format!("{folder}/{name}");
        if entry.path().is_dir() {
            if name != "bin" {
                collect(root, &place, files)?;
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(place);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &Error) -> Error {
    Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// What makes the examples of a README tests. No build has it.
const README_TEST: [&str; 3] = [
    "#[cfg(doctest)]",
    "#[doc = include_str!(\"../README.md\")]",
    "struct Readme;",
];

/// The lines that decide what a file computes: without indentation, comments that stand on lines of their own, modules
/// of tests, and [`README_TEST`] with the empty line above it, so that a better sentence does not make results old.
///
/// A module of tests ends where rustfmt puts its brace; of one that ends nowhere, everything counts.
fn code_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut code = String::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        if line.trim() == "#[cfg(test)]"
            && let Some(end) = end_of_module(&lines[at + 1..])
        {
            at += 1 + end;
            continue;
        }
        if lines[at..].starts_with(&README_TEST) {
            at += README_TEST.len();
            if code.ends_with("\n\n") {
                code.pop();
            }
            continue;
        }
        if !line.trim_start().starts_with("//") {
            code.push_str(line.trim());
            code.push('\n');
        }
        at += 1;
    }
    code
}

/// How many lines the module takes with which `lines` begin; `None` if they begin with something else.
fn end_of_module(lines: &[&str]) -> Option<usize> {
    let first = lines.first()?;
    let words: Vec<&str> = first.split_whitespace().collect();
    let is_module = words.first() == Some(&"mod")
        || words.first().is_some_and(|w| w.starts_with("pub")) && words.get(1) == Some(&"mod");
    if !is_module {
        return None;
    }
    if first.ends_with(';') {
        return Some(1);
    }
    let indentation = &first[..first.len() - first.trim_start().len()];
    let closing = format!("{indentation}}}");
    let after = lines.iter().position(|line| *line == closing)?;
    Some(after + 1)
}

/// The folders and files whose change makes the versions old, for cargo.
pub(crate) fn watched(crates: &Path) -> Result<Vec<PathBuf>> {
    let mut places = vec![
        crates.join("../Cargo.lock"),
        crates.join("../Cargo.toml"),
        crates.join(OWN),
    ];
    for entry in fs::read_dir(crates).map_err(|error| named(crates, &error))? {
        let folder = entry?.path();
        if folder.join("Cargo.toml").exists() {
            places.push(folder.join("Cargo.toml"));
            places.push(folder.join("src"));
        }
    }
    places.sort();
    places.dedup();
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every source file of the workspace with as good as nothing in it, and the manifests as they are.
    fn mirror() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for file in ["Cargo.lock", "Cargo.toml"] {
            fs::copy(workspace.join(file), dir.path().join(file)).unwrap();
        }
        for entry in fs::read_dir(workspace.join("crates")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let from = workspace.join("crates").join(&name);
            let to = dir.path().join("crates").join(&name);
            fs::create_dir_all(&to).unwrap();
            fs::copy(from.join("Cargo.toml"), to.join("Cargo.toml")).unwrap();
            let mut files = Vec::new();
            collect(&from, "src", &mut files).unwrap();
            for file in files {
                fs::create_dir_all(to.join(&file).parent().unwrap()).unwrap();
                fs::write(to.join(&file), "fn f() {}\n").unwrap();
            }
        }
        dir
    }

    fn versions(crates: &Path) -> Vec<String> {
        let of = |part| version(crates, part, "").unwrap();
        Part::ALL.map(of).to_vec()
    }

    /// The parts that a new file in this folder makes old.
    fn made_old(crates: &Path, before: &[String], file: &str) -> Vec<Part> {
        let path = crates.join(file);
        let parent = path.parent().unwrap();
        let is_new = !parent.exists();
        fs::create_dir_all(parent).unwrap();
        fs::write(&path, "fn new() {}\n").unwrap();
        let after = versions(crates);
        fs::remove_file(&path).unwrap();
        if is_new {
            fs::remove_dir(parent).unwrap();
        }
        let parts = Part::ALL.into_iter().zip(before.iter().zip(&after));
        parts.filter(|(_, (a, b))| a != b).map(|(p, _)| p).collect()
    }

    #[test]
    fn a_new_file_counts_wherever_it_can_change_a_result() {
        use Part::{Measuring, Pruning, Training};
        let dir = mirror();
        let crates = &dir.path().join("crates");
        let before = versions(crates);
        let all = vec![Training, Measuring, Pruning];
        // Every folder of the crates that compute, whichever there are.
        let mut folders = 0;
        for (name, parts) in [
            ("opt-core", all.clone()),
            ("opt-data", all.clone()),
            ("opt-distill", all.clone()),
            ("opt-nn", all.clone()),
            ("opt-artifact", vec![Measuring]),
            ("opt-infer", vec![Measuring]),
            ("opt-stats", vec![Measuring]),
            ("opt-prune", vec![Pruning]),
            // What these make is in the identity by its content.
            ("opt-compress", vec![]),
            ("opt-quant", vec![]),
            ("opt-format", vec![]),
            ("opt-report", vec![]),
        ] {
            let mut open = vec![format!("{name}/src")];
            while let Some(folder) = open.pop() {
                let file = format!("{folder}/new_loss.rs");
                assert_eq!(made_old(crates, &before, &file), parts, "{file}");
                folders += 1;
                for entry in fs::read_dir(crates.join(&folder)).unwrap() {
                    let entry = entry.unwrap();
                    let name = entry.file_name().into_string().unwrap();
                    if entry.path().is_dir() && name != "bin" {
                        open.push(format!("{folder}/{name}"));
                    }
                }
            }
        }
        assert!(folders >= 20, "{folders} folders");
        for (file, parts) in [
            // A module that nobody has thought of, alone or in a folder.
            ("opt-experiment/src/new_loss.rs", &all[..]),
            ("opt-experiment/src/loss/new.rs", &all),
            ("opt-experiment/src/distillation/new.rs", &all),
            ("opt-experiment/src/data/new.rs", &all),
            // Not the beginning of another module's name.
            ("opt-experiment/src/reporting.rs", &all),
            ("opt-experiment/src/layers/new.rs", &[Measuring]),
            ("opt-experiment/src/run/new.rs", &[Measuring]),
            ("opt-experiment/src/measure/new.rs", &[Measuring]),
            ("opt-experiment/src/experiment/new.rs", &[Pruning]),
            // A change in the report does not make a training old.
            ("opt-report/src/html/new.rs", &[]),
            ("opt-bench/src/new.rs", &[]),
            ("opt-cli/src/new.rs", &[]),
            ("opt-experiment/src/bin/new.rs", &[]),
            ("opt-nn/src/quantized/tests.rs", &[]),
        ] {
            assert_eq!(made_old(crates, &before, file), parts, "{file}");
        }
        // Nothing of the above has stayed.
        assert_eq!(versions(crates), before);
    }

    #[test]
    fn what_a_manifest_says_of_its_package_does_not_count() {
        let dir = mirror();
        let crates = &dir.path().join("crates");
        let before = versions(crates);
        for (file, from, to) in [
            (
                "opt-nn/Cargo.toml",
                "[package]\n",
                "[package]\ndocumentation = \"x\"\n",
            ),
            (
                "../Cargo.toml",
                "opt-nn = { path = \"crates/opt-nn\", version = \"0.1.0\" }",
                "opt-nn = { path = \"crates/opt-nn\", version = \"0.2.0\" }",
            ),
        ] {
            let text = fs::read_to_string(crates.join(file)).unwrap();
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{file}: {from}");
            assert_eq!(made_old_by(crates, &before, file, &changed), [], "{file}");
            fs::write(crates.join(file), text).unwrap();
        }
    }

    #[test]
    fn a_change_counts_where_the_file_does_and_so_do_dependencies() {
        use Part::{Measuring, Pruning, Training};
        let dir = mirror();
        let crates = &dir.path().join("crates");
        let before = versions(crates);
        for (file, parts) in [
            ("opt-experiment/src/distillation.rs", &Part::ALL[..]),
            ("opt-experiment/src/data.rs", &Part::ALL),
            ("opt-experiment/src/experiment/distill.rs", &[Pruning]),
            ("opt-report/src/words.rs", &[]),
            ("opt-nn/src/train.rs", &Part::ALL),
        ] {
            let text = fs::read_to_string(crates.join(file)).unwrap();
            assert_eq!(
                made_old_by(crates, &before, file, "fn g() {}\n"),
                parts,
                "{file}"
            );
            fs::write(crates.join(file), text).unwrap();
        }
        // Another version of what computes; of what only talks, not.
        let lock = fs::read_to_string(crates.join("../Cargo.lock")).unwrap();
        for (package, parts) in [
            ("tch", &Part::ALL[..]),
            ("rand_chacha", &Part::ALL),
            ("ndarray", &Part::ALL),
            // Below rand and below tch.
            ("rand_core", &Part::ALL),
            ("half", &Part::ALL),
            ("thiserror", &[]),
            ("resvg", &[]),
        ] {
            let at = format!("name = \"{package}\"\nversion = \"");
            let changed = lock.replacen(&at, &format!("{at}9"), 1);
            assert_ne!(changed, lock, "{package}");
            assert_eq!(
                made_old_by(crates, &before, "../Cargo.lock", &changed),
                parts,
                "{package}"
            );
        }
        fs::write(crates.join("../Cargo.lock"), &lock).unwrap();
        assert_eq!(version(crates, Training, "").unwrap(), before[0]);
        // Other features of it, in the crate and in the workspace; a better comment not.
        for (file, from, to, parts) in [
            (
                "opt-artifact/Cargo.toml",
                ", features = [\"float_roundtrip\"]",
                "",
                &[Measuring][..],
            ),
            (
                "opt-artifact/Cargo.toml",
                "# without it a scale",
                "# else a scale",
                &[],
            ),
            (
                "../Cargo.toml",
                "ndarray = \"0.16.1\"",
                "ndarray = { version = \"0.16.1\", features = [\"blas\"] }",
                &Part::ALL,
            ),
            (
                "../Cargo.toml",
                "resvg = { version = \"0.49.0\", default-features = false,",
                "resvg = { version = \"0.49.0\",",
                &[],
            ),
        ] {
            let text = fs::read_to_string(crates.join(file)).unwrap();
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{file}: {from}");
            assert_eq!(
                made_old_by(crates, &before, file, &changed),
                parts,
                "{file}: {to}"
            );
            fs::write(crates.join(file), text).unwrap();
        }
        assert_eq!(versions(crates), before);
        // A crate that training comes to depend on counts from then on, without being named here.
        let manifest = crates.join("opt-nn/Cargo.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        let more = text.replace(
            "[dependencies]\n",
            "[dependencies]\nopt-quant.workspace = true\n",
        );
        fs::write(&manifest, more).unwrap();
        let before = versions(crates);
        let file = "opt-quant/src/new.rs";
        assert_eq!(
            made_old(crates, &before, file),
            [Training, Measuring, Pruning]
        );
        // One that is not there, or cannot be read, is an error: nothing is left out in silence.
        fs::remove_dir_all(crates.join("opt-quant/src")).unwrap();
        let error = version(crates, Training, "").unwrap_err().to_string();
        assert!(error.contains("opt-quant/src"), "{error}");
    }

    fn made_old_by(crates: &Path, before: &[String], file: &str, text: &str) -> Vec<Part> {
        fs::write(crates.join(file), text).unwrap();
        let after = versions(crates);
        let parts = Part::ALL.into_iter().zip(before.iter().zip(&after));
        parts.filter(|(_, (a, b))| a != b).map(|(p, _)| p).collect()
    }

    #[test]
    fn no_loss_is_where_it_would_not_count() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        collect(&crates, OWN, &mut files).unwrap();
        for file in files.iter().filter(|file| !counts(file, Part::Training)) {
            let code = code_of(&fs::read_to_string(crates.join(file)).unwrap());
            let mut lines = code.lines();
            let found = lines.find(|l| l.starts_with("impl") && l.contains("Loss for "));
            assert_eq!(
                found, None,
                "{file} is excused in MODULES: move this to a file that counts"
            );
        }
        // Each excused module is there.
        for (module, _, reason) in MODULES {
            let named = |file: &String| {
                let path = file.strip_prefix("opt-experiment/src/").unwrap();
                path == format!("{module}.rs") || path.starts_with(&format!("{module}/"))
            };
            assert!(files.iter().any(named) && !reason.is_empty(), "{module}");
        }
    }

    #[test]
    fn sentences_and_tests_do_not_count_and_all_else_does() {
        let code = "fn f() {\n    g();\n}\n";
        let same = [
            "//! What it is.\nfn f() {\n    // Why.\n    g();\n}\n",
            "fn f() {\n        g();\n}\n",
            "#[cfg(test)]\nmod tests;\nfn f() {\n    g();\n}\n",
            "fn f() {\n    g();\n}\n#[cfg(test)]\nmod tests {\n    fn t() {\n    }\n}\n",
            "#[cfg(test)]\npub(crate) mod sample {\n}\nfn f() {\n    g();\n}\n",
            "fn f() {\n    g();\n}\n\n/// Why.\n#[cfg(doctest)]\n#[doc = include_str!(\"../README.md\")]\nstruct Readme;\n",
        ];
        for text in same {
            assert_eq!(code_of(text), code_of(code), "{text}");
        }
        let other = [
            "fn f() {\n    g();\n    g();\n}\n",
            // What follows a module of tests, or something else that is for tests only.
            "fn f() {\n    g();\n}\n#[cfg(test)]\nmod tests {\n}\nfn h() {}\n",
            "#[cfg(test)]\nuse x::y;\nfn f() {\n    g();\n}\n",
            "#[cfg(doctest)]\nuse x::y;\nfn f() {\n    g();\n}\n",
            // A module without an end hides nothing.
            "fn f() {\n    g();\n}\n#[cfg(test)]\nmod tests { }\nfn h() {}\n",
        ];
        for text in other {
            assert_ne!(code_of(text), code_of(code), "{text}");
        }
    }

    #[test]
    fn cargo_watches_every_file_that_counts() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let watched = watched(&crates).unwrap();
        for part in Part::ALL {
            for file in counted(&crates, part).unwrap().files {
                let path = crates.join(&file);
                assert!(
                    watched.iter().any(|place| path.starts_with(place)),
                    "{file}"
                );
            }
        }
        for file in ["../Cargo.lock", "../Cargo.toml"] {
            assert!(watched.iter().any(|place| place.ends_with(file)), "{file}");
        }
        // What the build script has passed on is what this computes.
        let passed = [
            env!("OPT_TRAINING_CODE"),
            env!("OPT_MEASURING_CODE"),
            env!("OPT_PRUNING_CODE"),
        ];
        let own =
            Part::ALL.map(|part| version(&crates, part, env!("OPT_LIBTORCH_VERSION")).unwrap());
        assert_eq!(own, passed);
        assert_eq!(Part::Training.variable(), "OPT_TRAINING_CODE");
    }

    #[test]
    fn a_package_has_the_version_of_its_release() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("opt-experiment-1.0.0");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("Cargo.toml"), "").unwrap();
        assert!(!is_packaged(&folder));
        // Without the workspace around it, and not known as a package, nothing is made up.
        assert!(version(dir.path(), Part::Training, "").is_err());
        fs::write(folder.join("Cargo.toml.orig"), "").unwrap();
        assert!(is_packaged(&folder));
        assert!(!is_packaged(Path::new(env!("CARGO_MANIFEST_DIR"))));

        let of = |release, libraries| Part::ALL.map(|p| version_of_package(release, p, libraries));
        let versions = of("1.0.0", "2.13.0");
        assert_eq!(of("1.0.0", "2.13.0"), versions);
        let hexadecimal = |v: &String| v.len() == 16 && v.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(versions.iter().all(hexadecimal), "{versions:?}");
        // Other parts, another release and other libraries have other versions.
        let all = [versions, of("1.0.1", "2.13.0"), of("1.0.0", "2.14.0")].concat();
        assert_eq!(BTreeSet::from_iter(&all).len(), all.len(), "{all:?}");
    }

    #[test]
    fn manifests_and_locks_are_read() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\n# no\n\nb = \"1\"\nc-d={}\n\
                        [dev-dependencies]\ne = \"1\"\n";
        let of = |manifest| dependencies(manifest, OF_CRATE);
        let names = |manifest| -> Vec<String> {
            let found = of(manifest).unwrap().into_iter();
            found.map(|(name, _)| name).collect()
        };
        assert_eq!(names(manifest), ["a", "b", "c-d"]);
        assert_eq!(names("[package]\n"), [""; 0]);
        // Over several lines, and with the sign of a comment in quotes.
        let manifest = "[dependencies]\na = { version = \"#1\", features = [\n  \"x\", # why\n  \"y\",\n] } # what\nb = \"1\"\n";
        let entry = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(
            of(manifest).unwrap(),
            [
                entry(
                    "a",
                    "a = { version = \"#1\", features = [ \"x\", \"y\", ] }"
                ),
                entry("b", "b = \"1\"")
            ]
        );
        let workspace = "[workspace.dependencies]\nc = \"2\"\n[dependencies]\na = \"1\"\n";
        let found = dependencies(workspace, WORKSPACE).unwrap();
        assert_eq!(found, [entry("c", "c = \"2\"")]);
        // What would not be seen is refused.
        for header in ["[dependencies.a]", "[target.'cfg(unix)'.dependencies]"] {
            let error = of(header).unwrap_err().to_string();
            assert!(error.starts_with(header), "{error}");
        }
        let lock = "[[package]]\nname = \"a\"\nversion = \"1\"\n[[package]]\nname = \"a\"\nversion = \"2\"\n\
                    [[package]]\nname = \"ab\"\nversion = \"3\"\n";
        assert_eq!(locked_versions(lock, "a"), ["1", "2"]);
        assert_eq!(locked_versions(lock, "none"), [""; 0]);
        let lock = "name = \"a\"\ndependencies = [\n \"b\",\n \"thiserror\",\n]\nname = \"b\"\ndependencies = [\n \"c 1.0.0\",\n]\n\
                    name = \"thiserror\"\ndependencies = [\n \"d\",\n]\nname = \"c\"\ndependencies = [\n \"a\",\n]\n";
        let packages = BTreeSet::from(["a".to_owned()]);
        let found: Vec<String> = built_on(lock, packages).into_iter().collect();
        assert_eq!(found, ["a", "b", "c"]);
    }
}
