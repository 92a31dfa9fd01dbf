//! The loss against closed forms, finite differences and its own invariances.

use super::*;

/// Fixed logits that look random: `[rows, classes]`, about -3 to 3.
fn logits(rows: i64, classes: i64, phase: f64) -> Tensor {
    let n = rows * classes;
    let values: Vec<f64> = (0..n)
        .map(|i| 3.0 * ((i * i) as f64 * 0.37 + i as f64 * 1.3 + phase).sin())
        .collect();
    Tensor::from_slice(&values).view([rows, classes])
}

fn labels(rows: i64, classes: i64) -> Tensor {
    Tensor::arange(rows, (Kind::Int64, tch::Device::Cpu)).remainder(classes)
}

fn value(t: &Tensor) -> f64 {
    t.double_value(&[])
}

fn vec_of(t: &Tensor) -> Vec<f64> {
    Vec::try_from(t.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}

fn only_kd(temperature: f64) -> Kd {
    Kd {
        temperature,
        w_kd: 1.0,
        w_ce: 0.0,
        label_smoothing: 0.0,
    }
}

/// The definition, row by row in f64: KL(teacher ‖ student) averaged over rows.
fn slow_kl(student: &[Vec<f64>], teacher: &[Vec<f64>], t: f64) -> f64 {
    let log_p = |z: &[f64]| -> Vec<f64> {
        let top = z.iter().fold(f64::MIN, |a, &b| a.max(b));
        let lse = z.iter().map(|v| ((v - top) / t).exp()).sum::<f64>().ln();
        z.iter().map(|v| (v - top) / t - lse).collect()
    };
    let rows = student.iter().zip(teacher).map(|(s, teacher_row)| {
        let (ls, lt) = (log_p(s), log_p(teacher_row));
        lt.iter()
            .zip(&ls)
            .map(|(a, b)| a.exp() * (a - b))
            .sum::<f64>()
    });
    rows.sum::<f64>() / student.len() as f64
}

fn rows_of(t: &Tensor) -> Vec<Vec<f64>> {
    let classes = usize::try_from(t.size()[1]).unwrap();
    vec_of(t).chunks(classes).map(<[f64]>::to_vec).collect()
}

#[test]
fn a_student_that_is_its_teacher_has_loss_zero() {
    for kind in [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half] {
        let z = logits(16, 10, 0.2).to_kind(kind);
        for temperature in [0.5, 1.0, 4.0, 20.0] {
            let terms = kd_loss(&z, &z, &labels(16, 10), &only_kd(temperature)).unwrap();
            assert_eq!(value(&terms.kd), 0.0, "{kind:?}, {temperature}");
        }
    }
}

#[test]
fn the_value_is_the_mean_over_the_batch_of_the_divergence() {
    let (s, t) = (logits(7, 10, 0.1), logits(7, 10, 2.0));
    for temperature in [1.0, 4.0] {
        let kd = value(
            &kd_loss(&s, &t, &labels(7, 10), &only_kd(temperature))
                .unwrap()
                .kd,
        );
        let slow = temperature.powi(2) * slow_kl(&rows_of(&s), &rows_of(&t), temperature);
        // Both in f64 with 70 summands of about 1.
        assert!((kd - slow).abs() < 1e-12 * (1.0 + slow), "{kd} {slow}");
    }
    // The other direction is another number, so that the test above can tell.
    let swapped = slow_kl(&rows_of(&t), &rows_of(&s), 1.0);
    assert!((swapped - slow_kl(&rows_of(&s), &rows_of(&t), 1.0)).abs() > 0.1);
}

#[test]
fn duplicating_the_batch_changes_nothing() {
    let (s, t, y) = (logits(6, 5, 0.1), logits(6, 5, 2.0), labels(6, 5));
    let once = kd_loss(&s, &t, &y, &Kd::default()).unwrap();
    let twice = kd_loss(
        &Tensor::cat(&[&s, &s], 0),
        &Tensor::cat(&[&t, &t], 0),
        &Tensor::cat(&[&y, &y], 0),
        &Kd::default(),
    )
    .unwrap();
    for (a, b) in [
        (&once.total, &twice.total),
        (&once.ce, &twice.ce),
        (&once.kd, &twice.kd),
    ] {
        // f64: only the order of summation differs.
        assert!((value(a) - value(b)).abs() < 1e-13);
    }
}

fn gradient(s: &Tensor, t: &Tensor, settings: &Kd) -> Tensor {
    let s = s.detach().copy().set_requires_grad(true);
    let y = labels(s.size()[0], s.size()[1]);
    kd_loss(&s, t, &y, settings).unwrap().total.backward();
    s.grad()
}

#[test]
fn the_gradient_is_the_closed_form_and_the_finite_difference() {
    let (s, t) = (logits(4, 6, 0.1), logits(4, 6, 2.0));
    for temperature in [1.0, 3.0] {
        let settings = only_kd(temperature);
        let gradient = vec_of(&gradient(&s, &t, &settings));
        let p = |z: &Tensor| (z / temperature).softmax(1, Kind::Double);
        let closed = vec_of(&((p(&s) - p(&t)) * (temperature / 4.0)));
        let y = labels(4, 6);
        let h = 1e-5;
        for i in 0..24usize {
            assert!((gradient[i] - closed[i]).abs() < 1e-14);
            let moved = |by: f64| {
                let mut z = vec_of(&s);
                z[i] += by;
                let z = Tensor::from_slice(&z).view([4, 6]);
                value(&kd_loss(&z, &t, &y, &settings).unwrap().kd)
            };
            // Central differences: h² · third derivative (below 1) + 1e-16 · value / h.
            let difference = (moved(h) - moved(-h)) / (2.0 * h);
            assert!((gradient[i] - difference).abs() < 1e-9, "{i}");
        }
    }
}

#[test]
fn the_gradient_keeps_its_size_over_temperatures() {
    // Models that roughly agree, as a student in training does with its teacher.
    let t = logits(32, 10, 2.0) * 0.4;
    let s = &t + logits(32, 10, 0.7) * 0.2;
    let norms: Vec<f64> = [1.0, 2.0, 4.0, 10.0]
        .iter()
        .map(|&temperature| value(&gradient(&s, &t, &only_kd(temperature)).norm()))
        .collect();
    let (least, most) = norms
        .iter()
        .fold((f64::MAX, 0.0f64), |(a, b), &n| (a.min(n), b.max(n)));
    // Without T² the ratio is about 100.
    assert!(most / least < 1.1, "{norms:?}");
}

#[test]
fn the_hard_term_is_cross_entropy_at_temperature_one() {
    let (s, t, y) = (logits(5, 4, 0.3), logits(5, 4, 1.0), labels(5, 4));
    let expect = value(&s.log_softmax(1, Kind::Double).nll_loss(&y));
    for temperature in [1.0, 7.0] {
        let settings = Kd {
            temperature,
            ..Kd::default()
        };
        let terms = kd_loss(&s, &t, &y, &settings).unwrap();
        assert!((value(&terms.ce) - expect).abs() < 1e-14);
    }
    // Smoothing by e: (1 − e) of the label and e of the mean over classes.
    let settings = Kd {
        label_smoothing: 0.2,
        ..Kd::default()
    };
    let terms = kd_loss(&s, &t, &y, &settings).unwrap();
    let flat = -value(&s.log_softmax(1, Kind::Double).mean(None));
    assert!((value(&terms.ce) - (0.8 * expect + 0.2 * flat)).abs() < 1e-14);
}

#[test]
fn the_total_weighs_what_the_names_say() {
    let (s, t, y) = (logits(5, 4, 0.3), logits(5, 4, 1.0), labels(5, 4));
    let settings = Kd {
        w_kd: 2.0,
        w_ce: 0.25,
        ..Kd::default()
    };
    let terms = kd_loss(&s, &t, &y, &settings).unwrap();
    let expect = 2.0 * value(&terms.kd) + 0.25 * value(&terms.ce);
    assert!((value(&terms.total) - expect).abs() < 1e-14);
}

#[test]
fn the_textbook_form_is_the_divergence_plus_the_teachers_entropy() {
    let (s, t) = (logits(9, 10, 0.3), logits(9, 10, 1.0));
    for temperature in [1.0, 4.0] {
        let log_p = (&t / temperature).log_softmax(1, Kind::Double);
        let entropy = -value(&(log_p.exp() * &log_p).sum(None)) / 9.0;
        let cross = value(&teacher_cross_entropy(&s, &t, temperature).unwrap());
        let kl = value(&kl_divergence(&s, &t, temperature).unwrap());
        assert!((cross - (kl + entropy)).abs() < 1e-13);
        assert!(entropy > 0.1);
    }
}

#[test]
fn saturated_logits_stay_finite() {
    let s = Tensor::from_slice2(&[[200.0f32, -200.0, 0.0], [-200.0, 200.0, 200.0]]);
    let t = Tensor::from_slice2(&[[-200.0f32, 200.0, 0.0], [200.0, -200.0, -200.0]]);
    for temperature in [1.0, 4.0] {
        let settings = Kd {
            temperature,
            ..Kd::default()
        };
        let terms = kd_loss(&s, &t, &labels(2, 3), &settings).unwrap();
        assert!(value(&terms.total).is_finite());
        // KL = 400/T here, up to the logarithm of a few classes.
        let kl = value(&terms.kd) / temperature.powi(2);
        assert!((kl - 400.0 / temperature).abs() < 1.0, "{kl}");
        assert!(
            vec_of(&gradient(&s, &t, &settings))
                .iter()
                .all(|g| g.is_finite())
        );
        let cross = teacher_cross_entropy(&s, &t, temperature).unwrap();
        assert!(value(&cross).is_finite());
    }
}

#[test]
fn half_precision_logits_are_compared_in_single() {
    let (s, t, y) = (logits(16, 10, 0.1), logits(16, 10, 2.0), labels(16, 10));
    for kind in [Kind::BFloat16, Kind::Half] {
        let (s, t) = (s.to_kind(kind), t.to_kind(kind));
        let terms = kd_loss(&s, &t, &y, &Kd::default()).unwrap();
        assert_eq!(terms.total.kind(), Kind::Float);
        let (wide_s, wide_t) = (s.to_kind(Kind::Float), t.to_kind(Kind::Float));
        let wide = kd_loss(&wide_s, &wide_t, &y, &Kd::default()).unwrap();
        assert_eq!(value(&terms.total), value(&wide.total));
        // The gradient comes back in the student's type.
        assert_eq!(gradient(&s, &t, &Kd::default()).kind(), kind);
    }
    // A teacher's logits stored in half precision beside a student in single.
    let mixed = kd_loss(
        &s.to_kind(Kind::Float),
        &t.to_kind(Kind::Half),
        &y,
        &Kd::default(),
    );
    assert_eq!(mixed.unwrap().total.kind(), Kind::Float);
}

#[test]
fn no_gradient_reaches_the_teacher() {
    let s = logits(4, 5, 0.1).set_requires_grad(true);
    let t = logits(4, 5, 2.0).set_requires_grad(true);
    let terms = kd_loss(&s, &t, &labels(4, 5), &Kd::default()).unwrap();
    let cross = teacher_cross_entropy(&s, &t, 1.0).unwrap();
    (terms.total + cross).backward();
    assert!(s.grad().defined());
    assert!(!t.grad().defined());
}

#[test]
fn unusable_inputs_are_refused() {
    let (s, y) = (logits(4, 5, 0.1), labels(4, 5));
    let check = |s: &Tensor, t: &Tensor, y: &Tensor| kd_loss(s, t, y, &Kd::default());
    // Another number of classes, of rows, another rank, nothing.
    for t in [
        logits(4, 6, 0.0),
        logits(3, 5, 0.0),
        logits(4, 5, 0.0).view([20]),
    ] {
        assert!(matches!(
            check(&s, &t, &y),
            Err(DistillError::Shape {
                what: "teacher logits",
                ..
            })
        ));
        assert!(matches!(
            teacher_cross_entropy(&s, &t, 1.0),
            Err(DistillError::Shape { .. })
        ));
    }
    let flat = s.view([20]);
    assert!(matches!(
        check(&flat, &flat, &y),
        Err(DistillError::Shape { .. })
    ));
    let nothing = Tensor::zeros([0, 5], (Kind::Float, tch::Device::Cpu));
    assert!(matches!(
        check(&nothing, &nothing, &labels(0, 5)),
        Err(DistillError::Shape { .. })
    ));
    // Labels: too few, a column, of another type.
    for y in [labels(3, 5), y.view([4, 1])] {
        assert!(matches!(
            check(&s, &s, &y),
            Err(DistillError::Shape { what: "labels", .. })
        ));
    }
    let wrong = y.to_kind(Kind::Int);
    assert!(matches!(
        check(&s, &s, &wrong),
        Err(DistillError::ElementType { what: "labels", .. })
    ));
    let integers = s.to_kind(Kind::Int64);
    for (s, t) in [(&integers, &s), (&s, &integers)] {
        assert!(matches!(
            check(s, t, &y),
            Err(DistillError::ElementType { .. })
        ));
    }
    // A label that is no class, and the one that libtorch skips by default.
    for label in [5i64, -1, -100] {
        let y = Tensor::from_slice(&[0, 1, label, 2]);
        assert!(
            matches!(check(&s, &s, &y), Err(DistillError::Torch(_))),
            "{label}"
        );
    }
    let good = Kd::default();
    for (name, settings) in [
        (
            "temperature",
            Kd {
                temperature: 0.0,
                ..good
            },
        ),
        (
            "temperature",
            Kd {
                temperature: f64::NAN,
                ..good
            },
        ),
        ("w_kd", Kd { w_kd: -0.1, ..good }),
        (
            "w_ce",
            Kd {
                w_ce: f64::INFINITY,
                ..good
            },
        ),
        (
            "label_smoothing",
            Kd {
                label_smoothing: 1.0,
                ..good
            },
        ),
    ] {
        let error = kd_loss(&s, &s, &y, &settings).unwrap_err();
        assert!(matches!(error, DistillError::Setting { name: found, .. } if found == name));
    }
}
