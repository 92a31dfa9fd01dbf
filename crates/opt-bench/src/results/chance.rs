//! How probable a deviation is under the normal distribution and under Student's, from zero in both directions.

/// The probability that a standard normal number is further from zero than `z`.
///
/// ```text
/// p(z) = erfc(z/√2)
/// ```
///
/// Below 4 its power series, above it Laplace's continued fraction; the relative error is below 1e-10.
///
/// # References
///
/// M. Abramowitz and I. A. Stegun, *Handbook of Mathematical Functions*, 1964, 26.2.11 and 26.2.14.
pub(super) fn normal(z: f64) -> f64 {
    let z = z.abs();
    let density = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
    if z < 4.0 {
        let (mut term, mut sum, mut k) = (z, z, 1.0);
        while term > sum * f64::EPSILON * 1e-2 {
            k += 2.0;
            term *= z * z / k;
            sum += term;
        }
        return (1.0 - 2.0 * density * sum).clamp(0.0, 1.0);
    }
    // From the inside: 60 steps are exact to the last place from 4 on.
    let fraction = (1..=60).rev().fold(z, |inner, k| z + f64::from(k) / inner);
    2.0 * density / fraction
}

/// The probability that Student's t with so many degrees of freedom is further from zero than `t`.
///
/// With `θ = atan(t/√ν)` it is a finite sum over the odd or even powers of `cos θ`. No degrees of freedom: certain.
///
/// # References
///
/// M. Abramowitz and I. A. Stegun, *Handbook of Mathematical Functions*, 1964, 26.7.3 and 26.7.4. Student, *The Probable
/// Error of a Mean*, Biometrika 6, 1908.
pub(super) fn student(t: f64, degrees: usize) -> f64 {
    if degrees == 0 {
        return 1.0;
    }
    let angle = (t.abs() / (degrees as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let odd = degrees % 2 == 1;
    let mut term = if odd { cosine } else { 1.0 };
    let mut sum = 0.0;
    let mut power = if odd { 1 } else { 0 };
    while power + 2 <= degrees {
        sum += term;
        power += 2;
        term *= cosine * cosine * (power - 1) as f64 / power as f64;
    }
    let within = match odd {
        true => std::f64::consts::FRAC_2_PI * (angle + sine * sum),
        false => sine * sum,
    };
    (1.0 - within).clamp(0.0, 1.0)
}

/// The two-sided 95 % quantile of Student's t: how many standard errors an interval reaches to either side.
pub(crate) fn t_quantile(degrees: usize) -> f64 {
    t_quantile_at(super::verdict::LEVEL, degrees)
}

/// How far from zero Student's t is with the probability `level`, above 0 and at most 1.
pub(super) fn t_quantile_at(level: f64, degrees: usize) -> f64 {
    if degrees == 0 {
        return f64::INFINITY;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while student(high, degrees) > level {
        (low, high) = (high, 2.0 * high);
    }
    // Each step halves it: the last place of a double after 60.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if student(middle, degrees) > level {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
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
            assert!((student(t_quantile(degrees), degrees) - 0.05).abs() < 1e-14);
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
