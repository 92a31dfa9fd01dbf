//! The statistics of a run: mean and spread over seeds, differences to the baseline, and how far each variant shrank.

use serde::{Deserialize, Serialize};

use super::verdict::judge;
use super::{Judgement, ResultLine, SCHEMA};

/// The content of `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The version of the layout.
    pub schema: u32,
    /// One row per experiment, variant, model and data set, in the order of their first lines.
    pub rows: Vec<SummaryRow>,
}

/// Mean and spread of a few numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation (division by n − 1); `None` for one number.
    pub std: Option<f64>,
    /// The standard error of the mean, std / √n; `None` for one number.
    #[serde(default)]
    pub error: Option<f64>,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// One variant over all its seeds; counts and sizes are means over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SummaryRow {
    /// The experiment.
    pub experiment: String,
    /// The variant within the experiment.
    pub variant: String,
    /// The zoo name of the network.
    pub model: String,
    /// The name of the data set.
    pub dataset: String,
    /// The variant that this one is compared with; `None` for a baseline.
    pub baseline: Option<String>,
    /// The number of seeds.
    pub n: usize,
    /// The seeds, in the order of `values`.
    pub seeds: Vec<u64>,
    /// Accuracy of every seed, in percent.
    pub values: Vec<f64>,
    /// Accuracy over the seeds, in percent.
    pub top1: Spread,
    /// Mean accuracy of the baseline with the same seeds, in percent.
    pub top1_baseline: f64,
    /// Accuracy minus the baseline's with the same seed, in points.
    pub delta: Spread,
    /// Whether the mean difference is more than chance, and what that rests on; `None` for a baseline.
    #[serde(default)]
    pub judgement: Option<Judgement>,
    /// Test images predicted as the baseline predicts them, in percent.
    pub agreement: Option<f64>,
    /// Images in the test set.
    pub n_test: u64,
    /// Trainable parameters.
    pub params: u64,
    /// Parameters that are not zero.
    pub nonzero: u64,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Size of the model file in bytes.
    pub bytes: u64,
    /// Size of the baseline's model file in bytes, if known.
    pub bytes_baseline: Option<u64>,
    /// How many times smaller the file is than the baseline's.
    pub bytes_ratio: Option<f64>,
    /// How many times fewer multiply-accumulates than the baseline.
    pub macs_ratio: Option<f64>,
    /// Milliseconds of one image on one thread of the engine, the mean over seeds; `None` for f32.
    #[serde(default)]
    pub latency_ms: Option<f64>,
    /// Number of Conv and Gemm layers.
    pub layers: u32,
    /// Bits of a stored weight.
    pub weight_bits: u32,
    /// Which weights have these bits; empty if there is nothing to say.
    #[serde(default)]
    pub policy: String,
    /// Bits of an activation.
    pub activation_bits: u32,
    /// How the accuracy was computed.
    pub precision: String,
    /// The arithmetic of the training after the baseline; empty if there was none.
    #[serde(default)]
    pub train_precision: String,
    /// Epochs from random initialisation.
    pub epochs: f64,
    /// What these epochs were.
    pub epochs_of: String,
    /// Mean wall-clock time, in seconds.
    pub seconds: f64,
    /// The recipe's name.
    pub recipe: String,
}

/// Summarizes lines by experiment, variant, model and data set.
///
/// A line that repeats the seed of an earlier one replaces it. Differences are paired by seed; [`Judgement`] says how they
/// are judged.
pub fn summarize(lines: &[ResultLine]) -> Summary {
    Summary {
        schema: SCHEMA,
        rows: grouped(lines)
            .iter()
            .map(|group| summarize_group(group, is_trained(group[0], lines)))
            .collect(),
    }
}

/// The lines that count, by row of the summary and then by seed.
pub(crate) fn grouped(lines: &[ResultLine]) -> Vec<Vec<&ResultLine>> {
    let mut groups: Vec<Vec<&ResultLine>> = Vec::new();
    for line in lines {
        let Some(group) = groups.iter_mut().find(|group| key(group[0]) == key(line)) else {
            groups.push(vec![line]);
            continue;
        };
        match group.iter_mut().find(|other| other.seed == line.seed) {
            Some(other) => *other = line,
            None => group.push(line),
        }
    }
    for group in &mut groups {
        group.sort_by_key(|line| line.seed);
    }
    groups
}

