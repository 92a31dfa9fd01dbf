//! The tables of variants and runs: what stands in each column, and what it is sorted by.

use minijinja::{Value, context};
use opt_stats::{SignificanceTest, Verdict};

use crate::contests::Contender;
use crate::ranking::Front;
use crate::words::{
    accuracy, bits, difference, difference_to_original, grounds, in_millions, in_thousands,
    interval, interval_of, latency, p_value, plain, seconds, times, won_and_lost,
};
use crate::{ResultLine, Runs, SummaryRow};

/// One cell of a table.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    text: String,
    /// A second line in small letters.
    small: String,
    /// A number to sort by; empty for cells that sort by their text, and for numbers that are missing.
    key: String,
    class: &'static str,
    hint: String,
    /// A percentage to draw as a bar.
    bar: Option<f64>,
}

/// One column: its head, and its cell for a `T`.
pub(crate) struct Column<T> {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// `n` for numbers.
    pub(crate) class: &'static str,
    pub(crate) cell: fn(&T) -> Cell,
}

/// The head and the rows of a table for the template.
pub(crate) fn table<'a, T: 'a>(
    columns: &[Column<T>],
    rows: impl IntoIterator<Item = &'a T>,
) -> Value {
    let heads: Vec<Value> = columns
        .iter()
        .map(|column| context! { name => column.name, unit => column.unit, class => column.class })
        .collect();
    let rows: Vec<Vec<Value>> = rows
        .into_iter()
        .map(|row| columns.iter().map(|c| value((c.cell)(row))).collect())
        .collect();
    context! { heads, rows }
}

pub(crate) fn value(cell: Cell) -> Value {
    context! {
        text => cell.text, small => cell.small, key => cell.key, class => cell.class, hint => cell.hint,
        bar => cell.bar.map(|bar| format!("{bar:.1}")),
    }
}

pub(crate) fn words(text: impl Into<String>) -> Cell {
    Cell {
        text: text.into(),
        ..Cell::default()
    }
}

pub(crate) fn number(text: impl Into<String>, key: f64) -> Cell {
    Cell {
        text: text.into(),
        key: if key.is_finite() {
            key.to_string()
        } else {
            String::new()
        },
        class: "n",
        ..Cell::default()
    }
}

/// A number that is not known: sorted behind all others.
pub(crate) fn missing() -> Cell {
    number("–", f64::NAN)
}

/// A share in percent with its bar.
pub(crate) fn share(part: u64, whole: u64) -> Cell {
    let percent = 100.0 * part as f64 / whole.max(1) as f64;
    Cell {
        bar: Some(percent),
        ..number(format!("{percent:.1}"), percent)
    }
}

impl Cell {
    pub(crate) fn with_small(self, small: impl Into<String>) -> Self {
        Self {
            small: small.into(),
            ..self
        }
    }

    fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: hint.into(),
            ..self
        }
    }

    fn with_class(self, class: &'static str) -> Self {
        Self { class, ..self }
    }
}

/// A row of the summary with what only the whole table knows.
#[derive(Debug)]
pub(crate) struct Ranked<'a> {
    /// Its place in the summary, from 1: its number in plots.
    pub(crate) number: usize,
    pub(crate) row: &'a SummaryRow,
    pub(crate) front: Front,
    pub(crate) policies: &'a [&'a str],
}

/// A column of a table of `T`.
pub(crate) const fn column<T>(
    name: &'static str,
    unit: &'static str,
    class: &'static str,
    cell: fn(&T) -> Cell,
) -> Column<T> {
    Column {
        name,
        unit,
        class,
        cell,
    }
}

