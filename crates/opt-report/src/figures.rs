//! The plots of a report, each with its name and a sentence.

use crate::plots::{
    accuracy_against_bytes, accuracy_against_macs, accuracy_against_sparsity, training_curves,
};
use crate::words::data_words;
use crate::{CurvePoint, DatasetInfo, Summary};

/// A plot in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// Whether it is about training, not about what came out.
    pub training: bool,
    /// Its file name within `plots/`, without the extension.
    pub name: String,
    /// What it shows, in a sentence.
    pub caption: String,
    /// The SVG.
    pub svg: String,
}

/// Draws the plots of a report: accuracy against bytes, against multiply-accumulates and against sparsity, and training
/// curves.
#[must_use]
pub fn figures(dataset: &DatasetInfo, summary: &Summary, curves: &[CurvePoint]) -> Vec<Figure> {
    let data = data_words(dataset);
    let rows = &summary.rows;
    let mut figures = vec![
        Figure {
            training: false,
            name: "accuracy-bytes".to_owned(),
            caption: "Accuracy against the size of the model file. Up and to the left is better; numbers as in the table of results.".to_owned(),
            svg: accuracy_against_bytes(rows, &data),
        },
        Figure {
            training: false,
            name: "accuracy-macs".to_owned(),
            caption: "Accuracy against multiply-accumulates for one image, multiplications by zero included. Up and to the left is better.".to_owned(),
            svg: accuracy_against_macs(rows, &data),
        },
    ];
    for drawn in accuracy_against_sparsity(rows, &data) {
        figures.push(Figure {
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
            figures.push(Figure {
                training: true,
                name,
                caption,
                svg,
            });
        }
    }
    figures
}

/// The experiments that trained, in the order of their first epochs.
pub(crate) fn experiments(curves: &[CurvePoint]) -> Vec<&str> {
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
