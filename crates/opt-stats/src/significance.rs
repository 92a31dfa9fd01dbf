//! Whether a difference between two variants is more than chance: an interval from two sources of chance, and one rule.

use serde::{Deserialize, Serialize};

use crate::distributions::{DEVIATION, LEVEL, normal, t_quantile, t_quantile_at};
use crate::mcnemar::Pairs;
use crate::{Discordant, Interval, Pair, Spread};

/// What the difference between two variants amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// More accurate than the other: the interval lies above 0.
    Better,
    /// Less accurate than the other: the interval lies below 0.
    Worse,
    /// Chance may explain the difference: the interval holds 0.
    Unresolved,
}

/// What a verdict speaks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldsFor {
    /// One seed: these weights, on images like these. Another seed gives other weights, and how much that changes is not
    /// known.
    Weights,
    /// Several seeds: the method, as far as their spread shows.
    Method,
}

/// A difference with its interval and verdict.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SignificanceTest {
    /// Better, worse or unresolved: where the interval lies.
    pub verdict: Verdict,
    /// Whether the verdict speaks about these weights or about the method.
    pub holds_for: HoldsFor,
    /// Whether training lies between the two.
    pub trained: bool,
    /// The 95 % interval of the difference.
    pub interval: Interval,
    /// The level at which the interval would end at 0: below 0.05 exactly where the interval leaves 0 out.
    pub p_value: f64,
    /// The interval that the choice of test images alone gives.
    pub images: Interval,
    /// The interval that the spread over the seeds alone gives; `None` for one seed.
    pub seeds: Option<Interval>,
    /// The images on which exactly one of the two is right, all seeds together; `None` if that is not known, or not of
    /// equally many images with every seed: then they are not paired.
    pub discordant: Option<Discordant>,
}

impl SignificanceTest {
    /// Tests the mean difference of `pairs`, one per seed; `trained` says whether training lies between the two. Without pairs
    /// nothing is known: unresolved, with an interval of NaN.
    ///
    /// ```text
    /// images    Tango's interval of the mean counts b, c over the seeds; it reaches e from their difference
    /// seeds     mean Δ ± t(N − 1) s/√N        s: standard deviation of Δ over N ≥ 2 seeds
    /// interval  one seed: that of the images; several: mean Δ ± √(e² + (t(N − 1) s/√N)²), each side with its own e
    /// p         one seed: McNemar's; several: the level at which that interval ends at 0
    /// verdict   unresolved if the interval holds 0; else better or worse
    /// ```
    ///
    /// One rule for mark, interval and p: the interval leaves out 0 exactly if p < 0.05, and that is a verdict.
    ///
    /// The two errors add because neither contains the other. All seeds answer the same test images, so that their spread knows
    /// nothing of the choice of images, and the images' interval does not shrink with more seeds (it is that of one seed with the
    /// mean counts, however the seeds' errors are related). The paired counts, on the other hand, know nothing of training. As the
    /// spread knows of that part of the images' error that the seeds do not share, the sum is rather too large: of two methods that
    /// differ in nothing at most one in twenty gets a mark, fewer where the seeds share little.
    ///
    /// Pairs without counts of equally many images are judged as if the two models had been tested on different images, which is
    /// the larger error:
    ///
    /// ```text
    /// images    mean Δ ± 1.96 e       e = √((p(100 − p) + q(100 − q)) / n)     p, q the two accuracies in percent
    /// ```
    ///
    /// # References
    ///
    /// Limits that are recovered from those of the parts: G. Y. Zou and A. Donner, *Construction of Confidence Limits about Effect
    /// Measures: A General Approach*, Statistics in Medicine 27, 2008.
    #[must_use]
    pub fn of(pairs: &[Pair], trained: bool) -> Self {
        let delta = Spread::of_differences(pairs);
        let counted = paired(pairs);
        let images = match counted {
            Some((counts, _)) => Images::Paired(counts),
            None => {
                let errors = pairs.iter().map(unpaired_error).sum::<f64>();
                Images::Unpaired {
                    mean: delta.mean,
                    error: errors / pairs.len().max(1) as f64,
                }
            }
        };
        let degrees = pairs.len().saturating_sub(1);
        let of_images = images.interval(DEVIATION);
        let seeds = delta
            .error
            .map(|error| Interval::around(delta.mean, t_quantile(degrees) * error));
        // Seeds that agree in all add nothing.
        let (interval, p_value) = match delta.error.filter(|error| *error > 0.0) {
            None => (of_images, images.p_value()),
            Some(error) => {
                let sum = Sum {
                    mean: delta.mean,
                    images,
                    error,
                    degrees,
                };
                let interval = sum.interval(DEVIATION, t_quantile(degrees));
                (interval, sum.p_value(interval))
            }
        };
        Self {
            verdict: match interval {
                Interval { low, .. } if low > 0.0 => Verdict::Better,
                Interval { high, .. } if high < 0.0 => Verdict::Worse,
                Interval { .. } => Verdict::Unresolved,
            },
            holds_for: match pairs.len() {
                0 | 1 => HoldsFor::Weights,
                2.. => HoldsFor::Method,
            },
            trained,
            interval,
            p_value,
            images: of_images,
            seeds,
            discordant: counted.map(|(_, sum)| sum),
        }
    }

