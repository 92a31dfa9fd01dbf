//! Batches for training (shuffled, augmented) and for evaluation (in order, as they are).

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use crate::Dataset;
use crate::augment::{AugmentConfig, augment_into};
use crate::random::{Domain, shuffle, stream};

/// Holds consecutive images of an epoch.
///
/// # Shapes
///
/// `images` is B×C×H×W; `labels` and `indices` have B entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The pixels, B×C×H×W.
    pub images: Vec<u8>,
    /// The class of each image.
    pub labels: Vec<i64>,
    /// The position of each image in the set.
    pub indices: Vec<u32>,
}

/// Says how training batches are made.
///
/// The two seeds are separate so that several runs, which differ in `order_seed`, can see the same variations of each
/// image, and one teacher's outputs serve them all.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// The number of images in a batch.
    pub batch_size: usize,
    /// The seed of the order of images; belongs to the run.
    pub order_seed: u64,
    /// The seed of the variations of images.
    pub augment_seed: u64,
    /// The kind of variations.
    pub augment: AugmentConfig,
    /// Whether an incomplete last batch is left out.
    pub drop_last: bool,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            batch_size: 128,
            order_seed: 0,
            augment_seed: 0,
            augment: AugmentConfig::default(),
            drop_last: false,
        }
    }
}

/// Returns the order in which epoch `epoch` visits `n` images.
///
/// ```
/// let mut order = opt_data::batches::epoch_order(1, 0, 5);
/// order.sort();
/// assert_eq!(order, [0, 1, 2, 3, 4]);
/// ```
///
/// # Panics
///
/// If `n` is 2³² or more.
pub fn epoch_order(seed: u64, epoch: u64, n: usize) -> Vec<u32> {
    let n = u32::try_from(n).expect("sets have fewer than 2^32 images");
    let mut order: Vec<u32> = (0..n).collect();
    shuffle(&mut stream(Domain::EpochOrder, seed, epoch, 0), &mut order);
    order
}

/// Returns the number of batches in an epoch over `n` images.
pub fn train_len(n: usize, options: &TrainOptions) -> usize {
    if options.drop_last {
        n / options.batch_size
    } else {
        n.div_ceil(options.batch_size)
    }
}

/// Iterates over the batches of one training epoch.
///
/// ```
/// use opt_data::batches::{TrainOptions, prefetch, train_batches};
///
/// let set = opt_data::synthetic::synthetic(1, 10, 0).train;
/// let options = TrainOptions { batch_size: 4, ..TrainOptions::default() };
/// let sizes: Vec<usize> = prefetch(train_batches(&set, &options, 0), 2).map(|b| b.labels.len()).collect();
/// assert_eq!(sizes, [4, 4, 2]);
/// ```
///
/// # Panics
///
/// If the batch size is 0; while iterating, where [`augment_into`] does.
#[track_caller]
pub fn train_batches(
    dataset: &Dataset,
    options: &TrainOptions,
    epoch: u64,
) -> impl Iterator<Item = Batch> + Send + use<> {
    let (dataset, options) = (dataset.clone(), options.clone());
    assert!(options.batch_size > 0, "a batch holds at least one image");
    let order = epoch_order(options.order_seed, epoch, dataset.len());
    let count = train_len(dataset.len(), &options);
    (0..count).map(move |batch| {
        let start = batch * options.batch_size;
        let indices = &order[start..order.len().min(start + options.batch_size)];
        gather(&dataset, indices, |sample, output| {
            augment_into(
                &dataset,
                sample,
                &options.augment,
                options.augment_seed,
                epoch,
                output,
            );
        })
    })
}

