//! Benchmarks beside other people's programs: what each writes, and the one list of them.
//!
//! A benchmark is a file below `bench/` with an `Options` for its command line and a `run` that gives rows, and a variant
//! of [`Bench`]. Its peer is a script in `peers/` that [`peer`] starts.

mod clock;
mod data;
mod infer;
mod memory;
mod neighbour;
mod peer;
mod process;
mod rounds;
mod same;
mod train;

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use opt_report::write_atomic;
use opt_stats::Ratio;
use serde::{Deserialize, Serialize};

pub(crate) use infer::SCRIPT as INFER_PEER;
pub(crate) use peer::python;
pub use peer::{Peer, find_python};

use crate::cpu::cpu;

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Training: forward, backward and SGD on three networks, images per second and peak memory, beside PyTorch.
    Train(train::Options),
    /// Random crop and flip on one core, images per second, beside PyTorch.
    Data(data::Options),
    /// Inference of ResNet-20 in integers, milliseconds, beside ONNX Runtime and OpenVINO; two threads beside one, also on a
    /// busy machine; MAC per cycle of every layer.
    Infer(infer::Options),
    /// Trains a few steps and prints the memory that took: a process of its own for `train`.
    #[command(hide = true)]
    TrainOnce(memory::Once),
}

/// What all benchmarks are told.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Write the rows to this file as JSON as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The Python that has the peers [default: `OPT_PEERS_PYTHON`, else what `cargo xtask setup --peers` made].
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Rounds in which ours and the peers run in turn.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=1000))]
    rounds: u16,
    /// Only the cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
}

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
    fn new(case: &str, peer_name: &str, unit: &str, values: Ratio) -> Self {
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
struct Findings {
    rows: Vec<Row>,
    /// The peer's versions.
    peer: String,
    /// The threads of ours and of the peer.
    threads: usize,
    /// Facts that belong to the machine or the comparison: they go to the JSON file too.
    facts: Vec<String>,
    /// What was left out, and why.
    notes: Vec<String>,
}

/// Runs a benchmark, prints its table and writes its file.
///
/// # Errors
///
/// A peer that is missing, fails or trains another network; a file that cannot be written.
pub fn run(bench: &Bench) -> Result<()> {
    let (name, common, findings) = match bench {
        Bench::Train(options) => ("train", &options.common, train::run(options)?),
        Bench::Data(options) => ("data", &options.common, data::run(options)?),
        Bench::Infer(options) => ("infer", &options.common, infer::run(options)?),
        Bench::TrainOnce(once) => return memory::once(once),
    };
    let outcome = Outcome {
        bench: name.to_owned(),
        machine: machine(&findings),
        rows: findings.rows,
    };
    let columns = std::env::var("COLUMNS").ok().and_then(|n| n.parse().ok());
    let width = columns.filter(|_| std::io::stdout().is_terminal());
    #[expect(clippy::print_stdout, reason = "the result of the command")]
    {
        println!("{}", table(&outcome, width));
        for note in &findings.notes {
            println!("note: {note}");
        }
    }
    if let Some(path) = &common.json {
        let mut text = serde_json::to_string_pretty(&outcome)?;
        text.push('\n');
        write_atomic(path, text.as_bytes())
            .with_context(|| format!("writing the rows to {}", path.display()))?;
        eprintln!("written to {}", path.display());
    }
    Ok(())
}

/// The machine in words.
fn machine(findings: &Findings) -> String {
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
        format!("ours on libtorch {}", env!("OPT_LIBTORCH_VERSION")),
        findings.peer.clone(),
    ];
    words.extend(findings.facts.iter().cloned());
    words.retain(|w| !w.is_empty());
    words.join("; ")
}

/// The table for people: every number with its unit.
fn table(outcome: &Outcome, width: Option<u16>) -> String {
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

/// The cases that a filter leaves.
///
/// # Errors
///
/// None is left.
fn chosen<'a>(cases: &[&'a str], filter: Option<&str>) -> Result<Vec<&'a str>> {
    let filter = filter.unwrap_or_default();
    let left: Vec<&str> = cases
        .iter()
        .copied()
        .filter(|case| case.contains(filter))
        .collect();
    anyhow::ensure!(
        !left.is_empty(),
        "no case contains `{filter}`; there are {}",
        cases.join(", ")
    );
    Ok(left)
}

/// How many steps fill `seconds`; at least two.
fn steps_in(seconds: f64, step: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped, and NaN becomes 0"
    )]
    let steps = (seconds / step).clamp(0.0, 100_000.0) as usize;
    steps.max(2)
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

    #[test]
    fn filters_choose_by_part_of_the_name() {
        let cases = ["resnet20", "source_net"];
        assert_eq!(chosen(&cases, None).unwrap(), cases);
        assert_eq!(chosen(&cases, Some("net20")).unwrap(), ["resnet20"]);
        let error = chosen(&cases, Some("vgg")).unwrap_err().to_string();
        assert!(error.contains("there are resnet20, source_net"), "{error}");
    }

    #[test]
    fn steps_fill_the_time() {
        // Ten steps of 0.2 s; never fewer than two, whatever a clock says.
        for (step, expected) in [(0.2, 10), (5.0, 2), (f64::NAN, 2), (0.0, 100_000)] {
            assert_eq!(steps_in(2.0, step), expected, "{step}");
        }
    }
}
