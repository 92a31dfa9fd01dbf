//! Numbers and sentences as a reader sees them: units, thousands separators, true minus signs.

use opt_stats::{HoldsFor, Interval, SignificanceTest, Verdict};

use crate::{DataSource, DatasetInfo, Original, RunInfo, Runs, SummaryRow, best_within};

/// An integer with a comma between thousands.
pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut words = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            words.push(',');
        }
        words.push(digit);
    }
    words
}

/// `value` divided by a thousand, with one decimal and separators.
pub(crate) fn in_thousands(value: u64) -> String {
    let tenths = value / 100 + u64::from(value % 100 >= 50);
    format!("{}.{}", thousands(tenths / 10), tenths % 10)
}

/// `value` divided by a million, with two decimals and separators.
pub(crate) fn in_millions(value: u64) -> String {
    let hundredths = value / 10_000 + u64::from(value % 10_000 >= 5_000);
    format!("{}.{:02}", thousands(hundredths / 100), hundredths % 100)
}

/// A time in whole seconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and no run lasts that long"
)]
pub(crate) fn seconds(value: f64) -> String {
    match value.round() as u64 {
        0 => "< 1".to_owned(),
        whole => thousands(whole),
    }
}

/// A difference with its sign.
pub(crate) fn signed(value: f64) -> String {
    let words = format!("{:.2}", value.abs());
    if words.bytes().all(|byte| byte == b'0' || byte == b'.') {
        return words;
    }
    format!("{}{words}", if value < 0.0 { '−' } else { '+' })
}

/// Milliseconds with three digits that count; a dash for what the engine does not run.
pub(crate) fn latency(row: &SummaryRow) -> String {
    match row.latency_ms {
        None => "–".to_owned(),
        Some(ms) if ms < 1.0 => format!("{ms:.3}"),
        Some(ms) if ms < 10.0 => format!("{ms:.2}"),
        Some(ms) => format!("{ms:.1}"),
    }
}

/// A ratio, or a dash where it is unknown.
pub(crate) fn times(ratio: Option<f64>) -> String {
    match ratio {
        Some(ratio) if ratio >= 99.95 => format!("{ratio:.0}×"),
        Some(ratio) if ratio >= 9.995 => format!("{ratio:.1}×"),
        Some(ratio) => format!("{ratio:.2}×"),
        None => "–".to_owned(),
    }
}

