//! What must be known about numbers before they can be quantized.

pub mod min_max;

use std::fmt::{self, Debug, Display, Formatter};
use std::str::FromStr;

use crate::{MinMax, QuantError, Result};

/// How the range that a value is quantized by is found from what it was on some images.
///
/// ```
/// use opt_quant::RangeMethod;
///
/// let mut observer = "min_max".parse::<RangeMethod>()?.observer();
/// observer.observe(&[0.5, -2.0])?;
/// observer.observe(&[1.0])?;
/// assert_eq!(observer.found().range()?, (-2.0, 1.0));
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RangeMethod {
    /// From the smallest number to the largest: [`min_max`].
    #[default]
    MinMax,
}

impl RangeMethod {
    /// Every method with its word, as profiles write it.
    pub const WORDS: [(&str, Self); 1] = [("min_max", Self::MinMax)];

    /// An observer that has seen nothing.
    #[must_use]
    pub fn observer(self) -> Box<dyn RangeObserver> {
        match self {
            Self::MinMax => Box::<MinMax>::default(),
        }
    }
}

impl Display for RangeMethod {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MinMax => "min_max",
        })
    }
}

impl FromStr for RangeMethod {
    type Err = QuantError;

    fn from_str(word: &str) -> Result<Self> {
        let known = Self::WORDS.into_iter().find(|(known, _)| *known == word);
        known
            .map(|(_, method)| method)
            .ok_or_else(|| QuantError::Unknown {
                what: "range method",
                name: word.to_owned(),
                known: Self::WORDS.map(|(word, _)| word).join(", "),
            })
    }
}

/// Sees the numbers of one value piece by piece and finds their range.
pub trait RangeObserver: Debug + Send {
    /// Sees further numbers; an error leaves what was seen.
    ///
    /// # Errors
    ///
    /// [`QuantError::NotFinite`] with the index within `values`.
    fn observe(&mut self, values: &[f32]) -> Result<()>;

    /// The range by what was seen so far; empty before the first number.
    fn found(&self) -> MinMax;
}

impl RangeObserver for MinMax {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        Self::observe(self, values)
    }

    fn found(&self) -> Self {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for (word, method) in RangeMethod::WORDS {
            assert_eq!(method.to_string(), word);
            assert_eq!(word.parse(), Ok(method));
        }
        let error = "median".parse::<RangeMethod>().unwrap_err().to_string();
        assert!(
            error.starts_with("no range method `median`; there are min_max"),
            "{error}"
        );
    }

    #[test]
    fn nothing_seen_is_an_empty_range_and_an_error_leaves_it() {
        for (word, method) in RangeMethod::WORDS {
            let mut observer = method.observer();
            assert_eq!(observer.found().range(), Err(QuantError::Empty), "{word}");
            assert!(observer.observe(&[1.0, f32::NAN]).is_err(), "{word}");
            assert_eq!(observer.found().range(), Err(QuantError::Empty), "{word}");
            observer.observe(&[7.0, 7.0]).unwrap();
            assert_eq!(observer.found().range(), Ok((7.0, 7.0)), "{word}");
        }
    }
}
