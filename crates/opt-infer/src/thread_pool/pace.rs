//! Whether workers pay, from what runs took.

use std::time::Duration;

/// Runs alone at the beginning, from which it is known what one thread takes; the first one meets cold caches.
const FIRST_RUNS: u32 = 2;

/// After a loss, runs are alone for so many times its length.
const PRICE: f64 = 16.0;

/// The most that the price is doubled to: after some losses in a row, sharing is tried again once in 128 runs of one thread.
const MOST_PRICE: f64 = 64.0;

/// The most that one loss counts, in runs. Workers cost a run no more than [`Pace::timeout`] and the run itself; beyond that the
/// caller has lost its own core.
const MOST_LOSS: f64 = 2.0;

/// The account of a session.
///
/// ```text
/// loss = time of a shared run - time of a run alone      owed += price·loss        alone while owed > 0
/// ```
///
/// So the time that workers lose is at most 1/16 of the time that runs take alone, whatever the reason: a worker without a
/// core, one that has the caller's core, a network so small that it costs more to share than to run. The price doubles with
/// every loss that counts, and falls back when sharing has won.
///
/// A run that had to wake a worker says little of the next one, in which it is awake: a loss of up to a half is not charged
/// then, unless the caller waited in vain. Else every such run would be followed by runs alone, in which the worker falls
/// asleep again.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pace {
    /// Nanoseconds of an image on one thread.
    alone: f64,
    runs_alone: u32,
    /// Nanoseconds to run alone.
    owed: f64,
    price: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            alone: f64::INFINITY,
            runs_alone: 0,
            owed: 0.0,
            price: PRICE,
        }
    }
}

impl Pace {
    /// Whether the next run may be shared.
    pub(super) fn may_share(&self) -> bool {
        self.runs_alone >= FIRST_RUNS && self.owed <= 0.0
    }

    /// How long a run of so many images waits for workers in all, before the caller does their work: a quarter of an image's
    /// time, for the work of rows is then done again from the start.
    pub(super) fn timeout(&self, count: usize) -> Duration {
        let seconds = 0.25e-9 * self.alone * count.min(4) as f64;
        Duration::try_from_secs_f64(seconds)
            .unwrap_or_default()
            .clamp(Duration::from_micros(10), Duration::from_millis(20))
    }

    /// How long a worker stays awake for the next run: some runs alone, so that it is still there after a small loss was paid for.
    pub(super) fn stay(&self) -> Duration {
        Duration::try_from_secs_f64(4e-9 * self.alone).unwrap_or_default()
    }

    /// Learns from a run on one thread.
    pub(super) fn ran_alone(&mut self, took: Duration, count: usize) {
        let took = took.as_secs_f64() * 1e9;
        let image = took / count as f64;
        self.alone = if image < self.alone {
            image
        } else {
            // Slowly upwards: it may have been held up.
            self.alone + (image.min(2.0 * self.alone) - self.alone) / 8.0
        };
        self.runs_alone = self.runs_alone.saturating_add(1);
        self.owed -= took;
    }

