//! The training loop as a person watches it: a bar with time left, or a plain line per epoch.

use std::io::IsTerminal;
use std::sync::Once;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use opt_nn::optimizer::Optimizer;
use opt_nn::train::{EpochReport, Hooks, Progress, TrainState};
use opt_nn::{Net, NnError};

use crate::machine::threads;
use crate::speed::{schedule_times, waited_share};
use crate::trained::CacheEntry;

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
pub struct PhaseProgress<'a> {
    label: &'a Label,
    phase: &'a str,
    epochs: usize,
    entry: &'a CacheEntry,
    bar: ProgressBar,
    started: Instant,
    /// Epochs that an earlier process did.
    resumed: usize,
    /// Images per second of the plan; `None` where it has none.
    planned: Option<f64>,
    /// How long threads had run and waited when the epoch began.
    before: (u64, u64),
}

impl<'a> PhaseProgress<'a> {
    /// Starts watching.
    #[must_use]
    pub fn new(
        label: &'a Label,
        phase: &'a str,
        epochs: usize,
        planned: Option<f64>,
        entry: &'a CacheEntry,
    ) -> Self {
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
            entry,
            bar,
            started: Instant::now(),
            resumed: 0,
            planned,
            before: schedule_times(),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Hooks for PhaseProgress<'_> {
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
        let state = self.entry.state();
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
            self.entry
                .keep(&state()?)
                .map_err(|error| NnError::Method {
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
        let now = schedule_times();
        let waited = waited_share(self.before, now);
        self.before = now;
        if let Some(hint) = hint(report.images_per_second, self.planned, waited, threads()) {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| say(&self.bar, &hint));
        }
        Ok(())
    }
}

/// Below this share of the planned speed, and above this share of waiting, other programs are the reason.
const FAR_BELOW: f64 = 0.5;
const BUSY: f64 = 0.2;

/// What to do where other programs make training far slower than the plan says.
fn hint(
    images_per_second: f64,
    planned: Option<f64>,
    waited: f64,
    threads: usize,
) -> Option<String> {
    let planned = planned?;
    if images_per_second >= FAR_BELOW * planned || waited <= BUSY {
        return None;
    }
    let fewer = if threads > 1 {
        "; threads wait for each other, so that --threads 1 can be faster beside them (its results differ in the last bits)"
    } else {
        ""
    };
    Some(format!(
        "  hint: {images_per_second:.0} images/s, where about {planned:.0} were planned: other programs took the processor for \
         {:.0} % of the time{fewer}",
        100.0 * waited
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_needs_a_slow_epoch_and_a_busy_machine() {
        assert_eq!(hint(600.0, Some(1000.0), 0.9, 2), None);
        assert_eq!(hint(300.0, Some(1000.0), 0.1, 2), None);
        assert_eq!(hint(300.0, None, 0.9, 2), None);
        let two = hint(300.0, Some(1000.0), 0.6, 2).unwrap();
        assert!(
            two.contains("300 images/s") && two.contains("about 1000"),
            "{two}"
        );
        assert!(two.contains("60 %") && two.contains("--threads 1"), "{two}");
        let one = hint(300.0, Some(1000.0), 0.6, 1).unwrap();
        assert!(one.contains("60 %") && !one.contains("--threads"), "{one}");
    }
}
