//! The libtorch that tch binds: found, or brought from the wheels that pip downloads.

mod flavour;
mod pip;
mod wheel;

pub(crate) use flavour::{Flavour, VERSION};
pub(crate) use pip::Pip;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{cache, workspace};

/// A folder that may be a libtorch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) folder: PathBuf,
    /// As the folder says it, `2.13.0+cu130` included.
    pub(crate) version: Option<String>,
    pub(crate) missing: Vec<&'static str>,
}

impl Found {
    /// Whether tch can be built and linked against it.
    pub(crate) fn is_usable(&self) -> bool {
        self.missing.is_empty() && self.version.as_deref().is_some_and(is_wanted)
    }
}

/// `2.13.0` with any build (`+cpu`, `+cu130`).
fn is_wanted(version: &str) -> bool {
    version.split('+').next() == Some(VERSION)
}

/// What is to be done about libtorch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The user's own LIBTORCH.
    Use(PathBuf),
    /// `.libtorch` is in place.
    Linked(PathBuf),
    /// The user's own LIBTORCH is another version.
    WrongVersion { folder: PathBuf, version: String },
    /// The user's own LIBTORCH is not, or not all of, a libtorch.
    Incomplete {
        folder: PathBuf,
        missing: Vec<&'static str>,
    },
    /// There is none.
    Bring,
}

/// An exported LIBTORCH always counts, for good or ill; `.libtorch` counts where it is sound.
pub(crate) fn decide(exported: Option<Found>, linked: Option<Found>) -> Decision {
    match (exported, linked) {
        (Some(own), _) if !own.missing.is_empty() => Decision::Incomplete {
            folder: own.folder,
            missing: own.missing,
        },
        (Some(own), _) if own.is_usable() => Decision::Use(own.folder),
        (Some(own), _) => Decision::WrongVersion {
            folder: own.folder,
            version: own
                .version
                .unwrap_or_else(|| "of an unknown version".into()),
        },
        (None, Some(link)) if link.is_usable() => Decision::Linked(link.folder),
        (None, _) => Decision::Bring,
    }
}

/// Looks at a folder; a folder that is not there misses everything.
pub(crate) fn inspect(folder: &Path) -> Found {
    const NEEDED: [&str; 5] = [
        "include/torch/csrc/api/include/torch/torch.h",
        "include/ATen/ATen.h",
        "lib/libtorch_cpu.so",
        "lib/libc10.so",
        "lib/libtorch.so",
    ];
    let missing = NEEDED
        .into_iter()
        .filter(|file| !folder.join(file).exists())
        .collect();
    // A wheel's own folder has no build-version, but its headers know.
    let version = fs::read_to_string(folder.join("build-version"))
        .ok()
        .map(|text| text.trim().to_owned())
        .or_else(|| {
            let header =
                fs::read_to_string(folder.join("include/torch/headeronly/version.h")).ok()?;
            version_of_header(&header)
        });
    Found {
        folder: folder.to_path_buf(),
        version,
        missing,
    }
}

/// `2.13.0` from `#define TORCH_VERSION_MAJOR 2` and its siblings.
fn version_of_header(header: &str) -> Option<String> {
    let number = |name: &str| {
        header.lines().find_map(|line| {
            let value = line.strip_prefix("#define ")?.strip_prefix(name)?;
            value.trim().parse::<u32>().ok()
        })
    };
    let major = number("TORCH_VERSION_MAJOR ")?;
    let minor = number("TORCH_VERSION_MINOR ")?;
    let patch = number("TORCH_VERSION_PATCH ")?;
    Some(format!("{major}.{minor}.{patch}"))
}

/// The link that .cargo/config.toml points LIBTORCH at.
pub(crate) fn link() -> PathBuf {
    workspace::root().join(".libtorch")
}

