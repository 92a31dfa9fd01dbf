//! The statistics of a run: mean and spread over seeds, differences to the baseline, and how far each variant shrank.

use opt_stats::{Pair, SignificanceTest, Spread};
use serde::{Deserialize, Serialize};

use crate::comparison::comparisons;
use crate::pairing::{key, original_of, pair};
use crate::{Comparison, Correct, ResultLine, SCHEMA};

/// The content of `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The version of the layout.
    pub schema: u32,
    /// One row per experiment, variant, model and data set, in the order of their first lines.
    pub rows: Vec<SummaryRow>,
    /// Rows that cost the same, paired with each other.
    #[serde(default)]
    pub comparisons: Vec<Comparison>,
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
    pub significance: Option<SignificanceTest>,
    /// The difference to the network that compression started from; `None` for such a network, and where the lines do not
    /// have it for every seed.
    #[serde(default)]
    pub original: Option<Original>,
    /// Test images predicted as the baseline predicts them, in percent.
    pub agreement: Option<f64>,
    /// Share of the weights that pruning was asked to remove, 0 to 1; `None` where no weights were pruned.
    #[serde(default)]
    pub sparsity: Option<f64>,
    /// What rows of equal sparsity differ in; empty where `sparsity` is `None`.
    #[serde(default)]
    pub method: String,
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
    /// That without the names and the commit that it carries: what sizes are compared by.
    #[serde(default)]
    pub bytes_content: u64,
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

/// Where a variant computes as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// An integer network: in the engine.
    InEngine,
    /// A float network: wherever networks in f32 run.
    InFloat,
    /// Nowhere: its weights are codes that are decoded to f32 before anything is computed, so that only its file is smaller.
    Nowhere,
}

impl SummaryRow {
    /// Where this variant computes as it is stored.
    #[must_use]
    pub fn runs(&self) -> Runs {
        match (self.weight_bits, self.activation_bits) {
            (_, bits) if bits < 32 => Runs::InEngine,
            (32.., _) => Runs::InFloat,
            _ => Runs::Nowhere,
        }
    }
}

/// The network that compression started from, as a variant is measured against it.
///
/// Where a variant was trained, its baseline may be this network *trained further*, for at least as long; a user's loss is against
/// what they brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Original {
    /// Its variant.
    pub variant: String,
    /// Its mean accuracy with the same seeds, in percent.
    pub top1: f64,
    /// Size of its file in bytes.
    pub bytes: u64,
    /// That without names and commit.
    #[serde(default)]
    pub bytes_content: u64,
    /// Multiply-accumulates of it for one image.
    pub macs: u64,
    /// Accuracy minus its, with the same seed, in points.
    pub delta: Spread,
    /// Whether the mean difference is more than chance.
    pub significance: SignificanceTest,
}