    /// The same for the two in the other order.
    #[must_use]
    pub fn reversed(self) -> Self {
        let turned = |interval: Interval| Interval {
            low: -interval.high,
            high: -interval.low,
        };
        Self {
            verdict: match self.verdict {
                Verdict::Better => Verdict::Worse,
                Verdict::Worse => Verdict::Better,
                Verdict::Unresolved => Verdict::Unresolved,
            },
            interval: turned(self.interval),
            images: turned(self.images),
            seeds: self.seeds.map(turned),
            discordant: self.discordant.map(|counts| Discordant {
                only_variant: counts.only_baseline,
                only_baseline: counts.only_variant,
            }),
            ..self
        }
    }
}

/// The mean counts and the sums, if every seed has counts of equally many images.
fn paired(pairs: &[Pair]) -> Option<(Pairs, Discordant)> {
    let counts = pairs.iter().map(|pair| pair.discordant);
    let (sum, seeds) = (counts.reduce(|a, b| Some(a? + b?))??, pairs.len() as f64);
    let n = pairs.first()?.n_test;
    let alike = n > 0 && pairs.iter().all(|pair| pair.n_test == n);
    let mean = Pairs {
        b: sum.only_variant as f64 / seeds,
        c: sum.only_baseline as f64 / seeds,
        n: n as f64,
    };
    alike.then_some((mean, sum))
}

/// What the choice of test images leaves open.
#[derive(Debug, Clone, Copy)]
enum Images {
    /// Of the mean counts.
    Paired(Pairs),
    /// Of a mean difference, with its standard error.
    Unpaired { mean: f64, error: f64 },
}

impl Images {
    fn centre(self) -> f64 {
        match self {
            Self::Paired(Pairs { b, c, n }) => 100.0 * (b - c) / n,
            Self::Unpaired { mean, .. } => mean,
        }
    }

    fn interval(self, deviations: f64) -> Interval {
        match self {
            Self::Paired(pairs) => pairs.interval(deviations),
            Self::Unpaired { mean, error } => Interval::around(mean, deviations * error),
        }
    }

    fn p_value(self) -> f64 {
        match self {
            Self::Paired(pairs) => pairs.p_value(),
            Self::Unpaired { mean: 0.0, .. } => 1.0,
            Self::Unpaired { error: 0.0, .. } => 0.0,
            Self::Unpaired { mean, error } => normal(mean / error),
        }
    }
}

/// The error of the images and that of the seeds together.
#[derive(Debug, Clone, Copy)]
struct Sum {
    mean: f64,
    images: Images,
    /// The standard error over the seeds.
    error: f64,
    degrees: usize,
}

impl Sum {
    /// The interval where the images' ends at so many `deviations` and the seeds' at so many errors.
    fn interval(self, deviations: f64, errors: f64) -> Interval {
        let (centre, images) = (self.images.centre(), self.images.interval(deviations));
        let seeds = errors * self.error;
        Interval {
            low: self.mean - (centre - images.low).hypot(seeds),
            high: self.mean + (images.high - centre).hypot(seeds),
        }
    }

