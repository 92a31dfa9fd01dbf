//! Name filters: exact names, with `*` for any run of characters.

use crate::{PruneError, Result};

/// Whether `name` is what `filter` describes.
///
/// ```
/// use opt_prune::filter::matches;
/// assert!(matches("conv1.weight", "conv1.weight"));
/// assert!(matches("layer1.*", "layer1.0.conv1.weight"));
/// assert!(!matches("conv1", "conv1.weight"));
/// ```
#[must_use]
pub fn matches(filter: &str, name: &str) -> bool {
    match filter.split_once('*') {
        None => filter == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(i, _)| i).chain([rest.len()]);
            ends.into_iter().any(|i| matches(tail, &rest[i..]))
        }),
    }
}

/// For each name, the first of the filters that matches it.
pub(crate) fn first_matches<'f>(
    filters: &'f [String],
    names: &[&str],
) -> Result<Vec<Option<&'f str>>> {
    if let Some(idle) = filters
        .iter()
        .find(|f| !names.iter().any(|n| matches(f, n)))
    {
        return Err(PruneError::FilterMatchesNothing {
            filter: idle.clone(),
            known: names.join(", "),
        });
    }
    let first = |name: &&str| {
        filters
            .iter()
            .find(|f| matches(f, name))
            .map(String::as_str)
    };
    Ok(names.iter().map(first).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_run() {
        struct Case {
            filter: &'static str,
            name: &'static str,
            expect: bool,
        }
        let cases = [
            // No star: the whole name.
            Case {
                filter: "fc",
                name: "fc1",
                expect: false,
            },
            // A star matches nothing, too.
            Case {
                filter: "fc*",
                name: "fc",
                expect: true,
            },
            // A star that has to look further than the first fit.
            Case {
                filter: "*.conv1.*ght",
                name: "a.conv1.conv1.weight",
                expect: true,
            },
            // An anchored end.
            Case {
                filter: "*.bias",
                name: "a.bias.b",
                expect: false,
            },
            // The empty filter matches the empty name alone.
            Case {
                filter: "",
                name: "a",
                expect: false,
            },
            // Letters of more than one byte.
            Case {
                filter: "*é*",
                name: "éa",
                expect: true,
            },
        ];
        for case in cases {
            assert_eq!(
                matches(case.filter, case.name),
                case.expect,
                "{} {}",
                case.filter,
                case.name
            );
        }
    }

    #[test]
    fn an_idle_filter_is_an_error() {
        let filters = ["fc*".to_owned(), "head*".to_owned()];
        let message = first_matches(&filters, &["conv1.weight", "fc.weight"])
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "the filter `head*` matches none of conv1.weight, fc.weight"
        );
    }
}
