//! Whether a difference to the baseline is more than chance: two sources of chance, two standard errors.

use serde::{Deserialize, Serialize};

use super::{Discordant, ResultLine, Spread, mcnemar};

/// What the difference between a variant and its baseline amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// More accurate than its baseline.
    Better,
    /// Less accurate than its baseline.
    Worse,
    /// Chance may explain the difference: it is within two standard errors.
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

/// A difference with its errors and verdict.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Better, worse or unresolved.
    pub verdict: Verdict,
    /// Whether the verdict speaks about these weights or about the method.
    pub holds_for: HoldsFor,
    /// Whether training lies between the baseline and the variant.
    pub trained: bool,
    /// The standard error that comes from the choice of test images, in points.
    pub error_images: f64,
    /// The standard error of the mean over the seeds, in points; `None` for one seed.
    pub error_seeds: Option<f64>,
    /// The difference, up or down, that a verdict must exceed, in points.
    pub threshold: f64,
    /// The images on which exactly one of the two is right, all seeds together; `None` if a line does not say.
    pub discordant: Option<Discordant>,
    /// The p-value of McNemar's exact test on these counts. Over several seeds it looks more certain than it is: the images
    /// are the same ones.
    pub p_value: Option<f64>,
}

impl Judgement {
    /// The standard error of the mean difference: the larger of the two, in points.
    pub fn error(&self) -> f64 {
        self.error_images.max(self.error_seeds.unwrap_or(0.0))
    }
}

/// Two standard errors, as everywhere in the reports.
const TWO: f64 = 2.0;

/// The most that chance may have to say for a verdict.
const LEVEL: f64 = 0.05;

/// Judges the mean difference `delta` of the lines of one variant, one line per seed.
///
/// ```text
/// e_s     = 100/n √(b + c − (b − c)²/n)          of seed s: b, c discordant counts, n test images
/// e       = mean of e_s over the seeds
/// σ       = s/√N                                 s: standard deviation of Δ over N ≥ 2 seeds
/// reach   = max(2 e, max(2, t(N − 1)) σ)         t: Student's two-sided 95 % quantile
/// verdict = unresolved if |mean Δ| ≤ reach, or p > 0.05 in McNemar's exact test; else better or worse
/// ```
///
/// Both errors count because neither contains the other. All seeds answer the same test images, so that their spread knows
/// nothing of the choice of images, and e does not shrink with more seeds (the mean of the `e_s` bounds the error of the mean
/// however the seeds' errors are related). The paired counts, on the other hand, know nothing of training. For few discordant
/// images two standard errors promise too much, hence the exact test.
///
/// A line without counts is judged as if the two models had been tested on different images, which is the larger error:
///
/// ```text
/// e_s     = √((p(100 − p) + q(100 − q)) / n)     p, q the two accuracies in percent
/// ```
pub(super) fn judge(group: &[&ResultLine], delta: &Spread, trained: bool) -> Judgement {
    let errors = group.iter().map(|line| match line.discordant {
        Some(counts) => paired_error(counts, line.n_test),
        None => unpaired_error(line.top1, line.top1_baseline, line.n_test),
    });
    let error_images = errors.sum::<f64>() / group.len().max(1) as f64;
    let discordant = group
        .iter()
        .map(|line| line.discordant)
        .reduce(|a, b| Some(a? + b?))
        .flatten();
    let p_value = discordant.map(mcnemar);
    let over_seeds = delta
        .error
        .map_or(0.0, |error| t_quantile(group.len() - 1).max(TWO) * error);
    let threshold = (TWO * error_images).max(over_seeds);
    let by_chance = delta.mean.abs() <= threshold || p_value.is_some_and(|p| p > LEVEL);
    Judgement {
        verdict: match by_chance {
            true => Verdict::Unresolved,
            false if delta.mean < 0.0 => Verdict::Worse,
            false => Verdict::Better,
        },
        holds_for: match group.len() {
            1 => HoldsFor::Weights,
            _ => HoldsFor::Method,
        },
        trained,
        error_images,
        error_seeds: delta.error,
        threshold,
        discordant,
        p_value,
    }
}

/// The standard error of a difference between two models on the same images, in points.
fn paired_error(counts: Discordant, n_test: u64) -> f64 {
    let n = n_test.max(1) as f64;
    let (b, c) = (counts.only_variant as f64, counts.only_baseline as f64);
    100.0 / n * (b + c - (b - c).powi(2) / n).max(0.0).sqrt()
}