/// The table that opens the report; few columns, so that a phone shows them all.
pub(crate) fn lead_columns<'a>() -> Vec<Column<Ranked<'a>>> {
    vec![
        column("Variant", "", "name", |r| {
            let stored = match r.row.runs() {
                Runs::Nowhere => "stored form",
                Runs::InEngine | Runs::InFloat => "",
            };
            let front = r.front.words().replace("◆ ", "◆\u{a0}");
            let about = [r.row.experiment.as_str(), &front, stored];
            let about: Vec<&str> = about.into_iter().filter(|w| !w.is_empty()).collect();
            words(&r.row.variant).with_small(about.join(" · "))
        }),
        column("Smaller", "kB", "n", |r| {
            let from = r.row.bytes_baseline.map(in_thousands);
            let from = from.map(|from| format!(" of {from}")).unwrap_or_default();
            ratio(r.row.bytes_ratio).with_small(format!("{}{from}", in_thousands(r.row.bytes)))
        }),
        column("Δ original", "points", "n", to_original),
        column("Top-1", "%", "n", |r| {
            let original = r.row.original.as_ref().map(|o| o.variant.as_str());
            let control = r
                .row
                .baseline
                .as_deref()
                .filter(|_| r.row.baseline.as_deref() != original);
            top1(r).with_small(match control {
                Some(_) => format!("control {:.2}", r.row.top1_baseline),
                None => String::new(),
            })
        }),
        column("Fewer MACs", "M / image", "n", |r| {
            ratio(r.row.macs_ratio).with_small(in_millions(r.row.macs))
        }),
    ]
}

/// The table of all variants.
pub(crate) fn columns<'a>() -> Vec<Column<Ranked<'a>>> {
    vec![
        column("No.", "", "n", |r| {
            number(r.number.to_string(), r.number as f64)
        }),
        column("Variant", "", "name", |r| {
            words(&r.row.variant).with_small(&r.row.model)
        }),
        column("Experiment", "", "", |r| {
            let against = r.row.baseline.as_ref();
            words(&r.row.experiment)
                .with_small(against.map_or_else(String::new, |name| format!("against {name}")))
        }),
        column("Top-1", "%", "n", |r| {
            let std = r.row.top1.std.map(|std| format!("± {std:.2}"));
            let mean = format!("{:.2}", r.row.top1.mean);
            Cell {
                text: mean,
                ..top1(r)
            }
            .with_small(std.unwrap_or_default())
        }),
        column("Δ original", "points", "n", to_original),
        column("Δ", "points", "n", |r| {
            delta(r).with_small(interval_of(r.row))
        }),
        column("Won : lost", "images", "n", |r| {
            let counts = r.row.significance.as_ref().and_then(|j| j.discordant);
            let net = counts.map(|c| c.only_variant as f64 - c.only_baseline as f64);
            let p = r
                .row
                .significance
                .map(|j| format!("p {}", p_value(j.p_value)));
            number(
                won_and_lost(r.row.significance.as_ref()),
                net.unwrap_or(f64::NAN),
            )
            .with_small(p.unwrap_or_default())
        }),
        column("Size", "kB", "n", |r| {
            count(r.row.bytes, in_thousands).with_small(on_front(r.front.size))
        }),
        column("Smaller", "times", "n", |r| ratio(r.row.bytes_ratio)),
        column("Non-zero", "k", "n", |r| {
            count(r.row.nonzero, in_thousands)
                .with_small(format!("of {}", in_thousands(r.row.params)))
        }),
        column("MACs", "M / image", "n", |r| {
            count(r.row.macs, in_millions).with_small(on_front(r.front.macs))
        }),
        column("Latency", "ms / image", "n", |r| {
            let ms = r.row.latency_ms;
            ms.map_or_else(missing, |ms| number(latency(r.row), ms))
        }),
        column("Bits", "W / A", "n", width),
        column("Epochs", "", "n", |r| {
            number(plain(r.row.epochs), r.row.epochs).with_hint(&r.row.epochs_of)
        }),
    ]
}

fn on_front(is_on_it: bool) -> &'static str {
    if is_on_it { "◆ front" } else { "" }
}

fn count(value: u64, words: fn(u64) -> String) -> Cell {
    number(words(value), value as f64)
}

fn ratio(ratio: Option<f64>) -> Cell {
    ratio.map_or_else(missing, |value| number(times(ratio), value))
}

fn top1(ranked: &Ranked<'_>) -> Cell {
    let row = ranked.row;
    let cell = number(accuracy(row), row.top1.mean);
    match row.n {
        0 | 1 => cell,
        n => cell.with_hint(format!(
            "{n} seeds, {:.2} to {:.2}",
            row.top1.min, row.top1.max
        )),
    }
}

