//! The layers of each variant: a table per variant, beside its baseline's where channels were removed.

use minijinja::{Value, context};

use super::tables::{Cell, Column, column, missing, number, share, table, value, words};
use crate::words::{in_millions, in_thousands};
use crate::{Layer, LayerLine, SummaryRow};

const NORMALIZATION: &str = "BatchNormalization";

/// A layer beside the one of the baseline that it was made of.
#[derive(Debug)]
struct Compared<'a> {
    layer: &'a Layer,
    before: Option<&'a Layer>,
    /// Of the variant's layers.
    macs: u64,
    params: u64,
}

/// The tables for the template, one per row of the summary whose layers are known: those of its first seed.
pub(crate) fn layer_tables(rows: &[SummaryRow], lines: &[LayerLine]) -> Vec<Value> {
    let mut tables = Vec::new();
    for (place, row) in (1..).zip(rows) {
        if let Some(layers) = layers_of(row, lines) {
            let before = baseline_of(row, rows).and_then(|base| layers_of(base, lines));
            tables.push(layer_table(place, row, layers, before.unwrap_or(&[])));
        }
    }
    tables
}

/// The last line of the row's first seed counts.
fn layers_of<'a>(row: &SummaryRow, lines: &'a [LayerLine]) -> Option<&'a [Layer]> {
    let mut lines = lines.iter().rev();
    let line = lines.find(|line| {
        line.experiment == row.experiment
            && line.variant == row.variant
            && line.model == row.model
            && row.seeds.first() == Some(&line.seed)
    })?;
    Some(&line.layers)
}

/// The row that another is compared with: of its own experiment if that has one of this name.
fn baseline_of<'a>(row: &SummaryRow, rows: &'a [SummaryRow]) -> Option<&'a SummaryRow> {
    let name = row.baseline.as_ref()?;
    let named = || {
        rows.iter()
            .filter(|other| other.variant == *name && other.model == row.model)
    };
    let mut own = named().filter(|other| other.experiment == row.experiment);
    own.next().or_else(|| named().next())
}

fn layer_table(place: usize, row: &SummaryRow, layers: &[Layer], before: &[Layer]) -> Value {
    let macs = total(layers.iter().map(|layer| layer.macs));
    let params = total(layers.iter().map(|layer| layer.params));
    let find = |name: &str| before.iter().find(|other| other.name == name);
    let shown: Vec<Compared<'_>> = layers
        .iter()
        .filter(|layer| layer.op != NORMALIZATION)
        .map(|layer| Compared {
            layer,
            before: find(&layer.name),
            macs,
            params,
        })
        .collect();
    let differs = |c: &Compared<'_>| {
        c.before
            .is_some_and(|b| b.weight_shape != c.layer.weight_shape)
    };
    let reshaped = shown.iter().any(differs);
    let mut columns = columns();
    if reshaped {
        columns.splice(3..3, comparison());
    }
    let gone: Vec<&str> = before
        .iter()
        .filter(|old| old.op != NORMALIZATION)
        .filter(|old| !layers.iter().any(|layer| layer.name == old.name))
        .map(|old| old.name.as_str())
        .collect();
    let norms: Vec<&Layer> = layers.iter().filter(|l| l.op == NORMALIZATION).collect();
    let mut notes = Vec::new();
    if reshaped {
        let old: u64 = total(before.iter().map(|layer| layer.macs));
        notes.push(format!(
            "Channels were removed: {} M of the baseline's {} M MACs are left ({:.1} %).",
            in_millions(macs),
            in_millions(old),
            percent(macs, old),
        ));
    }
    if !gone.is_empty() {
        notes.push(format!(
            "Layers of the baseline that are gone: {}.",
            gone.join(", ")
        ));
    }
    if !norms.is_empty() {
        notes.push(format!(
            "Not listed: batch normalization, {} k parameters in {} places.",
            in_thousands(total(norms.iter().map(|layer| layer.params))),
            norms.len(),
        ));
    }
    let mut totals = vec![words("all layers")];
    totals.resize_with(columns.len(), Cell::default);
    for (column, total) in columns.iter().zip(&mut totals) {
        match column.name {
            "Params" => *total = number(in_thousands(params), params as f64),
            "MACs" => *total = number(in_millions(macs), macs as f64),
            _ => {}
        }
    }
    context! {
        number => place,
        variant => &row.variant,
        experiment => &row.experiment,
        about => about(&shown, macs, params),
        table => table(&columns, &shown),
        totals => totals.into_iter().map(value).collect::<Vec<_>>(),
        notes,
    }
}

