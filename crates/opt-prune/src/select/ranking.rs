//! Keeps the best of many scores without sorting them.
//!
//! The order is total: the larger score by [`f32::total_cmp`], then the earlier layer, then the lower index. The score of the
//! last element that stays is found digit by digit: how often each digit occurs among the scores that share the digits before it
//! says which digit the n-th largest has. One more pass keeps everything above that score, and of those equal to it the first
//! ones. Counts are integers, so neither the number of threads nor the order in which they finish matters.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;

use rayon::prelude::*;

/// Scores per piece of work: long enough that its histogram costs little, short enough that threads end together.
const PIECE: usize = 1 << 16;

/// The widest digit has this many values.
const N_DIGITS: usize = 1 << 11;

/// The digits of an order key, from the highest: their lowest bit and their width.
const DIGITS: [(u32, u32); 3] = [(21, 11), (10, 11), (0, 10)];

/// What is decided about one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// Not decided yet.
    Open,
    /// It stays.
    Kept,
    /// An earlier round removed it.
    Removed,
}

/// The scores of one layer, none of them NaN, and what is decided about each.
#[derive(Debug)]
pub(super) struct Ranked<'a> {
    /// In the order of flat indices.
    pub(super) scores: Cow<'a, [f32]>,
    /// As many.
    pub(super) states: Vec<State>,
}

/// Consecutive elements of a layer.
struct Piece<'a> {
    scores: &'a [f32],
    states: &'a mut [State],
}

/// Keeps the `n` best of all open elements; all of them, if there are fewer.
///
/// The layers stand in their order.
pub(super) fn keep_best<'a, 'b: 'a>(
    layers: impl IntoIterator<Item = &'a mut Ranked<'b>>,
    n: usize,
) {
    if n == 0 {
        return;
    }
    let mut pieces = Vec::new();
    for layer in layers {
        let scores = layer.scores.chunks(PIECE);
        let parts = scores.zip(layer.states.chunks_mut(PIECE));
        pieces.extend(parts.map(|(scores, states)| Piece { scores, states }));
    }
    if n < pieces.len() {
        pieces = with_the_best(pieces, n);
    }
    let (last, mut left) = nth_largest(&pieces, n);
    let keep_above = |piece: &mut Piece<'_>| piece.keep_above(last);
    let n_equal: Vec<usize> = pieces.par_iter_mut().map(keep_above).collect();
    let shares = n_equal.into_iter().map(|n_equal| {
        let share = n_equal.min(left);
        left -= share;
        share
    });
    let shares: Vec<usize> = shares.collect();
    (pieces.par_iter_mut().zip(shares)).for_each(|(piece, share)| piece.keep_equal(last, share));
}

