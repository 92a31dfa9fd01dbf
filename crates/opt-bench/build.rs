//! Gives this crate's binaries the folder of libtorch as rpath (cargo passes it to direct dependents of torch-sys only)
//! and records for `run.json` the compiler's version, and for the names of kept results the versions of the code that they
//! follow from.
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn main() {
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = std::process::Command::new(rustc).arg("--version").output();
    let version = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let libtorch = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    let file = Path::new(&libtorch).join("../build-version");
    let libtorch = std::fs::read_to_string(file).unwrap_or_default();
    println!("cargo:rustc-env=OPT_LIBTORCH_VERSION={}", libtorch.trim());
    println!("cargo:rustc-env=OPT_TCH_VERSION={}", locked_version("tch"));
    println!("cargo:rerun-if-changed=../../Cargo.lock");
    let libtorch_of = [
        locked_version("tch").as_str(),
        locked_version("ndarray").as_str(),
        locked_version("rand_chacha").as_str(),
        libtorch.trim(),
    ]
    .join(" ");
    let training = ["opt-core", "opt-data", "opt-distill", "opt-nn"];
    let mut training: Vec<PathBuf> = training.iter().map(|c| source_of(c)).collect();
    training.extend(["distillation.rs", "data.rs"].map(|own| Path::new("src").join(own)));
    println!(
        "cargo:rustc-env=OPT_TRAINING_CODE={}",
        code_version(&libtorch_of, &training)
    );
    let mut pruning = training.clone();
    pruning.extend([
        source_of("opt-prune"),
        Path::new("src/experiment/prune.rs").to_owned(),
    ]);
    println!(
        "cargo:rustc-env=OPT_PRUNING_CODE={}",
        code_version(&libtorch_of, &pruning)
    );
    let mut measuring = training;
    measuring.extend(["opt-artifact", "opt-infer"].map(source_of));
    for own in [
        "measure.rs",
        "quantization.rs",
        "run.rs",
        "results.rs",
        "results",
    ] {
        measuring.push(Path::new("src").join(own));
    }
    println!(
        "cargo:rustc-env=OPT_MEASURING_CODE={}",
        code_version(&libtorch_of, &measuring)
    );
    println!(
        "cargo:rustc-env=OPT_RUSTC_VERSION={}",
        version.unwrap_or_default()
    );
}

fn source_of(crate_name: &str) -> PathBuf {
    Path::new("..").join(crate_name).join("src")
}

/// A hash of source files: without comments that stand on lines of their own, without tests, so that a better sentence
/// does not make results old.
fn code_version(libraries: &str, places: &[PathBuf]) -> String {
    let mut files = Vec::new();
    for place in places {
        println!("cargo:rerun-if-changed={}", place.display());
        collect(place, &mut files);
    }
    files.sort();
    let mut hasher = Sha256::new_with_prefix(libraries);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        hasher.update(format!("{}\n", file.display()));
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if line == "#[cfg(test)]" {
                // Tests in a file of their own, or those below, with which a file ends.
                if lines.next().is_some_and(|next| next.ends_with(';')) {
                    continue;
                }
                break;
            }
            if !line.starts_with("//") {
                hasher.update(line);
                hasher.update("\n");
            }
        }
    }
    let digest = hasher.finalize();
    digest.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// The Rust files below a folder, or the file itself; tests in files of their own are left out.
fn collect(place: &Path, files: &mut Vec<PathBuf>) {
    let name = place.file_name().unwrap_or_default();
    if let Ok(entries) = std::fs::read_dir(place) {
        if name != "bin" {
            for entry in entries.flatten() {
                collect(&entry.path(), files);
            }
        }
    } else if place.extension().is_some_and(|e| e == "rs") && name != "tests.rs" {
        files.push(place.to_owned());
    }
}

/// The version of a package in Cargo.lock; empty if it is not found.
fn locked_version(package: &str) -> String {
    let lock = std::fs::read_to_string("../../Cargo.lock").unwrap_or_default();
    let mut lines = lock.lines();
    let name = format!("name = \"{package}\"");
    lines.find(|l| *l == name);
    let version = lines.next().and_then(|l| l.strip_prefix("version = "));
    version.unwrap_or_default().trim_matches('"').to_owned()
}
