//! Axes with ticks at round values, linear and in decimal logarithms.

/// One axis: its range in plot units and the ticks with their texts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) ticks: Vec<(f64, String)>,
}

/// An axis with ticks at round values and a little room beyond `low` and `high`.
pub(crate) fn linear_axis(low: f64, high: f64, words: impl Fn(f64) -> String) -> Axis {
    let room = ((high - low) * 0.06).max(0.01);
    let (low, high) = (low - room, high + room);
    let raw = (high - low) / 6.0;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= raw)
        .unwrap_or(raw);
    let mut ticks = Vec::new();
    let mut k = (low / step).ceil();
    while k * step <= high {
        ticks.push((k * step, words(k * step)));
        k += 1.0;
    }
    Axis { low, high, ticks }
}

/// An axis in decimal logarithms: ticks at 1, 2 and 5 times powers of ten, or at round values if the range is short.
pub(crate) fn log_axis(low: f64, high: f64, words: impl Fn(f64) -> String) -> Axis {
    let (low, high) = (low.log10() - 0.12, high.log10() + 0.12);
    let mut ticks = Vec::new();
    for factors in [&[1.0][..], &[1.0, 3.0], &[1.0, 2.0, 5.0]] {
        if ticks.len() >= 4 {
            break;
        }
        ticks.clear();
        let mut power = low.floor();
        while power <= high {
            let marks = factors.iter().map(|factor| factor * 10_f64.powf(power));
            ticks.extend(marks.filter(|mark| (low..=high).contains(&mark.log10())));
            power += 1.0;
        }
    }
    if ticks.len() < 3 {
        let linear = linear_axis(10_f64.powf(low), 10_f64.powf(high), |_| String::new());
        ticks = linear.ticks.iter().map(|(value, _)| *value).collect();
        ticks.retain(|mark| *mark > 0.0 && (low..=high).contains(&mark.log10()));
    }
    let ticks = ticks
        .into_iter()
        .map(|mark| (mark.log10(), words(mark)))
        .collect();
    Axis { low, high, ticks }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, words)| words.as_str()).collect()
    }

    #[test]
    fn ticks_are_round() {
        let plain = |value: f64| format!("{value}");
        let cases = [
            (linear_axis(80.0, 92.0, plain), vec!["80", "85", "90"]),
            (
                linear_axis(90.0, 90.0, |v| format!("{v:.3}")),
                vec!["89.990", "89.995", "90.000", "90.005", "90.010"],
            ),
            (
                log_axis(20.0, 2000.0, plain),
                vec!["30", "100", "300", "1000"],
            ),
            (
                log_axis(1.0, 1e5, plain),
                vec!["1", "10", "100", "1000", "10000", "100000"],
            ),
            (log_axis(40.0, 41.0, plain), vec!["35", "40", "45", "50"]),
        ];
        for (axis, expected) in cases {
            assert_eq!(texts(&axis), expected);
        }
    }
}
