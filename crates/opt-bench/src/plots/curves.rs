//! Accuracy against epochs, a curve per variant.

use anyhow::Result;

use super::canvas::{Entry, axes, curve, linear_axis, marker, nothing, page, place, shortened};
use crate::results::CurvePoint;

/// Curves in one plot; more could not be told apart.
const LIMIT: usize = 7;

/// Draws the training curves of one experiment: the first seed of its first seven variants.
///
/// Shows accuracy on held-out images if every epoch drawn has it, and otherwise on the augmented training images.
///
/// `data` names the data set below the title.
///
/// # Errors
///
/// Drawing fails.
pub fn training_curves(points: &[CurvePoint], experiment: &str, data: &str) -> Result<String> {
    let mut curves: Vec<Vec<&CurvePoint>> = Vec::new();
    for point in points.iter().filter(|point| point.experiment == experiment) {
        match curves
            .iter_mut()
            .find(|curve| curve[0].variant == point.variant)
        {
            Some(curve) if curve[0].seed != point.seed => {}
            Some(curve) => match curve.iter_mut().find(|other| other.epoch == point.epoch) {
                Some(other) => *other = point,
                None => curve.push(point),
            },
            None => curves.push(vec![point]),
        }
    }
    let n_left_out = curves.len().saturating_sub(LIMIT);
    curves.truncate(LIMIT);
    for curve in &mut curves {
        curve.sort_by(|a, b| a.epoch.total_cmp(&b.epoch));
    }
    let held_out = curves
        .iter()
        .flatten()
        .all(|point| point.test_top1.is_some());
    let accuracy = |point: &CurvePoint| match point.test_top1 {
        Some(top1) if held_out => top1,
        _ => point.train_top1,
    };
    for curve in &mut curves {
        curve.retain(|point| point.epoch.is_finite() && accuracy(point).is_finite());
    }
    let all: Vec<&CurvePoint> = curves.iter().flatten().copied().collect();
    if all.is_empty() {
        return page(data, &[], |area| nothing(area, "no training curves"));
    }
    let low = |value: fn(f64, f64) -> f64, from: f64, of: &dyn Fn(&CurvePoint) -> f64| {
        all.iter().map(|point| of(point)).fold(from, value)
    };
    let epoch = |point: &CurvePoint| point.epoch;
    let (first, last) = (
        low(f64::min, f64::INFINITY, &epoch),
        low(f64::max, f64::NEG_INFINITY, &epoch),
    );
    let room = if last - first < 1.0 { 0.5 } else { 0.0 };
    let mut x = linear_axis(first - room, last + room, short);
    if x.ticks.iter().any(|(epoch, _)| is_whole(*epoch)) {
        x.ticks.retain(|(epoch, _)| is_whole(*epoch));
    }
    let y = linear_axis(
        low(f64::min, f64::INFINITY, &accuracy),
        low(f64::max, 0.0, &accuracy),
        short,
    );
    let mut legend: Vec<Entry> = curves
        .iter()
        .enumerate()
        .filter(|(_, curve)| !curve.is_empty())
        .map(|(kind, curve)| Entry::Marker(kind, shortened(&curve[0].variant, 40)))
        .collect();
    if n_left_out > 0 {
        legend.push(Entry::Note(format!("{n_left_out} more in curves.jsonl")));
    }
    let title = if held_out {
        "top-1 accuracy on held-out images (%)"
    } else {
        "top-1 accuracy on augmented training images (%)"
    };
    page(data, &legend, |area| {
        axes(area, &x, &y, "epochs since random initialisation", title)?;
        for (kind, points) in curves.iter().enumerate() {
            let at: Vec<(i32, i32)> = points
                .iter()
                .map(|point| place(&x, &y, point.epoch, accuracy(point)))
                .collect();
            curve(area, kind, &at)?;
            for &at in at.iter().step_by(at.len().div_ceil(12).max(1)) {
                marker(area, kind, at)?;
            }
        }
        Ok(())
    })
}

fn is_whole(value: f64) -> bool {
    (value - value.round()).abs() < 1e-6
}

fn short(value: f64) -> String {
    let words = format!("{value:.2}");
    words.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample_curves;

    #[test]
    fn a_curve_per_variant_of_the_experiment() {
        let svg = training_curves(&sample_curves(), "baseline", "data: made").unwrap();
        assert!(svg.contains("\nresnet20\n") && svg.contains("augmented training images"));
        assert!(!svg.contains("iterative"));
        assert_eq!(
            svg,
            training_curves(&sample_curves(), "baseline", "data: made").unwrap()
        );
    }

    #[test]
    fn held_out_accuracy_is_preferred_where_all_have_it() {
        let mut points = sample_curves();
        for point in &mut points {
            point.test_top1 = Some(50.0);
        }
        assert!(
            training_curves(&points, "prune", "data: made")
                .unwrap()
                .contains("held-out")
        );
        points[0].test_top1 = None;
        points[0].experiment = "prune".to_owned();
        assert!(
            training_curves(&points, "prune", "data: made")
                .unwrap()
                .contains("augmented")
        );
    }

    #[test]
    fn the_axis_of_epochs_begins_where_training_begins_and_has_whole_ticks() {
        let mut points = sample_curves();
        points.retain(|point| point.experiment == "prune" && point.epoch >= 9.0);
        let svg = training_curves(&points, "prune", "data: made").unwrap();
        assert!(svg.contains("\n9\n") && svg.contains("\n10\n"), "{svg}");
        assert!(!svg.contains("\n5\n") && !svg.contains("\n9.2\n"));
        // One epoch alone.
        points.retain(|point| point.epoch == 9.0);
        let svg = training_curves(&points, "prune", "data: made").unwrap();
        assert!(svg.contains("\n9\n"), "{svg}");
    }

    #[test]
    fn diverged_epochs_and_missing_experiments() {
        let mut points = sample_curves();
        points.truncate(1);
        points[0].train_top1 = f64::NAN;
        assert!(
            training_curves(&points, "baseline", "data: made")
                .unwrap()
                .contains("no training curves")
        );
        assert!(
            training_curves(&[], "none", "data: made")
                .unwrap()
                .contains("no training curves")
        );
    }
}