/// The `n` pieces that hold the `n` best elements, in their order.
///
/// Pieces are compared by their best elements. The best elements of `n` pieces stand before everything in the other pieces,
/// where scores are equal too: those pieces come later.
fn with_the_best(pieces: Vec<Piece<'_>>, n: usize) -> Vec<Piece<'_>> {
    let largest: Vec<u32> = pieces.par_iter().map(Piece::largest).collect();
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by_key(|&i| (Reverse(largest[i]), i));
    let best: BTreeSet<usize> = order.into_iter().take(n).collect();
    let indexed = pieces.into_iter().enumerate();
    let best = indexed.filter(|(i, _)| best.contains(i));
    best.map(|(_, piece)| piece).collect()
}

/// The key of the `n`-th largest open score, and how many of those equal to it are among the `n` largest.
fn nth_largest(pieces: &[Piece<'_>], n: usize) -> (u32, usize) {
    let (mut known, mut left) = (0u32, n);
    for (shift, width) in DIGITS {
        let counts = (pieces.par_iter())
            .fold(
                || vec![0; N_DIGITS],
                |mut counts, piece| {
                    piece.count_digits(known, shift, width, &mut counts);
                    counts
                },
            )
            .reduce(
                || vec![0; N_DIGITS],
                |mut a, b| {
                    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                    a
                },
            );
        let mut digit = 0;
        for value in (0..1 << width).rev() {
            let count = counts[value as usize];
            if count >= left {
                digit = value;
                break;
            }
            left -= count;
        }
        known |= digit << shift;
    }
    (known, left)
}

/// An integer that orders as [`f32::total_cmp`] does.
fn key(score: f32) -> u32 {
    let bits = score.to_bits();
    // Negative numbers have all bits turned over, the others only the sign.
    let turned = if bits >> 31 == 1 { u32::MAX } else { 1 << 31 };
    bits ^ turned
}

impl Piece<'_> {
    /// The key of the largest open score; 0, which is below all keys, without one.
    fn largest(&self) -> u32 {
        let open_key = |(&score, &state): (&f32, &State)| {
            if state == State::Open { key(score) } else { 0 }
        };
        let keys = self.scores.iter().zip(&*self.states).map(open_key);
        keys.fold(0, u32::max)
    }

    /// Adds how often each value of a digit occurs among the open scores whose higher digits are those of `known`.
    fn count_digits(&self, known: u32, shift: u32, width: u32, counts: &mut [usize]) {
        // Four histograms: neighbours with the same digit do not wait for each other.
        let mut found = [[0u32; N_DIGITS]; 4];
        let higher = u32::MAX.checked_shl(shift + width).unwrap_or(0);
        let in_turn = (0..found.len()).cycle();
        for ((&score, &state), turn) in self.scores.iter().zip(&*self.states).zip(in_turn) {
            let key = key(score);
            let counted = (state == State::Open) & ((key ^ known) & higher == 0);
            let digit = (key >> shift) as usize & ((1 << width) - 1) & (N_DIGITS - 1);
            found[turn][digit] += u32::from(counted);
        }
        for found in found {
            for (count, found) in counts.iter_mut().zip(found) {
                *count += found as usize;
            }
        }
    }

    /// Keeps the open elements above the key `last` and returns how many open ones are equal to it.
    fn keep_above(&mut self, last: u32) -> usize {
        let mut n_equal = 0u32;
        for (&score, state) in self.scores.iter().zip(&mut *self.states) {
            let key = key(score);
            let is_open = *state == State::Open;
            n_equal += u32::from(is_open & (key == last));
            if is_open & (key > last) {
                *state = State::Kept;
            }
        }
        n_equal as usize
    }

    /// Keeps the first `share` of the open elements equal to the key `last`.
    fn keep_equal(&mut self, last: u32, mut share: usize) {
        for (&score, state) in self.scores.iter().zip(&mut *self.states) {
            if share == 0 {
                return;
            }
            if *state == State::Open && key(score) == last {
                *state = State::Kept;
                share -= 1;
            }
        }
    }
}

/// The index of the first NaN.
pub(super) fn first_nan(scores: &[f32]) -> Option<usize> {
    let holds_nan = |piece: &[f32]| piece.iter().fold(false, |any, s| any | s.is_nan());
    let piece = scores.par_chunks(PIECE).position_first(holds_nan)?;
    let first = piece * PIECE;
    let within = scores[first..].iter().position(|s| s.is_nan())?;
    Some(first + within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: everything sorted.
    fn by_sorting(layers: &mut [Ranked<'_>], n: usize) {
        let mut order = Vec::new();
        for (l, layer) in layers.iter().enumerate() {
            for (i, (&score, &state)) in layer.scores.iter().zip(&layer.states).enumerate() {
                if state == State::Open {
                    order.push((score, l, i));
                }
            }
        }
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        for (_, l, i) in order.into_iter().take(n) {
            layers[l].states[i] = State::Kept;
        }
    }

    fn on_threads(n_threads: usize, run: impl FnOnce() + Send) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
        pool.build().unwrap().install(run);
    }

    fn check(layers: &[(Vec<f32>, Vec<State>)], n: usize) {
        let ranked = || -> Vec<Ranked<'_>> {
            let of = |(scores, states): &'_ (Vec<f32>, Vec<State>)| Ranked {
                scores: Cow::Owned(scores.clone()),
                states: states.clone(),
            };
            layers.iter().map(of).collect()
        };
        let mut expected = ranked();
        by_sorting(&mut expected, n);
        for n_threads in [1, 3] {
            let mut found = ranked();
            on_threads(n_threads, || keep_best(&mut found, n));
            for (l, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let differs = (0..found.states.len())
                    .find(|&i| found.states[i] != expected.states[i])
                    .map(|i| (i, found.scores[i], found.states[i]));
                assert_eq!(differs, None, "layer {l}, {n} kept, {n_threads} threads");
            }
        }
    }

    fn open(scores: Vec<f32>) -> (Vec<f32>, Vec<State>) {
        let states = vec![State::Open; scores.len()];
        (scores, states)
    }

    #[test]
    fn keys_order_as_the_total_order_does() {
        let tiny = f32::from_bits(1);
        let ascending = [
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -f32::MIN_POSITIVE,
            -tiny,
            -0.0,
            0.0,
            tiny,
            f32::MIN_POSITIVE,
            1.0,
            f32::MAX,
            f32::INFINITY,
        ];
        assert!(ascending.is_sorted_by(|a, b| key(*a) < key(*b)));
        // Every number of elements that can stay.
        let reversed: Vec<f32> = ascending.iter().rev().copied().collect();
        for n in 0..=25 {
            check(
                &[
                    open(ascending.to_vec()),
                    open(vec![]),
                    open(reversed.clone()),
                ],
                n,
            );
        }
    }

    #[test]
    fn all_equal_keeps_the_first_across_pieces_and_layers() {
        for score in [0.0, -0.0, 1.0, f32::INFINITY, f32::from_bits(3)] {
            let layers = [
                open(vec![score; PIECE + 7]),
                open(vec![]),
                open(vec![score; 2 * PIECE]),
            ];
            for n in [
                0,
                1,
                PIECE,
                PIECE + 6,
                PIECE + 8,
                2 * PIECE + 9,
                3 * PIECE + 7,
            ] {
                check(&layers, n);
            }
        }
    }

    #[test]
    fn long_layers_with_ties_equal_a_full_sort() {
        // Three pieces and a rest; every score occurs about a hundred times, and some elements are decided already.
        let scrambled = |i: u32| i.wrapping_mul(2_654_435_761) >> 7;
        let layer = |len: u32, salt: u32| {
            let scores = (0..len).map(|i| (scrambled(i ^ salt) % 2_003) as f32 / 100.0 - 10.0);
            let states = (0..len).map(|i| match scrambled(i + salt) % 5 {
                0 => State::Removed,
                1 => State::Kept,
                _ => State::Open,
            });
            (scores.collect(), states.collect())
        };
        let layers = [layer(3 * 65_536 + 5, 1), layer(10, 2), layer(65_536, 3)];
        let n_open = layers
            .iter()
            .flat_map(|(_, states): &(Vec<f32>, Vec<State>)| states);
        let n_open = n_open.filter(|s| **s == State::Open).count();
        for n in [1, 777, n_open / 2, n_open - 1, n_open, n_open + 1] {
            check(&layers, n);
        }
    }

    #[test]
    fn the_first_nan_is_found_wherever_it_stands() {
        assert_eq!(first_nan(&[]), None);
        let mut scores = vec![f32::INFINITY; 3 * PIECE];
        assert_eq!(first_nan(&scores), None);
        for at in [3 * PIECE - 1, PIECE, PIECE - 1, 0] {
            scores[at] = -f32::NAN;
            assert_eq!(first_nan(&scores), Some(at));
        }
    }

    fn score() -> impl Strategy<Value = f32> {
        prop_oneof![
            4 => (-3i8..3).prop_map(f32::from),
            2 => any::<u32>().prop_map(f32::from_bits).prop_filter("NaN", |s| !s.is_nan()),
            1 => (0..9u32).prop_map(f32::from_bits),
            1 => prop::sample::select(vec![f32::INFINITY, f32::NEG_INFINITY, -0.0]),
        ]
    }

    fn state() -> impl Strategy<Value = State> {
        prop_oneof![
            6 => Just(State::Open),
            1 => Just(State::Kept),
            1 => Just(State::Removed),
        ]
    }

    proptest! {
        #[test]
        fn the_best_are_those_of_a_full_sort(
            layers in prop::collection::vec(prop::collection::vec((score(), state()), 0..40), 0..5),
            n in 0..120usize,
        ) {
            let layers: Vec<_> = layers.into_iter().map(|layer| layer.into_iter().unzip()).collect();
            check(&layers, n);
        }
    }
}
