//! `report.md`: the main table and its conditions, to be read in a terminal or put into a README.

use crate::contests::{ABOUT, contenders, teachers};
use crate::figures::Figure;
use crate::ranking::fronts;
use crate::words::{
    accuracy, bits, conditions, difference_in_full, difference_to_original_in_full, headline,
    how_picked, in_millions, in_thousands, latency, left_out, legend, plain, policies, times,
};
use crate::{RunInfo, Summary, notices};

/// Writes the report as Markdown.
pub fn markdown(run: &RunInfo, summary: &Summary, plots: &[Figure]) -> String {
    let mut text = String::from("# What was compressed how far, at what loss\n\n");
    for notice in notices(run) {
        text += &format!("> **⚠ Notice:** {}\n\n", escaped(&notice));
    }
    if run.finished.is_none() {
        text += "> This run is not finished; what follows is what it has so far.\n\n";
    }
    for line in headline(&summary.rows) {
        let detail = escaped(&line.detail);
        text += &format!("- {}: **{}**. {detail}\n", line.loss, line.gain);
    }
    text += &format!("\n{}\n\n", how_picked(&summary.rows));

    let (policies, fronts) = (policies(&summary.rows), fronts(&summary.rows));
    let mut table: Vec<Vec<String>> = vec![
        [
            "no.",
            "experiment",
            "variant",
            "network",
            "Pareto",
            "top-1 %",
            "Δ original",
            "Δ",
            "kB",
            "smaller",
            "non-zero k",
            "MMACs",
            "ms",
            "bits W / A",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for (number, (row, front)) in (1..).zip(summary.rows.iter().zip(&fronts)) {
        table.push(vec![
            number.to_string(),
            escaped(&row.experiment),
            escaped(&row.variant),
            escaped(&row.model),
            front.words().to_owned(),
            accuracy(row),
            escaped(&difference_to_original_in_full(row)),
            escaped(&difference_in_full(row)),
            in_thousands(row.bytes),
            times(row.bytes_ratio),
            in_thousands(row.nonzero),
            in_millions(row.macs),
            latency(row),
            escaped(&bits(row, &policies)),
        ]);
    }
    text += &aligned(&table, 5);
    text.push('\n');
    for line in legend(&summary.rows) {
        text += &format!("- {}\n", escaped(&line));
    }
    text += "- Pareto ◆: no other variant has a smaller file (size) or fewer multiply-accumulates (MACs) and is more accurate.\n";
    text += "- MMACs: millions of multiply-accumulates per image, zeros included; k: thousands; 1 kB = 1,000 bytes.\n- ms: milliseconds of one image on one thread of the engine, which runs integer networks; – for f32.\n\n";
    text += &methods(summary);
    for plot in plots.iter().filter(|plot| !plot.training) {
        text += &format!("![{}](plots/{}.svg)\n", plot.caption, plot.name);
    }
    if !plots.is_empty() {
        text += "\nTraining curves, layers, single seeds and recipes: report.html.\n";
    }
    if !run.notes.is_empty() {
        text += "\n## Findings\n\n";
    }
    for note in &run.notes {
        text += &format!("- {}\n", escaped(note));
    }
    text += "\n## Conditions\n\n";
    for (term, value) in conditions(run) {
        text += &format!("- {term}: {}\n", escaped(&value));
    }
    for entry in left_out(run) {
        text += &format!("- Did not run: {}\n", escaped(&entry));
    }
    text
}

/// The methods against each other; empty if none cost the same.
fn methods(summary: &Summary) -> String {
    if summary.comparisons.is_empty() {
        return String::new();
    }
    let mut table: Vec<Vec<String>> = vec![
        [
            "cost the same",
            "no.",
            "variant",
            "epochs",
            "top-1 %",
            "Δ to the best",
            "p",
            "won : lost",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for contender in contenders(summary) {
        let difference = format!("{} {}", contender.difference(), contender.interval());
        table.push(vec![
            escaped(&contender.alike),
            contender.number.to_string(),
            escaped(&contender.row.variant),
            plain(contender.row.epochs),
            accuracy(contender.row),
            escaped(difference.trim_end()),
            escaped(contender.p().trim_start_matches(['p', '=', ' '])),
            contender.won_and_lost(),
        ]);
    }
    let mut text = format!(
        "## Methods against each other\n\n{ABOUT}\n\n{}\n",
        aligned(&table, 3)
    );
    for sentence in teachers(summary) {
        text += &format!("- {}\n", escaped(&sentence));
    }
    text.push('\n');
    text
}

/// A table padded so that it can be read as plain text too; columns from `first_right` on are aligned to the right.
fn aligned(table: &[Vec<String>], first_right: usize) -> String {
    let columns = table[0].len();
    let widths: Vec<usize> = (0..columns)
        .map(|j| {
            table
                .iter()
                .map(|row| row[j].chars().count())
                .max()
                .unwrap_or(0)
                .max(3)
        })
        .collect();
    let mut text = String::new();
    for (i, row) in table.iter().enumerate() {
        for (j, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            text += &match j < first_right {
                true => format!("| {cell:<width$} "),
                false => format!("| {cell:>width$} "),
            };
        }
        text += "|\n";
        if i == 0 {
            for (j, width) in widths.iter().enumerate() {
                text += &match j < first_right {
                    true => format!("|{}", "-".repeat(width + 2)),
                    false => format!("|{}:", "-".repeat(width + 1)),
                };
            }
            text += "|\n";
        }
    }
    text
}

/// Text that Markdown takes literally, on one line.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' => safe.push(' '),
            '|' | '<' | '*' | '`' | '[' | '\\' => {
                safe.push('\\');
                safe.push(c);
            }
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{sample_lines, sample_run};
    use crate::summarize;

    #[test]
    fn the_table_is_aligned_and_its_cells_cannot_break_it() {
        let mut lines = sample_lines();
        lines[4].variant = "a|b <b>".to_owned();
        let text = markdown(&sample_run(), &summarize(&lines, &[]), &[]);
        assert!(text.contains("> **⚠ Notice:** unofficial data (cifar10): real CIFAR-10"));
        assert!(text.contains("> **⚠ Notice:** uncommitted changes: the working tree"));
        assert!(text.contains("a\\|b \\<b>"));
        let tables: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        let (rows, methods) = tables.split_at(14);
        assert_eq!(methods.len(), 4);
        let width = rows[0].chars().count();
        assert!(
            rows.iter().all(|row| row.chars().count() == width),
            "{text}"
        );
        assert!(text.contains(
            "- Did not run: source_net, 10 epochs a phase (belongs to the profile full)"
        ));
        assert!(methods[2].contains(" the best |"), "{text}");
        // Methods that are compared need not have been trained equally long.
        let epochs = |row: &str| row.split('|').nth(4).unwrap().trim().to_owned();
        let found: Vec<String> = methods.iter().map(|row| epochs(row)).collect();
        assert_eq!([&found[0], &found[2], &found[3]], ["epochs", "9", "8"]);
        assert!(text.contains("## Methods against each other\n\nVariants that start"));
        assert!(text.contains("## Findings\n\n- resnet20: magnitude"));
        assert!(text.contains(" 4\\* / 8 |") && text.contains("- \\* after bits: first and last"));
        assert!(text.contains("- ~ one seed"));
    }
}