/// The LIBTORCH that the user exported; cargo itself sets it to `.libtorch` where there is none.
pub(crate) fn exported() -> Option<Found> {
    let path = PathBuf::from(std::env::var_os("LIBTORCH")?);
    let is_link = path.file_name() == link().file_name()
        && path.parent().and_then(|parent| parent.canonicalize().ok())
            == workspace::root().canonicalize().ok();
    (!is_link).then(|| inspect(&path))
}

/// `.libtorch`, with the folder that it leads to.
pub(crate) fn linked() -> Option<Found> {
    link().canonicalize().ok().map(|folder| inspect(&folder))
}

/// torch-sys asks Python for its torch instead, and checks the version itself.
pub(crate) fn uses_python() -> bool {
    std::env::var_os("LIBTORCH_USE_PYTORCH").is_some()
}

/// Makes sure that a build can start; takes milliseconds where everything is in place.
pub(crate) fn ensure() -> Result<()> {
    if uses_python() {
        return Ok(());
    }
    match decide(exported(), linked()) {
        Decision::Use(_) | Decision::Linked(_) => Ok(()),
        Decision::Bring => point_link_at(&bring(Flavour::Cpu)?),
        wrong => bail!(complaint(&wrong)),
    }
}

/// Does what `cargo xtask setup` is asked for; returns the folder that builds will use.
pub(crate) fn set_up(flavour: Flavour) -> Result<PathBuf> {
    match decide(exported(), None) {
        Decision::Use(own) => {
            if flavour == Flavour::Cuda && !own.join("lib/libtorch_cuda.so").exists() {
                bail!(
                    "LIBTORCH={} is libtorch {VERSION} without CUDA (no lib/libtorch_cuda.so); \
                     `unset LIBTORCH` and run `cargo xtask setup --cuda` again, or export one that has it",
                    own.display()
                );
            }
            if linked().is_none() {
                point_link_at(&own)?;
            }
            Ok(own)
        }
        Decision::Bring | Decision::Linked(_) => {
            let folder = bring(flavour)?;
            point_link_at(&folder)?;
            Ok(folder)
        }
        wrong => bail!(complaint(&wrong)),
    }
}

/// What is wrong with the user's LIBTORCH, and what to do.
pub(crate) fn complaint(decision: &Decision) -> String {
    let fix = format!(
        "export LIBTORCH as a folder of libtorch {VERSION}, or `unset LIBTORCH` and run `cargo xtask setup`"
    );
    match decision {
        Decision::WrongVersion { folder, version } => format!(
            "LIBTORCH={} is libtorch {version}, but tch needs {VERSION}; {fix}",
            folder.display()
        ),
        Decision::Incomplete { folder, missing } => format!(
            "LIBTORCH={} is not a complete libtorch {VERSION}: no {}; {fix}",
            folder.display(),
            missing.join(", no ")
        ),
        Decision::Use(_) | Decision::Linked(_) => "nothing is wrong with libtorch".into(),
        Decision::Bring => format!("libtorch {VERSION} is not here; run `cargo xtask setup`"),
    }
}

/// The cached folder, made first if need be.
fn bring(flavour: Flavour) -> Result<PathBuf> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!(
            "wheels with libtorch are known for Linux x86-64 only; export LIBTORCH as a folder of libtorch {VERSION} for this machine"
        );
    }
    let cache = cache::folder()?;
    let folder = cache.join(flavour.folder_name());
    let _lock = cache::lock(&cache, &flavour.folder_name())?;
    if inspect(&folder).is_usable() {
        return Ok(folder);
    }
    if let Some(free) = cache::free_bytes(&cache)
        && free < flavour.bytes_needed()
    {
        bail!(
            "{} has {} free, but bringing libtorch takes {}; make room, or export OPT_CACHE_DIR as a folder elsewhere",
            cache.display(),
            cache::size(free),
            cache::size(flavour.bytes_needed())
        );
    }
    eprintln!("{}", flavour.announcement(&folder));
    let part = cache.join(format!("{}.part", flavour.folder_name()));
    // The rest of a set-up that was broken off.
    remove_folder(&part)?;
    let made = make(flavour, &part);
    if let Err(error) = made {
        remove_folder(&part)?;
        return Err(error);
    }
    remove_folder(&folder)?;
    fs::rename(&part, &folder)
        .with_context(|| format!("renaming {} to {}", part.display(), folder.display()))?;
    eprintln!("libtorch {VERSION} is in {}", folder.display());
    Ok(folder)
}

