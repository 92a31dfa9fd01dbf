//! Wheels: verified by hash, and unpacked in part.

use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal, Read, Write, stderr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::flavour::Flavour;
use crate::cache;

/// SHA-256 of each wheel that a CPU set-up takes; pip has checked the rest against its index.
const PINNED: [(&str, &str); 3] = [
    (
        "nvidia_cuda_cupti-",
        "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
    ),
    (
        "nvidia_cuda_runtime-",
        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    ),
    (
        "torch-",
        "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
    ),
];

/// Compares a wheel with its pinned hash; wheels without a pin pass.
pub(super) fn verify(wheel: &Path) -> Result<()> {
    let name = file_name(wheel);
    let Some((_, expected)) = PINNED.iter().find(|(prefix, _)| name.starts_with(prefix)) else {
        return Ok(());
    };
    verify_against(wheel, expected)
}

fn verify_against(wheel: &Path, expected: &str) -> Result<()> {
    let name = file_name(wheel);
    let mut file = File::open(wheel).with_context(|| format!("opening {}", wheel.display()))?;
    let length = file
        .metadata()
        .with_context(|| format!("reading {}", wheel.display()))?
        .len();
    let bar = progress("verifying", &name, length);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file
            .read(&mut buffer)
            .with_context(|| format!("reading {}", wheel.display()))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        bar.inc(n as u64);
    }
    bar.finish_and_clear();
    let actual: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if actual != expected {
        bail!(
            "{name} has SHA-256 {actual}, expected {expected}: the index that pip asked gave another build of this version, \
             or a damaged one; run `cargo xtask setup` again, and if it stays so, set PIP_INDEX_URL to another index \
             or export LIBTORCH as a folder of libtorch 2.13.0"
        );
    }
    Ok(())
}

/// Where an entry of a wheel goes, below the libtorch folder; `None` leaves it out.
pub(super) fn place(flavour: Flavour, entry: &str) -> Option<PathBuf> {
    if let Some(header) = entry.strip_prefix("torch/include/") {
        return Some(Path::new("include").join(header));
    }
    let (folder, name) = entry.rsplit_once('/')?;
    let is_torch = folder == "torch/lib";
    let is_nvidia = folder.starts_with("nvidia/") && folder.ends_with("/lib");
    let wanted = match flavour {
        Flavour::Cpu => {
            (is_torch
                && (name == "libtorch_cpu.so"
                    || name == "libc10.so"
                    || name.starts_with("libgomp")))
                || (is_nvidia && (name == "libcudart.so.13" || name == "libcupti.so.13"))
        }
        // The libraries find each other by $ORIGIN, so they all lie side by side. The one for Python would want Python.
        Flavour::Cuda => {
            (is_torch || is_nvidia) && name.contains(".so") && name != "libtorch_python.so"
        }
    };
    wanted.then(|| Path::new("lib").join(name))
}

/// Unpacks the entries that `place` gives a path, below `into`.
pub(super) fn unpack(
    wheel: &Path,
    into: &Path,
    place: impl Fn(&str) -> Option<PathBuf>,
) -> Result<()> {
    let name = file_name(wheel);
    let reading = || format!("reading {}", wheel.display());
    let file = File::open(wheel).with_context(reading)?;
    let mut archive = ZipArchive::new(BufReader::new(file)).with_context(reading)?;
    let mut chosen = Vec::new();
    let mut total = 0;
    for i in 0..archive.len() {
        let entry = archive.by_index(i).with_context(reading)?;
        if !entry.is_file() {
            continue;
        }
        // Entries that lead out of the folder have no enclosed name.
        let Some(path) = entry.enclosed_name() else {
            bail!(
                "{name} has an entry that leads out of its folder: {}",
                entry.name().with_context(reading)?
            );
        };
        if let Some(target) = path.to_str().and_then(&place) {
            total += entry.size();
            chosen.push((i, target));
        }
    }
    if chosen.is_empty() {
        return Ok(());
    }
    let bar = progress("unpacking", &name, total);
    for (i, target) in chosen {
        let target = into.join(target);
        let writing = || format!("writing {}", target.display());
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).with_context(writing)?;
        }
        let mut entry = archive.by_index(i).with_context(reading)?;
        let mut file = bar.wrap_write(File::create(&target).with_context(writing)?);
        // Reading to the end also checks the entry's CRC.
        io::copy(&mut entry, &mut file).with_context(writing)?;
        file.flush().with_context(writing)?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// A bar on a terminal, one line elsewhere.
