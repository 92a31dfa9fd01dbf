//! The table that a run ends with in the terminal.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use crate::Summary;
use crate::contests::{ABOUT, contenders, teachers};
use crate::words::{
    accuracy, bits, difference_in_full, difference_to_original_in_full, in_millions, in_thousands,
    latency, legend, plain, policies, seconds, times, won_and_lost,
};

/// Lays the summary out as a table with the meaning of its marks below; `width` is the number of columns of the terminal, `None` for no limit.
pub fn terminal_table(summary: &Summary, width: Option<u16>) -> String {
    let mut table = table(
        width,
        [
            "experiment",
            "variant",
            "network",
            "top-1 %",
            "Δ original",
            "Δ",
            "won : lost",
            "kB",
            "smaller",
            "k params",
            "MMACs",
            "ms",
            "bits W / A",
            "epochs",
            "seconds",
        ],
    );
    let policies = policies(&summary.rows);
    for row in &summary.rows {
        table.add_row([
            row.experiment.clone(),
            row.variant.clone(),
            row.model.clone(),
            accuracy(row),
            difference_to_original_in_full(row),
            difference_in_full(row),
            won_and_lost(row.significance.as_ref()),
            in_thousands(row.bytes),
            times(row.bytes_ratio),
            in_thousands(row.params),
            in_millions(row.macs),
            latency(row),
            bits(row, &policies),
            plain(row.epochs),
            seconds(row.seconds),
        ]);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{table}\n");
    let columns = "Δ: in points; won : lost: images that only the variant and that only its baseline has right; ms: of one \
                   image on one thread of the engine.";
    for line in std::iter::once(columns.to_owned()).chain(legend(&summary.rows)) {
        text += &wrapped(&line, width.map_or(100, usize::from));
    }
    text + &methods(summary, width)
}

/// The methods against each other; empty if none cost the same.
fn methods(summary: &Summary, width: Option<u16>) -> String {
    if summary.comparisons.is_empty() {
        return String::new();
    }
    let heads = [
        "cost the same",
        "variant",
        "epochs",
        "top-1 %",
        "Δ to the best",
        "p",
        "won : lost",
    ];
    let mut table = table(width, heads);
    for contender in contenders(summary) {
        let difference = format!("{} {}", contender.difference(), contender.interval());
        table.add_row([
            contender.alike.clone(),
            contender.row.variant.clone(),
            plain(contender.row.epochs),
            accuracy(contender.row),
            difference,
            contender.p().trim_start_matches(['p', '=', ' ']).to_owned(),
            contender.won_and_lost(),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("\n{table}\n");
    for line in std::iter::once(ABOUT.to_owned()).chain(teachers(summary)) {
        text += &wrapped(&line, width.map_or(100, usize::from));
    }
    text
}

/// An empty table with a line below its heads.
fn table<const N: usize>(width: Option<u16>, heads: [&str; N]) -> Table {
    let rule = LineStyle::none().fill('─').junction('─');
    let mut table = Table::new();
    table
        .load_style(TableStyle::new().header_separator(rule))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(heads);
    match width {
        Some(width) => table.set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table
}

/// A line broken at spaces so that none is wider than `width`, unless a single word is.
fn wrapped(line: &str, width: usize) -> String {
    let mut text = String::new();
    let mut used = 0;
    for word in line.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            text.push('\n');
            used = 0;
        }
        if used > 0 {
            text.push(' ');
            used += 1;
        }
        text += word;
        used += length;
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::sample_lines;
    use crate::summarize;

    #[test]
    fn a_row_per_variant_in_the_width_given() {
        let summary = summarize(&sample_lines(), &[]);
        let table = terminal_table(&summary, None);
        for words in [
            "91.70 ± 0.14",
            "−17.60 ▼ ",
            "−6.70 ▼~",
            "[−0.79, −0.02]",
            "160 : 200",
            "1,100.0",
            "6.17×",
            "8 / 8",
            "4* / 8",
            "\n* after bits: first and last",
            "\n~ one seed",
            "−16.10 ▼~ [",
        ] {
            assert!(table.contains(words), "{words}\n{table}");
        }
        let rows = table
            .lines()
            .take_while(|line| !line.starts_with("Δ: in points"));
        assert_eq!(rows.count(), 12 + 2);
        // Methods that are compared need not have been trained equally long.
        let methods = table.split("cost the same").nth(1).unwrap();
        for words in ["epochs", "   9 ", "   8 "] {
            assert!(methods.contains(words), "{words}\n{table}");
        }
        let narrow = terminal_table(&summary, Some(100));
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 100),
            "{narrow}"
        );
    }
}