/// A number without trailing zeros.
pub(crate) fn plain(value: f64) -> String {
    let words = format!("{value:.2}");
    words.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Accuracy in percent, with its spread where there are several seeds.
pub(crate) fn accuracy(row: &SummaryRow) -> String {
    match row.top1.std {
        Some(std) => format!("{:.2} ± {std:.2}", row.top1.mean),
        None => format!("{:.2}", row.top1.mean),
    }
}

/// The difference to the baseline: an arrow where its interval leaves out 0, `≈` where it holds 0; with `~` where the arrow
/// rests on one training.
pub(crate) fn difference(row: &SummaryRow) -> String {
    match &row.significance {
        Some(significance) => marked(row.delta.mean, significance),
        None => "baseline".to_owned(),
    }
}

/// The difference to the network that compression started from, as [`difference`]; a dash where there is none.
pub(crate) fn difference_to_original(row: &SummaryRow) -> String {
    match &row.original {
        Some(original) => marked(original.delta.mean, &original.significance),
        None => "–".to_owned(),
    }
}

/// A difference with the mark of its verdict.
pub(crate) fn marked(difference: f64, significance: &SignificanceTest) -> String {
    let mark = match significance.verdict {
        Verdict::Unresolved => "≈",
        Verdict::Worse => "▼",
        Verdict::Better => "▲",
    };
    let limit = if rests_on_one_training(significance) {
        "~"
    } else {
        ""
    };
    format!("{} {mark}{limit}", signed(difference))
}

/// [`difference`] with its interval, for tables whose cells have one line.
pub(crate) fn difference_in_full(row: &SummaryRow) -> String {
    let words = difference(row);
    match &row.significance {
        Some(significance) => format!("{words} {}", interval(significance.interval)),
        None => words,
    }
}

/// [`difference_to_original`] with its interval.
pub(crate) fn difference_to_original_in_full(row: &SummaryRow) -> String {
    let words = difference_to_original(row);
    match &row.original {
        Some(original) => format!("{words} {}", interval(original.significance.interval)),
        None => words,
    }
}

/// The interval of the difference to the baseline; empty for a baseline.
pub(crate) fn interval_of(row: &SummaryRow) -> String {
    let significance = row.significance.as_ref();
    significance.map_or_else(String::new, |j| interval(j.interval))
}

/// An interval. An end that rounds to 0 keeps its sign, which says on which side of 0 it lies.
pub(crate) fn interval(interval: Interval) -> String {
    let end = |value: f64| {
        let sign = if value < 0.0 { '−' } else { '+' };
        format!("{sign}{:.2}", value.abs())
    };
    format!("[{}, {}]", end(interval.low), end(interval.high))
}

/// The images that only the one that is judged and that only the other has right, all seeds together; a dash where they are
/// not known, empty for a baseline.
pub(crate) fn won_and_lost(significance: Option<&SignificanceTest>) -> String {
    match significance.map(|significance| significance.discordant) {
        Some(Some(counts)) => format!(
            "{} : {}",
            thousands(counts.only_variant),
            thousands(counts.only_baseline)
        ),
        Some(None) => "–".to_owned(),
        None => String::new(),
    }
}

/// What a verdict rests on, in a sentence without its full stop.
pub(crate) fn grounds(significance: &SignificanceTest) -> String {
    let verdict = match significance.verdict {
        Verdict::Unresolved => "unresolved",
        Verdict::Worse => "worse",
        Verdict::Better => "better",
    };
    let seeds = match significance.seeds {
        Some(seeds) => format!(
            "; from the test images alone {}, from the seeds alone {}",
            interval(significance.images),
            interval(seeds)
        ),
        None => String::new(),
    };
    let paired = match significance.discordant {
        Some(counts) => format!(
            "; {} images only this has right, {} only the other",
            thousands(counts.only_variant),
            thousands(counts.only_baseline),
        ),
        None => "; not paired by images".to_owned(),
    };
    let holds_for = match significance.holds_for {
        HoldsFor::Weights => "; one seed: this speaks about these weights, not about the method",
        HoldsFor::Method => "",
    };
    format!(
        "{verdict}: 95 % interval {}, p {}{seeds}{paired}{holds_for}",
        interval(significance.interval),
        p_value(significance.p_value)
    )
}

/// A p-value with its sign of relation. One that rounds to 0.05 has a digit more, so that it is seen on which side it lies.
pub(crate) fn p_value(p: f64) -> String {
    match p {
        p if p < 0.0001 => "< 0.0001".to_owned(),
        p if p < 0.001 || (0.0495..0.0505).contains(&p) => format!("= {p:.4}"),
        p => format!("= {p:.3}"),
    }
}

/// Whether an arrow says nothing about a second training: one seed, and training since the baseline.
fn rests_on_one_training(significance: &SignificanceTest) -> bool {
    significance.trained
        && significance.holds_for == HoldsFor::Weights
        && significance.verdict != Verdict::Unresolved
}

/// An RFC 3339 time in UTC to the minute, for reading.
pub(crate) fn moment(time: &str) -> String {
    match time.split_once('T') {
        Some((day, time)) if time.len() >= 5 && time.is_ascii() => {
            format!("{day} {} UTC", &time[..5])
        }
        _ => time.to_owned(),
    }
}

/// The policies of the rows in the order of their first rows: the place of a policy decides its mark.
pub(crate) fn policies(rows: &[SummaryRow]) -> Vec<&str> {
    let mut policies: Vec<&str> = Vec::new();
    for row in rows {
        if !row.policy.is_empty() && !policies.contains(&row.policy.as_str()) {
            policies.push(&row.policy);
        }
    }
    policies
}

/// Bits of weights and activations; a mark where a policy says which weights have them.
pub(crate) fn bits(row: &SummaryRow, policies: &[&str]) -> String {
    let word = |bits: u32| match bits {
        32 => "f32".to_owned(),
        _ => bits.to_string(),
    };
    let mark = policies
        .iter()
        .position(|policy| *policy == row.policy)
        .map(policy_mark)
        .unwrap_or_default();
    let stored = match row.runs() {
        Runs::Nowhere => format!(" {STORED}"),
        Runs::InEngine | Runs::InFloat => String::new(),
    };
    match (row.weight_bits, row.activation_bits) {
        (32, 32) => format!("f32{mark}"),
        (weights, activations) => {
            format!("{}{mark} / {}{stored}", word(weights), word(activations))
        }
    }
}

fn policy_mark(place: usize) -> String {
    let mark = ["*", "†", "‡", "§"][place % 4];
    mark.repeat(place / 4 + 1)
}

/// The rule for mark, interval and p, in a sentence.
pub(crate) const ONE_RULE: &str = "[…]: the 95 % interval of a difference, on the same test images and with the same seeds. \
                                   ▲ better, ▼ worse: it leaves out 0, which is the same as p < 0.05; ≈ unresolved: it holds 0, \
                                   may be chance.";

/// The mark of variants that no engine runs, and what it means.
const STORED: &str = "○";
pub(crate) const STORED_FORM: &str = "stored form, it computes in f32 and no engine runs it";

/// What the marks in the table mean, a sentence or two each; only of marks that can occur in these rows.
pub(crate) fn legend(rows: &[SummaryRow]) -> Vec<String> {
    let mut lines = vec![ONE_RULE.to_owned()];
    if rows.iter().any(|row| row.original.is_some()) {
        lines.push(
            "Δ original: top-1 minus that of the network that compression started from, which is the loss that a user has; \
             Δ: minus that of the row's baseline. Where nothing was trained that is the network it was made from; else a \
             control without compression that was trained at least as long (the pipeline's steps all have one, as long \
             as the last step)."
                .to_owned(),
        );
    }
    if rows.iter().any(|row| starts_anew(row, rows)) {
        lines.push(
            "What was trained anew, from random weights as its baseline was (a student with a teacher, beside the same student \
             alone), had as many epochs as that baseline, which stands for its original too."
                .to_owned(),
        );
    }
    let judged: Vec<&SignificanceTest> = rows
        .iter()
        .filter_map(|r| r.significance.as_ref())
        .collect();
    if judged.iter().any(|j| j.seeds.is_some()) {
        lines.push(
            "Several seeds: ± after top-1 is their standard deviation; the interval of Δ adds the error that the choice of \
             test images leaves to that of the spread over the seeds (Student's t), as the root of the sum of squares."
                .to_owned(),
        );
    }
    if judged.iter().any(|j| j.holds_for == HoldsFor::Weights) {
        lines.push(
            "One seed: a verdict speaks about these weights on images like these, not about the method."
                .to_owned(),
        );
    }
    if judged.iter().any(|j| rests_on_one_training(j)) {
        lines.push(
            "~ one seed, and training lies between the two, of the variant or of its baseline: with another seed the \
             difference would be another, by an amount that this run does not know."
                .to_owned(),
        );
    }
    if rows.iter().any(|row| row.runs() == Runs::Nowhere) {
        lines.push(format!("{STORED} after bits: {STORED_FORM}."));
    }
    for (place, policy) in policies(rows).iter().enumerate() {
        lines.push(format!("{} after bits: {policy}.", policy_mark(place)));
    }
    lines
}

/// Whether a row was trained beside its baseline, for as long, and not after it.
fn starts_anew(row: &SummaryRow, rows: &[SummaryRow]) -> bool {
    let is_baseline = |other: &&SummaryRow| {
        row.baseline.as_ref() == Some(&other.variant)
            && other.model == row.model
            && other.dataset == row.dataset
            && other.baseline.is_none()
    };
    let baseline = rows.iter().find(is_baseline);
    !row.train_precision.is_empty() && baseline.is_some_and(|other| other.epochs == row.epochs)
}

/// The data as a plot names it.
pub(crate) fn data_words(dataset: &DatasetInfo) -> String {
    let kind = match dataset.source {
        DataSource::Official | DataSource::Own => "",
        DataSource::Unofficial => " (unofficial data)",
        DataSource::Synthetic => " (synthetic images)",
    };
    format!("data: {}{kind}", dataset.name)
}

/// The answer to "how far, at what loss" for one allowed loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headline {
    /// The allowed loss: `Losing at most 1 point`.
    pub loss: String,
    /// How much smaller: `5.90× smaller`, or that nothing was within the loss.
    pub gain: String,
    /// Which variant it is and its numbers; empty if there is none.
    pub detail: String,
}

