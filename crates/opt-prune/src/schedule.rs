//! Schedules: how much is removed by each of several rounds of pruning and fine-tuning.

use crate::{PruneError, Result};

/// The way from the dense network to the final sparsity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// All at once.
    OneShot,
    /// The same share of what remains in every step.
    ///
    /// ```text
    /// s_t = 1 - (1 - s_f)^(t/n)
    /// ```
    Iterative {
        /// Number of steps n.
        steps: usize,
    },
    /// Much at first, little at the end (automated gradual pruning).
    ///
    /// ```text
    /// s_t = s_f - s_f · (1 - t/n)³
    /// ```
    CubicAgp {
        /// Number of steps n.
        steps: usize,
    },
}

/// The sparsity after each step, as shares of the original number of weights; the last is `final_sparsity` exactly.
///
/// ```
/// use opt_prune::{Schedule, sparsities};
/// assert_eq!(sparsities(Schedule::OneShot, 0.9)?, [0.9]);
/// assert_eq!(sparsities(Schedule::Iterative { steps: 2 }, 0.75)?, [0.5, 0.75]);
/// assert_eq!(sparsities(Schedule::CubicAgp { steps: 2 }, 0.5)?, [0.4375, 0.5]);
/// # Ok::<(), opt_prune::PruneError>(())
/// ```
///
/// # Errors
///
/// [`PruneError::OutOfRange`] for a sparsity outside [0, 1) and for no steps.
///
/// # References
///
/// M. Zhu, S. Gupta, *To prune, or not to prune: exploring the efficacy of pruning for model compression*, 2017,
/// arXiv:1710.01878 (cubic); S. Han and others, 2015, arXiv:1506.02626 (iterative).
pub fn sparsities(schedule: Schedule, final_sparsity: f64) -> Result<Vec<f64>> {
    if !(0.0..1.0).contains(&final_sparsity) {
        return Err(PruneError::OutOfRange {
            what: "the final sparsity of a schedule".to_owned(),
            found: final_sparsity.to_string(),
            expected: "0 or more and less than 1".to_owned(),
        });
    }
    let (steps, at): (usize, fn(f64, f64) -> f64) = match schedule {
        Schedule::OneShot => (1, |s, _| s),
        Schedule::Iterative { steps } => (steps, |s, t| 1.0 - (1.0 - s).powf(t)),
        Schedule::CubicAgp { steps } => (steps, |s, t| s - s * (1.0 - t).powi(3)),
    };
    if steps == 0 {
        return Err(PruneError::OutOfRange {
            what: "the number of steps of a schedule".to_owned(),
            found: "0".to_owned(),
            expected: "1 or more".to_owned(),
        });
    }
    let mut path: Vec<f64> = (1..steps)
        .map(|t| at(final_sparsity, t as f64 / steps as f64))
        .collect();
    path.push(final_sparsity);
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hand_computed() {
        let path = sparsities(Schedule::Iterative { steps: 3 }, 0.488).unwrap();
        // Each step removes a fifth of what remains.
        for (found, expect) in path.iter().zip([0.2, 0.36, 0.488]) {
            assert!((found - expect).abs() < 1e-12, "{path:?}");
        }
        let path = sparsities(Schedule::CubicAgp { steps: 4 }, 0.64).unwrap();
        // 0.64 · (1 - (3/4)³), …
        for (found, expect) in path.iter().zip([0.37, 0.56, 0.63, 0.64]) {
            assert!((found - expect).abs() < 1e-12, "{path:?}");
        }
        assert_eq!(
            sparsities(Schedule::CubicAgp { steps: 2 }, 0.0).unwrap(),
            [0.0, 0.0]
        );
    }

    #[test]
    fn senseless_requests_are_errors() {
        for sparsity in [-0.1, 1.0, f64::NAN] {
            assert!(sparsities(Schedule::OneShot, sparsity).is_err());
        }
        assert!(sparsities(Schedule::CubicAgp { steps: 0 }, 0.5).is_err());
    }

    proptest! {
        #[test]
        fn paths_rise_to_exactly_the_end(sparsity in 0.01..0.999f64, steps in 1usize..20) {
            for schedule in [Schedule::Iterative { steps }, Schedule::CubicAgp { steps }] {
                let path = sparsities(schedule, sparsity).unwrap();
                prop_assert_eq!(path.len(), steps);
                prop_assert_eq!(path[steps - 1].to_bits(), sparsity.to_bits());
                prop_assert!(path[0] > 0.0 && path.is_sorted());
            }
        }
    }
}
