//! The report of a run: `report.html`, `report.md`, `summary.json`, `plots/` and the table at the end in the terminal.

mod contests;
mod html;
mod markdown;
mod ranking;
#[cfg(test)]
pub(crate) mod sample;
mod terminal;
mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::plots::{
    accuracy_against_bytes, accuracy_against_macs, accuracy_against_sparsity, png, training_curves,
};
use crate::results::{
    Correct, CurvePoint, DatasetInfo, LayerLine, ResultLine, RunInfo, Summary, read_lines,
    summarize, write_atomic,
};

pub use html::html;
pub use markdown::markdown;
pub use terminal::terminal_table;
use words::data_words;
pub use words::headline;

#[cfg(test)]
pub(crate) use sample::{sample_curves, sample_lines, sample_run};

/// A plot of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// Whether it is about training, not about what came out.
    pub training: bool,
    /// Its file name within `plots/`, without the extension.
    pub name: String,
    /// What it shows, in a sentence.
    pub caption: String,
    /// The SVG.
    pub svg: String,
}

/// Writes `summary.json`, `report.html`, `report.md` and `plots/` (SVG and PNG) into `dir` and returns their paths.
///
/// Beside its arguments it reads `layers.jsonl` and `correct.jsonl` in `dir`, if they are there; equal input gives equal
/// files. Each file appears at once, so a report may be written again while a run goes on.
///
/// # Errors
///
/// `layers.jsonl` or `correct.jsonl` cannot be read, or a file cannot be written.
pub fn write_report(
    dir: &Path,
    run: &RunInfo,
    lines: &[ResultLine],
    curves: &[CurvePoint],
) -> Result<Vec<PathBuf>> {
    let layers = read_lines::<LayerLine>(&dir.join("layers.jsonl"))?.values;
    let correct = read_lines::<Correct>(&dir.join("correct.jsonl"))?.values;
    let summary = summarize(lines, &correct);
    let plots = plots(&run.dataset, &summary, curves);
    let mut json =
        serde_json::to_string_pretty(&summary).context("turning the summary into JSON")?;
    json.push('\n');
    let page = html(run, lines, &summary, curves, &layers, &plots)?;
    let mut files = vec![
        (dir.join("summary.json"), json.into_bytes()),
        (
            dir.join("report.md"),
            markdown(run, &summary, &plots).into_bytes(),
        ),
        (dir.join("report.html"), page.into_bytes()),
    ];
    for plot in plots {
        let path = dir.join("plots").join(&plot.name);
        files.push((path.with_extension("png"), png(&plot.svg)?));
        files.push((path.with_extension("svg"), plot.svg.into_bytes()));
    }
    for (path, content) in &files {
        write_atomic(path, content)?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// Writes the report of a folder again, from `run.json`, `results.jsonl`, `curves.jsonl`, `layers.jsonl` and `correct.jsonl`
/// in it.
///
/// # Errors
///
/// `dir` holds no run, a file in it is not of this program, or a file cannot be written.
pub fn rewrite_report(dir: &Path) -> Result<Vec<PathBuf>> {
    let path = dir.join("run.json");
    let text = std::fs::read(&path).with_context(|| {
        format!(
            "reading {}; name the folder of a run, which has this file",
            path.display()
        )
    })?;
    let run: RunInfo = serde_json::from_slice(&text)
        .with_context(|| format!("reading {}: not the conditions of a run", path.display()))?;
    let lines = read_lines::<ResultLine>(&dir.join("results.jsonl"))?;
    let curves = read_lines::<CurvePoint>(&dir.join("curves.jsonl"))?;
    for warning in [&lines.torn, &curves.torn].into_iter().flatten() {
        eprintln!("{warning}");
    }
    write_report(dir, &run, &lines.values, &curves.values)
}

/// Draws the plots of a report: accuracy against bytes, against multiply-accumulates and against sparsity, and training
/// curves.
pub fn plots(dataset: &DatasetInfo, summary: &Summary, curves: &[CurvePoint]) -> Vec<Plot> {
    let data = data_words(dataset);
    let rows = &summary.rows;
    let mut plots = vec![
        Plot {
            training: false,
            name: "accuracy-bytes".to_owned(),
            caption: "Accuracy against the size of the model file. Up and to the left is better; numbers as in the table of results.".to_owned(),
            svg: accuracy_against_bytes(rows, &data),
        },
        Plot {
            training: false,
            name: "accuracy-macs".to_owned(),
            caption: "Accuracy against multiply-accumulates for one image, multiplications by zero included. Up and to the left is better.".to_owned(),
            svg: accuracy_against_macs(rows, &data),
        },
    ];
    for drawn in accuracy_against_sparsity(rows, &data) {
        plots.push(Plot {
            training: false,
            name: format!("accuracy-sparsity-{}", file_name(&drawn.original)),
            caption: format!(
                "Accuracy of {} against the share of its weights that was removed, methods beside each other.",
                drawn.original
            ),
            svg: drawn.svg,
        });
    }
    for experiment in experiments(curves) {
        let drawn = training_curves(curves, experiment, &data);
        let n = drawn.len();
        for (i, svg) in drawn.into_iter().enumerate() {
            let (mut name, mut part) =
                (format!("training-{}", file_name(experiment)), String::new());
            if n > 1 {
                name += &format!("-{}", i + 1);
                part = format!(", part {} of {n}", i + 1);
            }
            let caption = format!("Training in the experiment {experiment}, first seed{part}.");
            plots.push(Plot {
                training: true,
                name,
                caption,
                svg,
            });
        }
    }
    plots
}

/// The experiments that trained, in the order of their first epochs.
fn experiments(curves: &[CurvePoint]) -> Vec<&str> {
    let mut experiments: Vec<&str> = Vec::new();
    for point in curves {
        if !experiments.contains(&point.experiment.as_str()) {
            experiments.push(&point.experiment);
        }
    }
    experiments
}

fn file_name(experiment: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    experiment.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::sample::{sample_curves, sample_lines, sample_run};
    use super::*;
    use crate::results::DataSource;

    #[test]
    fn a_report_is_complete_and_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let dir = folder.path().join(name);
            write_report(&dir, &sample_run(), &sample_lines(), &sample_curves()).unwrap()
        };
        let (first, second) = (write("a"), write("b"));
        let names: Vec<_> = first
            .iter()
            .map(|path| path.strip_prefix(folder.path().join("a")).unwrap())
            .collect();
        for name in [
            "summary.json",
            "report.md",
            "report.html",
            "plots/accuracy-bytes.svg",
            "plots/accuracy-macs.svg",
            "plots/training-baseline.svg",
            "plots/training-prune.svg",
        ] {
            assert!(names.contains(&Path::new(name)), "{name}");
        }
        for (a, b) in first.iter().zip(&second) {
            assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap(), "{a:?}");
        }
    }

    #[test]
    fn every_plot_names_the_data_and_that_it_is_synthetic() {
        let mut dataset = sample_run().dataset;
        dataset.name = "shapes".to_owned();
        dataset.source = DataSource::Synthetic;
        for lines in [sample_lines(), Vec::new()] {
            for plot in plots(&dataset, &summarize(&lines, &[]), &sample_curves()) {
                assert!(
                    plot.svg.contains("shapes (synthetic images)"),
                    "{}",
                    plot.name
                );
            }
        }
    }

    #[test]
    fn a_report_without_results_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        write_report(folder.path(), &sample_run(), &[], &[]).unwrap();
        let html = fs::read_to_string(folder.path().join("report.html")).unwrap();
        assert!(html.contains("no results yet"));
    }

    #[test]
    fn a_summary_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        write_report(folder.path(), &sample_run(), &sample_lines(), &[]).unwrap();
        let text = fs::read_to_string(folder.path().join("summary.json")).unwrap();
        let summary: Summary = serde_json::from_str(&text).unwrap();
        assert_eq!(summary.rows.len(), 12);
        assert_eq!(summary.rows[0].values.len(), 2);
    }
}
