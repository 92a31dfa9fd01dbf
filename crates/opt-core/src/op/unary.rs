//! Functions of each element.

use crate::rounding::to_f32;

/// A function of each element, with ONNX's name and formula.
///
/// On f32 it is computed by [`Unary::apply`]. In an integer network it is a table of 256 codes, but for [`Unary::Relu`] and
/// [`Unary::Clip`], which limit codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unary {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, min), max)`.
    Clip {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
    /// `x·min(max(x + 3, 0), 6)/6`.
    ///
    /// A. Howard et al., *Searching for `MobileNetV3`*, 2019, arXiv:1905.02244.
    HardSwish,
}

impl Unary {
    /// The ONNX operator name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "Relu",
            Self::Clip { .. } => "Clip",
            Self::HardSwish => "HardSwish",
        }
    }

    /// Its value, computed in f64 and rounded once. NaN gives NaN, and where a product has no limit (of `HardSwish` at -∞) the
    /// value is 0.
    ///
    /// ```
    /// use opt_core::op::Unary;
    ///
    /// assert_eq!(Unary::HardSwish.apply(1.0), 4.0 / 6.0);
    /// assert_eq!(Unary::HardSwish.apply(-3.5), 0.0);
    /// assert_eq!(Unary::HardSwish.apply(1e30), 1e30);
    /// assert!(Unary::Relu.apply(f32::NAN).is_nan());
    /// ```
    #[must_use]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            // Not `f32::max`, which gives the other operand for a NaN.
            Self::Relu if x > 0.0 || x.is_nan() => x,
            Self::Relu => 0.0,
            Self::Clip { min, max } => x.clamp(min, max),
            Self::HardSwish if x <= -3.0 => 0.0,
            Self::HardSwish => {
                let wide = f64::from(x);
                to_f32(wide * (wide + 3.0).min(6.0) / 6.0)
            }
        }
    }

    /// The bounds of a function that does nothing but limit: it joins the operator before it, commutes with MaxPool, and needs no
    /// table.
    #[must_use]
    pub fn bounds(self) -> Option<(f32, f32)> {
        match self {
            Self::Relu => Some((0.0, f32::INFINITY)),
            Self::Clip { min, max } => Some((min, max)),
            Self::HardSwish => None,
        }
    }

    /// Its attributes, by ONNX's names.
    #[must_use]
    pub fn attributes(self) -> Vec<(&'static str, f32)> {
        match self {
            Self::Clip { min, max } => vec![("min", min), ("max", max)],
            Self::Relu | Self::HardSwish => Vec::new(),
        }
    }

    /// What is wrong with its attributes, if anything.
    #[must_use]
    pub fn problem(self) -> Option<String> {
        match self {
            Self::Clip { min, max } if min.partial_cmp(&max) != Some(std::cmp::Ordering::Less) => {
                Some(format!("bounds {min} and {max} are not in order"))
            }
            Self::Relu | Self::Clip { .. } | Self::HardSwish => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_follow_their_formulas() {
        struct Case {
            function: Unary,
            x: f32,
            expect: f32,
        }
        let case = |function, x, expect| Case {
            function,
            x,
            expect,
        };
        let clip = Unary::Clip {
            min: -1.0,
            max: 2.0,
        };
        let cases = [
            case(Unary::Relu, -0.0, 0.0),
            case(Unary::Relu, f32::INFINITY, f32::INFINITY),
            case(Unary::Relu, -1e-45, 0.0),
            case(clip, -7.0, -1.0),
            case(clip, 0.5, 0.5),
            case(clip, f32::INFINITY, 2.0),
            // PyTorch's values.
            case(Unary::HardSwish, -3.0, 0.0),
            case(Unary::HardSwish, -1.5, -0.375),
            case(Unary::HardSwish, 0.0, 0.0),
            case(Unary::HardSwish, 0.7, 0.431_666_67),
            case(Unary::HardSwish, 3.0, 3.0),
            case(Unary::HardSwish, 40.0, 40.0),
            case(Unary::HardSwish, f32::NEG_INFINITY, 0.0),
            case(Unary::HardSwish, f32::MAX, f32::MAX),
        ];
        for case in cases {
            let y = case.function.apply(case.x);
            assert_eq!(
                y.to_bits(),
                case.expect.to_bits(),
                "{:?} of {}: {y}",
                case.function,
                case.x
            );
        }
        for function in [Unary::Relu, clip, Unary::HardSwish] {
            assert!(function.apply(f32::NAN).is_nan(), "{function:?}");
        }
    }

    #[test]
    fn bounds_are_in_order() {
        let clip = |min, max| Unary::Clip { min, max }.problem();
        assert_eq!(clip(0.0, 6.0), None);
        for (min, max) in [(6.0, 0.0), (1.0, 1.0), (f32::NAN, 1.0), (0.0, f32::NAN)] {
            assert!(clip(min, max).is_some_and(|p| p.contains("not in order")));
        }
    }
}
