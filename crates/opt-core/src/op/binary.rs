//! Functions of two tensors, element by element.

/// A function of two tensors of one shape, with ONNX's name and formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
}

impl Binary {
    /// The ONNX operator name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "Add",
        }
    }

    /// Its value, rounded once.
    ///
    /// ```
    /// assert_eq!(opt_core::op::Binary::Add.apply(1.5, 2.0), 3.5);
    /// ```
    #[must_use]
    pub fn apply(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
        }
    }
}
