//! The images of a run, and their way into the training loop.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use opt_core::InputSpec;
use opt_data::Dataset;
use opt_data::augment::Flip;
use opt_data::batches::{TrainOptions, eval_batches, prefetch, train_batches, train_len};
use opt_data::cifar10::Origin;
use opt_data::source::{Options, Request, resolve};
use opt_nn::{Batch, BatchSource};

use crate::recipe::Train;
use crate::results::{DataSource, DatasetInfo};

/// The images that networks are evaluated on at a time.
const EVALUATION_BATCH: usize = 250;

/// The seed of augmentation: the same for every run, so that a teacher's view serves every student and seed.
const AUGMENT_SEED: u64 = 0;

/// Training and test images with what readers of results must know about them.
#[derive(Debug, Clone)]
pub struct Data {
    /// What training sees.
    pub train: Dataset,
    /// What accuracy is measured on.
    pub test: Dataset,
    /// For `run.json`.
    pub info: DatasetInfo,
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
}

/// Whether [`Data::load`] would have to download the images.
#[must_use]
pub fn would_download(request: &str, root: &Path) -> bool {
    let options = Options::new(root);
    let here = options.data_dir.join(opt_data::cifar10::FOLDER);
    request == "auto" && options.env_dir.is_none() && !here.exists()
}

impl Data {
    /// Finds the images: `auto`, `synthetic` or a folder.
    ///
    /// # Errors
    ///
    /// A source that is broken (never replaced by another), or limits that leave nothing.
    pub fn load(request: &str, root: &Path, limits: Limits) -> Result<Self> {
        let Ok(request) = request.parse::<Request>();
        let mut options = Options::new(root);
        if request == Request::Synthetic {
            options.synthetic_train = limits.train.unwrap_or(options.synthetic_train);
            options.synthetic_test = limits.test.unwrap_or(options.synthetic_test);
        }
        let bar = crate::training::download_bar();
        let resolved = resolve(&request, &options, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })
        .context("finding the images; name a folder with --data DIR, or use --data synthetic")?;
        bar.finish_and_clear();
        let mut train = resolved.splits.train;
        let mut test = resolved.splits.test;
        let hash = format!("sha256:{}+{}", train.sha256(), test.sha256());
        if limits.holdout {
            let first = train.len() / 10 * 9;
            (train, test) = train.split(first, 0)?;
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
        ensure!(!train.is_empty() && !test.is_empty(), "there are no images");
        let info = DatasetInfo {
            name: train.name.clone(),
            source: match resolved.origin {
                Origin::Official => DataSource::Official,
                Origin::Synthetic => DataSource::Synthetic,
                _ => DataSource::Unofficial,
            },
            hash,
            notice: resolved.notice,
            n_train: train.len() as u64,
            n_test: test.len() as u64,
            split,
        };
        Ok(Self { train, test, info })
    }

    /// What a network for these images is fed: their shape and classes, CIFAR-10's published normalisation.
    #[must_use]
    pub fn input(&self) -> InputSpec {
        let mut input = InputSpec::cifar10();
        input.shape = [self.train.channels, self.train.height, self.train.width];
        input.mean.resize(self.train.channels, 0.5);
        input.std.resize(self.train.channels, 0.25);
        input.labels.clone_from(&self.train.classes);
        input
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
        eval_batches(&self.train.subset(&first), batch).map(to_nn)
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
