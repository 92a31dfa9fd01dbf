//! What a benchmark found: rows, the machine, the table for people and the file.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use opt_experiment::cpu::cpu;
use opt_experiment::machine::LIBTORCH_VERSION;
use opt_stats::Ratio;
use serde::{Deserialize, Serialize};

/// The outcome of a benchmark, as `--json` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The benchmark's name.
    pub bench: String,
    /// The machine and the programs compared.
    pub machine: String,
    /// One row per case, peer and quantity.
    pub rows: Vec<Row>,
}

/// Ours beside one peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What was run.
    pub case: String,
    /// Our value: the geometric mean over the rounds.
    pub ours: f64,
    /// The peer's value: the geometric mean over the rounds.
    pub peer: f64,
    /// The peer.
    pub peer_name: String,
    /// What both values count.
    pub unit: String,
    /// How many times better ours is: above 1 is better for us, whether more or less of `unit` is wanted.
    pub ratio: f64,
    /// The lower end of the 95 % interval of `ratio`.
    pub ci_low: f64,
    /// The upper end of the 95 % interval of `ratio`.
    pub ci_high: f64,
}

impl Row {
    pub(crate) fn new(case: &str, peer_name: &str, unit: &str, values: Ratio) -> Self {
        Self {
            case: case.to_owned(),
            ours: values.ours,
            peer: values.peer,
            peer_name: peer_name.to_owned(),
            unit: unit.to_owned(),
            ratio: values.ratio,
            ci_low: values.ci_low,
            ci_high: values.ci_high,
        }
    }
}

/// Rows with what a reader must know beside them.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) rows: Vec<Row>,
    /// The peer's versions.
    pub(crate) peer: String,
    /// The threads of ours and of the peer.
    pub(crate) threads: usize,
    /// Facts that belong to the machine or the comparison: they go to the JSON file too.
    pub(crate) facts: Vec<String>,
    /// What was left out, and why.
    pub(crate) notes: Vec<String>,
}

/// The machine in words.
pub(crate) fn machine(findings: &Findings) -> String {
    let cpu = cpu();
    let plural = |n: usize, what: &str| match n {
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    };
    let mut words = vec![
        cpu.model,
        plural(cpu.cores, "core"),
        plural(findings.threads, "thread"),
        cpu.features.join(" "),
        format!("ours on libtorch {}", LIBTORCH_VERSION),
        findings.peer.clone(),
    ];
    words.extend(findings.facts.iter().cloned());
    words.retain(|w| !w.is_empty());
    words.join("; ")
}

/// The table for people: every number with its unit.
pub(crate) fn table(outcome: &Outcome, width: Option<u16>) -> String {
    let rule = LineStyle::none().fill('─').junction('─');
    let mut table = Table::new();
    table
        .load_style(TableStyle::new().header_separator(rule))
        .set_content_arrangement(match width {
            Some(_) => ContentArrangement::Dynamic,
            None => ContentArrangement::Disabled,
        })
        .set_header(["case", "ours", "peer", "peer's", "ours is better by (95 %)"]);
    if let Some(width) = width {
        table.set_width(width);
    }
    for row in &outcome.rows {
        table.add_row([
            row.case.clone(),
            format!("{} {}", plain(row.ours), row.unit),
            row.peer_name.clone(),
            format!("{} {}", plain(row.peer), row.unit),
            format!(
                "{:.2}× ({:.2}× to {:.2}×)",
                row.ratio, row.ci_low, row.ci_high
            ),
        ]);
    }
    for i in [1, 3, 4] {
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n\n{table}\n", outcome.machine)
}

/// A number with three digits that count, or all before the point.
fn plain(value: f64) -> String {
    match value {
        v if v < 1.0 => format!("{v:.3}"),
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Outcome {
        let values = Ratio {
            ours: 812.4,
            peer: 401.0,
            ratio: 2.026,
            ci_low: 1.9,
            ci_high: 2.16,
        };
        let memory = Ratio {
            ours: 99.96,
            peer: 8.0,
            ratio: 0.08,
            ci_low: 0.0799,
            ci_high: 0.0801,
        };
        Outcome {
            bench: "train".to_owned(),
            machine: "a machine".to_owned(),
            rows: vec![
                Row::new("resnet20", "PyTorch default", "images/s", values),
                Row::new("resnet20", "PyTorch best", "MiB peak memory", memory),
            ],
        }
    }

    /// The keys that readers of these files rely on, in this order and no others.
    #[test]
    fn the_file_has_exactly_these_keys() {
        let text = serde_json::to_string(&sample()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(keys(&value), ["bench", "machine", "rows"]);
        for row in value["rows"].as_array().unwrap() {
            assert_eq!(
                keys(row),
                [
                    "case",
                    "ours",
                    "peer",
                    "peer_name",
                    "unit",
                    "ratio",
                    "ci_low",
                    "ci_high"
                ]
            );
            assert!(row["ratio"].is_f64() && row["case"].is_string());
        }
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), sample());
        let more = text.replacen("\"case\"", "\"other\":1,\"case\"", 1);
        assert!(serde_json::from_str::<Outcome>(&more).is_err());
    }

    #[test]
    fn every_number_of_the_table_has_its_unit() {
        let table = table(&sample(), None);
        for cell in [
            "812 images/s",
            "401 images/s",
            "2.03× (1.90× to 2.16×)",
            "100.0 MiB peak memory",
            "8.00 MiB peak memory",
        ] {
            assert!(table.contains(cell), "{cell}: {table}");
        }
    }
}
