//! Name filters: exact names, with `*` for any run of characters.

use crate::{PruneError, Result};

/// Whether `name` is what `filter` describes. Takes time in proportion to the two lengths, whatever the stars.
///
/// ```
/// use opt_prune::filter::matches;
/// assert!(matches("conv1.weight", "conv1.weight"));
/// assert!(matches("layer1.*", "layer1.0.conv1.weight"));
/// assert!(!matches("conv1", "conv1.weight"));
/// ```
#[must_use]
pub fn matches(filter: &str, name: &str) -> bool {
    let Some((head, rest)) = filter.split_once('*') else {
        return filter == name;
    };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(name) = name.strip_prefix(head) else {
        return false;
    };
    let Some(mut name) = name.strip_suffix(tail) else {
        return false;
    };
    // The first place of each piece leaves most for those after it, so no other place has to be tried.
    for piece in middle.split('*') {
        match name.split_once(piece) {
            Some((_, after)) => name = after,
            None => return false,
        }
    }
    true
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
            // The end may not overlap the start.
            Case {
                filter: "ab*bc",
                name: "abc",
                expect: false,
            },
            // Stars side by side are one.
            Case {
                filter: "a**c",
                name: "abc",
                expect: true,
            },
            // Pieces in another order.
            Case {
                filter: "*b*a*",
                name: "ab",
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
    fn many_stars_take_no_longer_than_their_number() {
        // Trying every place of every star would take years.
        let filter = "*a".repeat(5_000) + "*b*";
        assert!(!matches(&filter, &"a".repeat(20_000)));
        assert!(matches(&filter, &("a".repeat(20_000) + "ba")));
        assert!(!matches("*a*a*a*a*a*a*a*a*a*b", &"a".repeat(40)));
    }

    /// The definition: a star is nothing, or one character and then a star.
    fn by_definition(filter: &[char], name: &[char]) -> bool {
        match (filter, name) {
            ([], []) => true,
            (['*', rest @ ..], _) if by_definition(rest, name) => true,
            (['*', ..], [_, rest @ ..]) => by_definition(filter, rest),
            ([f, filter @ ..], [n, name @ ..]) if f == n => by_definition(filter, name),
            _ => false,
        }
    }

    proptest::proptest! {
        #[test]
        fn matches_as_the_definition_says(filter in "[ab*é]{0,6}", name in "[abé]{0,6}") {
            let chars = |s: &str| s.chars().collect::<Vec<char>>();
            proptest::prop_assert_eq!(
                matches(&filter, &name),
                by_definition(&chars(&filter), &chars(&name))
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
