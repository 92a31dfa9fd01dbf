//! Programs in turn, so that whatever else the machine does meets all of them.

use anyhow::Result;

use crate::process::cpu_seconds;

/// Runs `n` programs once in each round, each round beginning with another one, and returns the values of each.
///
/// # Errors
///
/// That of the first run that fails.
pub(crate) fn in_turn(
    rounds: usize,
    n: usize,
    mut run: impl FnMut(usize) -> Result<f64>,
) -> Result<Vec<Vec<f64>>> {
    let mut values = vec![Vec::with_capacity(rounds); n];
    for round in 0..rounds {
        for place in 0..n {
            let program = (round + place) % n;
            values[program].push(run(program)?);
        }
    }
    Ok(values)
}

/// How much the processes that wait have used, at most, of a core: a thread that spins while another program is measured
/// would falsify it.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    /// Of one core, 0 to the number of cores; `None` until something was seen.
    worst: Option<f64>,
}

impl Idle {
    /// Runs `work`, which takes the seconds it returns, while process `waiting` should do nothing.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub(crate) fn during(
        &mut self,
        waiting: u32,
        work: impl FnOnce() -> Result<f64>,
    ) -> Result<f64> {
        let before = cpu_seconds(waiting);
        let seconds = work()?;
        if let (Some(before), Some(after)) = (before, cpu_seconds(waiting)) {
            let share = (after - before) / seconds.max(1e-9);
            self.worst = Some(self.worst.unwrap_or(0.0).max(share));
        }
        Ok(seconds)
    }

    /// What was seen, as a sentence; `None` where the system does not tell.
    pub(crate) fn words(&self) -> Option<String> {
        let percent = 100.0 * self.worst?;
        Some(if percent > 5.0 {
            format!(
                "while one program ran, the one that waited used up to {percent:.0} % of a core: it was not idle, and the \
                 figures are worth less"
            )
        } else {
            format!(
                "while one program ran, the one that waited used at most {percent:.1} % of a core"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_begins_with_another() {
        let mut order = Vec::new();
        let values = in_turn(4, 3, |program| {
            order.push(program);
            Ok((10 * program + order.len()) as f64)
        })
        .unwrap();
        assert_eq!(order, [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]);
        // Each value is with the program that gave it, in the order of the rounds.
        assert_eq!(values[1], [12.0, 14.0, 19.0, 21.0]);
        assert!(values.iter().all(|v| v.len() == 4));
    }

    #[test]
    fn a_failure_ends_the_rounds() {
        let mut runs = 0;
        let failed = in_turn(3, 2, |_| {
            runs += 1;
            anyhow::ensure!(runs < 4, "broken");
            Ok(1.0)
        });
        assert_eq!(
            (failed.unwrap_err().to_string().as_str(), runs),
            ("broken", 4)
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_spins_is_seen() {
        let mut idle = Idle::default();
        assert_eq!(idle.words(), None);
        // This process itself works until its clock has moved by a tenth of a second of computing.
        let me = std::process::id();
        let before = cpu_seconds(me).unwrap();
        idle.during(me, || {
            let mut n = 0u64;
            while cpu_seconds(me).unwrap() < before + 0.1 {
                n = std::hint::black_box(n + 1);
            }
            Ok(0.1)
        })
        .unwrap();
        let words = idle.words().unwrap();
        assert!(words.contains("it was not idle"), "{words}");
    }
}