/// Summarizes lines by experiment, variant, model and data set.
///
/// A line that repeats the seed of an earlier one replaces it. Differences are paired by seed; [`SignificanceTest`] says how they
/// are judged.
///
/// `correct` says which images each line has right, so that any two can be paired; without it, only a line's own baseline is.
pub fn summarize(lines: &[ResultLine], correct: &[Correct]) -> Summary {
    let groups = grouped(lines);
    let counted: Vec<&ResultLine> = groups.iter().flatten().copied().collect();
    Summary {
        schema: SCHEMA,
        rows: groups
            .iter()
            .map(|group| summarize_group(group, &counted, correct))
            .collect(),
        comparisons: comparisons(&groups, &counted, correct),
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

/// The smallest variant, relative to the network that compression started from, that loses at most `points` of its
/// accuracy in the mean.
///
/// Only rows for which `counts` holds, and that are smaller; of equals the more accurate wins, then the first.
pub fn best_within(
    rows: &[SummaryRow],
    points: f64,
    counts: impl Fn(&SummaryRow) -> bool,
) -> Option<&SummaryRow> {
    let mut best: Option<(f64, &SummaryRow)> = None;
    for row in rows.iter().filter(|row| counts(row)) {
        let Some(original) = &row.original else {
            continue;
        };
        let ratio = original.bytes_content as f64 / row.bytes_content.max(1) as f64;
        if row.bytes_content == 0 || ratio <= 1.0 || original.delta.mean < -points {
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

/// Whether training lies between a line and its baseline, of either: said by the line, or by epochs that are not the
/// baseline's. A variant that was never trained, compared with a network that was trained further, is one of these.
///
/// A baseline that is not among the lines leaves it open, which counts as training.
fn is_trained(line: &ResultLine, lines: &[&ResultLine]) -> bool {
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

fn original(group: &[&ResultLine], lines: &[&ResultLine], correct: &[Correct]) -> Option<Original> {
    let originals: Vec<&ResultLine> = group
        .iter()
        .map(|line| original_of(line, lines))
        .collect::<Option<_>>()?;
    let pairs: Vec<Pair> = group
        .iter()
        .zip(&originals)
        .map(|(line, original)| {
            let own = line.baseline.as_ref() == Some(&original.variant);
            let counts = line.discordant.filter(|_| own);
            pair(line, original, counts, correct)
        })
        .collect();
    let delta = Spread::of_differences(&pairs);
    let trained = group
        .iter()
        .zip(&originals)
        .any(|(line, original)| !line.train_precision.is_empty() || line.epochs != original.epochs);
    Some(Original {
        variant: originals.first()?.variant.clone(),
        top1: originals.iter().map(|line| line.top1).sum::<f64>() / originals.len() as f64,
        bytes: mean(&originals, |line| line.bytes),
        bytes_content: mean(&originals, content),
        macs: mean(&originals, |line| line.macs),
        delta,
        significance: SignificanceTest::of(&pairs, trained),
    })
}

fn summarize_group(
    group: &[&ResultLine],
    lines: &[&ResultLine],
    correct: &[Correct],
) -> SummaryRow {
    let first = group[0];
    let pairs: Vec<Pair> = group
        .iter()
        .map(|line| Pair {
            top1: line.top1,
            other: line.top1_baseline,
            n_test: line.n_test,
            discordant: line.discordant,
        })
        .collect();
    let values: Vec<f64> = group.iter().map(|line| line.top1).collect();
    let baselines: Vec<f64> = group.iter().map(|line| line.top1_baseline).collect();
    let (top1, baseline) = (Spread::of(&values), Spread::of(&baselines));
    let delta = Spread::of_differences(&pairs);
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
        significance: first
            .baseline
            .is_some()
            .then(|| SignificanceTest::of(&pairs, is_trained(first, lines))),
        original: original(group, lines, correct),
        agreement: (agreements.len() == group.len()).then(|| Spread::of(&agreements).mean),
        sparsity: first.sparsity,
        method: first.method.clone(),
        n_test: first.n_test,
        params: mean(group, |line| line.params),
        nonzero: mean(group, |line| line.nonzero),
        macs,
        bytes,
        bytes_content: mean(group, content),
        bytes_baseline: group
            .iter()
            .all(|line| line.bytes_baseline.is_some())
            .then(|| mean(group, |line| line.bytes_baseline.unwrap_or(0))),
        bytes_ratio: ratio(group, |line| line.bytes_baseline, bytes),
        macs_ratio: ratio(group, |line| line.macs_baseline, macs),
        latency_ms: (latencies.len() == group.len()).then(|| Spread::of(&latencies).mean),
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

/// The bytes of a file that are not its provenance.
fn content(line: &ResultLine) -> u64 {
    line.bytes.saturating_sub(line.bytes_provenance)
}

fn mean(group: &[&ResultLine], field: fn(&ResultLine) -> u64) -> u64 {
    let n = group.len() as u128;
    let sum: u128 = group.iter().map(|line| u128::from(field(line))).sum();
    u64::try_from((sum + n / 2) / n).unwrap_or(u64::MAX)
}

fn ratio(group: &[&ResultLine], field: fn(&ResultLine) -> Option<u64>, value: u64) -> Option<f64> {
    let known: Vec<u64> = group.iter().filter_map(|line| field(line)).collect();
    if known.len() != group.len() || value == 0 || known.contains(&0) {
        return None;
    }
    Some(known.iter().map(|known| *known as f64).sum::<f64>() / known.len() as f64 / value as f64)
}

#[cfg(test)]
mod tests {
    use opt_stats::Discordant;

    use super::*;
    use crate::sample::sample_lines;

    fn line(seed: u64, top1: f64, top1_baseline: f64) -> ResultLine {
        ResultLine {
            seed,
            top1,
            top1_baseline,
            ..sample_lines()[3].clone()
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
        let row = &summarize(&lines, &[]).rows[0];
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
            summarize(&lines, &[]).rows[1].significance.unwrap().trained
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
        assert_eq!(summarize(&sample_lines(), &[]).rows[0].significance, None);
    }

    #[test]
    fn a_repeated_seed_replaces_the_earlier_line() {
        let lines = [
            line(1, 10.0, 90.0),
            line(0, 89.0, 90.0),
            line(1, 88.0, 90.0),
        ];
        let row = &summarize(&lines, &[]).rows[0];
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
            summarize(&[line], &[]).rows[0].bytes_ratio
        };
        assert_eq!(ratio_of(250, Some(1000)), Some(4.0));
        // Unknown, and sizes of models that were not written.
        assert_eq!(ratio_of(250, None), None);
        assert_eq!(ratio_of(0, Some(1000)), None);
        assert_eq!(ratio_of(250, Some(0)), None);
    }

    #[test]
    fn the_best_variant_within_a_loss() {
        let rows = summarize(&sample_lines(), &[]).rows;
        let name = |points| best_within(&rows, points, |_| true).map(|row| row.variant.as_str());
        assert_eq!(name(0.1), Some("post-training W8A8"));
        assert_eq!(name(1.0), Some("channels + W8A8"));
        assert_eq!(name(2.0), Some("channels + W4A8"));
        // A baseline is never an answer, nor is what does not count.
        assert_eq!(best_within(&rows[..1], 100.0, |_| true), None);
        assert_eq!(best_within(&rows, 100.0, |_| false), None);
    }

    /// A base of 81.80 %, that base trained further for a while, and a smaller variant that was trained as long.
    fn trained_variant(control: f64, variant: f64) -> Vec<ResultLine> {
        let [base, small] = [0, 5].map(|i| sample_lines()[i].clone());
        let base = ResultLine {
            top1: 81.8,
            top1_baseline: 81.8,
            ..base
        };
        let control = ResultLine {
            experiment: small.experiment.clone(),
            variant: "resnet20 trained further".to_owned(),
            baseline: Some("resnet20".to_owned()),
            top1: control,
            epochs: 10.0,
            ..base.clone()
        };
        let small = ResultLine {
            variant: "small".to_owned(),
            baseline: Some(control.variant.clone()),
            top1: variant,
            top1_baseline: control.top1,
            epochs: 10.0,
            train_precision: "bf16".to_owned(),
            ..small
        };
        vec![base, control, small]
    }

    #[test]
    fn the_loss_is_against_the_network_that_was_brought() {
        let best = |control, variant| {
            let rows = summarize(&trained_variant(control, variant), &[]).rows;
            best_within(&rows, 1.0, |_| true).map(|row| row.variant.clone())
        };
        // The control fell with the variant: 0.2 points below it, and 6.8 below what was brought.
        assert_eq!(best(75.2, 75.0), None);
        // The control rose further than the variant: 4 points below it, and 2 above what was brought.
        assert_eq!(best(87.8, 83.8), Some("small".to_owned()));
        assert_eq!(best(81.8, 80.8), Some("small".to_owned()));
        assert_eq!(best(81.8, 80.7), None);
    }

    #[test]
    fn the_chain_of_baselines_ends_at_the_original() {
        let lines = trained_variant(75.2, 75.0);
        let correct: Vec<Correct> = [(&lines[0], "e"), (&lines[2], "c")]
            .map(|(line, right)| Correct {
                experiment: line.experiment.clone(),
                variant: line.variant.clone(),
                model: line.model.clone(),
                dataset: line.dataset.clone(),
                seed: line.seed,
                right: right.to_owned(),
            })
            .to_vec();
        let original = |lines: &[ResultLine], correct: &[Correct]| {
            let rows = summarize(lines, correct).rows;
            rows.into_iter()
                .find(|row| row.variant == "small")
                .and_then(|row| row.original)
        };
        let found = original(&lines, &[]).unwrap();
        assert_eq!((found.variant.as_str(), found.top1), ("resnet20", 81.8));
        assert!((found.delta.mean + 6.8).abs() < 1e-9 && found.significance.trained);
        assert_eq!(found.significance.discordant, None);
        // What each has right is counted: 111 and 110 of three images.
        let mut three = lines.clone();
        for line in &mut three {
            line.n_test = 3;
        }
        (three[0].top1, three[2].top1) = (100.0, 200.0 / 3.0);
        let counts = original(&three, &correct).unwrap().significance.discordant;
        assert_eq!(
            counts,
            Some(Discordant {
                only_variant: 0,
                only_baseline: 1
            })
        );
        // A missing line, another seed, and a chain without an end.
        assert_eq!(original(&lines[1..], &[]), None);
        let mut other = lines.clone();
        other[0].seed = 1;
        assert_eq!(original(&other, &[]), None);
        let mut circle = lines;
        circle[0].baseline = Some("resnet20 trained further".to_owned());
        assert_eq!(original(&circle, &[]), None);
    }

    #[test]
    fn files_that_differ_in_their_names_alone_are_equally_large() {
        let mut lines = sample_lines();
        // 8 bytes more, all of them names; the second is the more accurate.
        lines[5].bytes_provenance = 240;
        let mut other = lines[5].clone();
        (other.variant, other.bytes, other.bytes_provenance) =
            ("a longer name".to_owned(), lines[5].bytes + 8, 248);
        other.top1 += 0.01;
        lines.truncate(6);
        lines.push(other);
        let rows = summarize(&lines, &[]).rows;
        assert_eq!(rows[5].bytes_content, rows[6].bytes_content);
        let best = best_within(&rows, 1.0, |_| true).unwrap();
        assert_eq!(best.variant, "a longer name");
    }

    #[test]
    fn where_variants_run() {
        let row = summarize(&sample_lines(), &[]).rows[0].clone();
        for (weight_bits, activation_bits, runs) in [
            (32, 32, Runs::InFloat),
            (8, 8, Runs::InEngine),
            (4, 32, Runs::Nowhere),
        ] {
            let row = SummaryRow {
                weight_bits,
                activation_bits,
                ..row.clone()
            };
            assert_eq!(row.runs(), runs);
        }
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
