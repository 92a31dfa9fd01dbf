//! The training loop as a person watches it: a bar with time left, or a plain line per epoch.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use opt_nn::optimizer::Optimizer;
use opt_nn::train::{EpochReport, Hooks, Progress, TrainState};
use opt_nn::{Net, NnError};

use crate::trained::Slot;

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

/// Watches one phase, and keeps its state after every epoch.
#[derive(Debug)]
pub struct Watch<'a> {
    label: &'a Label,
    phase: &'a str,
    epochs: usize,
    slot: &'a Slot,
    bar: ProgressBar,
    started: Instant,
    /// Epochs that an earlier process did.
    resumed: usize,
}

impl<'a> Watch<'a> {
    /// Starts watching.
    #[must_use]
    pub fn new(label: &'a Label, phase: &'a str, epochs: usize, slot: &'a Slot) -> Self {
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
            slot,
            bar,
            started: Instant::now(),
            resumed: 0,
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Hooks for Watch<'_> {
    fn after_step(&mut self, _net: &Net, _optimizer: &mut Optimizer, progress: Progress) {
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

    fn resume(&mut self) -> Result<Option<TrainState>, NnError> {
        let state = self.slot.state();
        if let Some(state) = &state {
            self.resumed = state.reports.len();
            let line = format!(
                "  {} · {} · seed {} · {}: going on after epoch {}/{}",
                self.label.experiment,
                self.label.variant,
                self.label.seed,
                self.phase,
                self.resumed,
                self.epochs
            );
            say(&self.bar, &line);
        }
        Ok(state)
    }

    fn epoch_done(
        &mut self,
        _net: &Net,
        reports: &[EpochReport],
        state: &dyn Fn() -> Result<TrainState, NnError>,
    ) -> Result<(), NnError> {
        let Some(report) = reports.last() else {
            return Ok(());
        };
        let loss = loss(report);
        let done = report.epoch + 1;
        // Before the line that says so.
        if done < self.epochs {
            self.slot.keep(&state()?).map_err(|error| NnError::Method {
                what: format!("keeping the state after epoch {done}"),
                source: error.into(),
            })?;
        }
        let here = (done - self.resumed).max(1);
        let left = self.started.elapsed().as_secs_f64() / here as f64 * (self.epochs - done) as f64;
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
        Ok(())
    }
}

/// The loss of an epoch: the sum of its parts.
#[must_use]
pub fn loss(report: &EpochReport) -> f64 {
    report.terms.iter().map(|(_, value)| value).sum()
}

/// Prints a line above the bar, or plainly where there is none.
fn say(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        eprintln!("{line}");
    } else {
        bar.println(line);
    }
}

/// A bar for bytes of the data set `what`.
#[must_use]
pub fn download_bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::no_length().with_message(what);
    let template = "downloading {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} left {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
