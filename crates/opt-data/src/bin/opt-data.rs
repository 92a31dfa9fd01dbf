//! Fetches or links CIFAR-10, or writes the synthetic set, and says what is there.
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
use opt_data::cifar10::{self, FOLDER, Origin};
use opt_data::download::{Archive, DownloadOptions, fetch_cifar10, unpack_cifar10};
use opt_data::synthetic::synthetic;

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

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Cifar10 { from, to } => put_cifar10(from.as_deref(), &to),
        Command::Synthetic { to, seed } => {
            fs::create_dir_all(&to)
                .with_context(|| format!("could not create the folder {}", to.display()))?;
            let n = cifar10::RECORDS_PER_FILE;
            cifar10::write(
                &to.join(FOLDER),
                &synthetic(seed, 5 * n, n),
                Origin::Synthetic,
            )?;
            report(&to)
        }
    }
}

fn put_cifar10(from: Option<&str>, to: &Path) -> Result<()> {
    let folder = to.join(FOLDER);
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
                unpack_cifar10(&Archive::cifar10(), path, to)?;
            } else {
                // Before linking: a folder that cannot be read is not put into place.
                let source = cifar10::load(path)?.dir;
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
                    ..Archive::cifar10()
                },
                None => Archive::cifar10(),
            };
            download(&archive, to)?;
        }
    }
    report(to)
}

/// Makes `link` stand for `folder` without copying it.
fn link(folder: &Path, link: &Path) -> Result<()> {
    #[cfg(unix)]
    let result = std::os::unix::fs::symlink(folder, link);
    #[cfg(windows)]
    let result = std::os::windows::fs::symlink_dir(folder, link);
    result.with_context(|| format!("could not link {} to {}", link.display(), folder.display()))
}

fn download(archive: &Archive, to: &Path) -> Result<()> {
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
    let result = fetch_cifar10(
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
fn report(to: &Path) -> Result<()> {
    let loaded = cifar10::load(to)?;
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
            .zip(cifar10::FILES)
            .map(|(hash, name)| format!("{hash}  {name}")),
    );
    lines.push(format!("{}  training images and labels", train.sha256()));
    lines.push(format!("{}  test images and labels", test.sha256()));
    println!("{}", lines.join("\n"));
    Ok(())
}
