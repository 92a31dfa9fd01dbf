//! What all benchmarks are told, and what follows from it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

/// What all benchmarks are told.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Write the rows to this file as JSON as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// The Python that has the peers [default: `OPT_PEERS_PYTHON`, else what `cargo xtask setup --peers` made].
    #[arg(long, value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
    /// Rounds in which ours and the peers run in turn.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub(crate) rounds: u16,
    /// Only the cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub(crate) case: Option<String>,
}

/// The cases that a filter leaves.
///
/// # Errors
///
/// None is left.
pub(crate) fn chosen<'a>(cases: &[&'a str], filter: Option<&str>) -> Result<Vec<&'a str>> {
    let filter = filter.unwrap_or_default();
    let left: Vec<&str> = cases
        .iter()
        .copied()
        .filter(|case| case.contains(filter))
        .collect();
    anyhow::ensure!(
        !left.is_empty(),
        "no case contains `{filter}`; there are {}",
        cases.join(", ")
    );
    Ok(left)
}

/// How many steps fill `seconds`; at least two.
pub(crate) fn steps_in(seconds: f64, step: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped, and NaN becomes 0"
    )]
    let steps = (seconds / step).clamp(0.0, 100_000.0) as usize;
    steps.max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_choose_by_part_of_the_name() {
        let cases = ["resnet20", "source_net"];
        assert_eq!(chosen(&cases, None).unwrap(), cases);
        assert_eq!(chosen(&cases, Some("net20")).unwrap(), ["resnet20"]);
        let error = chosen(&cases, Some("vgg")).unwrap_err().to_string();
        assert!(error.contains("there are resnet20, source_net"), "{error}");
    }

    #[test]
    fn steps_fill_the_time() {
        // Ten steps of 0.2 s; never fewer than two, whatever a clock says.
        for (step, expected) in [(0.2, 10), (5.0, 2), (f64::NAN, 2), (0.0, 100_000)] {
            assert_eq!(steps_in(2.0, step), expected, "{step}");
        }
    }
}