fn progress(what: &'static str, name: &str, bytes: u64) -> ProgressBar {
    if !stderr().is_terminal() {
        eprintln!("{what} {name} ({})", cache::size(bytes));
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{prefix} {msg} [{bar:30}] {bytes} of {total_bytes}, {eta} left",
    );
    ProgressBar::new(bytes)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_prefix(what)
        .with_message(name.to_owned())
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    fn make_wheel(path: &Path, entries: &[(&str, &str)]) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for (name, content) in entries {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(content.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn entries_have_their_places() {
        struct Case {
            entry: &'static str,
            cpu: Option<&'static str>,
            cuda: Option<&'static str>,
        }
        let cases = [
            Case {
                entry: "torch/lib/libtorch_cpu.so",
                cpu: Some("lib/libtorch_cpu.so"),
                cuda: Some("lib/libtorch_cpu.so"),
            },
            Case {
                entry: "torch/lib/libgomp.so.1",
                cpu: Some("lib/libgomp.so.1"),
                cuda: Some("lib/libgomp.so.1"),
            },
            Case {
                entry: "torch/include/ATen/ATen.h",
                cpu: Some("include/ATen/ATen.h"),
                cuda: Some("include/ATen/ATen.h"),
            },
            Case {
                entry: "nvidia/cu13/lib/libcudart.so.13",
                cpu: Some("lib/libcudart.so.13"),
                cuda: Some("lib/libcudart.so.13"),
            },
            // For CUDA only; torch-sys would link torch_cuda wherever it sees it.
            Case {
                entry: "torch/lib/libtorch_cuda.so",
                cpu: None,
                cuda: Some("lib/libtorch_cuda.so"),
            },
            Case {
                entry: "nvidia/cudnn/lib/libcudnn_graph.so.9",
                cpu: None,
                cuda: Some("lib/libcudnn_graph.so.9"),
            },
            // The linker script stands in for it on CPU.
            Case {
                entry: "torch/lib/libtorch.so",
                cpu: None,
                cuda: Some("lib/libtorch.so"),
            },
            Case {
                entry: "torch/lib/libtorch_python.so",
                cpu: None,
                cuda: None,
            },
            Case {
                entry: "torch/nn/functional.py",
                cpu: None,
                cuda: None,
            },
            // Other packages have lib folders as well.
            Case {
                entry: "triton/lib/libcudart.so.13",
                cpu: None,
                cuda: None,
            },
        ];
        for Case { entry, cpu, cuda } in cases {
            assert_eq!(
                place(Flavour::Cpu, entry),
                cpu.map(PathBuf::from),
                "{entry}"
            );
            assert_eq!(
                place(Flavour::Cuda, entry),
                cuda.map(PathBuf::from),
                "{entry}"
            );
        }
    }

    #[test]
    fn only_placed_entries_are_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("torch-0-py3-none-any.whl");
        make_wheel(
            &wheel,
            &[
                ("torch/lib/libtorch_cpu.so", "library"),
                ("torch/include/a/b.h", "header"),
                ("torch/__init__.py", "left out"),
            ],
        );
        let into = folder.path().join("into");
        unpack(&wheel, &into, |entry| place(Flavour::Cpu, entry)).unwrap();
        let read = |path: &str| fs::read_to_string(into.join(path)).unwrap();
        assert_eq!(read("lib/libtorch_cpu.so"), "library");
        assert_eq!(read("include/a/b.h"), "header");
        assert_eq!(fs::read_dir(&into).unwrap().count(), 2);
    }

    #[test]
    fn an_entry_that_leads_out_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("bad.whl");
        make_wheel(&wheel, &[("../outside", "x")]);
        let error = unpack(&wheel, &folder.path().join("into"), |entry| {
            Some(entry.into())
        })
        .unwrap_err();
        assert!(format!("{error:#}").contains("../outside"), "{error:#}");
        assert!(!folder.path().join("outside").exists());
    }

    #[test]
    fn a_damaged_wheel_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("cut.whl");
        make_wheel(&wheel, &[("torch/lib/libc10.so", "0123456789")]);
        let whole = fs::read(&wheel).unwrap();
        fs::write(&wheel, &whole[..whole.len() / 2]).unwrap();
        let error = unpack(&wheel, folder.path(), |entry| Some(entry.into())).unwrap_err();
        assert!(format!("{error:#}").contains("cut.whl"), "{error:#}");
    }

    #[test]
    fn hashes_are_compared() {
        // FIPS 180-2, appendix B.1: SHA-256 of "abc".
        const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.whl");
        fs::write(&file, "abc").unwrap();
        verify_against(&file, ABC).unwrap();
        fs::write(&file, "abd").unwrap();
        let error = verify_against(&file, ABC).unwrap_err().to_string();
        assert!(error.contains("x.whl") && error.contains(ABC), "{error}");
        // By name, so that another build of torch does not slip through.
        let torch = folder
            .path()
            .join("torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl");
        fs::write(&torch, "abc").unwrap();
        assert!(verify(&torch).is_err());
        assert!(verify(&file).is_ok());
    }
}
