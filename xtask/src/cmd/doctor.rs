//! `cargo xtask doctor`: what this machine has, what it lacks, and the fix for each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::libtorch::{self, Decision, Flavour, Pip};
use crate::{cache, workspace};

/// Where in the cache folder experiments keep trained networks.
const TRAINED: &str = "trained";

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// Something works less well, or brings itself when it is needed.
    Optional,
    /// Commands will fail.
    Missing,
}

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    what: &'static str,
    state: State,
    seen: String,
    fix: Option<String>,
}

impl Check {
    fn ok(what: &'static str, seen: impl Into<String>) -> Self {
        Self {
            what,
            state: State::Ok,
            seen: seen.into(),
            fix: None,
        }
    }

    fn optional(what: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what,
            state: State::Optional,
            seen: seen.into(),
            fix: Some(fix.into()),
        }
    }

    fn missing(what: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what,
            state: State::Missing,
            seen: seen.into(),
            fix: Some(fix.into()),
        }
    }
}

pub(crate) fn run() -> Result<ExitCode> {
    let found = libtorch_check();
    let has_libtorch = found.state == State::Ok;
    let checks = [
        platform(),
        toolchain(),
        compiler(),
        openmp(),
        pip(has_libtorch),
        found,
        cache_folder(has_libtorch),
        cpu(),
        cuda(),
        data(),
        chromium(),
    ];
    print!("{}", table(&checks));
    if checks.iter().any(|check| check.state == State::Missing) {
        println!("\nsomething needed is missing: see `fix` above");
        return Ok(ExitCode::FAILURE);
    }
    println!("\nnothing needed is missing");
    Ok(ExitCode::SUCCESS)
}

/// Aligned columns; the fix stands below its line.
fn table(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Optional => "-",
            State::Missing => "missing",
        };
        text += &format!("{:<13} {state:<8} {}\n", check.what, check.seen);
        if let Some(fix) = &check.fix {
            text += &format!("{:<13} {:<8} fix: {fix}\n", "", "");
        }
    }
    text
}

/// The first line that a program prints; `None` where it cannot be started or fails.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(|line| line.trim().to_owned())
}

fn chromium() -> Check {
    match super::test::chromium() {
        Some(path) => Check::ok("chromium", path.display().to_string()),
        None => Check::optional(
            "chromium",
            "none: the report is not tested in a browser",
            "apt-get install chromium",
        ),
    }
}

fn platform() -> Check {
    let what = "platform";
    let glibc = first_line(Command::new("getconf").arg("GNU_LIBC_VERSION"));
    let seen = format!(
        "{} {}, {}",
        std::env::consts::OS,
        std::env::consts::ARCH,
        glibc.as_deref().unwrap_or("no glibc")
    );
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Check::missing(
            what,
            seen,
            "set-up knows Linux x86-64 only; export LIBTORCH as a libtorch for this machine",
        );
    }
    if glibc.as_deref().is_some_and(is_glibc_new_enough) {
        Check::ok(what, seen)
    } else {
        Check::missing(
            what,
            seen,
            "libtorch needs glibc 2.28 or later: a newer distribution, or a container of one",
        )
    }
}

/// `glibc 2.31` is new enough where it is at least 2.28.
fn is_glibc_new_enough(text: &str) -> bool {
    let version = text
        .strip_prefix("glibc ")
        .and_then(|version| version.split_once('.'));
    version.is_some_and(
        |(major, minor)| match (major.parse::<u32>(), minor.parse::<u32>()) {
            (Ok(major), Ok(minor)) => (major, minor) >= (2, 28),
            _ => false,
        },
    )
}

fn toolchain() -> Check {
    let what = "toolchain";
    let fix = "install Rust from https://rustup.rs; rust-toolchain.toml then brings the right version, or `rustup toolchain install`";
    let version = |program: &str| {
        first_line(
            Command::new(program)
                .current_dir(workspace::root())
                .arg("--version"),
        )
    };
    match version("rustc") {
        None => Check::missing(what, "no rustc", fix),
        Some(rustc) => match (version("cargo-clippy"), version("rustfmt")) {
            (Some(_), Some(_)) => Check::ok(what, rustc),
            _ => Check::optional(
                what,
                format!("{rustc}, without clippy or rustfmt (only `check` needs them)"),
                "rustup component add clippy rustfmt",
            ),
        },
    }
}

fn compiler() -> Check {
    let what = "C++ compiler";
    let install = "Debian, Ubuntu: `sudo apt install g++`; Fedora: `sudo dnf install gcc-c++`";
    let version = |program: &str| first_line(Command::new(program).arg("--version"));
    if let Ok(own) = std::env::var("CXX") {
        return match version(&own) {
            Some(seen) => Check::ok(what, format!("{seen} (CXX={own})")),
            None => Check::missing(
                what,
                format!("CXX={own} cannot be started"),
                "`unset CXX`, or export one that works",
            ),
        };
    }
    match (version("c++"), version("g++")) {
        (Some(seen), _) => Check::ok(what, seen),
        (None, Some(_)) => Check::missing(what, "g++, but no c++", "export CXX=g++"),
        (None, None) => Check::missing(what, "none", install),
    }
}

