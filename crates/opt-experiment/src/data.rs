//! The images of a run, and their way into the training loop.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use opt_core::{InputSpec, Preparation, Task};
use opt_data::augment::Flip;
use opt_data::batches::{
    TrainOptions, epoch_order, eval_batches, prefetch, train_batches, train_len,
};
use opt_data::source::{Kind, Options, Request, resolve};
use opt_data::{Dataset, Origin, cifar10, cifar100, image_folder};
use opt_nn::{Batch, BatchSource};
use opt_report::{DataSource, DatasetInfo};

use crate::identity::{Ingredient, fields};
use crate::recipe::{Recipe, Train};

/// The images that networks are evaluated on at a time.
const EVALUATION_BATCH: usize = 250;

/// The seed of the one order in which images of folders are kept.
const FOLDER_ORDER_SEED: u64 = 0;

/// The seed of augmentation: the same for every run, so that a teacher's view serves every student and seed.
const AUGMENT_SEED: u64 = 0;

/// Training and test images with what readers of results must know about them.
#[derive(Debug, Clone)]
pub struct Data {
    /// What training sees.
    pub train: Dataset,
    /// What accuracy is measured on.
    pub test: Dataset,
    /// Whether accuracy is measured on held-out training images.
    pub holdout: bool,
    /// A hash of the training images and labels that are used.
    pub train_hash: String,
    /// A hash of the test images and labels that are used.
    pub test_hash: String,
    /// For `run.json`.
    pub info: DatasetInfo,
    /// Mean and standard deviation of each channel that a network for these images normalises with.
    pub normalisation: Normalisation,
    /// How the images came from their files; for the CIFAR sets, how an image file becomes one like theirs.
    pub preparation: Preparation,
}

/// Mean and standard deviation per channel, on the scale 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalisation {
    /// The means.
    pub mean: Vec<f32>,
    /// The deviations.
    pub std: Vec<f32>,
}

impl Normalisation {
    /// What published CIFAR-10 checkpoints use.
    fn cifar10() -> Self {
        let InputSpec { mean, std, .. } = Task::cifar10().input;
        Self { mean, std }
    }

    /// What published CIFAR-100 checkpoints use: the statistics of its training images.
    fn cifar100() -> Self {
        Self {
            mean: vec![0.5071, 0.4865, 0.4409],
            std: vec![0.2673, 0.2564, 0.2762],
        }
    }

    /// The statistics of `images`; a channel that never varies is divided by 1.
    fn of(images: &Dataset) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "networks normalise in f32")]
        let (mean, std) = (images.channel_stats().iter())
            .map(|c| (c.mean as f32, if c.std > 0.0 { c.std as f32 } else { 1.0 }))
            .unzip();
        Self { mean, std }
    }
}

/// Which part of the data is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Only the first so many training images.
    pub train: Option<usize>,
    /// Only the first so many test images.
    pub test: Option<usize>,
    /// Trains on nine tenths of the training images and measures on the rest; the test images stay unseen.
    pub holdout: bool,
    /// The side of the square that images of a folder become; 32 if absent.
    pub image_size: Option<usize>,
    /// Rows, columns and preparation of images of a folder, as a network that is there already has them; in place of what
    /// is usual for a size.
    pub prepared: Option<([usize; 2], Preparation)>,
}

/// What [`Data::load`] would have to download, in words, with the task of a network for it; `None` if nothing.
#[must_use]
pub fn to_download(request: &str, root: &Path) -> Option<(&'static str, Task)> {
    to_download_with(request, &Options::new(root))
}

fn to_download_with(request: &str, options: &Options) -> Option<(&'static str, Task)> {
    let absent = |folder| !options.data_dir.join(folder).exists();
    match request {
        "auto" if absent(cifar10::FOLDER) && options.env_dir.is_none() => {
            Some(("CIFAR-10 (170 MB)", Task::cifar10()))
        }
        "cifar100" if absent(cifar100::FOLDER) && options.named_cifar100().is_none() => {
            let Normalisation { mean, std } = Normalisation::cifar100();
            let labels = cifar100::CLASSES.map(str::to_owned).to_vec();
            let shape = [3, 32, 32];
            let input = InputSpec {
                shape,
                mean,
                std,
                preparation: Preparation::usual(shape),
            };
            Some(("CIFAR-100 (169 MB)", Task { input, labels }))
        }
        _ => None,
    }
}

/// A bar for bytes of the data set `what`.
fn download_bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_message(what);
    let template = "downloading {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} left {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

