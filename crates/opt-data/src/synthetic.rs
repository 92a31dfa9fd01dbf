//! A deterministic set of ten classes of textures that a small network learns well but not perfectly.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use rayon::prelude::*;

use crate::random::{Domain, below, shuffle, stream};
use crate::{Dataset, Splits};

/// How hard the set is, in percent of its usual noise, clutter and ambiguity; 0 leaves clean textures.
///
/// It scales three things together: the amplitude of the noise, the contrast of clutter that belongs to no class, and
/// the share of images whose clutter is as strong as the rest, so that three classes are equally likely (8 % at 100: no
/// classifier gets more than a third of them right, so 5.3 % of errors are certain). Changing it changes the bytes, hence the golden hash in the tests and every result.
pub const DIFFICULTY: u32 = 100;

/// The number of training images that [`source`](crate::source) asks for.
pub const TRAIN_IMAGES: usize = 10_000;
/// The number of test images that [`source`](crate::source) asks for.
pub const TEST_IMAGES: usize = 2_000;

const SIZE: i32 = 32;
const PLANE: usize = 32 * 32;

/// Unit vectors at 0°, 36°, 72°, 108° and 144°, times 1024.
const DIRECTIONS: [(i32, i32); 5] = [(1024, 0), (828, 602), (316, 974), (-316, 974), (-828, 602)];
/// The two directions whose stripes make a class: each pair of the five, so that any two classes look half alike or
/// share nothing, and no single direction tells a class.
const PAIRS: [(usize, usize); 10] = [
    (0, 1),
    (0, 2),
    (0, 3),
    (0, 4),
    (1, 2),
    (1, 3),
    (1, 4),
    (2, 3),
    (2, 4),
    (3, 4),
];

/// Makes `n_train` training and `n_test` test images of 3×32×32 in ten balanced classes.
///
/// An image of a class shows two patches of stripes, in the class's pair of five directions. Position, size, phase,
/// width, colour and contrast of each patch are random, and so are the background, a third patch of weak stripes in any
/// direction (clutter) and the pixel noise. So a network must find directions anywhere and combine two of them; colour and position tell it
/// nothing. See [`DIFFICULTY`].
///
/// Image `i` has class `i mod 10` and depends on `seed`, its split and `i` alone, so a larger set begins with the
/// smaller one. Only integer arithmetic is used: the bytes are the same on every platform.
///
/// ```
/// let splits = opt_data::synthetic::synthetic(1, 20, 10);
/// assert_eq!(splits.train.labels[13], 3);
/// assert_eq!(splits.test.images.len(), 10 * 3 * 32 * 32);
/// ```
pub fn synthetic(seed: u64, n_train: usize, n_test: usize) -> Splits {
    Splits {
        train: split(seed, 0, n_train),
        test: split(seed, 1, n_test),
    }
}

fn split(seed: u64, part: u64, n: usize) -> Dataset {
    let mut images = vec![0; n * 3 * PLANE];
    let labels: Vec<u16> = (0..10).cycle().take(n).collect();
    images
        .par_chunks_exact_mut(3 * PLANE)
        .zip(&labels)
        .enumerate()
        .for_each(|(index, (image, &label))| {
            let mut rng = stream(Domain::Synthetic, seed, part, index as u64);
            paint(&mut rng, usize::from(label), DIFFICULTY, image);
        });
    Dataset {
        name: "synthetic".into(),
        images: images.into(),
        labels: labels.into(),
        channels: 3,
        height: 32,
        width: 32,
        classes: PAIRS
            .iter()
            .map(|(a, b)| format!("stripes-{}-{}", a * 36, b * 36))
            .collect(),
    }
}

/// A round patch of stripes.
struct Patch {
    /// Turns of 2¹⁶ per pixel along x and y.
    step: (i32, i32),
    phase: i32,
    centre: (i32, i32),
    radius: i32,
    /// The stripes' amplitude in each channel, in bytes.
    colour: [i32; 3],
}

/// Draws from `low..=high`.
fn between(rng: &mut ChaCha8Rng, low: i32, high: i32) -> i32 {
    low + below(rng, (high - low + 1).unsigned_abs()).cast_signed()
}