fn openmp() -> Check {
    let what = "OpenMP";
    // gcc answers with a path where it has the library, with the bare name where not.
    match first_line(Command::new("cc").arg("-print-file-name=libgomp.so")) {
        Some(path) if path.contains('/') => Check::ok(what, "libgomp.so"),
        Some(_) => Check::missing(
            what,
            "no libgomp.so, which torch-sys links",
            "Debian, Ubuntu: `sudo apt install gcc`; Fedora: `sudo dnf install gcc libgomp`",
        ),
        None => Check::missing(
            what,
            "no cc, which Rust links with",
            "Debian, Ubuntu: `sudo apt install gcc`; Fedora: `sudo dnf install gcc`",
        ),
    }
}

fn pip(has_libtorch: bool) -> Check {
    let what = "pip";
    match Pip::find() {
        Ok(pip) => Check::ok(what, format!("pip {}", pip.version)),
        Err(error) if has_libtorch => Check::optional(
            what,
            "none (libtorch is here, so it is not needed)",
            error.to_string(),
        ),
        Err(error) => Check::missing(what, "none", error.to_string()),
    }
}

fn libtorch_check() -> Check {
    let what = "libtorch";
    if libtorch::uses_python() {
        let code = "import torch; print(torch.__version__)";
        let wanted = libtorch::VERSION;
        return match first_line(Command::new("python3").args(["-c", code])) {
            Some(version) if version.split('+').next() == Some(wanted) => Check::ok(
                what,
                format!("{version}, of python3 (LIBTORCH_USE_PYTORCH)"),
            ),
            other => Check::missing(
                what,
                format!(
                    "LIBTORCH_USE_PYTORCH is set, and python3 has torch {}",
                    other.as_deref().unwrap_or("not at all")
                ),
                format!(
                    "`python3 -m pip install torch=={wanted}`, or `unset LIBTORCH_USE_PYTORCH`"
                ),
            ),
        };
    }
    let cuda = |folder: &Path| {
        if folder.join("lib/libtorch_cuda.so").exists() {
            "with CUDA"
        } else {
            "CPU"
        }
    };
    match libtorch::decide(libtorch::exported(), libtorch::linked()) {
        Decision::Use(folder) => Check::ok(
            what,
            format!(
                "{}, {}, LIBTORCH={}",
                libtorch::VERSION,
                cuda(&folder),
                folder.display()
            ),
        ),
        Decision::Linked(folder) => Check::ok(
            what,
            format!(
                "{}, {}, .libtorch -> {}",
                libtorch::VERSION,
                cuda(&folder),
                folder.display()
            ),
        ),
        Decision::Bring => Check::missing(
            what,
            format!("no libtorch {}", libtorch::VERSION),
            "cargo xtask setup",
        ),
        wrong => Check::missing(
            what,
            libtorch::complaint(&wrong),
            "`unset LIBTORCH`, then `cargo xtask setup`",
        ),
    }
}

fn cache_folder(has_libtorch: bool) -> Check {
    let what = "cache folder";
    let folder = match cache::folder() {
        Ok(folder) => folder,
        Err(error) => {
            return Check::missing(
                what,
                error.to_string(),
                "export OPT_CACHE_DIR as the path of a folder, from the root",
            );
        }
    };
    let Some(free) = cache::free_bytes(&folder) else {
        return Check::ok(what, format!("{}, free space unknown", folder.display()));
    };
    let trained = folder.join(TRAINED);
    let mut seen = format!(
        "{}, {} free; trained networks: {}, in {}/, which may be deleted while nothing trains",
        folder.display(),
        cache::size(free),
        cache::size(cache::bytes_in(&trained)),
        TRAINED
    );
    if let Some((newest, old, bytes)) = of_older_versions(&trained) {
        seen += &format!(
            "; {} of it are of an older format than {newest}, the newest there (which another checkout of yours may still use): {}",
            cache::size(bytes),
            old.join(", ")
        );
    }
    let needed = Flavour::Cpu.bytes_needed();
    if free >= needed || has_libtorch {
        Check::ok(what, seen)
    } else {
        Check::missing(
            what,
            seen,
            format!(
                "set-up takes {}: make room, or export OPT_CACHE_DIR as a folder elsewhere",
                cache::size(needed)
            ),
        )
    }
}

fn cpu() -> Check {
    let what = "CPU";
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let (model, flags) = parse_cpuinfo(&text);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let feature = |name: &str| {
        if flags.contains(&name) {
            format!("{name} yes")
        } else {
            format!("{name} no")
        }
    };
    let features = ["avx2", "avx512_vnni", "avx512_bf16"]
        .map(feature)
        .join(", ");
    let seen = format!("{model}, {cores} cores: {features}");
    if flags.contains(&"avx512_bf16") {
        Check::ok(what, seen)
    } else {
        Check::optional(
            what,
            seen,
            "nothing to do; training runs in f32, which takes about twice as long as bf16",
        )
    }
}