impl Data {
    /// Finds the images: `auto`, `cifar100`, `synthetic` or a folder.
    ///
    /// Image folders are normalised with the statistics of all their training images, whatever the limits.
    ///
    /// # Errors
    ///
    /// A source that is broken (never replaced by another), limits that leave nothing, or an image size for a set that
    /// has its own.
    pub fn load(request: &str, root: &Path, limits: Limits) -> Result<Self> {
        let Ok(request) = request.parse::<Request>();
        let mut options = Options::new(root);
        if request == Request::Synthetic {
            options.synthetic_train = limits.train.unwrap_or(options.synthetic_train);
            options.synthetic_test = limits.test.unwrap_or(options.synthetic_test);
        }
        if let Some(size) = limits.image_size {
            options.image_folder = image_folder::Options::of_side(size);
        }
        if let Some((size, preparation)) = limits.prepared {
            ensure!(
                limits.image_size.is_none_or(|side| size == [side; 2]),
                "--image-size is {}, but the network reads {}×{}: leave it out",
                limits.image_size.unwrap_or_default(),
                size[0],
                size[1]
            );
            options.image_folder.size = size;
            options.image_folder.preparation = preparation;
        }
        let bar = download_bar(match request {
            Request::Cifar100 => "CIFAR-100",
            _ => "CIFAR-10",
        });
        let resolved = resolve(&request, &options, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })
        .context("finding the images; name a folder with --data DIR, or use --data synthetic")?;
        bar.finish_and_clear();
        ensure!(
            resolved.kind == Kind::ImageFolder || limits.image_size.is_none_or(|size| size == 32),
            "--image-size is for folders of image files; the images of {} are 32×32: leave it out",
            resolved.splits.train.name
        );
        let normalisation = match resolved.kind {
            Kind::Cifar10 => Normalisation::cifar10(),
            Kind::Cifar100 => Normalisation::cifar100(),
            Kind::ImageFolder => Normalisation::of(&resolved.splits.train),
        };
        let preparation = match resolved.kind {
            Kind::Cifar10 | Kind::Cifar100 => Preparation::usual([3, 32, 32]),
            Kind::ImageFolder => options.image_folder.preparation,
        };
        let mut train = resolved.splits.train;
        let mut test = resolved.splits.test;
        let hash = format!("sha256:{}+{}", train.sha256(), test.sha256());
        if limits.holdout {
            let first = train.len() * 9 / 10;
            ensure!(
                first > 0,
                "--holdout takes a tenth of the training images for measuring, and there is only {}: leave it out",
                train.len()
            );
            (train, test) = train.split(first, 0)?;
        }
        if resolved.kind == Kind::ImageFolder {
            // They come class by class; whoever takes the first images must not get one class.
            for set in [&mut train, &mut test] {
                let order = epoch_order(FOLDER_ORDER_SEED, 0, set.len());
                let order: Vec<usize> = order.into_iter().map(|i| i as usize).collect();
                *set = set.subset(&order);
            }
        }
        let cut = |set: &mut Dataset, limit: Option<usize>| {
            if let Some(n) = limit.filter(|n| *n < set.len()) {
                *set = set.subset(&(0..n).collect::<Vec<_>>());
            }
        };
        cut(&mut train, limits.train);
        cut(&mut test, limits.test);
        let split = if limits.holdout {
            format!(
                "{} training images; accuracy on {} others of the training images, test images not used",
                train.len(),
                test.len()
            )
        } else {
            format!(
                "{} training images; {} test images, looked at once for each variant, after its last epoch",
                train.len(),
                test.len()
            )
        };
        let split = match resolved.split {
            Some(how) => format!("{split}; {how}"),
            None => split,
        };
        ensure!(!train.is_empty() && !test.is_empty(), "there are no images");
        let info = DatasetInfo {
            name: train.name.clone(),
            source: match resolved.origin {
                Origin::Official => DataSource::Official,
                Origin::Synthetic => DataSource::Synthetic,
                _ if resolved.kind == Kind::ImageFolder => DataSource::Own,
                _ => DataSource::Unofficial,
            },
            hash,
            notice: resolved.notice,
            n_train: train.len() as u64,
            n_test: test.len() as u64,
            split,
        };
        Ok(Self {
            holdout: limits.holdout,
            train_hash: train.sha256(),
            test_hash: test.sha256(),
            train,
            test,
            info,
            normalisation,
            preparation,
        })
    }

    /// What a network for these images is fed, and what it tells apart: their shape, normalisation and classes.
    #[must_use]
    pub fn task(&self) -> Task {
        Task {
            input: InputSpec {
                shape: [self.train.channels, self.train.height, self.train.width],
                mean: self.normalisation.mean.clone(),
                std: self.normalisation.std.clone(),
                preparation: self.preparation,
            },
            labels: self.train.classes.clone(),
        }
    }

    /// [`Self::task`], normalised as the recipe says.
    ///
    /// # Errors
    ///
    /// Means and deviations for another number of channels than the images have.
    pub fn task_for(&self, recipe: &Recipe) -> Result<Task> {
        let mut task = self.task();
        let input = &mut task.input;
        for (what, wish, value) in [
            ("mean", &recipe.mean, &mut input.mean),
            ("std", &recipe.std, &mut input.std),
        ] {
            if let Some(wish) = wish {
                ensure!(
                    wish.len() == value.len(),
                    "{what} of the recipe `{}` has {} numbers, expected {}: one for each channel of the images",
                    recipe.name,
                    wish.len(),
                    value.len()
                );
                value.clone_from(wish);
            }
        }
        Ok(task)
    }

    /// Says with what the images are normalised, where that is not what published networks for the data use.
    #[must_use]
    pub fn normalisation_notes(&self, recipes: &[Recipe]) -> Vec<String> {
        let numbers = |numbers: &[f32]| -> String {
            let texts: Vec<String> = numbers.iter().map(|n| format!("{n:.4}")).collect();
            texts.join(", ")
        };
        let mut notes: Vec<String> = (recipes.iter())
            .filter_map(|recipe| {
                let (mean, std) = (recipe.mean.as_ref()?, recipe.std.as_ref()?);
                Some(format!(
                    "{}: images are normalised with mean {} and deviation {}, as the recipe says",
                    recipe.name,
                    numbers(mean),
                    numbers(std)
                ))
            })
            .collect();
        if self.info.source == DataSource::Own && notes.len() < recipes.len() {
            let Normalisation { mean, std } = &self.normalisation;
            let mut note = format!(
                "images are normalised with mean {} and deviation {}: those of the training images",
                numbers(mean),
                numbers(std)
            );
            if let Some(recipe) = (recipes.iter()).find(|r| r.weights.is_some() && r.mean.is_none())
            {
                note += &format!(
                    "; if the checkpoint of {} was trained with others, give those (--mean and --std, or `mean` and `std` in the \
                     recipe)",
                    recipe.name
                );
            }
            notes.push(note);
        }
        notes
    }

    /// The batches of a phase of training.
    #[must_use]
    pub fn training(&self, train: &Train, seed: u64) -> Loader {
        let mut augment = train.augmentation(self.train.channels);
        if self.info.source == DataSource::Synthetic {
            // A mirror image of one synthetic class is another class.
            augment.flip = Flip::None;
        }
        let options = TrainOptions {
            batch_size: train.batch,
            order_seed: seed,
            augment_seed: AUGMENT_SEED,
            augment,
            drop_last: false,
        };
        Loader::new(self.train.clone(), options)
    }

    /// The test images, in order.
    pub fn test_batches(&self) -> impl Iterator<Item = Batch> {
        eval_batches(&self.test, EVALUATION_BATCH).map(to_nn)
    }

    /// The first `n` training images, as they are.
    pub fn calibration(&self, n: usize, batch: usize) -> impl Iterator<Item = Batch> + use<> {
        let first: Vec<usize> = (0..n.min(self.train.len())).collect();
        self.chosen(&first, batch)
    }

    /// The training images of these indices, as they are.
    pub fn chosen(&self, indices: &[usize], batch: usize) -> impl Iterator<Item = Batch> + use<> {
        eval_batches(&self.train.subset(indices), batch).map(to_nn)
    }
}

