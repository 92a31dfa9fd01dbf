//! The one rounding from f64 to f32.

/// The nearest f32.
#[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
pub(crate) fn to_f32(x: f64) -> f32 {
    x as f32
}
