//! The Pareto front: the points that no other point beats in both directions.

/// Returns the indices of the points that no other point beats, by increasing cost.
///
/// A point is `(cost, gain)`; it is beaten by one that costs no more and gains no less, and is better in at least one of
/// the two. Of equal points the first is kept. Points that are not finite are never on the front.
pub fn pareto_front(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len())
        .filter(|&i| points[i].0.is_finite() && points[i].1.is_finite())
        .collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (points[a], points[b]);
        a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1))
    });
    let mut best = f64::NEG_INFINITY;
    order.retain(|&i| {
        let gains = points[i].1 > best;
        best = best.max(points[i].1);
        gains
    });
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fronts_by_hand() {
        struct Case(&'static [(f64, f64)], &'static [usize]);
        let cases = [
            Case(&[], &[]),
            Case(&[(1.0, 1.0)], &[0]),
            // The middle one costs more than the first and gains less.
            Case(&[(1.0, 2.0), (2.0, 1.0), (3.0, 3.0)], &[0, 2]),
            // Equal points: the first; equal cost: the better; equal gain: the cheaper.
            Case(&[(1.0, 1.0), (1.0, 1.0)], &[0]),
            Case(&[(1.0, 1.0), (1.0, 2.0)], &[1]),
            Case(&[(2.0, 1.0), (1.0, 1.0)], &[1]),
            // A point that is not a number beats nobody.
            Case(&[(f64::NAN, 9.0), (0.5, f64::NAN), (1.0, 1.0)], &[2]),
        ];
        for Case(points, front) in cases {
            assert_eq!(pareto_front(points), front, "{points:?}");
        }
    }

    proptest! {
        #[test]
        fn the_front_is_what_nobody_beats(
            points in prop::collection::vec((0..6_i8, 0..6_i8), 0..20)
        ) {
            let points: Vec<(f64, f64)> =
                points.iter().map(|&(x, y)| (f64::from(x), f64::from(y))).collect();
            let mut slow: Vec<usize> = (0..points.len())
                .filter(|&i| {
                    let (x, y) = points[i];
                    !points.iter().enumerate().any(|(j, &(u, v))| {
                        u <= x && v >= y && (u < x || v > y || j < i)
                    })
                })
                .collect();
            slow.sort_by(|&a, &b| points[a].0.total_cmp(&points[b].0));
            prop_assert_eq!(pareto_front(&points), slow);
        }
    }
}