fn delta(ranked: &Ranked<'_>) -> Cell {
    let row = ranked.row;
    let (Some(baseline), Some(significance)) = (&row.baseline, &row.significance) else {
        return number(difference(row), f64::NAN).with_class("n quiet");
    };
    judged(difference(row), row.delta.mean, significance).with_hint(format!(
        "against {baseline} with {:.2} %; {}",
        row.top1_baseline,
        grounds(significance)
    ))
}

fn to_original(ranked: &Ranked<'_>) -> Cell {
    let words = difference_to_original(ranked.row);
    let Some(original) = &ranked.row.original else {
        return number(words, f64::NAN).with_class("n quiet");
    };
    let significance = &original.significance;
    judged(words, original.delta.mean, significance)
        .with_small(interval(significance.interval))
        .with_hint(format!(
            "against {} with {:.2} %; {}",
            original.variant,
            original.top1,
            grounds(significance)
        ))
}

/// A difference in the colour of its verdict.
pub(crate) fn judged(words: String, difference: f64, significance: &SignificanceTest) -> Cell {
    number(words, difference).with_class(match significance.verdict {
        Verdict::Unresolved => "n quiet",
        Verdict::Worse => "n worse",
        Verdict::Better => "n better",
    })
}

fn width(ranked: &Ranked<'_>) -> Cell {
    let row = ranked.row;
    let key = f64::from(row.weight_bits) * 100.0 + f64::from(row.activation_bits);
    number(bits(row, ranked.policies), key).with_hint(match row.policy.as_str() {
        "" => row.precision.clone(),
        policy => format!("{policy}; accuracy in {}", row.precision),
    })
}

/// The table of methods against each other.
pub(crate) fn contest_columns<'a>() -> Vec<Column<Contender<'a>>> {
    vec![
        column("Cost the same", "", "name", |c| words(&c.alike)),
        column("No.", "", "n", |c| {
            number(c.number.to_string(), c.number as f64)
        }),
        column("Variant", "", "", |c| {
            words(&c.row.variant).with_small(format!("epochs: {}", c.row.epochs_of))
        }),
        column("Top-1", "%", "n", |c| {
            number(accuracy(c.row), c.row.top1.mean)
        }),
        column("Δ to the best", "points", "n", |c| match c.to_best {
            Some((difference, significance)) => judged(c.difference(), difference, significance)
                .with_small(c.interval())
                .with_hint(grounds(significance)),
            None => number(c.difference(), f64::NAN).with_class("n quiet"),
        }),
        column("Won : lost", "images", "n", |c| {
            let counts = c
                .to_best
                .and_then(|(_, significance)| significance.discordant);
            let net = counts.map(|c| c.only_variant as f64 - c.only_baseline as f64);
            number(c.won_and_lost(), net.unwrap_or(f64::NAN)).with_small(c.p())
        }),
    ]
}

/// The table of single runs.
pub(crate) fn run_columns<'a>() -> Vec<Column<&'a ResultLine>> {
    vec![
        column("Variant", "", "name", |l| words(&l.variant)),
        column("Experiment", "", "", |l| words(&l.experiment)),
        column("Seed", "", "n", |l| {
            number(l.seed.to_string(), l.seed as f64)
        }),
        column("Top-1", "%", "n", |l| percent(l.top1)),
        column("Baseline", "%", "n", |l| percent(l.top1_baseline)),
        column("Agreement", "%", "n", |l| {
            l.agreement.map_or_else(missing, percent)
        }),
        column("Time", "s", "n", |l| number(seconds(l.seconds), l.seconds)),
        column("Epochs", "", "n", |l| number(plain(l.epochs), l.epochs)),
        column("Which were", "", "", |l| words(&l.epochs_of)),
        column("Trained in", "", "", |l| {
            words(match l.train_precision.as_str() {
                "" => "–",
                precision => precision,
            })
        }),
        column("Accuracy computed in", "", "", |l| words(&l.precision)),
        column("File", "", "", |l| words(&l.file)),
    ]
}

fn percent(value: f64) -> Cell {
    number(format!("{value:.2}"), value)
}