/// Says what was compressed how far within one and within two points of accuracy, against the network that compression
/// started from.
///
/// What runs as it is stored comes first; a file that is smaller still and that no engine runs is said to be that.
pub fn headline(rows: &[SummaryRow]) -> Vec<Headline> {
    if let [row] = rows {
        return vec![Headline {
            loss: format!("{} ({})", row.variant, row.model),
            gain: format!("{} % top-1", accuracy(row)),
            detail: format!(
                "{} kB, {} M multiply-accumulates for one image; nothing was compressed.",
                in_thousands(row.bytes),
                in_millions(row.macs)
            ),
        }];
    }
    let runs = |row: &SummaryRow| row.runs() != Runs::Nowhere;
    let (one, two) = (best_within(rows, 1.0, runs), best_within(rows, 2.0, runs));
    let mut headlines = vec![headline_for("Losing at most 1 point", one)];
    if one == two && one.is_some() {
        headlines[0].loss = "Losing at most 1 point (and at most 2)".to_owned();
    } else if two.is_some() {
        headlines.push(headline_for("Losing at most 2 points", two));
    }
    let stored = best_within(rows, 1.0, |_| true).filter(|row| !runs(row));
    if let Some(row) = stored {
        let mut headline = headline_for("Stored only, losing at most 1 point", stored);
        headline.detail += &format!(" No gain in speed: {STORED_FORM}.");
        if row.original.is_some() {
            headlines.push(headline);
        }
    }
    headlines
}