    /// Learns from a run that was shared; `woke` if a worker slept at its beginning and was in time all the same.
    pub(super) fn ran_shared(&mut self, took: Duration, count: usize, threads: usize, woke: bool) {
        let took = took.as_secs_f64() * 1e9;
        let alone = self.alone * count as f64;
        let loss = took - alone;
        let counts = loss > 0.1 * alone;
        let free = if woke { 0.5 * alone } else { 0.0 };
        if loss > free {
            self.owed = self.price * loss.min(MOST_LOSS * alone);
            if counts {
                self.price = (2.0 * self.price).min(MOST_PRICE);
            }
        } else if loss < -0.1 * alone {
            self.price = PRICE;
        }
        // Sharing makes nothing faster than the number of threads.
        self.alone = self.alone.min(took * threads as f64 / count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    fn known() -> Pace {
        let mut pace = Pace::default();
        // The first is cold.
        for took in [300, 100] {
            assert!(!pace.may_share());
            pace.ran_alone(micros(took), 1);
        }
        assert!(pace.may_share());
        pace
    }

    #[test]
    fn sharing_goes_on_while_it_wins() {
        let mut pace = known();
        for _ in 0..10 {
            pace.ran_shared(micros(60), 1, 2, false);
            assert!(pace.may_share());
        }
        // A batch is judged by its images.
        pace.ran_shared(micros(128 * 60), 128, 2, false);
        assert!(pace.may_share());
    }

    #[test]
    fn a_loss_is_paid_for_by_runs_alone() {
        let mut pace = known();
        // 200 µs lost, 3,200 owed: 32 runs of 100.
        pace.ran_shared(micros(300), 1, 2, false);
        for _ in 0..32 {
            assert!(!pace.may_share());
            pace.ran_alone(micros(100), 1);
        }
        assert!(pace.may_share());
        // The next loss costs twice as much.
        pace.ran_shared(micros(150), 1, 2, false);
        for _ in 0..16 {
            assert!(!pace.may_share());
            pace.ran_alone(micros(100), 1);
        }
        assert!(pace.may_share());
        // After a win the price is the first again.
        pace.ran_shared(micros(60), 1, 2, false);
        pace.ran_shared(micros(200), 1, 2, false);
        for _ in 0..16 {
            assert!(!pace.may_share());
            pace.ran_alone(micros(100), 1);
        }
        assert!(pace.may_share());
    }

    /// Whatever workers may cost a run, the mean over many runs is at most 1 + 1/16 of one thread's, but for the last loss.
    #[test]
    fn the_mean_stays_near_that_of_one_thread() {
        for shared in [101, 120, 150, 225, 300] {
            let mut pace = known();
            let (mut time, mut runs) = (0, 0);
            while runs < 20_000 {
                let took = if pace.may_share() { shared } else { 100 };
                match pace.may_share() {
                    true => pace.ran_shared(micros(took), 1, 2, false),
                    false => pace.ran_alone(micros(took), 1),
                }
                time += took;
                runs += 1;
            }
            let ratio = time as f64 / (100.0 * f64::from(runs));
            assert!(ratio < 1.0 + 1.0 / PRICE, "{shared}: {ratio}");
        }
    }

    proptest::proptest! {
        /// Whatever turns workers take with winning and losing.
        #[test]
        fn losses_are_a_part_of_what_runs_take_alone(shared in proptest::collection::vec(50_u64..300, 1..400)) {
            let mut pace = known();
            let (mut time, mut runs) = (0.0, 0.0);
            for took in shared {
                while !pace.may_share() {
                    pace.ran_alone(micros(100), 1);
                    time += 100.0;
                    runs += 1.0;
                }
                pace.ran_shared(micros(took), 1, 2, false);
                time += took as f64;
                runs += 1.0;
            }
            let last = MOST_LOSS * 100.0;
            proptest::prop_assert!(
                time <= 100.0 * runs * (1.0 + 1.0 / PRICE) + last,
                "{time} µs for {runs} runs of 100 µs"
            );
        }
    }

    #[test]
    fn a_busy_time_is_forgotten_soon() {
        let mut pace = known();
        let mut runs = 0;
        for _ in 0..20 {
            pace.ran_shared(micros(300), 1, 2, false);
            runs = 0;
            while !pace.may_share() {
                pace.ran_alone(micros(100), 1);
                runs += 1;
            }
        }
        assert_eq!(runs, 128);
    }

    #[test]
    fn one_long_interruption_does_not_end_sharing() {
        let mut pace = known();
        pace.ran_shared(Duration::from_secs(60), 1, 2, false);
        let mut runs = 0;
        while !pace.may_share() {
            pace.ran_alone(micros(100), 1);
            runs += 1;
        }
        // 2 runs of loss at the price of 16.
        assert_eq!(runs, 32);
    }

    #[test]
    fn waking_a_helper_is_no_loss_but_waiting_for_it_is() {
        let mut pace = known();
        pace.ran_shared(micros(149), 1, 2, true);
        assert!(pace.may_share());
        pace.ran_shared(micros(109), 1, 2, false);
        assert!(!pace.may_share());
        let mut pace = known();
        pace.ran_shared(micros(151), 1, 2, true);
        assert!(!pace.may_share());
        // It is awake for longer than the shortest payment takes.
        assert!(pace.stay() > micros(200));
        assert_eq!(Pace::default().stay(), Duration::ZERO);
    }

    #[test]
    fn patience_is_a_part_of_an_image() {
        assert_eq!(known().timeout(1), micros(25));
        assert_eq!(known().timeout(128), micros(100));
        assert_eq!(Pace::default().timeout(1), micros(10));
    }
}
