//! Random scores: the baseline that every criterion has to beat.

use ndarray::ArrayD;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Separates these draws from all others that are made with the same seed and name: the zoo's initial weights above all, with
/// which a random score must have nothing in common.
const DOMAIN: &[u8; 16] = b"opt-prune/random";

/// A uniform score in [0, 1) for every element of a tensor of this shape.
///
/// Each name draws from a stream of its own, so a layer's scores do not depend on the other layers. The streams are this
/// function's own: a network that was initialised with the same seed does not correlate with them.
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
    // The key is (domain, seed, name), so no two of them collide.
    let mut key = [0; 32];
    key[..16].copy_from_slice(DOMAIN);
    key[16..24].copy_from_slice(&seed.to_le_bytes());
    key[24..].copy_from_slice(&stream.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
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

    #[test]
    fn scores_do_not_follow_the_initial_weights_of_the_same_seed() {
        for (network, seed) in [("resnet20", 0), ("source_net", 0), ("resnet20", 7)] {
            let model = opt_core::zoo::build(network, &opt_core::Task::cifar10(), seed).unwrap();
            let (mut scores, mut weights) = (Vec::new(), Vec::new());
            for name in model.weight_names() {
                let weight = &model.params[name];
                // Each layer's weights to one scale, so that a layer of large ones does not decide.
                let top = weight.iter().fold(0f32, |m, w| m.max(w.abs()));
                weights.extend(weight.iter().map(|w| f64::from(w / top)));
                let drawn = element_scores(name, weight.shape(), seed);
                scores.extend(drawn.iter().map(|s| f64::from(*s)));
            }
            let n = weights.len() as f64;
            // The correlation of n independent pairs has the standard deviation 1/sqrt(n); five of them.
            let rho = crate::rank_correlation(&scores, &weights).unwrap();
            assert!(rho.abs() < 5.0 / n.sqrt(), "{network}: {rho}");
            let sizes: Vec<f64> = weights.iter().map(|w| w.abs()).collect();
            let rho = crate::rank_correlation(&scores, &sizes).unwrap();
            assert!(rho.abs() < 5.0 / n.sqrt(), "{network}: {rho}");
            // Half of those with the lowest scores are negative: n/2 with a standard deviation of sqrt(n)/2; five of them.
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            let lowest = &order[..1103];
            let negative = lowest.iter().filter(|&&i| weights[i] < 0.0).count() as f64;
            let off = (negative - 1103.0 / 2.0).abs();
            assert!(
                off < 5.0 * 1103f64.sqrt() / 2.0,
                "{network}: {negative} of 1103"
            );
        }
    }

    #[test]
    fn draws_stay_as_they_are() {
        let drawn = channel_scores("conv1.weight", 3, 7);
        let steps: Vec<f64> = drawn.iter().map(|s| s * 16_777_216.0).collect();
        assert_eq!(steps, [5_654_292.0, 2_845_943.0, 9_676_638.0]);
    }
}