    /// The level at which the interval ends at 0, at least 2e-9 (6 deviations); `interval` is the one at 5 %.
    fn p_value(self, interval: Interval) -> f64 {
        let resolved = !interval.holds(0.0);
        let (mut low, mut high) = match resolved {
            true => (DEVIATION, 6.0),
            false => (0.0, DEVIATION),
        };
        // To 12 decimals.
        for _ in 0..42 {
            let middle = 0.5 * (low + high);
            let errors = t_quantile_at(normal(middle), self.degrees);
            if self.interval(middle, errors).holds(0.0) {
                high = middle;
            } else {
                low = middle;
            }
        }
        match resolved {
            // Rounding cannot put it on the interval's other side.
            true => normal(high).min(LEVEL.next_down()),
            false => normal(low).max(LEVEL),
        }
    }
}

/// The standard error of a difference between two models on different images, in points.
fn unpaired_error(pair: &Pair) -> f64 {
    let variance = |percent: f64| percent * (100.0 - percent);
    ((variance(pair.top1) + variance(pair.other)) / pair.n_test.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::distributions::student;

    /// A pair per seed: images that only the variant and only the other has right, of `n_test`.
    fn judged(seeds: &[(u64, u64)], n_test: u64) -> SignificanceTest {
        let pairs: Vec<Pair> = seeds
            .iter()
            .map(|&(only_variant, only_baseline)| Pair {
                top1: 50.0 + 100.0 * only_variant as f64 / n_test as f64,
                other: 50.0 + 100.0 * only_baseline as f64 / n_test as f64,
                n_test,
                discordant: Some(Discordant {
                    only_variant,
                    only_baseline,
                }),
            })
            .collect();
        SignificanceTest::of(&pairs, true)
    }

    #[test]
    fn one_seed_is_judged_by_its_paired_images() {
        use Verdict::{Better, Unresolved, Worse};
        let cases = [
            // The same answers.
            ((0, 0), 100, Unresolved),
            ((50, 50), 10_000, Unresolved),
            // 19/√100 = 1.9 and 21/√100 = 2.1 deviations.
            ((60, 40), 10_000, Unresolved),
            ((61, 39), 10_000, Better),
            ((39, 61), 10_000, Worse),
            // Of few images 4/√5 = 1.79 and 5/√6 = 2.04.
            ((5, 0), 100, Unresolved),
            ((6, 0), 100, Better),
            // Every image.
            ((0, 10), 10, Worse),
            ((10, 2), 12, Better),
        ];
        for (counts, n_test, verdict) in cases {
            let test = judged(&[counts], n_test);
            assert_eq!(test.verdict, verdict, "{counts:?} {test:?}");
            assert_eq!(test.holds_for, HoldsFor::Weights);
            assert_eq!(test.interval, test.images);
            assert_eq!(test.seeds, None);
        }
    }

    /// Two rows of one table, both with counts over three seeds: their marks said the opposite of what their errors and
    /// p-values said.
    #[test]
    fn a_mark_says_what_its_interval_and_its_p_say() {
        // −1.97 points with 0.83 over the seeds: 2.4 errors, of which Student asks for 4.3.
        let wide = judged(&[(100, 135), (100, 347), (100, 409)], 10_000);
        assert!((wide.p_value - 0.14).abs() < 0.01, "{wide:?}");
        assert_eq!(wide.verdict, Verdict::Unresolved);
        assert!(wide.interval.low < -5.0 && wide.interval.high > 1.0);
        // The images alone would be sure.
        assert!(wide.images.high < -1.0);

        // −1.80 points of one seed: (414 − 234 − 1)/√648 = 7 deviations.
        let sure = judged(&[(234, 414)], 10_000);
        assert_eq!(sure.verdict, Verdict::Worse);
        assert!(sure.p_value < 0.001 && sure.interval.high < 0.0);
    }

    #[test]
    fn pairs_without_counts_are_judged_as_if_on_different_images() {
        let pair = |difference: f64, n_test| Pair {
            top1: 50.0 + difference,
            other: 50.0,
            n_test,
            discordant: None,
        };
        // √(2 · 50 · 50 / 10 000) = 0.70711, times 1.96.
        let same = pair(0.0, 10_000);
        let test = SignificanceTest::of(&[same], true);
        assert!((test.interval.high - 1.385_903).abs() < 1e-6);
        assert_eq!((test.p_value, test.discordant), (1.0, None));
        for (difference, verdict) in [
            (1.38, Verdict::Unresolved),
            (1.39, Verdict::Better),
            (-1.38, Verdict::Unresolved),
            (-1.39, Verdict::Worse),
        ] {
            let pair = pair(difference, 10_000);
            let test = SignificanceTest::of(&[pair], true);
            assert_eq!(test.verdict, verdict, "{difference}");
        }
        // One seed of two without counts, and counts of different test sets.
        let counted = Pair {
            discordant: Some(Discordant::default()),
            ..same
        };
        for pairs in [
            [counted, same],
            [
                counted,
                Pair {
                    n_test: 9,
                    ..counted
                },
            ],
        ] {
            let test = SignificanceTest::of(&pairs, true);
            assert!(test.images.reach() > 1.0, "{test:?}");
            // It was not paired, so it does not say that it was.
            assert_eq!(test.discordant, None);
        }
    }

    #[test]
    fn several_seeds_are_judged_by_both_intervals() {
        let cases = [
            // Equal differences of −1 point: the images remain, and do not shrink with the seeds.
            (
                vec![(100, 200), (100, 200), (100, 200)],
                Interval::around(-1.0, 0.0),
                Verdict::Worse,
            ),
            // −1, −2, −3 points: s/√3 = 0.57735, times 4.30265. Two errors would have called it resolved.
            (
                vec![(100, 200), (100, 300), (100, 400)],
                Interval::around(-2.0, 2.484_138),
                Verdict::Unresolved,
            ),
            // −2 and −2.2 points: s/√2 = 0.1, times 12.70620.
            (
                vec![(100, 300), (100, 320)],
                Interval::around(-2.1, 1.270_620),
                Verdict::Worse,
            ),
        ];
        for (counts, seeds, verdict) in cases {
            let test = judged(&counts, 10_000);
            assert_eq!(test.verdict, verdict, "{test:?}");
            assert_eq!(test.holds_for, HoldsFor::Method);
            let found = test.seeds.unwrap();
            // Hand values are rounded to six decimals.
            for (found, expected) in [(found.low, seeds.low), (found.high, seeds.high)] {
                assert!((found - expected).abs() < 1e-5, "{found} {test:?}");
            }
            // The squares add.
            let (images, all) = (test.images, test.interval);
            let mean = 0.5 * (found.low + found.high);
            let below = ((mean - images.low).powi(2) + found.reach().powi(2)).sqrt();
            let above = ((images.high - mean).powi(2) + found.reach().powi(2)).sqrt();
            assert!((all.low - (mean - below)).abs() < 1e-9, "{test:?}");
            assert!((all.high - (mean + above)).abs() < 1e-9, "{test:?}");
        }
        // As one seed has it: (200 − 100 − 1)/√300.
        let one = judged(&[(100, 200)], 10_000);
        let three = judged(&[(100, 200), (100, 200), (100, 200)], 10_000);
        assert_eq!(one.images, three.images);
    }

    /// Beyond either error, and not beyond both together: the choice of images and training may each have done a part of it.
    #[test]
    fn the_two_errors_add() {
        // −0.6 points, images ±0.51 and seeds ±0.39: √(0.51² + 0.39²) = 0.64.
        let both = judged(
            &[310, 330, 350, 370, 390, 410].map(|lost| (300, lost)),
            10_000,
        );
        let seeds = both.seeds.unwrap();
        assert!(both.images.high < 0.0 && seeds.high < 0.0, "{both:?}");
        assert_eq!(both.verdict, Verdict::Unresolved, "{both:?}");
        assert!(both.p_value > LEVEL);
    }

    #[test]
    fn the_level_of_an_interval_that_ends_at_nothing() {
        let p = |mean, image_error, error, degrees| {
            let sum = Sum {
                mean,
                images: Images::Unpaired {
                    mean,
                    error: image_error,
                },
                error,
                degrees,
            };
            sum.p_value(sum.interval(DEVIATION, t_quantile(degrees)))
        };
        for mean in [0.0, 0.5, -1.5, 1.959, 1.961, 3.0] {
            // The seeds alone are Student's.
            for degrees in [1, 2, 9] {
                let (found, expected) = (p(mean, 0.0, 0.5, degrees), student(2.0 * mean, degrees));
                assert!((found / expected - 1.0).abs() < 1e-6, "{mean}: {found}");
            }
            // With so many seeds t is z, and √(0.6² + 0.8²) = 1.
            let (found, expected) = (p(mean, 0.6, 0.8, 2000), normal(mean));
            assert!((found / expected - 1.0).abs() < 0.01, "{mean}: {found}");
        }
    }

    /// Lines of results may come from anywhere: whatever they say, a test ends and promises nothing that it cannot know.
    #[test]
    fn hostile_numbers_are_judged_and_nothing_is_promised() {
        let none = SignificanceTest::of(&[], true);
        assert_eq!(none.verdict, Verdict::Unresolved);
        assert!(none.interval.low.is_nan());
        let counts = |only_variant, only_baseline| {
            Some(Discordant {
                only_variant,
                only_baseline,
            })
        };
        for top1 in [f64::NAN, f64::INFINITY, -1e308, 0.0, 1e-308, 1e308] {
            for discordant in [None, counts(0, 0), counts(u64::MAX, 1), counts(1, u64::MAX)] {
                for n_test in [0, 1, u64::MAX] {
                    let pair = Pair {
                        top1,
                        other: 50.0,
                        n_test,
                        discordant,
                    };
                    for pairs in [
                        &[pair][..],
                        &[pair, pair],
                        &[pair, pair, Pair { top1: 50.0, ..pair }],
                    ] {
                        let test = SignificanceTest::of(pairs, true);
                        let is_resolved = test.verdict != Verdict::Unresolved;
                        assert!(!is_resolved || test.p_value < LEVEL, "{pairs:?}: {test:?}");
                        assert_eq!(test.reversed().reversed().verdict, test.verdict);
                    }
                }
            }
        }
    }

    #[test]
    fn a_test_turns_with_its_two_sides() {
        for (counts, other) in [([(61, 39)], [(39, 61)]), ([(50, 60)], [(60, 50)])] {
            assert_eq!(judged(&counts, 10_000).reversed(), judged(&other, 10_000));
        }
    }

    #[test]
    fn counts_are_summed_over_the_seeds_that_all_have_them() {
        let test = judged(&[(6, 1), (4, 1)], 1000);
        assert_eq!(
            test.discordant,
            Some(Discordant {
                only_variant: 10,
                only_baseline: 2
            })
        );
        // The means 5 and 1: 3/√6, as one seed would have it.
        assert_eq!(test.images, judged(&[(5, 1)], 1000).images);
    }

    proptest! {
        #[test]
        fn mark_interval_and_p_never_contradict(
            seeds in prop::collection::vec((0u64..400, 0u64..400), 1..6),
            n_test in 800u64..20_000,
            counted in any::<bool>(),
        ) {
            let pairs: Vec<Pair> = seeds
                .iter()
                .map(|&(only_variant, only_baseline)| Pair {
                    top1: 50.0 + 100.0 * only_variant as f64 / n_test as f64,
                    other: 50.0 + 100.0 * only_baseline as f64 / n_test as f64,
                    n_test,
                    discordant: counted.then_some(Discordant { only_variant, only_baseline }),
                })
                .collect();
            let delta = Spread::of_differences(&pairs);
            let test = SignificanceTest::of(&pairs, true);
            let SignificanceTest { verdict, interval, p_value, .. } = test;
            prop_assert_eq!(verdict == Verdict::Unresolved, p_value >= LEVEL, "{:?}", test);
            prop_assert_eq!(verdict == Verdict::Unresolved, interval.holds(0.0), "{:?}", test);
            // Neither error is lost.
            for part in test.seeds.iter().chain([&test.images]) {
                prop_assert!(interval.low <= part.low + 1e-9 && part.high <= interval.high + 1e-9);
            }
            // What was seen is in the interval, up to the rounding of a mean.
            prop_assert!(interval.low <= delta.mean + 1e-9 && delta.mean - 1e-9 <= interval.high);
            match verdict {
                Verdict::Better => prop_assert!(delta.mean > 0.0),
                Verdict::Worse => prop_assert!(delta.mean < 0.0),
                Verdict::Unresolved => {}
            }
        }
    }
}