fn about(shown: &[Compared<'_>], macs: u64, params: u64) -> String {
    let weights = |c: &Compared<'_>| {
        c.layer
            .weight_shape
            .iter()
            .map(|n| *n as f64)
            .product::<f64>()
    };
    let zeros: f64 = shown.iter().map(|c| weights(c) * c.layer.sparsity).sum();
    let all: f64 = shown.iter().map(weights).sum();
    let sparsity = 100.0 * zeros / all.max(1.0);
    let mut bits: Vec<u32> = shown.iter().map(|c| c.layer.weight_bits).collect();
    bits.sort_unstable();
    bits.dedup();
    let bits: Vec<String> = bits.into_iter().map(bit_words).collect();
    format!(
        "{} layers, {} k parameters, {} M MACs, {sparsity:.1} % of the weights zero, weights {}",
        shown.len(),
        in_thousands(params),
        in_millions(macs),
        bits.join(" and "),
    )
}

fn columns<'a>() -> Vec<Column<Compared<'a>>> {
    vec![
        column("Layer", "", "name", |c| words(&c.layer.name)),
        column("Operator", "", "", |c| words(&c.layer.op)),
        column("Weight", "shape", "", |c| shape(&c.layer.weight_shape)),
        column("Output", "shape", "", |c| shape(&c.layer.output_shape)),
        column("Params", "k", "n", |c| {
            number(in_thousands(c.layer.params), c.layer.params as f64)
        }),
        column("Share", "% of params", "n", |c| {
            share(c.layer.params, c.params)
        }),
        column("MACs", "M / image", "n", |c| {
            number(in_millions(c.layer.macs), c.layer.macs as f64)
        }),
        column("Share", "% of MACs", "n", |c| share(c.layer.macs, c.macs)),
        column("Sparsity", "% zero", "n", |c| {
            let percent = 100.0 * c.layer.sparsity;
            number(format!("{percent:.1}"), percent)
        }),
        column("Bits", "W / A", "n", |c| {
            let (weight, activation) = (c.layer.weight_bits, c.layer.activation_bits);
            let key = f64::from(weight) * 100.0 + f64::from(activation);
            match (weight, activation) {
                (32, 32) => number("f32", key),
                _ => number(
                    format!("{} / {}", short_bits(weight), short_bits(activation)),
                    key,
                ),
            }
        }),
    ]
}

/// Where channels were removed.
fn comparison<'a>() -> Vec<Column<Compared<'a>>> {
    vec![
        column("Weight before", "shape", "", |c| match c.before {
            Some(before) if before.weight_shape == c.layer.weight_shape => words("the same"),
            Some(before) => shape(&before.weight_shape),
            None => words("–"),
        }),
        column("MACs left", "% of before", "n", |c| match c.before {
            Some(before) => share(c.layer.macs, before.macs),
            None => missing(),
        }),
    ]
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn shape(shape: &[usize]) -> Cell {
    let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
    words(sides.join("\u{2009}×\u{2009}"))
}

fn bit_words(bits: u32) -> String {
    match bits {
        32 => "f32".to_owned(),
        bits => format!("{bits} bits"),
    }
}

fn short_bits(bits: u32) -> String {
    match bits {
        32 => "f32".to_owned(),
        bits => bits.to_string(),
    }
}
/// A sum of counts that a file says, which may be anything.
fn total(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}