/// Downloads, verifies and unpacks into `part`.
fn make(flavour: Flavour, part: &Path) -> Result<()> {
    let wheels = part.join("wheels");
    fs::create_dir_all(&wheels).with_context(|| format!("creating {}", wheels.display()))?;
    let found = Pip::find()?.download(flavour, &wheels)?;
    for file in &found {
        wheel::verify(file)?;
    }
    for file in &found {
        wheel::unpack(file, part, |entry| wheel::place(flavour, entry))?;
    }
    remove_folder(&wheels)?;
    if flavour == Flavour::Cpu {
        // The wheel's libtorch.so wants the CUDA libraries; torch-sys only wants something to link by that name.
        let script = part.join("lib/libtorch.so");
        fs::write(&script, "INPUT(-ltorch_cpu)\n")
            .with_context(|| format!("writing {}", script.display()))?;
    }
    let version = part.join("build-version");
    fs::write(&version, format!("{VERSION}\n"))
        .with_context(|| format!("writing {}", version.display()))?;
    let made = inspect(part);
    let runtime = ["lib/libcudart.so.13", "lib/libcupti.so.13"];
    let missing: Vec<&str> = made
        .missing
        .iter()
        .copied()
        .chain(runtime.into_iter().filter(|file| !part.join(file).exists()))
        .collect();
    if !missing.is_empty() {
        bail!("the wheels that pip brought lack {}", missing.join(", "));
    }
    Ok(())
}

/// Points `.libtorch` at `folder`, in one step.
fn point_link_at(folder: &Path) -> Result<()> {
    let link = link();
    let before = link.canonicalize().ok();
    if before.is_some() && before == folder.canonicalize().ok() {
        return Ok(());
    }
    if link.symlink_metadata().is_ok_and(|link| !link.is_symlink()) {
        bail!(
            "{} is in the way: it should be a link that set-up makes; move it elsewhere (and export LIBTORCH if it is a libtorch of yours)",
            link.display()
        );
    }
    let fresh = link.with_file_name(format!(".libtorch.{}.part", std::process::id()));
    symlink(folder, &fresh)
        .with_context(|| format!("linking {} to {}", fresh.display(), folder.display()))?;
    fs::rename(&fresh, &link)
        .with_context(|| format!("renaming {} to {}", fresh.display(), link.display()))?;
    let has_cuda = |folder: &Path| folder.join("lib/libtorch_cuda.so").exists();
    if before.is_some_and(|before| has_cuda(&before) != has_cuda(folder)) {
        forget_old_link_flags()?;
    }
    Ok(())
}

