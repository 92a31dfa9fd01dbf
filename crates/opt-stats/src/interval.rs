//! The differences that chance leaves possible.

use serde::{Deserialize, Serialize};

/// The differences that chance leaves possible, in points.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    pub(crate) fn around(centre: f64, reach: f64) -> Self {
        Self {
            low: centre - reach,
            high: centre + reach,
        }
    }

    /// Whether `difference` is one of them.
    #[must_use]
    pub fn holds(self, difference: f64) -> bool {
        self.low <= difference && difference <= self.high
    }

    /// Half of its width.
    #[must_use]
    pub fn reach(self) -> f64 {
        0.5 * (self.high - self.low)
    }
}
