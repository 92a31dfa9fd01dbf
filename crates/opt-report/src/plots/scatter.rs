//! Accuracy against a cost, with the Pareto front drawn.
//!
//! Points have the numbers of their rows; the names of those on the front stand below the plot.

use super::axis::{linear_axis, log_axis};
use super::canvas::{
    Covered, Entry, Kind, Weight, axes, dashes, error_bar, label, nothing, page, place, point,
    shortened,
};
use super::pareto_front;
use crate::SummaryRow;

/// Points more than this many points of accuracy below their own baseline are drawn at the lower edge, if nothing else
/// reaches as deep, so that they do not press all others together.
const DEPTH: f64 = 12.0;

/// Names of the front below a plot; a longer list would be the table once more.
const NAMED: usize = 10;

/// Draws accuracy against the size of the model file.
///
/// `data` names the data set below the title; the number of a point is that of its row, from 1.
pub fn accuracy_against_bytes(rows: &[SummaryRow], data: &str) -> String {
    scatter(
        rows,
        data,
        |row| row.bytes,
        |row| row.bytes_content,
        "size of the model file, log scale (1 MB = 1,000 kB)",
        |bytes| match bytes {
            1e6.. => format!("{} MB", rounded(bytes / 1e6)),
            _ => format!("{} kB", rounded(bytes / 1e3)),
        },
    )
}

/// Draws accuracy against multiply-accumulates for one image.
///
/// `data` names the data set below the title; the number of a point is that of its row, from 1.
pub fn accuracy_against_macs(rows: &[SummaryRow], data: &str) -> String {
    scatter(
        rows,
        data,
        |row| row.macs,
        |row| row.macs,
        "multiply-accumulates per image, log scale (M = million)",
        |macs| match macs {
            1e9.. => format!("{} G", rounded(macs / 1e9)),
            1e6.. => format!("{} M", rounded(macs / 1e6)),
            _ => format!("{} k", rounded(macs / 1e3)),
        },
    )
}

/// A marker per experiment: fixed for the known ones, so that reports of different runs look alike.
fn kinds<'a>(rows: &[&'a SummaryRow]) -> Vec<(&'a str, Kind)> {
    const KNOWN: [&str; 5] = ["baseline", "prune", "quantize", "distill", "pipeline"];
    let mut kinds: Vec<(&str, Kind)> = Vec::new();
    let mut next = KNOWN.len();
    for row in rows {
        let name = row.experiment.as_str();
        if kinds.iter().any(|(other, _)| *other == name) {
            continue;
        }
        let kind = KNOWN.iter().position(|known| *known == name);
        kinds.push((name, kind.unwrap_or(next)));
        next += usize::from(kind.is_none());
    }
    kinds
}

fn scatter(
    rows: &[SummaryRow],
    data: &str,
    cost: fn(&SummaryRow) -> u64,
    compared_by: fn(&SummaryRow) -> u64,
    cost_title: &str,
    cost_words: fn(f64) -> String,
) -> String {
    let numbered: Vec<(usize, &SummaryRow)> = (1..)
        .zip(rows)
        .filter(|(_, row)| cost(row) > 0 && row.top1.mean.is_finite())
        .collect();
    if numbered.is_empty() {
        return page(data, &[], |area| nothing(area, "no results yet"));
    }
    let rows: Vec<&SummaryRow> = numbered.iter().map(|(_, row)| *row).collect();
    let points: Vec<(f64, f64)> = rows
        .iter()
        .map(|row| (cost(row) as f64, row.top1.mean))
        .collect();
    let costs = points.iter().map(|point| point.0);
    let (floor, best) = range(&rows);
    let x = log_axis(
        costs.clone().fold(f64::INFINITY, f64::min),
        costs.fold(0.0, f64::max),
        cost_words,
    );
    let y = linear_axis(floor, best, rounded);
    let kinds = kinds(&rows);
    let compared: Vec<(f64, f64)> = rows
        .iter()
        .map(|row| (compared_by(row) as f64, row.top1.mean))
        .collect();
    let front = pareto_front(&compared);
    let described = |i: usize| {
        let (row, cost) = (rows[i], cost_words(four_digits(points[i].0)));
        format!("{cost}, {:.2} %: {}", row.top1.mean, row.variant)
    };

    let mut legend: Vec<Entry> = kinds
        .iter()
        .map(|(name, kind)| Entry::Marker(*kind, shortened(name, 40)))
        .collect();
    if rows.iter().any(|row| row.n > 1) {
        let words = "bars: one standard deviation over seeds";
        legend.push(Entry::Note(words.to_owned()));
    }
    let n_below = points.iter().filter(|point| point.1 < floor).count();
    if n_below > 0 {
        legend.push(Entry::Note(format!(
            "{n_below} at the lower edge: below {} %",
            rounded(floor)
        )));
    }
    legend.push(Entry::Dashes(
        "Pareto front: none is smaller and better".to_owned(),
    ));
    for &i in front.iter().take(NAMED) {
        let number = numbered[i].0.to_string();
        let words = shortened(&described(i), 62);
        legend.push(Entry::Row(kind_of(&kinds, rows[i]), number, words));
    }
    if front.len() > NAMED {
        let more = front.len() - NAMED;
        legend.push(Entry::Note(format!("{more} more: see the table")));
    }

    page(data, &legend, |area| {
        axes(area, &x, &y, cost_title, "top-1 accuracy (%)");
        let at: Vec<(i32, i32)> = points
            .iter()
            .map(|point| place(&x, &y, point.0.log10(), point.1))
            .collect();
        let corners = stairs(front.iter().map(|&i| at[i]));
        dashes(area, &corners);
        for (row, &(column, _)) in rows.iter().zip(&at) {
            if let Some(std) = row.top1.std {
                let edge = |accuracy| place(&x, &y, x.low, accuracy).1;
                let (low, high) = (edge(row.top1.mean - std), edge(row.top1.mean + std));
                error_bar(area, kind_of(&kinds, row), column, low, high);
            }
        }
        // The front lies on top.
        let beaten = (0..rows.len()).filter(|i| !front.contains(i));
        let order: Vec<usize> = beaten.chain(front.iter().copied()).collect();
        for &i in &order {
            let words = format!(
                "{}. {} ({})",
                numbered[i].0,
                described(i),
                rows[i].experiment
            );
            point(area, kind_of(&kinds, rows[i]), at[i], &words);
        }
        let mut covered: Vec<Covered> = at.iter().map(|&at| Covered::marker(at)).collect();
        let lines: Vec<Covered> = corners
            .windows(2)
            .map(|pair| Covered::line(pair[0], pair[1]))
            .collect();
        for &i in order.iter().rev() {
            let weight = match front.contains(&i) {
                true => Weight::Bold,
                false => Weight::Normal,
            };
            let number = numbered[i].0.to_string();
            label(area, &number, at[i], weight, &lines, &mut covered);
        }
    })
}