/// torch-sys links CUDA where it saw it, and does not look again while LIBTORCH reads the same.
fn forget_old_link_flags() -> Result<()> {
    for profile in ["dev", "release"] {
        let status = workspace::cargo()
            .current_dir(workspace::root())
            .args([
                "clean",
                "--quiet",
                "--package",
                "torch-sys",
                "--profile",
                profile,
            ])
            .status()
            .context("starting cargo clean")?;
        if !status.success() {
            bail!(
                "`cargo clean --package torch-sys --profile {profile}` failed; run `cargo clean`"
            );
        }
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(folder: &str, version: Option<&str>, missing: &[&'static str]) -> Found {
        Found {
            folder: folder.into(),
            version: version.map(str::to_owned),
            missing: missing.to_vec(),
        }
    }

    #[test]
    fn decisions() {
        struct Case {
            exported: Option<Found>,
            linked: Option<Found>,
            expected: Decision,
        }
        let sound_link = || Some(found("/link", Some("2.13.0"), &[]));
        let cases = [
            // A fresh clone.
            Case {
                exported: None,
                linked: None,
                expected: Decision::Bring,
            },
            Case {
                exported: None,
                linked: sound_link(),
                expected: Decision::Linked("/link".into()),
            },
            // The cache was emptied in part, or tch moved on since.
            Case {
                exported: None,
                linked: Some(found("/link", Some("2.13.0"), &["lib/libc10.so"])),
                expected: Decision::Bring,
            },
            Case {
                exported: None,
                linked: Some(found("/link", Some("2.12.0"), &[])),
                expected: Decision::Bring,
            },
            // The user's own goes before the link, whatever its build.
            Case {
                exported: Some(found("/own", Some("2.13.0+cu130"), &[])),
                linked: sound_link(),
                expected: Decision::Use("/own".into()),
            },
            // A wrong one of the user's own is never passed over in silence.
            Case {
                exported: Some(found("/own", Some("2.12.1+cpu"), &[])),
                linked: sound_link(),
                expected: Decision::WrongVersion {
                    folder: "/own".into(),
                    version: "2.12.1+cpu".into(),
                },
            },
            // Not a prefix match.
            Case {
                exported: Some(found("/own", Some("2.13.01"), &[])),
                linked: None,
                expected: Decision::WrongVersion {
                    folder: "/own".into(),
                    version: "2.13.01".into(),
                },
            },
            Case {
                exported: Some(found("/own", None, &[])),
                linked: None,
                expected: Decision::WrongVersion {
                    folder: "/own".into(),
                    version: "of an unknown version".into(),
                },
            },
            Case {
                exported: Some(found("/own", Some("2.13.0"), &["lib/libtorch_cpu.so"])),
                linked: sound_link(),
                expected: Decision::Incomplete {
                    folder: "/own".into(),
                    missing: vec!["lib/libtorch_cpu.so"],
                },
            },
        ];
        for case in cases {
            let described = format!("{:?} {:?}", case.exported, case.linked);
            assert_eq!(
                decide(case.exported, case.linked),
                case.expected,
                "{described}"
            );
        }
    }

    #[test]
    fn what_is_brought_is_announced_with_its_size_and_place() {
        let text = Flavour::Cpu.announcement(Path::new("/cache/libtorch-2.13.0-cpu"));
        for part in [
            VERSION,
            "540 MB",
            "486 MB",
            "/cache/libtorch-2.13.0-cpu",
            "once",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        let text = Flavour::Cuda.announcement(Path::new("/cache/libtorch-2.13.0-cuda"));
        assert!(text.contains("CUDA") && text.contains("GB"), "{text}");
    }

    #[test]
    fn a_complaint_names_both_versions_and_the_folder() {
        let text = complaint(&decide(Some(found("/own", Some("2.12.1"), &[])), None));
        for part in ["/own", "2.12.1", VERSION, "unset LIBTORCH"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn a_folder_is_read_by_its_files() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(inspect(folder.path()).missing.len(), 5);
        assert_eq!(inspect(folder.path()).version, None);
        for file in inspect(folder.path()).missing {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let header = folder.path().join("include/torch/headeronly/version.h");
        fs::create_dir_all(header.parent().unwrap()).unwrap();
        fs::write(
            header,
            "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 13\n#define TORCH_VERSION_PATCH 0\n",
        )
        .unwrap();
        assert!(inspect(folder.path()).is_usable());
        // What build-version says goes before the headers.
        fs::write(folder.path().join("build-version"), "2.11.0+cpu\n").unwrap();
        assert_eq!(
            inspect(folder.path()).version.as_deref(),
            Some("2.11.0+cpu")
        );
        assert!(!inspect(folder.path()).is_usable());
    }
}
