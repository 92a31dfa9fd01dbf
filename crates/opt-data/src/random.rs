//! Seeded `ChaCha8` streams and the few integer draws that the crate makes from them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Separates the uses of randomness, so that equal seeds in two places give unrelated draws.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Domain {
    Split = 1,
    EpochOrder = 2,
    Augment = 3,
    AlternatingFlip = 4,
    Synthetic = 5,
    FolderSplit = 6,
}

/// Returns the stream whose 256-bit key is (domain, seed, a, b), so that no two arguments collide.
pub(crate) fn stream(domain: Domain, seed: u64, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (slot, word) in key.chunks_exact_mut(8).zip([domain as u64, seed, a, b]) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Draws uniformly from `0..bound`, without bias, by rejecting the incomplete last interval.
pub(crate) fn below(rng: &mut ChaCha8Rng, bound: u32) -> u32 {
    assert!(bound > 0, "an empty range has no values");
    let usable = u32::MAX - (u32::MAX % bound + 1) % bound;
    loop {
        let word = rng.next_u32();
        if word <= usable {
            return word % bound;
        }
    }
}

/// Permutes `items` uniformly (Fisher–Yates from the end).
pub(crate) fn shuffle(rng: &mut ChaCha8Rng, items: &mut [u32]) {
    for last in (1..items.len()).rev() {
        let bound = u32::try_from(last + 1).expect("sets have fewer than 2^32 images");
        items.swap(last, below(rng, bound) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_uniform() {
        let mut rng = stream(Domain::Split, 1, 0, 0);
        let mut counts = [0i32; 9];
        for _ in 0..90_000 {
            counts[below(&mut rng, 9) as usize] += 1;
        }
        // The standard deviation of a count is sqrt(90000 · 1/9 · 8/9) = 94; five of them.
        assert!(
            counts.iter().all(|c| (c - 10_000).abs() < 470),
            "{counts:?}"
        );
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let first = |domain, seed, a, b| stream(domain, seed, a, b).next_u64();
        let base = first(Domain::Split, 1, 2, 3);
        assert_eq!(base, first(Domain::Split, 1, 2, 3));
        for other in [
            first(Domain::Augment, 1, 2, 3),
            first(Domain::Split, 2, 2, 3),
            first(Domain::Split, 1, 3, 3),
            first(Domain::Split, 1, 2, 4),
        ] {
            assert_ne!(base, other);
        }
    }

    /// Every trained figure rests on these draws.
    #[test]
    fn streams_stay_as_they_are() {
        let first = |domain| stream(domain, 7, 1, 2).next_u64();
        let found = [
            Domain::Split,
            Domain::EpochOrder,
            Domain::Augment,
            Domain::AlternatingFlip,
            Domain::Synthetic,
            Domain::FolderSplit,
        ]
        .map(first);
        let expect: [u64; 6] = [
            0x80fa_bb7b_68c9_1da9,
            0xfb4f_e11f_b478_8121,
            0x34f6_7453_c1b3_3abe,
            0xca92_b3c7_d103_e060,
            0xc46d_d76d_ba61_2c6c,
            0x82f1_504c_2946_7cf4,
        ];
        assert_eq!(found, expect);
    }

    #[test]
    fn shuffle_reaches_all_permutations_equally() {
        let mut rng = stream(Domain::Split, 7, 0, 0);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            shuffle(&mut rng, &mut items);
            *counts.entry(items).or_insert(0i32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // Standard deviation 29; five of them.
        assert!(
            counts.values().all(|c| (c - 1000).abs() < 145),
            "{counts:?}"
        );
    }
}