/// The smallest variant, relative to its baseline, that loses at most `points` of accuracy in the mean.
///
/// Baselines and variants that are not smaller do not count; of equals the more accurate wins, then the first.
pub fn best_within(rows: &[SummaryRow], points: f64) -> Option<&SummaryRow> {
    let mut best: Option<(f64, &SummaryRow)> = None;
    for row in rows {
        let Some(ratio) = row.bytes_ratio else {
            continue;
        };
        if row.baseline.is_none() || ratio <= 1.0 || row.delta.mean < -points {
            continue;
        }
        let is_better = best.is_none_or(|(best_ratio, other)| {
            ratio > best_ratio || (ratio == best_ratio && row.top1.mean > other.top1.mean)
        });
        if is_better {
            best = Some((ratio, row));
        }
    }
    best.map(|(_, row)| row)
}

type Key<'a> = (&'a str, &'a str, &'a str, &'a str);

fn key(line: &ResultLine) -> Key<'_> {
    (&line.experiment, &line.variant, &line.model, &line.dataset)
}

/// Whether training lies between a line and its baseline: said by the line, or by epochs that are not the baseline's.
///
/// A baseline that is not among the lines leaves it open, which counts as training.
fn is_trained(line: &ResultLine, lines: &[ResultLine]) -> bool {
    let Some(baseline) = &line.baseline else {
        return true;
    };
    let mut baselines = lines
        .iter()
        .filter(|other| other.variant == *baseline && other.dataset == line.dataset)
        .peekable();
    !line.train_precision.is_empty()
        || baselines.peek().is_none()
        || baselines.any(|other| other.epochs != line.epochs)
}

fn summarize_group(group: &[&ResultLine], trained: bool) -> SummaryRow {
    let first = group[0];
    let values: Vec<f64> = group.iter().map(|line| line.top1).collect();
    let baselines: Vec<f64> = group.iter().map(|line| line.top1_baseline).collect();
    let deltas: Vec<f64> = group
        .iter()
        .map(|line| line.top1 - line.top1_baseline)
        .collect();
    let (top1, baseline, delta) = (spread(&values), spread(&baselines), spread(&deltas));
    let agreements: Vec<f64> = group.iter().filter_map(|line| line.agreement).collect();
    let latencies: Vec<f64> = group.iter().filter_map(|line| line.latency_ms).collect();
    let (macs, bytes) = (
        mean(group, |line| line.macs),
        mean(group, |line| line.bytes),
    );
    SummaryRow {
        experiment: first.experiment.clone(),
        variant: first.variant.clone(),
        model: first.model.clone(),
        dataset: first.dataset.clone(),
        baseline: first.baseline.clone(),
        n: group.len(),
        seeds: group.iter().map(|line| line.seed).collect(),
        top1,
        top1_baseline: baseline.mean,
        delta,
        judgement: first
            .baseline
            .is_some()
            .then(|| judge(group, &delta, trained)),
        agreement: (agreements.len() == group.len()).then(|| spread(&agreements).mean),
        n_test: first.n_test,
        params: mean(group, |line| line.params),
        nonzero: mean(group, |line| line.nonzero),
        macs,
        bytes,
        bytes_baseline: group
            .iter()
            .all(|line| line.bytes_baseline.is_some())
            .then(|| mean(group, |line| line.bytes_baseline.unwrap_or(0))),
        bytes_ratio: ratio(group, |line| line.bytes_baseline, bytes),
        macs_ratio: ratio(group, |line| line.macs_baseline, macs),
        latency_ms: (latencies.len() == group.len()).then(|| spread(&latencies).mean),
        layers: first.layers,
        weight_bits: first.weight_bits,
        activation_bits: first.activation_bits,
        policy: first.policy.clone(),
        precision: first.precision.clone(),
        train_precision: first.train_precision.clone(),
        epochs: first.epochs,
        epochs_of: first.epochs_of.clone(),
        seconds: group.iter().map(|line| line.seconds).sum::<f64>() / values.len() as f64,
        recipe: first.recipe.clone(),
        values,
    }
}

