//! Which lines are compared, and on what.

use opt_stats::{Discordant, Pair};

use crate::{Correct, ResultLine, correct};

type Key<'a> = (&'a str, &'a str, &'a str, &'a str);

/// The row of the summary that a line belongs to.
pub(crate) fn key(line: &ResultLine) -> Key<'_> {
    (&line.experiment, &line.variant, &line.model, &line.dataset)
}

/// The line that `line` is compared with: of its own experiment if that has one of this name, else of another.
pub(crate) fn baseline_of<'a>(
    line: &ResultLine,
    lines: &[&'a ResultLine],
) -> Option<&'a ResultLine> {
    let name = line.baseline.as_ref()?;
    let mut named = lines.iter().copied().filter(|other| {
        other.variant == *name
            && other.model == line.model
            && other.dataset == line.dataset
            && other.seed == line.seed
            && key(other) != key(line)
    });
    let first = named.clone().next();
    named
        .find(|other| other.experiment == line.experiment)
        .or(first)
}

/// Where the chain of baselines ends: the network that compression started from. `None` for such a network itself, and if
/// a line of the chain is missing.
pub(crate) fn original_of<'a>(
    line: &ResultLine,
    lines: &[&'a ResultLine],
) -> Option<&'a ResultLine> {
    let mut found = baseline_of(line, lines)?;
    // A chain that comes back to itself has no end.
    for _ in lines {
        if found.baseline.is_none() {
            return Some(found);
        }
        found = baseline_of(found, lines)?;
    }
    None
}

/// Two lines as a pair to judge; `counts` where they are known already.
pub(crate) fn pair(
    line: &ResultLine,
    other: &ResultLine,
    counts: Option<Discordant>,
    correct: &[Correct],
) -> Pair {
    Pair {
        top1: line.top1,
        other: other.top1,
        n_test: line.n_test,
        discordant: counts.or_else(|| correct::discordant(line, other, correct)),
    }
}
