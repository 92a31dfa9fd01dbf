//! `report.html`: one file that opens offline, with and without scripts, on a screen and on a phone.

use anyhow::{Context, Result};
use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::Plot;
use super::words::{
    accuracy, bits, conditions, difference, grounds, headline, how_picked, in_millions,
    in_thousands, left_out, legend, moment, plain, policies, seconds, times,
};
use crate::plots::{ink, pareto_front};
use crate::results::{ResultLine, RunInfo, SummaryRow, Verdict, grouped, notice, summarize};

const TEMPLATE: &str = include_str!("../../templates/report.html");

/// One cell of a table: its text and what it is sorted by.
#[derive(Debug)]
struct Cell {
    text: String,
    /// A number to sort by; empty for cells that sort by their text.
    key: String,
    class: &'static str,
    hint: String,
}

#[derive(Debug)]
struct Column {
    name: &'static str,
    unit: &'static str,
    class: &'static str,
}

/// Writes the report as one self-contained HTML file.
///
/// # Errors
///
/// The template fails, which would be a bug in it.
pub fn html(run: &RunInfo, lines: &[ResultLine], plots: &[Plot]) -> Result<String> {
    let rows = summarize(lines).rows;
    let points: Vec<(f64, f64)> = rows
        .iter()
        .map(|row| match row.bytes {
            0 => (f64::NAN, row.top1.mean),
            bytes => (bytes as f64, row.top1.mean),
        })
        .collect();
    let front = pareto_front(&points);
    let policies = policies(&rows);
    let main: Vec<Vec<Cell>> = rows
        .iter()
        .enumerate()
        .map(|(i, row)| main_row(row, front.contains(&i), &policies))
        .collect();
    let runs: Vec<Vec<Cell>> = grouped(lines).into_iter().flatten().map(run_row).collect();
    let headlines: Vec<_> = headline(&rows)
        .into_iter()
        .map(|line| context! { loss => line.loss, gain => line.gain, detail => line.detail })
        .collect();
    let plots: Vec<_> = plots
        .iter()
        .map(|plot| context! { caption => &plot.caption, svg => inline(&plot.svg, &plot.caption) })
        .collect();
    let recipes: Vec<_> = run
        .recipes
        .iter()
        .map(|recipe| context! { name => &recipe.name, text => &recipe.text })
        .collect();
    let conditions: Vec<_> = conditions(run)
        .into_iter()
        .map(|(term, value)| context! { term, value })
        .collect();

    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
        .add_template("report.html", TEMPLATE)
        .context("reading the template of the report")?;
    environment
        .get_template("report.html")
        .and_then(|template| {
            template.render(context! {
                dataset => &run.dataset.name,
                profile => &run.profile,
                started => moment(&run.started),
                finished => run.finished.is_some(),
                notice => notice(&run.dataset),
                headlines,
                how_picked => how_picked(&rows),
                legend => legend(&rows),
                findings => &run.notes,
                columns => heads(&COLUMNS),
                rows => values(main),
                plots,
                conditions,
                left_out => left_out(run),
                recipes,
                run_columns => heads(&RUN_COLUMNS),
                runs => values(runs),
            })
        })
        .context("filling the template of the report")
}

fn heads(columns: &[Column]) -> Vec<Value> {
    columns
        .iter()
        .map(|column| context! { name => column.name, unit => column.unit, class => column.class })
        .collect()
}

fn values(rows: Vec<Vec<Cell>>) -> Vec<Vec<Value>> {
    let value = |cell: Cell| {
        context! { text => cell.text, key => cell.key, class => cell.class, hint => cell.hint }
    };
    rows.into_iter()
        .map(|row| row.into_iter().map(value).collect())
        .collect()
}

