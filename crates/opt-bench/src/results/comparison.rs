//! Methods against each other: variants that cost the same are paired with one another, not each with its baseline.

use serde::{Deserialize, Serialize};

use super::summary::{differences, original_of, pair, spread};
use super::verdict::{Pair, judge};
use super::{Correct, Judgement, ResultLine, Spread};

/// Variants that start from the same network and cost the same: which method is better, and is that sure?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The experiment.
    pub experiment: String,
    /// The network that all of them started from; of students, the student alone. `None` if the lines do not have it.
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
    /// Bits of a stored weight and of an activation.
    Bits(u32, u32),
}

/// A variant in a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contender {
    /// The variant.
    pub variant: String,
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
    pub judgement: Judgement,
}

impl Comparison {
    /// The contest of two contenders, if they have a seed in common.
    #[must_use]
    pub fn contest(&self, contender: usize, other: usize) -> Option<&Contest> {
        self.contests
            .iter()
            .find(|contest| contest.contender == contender && contest.other == other)
    }
}

/// The comparisons among groups of lines, a group per row of the summary, in the order of their first rows.
pub(super) fn comparisons(
    groups: &[Vec<&ResultLine>],
    lines: &[&ResultLine],
    correct: &[Correct],
) -> Vec<Comparison> {
    let mut found: Vec<(Key<'_>, Vec<usize>)> = Vec::new();
    for (row, group) in groups.iter().enumerate() {
        let Some(alike) = alike(group[0]) else {
            continue;
        };
        let original = original_of(group[0], lines).map(|line| line.variant.as_str());
        let key = Key {
            line: (
                &group[0].experiment,
                &group[0].model,
                &group[0].dataset,
            ),
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
    (line.weight_bits < 32).then_some(Alike::Bits(line.weight_bits, line.activation_bits))
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
                row,
                top1: spread(&accuracies),
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
    let delta = differences(&pairs);
    let trained = |line: &ResultLine| !line.train_precision.is_empty();
    Some(Contest {
        contender: 0,
        other: 0,
        seeds: both.iter().map(|(line, _)| line.seed).collect(),
        delta,
        judgement: judge(
            &pairs,
            &delta,
            both.iter().any(|(line, other)| trained(line) || trained(other)),
        ),
    })
}
