//! The flags that `experiment` and `train` share, and what follows from them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use opt_experiment::data::Data;
use opt_experiment::recipe::{Recipe, Train, check_normalisation};
use opt_experiment::variant::slug;

/// What is trained on, where, and where it goes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The images: `auto` (the folder in `OPT_DATA_DIR`, else CIFAR-10 in data/, else its download, else synthetic ones with
    /// a notice), `cifar100`, `synthetic`, or a folder: of CIFAR-10 (`data_batch_1.bin` … `test_batch.bin`), of CIFAR-100
    /// (`train.bin`, `test.bin`), or of images of your own (`train/CLASS/*.png` or `.jpg`, `test/CLASS/*`).
    #[arg(
        long,
        default_value = "auto",
        value_name = "auto|cifar100|synthetic|DIR"
    )]
    pub(crate) data: String,
    /// The side in pixels of the square that images of your own become [default: 32].
    #[arg(long, value_name = "N")]
    pub(crate) image_size: Option<usize>,
    /// The means per channel, on the scale 0 to 1, that images are normalised with, in place of those of the data and of
    /// recipes: what a checkpoint was trained with. With --std.
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "std")]
    pub(crate) mean: Option<Vec<f32>>,
    /// The standard deviations per channel. With --mean.
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "mean")]
    pub(crate) std: Option<Vec<f32>>,
    /// Where to train: `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Threads of training and measuring on the CPU [default: `OMP_NUM_THREADS`, else all cores]. Another number gives
    /// other roundings, so that a run with it goes its own way. Beside other programs fewer threads can be faster.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// The folder for results [default: experiments/ and a name made of what is run and on which data]. A stopped run goes
    /// on there with the same command, and a changed recipe repeats only what it touches.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Measure on a tenth of the training images and leave the test images alone: for choosing recipes.
    #[arg(long)]
    pub(crate) holdout: bool,
}

/// Sets the normalisation that the command line names, if it does.
pub(crate) fn normalise(recipe: &mut Recipe, common: &Common) -> Result<()> {
    check_normalisation(common.mean.as_deref(), common.std.as_deref())
        .context("in --mean and --std")?;
    if common.mean.is_some() {
        recipe.mean.clone_from(&common.mean);
        recipe.std.clone_from(&common.std);
    }
    Ok(())
}

/// The arithmetic of all phases of training.
pub(crate) fn precision(trains: &[&Train], device: tch::Device) -> String {
    let mut names: Vec<&str> = trains.iter().map(|t| t.precision_name(device)).collect();
    names.retain(|n| !n.is_empty());
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [] => "nothing is trained".to_owned(),
        names => format!("{} NHWC", names.join(" and ")),
    }
}

/// The last part of a path, as text.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A recipe for `run.json`, which names the checkpoint but not the folder that only this machine has.
pub(crate) fn passed_on(recipe: &Recipe) -> Recipe {
    let name = |path: &PathBuf| path.file_name().map(PathBuf::from);
    Recipe {
        weights: recipe.weights.as_ref().and_then(name),
        ..recipe.clone()
    }
}

/// The repository: where `data/` and the commit are.
pub(crate) fn root() -> PathBuf {
    match std::env::var_os("OPT_ROOT") {
        Some(root) => root.into(),
        None => std::env::current_dir().unwrap_or_else(|_| Path::new(".").to_owned()),
    }
}

/// The same for the same command, so that it finds what it left.
pub(crate) fn default_out(parts: &[&str], data: &Data) -> PathBuf {
    let mut name = parts.join(" ").replace(".toml", "");
    name += &format!(" {}", data.info.name);
    if data.holdout {
        name += " holdout";
    }
    Path::new("experiments").join(slug(&name))
}