const COLUMNS: [Column; 14] = [
    column("Experiment", "", ""),
    column("Variant", "", ""),
    column("Top-1", "%", "n"),
    column("Δ", "points", "n"),
    column("Size", "kB", "n"),
    column("Smaller", "×", "n"),
    column("Params", "k", "n"),
    column("Non-zero", "k", "n"),
    column("MACs", "M / image", "n"),
    column("Bits", "W / A", "n"),
    column("Layers", "", "n"),
    column("Network", "", ""),
    column("Epochs", "", "n"),
    column("Time", "s", "n"),
];

const RUN_COLUMNS: [Column; 11] = [
    column("Experiment", "", ""),
    column("Variant", "", ""),
    column("Seed", "", "n"),
    column("Top-1", "%", "n"),
    column("Baseline", "%", "n"),
    column("Agreement", "%", "n"),
    column("Time", "s", "n"),
    column("Epochs", "", ""),
    column("Trained in", "", ""),
    column("Accuracy computed in", "", ""),
    column("File", "", ""),
];

const fn column(name: &'static str, unit: &'static str, class: &'static str) -> Column {
    Column { name, unit, class }
}

fn words(text: &str) -> Cell {
    Cell {
        text: text.to_owned(),
        key: String::new(),
        class: "",
        hint: String::new(),
    }
}

fn number(text: String, key: f64) -> Cell {
    Cell {
        text,
        key: format!("{key}"),
        class: "n",
        hint: String::new(),
    }
}

fn main_row(row: &SummaryRow, on_front: bool, policies: &[&str]) -> Vec<Cell> {
    let mut variant = words(&row.variant);
    if on_front {
        variant.text.push_str("\u{a0}◆");
        variant.hint = "no other variant is both smaller and more accurate".to_owned();
    }
    let mut top1 = number(accuracy(row), row.top1.mean);
    if row.n > 1 {
        let (min, max) = (row.top1.min, row.top1.max);
        top1.hint = format!("{} seeds, {min:.2} to {max:.2}", row.n);
    }
    let mut delta = number(difference(row), row.delta.mean);
    delta.class = match row.judgement.map(|judgement| judgement.verdict) {
        None | Some(Verdict::Unresolved) => "n quiet",
        Some(Verdict::Worse) => "n worse",
        Some(Verdict::Better) => "n better",
    };
    if let Some(baseline) = &row.baseline {
        let top1 = row.top1_baseline;
        delta.hint = format!("against {baseline} with {top1:.2} %; {}", grounds(row));
    }
    let mut width = number(
        bits(row, policies),
        f64::from(row.weight_bits) * 100.0 + f64::from(row.activation_bits),
    );
    width.hint = match row.policy.as_str() {
        "" => row.precision.clone(),
        policy => format!("{policy}; accuracy in {}", row.precision),
    };
    let mut epochs = number(plain(row.epochs), row.epochs);
    epochs.hint.clone_from(&row.epochs_of);
    vec![
        words(&row.experiment),
        variant,
        top1,
        delta,
        number(in_thousands(row.bytes), row.bytes as f64),
        number(times(row.bytes_ratio), row.bytes_ratio.unwrap_or(0.0)),
        number(in_thousands(row.params), row.params as f64),
        number(in_thousands(row.nonzero), row.nonzero as f64),
        number(in_millions(row.macs), row.macs as f64),
        width,
        number(row.layers.to_string(), f64::from(row.layers)),
        words(&row.model),
        epochs,
        number(seconds(row.seconds), row.seconds),
    ]
}

fn run_row(line: &ResultLine) -> Vec<Cell> {
    let percent = |value: f64| number(format!("{value:.2}"), value);
    vec![
        words(&line.experiment),
        words(&line.variant),
        number(line.seed.to_string(), line.seed as f64),
        percent(line.top1),
        percent(line.top1_baseline),
        line.agreement
            .map_or_else(|| number("–".to_owned(), 0.0), percent),
        number(seconds(line.seconds), line.seconds),
        words(&match line.epochs_of.as_str() {
            "" => plain(line.epochs),
            of => format!("{} = {of}", plain(line.epochs)),
        }),
        words(match line.train_precision.as_str() {
            "" => "–",
            precision => precision,
        }),
        words(&line.precision),
        words(&line.file),
    ]
}