fn headline_for(loss: &str, row: Option<&SummaryRow>) -> Headline {
    let found = row.and_then(|row| Some((row, row.original.as_ref()?)));
    let Some((row, original)) = found else {
        return Headline {
            loss: loss.to_owned(),
            gain: "no smaller model".to_owned(),
            detail: String::new(),
        };
    };
    let fewer = original.macs as f64 / row.macs.max(1) as f64;
    let macs = if row.macs > 0 && fewer >= 1.05 {
        format!(", {} fewer multiply-accumulates", times(Some(fewer)))
    } else {
        String::new()
    };
    let significance = &original.significance;
    let mut remarks = Vec::new();
    if significance.verdict == Verdict::Unresolved {
        remarks.push("may be chance".to_owned());
    }
    match (row.n, significance.trained) {
        (1, true) => remarks.push("one seed".to_owned()),
        (1, false) => {}
        (n, _) => remarks.push(format!("{n} seeds")),
    }
    let remarks = match remarks.as_slice() {
        [] => String::new(),
        remarks => format!(" ({})", remarks.join(", ")),
    };
    Headline {
        loss: loss.to_owned(),
        gain: format!(
            "{} smaller",
            times(Some(original.bytes as f64 / row.bytes.max(1) as f64))
        ),
        detail: format!(
            "{}: {} ({}). {} kB instead of {} kB{macs}; {} % top-1, {} points {} against the original {}{remarks}.{}",
            row.experiment,
            row.variant,
            row.model,
            in_thousands(row.bytes),
            in_thousands(original.bytes),
            accuracy(row),
            signed(original.delta.mean),
            interval(significance.interval),
            original.variant,
            control(row, original),
        ),
    }
}

/// The control of a variant in a sentence, if it is not the original itself.
fn control(row: &SummaryRow, original: &Original) -> String {
    match &row.baseline {
        Some(baseline) if *baseline != original.variant => {
            format!(" Its control, {baseline}: {:.2} %.", row.top1_baseline)
        }
        Some(_) | None => String::new(),
    }
}