/// The standard error of a difference between two models on different images, in points.
fn unpaired_error(top1: f64, baseline: f64, n_test: u64) -> f64 {
    let variance = |percent: f64| percent * (100.0 - percent);
    ((variance(top1) + variance(baseline)) / n_test.max(1) as f64).sqrt()
}

/// The two-sided 95 % quantile of Student's t.
///
/// # References
///
/// Student, *The Probable Error of a Mean*, Biometrika 6, 1908.
pub(crate) fn t_quantile(degrees: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    match degrees {
        0 => f64::INFINITY,
        _ => TABLE.get(degrees - 1).copied().unwrap_or_else(|| {
            // The first two terms of its expansion in 1/degrees around the normal quantile: right to three decimals here.
            let (z, n) = (1.959_964_f64, degrees as f64);
            z + (z.powi(3) + z) / (4.0 * n)
                + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample_lines;
    use crate::results::summarize;

    /// A line per seed: images that only the variant and only the baseline has right, of `n_test`.
    fn judged(seeds: &[(u64, u64)], n_test: u64) -> Judgement {
        let lines: Vec<ResultLine> = seeds
            .iter()
            .zip(0..)
            .map(|(&(only_variant, only_baseline), seed)| ResultLine {
                seed,
                n_test,
                top1: 50.0 + 100.0 * only_variant as f64 / n_test as f64,
                top1_baseline: 50.0 + 100.0 * only_baseline as f64 / n_test as f64,
                discordant: Some(Discordant {
                    only_variant,
                    only_baseline,
                }),
                ..sample_lines()[3].clone()
            })
            .collect();
        summarize(&lines).rows[0].judgement.unwrap()
    }

    #[test]
    fn one_seed_is_judged_by_its_paired_images() {
        struct Case {
            counts: (u64, u64),
            n_test: u64,
            error: f64,
            verdict: Verdict,
        }
        use Verdict::{Better, Unresolved, Worse};
        let cases = [
            // The same answers.
            Case {
                counts: (0, 0),
                n_test: 100,
                error: 0.0,
                verdict: Unresolved,
            },
            // √(100 − 0) of 10 000 images.
            Case {
                counts: (50, 50),
                n_test: 10_000,
                error: 0.1,
                verdict: Unresolved,
            },
            // Two errors are 2 √(100 − 20²/10 000) = 19.996 images, one fewer than the difference; p = 0.057.
            Case {
                counts: (60, 40),
                n_test: 10_000,
                error: 0.09998,
                verdict: Unresolved,
            },
            // p = 0.035.
            Case {
                counts: (61, 39),
                n_test: 10_000,
                error: 0.099_976,
                verdict: Better,
            },
            Case {
                counts: (39, 61),
                n_test: 10_000,
                error: 0.099_976,
                verdict: Worse,
            },
            // Of few images 2 √(5 − 25/100) = 4.36 < 5, but p = 2/2⁵ = 0.0625.
            Case {
                counts: (5, 0),
                n_test: 100,
                error: 2.179_449,
                verdict: Unresolved,
            },
            // p = 2/2⁶ = 0.03125; √(6 − 36/100) = 2.374868.
            Case {
                counts: (6, 0),
                n_test: 100,
                error: 2.374_868,
                verdict: Better,
            },
            // Every image: nothing varies.
            Case {
                counts: (0, 10),
                n_test: 10,
                error: 0.0,
                verdict: Worse,
            },
            // p = 0.039; 2 √(12 − 8²/12) = 5.16 of a set of twelve images.
            Case {
                counts: (10, 2),
                n_test: 12,
                error: 21.516_574,
                verdict: Better,
            },
        ];
        for case in cases {
            let judgement = judged(&[case.counts], case.n_test);
            assert_eq!(judgement.verdict, case.verdict, "{:?}", case.counts);
            assert_eq!(judgement.holds_for, HoldsFor::Weights);
            assert_eq!(judgement.error_seeds, None);
            // Hand values are rounded to six decimals.
            assert!(
                (judgement.error() - case.error).abs() < 1e-6,
                "{judgement:?}"
            );
        }
    }

    #[test]
    fn a_difference_of_exactly_two_errors_is_unresolved() {
        let spread = |mean| Spread {
            mean,
            std: None,
            error: None,
            min: mean,
            max: mean,
        };
        let line = ResultLine {
            n_test: 10_000,
            top1: 50.0,
            top1_baseline: 50.0,
            discordant: None,
            ..sample_lines()[3].clone()
        };
        let threshold = judge(&[&line], &spread(0.0), true).threshold;
        // √(2 · 50 · 50 / 10 000) = 0.70711.
        assert!((threshold - std::f64::consts::SQRT_2).abs() < 1e-12);
        let verdict = |mean| judge(&[&line], &spread(mean), true).verdict;
        assert_eq!(verdict(threshold), Verdict::Unresolved);
        assert_eq!(verdict(-threshold), Verdict::Unresolved);
        assert_eq!(verdict(threshold.next_up()), Verdict::Better);
        assert_eq!(verdict(-threshold.next_up()), Verdict::Worse);
    }

    #[test]
    fn several_seeds_are_judged_by_the_larger_error() {
        struct Case {
            seeds: &'static [(u64, u64)],
            error_images: f64,
            error_seeds: f64,
            threshold: f64,
            verdict: Verdict,
        }
        let cases = [
            // Equal differences of −1 point: the images remain, and do not shrink with the seeds.
            // √(300 − 100²/10 000) / 100 = 0.172916.
            Case {
                seeds: &[(100, 200), (100, 200), (100, 200)],
                error_images: 0.172_916,
                error_seeds: 0.0,
                threshold: 0.345_832,
                verdict: Verdict::Worse,
            },
            // −1, −2, −3 points: s/√3 = 0.57735, times 4.303 = 2.48434. Two errors would have called it resolved.
            // (√(300 − 1) + √(400 − 4) + √(500 − 9)) / 300 = 0.197833.
            Case {
                seeds: &[(100, 200), (100, 300), (100, 400)],
                error_images: 0.197_833,
                error_seeds: 0.577_350,
                threshold: 2.484_338,
                verdict: Verdict::Unresolved,
            },
            // −2 and −2.2 points: s/√2 = 0.1, times 12.706; (√(400 − 4) + √(420 − 4.84)) / 200 = 0.201376.
            Case {
                seeds: &[(100, 300), (100, 320)],
                error_images: 0.201_376,
                error_seeds: 0.1,
                threshold: 1.2706,
                verdict: Verdict::Worse,
            },
        ];
        for case in cases {
            let judgement = judged(case.seeds, 10_000);
            assert_eq!(judgement.verdict, case.verdict, "{judgement:?}");
            assert_eq!(judgement.holds_for, HoldsFor::Method);
            for (found, expected) in [
                (judgement.error_images, case.error_images),
                (judgement.error_seeds.unwrap(), case.error_seeds),
                (judgement.threshold, case.threshold),
                (judgement.error(), case.error_images.max(case.error_seeds)),
            ] {
                // Hand values are rounded to six decimals.
                assert!((found - expected).abs() < 1e-6, "{found} {judgement:?}");
            }
        }
    }

    #[test]
    fn counts_are_summed_over_the_seeds_that_all_have_them() {
        let judgement = judged(&[(6, 1), (4, 1)], 1000);
        assert_eq!(
            judgement.discordant,
            Some(Discordant {
                only_variant: 10,
                only_baseline: 2
            })
        );
        assert!((judgement.p_value.unwrap() - 0.038_574_218_75).abs() < 1e-12);

        let with = ResultLine {
            discordant: Some(Discordant::default()),
            ..sample_lines()[3].clone()
        };
        let without = ResultLine {
            seed: 1,
            discordant: None,
            ..with.clone()
        };
        let judgement = summarize(&[with, without]).rows[0].judgement.unwrap();
        assert_eq!((judgement.discordant, judgement.p_value), (None, None));
    }

    #[test]
    fn quantiles_of_student() {
        assert_eq!(t_quantile(0), f64::INFINITY);
        assert_eq!(t_quantile(1), 12.706);
        assert_eq!(t_quantile(2), 4.303);
        assert_eq!(t_quantile(9), 2.262);
        assert_eq!(t_quantile(30), 2.042);
        // Beyond the table, from published ones.
        for (degrees, t) in [(31, 2.040), (40, 2.021), (120, 1.980)] {
            assert!((t_quantile(degrees) - t).abs() < 6e-4, "{degrees}");
        }
        assert!((1..60).all(|n| t_quantile(n) > t_quantile(n + 1)));
    }
}
