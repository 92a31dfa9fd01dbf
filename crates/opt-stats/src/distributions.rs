//! How probable a deviation is under the normal distribution and under Student's, from zero in both directions.

use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::function::erf::erfc;

/// The most that chance may have to say for a verdict.
pub(crate) const LEVEL: f64 = 0.05;

/// Where 95 % of a normal distribution end on either side.
pub(crate) const DEVIATION: f64 = 1.959_963_984_540_054;

/// The probability that a standard normal number is further from zero than `z`: `erfc(z/√2)`.
pub(crate) fn normal(z: f64) -> f64 {
    erfc(z.abs() / std::f64::consts::SQRT_2)
}

/// The two-sided 95 % quantile of Student's t: how many standard errors an interval reaches to either side.
pub(crate) fn t_quantile(degrees: usize) -> f64 {
    t_quantile_at(LEVEL, degrees)
}

/// How far from zero Student's t is with the probability `level`, above 0 and at most 1. No degrees of freedom: anywhere.
///
/// # References
///
/// Student, *The Probable Error of a Mean*, Biometrika 6, 1908.
pub(crate) fn t_quantile_at(level: f64, degrees: usize) -> f64 {
    match StudentsT::new(0.0, 1.0, degrees as f64) {
        // The lower tail, in which a small level keeps its digits.
        Ok(student) => -student.inverse_cdf(level / 2.0),
        Err(_) => f64::INFINITY,
    }
}

/// The probability that Student's t with so many degrees of freedom is further from zero than `t`.
#[cfg(test)]
pub(crate) fn student(t: f64, degrees: usize) -> f64 {
    match StudentsT::new(0.0, 1.0, degrees as f64) {
        Ok(student) => 2.0 * student.sf(t.abs()),
        Err(_) => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_probabilities() {
        // Python, with 50 digits: mpmath.erfc(z / sqrt(2)).
        let cases = [
            (0.0, 1.0),
            (0.5, 0.617_075_077_451_973_8),
            (1.0, 0.317_310_507_862_914_1),
            (1.959_963_984_540_054, 0.05),
            (3.0, 0.002_699_796_063_260_189),
            (3.999, 6.361_068_010_840_412e-5),
            (4.0, 6.334_248_366_623_993e-5),
            (8.0, 1.244_192_114_854_364e-15),
        ];
        for (z, expected) in cases {
            let found = normal(z);
            // Just below 4 the series loses the five digits that 1 − p has more than p.
            assert!((found / expected - 1.0).abs() < 1e-10, "{z}: {found}");
            assert_eq!(normal(-z), found);
        }
        assert_eq!(normal(f64::INFINITY), 0.0);
    }

    #[test]
    fn student_probabilities_and_quantiles() {
        assert_eq!((student(3.0, 0), t_quantile(0)), (1.0, f64::INFINITY));
        // One degree is Cauchy's distribution: 1 − 2/π·atan(1). Two: 1 − t/√(2 + t²).
        assert!((student(1.0, 1) - 0.5).abs() < 1e-15);
        assert!((student(2.0, 2) - (1.0 - 2.0 / 6.0_f64.sqrt())).abs() < 1e-15);
        // Published to three decimals.
        for (degrees, t) in [
            (1, 12.706),
            (2, 4.303),
            (3, 3.182),
            (4, 2.776),
            (5, 2.571),
            (9, 2.262),
            (30, 2.042),
            (31, 2.040),
            (40, 2.021),
            (120, 1.980),
        ] {
            assert!((t_quantile(degrees) - t).abs() < 5.1e-4, "{degrees}");
            assert!((student(t_quantile(degrees), degrees) - 0.05).abs() < 1e-12);
        }
        // Cauchy's again: tan(π/2·(1 − level)). Two degrees: level 1 − 2/√6 at 2.
        let tangent = (std::f64::consts::FRAC_PI_2 * 0.9999).tan();
        assert!((t_quantile_at(1e-4, 1) / tangent - 1.0).abs() < 1e-9);
        assert!((t_quantile_at(1.0 - 2.0 / 6.0_f64.sqrt(), 2) - 2.0).abs() < 1e-12);
        assert!(t_quantile_at(1.0, 3) < 1e-15);
        // The more degrees, the nearer to the normal distribution.
        assert!((1..60).all(|n| t_quantile(n) > t_quantile(n + 1)));
        assert!((student(1.96, 100_000) - normal(1.96)).abs() < 1e-5);
    }
}
