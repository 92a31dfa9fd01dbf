//! Methods against each other as a reader sees them: who is the best of those that cost the same, and is that sure?

use super::words::{interval, marked, p_value, plain, thousands};
use crate::results::{Alike, Comparison, Judgement, Summary, SummaryRow};

/// What the table shows, for readers.
pub(super) const ABOUT: &str = "Variants that start from the same network and cost the same, the most accurate first. Δ to \
                                the best is top-1 minus that of the first, on the same images and with the same seeds. The \
                                first is picked by test accuracy, so its lead is flattered a little.";

/// One contender: a line of the table.
#[derive(Debug)]
pub(super) struct Contender<'a> {
    /// What it has in common with the others.
    pub(super) alike: String,
    /// The place of its row in the summary, from 1.
    pub(super) number: usize,
    /// Its row.
    pub(super) row: &'a SummaryRow,
    /// The difference to the best of them; `None` for that one, and without a seed in common.
    pub(super) to_best: Option<(f64, &'a Judgement)>,
    /// Whether it is the best.
    pub(super) leads: bool,
}

impl Contender<'_> {
    /// The difference to the best with its mark.
    pub(super) fn difference(&self) -> String {
        match self.to_best {
            Some((difference, judgement)) => marked(difference, judgement),
            None if self.leads => "the best".to_owned(),
            None => "–".to_owned(),
        }
    }

    /// The interval of that difference.
    pub(super) fn interval(&self) -> String {
        let words = self
            .to_best
            .map(|(_, judgement)| interval(judgement.interval));
        words.unwrap_or_default()
    }

    /// The images that only this one and that only the best has right.
    pub(super) fn won_and_lost(&self) -> String {
        match self.to_best.map(|(_, judgement)| judgement.discordant) {
            Some(Some(counts)) => format!(
                "{} : {}",
                thousands(counts.only_variant),
                thousands(counts.only_baseline)
            ),
            Some(None) => "–".to_owned(),
            None => String::new(),
        }
    }

    /// The p-value of the difference.
    pub(super) fn p(&self) -> String {
        let words = self
            .to_best
            .map(|(_, judgement)| format!("p {}", p_value(judgement.p_value)));
        words.unwrap_or_default()
    }
}

/// All contenders of all comparisons in order.
pub(super) fn contenders(summary: &Summary) -> Vec<Contender<'_>> {
    let mut all = Vec::new();
    for comparison in &summary.comparisons {
        for (place, contender) in comparison.contenders.iter().enumerate() {
            let contest = comparison.contest(place, 0);
            all.push(Contender {
                alike: alike(comparison),
                number: contender.row + 1,
                row: &summary.rows[contender.row],
                to_best: contest.map(|contest| (contest.delta.mean, &contest.judgement)),
                leads: place == 0,
            });
        }
    }
    all
}

/// What teachers are worth, a sentence per group that has both arms with one and controls without.
pub(super) fn teachers(summary: &Summary) -> Vec<String> {
    let sentence = |comparison: &Comparison| {
        let found = comparison.taught()?;
        let judgement = &found.judgement;
        Some(format!(
            "{}: the best with a teacher ({}, {:.2} %) against the best control without one ({}, {:.2} %): {} {} points, p {}.",
            alike(comparison),
            found.taught.variant,
            found.taught.top1.mean,
            found.control.variant,
            found.control.top1.mean,
            marked(found.difference, judgement),
            interval(judgement.interval),
            p_value(judgement.p_value),
        ))
    };
    summary.comparisons.iter().filter_map(sentence).collect()
}

fn alike(comparison: &Comparison) -> String {
    let what = match &comparison.alike {
        Alike::Group(group) => return format!("{group}, as many epochs"),
        Alike::Sparsity(sparsity) => {
            // Three decimals at most: 0.8·100 is not 80 in binary.
            let percent = (100_000.0 * sparsity).round() / 1000.0;
            format!("{} % of the weights removed", plain(percent))
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
    use crate::report::sample_lines;
    use crate::results::{Arm, ResultLine, summarize};

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
                 control without one (student alone, lr 0.04, 85.00 %): +0.30 ≈ [−0.69, +1.29] points, p = 0.551."
            ]
        );
    }
}
