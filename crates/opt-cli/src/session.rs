//! From the first word to the last: what a run says of its data, its notes, a stop, and its results.

use std::io::IsTerminal;

use anyhow::Result;
use opt_experiment::data::Data;
use opt_experiment::run::Run;
use opt_nn::device;
use opt_report::{summarize, terminal_table};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// Says what is trained on, and where.
pub(crate) fn say_data(data: &Data, device: tch::Device) {
    eprintln!(
        "data: {}, {} images for training and {} for measuring, {:.1} MB in memory; device {}",
        data.info.name,
        data.info.n_train,
        data.info.n_test,
        (data.train.images.len() + data.test.images.len()) as f64 / 1e6,
        device::name(device)
    );
    if let Some(notice) = notice(data) {
        eprintln!("{notice}");
    }
}

/// What must not be overlooked about the data, in a frame.
pub(crate) fn notice(data: &Data) -> Option<String> {
    let text = opt_report::notice(&data.info)?;
    let rule = "!".repeat(78);
    Some(format!("{rule}\n!! NOTICE: {text}\n{rule}"))
}

/// Prints notes and keeps them for `run.json` and the report.
pub(crate) fn note(run: &mut Run, notes: Vec<String>) {
    for note in notes {
        eprintln!("{note}");
        run.info.notes.push(note);
    }
}

/// Says what a stop costs, then ends as the signal would have.
pub(crate) fn watch_for_stops() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!(
                "\nstopped; nothing finished is lost, and the same command goes on after the last whole epoch"
            );
            // It only returns if the signal cannot be raised.
            let _ = emulate_default_handler(signal);
        }
    });
    Ok(())
}

/// Ends a run: writes its report, prints the table and what there is now.
#[expect(clippy::print_stdout, reason = "the result of the command")]
pub(crate) fn finish(run: &mut Run) -> Result<()> {
    let files = run.finish()?;
    let columns = std::env::var("COLUMNS").ok().and_then(|n| n.parse().ok());
    let width = columns.filter(|_| std::io::stdout().is_terminal());
    println!(
        "{}",
        terminal_table(&summarize(&run.lines, &run.correct), width)
    );
    if let Some(notice) = notice(&run.data) {
        println!("{notice}\n");
    }
    if let Some(warning) = &run.info.warning {
        println!("WARNING: {warning}\n");
    }
    println!("written to {}:", run.out.display());
    let names = [
        "run.json",
        "results.jsonl",
        "superseded.jsonl",
        "curves.jsonl",
        "layers.jsonl",
        "correct.jsonl",
        "models/",
        "answers/",
    ];
    for name in names.iter().filter(|n| run.out.join(n).exists()) {
        println!("  {name}");
    }
    for line in run.lines.iter().filter(|l| l.file.ends_with(".opt")) {
        println!("  {}", line.file);
    }
    for file in files {
        let short = file.strip_prefix(&run.out).unwrap_or(&file);
        println!("  {}", short.display());
    }
    Ok(())
}
