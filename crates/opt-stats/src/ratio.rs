//! How many times better ours is than a peer, from rounds in which both ran.

use thiserror::Error;

use crate::distributions::t_quantile;

/// Which values are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Images per second.
    Larger,
    /// Seconds and bytes.
    Smaller,
}

/// Ours and a peer's over the same rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The geometric mean of our values.
    pub ours: f64,
    /// The geometric mean of the peer's values.
    pub peer: f64,
    /// The geometric mean of the rounds' ratios; above 1, ours is better.
    pub ratio: f64,
    /// The lower end of its 95 % interval.
    pub ci_low: f64,
    /// The upper end of its 95 % interval.
    pub ci_high: f64,
}

/// Rounds that cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum RatioError {
    /// Too few rounds, or not as many of both.
    #[error(
        "{ours} rounds of ours and {peer} of the peer, expected at least two and as many of both"
    )]
    Rounds {
        /// Rounds of ours.
        ours: usize,
        /// Rounds of the peer.
        peer: usize,
    },
    /// A value that no time and no size has.
    #[error("a round measured {value}, expected a positive number")]
    Value {
        /// The value.
        value: f64,
    },
}

/// Compares values of the same rounds.
///
/// ```text
/// d_i = ln(ours_i / peer_i), with the other sign where smaller is better
/// ratio = exp(mean d)        interval = exp(mean d ± t(n − 1) s / √n)
/// ```
///
/// where t is the two-sided 95 % quantile of Student's distribution and s the standard deviation of d. Pairing removes
/// what slows a whole round down; logarithms make 2× better and 2× worse equally far from 1.
///
/// ```
/// use opt_stats::{Better, ratio};
///
/// let same = ratio(&[3.0, 6.0], &[1.0, 2.0], Better::Larger)?;
/// assert!((same.ratio - 3.0).abs() < 1e-12 && (same.ci_high - same.ci_low).abs() < 1e-12);
/// # Ok::<(), opt_stats::RatioError>(())
/// ```
///
/// # Errors
///
/// Fewer than two rounds, another number of rounds for the peer, or a value that is not positive and finite.
pub fn ratio(ours: &[f64], peer: &[f64], better: Better) -> Result<Ratio, RatioError> {
    let n = ours.len();
    if n < 2 || peer.len() != n {
        return Err(RatioError::Rounds {
            ours: n,
            peer: peer.len(),
        });
    }
    let is_bad = |value: &&f64| !(**value > 0.0 && value.is_finite());
    if let Some(&value) = ours.iter().chain(peer).find(is_bad) {
        return Err(RatioError::Value { value });
    }
    let sign = match better {
        Better::Larger => 1.0,
        Better::Smaller => -1.0,
    };
    let logs: Vec<f64> = ours
        .iter()
        .zip(peer)
        .map(|(ours, peer)| sign * (ours.ln() - peer.ln()))
        .collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
    let centre = mean(&logs);
    let squares: f64 = logs.iter().map(|d| (d - centre).powi(2)).sum();
    let half = t_quantile(n - 1) * (squares / (n - 1) as f64 / n as f64).sqrt();
    let geometric = |values: &[f64]| {
        let logs: Vec<f64> = values.iter().map(|v| v.ln()).collect();
        mean(&logs).exp()
    };
    Ok(Ratio {
        ours: geometric(ours),
        peer: geometric(peer),
        ratio: centre.exp(),
        ci_low: (centre - half).exp(),
        ci_high: (centre + half).exp(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn intervals_by_hand() {
        struct Case {
            ours: &'static [f64],
            peer: &'static [f64],
            better: Better,
            ratio: f64,
            /// ln of the interval's upper end over the ratio.
            half: f64,
        }
        let ln2 = std::f64::consts::LN_2;
        let cases = [
            // Equal: no difference and no doubt.
            Case {
                ours: &[5.0, 5.0],
                peer: &[5.0, 5.0],
                better: Better::Larger,
                ratio: 1.0,
                half: 0.0,
            },
            // Twice as many images per second in each round, though the rounds differ.
            Case {
                ours: &[2.0, 20.0, 8.0],
                peer: &[1.0, 10.0, 4.0],
                better: Better::Larger,
                ratio: 2.0,
                half: 0.0,
            },
            // Half of the bytes is twice as good.
            Case {
                ours: &[1.0, 10.0],
                peer: &[2.0, 20.0],
                better: Better::Smaller,
                ratio: 2.0,
                half: 0.0,
            },
            // Twice the bytes is half as good.
            Case {
                ours: &[4.0, 4.0],
                peer: &[2.0, 2.0],
                better: Better::Smaller,
                ratio: 0.5,
                half: 0.0,
            },
            // d = 0 and 2 ln 2: mean ln 2, s = √2 ln 2, s/√2 = ln 2, t(1) = tan(0.475 π) = 12.706.
            Case {
                ours: &[1.0, 4.0],
                peer: &[1.0, 1.0],
                better: Better::Larger,
                ratio: 2.0,
                half: 12.706_204_736_174_7 * ln2,
            },
            // d = −ln 2, 0, ln 2: s = ln 2, over √3, t(2) = 0.95 √(2/(1 − 0.95²)) = 4.303.
            Case {
                ours: &[1.0, 2.0, 4.0],
                peer: &[2.0, 2.0, 2.0],
                better: Better::Larger,
                ratio: 1.0,
                half: 4.302_652_729_749_46 * ln2 / 3.0_f64.sqrt(),
            },
        ];
        for (number, case) in cases.iter().enumerate() {
            let found = ratio(case.ours, case.peer, case.better).unwrap();
            // Sums of a few logarithms: some units in the last place.
            let near = |a: f64, b: f64| (a - b).abs() < 1e-12 * (1.0 + b.abs());
            assert!(near(found.ratio, case.ratio), "case {number}: {found:?}");
            let (low, high) = (found.ratio / found.ci_low, found.ci_high / found.ratio);
            assert!(near(high.ln(), case.half), "case {number}: {found:?}");
            assert!(near(low.ln(), case.half), "case {number}: {found:?}");
        }
    }

    #[test]
    fn rounds_that_cannot_be_compared() {
        let cases: [(&[f64], &[f64], &str); 6] = [
            (&[], &[], "0 rounds of ours"),
            (&[1.0], &[1.0], "1 rounds of ours"),
            (&[1.0, 2.0], &[1.0], "1 of the peer"),
            (&[1.0, 0.0], &[1.0, 1.0], "measured 0"),
            (&[1.0, 1.0], &[1.0, f64::NAN], "measured NaN"),
            (&[1.0, f64::INFINITY], &[1.0, 1.0], "measured inf"),
        ];
        for (ours, peer, expected) in cases {
            let error = ratio(ours, peer, Better::Larger).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        /// Who is called ours only turns the ratio over, and so does the direction; the ratio is that of the means.
        #[test]
        fn the_comparison_is_symmetric(rounds in prop::collection::vec((0.01f64..1e6, 0.01f64..1e6), 2..40)) {
            let (ours, peer): (Vec<f64>, Vec<f64>) = rounds.into_iter().unzip();
            let forth = ratio(&ours, &peer, Better::Larger).unwrap();
            let back = ratio(&peer, &ours, Better::Larger).unwrap();
            let smaller = ratio(&ours, &peer, Better::Smaller).unwrap();
            let near = |a: f64, b: f64| (a.ln() - b.ln()).abs() < 1e-9;
            prop_assert!(forth.ci_low <= forth.ratio && forth.ratio <= forth.ci_high);
            prop_assert!(near(forth.ratio, 1.0 / back.ratio) && near(forth.ci_low, 1.0 / back.ci_high));
            prop_assert!(near(smaller.ratio, back.ratio) && near(smaller.ci_low, back.ci_low));
            prop_assert!(near(forth.ratio, forth.ours / forth.peer));
        }
    }
}
