//! McNemar's paired test: two models answered the same images, and only where one is right and the other wrong do they differ.

use std::ops::Add;

use serde::{Deserialize, Serialize};

/// The images on which exactly one of a variant and its baseline is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Discordant {
    /// Images that only the variant answers right (b).
    pub only_variant: u64,
    /// Images that only its baseline answers right (c).
    pub only_baseline: u64,
}

impl Add for Discordant {
    type Output = Self;

    /// Counts of several seeds together, each a stratum of its own: every seed compares the variant with the baseline of
    /// the same seed.
    fn add(self, other: Self) -> Self {
        Self {
            only_variant: self.only_variant + other.only_variant,
            only_baseline: self.only_baseline + other.only_baseline,
        }
    }
}

/// Counts the images that exactly one of two models answers right.
///
/// ```
/// use opt_bench::results::{Discordant, discordant};
///
/// // The first image only the variant has right, the second both, the third neither.
/// let counts = discordant(&[3, 7, 1], &[3, 7, 2], &[4, 7, 5]);
/// assert_eq!(counts, Discordant { only_variant: 1, only_baseline: 0 });
/// ```
///
/// # Panics
///
/// The three differ in length.
#[track_caller]
pub fn discordant(labels: &[u16], variant: &[i64], baseline: &[i64]) -> Discordant {
    assert_eq!(labels.len(), variant.len(), "answers of the variant");
    assert_eq!(labels.len(), baseline.len(), "answers of the baseline");
    let mut counts = Discordant::default();
    for ((&label, &ours), &theirs) in labels.iter().zip(variant).zip(baseline) {
        let label = i64::from(label);
        match (ours == label, theirs == label) {
            (true, false) => counts.only_variant += 1,
            (false, true) => counts.only_baseline += 1,
            _ => {}
        }
    }
    counts
}

