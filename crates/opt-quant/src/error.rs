//! What can be wrong with the numbers, or the method of a quantization.

use thiserror::Error;

/// An error of this crate. Whoever knows which value or weight it was working on adds that name ([`QuantError::Named`]).
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum QuantError {
    /// A number to observe or to quantize is a NaN or an infinity.
    #[error(
        "element {index} is {value}, expected a finite number; find out where it arises before quantizing"
    )]
    NotFinite {
        /// The flat index of the first such element.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// There is nothing to take a range from.
    #[error("no values were observed, so there is no range to quantize")]
    Empty,
    /// A range that no parameters can be computed for.
    #[error("the range {lo} to {hi} cannot be quantized: {problem}")]
    Range {
        /// The lower end.
        lo: f32,
        /// The upper end.
        hi: f32,
        /// What is wrong and what was expected.
        problem: &'static str,
    },
    /// A code range that cannot be used.
    #[error("codes {qmin} to {qmax}: expected at least two codes within -65536 to 65535")]
    CodeRange {
        /// The smallest code.
        qmin: i32,
        /// The largest code.
        qmax: i32,
    },
    /// A word that no choice has.
    #[error("no {what} `{name}`; there are {known}")]
    Unknown {
        /// What kind of thing was looked for.
        what: &'static str,
        /// The word.
        name: String,
        /// The words that exist.
        known: String,
    },
    /// A width that the method does not have.
    #[error("{method}: {bits} bits, expected {min} to {max}")]
    Bits {
        /// The method.
        method: &'static str,
        /// The width asked for.
        bits: u8,
        /// The smallest width it has.
        min: u8,
        /// The largest width it has.
        max: u8,
    },
    /// A number of levels that does not fit a byte.
    #[error("{method}: {levels} levels, expected 2 to 256")]
    Levels {
        /// The method.
        method: &'static str,
        /// The number asked for.
        levels: u16,
    },
    /// Scales that do not fit the tensor or are unusable.
    #[error(
        "{problem}; expected one positive normal scale for the tensor or one for each of its {channels} channels"
    )]
    Scales {
        /// What is wrong.
        problem: String,
        /// The length of the tensor's axis 0.
        channels: usize,
    },
    /// Scales per channel for a tensor without channels: axis 0 of a bias or of a BatchNormalization's factors is not one.
    #[error(
        "shape {shape:?} has no output channels with weights of their own; use one scale for the tensor"
    )]
    NoChannels {
        /// The shape of the tensor.
        shape: Vec<usize>,
    },
    /// An error with the value or the weight of a network that it is about.
    #[error("{what}: {error}")]
    Named {
        /// What it is and its name, as in ``weight `conv1.weight` ``.
        what: String,
        /// What is wrong with it.
        error: Box<Self>,
    },
    /// Two tensors that belong together have different shapes.
    #[error("cannot compare a tensor of shape {found:?} with one of shape {expected:?}")]
    Shape {
        /// The shape of the decoded tensor.
        found: Vec<usize>,
        /// The shape of the original.
        expected: Vec<usize>,
    },
    /// Parameters refused by their own type, a model that has no integer form, or a specification that does not fit it.
    #[error(transparent)]
    Core(#[from] opt_core::CoreError),
}

impl QuantError {
    /// This error, about the `kind` of this name; one that has a name already keeps it.
    #[must_use]
    pub fn of(self, kind: &str, name: &str) -> Self {
        match self {
            Self::Named { .. } => self,
            error => Self::Named {
                what: format!("{kind} `{name}`"),
                error: Box::new(error),
            },
        }
    }
}
