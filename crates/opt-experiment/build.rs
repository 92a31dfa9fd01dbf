//! Gives this crate's binaries the folder of libtorch as rpath (cargo passes it to direct dependents of torch-sys only)
//! and records for `run.json` the compiler's version, and for the names of kept results the versions of the code that they
//! follow from: of the workspace's sources, or in a package of its release.

#[path = "src/code.rs"]
mod code;

use std::error::Error;
use std::path::Path;

use code::{Part, is_packaged, locked_versions, version, version_of_package, watched};

fn main() -> Result<(), Box<dyn Error>> {
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    if !lib.is_empty() {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = std::process::Command::new(rustc).arg("--version").output();
    let compiler = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    println!(
        "cargo:rustc-env=OPT_RUSTC_VERSION={}",
        compiler.unwrap_or_default()
    );
    let libtorch = libtorch_version(Path::new(&lib));
    println!("cargo:rustc-env=OPT_LIBTORCH_VERSION={libtorch}");
    if is_packaged(Path::new(".")) {
        // The workspace is not there. Its lock file says which tch there is, so that stays unknown here.
        let release = env!("CARGO_PKG_VERSION");
        println!("cargo:rustc-env=OPT_TCH_VERSION=");
        for part in Part::ALL {
            let version = version_of_package(release, part, &libtorch);
            println!("cargo:rustc-env={}={version}", part.variable());
        }
        return Ok(());
    }
    let crates = Path::new("..");
    let lock = std::fs::read_to_string("../../Cargo.lock")?;
    println!(
        "cargo:rustc-env=OPT_TCH_VERSION={}",
        locked_versions(&lock, "tch").join(" ")
    );
    for place in watched(crates)? {
        println!("cargo:rerun-if-changed={}", place.display());
    }
    for part in Part::ALL {
        let version = version(crates, part, &libtorch)?;
        println!("cargo:rustc-env={}={version}", part.variable());
    }
    Ok(())
}

/// What the folder of libtorch says about itself: `build-version`, or the `version.py` of a Python package; empty if
/// neither is there.
fn libtorch_version(lib: &Path) -> String {
    if let Ok(text) = std::fs::read_to_string(lib.join("../build-version")) {
        return text.trim().to_owned();
    }
    let text = std::fs::read_to_string(lib.join("../version.py")).unwrap_or_default();
    let version = text.lines().find_map(|l| l.strip_prefix("__version__ = "));
    version.unwrap_or_default().trim_matches('\'').to_owned()
}
