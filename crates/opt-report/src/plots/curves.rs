//! Accuracy against epochs, a curve per variant.

use super::axis::linear_axis;
use super::canvas::{Entry, axes, curve, marker, page, place, shortened};
use crate::CurvePoint;

/// Curves in one plot; more could not be told apart.
const LIMIT: usize = 6;

/// What a variant went through: the points of its first seed by epoch.
type Curve<'a> = Vec<&'a CurvePoint>;

/// Draws the training curves of one experiment: the first seed of its variants, at most six in a plot, as many plots as
/// that takes.
///
/// Shows accuracy on the augmented training images. Variants that were trained for a single epoch have no curve and are not
/// drawn: see [`single_epochs`].
///
/// `data` names the data set below the title.
pub fn training_curves(points: &[CurvePoint], experiment: &str, data: &str) -> Vec<String> {
    let mut curves = by_variant(points, experiment);
    curves.retain(|curve| curve.len() > 1);
    curves
        .chunks(LIMIT)
        .map(|curves| draw(curves, data))
        .collect()
}

/// The only epochs of those variants of an experiment that were trained for a single one, first seed.
pub fn single_epochs<'a>(points: &'a [CurvePoint], experiment: &str) -> Vec<&'a CurvePoint> {
    let curves = by_variant(points, experiment);
    let single = curves.into_iter().filter(|curve| curve.len() == 1);
    single.map(|curve| curve[0]).collect()
}

/// What tells the curves of an experiment apart: two networks may have variants of the same name.
fn name(point: &CurvePoint) -> (&str, &str) {
    (&point.variant, &point.model)
}

fn by_variant<'a>(points: &'a [CurvePoint], experiment: &str) -> Vec<Curve<'a>> {
    let mut curves: Vec<Curve<'_>> = Vec::new();
    for point in points.iter().filter(|point| point.experiment == experiment) {
        match curves
            .iter_mut()
            .find(|curve| name(curve[0]) == name(point))
        {
            Some(curve) if curve[0].seed != point.seed => {}
            Some(curve) => match curve.iter_mut().find(|other| other.epoch == point.epoch) {
                Some(other) => *other = point,
                None => curve.push(point),
            },
            None => curves.push(vec![point]),
        }
    }
    for curve in &mut curves {
        curve.sort_by(|a, b| a.epoch.total_cmp(&b.epoch));
    }
    curves
}

fn draw(curves: &[Curve<'_>], data: &str) -> String {
    let accuracy = |point: &CurvePoint| point.train_top1;
    let all: Curve<'_> = curves.iter().flatten().copied().collect();
    let fold = |value: fn(f64, f64) -> f64, from: f64, of: &dyn Fn(&CurvePoint) -> f64| {
        all.iter().map(|point| of(point)).fold(from, value)
    };
    let epoch = |point: &CurvePoint| point.epoch;
    let (first, last) = (
        fold(f64::min, f64::INFINITY, &epoch),
        fold(f64::max, f64::NEG_INFINITY, &epoch),
    );
    let room = if last - first < 1.0 { 0.5 } else { 0.0 };
    let mut x = linear_axis(first - room, last + room, short);
    if x.ticks.iter().any(|(epoch, _)| is_whole(*epoch)) {
        x.ticks.retain(|(epoch, _)| is_whole(*epoch));
    }
    let y = linear_axis(
        fold(f64::min, f64::INFINITY, &accuracy),
        fold(f64::max, 0.0, &accuracy),
        short,
    );
    let legend: Vec<Entry> = curves
        .iter()
        .enumerate()
        .map(|(kind, curve)| {
            let (variant, model) = name(curve[0]);
            let alike = curves
                .iter()
                .flat_map(|other| other.first())
                .filter(|other| other.variant == variant);
            let words = match alike.count() {
                1 => variant.to_owned(),
                _ => format!("{variant} ({model})"),
            };
            Entry::Marker(kind, shortened(&words, 60))
        })
        .collect();
    let title = "top-1 accuracy on augmented training images (%)";
    page(data, &legend, |area| {
        axes(area, &x, &y, "epochs of training", title);
        for (kind, points) in curves.iter().enumerate() {
            let at: Vec<(i32, i32)> = points
                .iter()
                .map(|point| place(&x, &y, point.epoch, accuracy(point)))
                .collect();
            curve(area, kind, &at);
            for &at in at.iter().step_by(at.len().div_ceil(12).max(1)) {
                marker(area, kind, at);
            }
        }
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
    use crate::sample::sample_curves;

    fn only(points: &[CurvePoint], experiment: &str) -> String {
        let mut plots = training_curves(points, experiment, "data: made");
        assert_eq!(plots.len(), 1);
        plots.remove(0)
    }

    #[test]
    fn a_curve_per_variant_of_the_experiment() {
        let svg = only(&sample_curves(), "baseline");
        assert!(svg.contains(">resnet20<") && svg.contains("augmented training images"));
        assert!(!svg.contains("iterative"));
        assert_eq!(svg, only(&sample_curves(), "baseline"));
    }

    #[test]
    fn many_variants_share_several_plots() {
        let mut points = Vec::new();
        for i in 0..8 {
            for point in &sample_curves()[..2] {
                let variant = format!("variant {i}");
                points.push(CurvePoint {
                    variant,
                    ..point.clone()
                });
            }
        }
        let plots = training_curves(&points, "baseline", "data: made");
        let n_curves: Vec<usize> = plots
            .iter()
            .map(|svg| svg.matches(">variant").count())
            .collect();
        assert_eq!(n_curves, [6, 2]);
    }

    #[test]
    fn the_axis_of_epochs_begins_where_training_begins_and_has_whole_ticks() {
        let mut points = sample_curves();
        points.retain(|point| point.experiment == "prune" && point.epoch >= 9.0);
        let svg = only(&points, "prune");
        assert!(svg.contains(">9<") && svg.contains(">10<"), "{svg}");
        assert!(!svg.contains(">5<") && !svg.contains(">9.2<"));
    }

    #[test]
    fn a_single_epoch_is_no_curve() {
        let mut points = sample_curves();
        points.retain(|point| point.experiment == "prune" && point.epoch == 9.0);
        assert!(training_curves(&points, "prune", "data: made").is_empty());
        let single = single_epochs(&points, "prune");
        assert_eq!(single.len(), 2);
        assert_eq!(single[0].variant, "one-shot 90 %");
        assert!(single_epochs(&sample_curves(), "prune").is_empty());
    }

    #[test]
    fn an_experiment_that_trained_nothing_has_no_curves() {
        assert!(training_curves(&[], "none", "data: made").is_empty());
    }

    #[test]
    fn variants_of_two_networks_with_one_name_are_two_curves() {
        let mut points = sample_curves();
        points.retain(|point| point.variant == "iterative 80 %");
        let mut others = points.clone();
        for point in &mut others {
            point.model = "source_net".to_owned();
            point.train_top1 -= 20.0;
        }
        points.extend(others);
        let svg = only(&points, "prune");
        for words in [
            ">iterative 80 % (resnet20)<",
            ">iterative 80 % (source_net)<",
        ] {
            assert!(svg.contains(words), "{svg}");
        }
    }
}
