//! Which test images each variant has right, so that any two variants of a run can be paired later.

use std::fmt::Write;

use opt_stats::Discordant;
use serde::{Deserialize, Serialize};

use crate::ResultLine;

/// One line of `correct.jsonl`: the test images that one variant with one seed has right.
///
/// As in `results.jsonl`, a line that repeats experiment, variant, model, data set and seed replaces the earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correct {
    /// The experiment.
    pub experiment: String,
    /// The variant within the experiment.
    pub variant: String,
    /// The zoo name of the network.
    pub model: String,
    /// The name of the data set; empty in lines of older programs, which are those of any.
    #[serde(default)]
    pub dataset: String,
    /// The seed.
    pub seed: u64,
    /// A bit per test image, in order, 1 where the answer is right: four to a hexadecimal digit, the first image in its
    /// highest bit; what is left of the last digit is 0.
    pub right: String,
}

impl Correct {
    /// Notes which of `answers` are `labels`.
    ///
    /// # Panics
    ///
    /// The two differ in length.
    #[track_caller]
    #[must_use]
    pub fn new(line: &ResultLine, labels: &[u16], answers: &[i64]) -> Self {
        assert_eq!(labels.len(), answers.len(), "answers");
        let right: Vec<bool> = labels
            .iter()
            .zip(answers)
            .map(|(&label, &answer)| i64::from(label) == answer)
            .collect();
        let mut digits = String::with_capacity(right.len().div_ceil(4));
        for four in right.chunks(4) {
            let bits = (0..4).map(|i| u8::from(four.get(i) == Some(&true)) << (3 - i));
            // Writing to a string cannot fail.
            let _ = write!(digits, "{:x}", bits.sum::<u8>());
        }
        Self {
            experiment: line.experiment.clone(),
            variant: line.variant.clone(),
            model: line.model.clone(),
            dataset: line.dataset.clone(),
            seed: line.seed,
            right: digits,
        }
    }

    fn is_of(&self, line: &ResultLine) -> bool {
        self.experiment == line.experiment
            && self.variant == line.variant
            && self.model == line.model
            && (self.dataset.is_empty() || self.dataset == line.dataset)
            && self.seed == line.seed
    }
}

/// The digits of a line; `None` if there are none, or if they are not those of this line: other images, or another number
/// of right ones.
fn digits<'a>(
    line: &ResultLine,
    correct: &'a [Correct],
) -> Option<impl Iterator<Item = u32> + use<'a>> {
    let found = correct.iter().rev().find(|found| found.is_of(line))?;
    let digits = || found.right.chars().map(|digit| digit.to_digit(16));
    let right: u64 = digits()
        .map(|digit| digit.map(|d| u64::from(d.count_ones())))
        .sum::<Option<_>>()?;
    let same = found.right.len() as u64 == line.n_test.div_ceil(4)
        && (right as f64 - line.top1 * line.n_test as f64 / 100.0).abs() < 0.5;
    same.then(|| digits().flatten())
}

