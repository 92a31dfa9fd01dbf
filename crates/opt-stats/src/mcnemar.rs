//! McNemar's paired test: two models answered the same images, and only where one is right and the other wrong do they differ.

use std::ops::Add;

use serde::{Deserialize, Serialize};

use crate::Interval;
use crate::distributions::normal;

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
            only_variant: self.only_variant.saturating_add(other.only_variant),
            only_baseline: self.only_baseline.saturating_add(other.only_baseline),
        }
    }
}

/// Counts the images that exactly one of two models answers right.
///
/// ```
/// use opt_stats::{Discordant, discordant};
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

/// Paired counts as a test sees them: of one seed, or the means over several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pairs {
    /// Images that only the variant answers right (b).
    pub(crate) b: f64,
    /// Images that only the other answers right (c).
    pub(crate) c: f64,
    /// All test images (n).
    pub(crate) n: f64,
}

impl Pairs {
    /// The p-value of McNemar's test with its correction for continuity.
    ///
    /// Were both models equally good, each discordant image would be as likely to favour either:
    ///
    /// ```text
    /// z = max(0, |b − c| − 1) / √(b + c)           p = erfc(z/√2)
    /// ```
    ///
    /// The correction takes one image from the difference, so that few images do not promise too much: whatever b + c is,
    /// two equally good models get p ≤ 0.05 at most once in twenty.
    ///
    /// # References
    ///
    /// Q. McNemar, *Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages*,
    /// Psychometrika 12, 1947. A. L. Edwards, *Note on the "Correction for Continuity"*, Psychometrika 13, 1948.
    /// T. G. Dietterich, *Approximate Statistical Tests for Comparing Supervised Classification Learning Algorithms*, Neural
    /// Computation 10, 1998: recommends it where an algorithm can be trained only once, and says that it does not measure
    /// the variation that comes from the training set or from the algorithm's own randomness.
    pub(crate) fn p_value(self) -> f64 {
        normal(self.deviation(0.0))
    }

    /// The differences, in points, that the same test does not reject at so many deviations: at 5 % for 1.96.
    ///
    /// For a difference δ other than 0 the test is Tango's, of which McNemar's is the case δ = 0, with the same correction:
    ///
    /// ```text
    /// z(δ) = (|b − c − nδ| − 1) / √(n (2q + δ(1 − δ)))
    /// q    = (√(B² − 4AC) − B) / 2A    A = 2n,  B = −b − c + (2n − b + c) δ,  C = −c δ (1 − δ)
    /// ```
    ///
    /// where q is the likeliest rate of images that only the other has right if the difference is δ. The interval ends
    /// where z(δ) is `deviations`; for 1.96 it leaves out 0 exactly if p < 0.05.
    ///
    /// # References
    ///
    /// T. Tango, *Equivalence Test and Confidence Interval for the Difference in Proportions for the Paired-Sample Design*,
    /// Statistics in Medicine 17, 1998.
    pub(crate) fn interval(self, deviations: f64) -> Interval {
        let mirrored = Self {
            b: self.c,
            c: self.b,
            ..self
        };
        Interval {
            low: 100.0 * self.lower_end(deviations),
            high: -100.0 * mirrored.lower_end(deviations),
        }
    }

