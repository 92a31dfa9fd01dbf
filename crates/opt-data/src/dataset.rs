//! A labelled set of equally sized byte images, its splits, content hash and channel statistics.

use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::DataError;
use crate::random::{Domain, shuffle, stream};

/// Holds labelled images as bytes; cloning shares them.
///
/// # Shapes
///
/// `images` is N×C×H×W in that order without gaps, `labels` has N entries below `classes.len()`.
#[derive(Clone)]
pub struct Dataset {
    /// What the set is called in results, such as `cifar10`.
    pub name: String,
    /// The pixels, N×C×H×W.
    pub images: Arc<[u8]>,
    /// The class index of each image.
    pub labels: Arc<[u16]>,
    /// The number of channels C.
    pub channels: usize,
    /// The number of rows H.
    pub height: usize,
    /// The number of columns W.
    pub width: usize,
    /// The name of each class.
    pub classes: Vec<String>,
}

impl Dataset {
    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Says whether the set has no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the bytes of one image, C·H·W.
    pub fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Returns image `index`, C×H×W.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`Dataset::len`].
    #[track_caller]
    pub fn image(&self, index: usize) -> &[u8] {
        let len = self.image_len();
        &self.images[index * len..(index + 1) * len]
    }

    /// Copies the named images, in the order given, into a set of their own with the same name and classes.
    ///
    /// # Panics
    ///
    /// If an index is not below [`Dataset::len`].
    #[track_caller]
    pub fn subset(&self, indices: &[usize]) -> Self {
        let mut images = Vec::with_capacity(indices.len() * self.image_len());
        for &index in indices {
            images.extend_from_slice(self.image(index));
        }
        Self {
            images: images.into(),
            labels: indices.iter().map(|&index| self.labels[index]).collect(),
            ..self.clone()
        }
    }

    /// Splits off `first` images chosen by `seed`; both parts keep the set's order.
    ///
    /// The choice is uniform over all images and not stratified: class frequencies of the parts vary as chance has it.
    ///
    /// ```
    /// let set = opt_data::synthetic::synthetic(1, 50, 0).train;
    /// let (fit, validate) = set.split(40, 7)?;
    /// assert_eq!((fit.len(), validate.len()), (40, 10));
    /// # Ok::<(), opt_data::DataError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the set has fewer than `first` images.
    pub fn split(&self, first: usize, seed: u64) -> Result<(Self, Self), DataError> {
        let (chosen, rest) = self.split_indices(first, seed)?;
        Ok((self.subset(&chosen), self.subset(&rest)))
    }

    /// Returns the indices of the two parts that [`Dataset::split`] makes, each ascending.
    ///
    /// # Errors
    ///
    /// If the set has fewer than `first` images.
    pub fn split_indices(
        &self,
        first: usize,
        seed: u64,
    ) -> Result<(Vec<usize>, Vec<usize>), DataError> {
        let len = self.len();
        if first > len {
            return Err(DataError::SplitTooLarge {
                name: self.name.clone(),
                first,
                len,
            });
        }
        let mut order: Vec<u32> = (0..).take(len).collect();
        shuffle(&mut stream(Domain::Split, seed, 0, 0), &mut order);
        let sorted = |part: &[u32]| {
            let mut indices: Vec<usize> = part.iter().map(|&index| index as usize).collect();
            indices.sort_unstable();
            indices
        };
        Ok((sorted(&order[..first]), sorted(&order[first..])))
    }

    /// Returns the SHA-256, in hex, of what a model sees of this set.
    ///
    /// ```text
    /// SHA-256(N ‖ C ‖ H ‖ W as u64 little endian ‖ images ‖ labels)
    /// ```
    ///
    /// A label counts as one byte where all labels are below 256, else as two, little endian. Name and class names do
    /// not count.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256::new();
        for extent in [self.len(), self.channels, self.height, self.width] {
            hasher.update((extent as u64).to_le_bytes());
        }
        hasher.update(&self.images);
        match self
            .labels
            .iter()
            .map(|&label| u8::try_from(label))
            .collect::<Result<Vec<u8>, _>>()
        {
            Ok(labels) => hasher.update(labels),
            Err(_) => self
                .labels
                .iter()
                .for_each(|label| hasher.update(label.to_le_bytes())),
        }
        to_hex(&hasher.finalize())
    }

    /// Returns mean and standard deviation of each channel.
    ///
    /// ```text
    /// x = byte / 255,  mean_c = E[x_c],  std_c = sqrt(E[x_c²] − mean_c²)   over all images and pixels
    /// ```
    ///
    /// The sums are exact integers, so the result depends neither on order nor on threads. An empty set gives NaN.
    pub fn channel_stats(&self) -> Vec<ChannelStats> {
        let plane = self.height * self.width;
        let sums = self
            .images
            .par_chunks(self.image_len().max(1))
            .fold(
                || vec![(0u64, 0u64); self.channels],
                |mut sums, image| {
                    for (sum, channel) in sums.iter_mut().zip(image.chunks_exact(plane)) {
                        for &byte in channel {
                            sum.0 += u64::from(byte);
                            sum.1 += u64::from(byte) * u64::from(byte);
                        }
                    }
                    sums
                },
            )
            .reduce(
                || vec![(0, 0); self.channels],
                |a, b| {
                    a.iter()
                        .zip(&b)
                        .map(|(x, y)| (x.0 + y.0, x.1 + y.1))
                        .collect()
                },
            );
        let count = (self.len() * plane) as u128;
        sums.into_iter()
            .map(|(sum, squares)| {
                let (sum, squares) = (u128::from(sum), u128::from(squares));
                // Integer until the end: the difference of two large means would cancel digits.
                let variance = (squares * count - sum * sum) as f64 / (count * count) as f64;
                ChannelStats {
                    mean: sum as f64 / count as f64 / 255.0,
                    std: variance.sqrt() / 255.0,
                }
            })
            .collect()
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("name", &self.name)
            .field("images", &self.len())
            .field("shape", &[self.channels, self.height, self.width])
            .field("classes", &self.classes.len())
            .finish()
    }
}