/// Iterates over the whole set in its order, without variations; the last batch may be smaller.
///
/// # Panics
///
/// If the batch size is 0 or the set has 2³² images or more.
#[track_caller]
pub fn eval_batches(
    dataset: &Dataset,
    batch_size: usize,
) -> impl Iterator<Item = Batch> + Send + use<> {
    assert!(batch_size > 0, "a batch holds at least one image");
    let dataset = dataset.clone();
    let n = u32::try_from(dataset.len()).expect("sets have fewer than 2^32 images");
    (0..n).step_by(batch_size).map(move |start| {
        let indices: Vec<u32> = (start..n).take(batch_size).collect();
        gather(&dataset, &indices, |sample, output| {
            output.copy_from_slice(dataset.image(sample))
        })
    })
}

/// Collects the images `indices`, each written by `write`, into a batch.
fn gather(dataset: &Dataset, indices: &[u32], mut write: impl FnMut(usize, &mut [u8])) -> Batch {
    let len = dataset.image_len();
    let mut images = vec![0; indices.len() * len];
    for (&index, output) in indices.iter().zip(images.chunks_exact_mut(len.max(1))) {
        write(index as usize, output);
    }
    Batch {
        images,
        labels: indices
            .iter()
            .map(|&index| i64::from(dataset.labels[index as usize]))
            .collect(),
        indices: indices.to_vec(),
    }
}

/// Makes batches on a thread of its own, at most `depth` ahead of the consumer; the content stays the same.
///
/// Dropping the result ends the thread and waits for it.
///
/// # Panics
///
/// While iterating, where `batches` does; if no thread can be started.
pub fn prefetch(batches: impl Iterator<Item = Batch> + Send + 'static, depth: usize) -> Prefetch {
    let (sender, receiver) = sync_channel(depth);
    let worker = thread::Builder::new()
        .name("opt-data-prefetch".into())
        .spawn(move || {
            for batch in batches {
                if sender.send(batch).is_err() {
                    break;
                }
            }
        })
        .expect("a thread for batches can be started");
    Prefetch {
        receiver: Some(receiver),
        worker: Some(worker),
    }
}

/// Receives the batches of [`prefetch`].
#[derive(Debug)]
pub struct Prefetch {
    receiver: Option<Receiver<Batch>>,
    worker: Option<JoinHandle<()>>,
}