/// The model's name and the flags of the first processor.
fn parse_cpuinfo(text: &str) -> (&str, Vec<&str>) {
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim())
    };
    (
        field("model name").unwrap_or("unknown"),
        field("flags")
            .unwrap_or_default()
            .split_whitespace()
            .collect(),
    )
}

fn cuda() -> Check {
    let what = "CUDA";
    let query = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
    let Some(device) = first_line(Command::new("nvidia-smi").args(query)) else {
        return Check::optional(
            what,
            "no GPU (nvidia-smi does not answer)",
            "nothing to do; everything runs on CPU",
        );
    };
    let folder = libtorch::exported().or_else(libtorch::linked);
    if folder.is_some_and(|found| found.folder.join("lib/libtorch_cuda.so").exists()) {
        Check::ok(what, device)
    } else {
        Check::optional(
            what,
            format!("{device}, but libtorch without CUDA"),
            "cargo xtask setup --cuda",
        )
    }
}

fn data() -> Check {
    let what = "data";
    let folder = std::env::var_os("OPT_DATA_DIR")
        .map_or_else(|| workspace::root().join("data"), PathBuf::from);
    let has_cifar = fs::read_dir(&folder).is_ok_and(|entries| {
        entries
            .flatten()
            .map(|entry| entry.path())
            .chain([folder.clone()])
            .any(|path| path.join("test_batch.bin").exists())
    });
    if has_cifar {
        Check::ok(what, format!("CIFAR-10 in {}", folder.display()))
    } else {
        Check::optional(
            what,
            format!("no CIFAR-10 in {}; experiments fetch it", folder.display()),
            "`cargo xtask data`, or `cargo xtask data --from DIR` with a folder of data_batch_1.bin … test_batch.bin",
        )
    }
}

/// The newest `vN/`, what lies beside it, in short, and the bytes of that; `None` if nothing does. Which format a checkout
/// reads is the business of its program, so nothing here says that a folder is of no use.
fn of_older_versions(trained: &Path) -> Option<(String, Vec<String>, u64)> {
    let format = |name: &str| name.strip_prefix('v')?.parse::<u32>().ok();
    let entries = fs::read_dir(trained).into_iter().flatten().flatten();
    let names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    // Without one, all there is may be of the version that is in use.
    let newest = names.iter().filter_map(|name| format(name)).max()?;
    let (mut numbered, first): (Vec<String>, Vec<String>) = names
        .into_iter()
        .filter(|name| format(name) != Some(newest))
        .partition(|name| format(name).is_some());
    let old = numbered.iter().chain(&first);
    let bytes = old.map(|name| cache::bytes_in(&trained.join(name))).sum();
    numbered.sort();
    let mut shown: Vec<String> = numbered.iter().map(|n| format!("{TRAINED}/{n}/")).collect();
    if !first.is_empty() {
        shown = vec![format!("all of {TRAINED}/ but v{newest}/")];
    }
    (!shown.is_empty()).then(|| (format!("v{newest}"), shown, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glibc_versions_compare_as_numbers() {
        for (text, expected) in [
            ("glibc 2.28", true),
            ("glibc 2.27", false),
            // As text, 2.4 would come after 2.28.
            ("glibc 2.4", false),
            ("glibc 3.0", true),
            ("musl 1.2", false),
            ("", false),
        ] {
            assert_eq!(is_glibc_new_enough(text), expected, "{text}");
        }
    }

    #[test]
    fn cpuinfo_is_read_by_its_fields() {
        let text = "processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: other\n";
        assert_eq!(parse_cpuinfo(text), ("A CPU: fast", vec!["fpu", "avx2"]));
        assert_eq!(parse_cpuinfo(""), ("unknown", vec![]));
    }

    #[test]
    fn networks_of_older_versions_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            fs::create_dir_all(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("model"), [0; 5]).unwrap();
        };
        let none = None;
        assert_eq!(of_older_versions(&dir.path().join("none")), none);
        // Nothing says that there is anything newer.
        at("0123456789abcdef");
        assert_eq!(of_older_versions(dir.path()), none);
        at("v2/0123456789abcdef");
        let first = vec!["all of trained/ but v2/".to_owned()];
        let found = of_older_versions(dir.path());
        assert_eq!(found, Some(("v2".to_owned(), first, 5)));
        fs::remove_dir_all(dir.path().join("0123456789abcdef")).unwrap();
        assert_eq!(of_older_versions(dir.path()), none);
        at("v10/0123456789abcdef");
        let second = vec!["trained/v2/".to_owned()];
        let found = of_older_versions(dir.path());
        assert_eq!(found, Some(("v10".to_owned(), second, 5)));
    }

    #[test]
    fn the_table_shows_states_and_mends() {
        let text = table(&[
            Check::ok("pip", "pip 24"),
            Check::missing("libtorch", "none", "cargo xtask setup"),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "pip           ok       pip 24");
        assert_eq!(lines[1], "libtorch      missing  none");
        assert_eq!(lines[2].trim(), "fix: cargo xtask setup");
    }
}
