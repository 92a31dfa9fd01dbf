//! `report.html`: one file that opens offline, with and without scripts, on a screen and on a phone.

mod layers;
mod tables;

use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::contests::{ABOUT, contenders, teachers};
use crate::figures::{Figure, experiments};
use crate::plots::{INK, single_epochs};
use crate::ranking::{fronts, leaders};
use crate::summary::grouped;
use crate::words::{conditions, headline, how_picked, left_out, legend, moment, plain, policies};
use crate::{CurvePoint, LayerLine, Result, ResultLine, RunInfo, Summary, notices};
use layers::layer_tables;
use tables::{Ranked, columns, contest_columns, lead_columns, run_columns, table};

const TEMPLATE: &str = include_str!("../templates/report.html");
const STYLE: &str = include_str!("../templates/report.css");
const SCRIPT: &str = include_str!("../templates/report.js");

/// Writes the report as one self-contained HTML file.
///
/// # Errors
///
/// The template fails, which would be a bug in it.
pub fn html(
    run: &RunInfo,
    lines: &[ResultLine],
    summary: &Summary,
    curves: &[CurvePoint],
    layers: &[LayerLine],
    plots: &[Figure],
) -> Result<String> {
    let rows = &summary.rows;
    let (fronts, policies) = (fronts(rows), policies(rows));
    let ranked: Vec<Ranked<'_>> = rows
        .iter()
        .zip(&fronts)
        .enumerate()
        .map(|(i, (row, &front))| Ranked {
            number: i + 1,
            row,
            front,
            policies: &policies,
        })
        .collect();
    let leaders = leaders(rows, &fronts);
    let runs: Vec<&ResultLine> = grouped(lines).into_iter().flatten().collect();
    let headlines: Vec<_> = headline(rows)
        .into_iter()
        .map(|line| context! { loss => line.loss, gain => line.gain, detail => line.detail })
        .collect();
    let (training, costs): (Vec<&Figure>, Vec<&Figure>) =
        plots.iter().partition(|plot| plot.training);
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
    environment.add_template("report.html", TEMPLATE)?;
    let page = environment
        .get_template("report.html")
        .and_then(|template| {
            template.render(context! {
                style => STYLE,
                script => SCRIPT,
                dataset => &run.dataset.name,
                profile => &run.profile,
                started => moment(&run.started),
                finished => run.finished.is_some(),
                notices => notices(run),
                headlines,
                how_picked => how_picked(rows),
                lead => table(&lead_columns(), leaders.iter().map(|&i| &ranked[i])),
                n_leaders => leaders.len(),
                n_rows => rows.len(),
                legend => legend(rows),
                contests_about => ABOUT,
                n_contests => summary.comparisons.len(),
                contests => table(&contest_columns(), &contenders(summary)),
                teachers => teachers(summary),
                findings => &run.notes,
                results => table(&columns(), &ranked),
                costs => figures(&costs),
                training => figures(&training),
                single_epochs => single_epoch_sentences(curves),
                layers => layer_tables(rows, layers),
                conditions,
                left_out => left_out(run),
                recipes,
                runs => table(&run_columns(), &runs),
            })
        })?;
    Ok(page)
}

fn figures(plots: &[&Figure]) -> Vec<Value> {
    let figure = |plot: &&Figure| {
        context! {
            name => &plot.name, caption => &plot.caption, svg => inline(&plot.svg, &plot.caption),
        }
    };
    plots.iter().map(figure).collect()
}

