//! Methods against each other: variants that cost the same are paired with one another, not each with its baseline.

use opt_stats::{Pair, SignificanceTest, Spread};
use serde::{Deserialize, Serialize};

use crate::pairing::{original_of, pair};
use crate::{Arm, Correct, ResultLine};

/// Variants that start from the same network and cost the same: which method is better, and is that sure?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The experiment.
    pub experiment: String,
    /// The network that all of them started from; `None` for a group, and if the lines do not have it.
    pub original: Option<String>,
    /// What they have in common.
    pub alike: Alike,
    /// The variants, the most accurate first.
    pub contenders: Vec<Contender>,
    /// Each with each that is more accurate, over the seeds that both have.
    pub contests: Vec<Contest>,
}

/// What the variants of a comparison have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alike {
    /// They answer one question of an experiment, with methods and controls: `ResultLine::group`.
    Group(String),
    /// The share of the weights that was removed, 0 to 1.
    Sparsity(f64),
    /// Bits of a stored weight and of an activation.
    Bits(u32, u32),
}

/// A variant in a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contender {
    /// The variant.
    pub variant: String,
    /// Its part in a group: what a method is worth is what its best arm has over the best control.
    #[serde(default)]
    pub arm: Option<Arm>,
    /// The place of its row in the summary, from 0.
    pub row: usize,
    /// Accuracy over its seeds, in percent.
    pub top1: Spread,
}

/// Two variants of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contest {
    /// The place among the contenders of the one that is judged.
    pub contender: usize,
    /// The place of the one that it is compared with.
    pub other: usize,
    /// The seeds that both have.
    pub seeds: Vec<u64>,
    /// Accuracy minus the other's with the same seed, in points.
    pub delta: Spread,
    /// Whether the mean difference is more than chance.
    pub significance: SignificanceTest,
}

impl Comparison {
    /// The best with a teacher against the best control without one, if there are both.
    #[must_use]
    pub fn taught(&self) -> Option<Taught<'_>> {
        let best = |arm| self.contenders.iter().position(|c| c.arm == Some(arm));
        let (taught, control) = (best(Arm::Taught)?, best(Arm::Control)?);
        let contest = self.contest(taught.max(control), taught.min(control))?;
        let (difference, significance) = match taught > control {
            true => (contest.delta.mean, contest.significance),
            false => (-contest.delta.mean, contest.significance.reversed()),
        };
        Some(Taught {
            taught: &self.contenders[taught],
            control: &self.contenders[control],
            difference,
            significance,
        })
    }

    /// The contest of two contenders, if they have a seed in common.
    #[must_use]
    pub fn contest(&self, contender: usize, other: usize) -> Option<&Contest> {
        self.contests
            .iter()
            .find(|contest| contest.contender == contender && contest.other == other)
    }
}

/// What teachers are worth in a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Taught<'a> {
    /// The best contender with a teacher.
    pub taught: &'a Contender,
    /// The best one without.
    pub control: &'a Contender,
    /// Accuracy of the first minus that of the second with the same seeds, in points.
    pub difference: f64,
    /// Whether that is more than chance.
    pub significance: SignificanceTest,
}