/// An SVG file as a part of a page: as wide as its place, on the page's background, in the page's text colour.
fn inline(svg: &str, caption: &str) -> String {
    let caption = minijinja::HtmlEscape(caption);
    let (Some(start), Some(view)) = (svg.find("<svg"), svg.find("viewBox=")) else {
        return svg.to_owned();
    };
    let view_end = svg[view + 9..]
        .find('"')
        .map_or(svg.len(), |i| view + 10 + i);
    let Some(head_end) = svg[start..].find('>').map(|i| start + i) else {
        return svg.to_owned();
    };
    let mut body = &svg[head_end + 1..];
    // The first element is the white background of the file.
    if let Some(rest) = body.trim_start().strip_prefix("<rect")
        && let Some(end) = rest.find("/>")
    {
        body = &rest[end + 2..];
    }
    let view = &svg[view..view_end];
    format!("<svg {view} width=\"100%\" role=\"img\" aria-label=\"{caption}\">{body}")
        .replace(&ink(), "currentColor")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plots;
    use crate::report::sample::{sample_curves, sample_lines, sample_run};
    use crate::results::DataSource;

    fn page(run: &RunInfo, lines: &[ResultLine]) -> String {
        let plots = plots(&run.dataset, lines, &sample_curves()).unwrap();
        html(run, lines, &plots).unwrap()
    }

    #[test]
    fn the_page_holds_every_row_and_its_numbers() {
        let html = page(&sample_run(), &sample_lines());
        let table = html.split("id=\"results\"").nth(1).unwrap();
        let table = &table[..table.find("</table>").unwrap()];
        assert_eq!(table.matches("<tr>").count(), 12 + 1);
        for words in [
            "6.17× smaller",
            "channels + W8A8\u{a0}◆",
            "91.70 ± 0.14",
            "−6.80 ▼~",
            "−17.70 ▼",
            "40.55",
            "8 &#x2f; 8",
            "4* &#x2f; 8",
            "* after bits: first and last layer 8 bits",
            "unofficial data",
            "~ one seed",
            "<h2>Findings</h2>",
            "magnitude ranks weights worse",
            "re-encoded as JPEG",
            "with uncommitted changes",
            "source_net, 10 epochs a phase",
        ] {
            assert!(html.contains(words), "{words}");
        }
        assert_eq!(html.matches("<svg").count(), 4);
    }

    #[test]
    fn the_page_needs_no_network() {
        let html = page(&sample_run(), &sample_lines());
        for words in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!html.contains(words), "{words}");
        }
    }

    #[test]
    fn text_is_escaped() {
        let mut lines = sample_lines();
        lines[4].variant = "<b>bold</b>".to_owned();
        let mut run = sample_run();
        run.dataset.notice = Some("<script>alert(1)</script>".to_owned());
        run.recipes[0].text = "</pre><i>".to_owned();
        let html = page(&run, &lines);
        assert!(html.contains("&lt;b&gt;bold"));
        for words in ["<b>bold", "<script>alert", "</pre><i>"] {
            assert!(!html.contains(words), "{words}");
        }
    }

    #[test]
    fn synthetic_data_is_said_even_without_a_notice() {
        let mut run = sample_run();
        run.dataset.source = DataSource::Synthetic;
        run.dataset.notice = None;
        let html = page(&run, &sample_lines());
        assert!(html.contains("synthetic data") && html.contains("nothing about real images"));
        run.dataset.source = DataSource::Official;
        assert!(!page(&run, &sample_lines()).contains("class=\"notice\""));
    }

    #[test]
    fn plots_take_the_colours_and_the_width_of_the_page() {
        let html = page(&sample_run(), &sample_lines());
        assert!(html.contains("fill=\"currentColor\"") && !html.contains(&ink()));
        assert!(html.contains("<svg viewBox=\"0 0 640 "));
        assert!(!html.contains("fill=\"#FFFFFF\""));
    }
}
