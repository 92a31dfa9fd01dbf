//! Methods against each other as a reader sees them: who is the best of those that cost the same, and is that sure?

use opt_stats::SignificanceTest;

use crate::words::{interval, marked, named_percent, p_value, won_and_lost};
use crate::{Alike, Arm, Comparison, Summary, SummaryRow};

/// What the table shows, for readers.
pub(crate) const ABOUT: &str = "Variants that start from the same network and cost the same, the most accurate first. Δ to \
                                the best is top-1 minus that of the first, on the same images and with the same seeds. The \
                                first is picked by test accuracy, so its lead is flattered a little. What is the same is \
                                the cost of the result: where one had more epochs than another, Δ and p hold what these \
                                gave too.";

/// One contender: a line of the table.
#[derive(Debug)]
pub(crate) struct Contender<'a> {
    /// What it has in common with the others.
    pub(crate) alike: String,
    /// The place of its row in the summary, from 1.
    pub(crate) number: usize,
    /// Its row.
    pub(crate) row: &'a SummaryRow,
    /// The difference to the best of them; `None` for that one, and without a seed in common.
    pub(crate) to_best: Option<(f64, &'a SignificanceTest)>,
    /// Whether it is the best.
    pub(crate) leads: bool,
}

impl Contender<'_> {
    /// The difference to the best with its mark.
    pub(crate) fn difference(&self) -> String {
        match self.to_best {
            Some((difference, significance)) => marked(difference, significance),
            None if self.leads => "the best".to_owned(),
            None => "–".to_owned(),
        }
    }

    /// The interval of that difference.
    pub(crate) fn interval(&self) -> String {
        let words = self
            .to_best
            .map(|(_, significance)| interval(significance.interval));
        words.unwrap_or_default()
    }

    /// The images that only this one and that only the best has right.
    pub(crate) fn won_and_lost(&self) -> String {
        won_and_lost(self.to_best.map(|(_, significance)| significance))
    }

    /// The p-value of the difference.
    pub(crate) fn p(&self) -> String {
        let words = self
            .to_best
            .map(|(_, significance)| format!("p {}", p_value(significance.p_value)));
        words.unwrap_or_default()
    }
}

/// All contenders of all comparisons in order.
pub(crate) fn contenders(summary: &Summary) -> Vec<Contender<'_>> {
    let mut all = Vec::new();
    for comparison in &summary.comparisons {
        for (place, contender) in comparison.contenders.iter().enumerate() {
            let contest = comparison.contest(place, 0);
            all.push(Contender {
                alike: alike(comparison),
                number: contender.row + 1,
                row: &summary.rows[contender.row],
                to_best: contest.map(|contest| (contest.delta.mean, &contest.significance)),
                leads: place == 0,
            });
        }
    }
    all
}

/// What teachers are worth, a sentence per group that has both arms with one and controls without.
pub(crate) fn teachers(summary: &Summary) -> Vec<String> {
    let sentence = |comparison: &Comparison| {
        let found = comparison.taught()?;
        let significance = &found.significance;
        Some(format!(
            "{}: the best with a teacher ({}, {:.2} %) against the best control without one ({}, {:.2} %): {} {} points, p {}.{}{}",
            alike(comparison),
            found.taught.variant,
            found.taught.top1.mean,
            found.control.variant,
            found.control.top1.mean,
            marked(found.difference, significance),
            interval(significance.interval),
            p_value(significance.p_value),
            picked(comparison),
            step_length(comparison),
        ))
    };
    summary.comparisons.iter().filter_map(sentence).collect()
}

/// That both arms of a sentence are the best of several, if they are: no p knows of a choice among unequally many.
fn picked(comparison: &Comparison) -> String {
    let count = |arm| {
        let arms = comparison.contenders.iter().filter(|c| c.arm == Some(arm));
        arms.count()
    };
    match (count(Arm::Taught), count(Arm::Control)) {
        (0 | 1, 0 | 1) => String::new(),
        (taught, controls) => format!(
            " Picked by test accuracy, of {taught} with a teacher and {controls} without, which interval and p do not know: the \
             arm with more to pick from is flattered."
        ),
    }
}

