//! The training loop as a person watches it: a bar with time left, or a plain line per epoch.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use opt_nn::optimizer::Sgd;
use opt_nn::train::{EpochReport, Hooks, Progress};
use opt_nn::{Net, NnError};

use crate::results::CurvePoint;

/// Which variant a phase of training belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The experiment.
    pub experiment: String,
    /// The variant.
    pub variant: String,
    /// The seed.
    pub seed: u64,
}

/// Watches one phase and collects its curve.
#[derive(Debug)]
pub struct Watch<'a> {
    label: &'a Label,
    phase: &'a str,
    epochs: usize,
    /// Epochs of earlier phases.
    epochs_before: f64,
    bar: ProgressBar,
    started: Instant,
    /// A point per epoch.
    pub curve: Vec<CurvePoint>,
}

impl<'a> Watch<'a> {
    /// Starts watching.
    #[must_use]
    pub fn new(label: &'a Label, phase: &'a str, epochs: usize, epochs_before: f64) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(1)
        } else {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
        };
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent}% left {eta}") {
            bar.set_style(style);
        }
        Self {
            label,
            phase,
            epochs,
            epochs_before,
            bar,
            started: Instant::now(),
            curve: Vec::new(),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Hooks for Watch<'_> {
    fn after_step(&mut self, _net: &Net, _sgd: &mut Sgd, progress: Progress) {
        let total = (self.epochs * progress.batches) as u64;
        self.bar.set_length(total);
        self.bar
            .set_position((progress.epoch * progress.batches + progress.batch) as u64);
        self.bar.set_message(format!(
            "{} · {} · {} · epoch {}/{} · train {:.1} % · {:.0} images/s",
            self.label.experiment,
            self.label.variant,
            self.phase,
            progress.epoch + 1,
            self.epochs,
            progress.train_top1,
            progress.images_per_second
        ));
    }

    fn epoch_done(&mut self, _net: &Net, report: &EpochReport) -> Result<(), NnError> {
        let loss: f64 = report.terms.iter().map(|(_, value)| value).sum();
        let done = report.epoch + 1;
        let left = self.started.elapsed().as_secs_f64() / done as f64 * (self.epochs - done) as f64;
        let line = format!(
            "  {} · {} · seed {} · {} epoch {done}/{}: loss {loss:.3}, train {:.2} %, {:.0} images/s, {:.0} s, left {}",
            self.label.experiment,
            self.label.variant,
            self.label.seed,
            self.phase,
            self.epochs,
            report.train_top1,
            report.images_per_second,
            report.seconds,
            HumanDuration(Duration::from_secs_f64(left)),
        );
        say(&self.bar, &line);
        self.curve.push(CurvePoint {
            experiment: self.label.experiment.clone(),
            variant: self.label.variant.clone(),
            seed: self.label.seed,
            phase: self.phase.to_owned(),
            epoch: self.epochs_before + done as f64,
            loss,
            train_top1: report.train_top1,
            lr: report.lr,
            images_per_second: report.images_per_second,
            test_top1: None,
        });
        Ok(())
    }
}

/// Prints a line above the bar, or plainly where there is none.
fn say(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        eprintln!("{line}");
    } else {
        bar.println(line);
    }
}

/// A bar for bytes.
#[must_use]
pub fn download_bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    let template =
        "downloading CIFAR-10 {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} left {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