/// Draws a patch of stripes in about the given direction with at most `contrast` bytes of amplitude.
fn patch(rng: &mut ChaCha8Rng, direction: usize, contrast: i32) -> Patch {
    let (x, y) = DIRECTIONS[direction];
    // A turn of up to ±7°; neighbours are 36° apart.
    let turn = between(rng, -125, 125);
    let (x, y) = (x - y * turn / 1024, y + x * turn / 1024);
    // Periods of 4 to 8 pixels.
    let frequency = between(rng, 8192, 16_384);
    // Channels differ in strength and sign but never all vanish.
    let mut colour = [
        contrast,
        between(rng, -contrast, contrast),
        between(rng, -contrast, contrast),
    ];
    let first = between(rng, 0, 2).unsigned_abs() as usize;
    colour.rotate_left(first);
    Patch {
        step: (x * frequency / 1024, y * frequency / 1024),
        phase: between(rng, 0, 65_535),
        centre: (between(rng, 8, 23), between(rng, 8, 23)),
        radius: between(rng, 8, 13),
        colour,
    }
}

impl Patch {
    /// The stripes' value at a pixel, a triangle wave faded out towards the rim, in −4096..=4096.
    fn at(&self, x: i32, y: i32) -> i32 {
        let turn = (x * self.step.0 + y * self.step.1 + self.phase) & 0xffff;
        let wave = (turn - 32_768).abs() - 16_384;
        let (dx, dy) = (x - self.centre.0, y - self.centre.1);
        let rim = self.radius * self.radius;
        let fade = (2 * (rim - dx * dx - dy * dy)).clamp(0, rim);
        wave / 4 * fade / rim
    }
}

