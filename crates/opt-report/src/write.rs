//! The report of a run: `report.html`, `report.md`, `summary.json` and `plots/`.

use std::path::{Path, PathBuf};

use crate::figures::figures;
use crate::html::html;
use crate::lines::{read_lines, write_atomic};
use crate::markdown::markdown;
use crate::plots::png;
use crate::{Correct, CurvePoint, LayerLine, ReportError, Result, ResultLine, RunInfo, summarize};

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
    let figures = figures(&run.dataset, &summary, curves);
    let mut json = serde_json::to_string_pretty(&summary).map_err(|source| ReportError::Json {
        what: "the summary".to_owned(),
        source,
    })?;
    json.push('\n');
    let page = html(run, lines, &summary, curves, &layers, &figures)?;
    let mut files = vec![
        (dir.join("summary.json"), json.into_bytes()),
        (
            dir.join("report.md"),
            markdown(run, &summary, &figures).into_bytes(),
        ),
        (dir.join("report.html"), page.into_bytes()),
    ];
    for figure in figures {
        let path = dir.join("plots").join(&figure.name);
        files.push((path.with_extension("png"), png(&figure.svg)?));
        files.push((path.with_extension("svg"), figure.svg.into_bytes()));
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
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(source) => return Err(ReportError::NoRun { path, source }),
    };
    let run: RunInfo = serde_json::from_slice(&text)
        .map_err(|source| ReportError::NotConditions { path, source })?;
    let lines = read_lines::<ResultLine>(&dir.join("results.jsonl"))?;
    let curves = read_lines::<CurvePoint>(&dir.join("curves.jsonl"))?;
    for warning in [&lines.torn, &curves.torn].into_iter().flatten() {
        eprintln!("{warning}");
    }
    write_report(dir, &run, &lines.values, &curves.values)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::sample::{sample_curves, sample_layers, sample_lines, sample_run};
    use crate::terminal_table;
    use crate::{DataSource, Summary};

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
            for plot in figures(&dataset, &summarize(&lines, &[]), &sample_curves()) {
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

    /// Each value with one of its numbers, however deep, changed to something that a file can hold and no run writes.
    fn changed<T: Serialize + DeserializeOwned>(values: &[T]) -> Vec<Vec<T>> {
        fn numbers(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
            match value {
                Value::Number(_) => visit(value),
                Value::Array(items) => items.iter_mut().for_each(|item| numbers(item, visit)),
                Value::Object(fields) => fields.values_mut().for_each(|v| numbers(v, visit)),
                Value::Null | Value::Bool(_) | Value::String(_) => {}
            }
        }
        let whole = serde_json::to_value(values).unwrap();
        let mut count = 0;
        numbers(&mut whole.clone(), &mut |_| count += 1);
        let mut all = Vec::new();
        for at in 0..count {
            for hostile in [
                json!(0),
                json!(u32::MAX),
                json!(u64::MAX),
                json!(-1e308),
                json!(1e308),
            ] {
                let (mut value, mut seen) = (whole.clone(), 0);
                numbers(&mut value, &mut |number| {
                    if seen == at {
                        *number = hostile.clone();
                    }
                    seen += 1;
                });
                // What is no such line is refused by reading.
                all.extend(serde_json::from_value(value).ok());
            }
        }
        all
    }

    /// Files may be mutated: whatever their numbers are, there is a report, and no panic.
    #[test]
    fn hostile_numbers_are_reported_as_they_are() {
        let (run, curves) = (sample_run(), sample_curves());
        let (lines, layers) = (sample_lines(), sample_layers());
        let page = |lines: &[ResultLine], curves: &[CurvePoint], layers: &[LayerLine]| {
            let summary = summarize(lines, &[]);
            let figures = figures(&run.dataset, &summary, curves);
            html(&run, lines, &summary, curves, layers, &figures).unwrap();
            markdown(&run, &summary, &figures);
            let _ = terminal_table(&summary, Some(100));
        };
        // A network and what was made of it, with both seeds.
        let kinds = [&lines[0].variant, &lines[3].variant];
        let few: Vec<ResultLine> = lines
            .iter()
            .filter(|line| kinds.contains(&&line.variant))
            .cloned()
            .collect();
        assert_eq!(summarize(&few, &[]).rows.iter().map(|r| r.n).max(), Some(2));
        for lines in changed(&few) {
            page(&lines, &[], &layers);
        }
        for layers in changed(&layers) {
            page(&few, &[], &layers);
        }
        for curves in changed(&curves) {
            page(&few, &curves, &[]);
        }
    }
}