/// The images that exactly one of two lines has right, if both are known.
pub(crate) fn discordant(
    line: &ResultLine,
    other: &ResultLine,
    correct: &[Correct],
) -> Option<Discordant> {
    if line.n_test != other.n_test {
        return None;
    }
    let mut counts = Discordant::default();
    for (ours, theirs) in digits(line, correct)?.zip(digits(other, correct)?) {
        counts.only_variant += u64::from((ours & !theirs).count_ones());
        counts.only_baseline += u64::from((theirs & !ours).count_ones());
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sample::sample_lines;

    fn line(variant: &str, labels: &[u16], answers: &[i64]) -> ResultLine {
        let right = labels
            .iter()
            .zip(answers)
            .filter(|(l, a)| i64::from(**l) == **a);
        ResultLine {
            variant: variant.to_owned(),
            n_test: labels.len() as u64,
            top1: 100.0 * right.count() as f64 / labels.len() as f64,
            ..sample_lines()[0].clone()
        }
    }

    #[test]
    fn bits_by_hand() {
        let labels = [0, 1, 2, 3, 4, 5];
        let line = line("a", &labels, &[0, 1, 9, 3, 9, 5]);
        // 1101 and 01 with two bits left.
        let correct = Correct::new(&line, &labels, &[0, 1, 9, 3, 9, 5]);
        assert_eq!(correct.right, "d4");
    }

    #[test]
    fn lines_that_are_not_those_of_the_result_are_not_used() {
        let labels = [0, 1, 2, 3, 4, 5];
        let (ours, theirs) = ([0, 1, 9, 3, 9, 5], [9, 1, 2, 9, 9, 5]);
        let lines = [line("a", &labels, &ours), line("b", &labels, &theirs)];
        let correct = [
            Correct::new(&lines[0], &labels, &ours),
            Correct::new(&lines[1], &labels, &theirs),
        ];
        let counts = |lines: &[ResultLine; 2], correct: &[Correct]| {
            discordant(&lines[0], &lines[1], correct)
        };
        let expected = Discordant {
            only_variant: 2,
            only_baseline: 1,
        };
        assert_eq!(counts(&lines, &correct), Some(expected));
        // A later line of the same name counts, and this one has another number of right answers.
        let later = Correct::new(&lines[0], &labels, &[0, 9, 9, 9, 9, 9]);
        assert_eq!(counts(&lines, &[&correct[..], &[later]].concat()), None);
        let broken = |right: &str| Correct {
            right: right.to_owned(),
            ..correct[0].clone()
        };
        for right in ["", "d", "d4d", "dx"] {
            assert_eq!(
                counts(&lines, &[broken(right), correct[1].clone()]),
                None,
                "{right}"
            );
        }
        assert_eq!(counts(&lines, &correct[..1]), None);
    }

    /// The same network on two data sets, with equally many right answers that are not the same ones.
    #[test]
    fn lines_of_another_data_set_are_not_used() {
        let labels = [0; 4];
        let (ours, theirs) = ([0, 0, 9, 9], [0, 9, 9, 9]);
        let lines = [line("a", &labels, &ours), line("b", &labels, &theirs)];
        let elsewhere = ResultLine {
            dataset: "cifar100".to_owned(),
            ..lines[0].clone()
        };
        let mut correct = vec![
            Correct::new(&lines[0], &labels, &ours),
            Correct::new(&lines[1], &labels, &theirs),
            Correct::new(&elsewhere, &labels, &[9, 9, 0, 0]),
        ];
        let expected = Discordant {
            only_variant: 1,
            only_baseline: 0,
        };
        let counts = |correct: &[Correct]| discordant(&lines[0], &lines[1], correct);
        assert_eq!(counts(&correct), Some(expected));
        assert_eq!(counts(&correct[1..]), None);
        // Lines of older programs do not say.
        correct.truncate(2);
        let old =
            r#"{"experiment":"baseline","variant":"a","model":"resnet20","seed":0,"right":"c"}"#;
        correct[0] = serde_json::from_str(old).unwrap();
        assert_eq!(counts(&correct), Some(expected));
    }

    proptest! {
        #[test]
        fn counts_from_bits_are_those_of_the_answers(
            images in prop::collection::vec((0u16..3, 0i64..3, 0i64..3), 1..60)
        ) {
            let labels: Vec<u16> = images.iter().map(|i| i.0).collect();
            let ours: Vec<i64> = images.iter().map(|i| i.1).collect();
            let theirs: Vec<i64> = images.iter().map(|i| i.2).collect();
            let lines = [line("a", &labels, &ours), line("b", &labels, &theirs)];
            let correct = [
                Correct::new(&lines[0], &labels, &ours),
                Correct::new(&lines[1], &labels, &theirs),
            ];
            prop_assert_eq!(
                discordant(&lines[0], &lines[1], &correct),
                Some(opt_stats::discordant(&labels, &ours, &theirs))
            );
        }
    }
}