/// Training batches, made on a thread of their own.
#[derive(Debug, Clone)]
pub struct Loader {
    dataset: Dataset,
    options: TrainOptions,
    /// The number of the first epoch in the stream of orders and variations: a later phase goes on where the one before
    /// it ended.
    pub first_epoch: usize,
}

impl Loader {
    /// The batches of `dataset`.
    #[must_use]
    pub fn new(dataset: Dataset, options: TrainOptions) -> Self {
        Self {
            dataset,
            options,
            first_epoch: 0,
        }
    }

    /// What the batches follow from beside the images themselves.
    #[must_use]
    pub fn identity(&self) -> impl Ingredient + use<> {
        fields("loader")
            .with("batches", &self.options)
            .with("first_epoch", self.first_epoch)
    }
}

impl BatchSource for Loader {
    fn epoch(&self, epoch: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        let epoch = (self.first_epoch + epoch) as u64;
        let batches = train_batches(&self.dataset, &self.options, epoch);
        Box::new(prefetch(batches, 4).map(to_nn))
    }

    fn batches_per_epoch(&self) -> usize {
        train_len(self.dataset.len(), &self.options)
    }
}

fn to_nn(batch: opt_data::batches::Batch) -> Batch {
    Batch {
        images: batch.images,
        labels: batch.labels,
        indices: batch.indices,
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};
    use opt_data::synthetic::synthetic;

    use super::*;

    #[test]
    fn image_folders_are_normalised_with_their_training_images() {
        let root = tempfile::tempdir().unwrap();
        // Red: 0 and 255 in equal parts; green: always 51, a fifth; blue: 0, 0, 0, 255.
        for (path, colour) in [
            ("train/a/0.png", [0, 51, 0]),
            ("train/a/1.png", [255, 51, 0]),
            ("train/b/0.png", [0, 51, 0]),
            ("train/b/1.png", [255, 51, 255]),
            ("test/a/0.png", [9, 9, 9]),
            ("test/b/0.png", [9, 9, 9]),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            RgbImage::from_pixel(5, 7, Rgb(colour)).save(path).unwrap();
        }
        // The limit changes what is trained on, not what the statistics are of.
        let limits = Limits {
            train: Some(1),
            image_size: Some(4),
            ..Limits::default()
        };
        let data = Data::load(root.path().to_str().unwrap(), root.path(), limits).unwrap();
        let Task { input, labels } = data.task();
        assert_eq!((input.shape, data.train.len()), ([3, 4, 4], 1));
        assert_eq!(input.preparation, Preparation::usual([3, 4, 4]));
        assert_eq!(labels, ["a", "b"]);
        assert_eq!(input.mean, [0.5, 0.2, 0.25]);
        // √(¼), none, √(3/16).
        assert_eq!(input.std, [0.5, 1.0, 0.1875f32.sqrt()]);
        assert_eq!(data.info.source, DataSource::Own);
        assert!(data.info.split.ends_with("; folders train and test"));
    }

    #[test]
    fn a_recipe_says_what_its_checkpoint_was_normalised_with() {
        let limits = Limits {
            train: Some(10),
            test: Some(10),
            ..Limits::default()
        };
        let mut data = Data::load("synthetic", Path::new("."), limits).unwrap();
        let recipe = |more: &str| -> Recipe {
            let text = format!(
                "name = \"r\"\nmodel = \"resnet20\"\n{more}\n[train]\nepochs = 1\nlr = 0.1"
            );
            toml::from_str(&text).unwrap()
        };
        let plain = recipe("weights = \"a.safetensors\"");
        let own = recipe("mean = [0.5, 0.25, 0.125]\nstd = [0.5, 0.5, 1]");
        assert_eq!(data.task_for(&plain).unwrap(), data.task());
        let input = data.task_for(&own).unwrap().input;
        assert_eq!(input.mean, [0.5, 0.25, 0.125]);
        assert_eq!(input.std, [0.5, 0.5, 1.0]);
        let error = data
            .task_for(&recipe("mean = [0.5]\nstd = [0.5]"))
            .unwrap_err();
        assert!(
            error.to_string().contains("1 numbers, expected 3"),
            "{error}"
        );
        // A published set with its published normalisation needs no words.
        assert!(
            data.normalisation_notes(std::slice::from_ref(&plain))
                .is_empty()
        );
        let notes = data.normalisation_notes(&[plain.clone(), own.clone()]);
        assert_eq!(notes.len(), 1);
        assert!(
            notes[0].contains("r: images are normalised with mean 0.5000, 0.2500, 0.1250 and deviation 0.5000, 0.5000, 1.0000"),
            "{notes:?}"
        );
        // Images of one's own always say it, and what a checkpoint may need.
        data.info.source = DataSource::Own;
        let notes = data.normalisation_notes(&[plain]);
        assert!(
            notes[0].contains(
                "those of the training images; if the checkpoint of r was trained with others"
            ),
            "{notes:?}"
        );
        assert_eq!(data.normalisation_notes(&[own]).len(), 1);
    }

    #[test]
    fn published_sets_keep_their_published_normalisation() {
        let limits = Limits {
            train: Some(10),
            test: Some(10),
            ..Limits::default()
        };
        let data = Data::load("synthetic", Path::new("."), limits).unwrap();
        let mut expected = Task::cifar10();
        expected.labels = synthetic(1, 0, 0).train.classes;
        assert_eq!(data.task(), expected);
        // Nothing is below this folder and no folder is named, so CIFAR-100 would be fetched.
        let options = Options {
            env_dir: None,
            ..Options::new(Path::new("/nonexistent"))
        };
        let (what, Task { input, labels }) = to_download_with("cifar100", &options).unwrap();
        assert!(what.starts_with("CIFAR-100"));
        assert_eq!(input.mean, [0.5071, 0.4865, 0.4409]);
        assert_eq!(input.std, [0.2673, 0.2564, 0.2762]);
        assert_eq!(labels.len(), 100);
        assert!(to_download_with("synthetic", &options).is_none());
    }
}
