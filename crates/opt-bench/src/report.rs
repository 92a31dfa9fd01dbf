//! The report of a run: `report.html`, `report.md`, `summary.json`, `plots/` and the table at the end in the terminal.

mod html;
mod markdown;
#[cfg(test)]
mod sample;
mod terminal;
mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::plots::{accuracy_against_bytes, accuracy_against_macs, training_curves};
use crate::results::{CurvePoint, DatasetInfo, ResultLine, RunInfo, summarize, write_atomic};

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
    /// Its file name within `plots/`, without the extension.
    pub name: String,
    /// What it shows, in a sentence.
    pub caption: String,
    /// The SVG.
    pub svg: String,
}

/// Writes `summary.json`, `report.html`, `report.md` and `plots/*.svg` into `dir` and returns their paths.
///
/// A pure function of its arguments: equal input gives equal files. Each file appears at once, so a report may be
/// written again while a run goes on.
///
/// # Errors
///
/// A file cannot be written.
pub fn write_report(
    dir: &Path,
    run: &RunInfo,
    lines: &[ResultLine],
    curves: &[CurvePoint],
) -> Result<Vec<PathBuf>> {
    let summary = summarize(lines);
    let plots = plots(&run.dataset, lines, curves)?;
    let mut json =
        serde_json::to_string_pretty(&summary).context("turning the summary into JSON")?;
    json.push('\n');
    let mut files = vec![
        (dir.join("summary.json"), json),
        (dir.join("report.md"), markdown(run, &summary, &plots)),
        (dir.join("report.html"), html(run, lines, &plots)?),
    ];
    for plot in plots {
        let name = format!("{}.svg", plot.name);
        files.push((dir.join("plots").join(name), plot.svg));
    }
    for (path, content) in &files {
        write_atomic(path, content.as_bytes())?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// Draws the plots of a report: accuracy against bytes and against multiply-accumulates, and training curves.
///
/// # Errors
///
/// Drawing fails.
pub fn plots(
    dataset: &DatasetInfo,
    lines: &[ResultLine],
    curves: &[CurvePoint],
) -> Result<Vec<Plot>> {
    let data = data_words(dataset);
    let rows = summarize(lines).rows;
    let mut plots = vec![
        Plot {
            name: "accuracy-bytes".to_owned(),
            caption: "Accuracy against the size of the written model file. Up and to the left is better.".to_owned(),
            svg: accuracy_against_bytes(&rows, &data)?,
        },
        Plot {
            name: "accuracy-macs".to_owned(),
            caption: "Accuracy against multiply-accumulates for one image, multiplications by zero included.".to_owned(),
            svg: accuracy_against_macs(&rows, &data)?,
        },
    ];
    let mut experiments: Vec<&str> = Vec::new();
    for point in curves {
        if !experiments.contains(&point.experiment.as_str()) {
            experiments.push(&point.experiment);
        }
    }
    for experiment in experiments {
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        plots.push(Plot {
            name: format!(
                "training-{}",
                experiment.chars().map(safe).collect::<String>()
            ),
            caption: format!("Training in the experiment {experiment}, first seed."),
            svg: training_curves(curves, experiment, &data)?,
        });
    }
    Ok(plots)
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
            for plot in plots(&dataset, &lines, &sample_curves()).unwrap() {
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
        let summary: crate::results::Summary = serde_json::from_str(&text).unwrap();
        assert_eq!(summary.rows.len(), 12);
        assert_eq!(summary.rows[0].values.len(), 2);
    }
}
