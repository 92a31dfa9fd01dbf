//! pip as the download client: it respects the user's mirrors, proxies and certificates.

use std::fs;
use std::io::{IsTerminal, stderr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::flavour::{CPU_DOWNLOAD, Flavour, VERSION};
use crate::cache;

/// What the CPU libraries come from; the wheels are pinned by hash in wheel.rs.
const CPU_WHEELS: [&str; 3] = [
    "torch==2.13.0",
    "nvidia-cuda-cupti==13.0.85",
    "nvidia-cuda-runtime==13.0.96",
];

/// A pip that answers.
#[derive(Debug)]
pub(crate) struct Pip {
    command: &'static [&'static str],
    pub(crate) version: String,
}

impl Pip {
    /// The first of `python3 -m pip`, `pip3`, `pip` that works.
    pub(crate) fn find() -> Result<Self> {
        const COMMANDS: [&[&str]; 4] = [
            &["python3", "-m", "pip"],
            &["pip3"],
            &["pip"],
            &["python", "-m", "pip"],
        ];
        let mut too_old = None;
        for command in COMMANDS {
            let Ok(output) = start(command).arg("--version").output() else {
                continue;
            };
            if !output.status.success() {
                continue;
            }
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let Some(version) = text
                .strip_prefix("pip ")
                .and_then(|rest| rest.split(' ').next())
            else {
                continue;
            };
            // Older ones refuse several --platform, and the three wheels have three tags.
            if is_new_enough(version) {
                return Ok(Self {
                    command,
                    version: version.to_owned(),
                });
            }
            too_old = Some(format!(
                "`{}` is pip {version}, but 20.3 or later is needed; upgrade it: {} install --upgrade pip",
                command.join(" "),
                command.join(" ")
            ));
        }
        bail!(too_old.unwrap_or_else(|| {
            "no pip found, which downloads libtorch's wheels; install it (Debian, Ubuntu: `sudo apt install python3-pip`; \
             Fedora: `sudo dnf install python3-pip`; else `python3 -m ensurepip --user`), \
             or export LIBTORCH as a folder of libtorch 2.13.0"
                .into()
        }))
    }

    /// Downloads the wheels into `into` and returns them in the order of their names.
    pub(super) fn download(&self, flavour: Flavour, into: &Path) -> Result<Vec<PathBuf>> {
        // pip unpacks where TMPDIR says; /tmp is often a small memory disk.
        let temporary = into.with_file_name("pip");
        fs::create_dir_all(&temporary)
            .with_context(|| format!("creating {}", temporary.display()))?;
        let mut pip = start(self.command);
        pip.args([
            "download",
            "--disable-pip-version-check",
            "--no-cache-dir",
            "--no-input",
        ])
        .args(["--only-binary=:all:", "--implementation=cp"])
        // One wheel for everybody, whichever Python pip runs on: its hash is pinned.
        .args(["--python-version=3.11", "--abi=cp311"])
        .args(platforms())
        .arg("--dest")
        .arg(into)
        .env("TMPDIR", &temporary);
        let total = match flavour {
            Flavour::Cpu => {
                eprintln!(
                    "downloading {} with pip {}",
                    CPU_WHEELS.join(", "),
                    self.version
                );
                pip.arg("--no-deps").args(CPU_WHEELS);
                Some(CPU_DOWNLOAD)
            }
            Flavour::Cuda => {
                eprintln!(
                    "downloading torch {VERSION} and its CUDA libraries with pip {}",
                    self.version
                );
                pip.arg(CPU_WHEELS[0]);
                None
            }
        };
        run_with_progress(&mut pip, into, &temporary, total).with_context(|| {
            format!(
                "pip could not download torch {VERSION} (its own words are above). With no way to the package index: \
                 set PIP_INDEX_URL to a mirror or HTTPS_PROXY to a proxy, \
                 or export LIBTORCH as a folder of libtorch {VERSION}"
            )
        })?;
        fs::remove_dir_all(&temporary)
            .with_context(|| format!("removing {}", temporary.display()))?;
        let mut wheels = Vec::new();
        for entry in fs::read_dir(into).with_context(|| format!("reading {}", into.display()))? {
            let path = entry
                .with_context(|| format!("reading {}", into.display()))?
                .path();
            if path.extension().is_some_and(|extension| extension == "whl") {
                wheels.push(path);
            }
        }
        wheels.sort();
        Ok(wheels)
    }
}

fn start(command: &[&str]) -> Command {
    let mut started = Command::new(command[0]);
    started.args(&command[1..]);
    started
}

/// Whether a version like `23.2.1` is at least 20.3.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let pair = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    pair >= (20, 3)
}

/// Every manylinux up to glibc 2.28, which torch wants.
fn platforms() -> Vec<String> {
    let modern = (5..=28)
        .rev()
        .map(|minor| format!("--platform=manylinux_2_{minor}_x86_64"));
    let old = ["2014", "2010", "1"].map(|year| format!("--platform=manylinux{year}_x86_64"));
    modern
        .chain(old)
        .chain(["--platform=linux_x86_64".into()])
        .collect()
}

/// Runs pip; it draws its own bar on a terminal and is silent elsewhere, so a line every few seconds says how far it is.
fn run_with_progress(
    pip: &mut Command,
    wheels: &Path,
    temporary: &Path,
    total: Option<u64>,
) -> Result<()> {
    const BETWEEN_LINES: Duration = Duration::from_secs(5);
    // Standard output belongs to what the caller asked for.
    pip.stdin(Stdio::null())
        .stdout(Stdio::from(stderr().as_fd().try_clone_to_owned()?));
    let mut child = pip.spawn().context("starting pip")?;
    let mut last_line = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(100));
        if !stderr().is_terminal() && last_line.elapsed() >= BETWEEN_LINES {
            last_line = Instant::now();
            // pip copies at the end, so for a moment there is more than the whole.
            let so_far = folder_bytes(wheels) + folder_bytes(temporary);
            match total {
                Some(total) => eprintln!(
                    "  {} of {}",
                    cache::size(so_far.min(total)),
                    cache::size(total)
                ),
                None => eprintln!("  {}", cache::size(so_far)),
            }
        }
    };
    if !status.success() {
        bail!("pip ended with {status}");
    }
    Ok(())
}

/// The bytes of all files below `folder`; files that vanish meanwhile count nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_versions_compare_as_numbers() {
        for (version, expected) in [
            ("20.3", true),
            ("20.2.4", false),
            ("9.0.1", false),
            ("100.0", true),
            ("24.1b1", true),
            ("", false),
        ] {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }

    #[test]
    fn platforms_cover_the_tags_of_the_three_wheels() {
        let all = platforms();
        for tag in [
            "manylinux_2_28_x86_64",
            "manylinux_2_25_x86_64",
            "manylinux_2_17_x86_64",
            "manylinux2014_x86_64",
        ] {
            assert!(all.contains(&format!("--platform={tag}")), "{tag}");
        }
    }

    #[test]
    fn folder_bytes_are_summed_through_subfolders() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(folder_bytes(folder.path()), 0);
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("a"), "12").unwrap();
        fs::write(folder.path().join("sub/b"), "345").unwrap();
        assert_eq!(folder_bytes(folder.path()), 5);
        assert_eq!(folder_bytes(&folder.path().join("none")), 0);
    }
}
