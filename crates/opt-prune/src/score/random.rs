//! Random scores: the baseline that every criterion has to beat.

use ndarray::ArrayD;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A uniform score in [0, 1) for every element of a tensor of this shape.
///
/// Each name draws from a stream of its own, so a layer's scores do not depend on the other layers.
///
/// ```
/// use opt_prune::score::random::element_scores;
/// let scores = element_scores("conv1.weight", &[4, 3], 7);
/// assert_eq!(scores, element_scores("conv1.weight", &[4, 3], 7));
/// assert_ne!(scores, element_scores("conv2.weight", &[4, 3], 7));
/// assert_ne!(scores, element_scores("conv1.weight", &[4, 3], 8));
/// ```
#[must_use]
pub fn element_scores(name: &str, shape: &[usize], seed: u64) -> ArrayD<f32> {
    // FNV-1a turns the name into the stream's number.
    let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    // 24 bits are exact in f32, so every platform gets the same scores.
    ArrayD::from_shape_simple_fn(shape, || (rng.random::<u32>() >> 8) as f32 / 16_777_216.0)
}

/// A uniform score in [0, 1) for each of `channels` channels of a layer.
#[must_use]
pub fn channel_scores(layer: &str, channels: usize, seed: u64) -> Vec<f64> {
    let scores = element_scores(layer, &[channels], seed);
    scores.iter().map(|s| f64::from(*s)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_uniform() {
        let scores = channel_scores("layer", 10_000, 1);
        assert!(scores.iter().all(|s| (0.0..1.0).contains(s)));
        let mean = scores.iter().sum::<f64>() / 1e4;
        // Five standard errors of the mean: 5 · sqrt(1/12) / 100.
        assert!((mean - 0.5).abs() < 0.0145, "{mean}");
    }
}
