//! Fetches or links CIFAR-10 or CIFAR-100, or writes the synthetic set, and says what is there.
#![expect(
    clippy::print_stdout,
    reason = "a command line tool reports on standard output"
)]

use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use opt_data::download::{
    Archive, DownloadOptions, Progress, fetch_cifar10, fetch_cifar100, unpack_cifar10,
    unpack_cifar100,
};
use opt_data::synthetic::synthetic;
use opt_data::{DataError, Loaded, Origin, cifar10, cifar100};

/// Brings image data into place and verifies it.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put CIFAR-10 into place: download it, link a local folder, or unpack a local archive; then verify it.
    Cifar10 {
        /// A folder in the CIFAR-10 binary layout, the official archive as a file, or another address of it.
        #[arg(long, value_name = "DIR|FILE|URL")]
        from: Option<String>,
        /// The folder that receives `cifar-10-batches-bin`.
        #[arg(long, value_name = "DIR", default_value = "data")]
        to: PathBuf,
    },
    /// Put CIFAR-100 into place, likewise.
    Cifar100 {
        /// A folder in the CIFAR-100 binary layout, the official archive as a file, or another address of it.
        #[arg(long, value_name = "DIR|FILE|URL")]
        from: Option<String>,
        /// The folder that receives `cifar-100-binary`.
        #[arg(long, value_name = "DIR", default_value = "data")]
        to: PathBuf,
    },
    /// Write the synthetic set in the CIFAR-10 binary layout.
    Synthetic {
        /// The folder that receives `cifar-10-batches-bin`.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// The seed of the images.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// What differs between the sets that can be fetched.
struct Set {
    folder: &'static str,
    files: &'static [&'static str],
    archive: Archive,
    load: fn(&Path) -> Result<Loaded, DataError>,
    fetch: fn(&Archive, &Path, &DownloadOptions, Progress<'_>) -> Result<PathBuf, DataError>,
    unpack: fn(&Archive, &Path, &Path) -> Result<PathBuf, DataError>,
}

fn set_cifar10() -> Set {
    Set {
        folder: cifar10::FOLDER,
        files: &cifar10::FILES,
        archive: Archive::cifar10(),
        load: cifar10::load,
        fetch: fetch_cifar10,
        unpack: unpack_cifar10,
    }
}

fn set_cifar100() -> Set {
    Set {
        folder: cifar100::FOLDER,
        files: &cifar100::FILES,
        archive: Archive::cifar100(),
        load: cifar100::load,
        fetch: fetch_cifar100,
        unpack: unpack_cifar100,
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Cifar10 { from, to } => put(&set_cifar10(), from.as_deref(), &to),
        Command::Cifar100 { from, to } => put(&set_cifar100(), from.as_deref(), &to),
        Command::Synthetic { to, seed } => {
            fs::create_dir_all(&to)
                .with_context(|| format!("could not create the folder {}", to.display()))?;
            let n = cifar10::RECORDS_PER_FILE;
            cifar10::write(
                &to.join(cifar10::FOLDER),
                &synthetic(seed, 5 * n, n),
                Origin::Synthetic,
            )?;
            report(&set_cifar10(), &to)
        }
    }
}

fn put(set: &Set, from: Option<&str>, to: &Path) -> Result<()> {
    let folder = to.join(set.folder);
    let present = fs::symlink_metadata(&folder).is_ok();
    match from {
        Some(path) if !path.contains("://") => {
            let path = Path::new(path);
            if path.is_file() {
                if present {
                    bail!(
                        "{} is there already: delete it first to replace it",
                        folder.display()
                    );
                }
                (set.unpack)(&set.archive, path, to)?;
            } else {
                // Before linking: a folder that cannot be read is not put into place.
                let source = (set.load)(path)?.dir;
                let source = fs::canonicalize(&source)
                    .with_context(|| format!("could not find {}", source.display()))?;
                if !present {
                    fs::create_dir_all(to)
                        .with_context(|| format!("could not create the folder {}", to.display()))?;
                    link(&source, &folder)?;
                } else if fs::canonicalize(&folder).ok().as_ref() != Some(&source) {
                    bail!(
                        "{} is there already and is not {}: delete it first to replace it",
                        folder.display(),
                        source.display()
                    );
                }
            }
        }
        _ if present && from.is_none() => println!("{} is there already", folder.display()),
        _ if present => bail!(
            "{} is there already: delete it first to replace it",
            folder.display()
        ),
        url => {
            let archive = match url {
                Some(url) => Archive {
                    url: url.into(),
                    ..set.archive.clone()
                },
                None => set.archive.clone(),
            };
            download(set, &archive, to)?;
        }
    }
    report(set, to)
}

/// Makes `link` stand for `folder` without copying it.
fn link(folder: &Path, link: &Path) -> Result<()> {
    #[cfg(unix)]
    let result = std::os::unix::fs::symlink(folder, link);
    #[cfg(windows)]
    let result = std::os::windows::fs::symlink_dir(folder, link);
    result.with_context(|| format!("could not link {} to {}", link.display(), folder.display()))
}

fn download(set: &Set, archive: &Archive, to: &Path) -> Result<()> {
    println!(
        "fetching {} ({} MB) to {}",
        archive.url,
        archive.bytes / 1_000_000,
        to.display()
    );
    let mut tenth = 0;
    let bar = if stderr().is_terminal() {
        ProgressBar::new(archive.bytes)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
    )?);
    let plain = bar.is_hidden();
    let result = (set.fetch)(
        archive,
        to,
        &DownloadOptions::default(),
        &mut |done, total| {
            bar.set_position(done);
            if plain && done * 10 / total > tenth {
                tenth = done * 10 / total;
                println!("{} of {} MB", done / 1_000_000, total / 1_000_000);
            }
        },
    );
    bar.finish_and_clear();
    result?;
    Ok(())
}

/// Reads what is there and says what it is.
fn report(set: &Set, to: &Path) -> Result<()> {
    let loaded = (set.load)(to)?;
    let (train, test) = (&loaded.splits.train, &loaded.splits.test);
    let mut lines = vec![
        format!(
            "{}: {} ({})",
            loaded.dir.display(),
            train.name,
            loaded.origin.describe()
        ),
        format!(
            "{} training and {} test images: {}",
            train.len(),
            test.len(),
            train.classes.join(", ")
        ),
    ];
    lines.extend(
        loaded
            .sha256
            .iter()
            .zip(set.files)
            .map(|(hash, name)| format!("{hash}  {name}")),
    );
    lines.push(format!("{}  training images and labels", train.sha256()));
    lines.push(format!("{}  test images and labels", test.sha256()));
    println!("{}", lines.join("\n"));
    Ok(())
}