    /// The smallest difference, as a share of the images, that is not rejected.
    fn lower_end(self, deviations: f64) -> f64 {
        let rejected = |delta: f64| self.deviation(delta) > deviations;
        if !rejected(-1.0) {
            return -1.0;
        }
        // 0 comes first, so that rounding cannot put the end on its other side.
        let estimate = (self.b - self.c) / self.n;
        let (mut low, mut high) = match rejected(0.0) {
            true => (0.0, estimate),
            false => (-1.0, estimate.min(0.0)),
        };
        // Each step halves it: the last place of a double after 60.
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if rejected(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    /// z(δ) with the sign of what was seen above δ; the correction takes away from either sign.
    fn deviation(self, delta: f64) -> f64 {
        let Self { b, c, n } = self;
        let above = b - c - n * delta;
        let (a, half) = (2.0 * n, -b - c + (2.0 * n - b + c) * delta);
        let constant = -c * delta * (1.0 - delta);
        let rate = ((half * half - 4.0 * a * constant).max(0.0).sqrt() - half) / (2.0 * a);
        let spread = (n * (2.0 * rate + delta * (1.0 - delta))).max(0.0).sqrt();
        let corrected = above.signum() * (above.abs() - 1.0).max(0.0);
        if corrected == 0.0 {
            0.0
        } else {
            corrected / spread
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::distributions::DEVIATION;

    fn pairs(b: u32, c: u32, n: u32) -> Pairs {
        Pairs {
            b: f64::from(b),
            c: f64::from(c),
            n: f64::from(n),
        }
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
    fn p_values_by_hand() {
        // z by hand, p from Python: math.erfc(z / math.sqrt(2)); beside it the p of the exact binomial test.
        let cases = [
            // No discordant image, and one: no evidence at all.
            (0, 0, 1.0),
            (0, 1, 1.0),
            // 1/√2, 4/√5, 5/√6: six in a row is the first that is rarer than one in twenty, as in the exact test.
            (0, 2, 0.479_500_122_186_953_5),
            (5, 0, 0.073_638_270_120_302_65),
            (6, 0, 0.041_226_833_337_163_69),
            // 7/√12 (exact: 0.0386), 49/√550 (0.0366), 299/√10 300 (0.0032).
            (10, 2, 0.043_308_142_810_791_99),
            (300, 250, 0.036_674_697_606_705_04),
            (5000, 5300, 0.003_217_724_065_342_545_5),
        ];
        for (b, c, expected) in cases {
            let found = pairs(b, c, 10_300).p_value();
            assert!((found / expected - 1.0).abs() < 1e-9, "{b}, {c}: {found}");
        }
    }

    /// Whatever the number of discordant images, equally good models are told apart at most once in twenty: exact
    /// binomials, each from the one before.
    #[test]
    fn equal_models_are_seldom_told_apart() {
        let mut row = vec![1.0_f64];
        for m in 1..=400_u32 {
            let mut next = vec![0.5 * row[0]];
            next.extend(row.windows(2).map(|pair| 0.5 * (pair[0] + pair[1])));
            next.push(0.5 * row[row.len() - 1]);
            row = next;
            let told_apart: f64 = (0..=m)
                .zip(&row)
                .filter(|(b, _)| pairs(*b, m - b, 400).p_value() < 0.05)
                .map(|(_, probability)| probability)
                .sum();
            assert!(told_apart <= 0.05, "{m}: {told_apart}");
        }
    }

    #[test]
    fn intervals_by_another_way() {
        // Python: q by golden section on the likelihood, the ends by bisection.
        let cases = [
            (12, 2, 50, 3.8396, 36.5592),
            // Few images: wide, and never of width 0.
            (0, 3, 44, -21.1592, 5.5554),
            (0, 0, 44, -11.8077, 11.8077),
            (5, 0, 100, -0.6396, 12.4768),
            (6, 0, 100, 0.3223, 13.7495),
            // Every image.
            (0, 100, 100, -100.0, -90.7797),
            (295, 413, 10_000, -1.7148, -0.6503),
            (328, 4060, 10_000, -38.4018, -36.2364),
        ];
        for (b, c, n, low, high) in cases {
            let found = pairs(b, c, n).interval(DEVIATION);
            // Rounded to four decimals.
            for (found, expected) in [(found.low, low), (found.high, high)] {
                assert!((found - expected).abs() < 6e-5, "{b}, {c}, {n}: {found}");
            }
        }
    }

    proptest! {
        /// The one rule: the interval leaves 0 out exactly where p is below 0.05, and it holds what was seen.
        #[test]
        fn mark_interval_and_p_never_contradict(b in 0u32..3000, c in 0u32..3000, rest in 0u32..10_000) {
            for (b, c) in [(b, c), (b % 12, c % 12), (b, b.saturating_sub(c % 200))] {
                let pairs = pairs(b, c, (b + c + rest).max(1));
                let (p, interval) = (pairs.p_value(), pairs.interval(DEVIATION));
                prop_assert_eq!(p < 0.05, !interval.holds(0.0), "{:?} {} {:?}", pairs, p, interval);
                let seen = 100.0 * (pairs.b - pairs.c) / pairs.n;
                prop_assert!(interval.holds(seen), "{:?} {:?}", pairs, interval);
                prop_assert!(interval.low >= -100.0 && interval.high <= 100.0);
                prop_assert!((0.0..=1.0).contains(&p));
            }
        }

        /// Which of the two is called the variant only turns the sign.
        #[test]
        fn the_two_may_change_places(b in 0u32..3000, c in 0u32..3000, rest in 0u32..10_000) {
            let n = (b + c + rest).max(1);
            let (one, other) = (pairs(b, c, n), pairs(c, b, n));
            prop_assert_eq!(one.p_value(), other.p_value());
            prop_assert_eq!(one.interval(DEVIATION).low, -other.interval(DEVIATION).high);
        }
    }
}