/// The exact two-sided p-value of McNemar's test.
///
/// Were both models equally good, each discordant image would be as likely to favour either, so that b is binomial:
///
/// ```text
/// m = b + c                    p = min(1, 2 · 2⁻ᵐ Σ_{k ≤ min(b, c)} C(m, k))
/// ```
///
/// It lies in (0, 1]: what is too small for a double is its smallest positive number.
///
/// It says how surprising the counts are for these two sets of weights on images drawn like these. It knows nothing of
/// training: a method that is retrained gives other weights. Over several seeds the counts may be added, but the images are
/// the same ones for each seed, so the sum looks more certain than it is.
///
/// ```
/// use opt_bench::results::{Discordant, mcnemar};
///
/// let p = mcnemar(Discordant { only_variant: 10, only_baseline: 2 });
/// assert!((p - 0.03857421875).abs() < 1e-12);
/// ```
///
/// # References
///
/// Q. McNemar, *Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages*,
/// Psychometrika 12, 1947. T. G. Dietterich, *Approximate Statistical Tests for Comparing Supervised Classification
/// Learning Algorithms*, Neural Computation 10, 1998: recommends it where an algorithm can be trained only once, and says
/// that it does not measure the variation that comes from the training set or from the algorithm's own randomness.
pub fn mcnemar(counts: Discordant) -> f64 {
    let (b, c) = (counts.only_variant, counts.only_baseline);
    let (low, total) = (b.min(c), (b + c) as f64);
    // From the largest term down, relative to it: no factorial, no cancellation.
    let mut relative = 1.0;
    let mut sum = 0.0;
    let mut log_largest = -total * std::f64::consts::LN_2;
    for k in 1..=low {
        log_largest += ((total - (low - k) as f64) / k as f64).ln();
    }
    for k in (0..=low).rev() {
        sum += relative;
        if relative < f64::EPSILON * 1e-3 {
            break;
        }
        relative *= k as f64 / (total - k as f64 + 1.0);
    }
    (2.0 * (log_largest + sum.ln()).exp()).clamp(f64::MIN_POSITIVE, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn p(only_variant: u64, only_baseline: u64) -> f64 {
        mcnemar(Discordant {
            only_variant,
            only_baseline,
        })
    }

    #[test]
    fn answers_are_counted_where_one_of_two_is_right() {
        struct Case {
            labels: &'static [u16],
            variant: &'static [i64],
            baseline: &'static [i64],
            counts: (u64, u64),
        }
        let cases = [
            Case {
                labels: &[],
                variant: &[],
                baseline: &[],
                counts: (0, 0),
            },
            // The same answers, right and wrong.
            Case {
                labels: &[0, 1],
                variant: &[0, 2],
                baseline: &[0, 2],
                counts: (0, 0),
            },
            // Two wrong answers that differ do not count.
            Case {
                labels: &[0],
                variant: &[1],
                baseline: &[2],
                counts: (0, 0),
            },
            Case {
                labels: &[5, 6, 7, 8],
                variant: &[5, 6, 0, 8],
                baseline: &[0, 6, 7, 0],
                counts: (2, 1),
            },
        ];
        for case in cases {
            let counts = discordant(case.labels, case.variant, case.baseline);
            assert_eq!(
                (counts.only_variant, counts.only_baseline),
                case.counts,
                "{:?}",
                case.labels
            );
        }
    }

    #[test]
    fn p_values_by_hand_and_in_exact_arithmetic() {
        let cases = [
            // No discordant image, and one: no evidence at all.
            (0, 0, 1.0),
            (0, 1, 1.0),
            // 2 / 2², 2 / 2⁵, 2 / 2⁶: six in a row is the first that is rarer than one in twenty.
            (0, 2, 0.5),
            (5, 0, 0.0625),
            (6, 0, 0.03125),
            // 2 (1 + 12 + 66) / 2¹² and 2 (1 + 10 + 45 + 120) / 2¹⁰.
            (10, 2, 0.038_574_218_75),
            (7, 3, 0.343_75),
            // Python: float(Fraction(2 * sum(comb(b + c, k) for k in range(min(b, c) + 1)), 2 ** (b + c)))
            (30, 10, 0.002_221_433_773_229_364_3),
            (300, 250, 0.036_578_745_549_102_704),
            (320, 250, 0.003_813_204_131_724_203_8),
            (5000, 5300, 0.003_215_819_673_645_239),
            (1000, 500, 1.113_343_040_124_418_2e-38),
        ];
        for (b, c, expected) in cases {
            let found = p(b, c);
            // Each of the min(b, c) logarithms is right to an ulp of at most 1e-15, and their sum to an ulp of at most
            // 1e-12: relative to p, less than 1e-10.
            assert!(
                (found / expected - 1.0).abs() < 1e-10,
                "{b}, {c}: {found} instead of {expected}"
            );
        }
    }

    #[test]
    fn what_a_double_cannot_hold_is_not_zero() {
        assert_eq!(p(100_000, 0), f64::MIN_POSITIVE);
        assert_eq!(p(50_000, 50_000), 1.0);
    }

    proptest! {
        #[test]
        fn a_p_value_is_a_probability_that_does_not_know_which_is_which(b in 0u64..3000, c in 0u64..3000) {
            let found = p(b, c);
            prop_assert!(found > 0.0 && found <= 1.0);
            prop_assert_eq!(found, p(c, b));
            prop_assert_eq!(p(b, b), 1.0);
            // The further apart the counts, the more surprising.
            prop_assert!(p(b.max(c) + 1, b.min(c)) <= found * (1.0 + 1e-9));
        }

        #[test]
        fn small_counts_equal_the_sum_of_binomials(b in 0u64..30, c in 0u64..30) {
            let total = b + c;
            let mut row = vec![1u128];
            for _ in 0..total {
                let mut next = vec![1];
                next.extend(row.windows(2).map(|pair| pair[0] + pair[1]));
                next.push(1);
                row = next;
            }
            let tail: u128 = row.iter().take(usize::try_from(b.min(c)).unwrap() + 1).sum();
            let expected = (2.0 * tail as f64 / (total as f64).exp2()).min(1.0);
            prop_assert!((p(b, c) / expected - 1.0).abs() < 1e-12);
        }
    }
}