/// That no control had a step of another length, if none had.
fn step_length(comparison: &Comparison) -> &'static str {
    let mut controls = comparison
        .contenders
        .iter()
        .filter(|contender| contender.arm == Some(Arm::Control));
    match controls.any(|control| has_own_rate(&control.variant)) {
        true => "",
        false => {
            " No control has a learning rate of its own: what a longer step alone would have given is in this difference too."
        }
    }
}

/// Whether a control's name ends in a learning rate, as an experiment names it: `…, lr 0.04`.
fn has_own_rate(variant: &str) -> bool {
    let (_, last) = variant.rsplit_once(", ").unwrap_or_default();
    last.strip_prefix("lr ")
        .is_some_and(|rate| rate.parse::<f64>().is_ok())
}

fn alike(comparison: &Comparison) -> String {
    let what = match &comparison.alike {
        Alike::Group(group) => return format!("{group}, as many epochs"),
        Alike::Sparsity(sparsity) => {
            format!("{} % of the weights removed", named_percent(*sparsity))
        }
        Alike::Bits(weights, 32) => format!("{weights}-bit weights, stored form"),
        Alike::Bits(weights, activations) => format!("W{weights}A{activations}"),
    };
    match &comparison.original {
        Some(original) => format!("{what}, {original}"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::sample_lines;
    use crate::{Arm, ResultLine, summarize};

    #[test]
    fn contenders_stand_behind_the_best_of_their_kind() {
        let mut lines = sample_lines();
        lines.push(ResultLine {
            variant: "one-shot 80 %".to_owned(),
            top1: 89.8,
            ..lines[4].clone()
        });
        let summary = summarize(&lines, &[]);
        let all = contenders(&summary);
        let lines: Vec<String> = all
            .iter()
            .map(|c| format!("{} | {} {}", c.alike, c.number, c.difference()))
            .collect();
        assert_eq!(
            lines,
            [
                "80 % of the weights removed, resnet20 | 5 the best",
                "80 % of the weights removed, resnet20 | 13 −0.60 ≈",
                "W4A8, resnet20 | 7 the best",
                "W4A8, resnet20 | 8 −16.10 ▼~",
            ]
        );
        assert_eq!(all[1].interval(), "[−1.43, +0.23]");
        assert_eq!(
            (all[0].won_and_lost(), all[0].p()),
            (String::new(), String::new())
        );
        assert_eq!(all[1].won_and_lost(), "–");
    }

    #[test]
    fn a_teacher_is_judged_against_the_best_control() {
        let mut lines = sample_lines();
        lines.retain(|line| line.experiment == "distill");
        assert!(teachers(&summarize(&lines, &[])).is_empty());
        for (line, arm) in lines.iter_mut().zip([Arm::Control, Arm::Taught]) {
            (line.group, line.arm) = ("student".to_owned(), Some(arm));
        }
        lines.insert(
            1,
            ResultLine {
                variant: "student alone, lr 0.04".to_owned(),
                top1: 85.0,
                ..lines[0].clone()
            },
        );
        assert_eq!(
            teachers(&summarize(&lines, &[])),
            [
                "student, as many epochs: the best with a teacher (student taught by resnet20, 85.30 %) against the best \
                 control without one (student alone, lr 0.04, 85.00 %): +0.30 ≈ [−0.69, +1.29] points, p = 0.551. \
                 Picked by test accuracy, of 1 with a teacher and 2 without, which interval and p do not know: the arm \
                 with more to pick from is flattered."
            ]
        );
        // One of each: nothing was picked, and nothing says what a longer step would have given.
        lines.remove(1);
        let sentence = teachers(&summarize(&lines, &[])).remove(0);
        assert!(!sentence.contains("Picked by"), "{sentence}");
        assert!(
            sentence.contains(" No control has a learning rate of its own: "),
            "{sentence}"
        );
    }

    #[test]
    fn controls_of_another_rate_are_known_by_their_names() {
        assert!(has_own_rate("a, lr 1 alone, lr 0.04"));
        for name in [
            "a, lr 1 alone, label smoothing 0.1",
            "a, lr 1 alone, loss × 16",
            "a, lr 1 alone",
            "alone",
        ] {
            assert!(!has_own_rate(name), "{name}");
        }
    }

    /// Methods of equal bits need not have been trained equally long, so the text beside the table says so.
    #[test]
    fn more_epochs_are_said_to_be_in_the_difference() {
        assert!(
            ABOUT.contains(
                "where one had more epochs than another, Δ and p hold what these gave too"
            )
        );
    }
}