/// How the headline was picked, so that nobody takes it for a prediction.
pub(crate) fn how_picked(rows: &[SummaryRow]) -> String {
    let judged: Vec<&SignificanceTest> = rows
        .iter()
        .filter_map(|r| r.significance.as_ref())
        .collect();
    let n = judged.len();
    if n == 0 {
        return "No variant is compared with another.".to_owned();
    }
    let picked = format!(
        "The smallest files among {n} variants, picked after the run by test accuracy, so the best is flattered a \
         little. Losses are against the network that compression started from."
    );
    let losses: Vec<&SignificanceTest> = rows
        .iter()
        .filter_map(|row| row.original.as_ref())
        .map(|original| &original.significance)
        .collect();
    let reaches = losses.iter().map(|j| j.interval.reach());
    let Some(reach) = reaches.reduce(f64::max) else {
        return picked;
    };
    let chance = match losses
        .iter()
        .any(|j| j.trained && j.holds_for == HoldsFor::Weights)
    {
        true => " from the test images alone, and one seed does not show how much training adds",
        false => "",
    };
    format!("{picked} A loss is known to ±{reach:.2} points at worst{chance}.")
}

/// What did not run, an entry each; that is never said to be nothing before the run has ended.
pub(crate) fn left_out(run: &RunInfo) -> Vec<String> {
    let mut entries: Vec<String> = run
        .not_run
        .iter()
        .map(|absent| format!("{} ({})", absent.what, absent.why))
        .collect();
    if run.finished.is_none() {
        entries.insert(
            0,
            "this run did not finish: what is not listed here may be missing all the same"
                .to_owned(),
        );
    } else if entries.is_empty() {
        entries.push("nothing was left out".to_owned());
    }
    entries
}

/// The conditions of a run as pairs of a term and its value.
pub(crate) fn conditions(run: &RunInfo) -> Vec<(&'static str, String)> {
    let data = &run.dataset;
    let dirty = match run.dirty {
        Some(true) => " with uncommitted changes",
        _ => "",
    };
    let commit = match run.commit.as_str() {
        "" => "unknown".to_owned(),
        commit => format!("{}{dirty}", commit.chars().take(12).collect::<String>()),
    };
    let versions = [
        ("opt", &run.versions.opt),
        ("rustc", &run.versions.rustc),
        ("tch", &run.versions.tch),
        ("libtorch", &run.versions.libtorch),
    ];
    let versions: Vec<String> = versions
        .iter()
        .filter(|(_, version)| !version.is_empty())
        .map(|(name, version)| {
            let number = version.strip_prefix(name).unwrap_or(version).trim_start();
            format!("{name} {number}")
        })
        .collect();
    let seeds: Vec<String> = run.seeds.iter().map(u64::to_string).collect();
    let machine = format!(
        "{}, {} of {} cores used; {}",
        run.cpu.model,
        run.threads,
        run.cpu.cores,
        run.cpu.features.join(" ")
    );
    let set: Vec<String> = run
        .settings
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    let machine = match set.as_slice() {
        [] => machine,
        set => format!("{machine}; set: {}", set.join(", ")),
    };
    let mut time = match &run.finished {
        Some(finished) => format!("{} to {}", moment(&run.started), moment(finished)),
        None => format!("{}, not finished", moment(&run.started)),
    };
    if !run.resumed.is_empty() {
        let times: Vec<String> = run.resumed.iter().map(|t| moment(t)).collect();
        time += &format!("; taken up again {}", times.join(", "));
    }
    vec![
        ("Command", run.command.clone()),
        ("Profile", run.profile.clone()),
        (
            "Data",
            format!(
                "{}, {} images for training and {} for measuring; {}",
                data.name,
                thousands(data.n_train),
                thousands(data.n_test),
                data.hash
            ),
        ),
        ("Split", data.split.clone()),
        ("Seeds", seeds.join(", ")),
        ("Device", run.device.clone()),
        ("Machine", machine),
        (
            "Precision",
            match run.precision.as_str() {
                "nothing is trained" => "nothing is trained".to_owned(),
                precision => format!("training in {precision}"),
            } + "; accuracy in f32 or exact integers",
        ),
        ("Commit", commit),
        ("Versions", versions.join(", ")),
        ("Time", time),
    ]
}

