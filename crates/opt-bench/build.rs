//! Gives this crate's binaries the folder of libtorch as rpath (cargo passes it to direct dependents of torch-sys only)
//! and records the compiler's version for `run.json`.
fn main() {
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = std::process::Command::new(rustc).arg("--version").output();
    let version = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let libtorch = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    let file = std::path::Path::new(&libtorch).join("../build-version");
    let libtorch = std::fs::read_to_string(file).unwrap_or_default();
    println!("cargo:rustc-env=OPT_LIBTORCH_VERSION={}", libtorch.trim());
    println!("cargo:rustc-env=OPT_TCH_VERSION={}", locked_version("tch"));
    println!("cargo:rerun-if-changed=../../Cargo.lock");
    println!(
        "cargo:rustc-env=OPT_RUSTC_VERSION={}",
        version.unwrap_or_default()
    );
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