/// Holds the mean and standard deviation of one channel, of bytes divided by 255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelStats {
    /// The mean.
    pub mean: f64,
    /// The standard deviation (of the population, not the sample).
    pub std: f64,
}

/// Holds the training and the test images of one set.
#[derive(Debug, Clone)]
pub struct Splits {
    /// The images to train on; validation images are split off these.
    pub train: Dataset,
    /// The images to report on, never to choose by.
    pub test: Dataset,
}

/// Writes bytes as lower-case hex digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `n` images 2×1×2 whose bytes count upwards, labels `i mod 3`.
    fn counting(n: u8) -> Dataset {
        Dataset {
            name: "counting".into(),
            images: (0..4 * n).collect(),
            labels: (0..n).map(|i| u16::from(i % 3)).collect(),
            channels: 2,
            height: 1,
            width: 2,
            classes: ["a", "b", "c"].map(String::from).to_vec(),
        }
    }

    #[test]
    fn subset_copies_in_the_order_given() {
        let set = counting(5).subset(&[4, 0, 4]);
        assert_eq!(*set.images, [16, 17, 18, 19, 0, 1, 2, 3, 16, 17, 18, 19]);
        assert_eq!(*set.labels, [1, 0, 1]);
        assert_eq!(set.name, "counting");
        assert!(counting(5).subset(&[]).is_empty());
    }

    #[test]
    fn split_checks_its_size() {
        let message = counting(5).split(6, 0).unwrap_err().to_string();
        assert!(
            message.contains("6 images")
                && message.contains("counting")
                && message.contains("has 5"),
            "{message}"
        );
        assert_eq!(counting(5).split(5, 0).unwrap().1.len(), 0);
        assert_eq!(counting(5).split(0, 0).unwrap().0.len(), 0);
    }

    #[test]
    fn split_depends_on_the_seed_alone() {
        let set = counting(60);
        let split = |seed| set.split_indices(30, seed).unwrap();
        assert_eq!(split(1), split(1));
        assert_ne!(split(1), split(2));
    }

    proptest! {
        #[test]
        fn split_is_a_partition(n in 0u8..60, percent in 0usize..=100, seed: u64) {
            let first = usize::from(n) * percent / 100;
            let (chosen, rest) = counting(n).split_indices(first, seed).unwrap();
            prop_assert_eq!(chosen.len(), first);
            prop_assert!(chosen.is_sorted() && rest.is_sorted());
            let mut all = [chosen, rest].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..usize::from(n)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn hash_sees_images_labels_and_shape_but_not_names() {
        let set = counting(5);
        // From Python: hashlib.sha256(struct.pack("<4Q", 5, 2, 1, 2) + bytes(range(20)) + bytes([0, 1, 2, 0, 1])).
        assert_eq!(
            set.sha256(),
            "6c2f62695763e25e225eeba340a6fdfafb270b3bb6c917acf4c50c003d8253f7"
        );
        let renamed = Dataset {
            name: "other".into(),
            classes: vec![],
            ..set.clone()
        };
        assert_eq!(renamed.sha256(), set.sha256());
        let reshaped = Dataset {
            height: 2,
            width: 1,
            ..set.clone()
        };
        assert_ne!(reshaped.sha256(), set.sha256());
        let relabelled = Dataset {
            labels: [0, 1, 2, 0, 2].into(),
            ..set.clone()
        };
        assert_ne!(relabelled.sha256(), set.sha256());
        // With a label above 255 each is two bytes, "<5H" in Python.
        let many = Dataset {
            labels: [0, 1, 2, 0, 999].into(),
            ..set.clone()
        };
        assert_eq!(
            many.sha256(),
            "8c8a397848e4e49414106bb311dd2c89296b70716dc7ca8d7f3cb081db056e80"
        );
    }

    #[test]
    fn channel_stats_by_hand() {
        // Channel 0 holds 0, 1, 4, 5; channel 1 holds 2, 3, 6, 7.
        let stats = counting(2).channel_stats();
        assert_eq!(
            stats[0],
            ChannelStats {
                mean: 2.5 / 255.0,
                std: 4.25f64.sqrt() / 255.0
            }
        );
        assert_eq!(
            stats[1],
            ChannelStats {
                mean: 4.5 / 255.0,
                std: 4.25f64.sqrt() / 255.0
            }
        );
        // Nothing to average.
        assert!(counting(0).channel_stats().iter().all(|s| s.mean.is_nan()));
    }
}