fn spread(values: &[f64]) -> Spread {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let std = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
    Spread {
        mean,
        std,
        error: std.map(|std| std / n.sqrt()),
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}

fn mean(group: &[&ResultLine], field: fn(&ResultLine) -> u64) -> u64 {
    let n = group.len() as u64;
    (group.iter().map(|line| field(line)).sum::<u64>() + n / 2) / n
}

fn ratio(group: &[&ResultLine], field: fn(&ResultLine) -> Option<u64>, value: u64) -> Option<f64> {
    let known: Vec<u64> = group.iter().filter_map(|line| field(line)).collect();
    if known.len() != group.len() || value == 0 || known.contains(&0) {
        return None;
    }
    Some(known.iter().sum::<u64>() as f64 / known.len() as f64 / value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample_lines;

    fn line(seed: u64, top1: f64, top1_baseline: f64) -> ResultLine {
        ResultLine {
            seed,
            top1,
            top1_baseline,
            ..sample_lines()[3].clone()
        }
    }

    #[test]
    fn spreads_of_a_few_numbers() {
        let cases: [(&[f64], f64, Option<f64>); 4] = [
            (&[90.0], 90.0, None),
            (&[90.0, 90.0], 90.0, Some(0.0)),
            // Deviations −1 and 1: √(2 / 1), and √2 / √2 for the mean.
            (&[90.0, 92.0], 91.0, Some(std::f64::consts::SQRT_2)),
            // Deviations −2, 0, 2: √(8 / 2).
            (&[88.0, 90.0, 92.0], 90.0, Some(2.0)),
        ];
        for (values, mean, std) in cases {
            let spread = spread(values);
            assert_eq!((spread.mean, spread.std), (mean, std));
            let root = (values.len() as f64).sqrt();
            assert_eq!(spread.error, std.map(|std| std / root));
            assert_eq!(
                (spread.min, spread.max),
                (values[0], values[values.len() - 1])
            );
        }
    }

    #[test]
    fn differences_are_paired_by_seed() {
        // The seeds differ by ten points and the differences not at all.
        let lines = [
            line(0, 80.0, 81.0),
            line(1, 90.0, 91.0),
            line(2, 85.0, 86.0),
        ];
        let row = &summarize(&lines).rows[0];
        assert_eq!((row.n, row.top1.std), (3, Some(5.0)));
        assert_eq!((row.delta.mean, row.delta.std), (-1.0, Some(0.0)));
    }

    #[test]
    fn what_lies_between_a_variant_and_its_baseline() {
        let trained = |change: fn(&mut ResultLine)| {
            let mut lines = [
                sample_lines()[0].clone(),
                ResultLine {
                    train_precision: String::new(),
                    epochs: 8.0,
                    ..line(0, 60.0, 90.0)
                },
            ];
            change(&mut lines[1]);
            summarize(&lines).rows[1].judgement.unwrap().trained
        };
        // Both have 8 epochs: nothing was trained.
        assert!(!trained(|_| {}));
        let cases: [fn(&mut ResultLine); 4] = [
            |line| line.train_precision = "bf16".to_owned(),
            // Lines without the field: more epochs, and fewer, than the baseline.
            |line| line.epochs = 10.0,
            |line| line.epochs = 2.0,
            // A baseline that is not there.
            |line| line.baseline = Some("elsewhere".to_owned()),
        ];
        for (number, change) in cases.into_iter().enumerate() {
            assert!(trained(change), "case {number}");
        }
        // A baseline is never compared with itself.
        assert_eq!(summarize(&sample_lines()).rows[0].judgement, None);
    }

    #[test]
    fn a_repeated_seed_replaces_the_earlier_line() {
        let lines = [
            line(1, 10.0, 90.0),
            line(0, 89.0, 90.0),
            line(1, 88.0, 90.0),
        ];
        let row = &summarize(&lines).rows[0];
        assert_eq!(row.seeds, [0, 1]);
        assert_eq!(row.values, [89.0, 88.0]);
    }

    #[test]
    fn ratios_against_the_baseline() {
        let ratio_of = |bytes, bytes_baseline| {
            let line = ResultLine {
                bytes,
                bytes_baseline,
                ..line(0, 90.0, 90.0)
            };
            summarize(&[line]).rows[0].bytes_ratio
        };
        assert_eq!(ratio_of(250, Some(1000)), Some(4.0));
        // Unknown, and sizes of models that were not written.
        assert_eq!(ratio_of(250, None), None);
        assert_eq!(ratio_of(0, Some(1000)), None);
        assert_eq!(ratio_of(250, Some(0)), None);
    }

    #[test]
    fn the_best_variant_within_a_loss() {
        let rows = summarize(&sample_lines()).rows;
        let name = |points| best_within(&rows, points).map(|row| row.variant.as_str());
        assert_eq!(name(0.1), Some("post-training W8A8"));
        assert_eq!(name(1.0), Some("channels + W8A8"));
        assert_eq!(name(2.0), Some("channels + W4A8"));
        // A baseline is never an answer.
        assert_eq!(best_within(&rows[..1], 100.0), None);
    }

    #[test]
    fn unknown_keys_are_ignored_and_old_lines_are_read() {
        let mut value = serde_json::to_value(line(0, 90.0, 90.0)).unwrap();
        let map = value.as_object_mut().unwrap();
        map.insert("from_the_future".to_owned(), 1.into());
        map.remove("agreement");
        map.remove("bytes_baseline");
        map.remove("policy");
        map.remove("train_precision");
        map.remove("discordant");
        let read: ResultLine = serde_json::from_value(value).unwrap();
        assert_eq!((read.agreement, read.bytes_baseline), (None, None));
        assert_eq!(read.discordant, None);
    }
}
