//! Which variants are worth reading about first: the Pareto fronts, and the order of the table that opens a report.

use crate::SummaryRow;
use crate::plots::pareto_front;

/// Rows in the table that opens a report where the fronts alone do not fill it.
const AT_LEAST: usize = 6;

/// Whether no other row of a run is both cheaper and more accurate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Front {
    /// Cheaper: a smaller file.
    pub(crate) size: bool,
    /// Cheaper: fewer multiply-accumulates.
    pub(crate) macs: bool,
}

impl Front {
    /// In words, which unlike a colour everybody can read; empty for a row on neither front.
    pub(crate) fn words(self) -> &'static str {
        match (self.size, self.macs) {
            (true, true) => "◆ size, MACs",
            (true, false) => "◆ size",
            (false, true) => "◆ MACs",
            (false, false) => "",
        }
    }
}

/// The fronts of a run, an entry for each row.
pub(crate) fn fronts(rows: &[SummaryRow]) -> Vec<Front> {
    let on = |cost: fn(&SummaryRow) -> u64| {
        let point = |row: &SummaryRow| match cost(row) {
            0 => (f64::NAN, row.top1.mean),
            cost => (cost as f64, row.top1.mean),
        };
        pareto_front(&rows.iter().map(point).collect::<Vec<_>>())
    };
    let (size, macs) = (on(|row| row.bytes_content), on(|row| row.macs));
    (0..rows.len())
        .map(|i| Front {
            size: size.contains(&i),
            macs: macs.contains(&i),
        })
        .collect()
}

/// The rows that open a report: compressed variants on a front, and as many others as make the table worth reading, the
/// smallest relative to its baseline first.
///
/// Others are taken in the order of their loss (at most 1 point, at most 2, more), then of their size.
pub(crate) fn leaders(rows: &[SummaryRow], fronts: &[Front]) -> Vec<usize> {
    let ratio = |i: usize| rows[i].bytes_ratio.unwrap_or(1.0);
    let mut leaders: Vec<usize> = (0..rows.len())
        .filter(|&i| rows[i].baseline.is_some())
        .filter(|&i| ratio(i) > 1.005 || rows[i].macs_ratio.is_some_and(|r| r > 1.005))
        .collect();
    let loss = |i: usize| {
        let original = rows[i].original.as_ref();
        original.map_or(rows[i].delta.mean, |original| original.delta.mean)
    };
    let group = |i: usize| match (fronts[i] != Front::default(), loss(i)) {
        (true, _) => 0,
        (false, delta) if delta >= -1.0 => 1,
        (false, delta) if delta >= -2.0 => 2,
        (false, _) => 3,
    };
    let by_size = |a: &usize, b: &usize| {
        let accuracy = rows[*b].top1.mean.total_cmp(&rows[*a].top1.mean);
        ratio(*b).total_cmp(&ratio(*a)).then(accuracy)
    };
    leaders.sort_by(|a, b| group(*a).cmp(&group(*b)).then(by_size(a, b)));
    let n_front = leaders.iter().filter(|i| group(**i) == 0).count();
    leaders.truncate(n_front.max(AT_LEAST));
    leaders.sort_by(by_size);
    leaders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::sample_lines;
    use crate::{ResultLine, summarize};

    #[test]
    fn rows_are_on_the_fronts_that_nobody_beats() {
        let mut rows = summarize(&sample_lines(), &[]).rows;
        let words = |rows: &[SummaryRow], variant: &str| {
            let place = rows.iter().position(|row| row.variant == variant).unwrap();
            fronts(rows)[place].words()
        };
        assert_eq!(words(&rows, "resnet20"), "◆ size, MACs");
        assert_eq!(words(&rows, "post-training W8A8"), "◆ size");
        assert_eq!(words(&rows, "student taught by resnet20"), "◆ MACs");
        assert_eq!(words(&rows, "one-shot 90 %"), "");
        // A file that was not written is not the smallest one.
        rows[5].bytes_content = 0;
        assert_eq!(words(&rows, "post-training W8A8"), "");
    }

    #[test]
    fn names_in_a_file_put_no_row_on_the_front() {
        let mut lines = sample_lines();
        lines.truncate(6);
        let shorter = ResultLine {
            variant: "W8A8".to_owned(),
            bytes: lines[5].bytes - 8,
            top1: lines[5].top1 - 0.1,
            ..lines[5].clone()
        };
        lines.push(shorter);
        let on_front = |lines: &[ResultLine]| {
            let rows = summarize(lines, &[]).rows;
            let fronts = fronts(&rows);
            [fronts[5].size, fronts[6].size]
        };
        // As far as anybody knows it is 8 bytes smaller.
        assert_eq!(on_front(&lines), [true, true]);
        (lines[5].bytes_provenance, lines[6].bytes_provenance) = (248, 240);
        assert_eq!(on_front(&lines), [true, false]);
    }

    #[test]
    fn the_smallest_lead_and_baselines_do_not() {
        let rows = summarize(&sample_lines(), &[]).rows;
        let names = |rows: &[SummaryRow]| -> Vec<String> {
            let leaders = leaders(rows, &fronts(rows));
            leaders.iter().map(|&i| rows[i].variant.clone()).collect()
        };
        assert_eq!(
            names(&rows),
            [
                "channels + W4A8",
                "aware W4A8",
                "channels + W8A8",
                "post-training W8A8",
                "iterative 80 %",
                "one-shot 50 %",
            ]
        );
        assert!(names(&rows[..2]).is_empty());
    }
}
