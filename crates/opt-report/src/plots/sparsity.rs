//! Accuracy against the share of weights that was removed, a line per method, with the spread of the seeds.

use super::axis::linear_axis;
use super::canvas::{Entry, WIDTH, axes, curve, dashes, error_bar, page, place, point, shortened};
use crate::SummaryRow;

/// A plot of the variants of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparsityPlot {
    /// The network that they started from.
    pub original: String,
    /// The SVG.
    pub svg: String,
}

/// Draws accuracy against sparsity, a plot for each network that weights were removed from.
///
/// Points are means over the seeds, bars one standard deviation; the dashed line is the mean of their baseline, the network
/// trained further for as long without pruning. `data` names the data set below the title.
pub fn accuracy_against_sparsity(rows: &[SummaryRow], data: &str) -> Vec<SparsityPlot> {
    let mut networks: Vec<(&str, Vec<&SummaryRow>)> = Vec::new();
    for row in rows.iter().filter(|row| row.sparsity.is_some()) {
        let started = row.original.as_ref().map(|original| &original.variant);
        let name = started.or(row.baseline.as_ref()).unwrap_or(&row.model);
        match networks.iter_mut().find(|(other, _)| other == name) {
            Some((_, rows)) => rows.push(row),
            None => networks.push((name, vec![row])),
        }
    }
    let plot = |(original, rows): (&str, Vec<&SummaryRow>)| SparsityPlot {
        original: original.to_owned(),
        svg: draw(original, &rows, data),
    };
    networks.into_iter().map(plot).collect()
}

/// Pixels between the points of two methods at one sparsity, so that their bars do not lie on each other.
const BESIDE: i32 = 8;

fn draw(original: &str, rows: &[&SummaryRow], data: &str) -> String {
    let mut methods: Vec<(&str, Vec<&SummaryRow>)> = Vec::new();
    for &row in rows {
        match methods.iter_mut().find(|(other, _)| *other == row.method) {
            Some((_, rows)) => rows.push(row),
            None => methods.push((&row.method, vec![row])),
        }
    }
    let percent = |row: &SummaryRow| 100.0 * row.sparsity.unwrap_or(0.0);
    for (_, rows) in &mut methods {
        rows.sort_by(|a, b| percent(a).total_cmp(&percent(b)));
    }
    let spread = |row: &SummaryRow| row.top1.std.unwrap_or(0.0);
    let control = rows.iter().map(|row| row.top1_baseline).sum::<f64>() / rows.len() as f64;
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
    let (first, last) = (
        least(&mut rows.iter().map(|row| percent(row))),
        most(&mut rows.iter().map(|row| percent(row))),
    );
    // One sparsity alone stands in the middle.
    let room = if last - first < 1.0 { 5.0 } else { 0.0 };
    let x = linear_axis(first - room, (last + room).min(100.0), |value| {
        format!("{} %", short(value))
    });
    let y = linear_axis(
        least(&mut rows.iter().map(|row| row.top1.mean - spread(row))).min(control),
        most(&mut rows.iter().map(|row| row.top1.mean + spread(row))).max(control),
        short,
    );
    let mut legend: Vec<Entry> = methods
        .iter()
        .enumerate()
        .map(|(kind, (method, _))| Entry::Marker(kind + 1, shortened(method, 40)))
        .collect();
    legend.push(Entry::Dashes(shortened(
        &format!("trained further without pruning: {control:.2} %"),
        60,
    )));
    if rows.iter().any(|row| row.n > 1) {
        let words = "bars: one standard deviation over seeds";
        legend.push(Entry::Note(words.to_owned()));
    }
    let subtitle = format!("{}, {data}", shortened(original, 30));
    page(&subtitle, &legend, |area| {
        axes(
            area,
            &x,
            &y,
            "share of the weights that was removed",
            "top-1 accuracy (%)",
        );
        let (left, row) = place(&x, &y, x.low, control);
        dashes(
            area,
            &[(left, row), (place(&x, &y, x.high, control).0, row)],
        );
        let beside = match rows.iter().any(|row| row.n > 1) {
            true => BESIDE,
            false => 0,
        };
        let width = beside * i32::try_from(methods.len().saturating_sub(1)).unwrap_or(0);
        let mut offset = -width.min(WIDTH / 4) / 2;
        for (kind, (_, rows)) in (1..).zip(&methods) {
            let at: Vec<(i32, i32)> = rows
                .iter()
                .map(|row| {
                    let (column, row) = place(&x, &y, percent(row), row.top1.mean);
                    (column + offset, row)
                })
                .collect();
            curve(area, kind, &at);
            for (row, &at) in rows.iter().zip(&at) {
                if let Some(std) = row.top1.std {
                    let edge = |accuracy| place(&x, &y, x.low, accuracy).1;
                    let (low, high) = (edge(row.top1.mean - std), edge(row.top1.mean + std));
                    error_bar(area, kind, at.0, low, high);
                }
                let words = format!(
                    "{} %, {}: {:.2} %",
                    short(percent(row)),
                    row.method,
                    row.top1.mean
                );
                point(area, kind, at, &words);
            }
            offset += beside;
        }
    })
}