/// A share as the names of variants give it: in percent with at most three decimals.
#[must_use]
pub fn named_percent(share: f64) -> f64 {
    (100_000.0 * share).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{sample_lines, sample_run};
    use crate::{ResultLine, summarize};

    #[test]
    fn numbers_for_readers() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(40_551_040), "40,551,040");
        assert_eq!(in_thousands(1_079_949), "1,079.9");
        assert_eq!(in_thousands(1_079_950), "1,080.0");
        assert_eq!(in_millions(40_551_040), "40.55");
        assert_eq!(in_millions(5_000), "0.01");
        assert_eq!(seconds(0.003), "< 1");
        assert_eq!(seconds(1234.5), "1,235");
        assert_eq!(signed(-0.8), "−0.80");
        assert_eq!(signed(0.31), "+0.31");
        assert_eq!(signed(-0.001), "0.00");
        assert_eq!(times(Some(3.944)), "3.94×");
        assert_eq!(times(Some(12.34)), "12.3×");
        assert_eq!(times(None), "–");
        assert_eq!(plain(10.0), "10");
        assert_eq!(plain(9.9), "9.9");
        assert_eq!(moment("2024-02-29T23:59:59Z"), "2024-02-29 23:59 UTC");
        assert_eq!(moment("yesterday"), "yesterday");
    }

    #[test]
    fn the_headline_names_the_variant_and_its_cost() {
        let headlines = headline(&summarize(&sample_lines(), &[]).rows);
        assert_eq!(headlines.len(), 2);
        assert_eq!(headlines[0].gain, "6.17× smaller");
        assert_eq!(
            headlines[0].detail,
            "pipeline: channels + W8A8 (resnet20). 178.3 kB instead of 1,100.0 kB, 1.56× fewer multiply-accumulates; \
             90.85 % top-1, −0.75 points [−1.53, +0.03] against the original resnet20 (may be chance, one seed)."
        );
        assert_eq!(headlines[1].gain, "11.2× smaller");
    }

    #[test]
    fn the_headline_leads_with_what_runs() {
        let mut lines = sample_lines();
        // Smaller than all that runs: codes that are decoded before anything is computed.
        lines[7].activation_bits = 32;
        (lines[7].variant, lines[7].top1, lines[7].bytes) =
            ("weights: k-means, 16 values".to_owned(), 91.2, 90_000);
        let headlines = headline(&summarize(&lines, &[]).rows);
        let gains: Vec<&str> = headlines.iter().map(|line| line.gain.as_str()).collect();
        assert_eq!(gains, ["6.17× smaller", "11.2× smaller", "12.2× smaller"]);
        assert!(headlines[2].loss.starts_with("Stored only"));
        assert!(headlines[2].detail.ends_with("no engine runs it."));
        // Larger than what runs: it is not worth a word.
        lines[7].bytes = 200_000;
        assert_eq!(headline(&summarize(&lines, &[]).rows).len(), 2);
    }

    #[test]
    fn the_headline_names_the_control_beside_the_loss() {
        let mut lines = sample_lines();
        lines.truncate(6);
        lines[4].variant = "resnet20 trained further".to_owned();
        (lines[4].experiment, lines[4].top1) = ("quantize".to_owned(), 75.2);
        lines[5].baseline = Some("resnet20 trained further".to_owned());
        (lines[5].top1_baseline, lines[5].top1) = (75.2, 75.0);
        // 0.2 points below a control that fell: 16.6 below what was brought.
        let gain = |lines: &[ResultLine]| headline(&summarize(lines, &[]).rows)[0].clone();
        assert_eq!(gain(&lines).gain, "1.72× smaller");
        lines[5].top1 = 91.5;
        let found = gain(&lines);
        assert_eq!(found.gain, "3.86× smaller");
        let words = "−0.10 points [−0.87, +0.67] against the original resnet20 (may be chance). Its control, \
                     resnet20 trained further: 75.20 %.";
        assert!(found.detail.ends_with(words), "{}", found.detail);
    }

    #[test]
    fn headlines_that_agree_and_that_find_nothing() {
        let lines = sample_lines();
        let same = headline(&summarize(&lines[..6], &[]).rows);
        assert_eq!(same.len(), 1);
        assert_eq!(same[0].loss, "Losing at most 1 point (and at most 2)");
        // A network that was only trained: its accuracy, and no comparison.
        let rows = summarize(&lines[..1], &[]).rows;
        let one = headline(&rows);
        assert_eq!((one.len(), one[0].gain.as_str()), (1, "91.60 % top-1"));
        assert!(one[0].detail.contains("nothing was compressed"));
        assert_eq!(how_picked(&rows), "No variant is compared with another.");
    }

    #[test]
    fn differences_say_their_direction_without_colour() {
        let mut row = summarize(&sample_lines(), &[]).rows[3].clone();
        let mut difference_of = |mean, verdict, trained, holds_for| {
            row.delta.mean = mean;
            row.significance = row.significance.map(|significance| SignificanceTest {
                verdict,
                trained,
                holds_for,
                ..significance
            });
            difference(&row)
        };
        let (one, several) = (HoldsFor::Weights, HoldsFor::Method);
        assert_eq!(
            difference_of(-3.0, Verdict::Worse, true, several),
            "−3.00 ▼"
        );
        assert_eq!(
            difference_of(3.0, Verdict::Better, true, several),
            "+3.00 ▲"
        );
        assert_eq!(difference_of(3.0, Verdict::Better, false, one), "+3.00 ▲");
        assert_eq!(difference_of(-9.0, Verdict::Worse, true, one), "−9.00 ▼~");
        assert_eq!(
            difference_of(0.1, Verdict::Unresolved, true, one),
            "+0.10 ≈"
        );
    }

    #[test]
    fn the_grounds_of_a_verdict_are_said_with_its_limits() {
        let lines = sample_lines();
        let row = &summarize(&lines, &[]).rows[2];
        // 39/√360 = 2.055: p = 0.0398.
        assert_eq!(
            grounds(&row.significance.unwrap()),
            "worse: 95 % interval [−0.79, −0.02], p = 0.040; 160 images only this has right, 200 only the other; one seed: \
             this speaks about these weights, not about the method"
        );
        assert_eq!(
            (interval_of(row), won_and_lost(row.significance.as_ref())),
            ("[−0.79, −0.02]".to_owned(), "160 : 200".to_owned())
        );

        // Two seeds, the second one without counts.
        let second = ResultLine {
            seed: 1,
            discordant: None,
            top1: lines[2].top1 - 0.1,
            ..lines[2].clone()
        };
        let row = &summarize(&[lines[2].clone(), second], &[]).rows[0];
        let words = grounds(&row.significance.unwrap());
        assert!(words.starts_with("unresolved: "), "{words}");
        assert!(words.contains(", from the seeds alone ["), "{words}");
        assert!(words.contains("not paired") && !words.contains("one seed"));
        assert_eq!(won_and_lost(row.significance.as_ref()), "–");

        let baseline = &summarize(&lines, &[]).rows[0];
        assert_eq!(interval_of(baseline) + &won_and_lost(None), "");
    }

    #[test]
    fn an_end_that_rounds_to_nothing_says_its_side() {
        let cases = [
            ((-0.004, 1.0), "[−0.00, +1.00]"),
            ((0.004, 1.0), "[+0.00, +1.00]"),
            ((-3.617, -0.321), "[−3.62, −0.32]"),
        ];
        for ((low, high), words) in cases {
            assert_eq!(interval(Interval { low, high }), words);
        }
    }

    #[test]
    fn p_values_for_readers() {
        let cases = [
            (1.0, "= 1.000"),
            (0.0397, "= 0.040"),
            (0.0499, "= 0.0499"),
            (0.0501, "= 0.0501"),
            (0.000_42, "= 0.0004"),
            (1e-30, "< 0.0001"),
        ];
        for (p, words) in cases {
            assert_eq!(p_value(p), words);
        }
    }

    #[test]
    fn policies_are_marked_and_explained() {
        let mut rows = summarize(&sample_lines(), &[]).rows;
        let with = |policy: &str, weight_bits, activation_bits| SummaryRow {
            policy: policy.to_owned(),
            weight_bits,
            activation_bits,
            ..rows[0].clone()
        };
        let cases = [
            (with("", 8, 8), "8 / 8"),
            (with("ends 8 bits", 4, 8), "4* / 8"),
            (with("all weights", 4, 32), "4† / f32 ○"),
            // A policy that was seen before keeps its mark.
            (with("ends 8 bits", 3, 8), "3* / 8"),
            (with("a", 2, 2), "2‡ / 2"),
            (with("b", 2, 2), "2§ / 2"),
            (with("c", 2, 2), "2** / 2"),
        ];
        rows = cases.iter().map(|(row, _)| row.clone()).collect();
        let policies = policies(&rows);
        for (row, words) in &cases {
            assert_eq!(bits(row, &policies), *words);
        }
        let legend = legend(&rows);
        assert!(legend.contains(&"* after bits: ends 8 bits.".to_owned()));
        assert!(legend.contains(&"† after bits: all weights.".to_owned()));
    }

    #[test]
    fn the_legend_explains_the_marks_that_occur() {
        let rows = summarize(&sample_lines(), &[]).rows;
        assert!(
            legend(&rows)
                .iter()
                .any(|line| line.starts_with("~ one seed"))
        );
        let unresolved: Vec<_> = rows
            .into_iter()
            .filter(|row| {
                row.significance
                    .is_some_and(|j| j.verdict == Verdict::Unresolved)
            })
            .collect();
        assert!(!unresolved.is_empty());
        let lines = legend(&unresolved);
        assert!(!lines.iter().any(|line| line.starts_with('~')));
        assert!(lines.iter().any(|line| line.starts_with("One seed")));
    }

    /// A step that was never trained stands against a network that was trained further; another step had fewer epochs than that
    /// control; a student has neither a network that it was made from nor a control that is one.
    #[test]
    fn the_legend_is_true_of_every_baseline() {
        let mut lines = sample_lines();
        lines.truncate(1);
        let control = ResultLine {
            experiment: "pipeline".to_owned(),
            variant: "resnet20 trained further".to_owned(),
            baseline: Some("resnet20".to_owned()),
            epochs: 11.0,
            ..lines[0].clone()
        };
        let step = ResultLine {
            variant: "1. channels removed".to_owned(),
            baseline: Some(control.variant.clone()),
            epochs: 8.0,
            top1: 50.0,
            train_precision: String::new(),
            ..control.clone()
        };
        lines.extend([control, step]);
        let rows = summarize(&lines, &[]).rows;
        assert!(difference(&rows[2]).ends_with("▼~"));
        let words = legend(&rows).join("\n");
        assert!(words.contains(
            "~ one seed, and training lies between the two, of the variant or of its baseline"
        ));
        assert!(words.contains("a control without compression that was trained at least as long"));
        assert!(
            !words.contains("variant was trained")
                && !words.contains("trained further for as long")
        );
        assert!(!words.contains("student"));
        let words = legend(&summarize(&sample_lines(), &[]).rows).join("\n");
        assert!(words.contains("What was trained anew"), "{words}");
    }

    #[test]
    fn the_headline_is_known_as_well_as_its_losses_are() {
        let mut lines = sample_lines();
        lines.truncate(6);
        lines[4].variant = "resnet20 trained further".to_owned();
        lines[4].experiment = "quantize".to_owned();
        lines[5].baseline = Some("resnet20 trained further".to_owned());
        // Against its control the answers are paired, against the original nothing is known of them.
        for line in &mut lines[2..] {
            line.discordant = Some(opt_stats::Discordant::default());
        }
        let mut rows = summarize(&lines, &[]).rows;
        let of_losses = rows[5]
            .original
            .as_ref()
            .unwrap()
            .significance
            .interval
            .reach();
        assert!(of_losses > 0.7, "{of_losses}");
        let words = format!("A loss is known to ±{of_losses:.2} points at worst");
        assert!(how_picked(&rows).contains(&words), "{}", how_picked(&rows));
        for row in &mut rows {
            row.original = None;
        }
        assert!(how_picked(&rows).ends_with("compression started from."));
    }

    #[test]
    fn what_was_left_out_of_ended_and_broken_off_runs() {
        let mut run = sample_run();
        assert_eq!(
            left_out(&run),
            ["source_net, 10 epochs a phase (belongs to the profile full)"]
        );
        run.finished = None;
        let entries = left_out(&run);
        assert_eq!(entries.len(), 2);
        assert!(entries[0].starts_with("this run did not finish"));
        run.not_run.clear();
        assert_eq!(left_out(&run).len(), 1);
        run.finished = Some(run.started.clone());
        assert_eq!(left_out(&run), ["nothing was left out"]);
    }
}