impl Iterator for Prefetch {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if let Some(batch) = self
            .receiver
            .as_ref()
            .and_then(|receiver| receiver.recv().ok())
        {
            return Some(batch);
        }
        if let Some(worker) = self.worker.take()
            && let Err(panic) = worker.join()
        {
            resume_unwind(panic);
        }
        None
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // The channel must close first: a worker that waits for room in it would never end.
        drop(self.receiver.take());
        if let Some(worker) = self.worker.take() {
            // A panic that nobody iterated to is not raised here: panicking in a drop may abort the process.
            drop(worker.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Crop, Flip};
    use crate::synthetic::synthetic;

    fn options(batch_size: usize) -> TrainOptions {
        TrainOptions {
            batch_size,
            order_seed: 3,
            augment_seed: 4,
            ..TrainOptions::default()
        }
    }

    #[test]
    fn epoch_order_is_a_seeded_permutation() {
        let order = epoch_order(1, 2, 1000);
        assert_eq!(order, epoch_order(1, 2, 1000));
        assert_ne!(order, epoch_order(1, 3, 1000));
        assert_ne!(order, epoch_order(2, 2, 1000));
        let mut sorted = order;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert!(epoch_order(1, 2, 0).is_empty());
    }

    #[test]
    fn training_visits_every_image_once() {
        let set = synthetic(1, 23, 0).train;
        struct Case {
            drop_last: bool,
            batch_size: usize,
            sizes: &'static [usize],
        }
        let cases = [
            // The last batch is incomplete.
            Case {
                drop_last: false,
                batch_size: 10,
                sizes: &[10, 10, 3],
            },
            // The incomplete batch is left out.
            Case {
                drop_last: true,
                batch_size: 10,
                sizes: &[10, 10],
            },
            // One batch holds everything.
            Case {
                drop_last: true,
                batch_size: 23,
                sizes: &[23],
            },
            // A batch larger than the set.
            Case {
                drop_last: false,
                batch_size: 50,
                sizes: &[23],
            },
            Case {
                drop_last: true,
                batch_size: 50,
                sizes: &[],
            },
        ];
        for Case {
            drop_last,
            batch_size,
            sizes,
        } in cases
        {
            let options = TrainOptions {
                drop_last,
                ..options(batch_size)
            };
            let batches: Vec<Batch> = train_batches(&set, &options, 0).collect();
            assert_eq!(
                batches.iter().map(|b| b.labels.len()).collect::<Vec<_>>(),
                sizes
            );
            assert_eq!(train_len(set.len(), &options), sizes.len());
            let visited: Vec<u32> = batches.iter().flat_map(|b| b.indices.clone()).collect();
            assert_eq!(visited, epoch_order(3, 0, 23)[..visited.len()]);
            for batch in &batches {
                for (&index, &label) in batch.indices.iter().zip(&batch.labels) {
                    assert_eq!(label, i64::from(set.labels[index as usize]));
                }
            }
        }
    }

    #[test]
    fn variations_do_not_depend_on_the_order() {
        let set = synthetic(1, 12, 0).train;
        let by_index = |order_seed, batch_size| {
            let mut images: Vec<(u32, Vec<u8>)> = train_batches(
                &set,
                &TrainOptions {
                    order_seed,
                    ..options(batch_size)
                },
                5,
            )
            .flat_map(|b| {
                let images: Vec<Vec<u8>> = b.images.chunks(3072).map(<[u8]>::to_vec).collect();
                b.indices.into_iter().zip(images)
            })
            .collect();
            images.sort();
            images
        };
        assert_eq!(by_index(1, 4), by_index(2, 5));
    }

    #[test]
    fn evaluation_keeps_order_and_bytes() {
        let set = synthetic(1, 7, 0).train;
        let batches: Vec<Batch> = eval_batches(&set, 3).collect();
        assert_eq!(
            batches
                .iter()
                .map(|b| b.indices.clone())
                .collect::<Vec<_>>(),
            [vec![0, 1, 2], vec![3, 4, 5], vec![6]]
        );
        assert_eq!(
            batches
                .iter()
                .flat_map(|b| b.images.clone())
                .collect::<Vec<_>>(),
            *set.images
        );
        assert_eq!(eval_batches(&set.subset(&[]), 3).count(), 0);
    }

    #[test]
    fn no_augmentation_leaves_the_bytes() {
        let set = synthetic(1, 7, 0).train;
        let augment = AugmentConfig {
            crop: Crop::None,
            flip: Flip::None,
        };
        for batch in train_batches(
            &set,
            &TrainOptions {
                augment,
                ..options(3)
            },
            0,
        ) {
            for (&index, image) in batch.indices.iter().zip(batch.images.chunks(3072)) {
                assert_eq!(image, set.image(index as usize));
            }
        }
    }

    #[test]
    fn prefetch_changes_nothing() {
        let set = synthetic(1, 40, 0).train;
        let plain: Vec<Batch> = train_batches(&set, &options(3), 1).collect();
        for depth in [0, 1, 4, 100] {
            assert_eq!(
                prefetch(train_batches(&set, &options(3), 1), depth).collect::<Vec<_>>(),
                plain
            );
        }
    }

    #[test]
    fn prefetch_ends_when_dropped_half_way() {
        let set = synthetic(1, 40, 0).train;
        let weak = std::sync::Arc::downgrade(&set.images);
        let mut batches = prefetch(train_batches(&set, &options(1), 0), 1);
        assert!(batches.next().is_some());
        drop(batches);
        // The worker held a clone of the set; it has ended when that is gone.
        drop(set);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    #[should_panic(expected = "broken source")]
    fn prefetch_passes_panics_on() {
        let set = synthetic(1, 4, 0).train;
        let broken = eval_batches(&set, 1).inspect(|b| assert!(b.indices[0] < 2, "broken source"));
        prefetch(broken, 1).for_each(drop);
    }
}