/// The lowest accuracy that has a height of its own, and the best.
fn range(rows: &[&SummaryRow]) -> (f64, f64) {
    let accuracies = rows.iter().map(|row| row.top1.mean);
    let best = accuracies.clone().fold(0.0, f64::max);
    let sound = rows
        .iter()
        .filter(|row| row.top1.mean >= row.top1_baseline - DEPTH)
        .map(|row| row.top1.mean)
        .fold(best, f64::min);
    let floor = accuracies
        .fold(f64::INFINITY, f64::min)
        .max(sound.min(best - DEPTH));
    (floor, best)
}

/// The corners of a line that goes from point to point, first across and then up.
fn stairs(points: impl Iterator<Item = (i32, i32)>) -> Vec<(i32, i32)> {
    let mut corners: Vec<(i32, i32)> = Vec::new();
    for point in points {
        if let Some(last) = corners.last() {
            corners.push((point.0, last.1));
        }
        corners.push(point);
    }
    corners
}

/// A count without digits that no reader of a plot needs.
fn four_digits(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor() - 3.0);
    (value / unit).round() * unit
}

fn kind_of(kinds: &[(&str, Kind)], row: &SummaryRow) -> Kind {
    kinds
        .iter()
        .find(|(name, _)| *name == row.experiment)
        .map_or(0, |(_, kind)| *kind)
}

/// A number without the digits that only rounding brought.
fn rounded(value: f64) -> String {
    let words = format!("{value:.3}");
    words.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::sample_lines;
    use crate::summarize;

    #[test]
    fn equal_input_gives_equal_bytes() {
        let rows = summarize(&sample_lines(), &[]).rows;
        assert_eq!(
            accuracy_against_bytes(&rows, "data: made"),
            accuracy_against_bytes(&rows.clone(), "data: made")
        );
    }

    #[test]
    fn the_plot_names_its_axes_its_kinds_and_its_best_points() {
        let svg = accuracy_against_bytes(&summarize(&sample_lines(), &[]).rows, "data: made");
        for words in [
            "size of the model file",
            "200 kB",
            "(%)",
            ">pipeline</text>",
            ">11</text>",
            ">178.3 kB, 90.85 %: channels + W8A8</text>",
            // Beaten by others, so it is named for the mouse alone.
            "<title>4. 190 kB, 84.90 %: one-shot 90 % (prune)</title>",
        ] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(!svg.contains("one-shot 90 %</text>"));
        let svg = accuracy_against_macs(&summarize(&sample_lines(), &[]).rows, "data: made");
        assert!(svg.contains("20 M"));
    }

    #[test]
    fn names_are_escaped() {
        let mut rows = summarize(&sample_lines(), &[]).rows;
        for row in &mut rows {
            row.variant = "<b>&".to_owned();
            row.experiment = "<i>".to_owned();
        }
        let svg = accuracy_against_bytes(&rows, "data: made");
        assert!(!svg.contains("<b>") && !svg.contains("<i>"));
        assert!(svg.contains("&lt;b&gt;&amp;"));
    }

    #[test]
    fn plots_of_nothing_and_of_one_point() {
        assert!(accuracy_against_bytes(&[], "data: made").contains("no results yet"));
        let rows = summarize(&sample_lines()[..1], &[]).rows;
        assert!(accuracy_against_macs(&rows, "data: made").contains("baseline"));
        // A model that was not written has no size.
        let mut rows = rows;
        rows[0].bytes = 0;
        assert!(accuracy_against_bytes(&rows, "data: made").contains("no results yet"));
    }

    #[test]
    fn a_collapsed_model_is_drawn_at_the_edge_and_said_so() {
        let mut rows = summarize(&sample_lines(), &[]).rows;
        rows[1].top1.mean = 10.0;
        let svg = accuracy_against_bytes(&rows, "data: made");
        assert!(svg.contains("2 at the lower edge: below"), "{svg}");
        // A network that is less accurate by nature is no collapse, and neither is what was made of it.
        rows[0].top1.mean = 60.0;
        rows[0].top1_baseline = 60.0;
        rows[1].top1.mean = 55.0;
        rows[1].top1_baseline = 60.0;
        let svg = accuracy_against_bytes(&rows, "data: made");
        assert!(!svg.contains("at the lower edge"), "{svg}");
    }
}