/// Paints an image of class `label`.
fn paint(rng: &mut ChaCha8Rng, label: usize, difficulty: u32, image: &mut [u8]) {
    let percent = difficulty.cast_signed();
    let (mut first, mut second) = PAIRS[label];
    if below(rng, 2) == 1 {
        std::mem::swap(&mut first, &mut second);
    }
    let contrast = between(rng, 44, 88);
    let (clutter, clutter_contrast) = if below(rng, 10_000) < 8 * difficulty {
        let mut others: Vec<u32> = (0..5)
            .filter(|&d| d as usize != first && d as usize != second)
            .collect();
        shuffle(rng, &mut others);
        (others[0] as usize, contrast)
    } else {
        (below(rng, 5) as usize, contrast * percent / 250)
    };
    let patches = [
        patch(rng, first, contrast),
        patch(rng, second, contrast),
        patch(rng, clutter, clutter_contrast),
    ];
    // The background is a slope of colour.
    let base = [(); 3].map(|()| between(rng, 70, 185));
    let slope = [(); 3].map(|()| (between(rng, -1, 1), between(rng, -1, 1)));
    let noise_amplitude = 32 * percent;
    let mut noise = vec![0; 3 * 2 * PLANE];
    rng.fill_bytes(&mut noise);
    for y in 0..SIZE {
        for x in 0..SIZE {
            let waves = patches.each_ref().map(|patch| patch.at(x, y));
            let pixel = (y * SIZE + x).unsigned_abs() as usize;
            for channel in 0..3 {
                let stripes: i32 = patches
                    .iter()
                    .zip(waves)
                    .map(|(patch, wave)| patch.colour[channel] * wave / 4096)
                    .sum();
                // The difference of two bytes, −255..=255, most often near 0.
                let at = 2 * (channel * PLANE + pixel);
                let grain = i32::from(noise[at]) - i32::from(noise[at + 1]);
                let (along_x, along_y) = slope[channel];
                let value = base[channel]
                    + along_x * (x - SIZE / 2)
                    + along_y * (y - SIZE / 2)
                    + stripes
                    + grain * noise_amplitude / (100 * 128);
                image[channel * PLANE + pixel] =
                    u8::try_from(value.clamp(0, 255)).expect("clamped to a byte");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are a contract: results on the synthetic set are comparable only while they stay.
    #[test]
    fn golden_hash() {
        let splits = synthetic(1, 50, 20);
        assert_eq!(
            splits.train.sha256(),
            "e4191422a27b674ad2056f06964f6f19f75bfce6053445474f1ea9e9c3e06cf5"
        );
        assert_eq!(
            splits.test.sha256(),
            "ca0cbe881821f30ba2fe1448355496fb8d1656753999486dbb9e85cb4f164cb3"
        );
    }

    #[test]
    fn images_depend_on_seed_split_and_index_alone() {
        let (small, large) = (synthetic(1, 20, 20), synthetic(1, 50, 20));
        assert_eq!(small.train.images[..], large.train.images[..20 * 3 * PLANE]);
        assert_ne!(small.train.images, small.test.images);
        assert_ne!(small.train.images, synthetic(2, 20, 20).train.images);
        let one_thread = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        assert_eq!(
            one_thread.install(|| synthetic(1, 50, 0)).train.sha256(),
            large.train.sha256()
        );
    }

    #[test]
    fn classes_are_balanced_and_every_pair_of_directions_occurs_once() {
        let train = synthetic(1, 100, 0).train;
        for class in 0..10 {
            assert_eq!(
                train.labels.iter().filter(|&&label| label == class).count(),
                10
            );
        }
        let distinct: std::collections::BTreeSet<_> = PAIRS.iter().collect();
        assert_eq!(distinct.len(), 10);
        assert!(PAIRS.iter().all(|(a, b)| a < b));
        assert_eq!(train.classes[4], "stripes-36-72");
    }

    /// The mean image and mean colour of a class say nothing about it, so a classifier must look at texture.
    #[test]
    fn classes_do_not_differ_in_mean_colour() {
        let train = synthetic(1, 2000, 0).train;
        let mut means = [0f64; 10];
        for index in 0..train.len() {
            let sum: u32 = train.image(index).iter().map(|&byte| u32::from(byte)).sum();
            means[usize::from(train.labels[index])] += f64::from(sum) / 3072.0 / 200.0;
        }
        // An image's mean has a standard deviation of about 33/sqrt(3) = 19, that of 200 images 1.4; four of them.
        assert!(
            means.iter().all(|mean| (mean - 127.5).abs() < 5.5),
            "{means:?}"
        );
    }

    /// Stripes run in the class's two directions: there, and nowhere else, a clean image has spectral energy.
    #[test]
    fn clean_images_have_their_energy_in_the_directions_of_their_class() {
        let mut right = 0;
        for (label, (a, b)) in PAIRS.into_iter().enumerate() {
            for sample in 0..20 {
                let mut image = vec![0; 3 * PLANE];
                paint(
                    &mut stream(Domain::Synthetic, 1, 2, sample),
                    label,
                    0,
                    &mut image,
                );
                let mut energy =
                    DIRECTIONS.map(|(x, y)| directional_energy(&image, f64::from(x), f64::from(y)));
                let own = energy[a].min(energy[b]);
                energy[a] = 0.0;
                energy[b] = 0.0;
                right += i32::from(energy.iter().all(|&other| other < own));
            }
        }
        // Chance would be 20 of 200 (one pair of ten).
        assert!(right >= 140, "{right} of 200");
    }

    /// The largest spectral energy over periods and turns near a direction, all channels together.
    fn directional_energy(image: &[u8], x: f64, y: f64) -> f64 {
        let mut best = 0f64;
        for period in [4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0] {
            for turn in [-0.12, 0.0, 0.12] {
                let (x, y) = ((x - y * turn) / 1024.0, (y + x * turn) / 1024.0);
                let energy = image.chunks(PLANE).map(|plane| {
                    let (mut re, mut im) = (0.0, 0.0);
                    for (pixel, &byte) in plane.iter().enumerate() {
                        let along = (pixel % 32) as f64 * x + (pixel / 32) as f64 * y;
                        let angle = std::f64::consts::TAU * along / period;
                        re += (f64::from(byte) - 127.5) * angle.cos();
                        im += (f64::from(byte) - 127.5) * angle.sin();
                    }
                    re * re + im * im
                });
                best = best.max(energy.sum());
            }
        }
        best
    }
}