/// What a plot of curves leaves out, a sentence per experiment.
fn single_epoch_sentences(curves: &[CurvePoint]) -> Vec<String> {
    let sentence = |experiment: &str| {
        let single = single_epochs(curves, experiment);
        let each: Vec<String> = single
            .iter()
            .map(|point| format!("{} {} %", point.variant, plain(point.train_top1)))
            .collect();
        (!each.is_empty()).then(|| {
            format!(
                "{experiment}, trained for one epoch, which gives no curve (accuracy on augmented training images): {}.",
                each.join("; ")
            )
        })
    };
    experiments(curves)
        .into_iter()
        .filter_map(sentence)
        .collect()
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
        .replace(INK, "currentColor")
        .replace("#FFFFFF", "var(--page)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::figures as figures_of;
    use crate::sample::{sample_curves, sample_layers, sample_lines, sample_run};
    use crate::{DataSource, summarize};

    fn page(run: &RunInfo, lines: &[ResultLine]) -> String {
        let (curves, layers) = (sample_curves(), sample_layers());
        let summary = summarize(lines, &[]);
        let plots = figures_of(&run.dataset, &summary, &curves);
        html(run, lines, &summary, &curves, &layers, &plots).unwrap()
    }

    #[test]
    fn the_page_holds_every_row_and_its_numbers() {
        let html = page(&sample_run(), &sample_lines());
        let table = html.split("id=\"results\"").nth(1).unwrap();
        let table = &table[..table.find("</table>").unwrap()];
        assert_eq!(table.matches("<tr>").count(), 12 + 1);
        for words in [
            "6.17× smaller",
            "◆ front",
            "quantize · ◆\u{a0}size",
            "± 0.14",
            "−6.70 ▼~",
            "−17.60 ▼",
            "40.55",
            "8 &#x2f; 8",
            "4* &#x2f; 8",
            "* after bits: first and last layer 8 bits",
            "unofficial data",
            "~ one seed",
            "trained further, for at least as long as the variant",
            "<h2>Findings</h2>",
            "magnitude ranks weights worse",
            "re-encoded as JPEG",
            "with uncommitted changes",
            "source_net, 10 epochs a phase",
        ] {
            assert!(html.contains(words), "{words}");
        }
        assert_eq!(html.matches("<svg").count(), 5);
        let lead = html.split("id=\"lead\"").nth(1).unwrap();
        let lead = &lead[..lead.find("</table>").unwrap()];
        let (first, second) = (lead.find("channels + W4A8"), lead.find("aware W4A8"));
        assert!(first.unwrap() < second.unwrap());
    }

    #[test]
    fn methods_that_cost_the_same_stand_against_each_other() {
        let html = page(&sample_run(), &sample_lines());
        let methods = html.split("id=\"contests\"").nth(1).unwrap();
        let methods = &methods[..methods.find("</section>").unwrap()];
        assert_eq!(methods.matches("<tr>").count(), 2 + 1);
        for words in [
            "W4A8, resnet20",
            "the best",
            "−16.10 ▼~",
            "epochs: 8 base + 1 quantization-aware",
            "[−17.14, −15.06]",
        ] {
            assert!(methods.contains(words), "{words}\n{methods}");
        }
        assert!(html.contains("href=\"#methods\""));
        let html = page(&sample_run(), &sample_lines()[..3]);
        assert!(!html.contains("#methods") && !html.contains("id=\"contests\""));
    }

    #[test]
    fn layers_stand_beside_those_of_the_baseline() {
        let html = page(&sample_run(), &sample_lines());
        let layers = html.split("id=\"layers\"").nth(1).unwrap();
        let layers = &layers[..layers.find("</section>").unwrap()];
        assert_eq!(layers.matches("<details>").count(), 2);
        let baseline = &layers[..layers.find("</details>").unwrap()];
        let pruned = &layers[baseline.len()..];
        for words in [
            // 16·3·9 + 16·16·9 + 640 weights and 16 scales; (432 + 2304)·1024 + 640 MACs.
            "3 layers, 3.4 k parameters, 2.80 M MACs, 25.0 % of the weights zero, weights f32",
            "Not listed: batch normalization, 0.0 k parameters in 1 places.",
        ] {
            assert!(baseline.contains(words), "{words}\n{baseline}");
        }
        for words in [
            "Weight before",
            "16\u{2009}×\u{2009}3\u{2009}×\u{2009}3\u{2009}×\u{2009}3",
            "8 &#x2f; 8",
            "s 2.80 M MACs are left (50.0 %)",
            "the same",
        ] {
            assert!(pruned.contains(words), "{words}\n{pruned}");
        }
        assert!(!baseline.contains("Weight before"));
    }

    #[test]
    fn a_run_without_layers_has_no_section_for_them() {
        let (run, lines) = (sample_run(), sample_lines());
        let summary = summarize(&lines, &[]);
        let plots = figures_of(&run.dataset, &summary, &[]);
        let html = html(&run, &lines, &summary, &[], &[], &plots).unwrap();
        assert!(!html.contains("id=\"layers\"") && html.contains("Nothing was trained."));
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
        assert!(page(&run, &sample_lines()).contains("⚠ Notice:</strong> uncommitted changes"));
        run.dirty = Some(false);
        assert!(!page(&run, &sample_lines()).contains("class=\"notice\""));
    }

    #[test]
    fn plots_take_the_colours_and_the_width_of_the_page() {
        let html = page(&sample_run(), &sample_lines());
        assert!(html.contains("fill=\"currentColor\"") && !html.contains(INK));
        assert!(html.contains("<svg viewBox=\"0 0 640 "));
        assert!(!html.contains("fill=\"#FFFFFF\""));
    }
}