/// A number without the digits that only rounding brought.
fn short(value: f64) -> String {
    let words = format!("{value:.3}");
    words.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::sample_lines;
    use crate::{ResultLine, summarize};

    fn pruned(method: &str, sparsity: f64, seed: u64, top1: f64) -> ResultLine {
        ResultLine {
            variant: format!("{sparsity} {method}"),
            method: method.to_owned(),
            sparsity: Some(sparsity),
            seed,
            top1,
            ..sample_lines()[3].clone()
        }
    }

    fn plots(lines: &[ResultLine]) -> Vec<SparsityPlot> {
        let originals = [0, 1].map(|seed| ResultLine {
            seed,
            ..sample_lines()[0].clone()
        });
        let lines = [&originals[..], lines].concat();
        accuracy_against_sparsity(&summarize(&lines, &[]).rows, "data: made")
    }

    #[test]
    fn a_line_per_method_with_the_spread_of_its_seeds() {
        let mut lines = Vec::new();
        for (method, loss) in [("one-shot", 2.0), ("2 rounds", 1.0)] {
            for (sparsity, top1) in [(0.9, 80.0), (0.5, 91.0), (0.8, 88.0)] {
                for seed in [0, 1] {
                    lines.push(pruned(
                        method,
                        sparsity,
                        seed,
                        top1 - loss * (1.0 + seed as f64),
                    ));
                }
            }
        }
        let found = plots(&lines);
        let [plot] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(plot.original, "resnet20");
        for words in [
            ">one-shot</text>",
            ">2 rounds</text>",
            ">60 %</text>",
            "resnet20, data: made",
            "trained further without pruning: 91.60 %",
            "bars: one standard deviation over seeds",
            "<title>80 %, 2 rounds: 86.50 %</title>",
        ] {
            assert!(plot.svg.contains(words), "{words}\n{}", plot.svg);
        }
        // Six points, and each line goes from left to right.
        assert_eq!(plot.svg.matches("<title>").count(), 6);
        assert_eq!(found, plots(&lines));
    }

    #[test]
    fn one_seed_has_no_bars_and_one_sparsity_a_place() {
        let found = plots(&[pruned("one-shot", 0.8, 0, 88.0)]);
        assert!(!found[0].svg.contains("bars:") && found[0].svg.contains(">80 %</text>"));
        assert!(plots(&[]).is_empty());
    }

    #[test]
    fn networks_have_plots_of_their_own() {
        let other = ResultLine {
            variant: "of another".to_owned(),
            baseline: Some("another".to_owned()),
            ..pruned("one-shot", 0.8, 0, 70.0)
        };
        let found = plots(&[pruned("one-shot", 0.8, 0, 88.0), other]);
        let names: Vec<&str> = found.iter().map(|plot| plot.original.as_str()).collect();
        assert_eq!(names, ["resnet20", "another"]);
    }
}
