//! Spearman's rank correlation, with which criteria are compared.

/// The correlation of the ranks of `a` and `b`, -1 to 1; equal values share their mean rank.
///
/// `None` if there is no order to compare: fewer than two values, all equal, or a NaN.
///
/// ```text
/// ρ = cov(rank a, rank b) / sqrt(var(rank a) · var(rank b))
/// ```
///
/// ```
/// use opt_prune::rank_correlation;
/// assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[1.0, 10.0, 1000.0]), Some(1.0));
/// ```
///
/// # Panics
///
/// If the lengths differ.
///
/// # References
///
/// C. Spearman, *The Proof and Measurement of Association between Two Things*, 1904.
#[must_use]
#[track_caller]
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    assert_eq!(a.len(), b.len(), "lengths differ");
    if a.iter().chain(b).any(|v| v.is_nan()) {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    (spread > 0.0).then(|| product(&a, &b) / spread)
}

/// Ranks from 0; ties get the mean of the ranks that they cover.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    // `==` and not `total_cmp`: the two zeros tie, and they are neighbours in the order.
    for run in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let rank = first as f64 + (run.len() as f64 - 1.0) / 2.0;
        for &i in run {
            ranks[i] = rank;
        }
        first += run.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cases() {
        struct Case {
            a: &'static [f64],
            b: &'static [f64],
            expect: Option<f64>,
        }
        let cases = [
            // Nothing, and one value: no order.
            Case {
                a: &[],
                b: &[],
                expect: None,
            },
            Case {
                a: &[1.0],
                b: &[2.0],
                expect: None,
            },
            // All equal.
            Case {
                a: &[1.0, 1.0],
                b: &[1.0, 2.0],
                expect: None,
            },
            // NaN.
            Case {
                a: &[1.0, f64::NAN],
                b: &[1.0, 2.0],
                expect: None,
            },
            // Reversed.
            Case {
                a: &[1.0, 2.0, 3.0],
                b: &[0.0, -7.0, -8.0],
                expect: Some(-1.0),
            },
            // One swap of four: 1 - 6·2 / (4·15).
            Case {
                a: &[1.0, 2.0, 3.0, 4.0],
                b: &[2.0, 1.0, 3.0, 4.0],
                expect: Some(0.8),
            },
            // A tie: ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: 4.5 / sqrt(4.5 · 5).
            Case {
                a: &[1.0, 2.0, 2.0, 3.0],
                b: &[1.0, 2.0, 3.0, 4.0],
                expect: Some(0.9486832980505138),
            },
            // Zeros of both signs tie: with them apart this would be 1.
            Case {
                a: &[-0.0, 0.0, 1.0, 2.0],
                b: &[1.0, 2.0, 3.0, 4.0],
                expect: Some(0.9486832980505138),
            },
        ];
        for case in cases {
            let found = rank_correlation(case.a, case.b);
            // A few roundings of numbers near 1.
            let close = match (found, case.expect) {
                (Some(f), Some(e)) => (f - e).abs() < 1e-12,
                (f, e) => f == e,
            };
            assert!(close, "{found:?}, expected {:?}", case.expect);
        }
    }

    proptest! {
        #[test]
        fn only_the_order_counts(values in proptest::collection::vec((-50i8..50, -50i8..50), 2..30)) {
            let a: Vec<f64> = values.iter().map(|v| f64::from(v.0)).collect();
            let b: Vec<f64> = values.iter().map(|v| f64::from(v.1)).collect();
            let cubed: Vec<f64> = a.iter().map(|v| v.powi(3) + 1.0).collect();
            prop_assert_eq!(rank_correlation(&a, &b), rank_correlation(&cubed, &b));
            prop_assert_eq!(rank_correlation(&a, &b), rank_correlation(&b, &a));
            if let Some(rho) = rank_correlation(&a, &b) {
                prop_assert!(rho.abs() <= 1.0 + 1e-12);
            }
        }
    }
}