/// The comparisons among groups of lines, a group per row of the summary, in the order of their first rows.
pub(crate) fn comparisons(
    groups: &[Vec<&ResultLine>],
    lines: &[&ResultLine],
    correct: &[Correct],
) -> Vec<Comparison> {
    let mut found: Vec<(Key<'_>, Vec<usize>)> = Vec::new();
    for (row, group) in groups.iter().enumerate() {
        let Some(alike) = alike(group[0]) else {
            continue;
        };
        // Of a group the student alone is a part, and it has no original.
        let original = match alike {
            Alike::Group(_) => None,
            Alike::Sparsity(_) | Alike::Bits(..) => {
                original_of(group[0], lines).map(|line| line.variant.as_str())
            }
        };
        let key = Key {
            line: (&group[0].experiment, &group[0].model, &group[0].dataset),
            original,
            alike,
        };
        match found.iter_mut().find(|(other, _)| *other == key) {
            Some((_, rows)) => rows.push(row),
            None => found.push((key, vec![row])),
        }
    }
    found
        .into_iter()
        .filter(|(_, rows)| rows.len() > 1)
        .map(|(key, rows)| compared(key, rows, groups, correct))
        .collect()
}

#[derive(Debug, PartialEq)]
struct Key<'a> {
    /// Experiment, model, data set.
    line: (&'a str, &'a str, &'a str),
    original: Option<&'a str>,
    alike: Alike,
}

/// What a line has in common with those that it is compared with; `None` for a line that is compared with its baseline alone.
fn alike(line: &ResultLine) -> Option<Alike> {
    if !line.group.is_empty() {
        return Some(Alike::Group(line.group.clone()));
    }
    let bits = || Alike::Bits(line.weight_bits, line.activation_bits);
    line.sparsity
        .map(Alike::Sparsity)
        .or_else(|| (line.weight_bits < 32).then(bits))
}

fn compared(
    key: Key<'_>,
    rows: Vec<usize>,
    groups: &[Vec<&ResultLine>],
    correct: &[Correct],
) -> Comparison {
    let mut contenders: Vec<Contender> = rows
        .into_iter()
        .map(|row| {
            let accuracies: Vec<f64> = groups[row].iter().map(|line| line.top1).collect();
            Contender {
                variant: groups[row][0].variant.clone(),
                arm: groups[row][0].arm,
                row,
                top1: Spread::of(&accuracies),
            }
        })
        .collect();
    // Of equals the earlier row comes first.
    contenders.sort_by(|a, b| b.top1.mean.total_cmp(&a.top1.mean));
    let mut contests = Vec::new();
    for contender in 0..contenders.len() {
        for other in 0..contender {
            let (ours, theirs) = (contenders[contender].row, contenders[other].row);
            contests.extend(
                contest(&groups[ours], &groups[theirs], correct).map(|contest| Contest {
                    contender,
                    other,
                    ..contest
                }),
            );
        }
    }
    Comparison {
        experiment: key.line.0.to_owned(),
        original: key.original.map(str::to_owned),
        alike: key.alike,
        contenders,
        contests,
    }
}

/// Two rows over the seeds that both have; places are filled in later.
fn contest(ours: &[&ResultLine], theirs: &[&ResultLine], correct: &[Correct]) -> Option<Contest> {
    let both: Vec<(&ResultLine, &ResultLine)> = ours
        .iter()
        .filter_map(|line| {
            let other = theirs.iter().find(|other| other.seed == line.seed)?;
            Some((*line, *other))
        })
        .collect();
    if both.is_empty() {
        return None;
    }
    let pairs: Vec<Pair> = both
        .iter()
        .map(|(line, other)| pair(line, other, None, correct))
        .collect();
    let is_trained = |line: &ResultLine| !line.train_precision.is_empty();
    let trained = both
        .iter()
        .any(|(line, other)| is_trained(line) || is_trained(other));
    Some(Contest {
        contender: 0,
        other: 0,
        seeds: both.iter().map(|(line, _)| line.seed).collect(),
        delta: Spread::of_differences(&pairs),
        significance: SignificanceTest::of(&pairs, trained),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::sample_lines;
    use crate::summarize;
    use opt_stats::Verdict;

    /// A line of `top1` right of a hundred images, and which: those from `first` on.
    fn line(variant: &str, seed: u64, first: usize, top1: usize) -> (ResultLine, Correct) {
        let line = ResultLine {
            variant: variant.to_owned(),
            seed,
            n_test: 100,
            top1: top1 as f64,
            top1_baseline: 91.6,
            ..sample_lines()[3].clone()
        };
        let labels = [0; 100];
        let answers: Vec<i64> = (0..100)
            .map(|i| i64::from(!(first..first + top1).contains(&i)))
            .collect();
        let correct = Correct::new(&line, &labels, &answers);
        (line, correct)
    }

    fn found(lines: Vec<(ResultLine, Correct)>) -> Vec<Comparison> {
        let (mut lines, correct): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
        lines.extend([0, 1].map(|seed| ResultLine {
            seed,
            ..sample_lines()[0].clone()
        }));
        summarize(&lines, &correct).comparisons
    }

    fn names(comparison: &Comparison) -> Vec<&str> {
        let contenders = comparison.contenders.iter();
        contenders.map(|c| c.variant.as_str()).collect()
    }

    #[test]
    fn variants_of_equal_sparsity_are_paired_with_each_other() {
        let pruned = |variant, sparsity, first, top1| {
            let (line, correct) = line(variant, 0, first, top1);
            let sparsity = Some(sparsity);
            (ResultLine { sparsity, ..line }, correct)
        };
        let comparisons = found(vec![
            pruned("80 % one-shot", 0.8, 0, 60),
            pruned("90 % one-shot", 0.9, 0, 50),
            pruned("80 % iterative", 0.8, 10, 70),
            pruned("90 % iterative", 0.9, 0, 52),
            pruned("95 % one-shot", 0.95, 0, 40),
        ]);
        let [first, second] = comparisons.as_slice() else {
            panic!("{comparisons:?}");
        };
        assert_eq!(first.alike, Alike::Sparsity(0.8));
        assert_eq!(first.original.as_deref(), Some("resnet20"));
        assert_eq!(names(first), ["80 % iterative", "80 % one-shot"]);
        assert_eq!(names(second), ["90 % iterative", "90 % one-shot"]);
        // Images 0 to 9 only the second has right, 60 to 79 only the first: 9/√30 = 1.64 deviations.
        let contest = first.contest(1, 0).unwrap();
        let counts = contest.significance.discordant.unwrap();
        assert_eq!((counts.only_variant, counts.only_baseline), (10, 20));
        assert_eq!(contest.delta.mean, -10.0);
        assert_eq!(contest.significance.verdict, Verdict::Unresolved);
        assert_eq!(first.contests.len(), 1);
    }

    #[test]
    fn integer_networks_are_paired_by_their_bits() {
        let quantized = |variant, bits: (u32, u32), top1| {
            let (line, correct) = line(variant, 0, 0, top1);
            let line = ResultLine {
                weight_bits: bits.0,
                activation_bits: bits.1,
                sparsity: None,
                ..line
            };
            (line, correct)
        };
        let comparisons = found(vec![
            quantized("W4A8 post-training", (4, 8), 80),
            quantized("W4A8 aware", (4, 8), 90),
            quantized("weights: k-means", (4, 32), 85),
            quantized("W3A8 aware", (3, 8), 70),
        ]);
        assert_eq!(comparisons.len(), 1);
        assert_eq!(comparisons[0].alike, Alike::Bits(4, 8));
        assert_eq!(names(&comparisons[0]), ["W4A8 aware", "W4A8 post-training"]);
        // Ten images all one way: 9/√10 = 2.8 deviations.
        let verdict = comparisons[0].contest(1, 0).unwrap().significance.verdict;
        assert_eq!(verdict, Verdict::Worse);
    }

    #[test]
    fn a_teacher_is_worth_what_it_gives_beyond_the_best_control() {
        let student = |variant, seed, arm, top1| {
            let (line, correct) = line(variant, seed, 0, top1);
            let line = ResultLine {
                group: "student".to_owned(),
                arm: Some(arm),
                baseline: None,
                ..line
            };
            (line, correct)
        };
        let arms = |taught: usize| {
            found(vec![
                student("alone", 0, Arm::Control, 60),
                student("alone", 1, Arm::Control, 61),
                student("alone, its best rate", 0, Arm::Control, 66),
                student("alone, its best rate", 1, Arm::Control, 68),
                student("taught, T = 4", 0, Arm::Taught, taught),
                student("taught, T = 4", 1, Arm::Taught, taught + 2),
                student("taught, T = 1", 0, Arm::Taught, 50),
            ])
        };
        let comparisons = arms(67);
        assert_eq!(comparisons.len(), 1);
        let taught = comparisons[0].taught().unwrap();
        assert_eq!(taught.taught.variant, "taught, T = 4");
        assert_eq!(taught.control.variant, "alone, its best rate");
        assert_eq!(taught.difference, 1.0);
        assert_eq!(taught.significance.verdict, Verdict::Unresolved);
        let counts = taught.significance.discordant.unwrap();
        assert_eq!((counts.only_variant, counts.only_baseline), (2, 0));
        let behind = arms(65);
        let taught = behind[0].taught().unwrap();
        assert_eq!(taught.difference, -1.0);
        // 24 points on each seed.
        let ahead = arms(90);
        assert_eq!(
            ahead[0].taught().unwrap().significance.verdict,
            Verdict::Better
        );
        // Only the seed that both have.
        let place = comparisons[0]
            .contenders
            .iter()
            .position(|c| c.variant == "taught, T = 1");
        let contest = comparisons[0].contest(place.unwrap(), 0).unwrap();
        assert_eq!(contest.seeds, [0]);
    }
}
