//! Mean and spread of a few numbers.

use serde::{Deserialize, Serialize};

use crate::Pair;

/// Mean and spread of a few numbers, for example of the accuracies of several seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation (division by n − 1); `None` for one number.
    pub std: Option<f64>,
    /// The standard error of the mean, std / √n; `None` for one number.
    #[serde(default)]
    pub error: Option<f64>,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `values`; of none, everything is NaN or infinite.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        Self {
            mean,
            std,
            error: std.map(|std| std / n.sqrt()),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// The spread of the pairs' differences, in points.
    #[must_use]
    pub fn of_differences(pairs: &[Pair]) -> Self {
        let values: Vec<f64> = pairs.iter().map(|pair| pair.top1 - pair.other).collect();
        Self::of(&values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_of_a_few_numbers() {
        let cases: [(&[f64], f64, Option<f64>); 4] = [
            (&[90.0], 90.0, None),
            (&[90.0, 90.0], 90.0, Some(0.0)),
            // Deviations −1 and 1: √(2 / 1), and √2 / √2 for the mean.
            (&[90.0, 92.0], 91.0, Some(std::f64::consts::SQRT_2)),
            // Deviations −2, 0, 2: √(8 / 2).
            (&[88.0, 90.0, 92.0], 90.0, Some(2.0)),
        ];
        for (values, mean, std) in cases {
            let spread = Spread::of(values);
            assert_eq!((spread.mean, spread.std), (mean, std));
            let root = (values.len() as f64).sqrt();
            assert_eq!(spread.error, std.map(|std| std / root));
            assert_eq!(
                (spread.min, spread.max),
                (values[0], values[values.len() - 1])
            );
        }
    }
}
