//! The table that a run ends with in the terminal.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use super::words::{
    accuracy, bits, difference, in_millions, in_thousands, plain, thousands, times,
};
use crate::results::Summary;

/// Lays the summary out as a table; `width` is the number of columns of the terminal, `None` for no limit.
pub fn terminal_table(summary: &Summary, width: Option<u16>) -> String {
    let rule = LineStyle::none().fill('─').junction('─');
    let style = TableStyle::new().header_separator(rule);
    let mut table = Table::new();
    table
        .load_style(style)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header([
            "experiment",
            "variant",
            "network",
            "top-1 %",
            "Δ points",
            "kB",
            "smaller",
            "k params",
            "MMACs",
            "bits W / A",
            "epochs",
            "seconds",
        ]);
    if let Some(width) = width {
        table.set_width(width);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    for row in &summary.rows {
        table.add_row([
            row.experiment.clone(),
            row.variant.clone(),
            row.model.clone(),
            accuracy(row),
            difference(row),
            in_thousands(row.bytes),
            times(row.bytes_ratio),
            in_thousands(row.params),
            in_millions(row.macs),
            bits(row),
            plain(row.epochs),
            thousands(whole(row.seconds)),
        ]);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// A time in whole seconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and no run lasts that long"
)]
pub(super) fn whole(seconds: f64) -> u64 {
    seconds.max(0.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample_lines;
    use crate::results::summarize;

    #[test]
    fn a_row_per_variant_in_the_width_given() {
        let summary = summarize(&sample_lines());
        let table = terminal_table(&summary, None);
        for words in ["91.70 ± 0.14", "−6.80 ▼", "1,100.0", "6.17×", "8 / 8"] {
            assert!(table.contains(words), "{words}\n{table}");
        }
        assert_eq!(table.lines().count(), 12 + 2);
        let narrow = terminal_table(&summary, Some(100));
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 100),
            "{narrow}"
        );
    }
}
