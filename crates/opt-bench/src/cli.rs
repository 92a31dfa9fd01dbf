//! The command line: `experiment`, `train`, `bench`, `verify` and `report`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use indicatif::HumanDuration;
use opt_core::InputSpec;
use opt_nn::device;
use opt_report::{NotRun, RecipeText, rewrite_report, summarize, terminal_table};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::bench::{self, Bench};
use crate::budget::{Fitted, fit};
use crate::data::{Data, Limits, to_download};
use crate::experiment::{quantize_recipe, run_all, train_recipe};
use crate::plan::{Counts, Plan, plan};
use crate::profile::{EXPERIMENTS, PROFILES, Profile};
use crate::recipe::{Recipe, Train, check_normalisation};
use crate::run::{Request, Run, slug, threads};
use crate::speed::{Speed, kept, kept_or_measured};
use crate::training::Label;
use crate::verify;

/// Trains, prunes, quantizes and distils networks, measures the files that ship, and reports.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run experiments and write their report.
    #[command(after_help = experiment_help())]
    Experiment(ExperimentArgs),
    /// Train one network from a recipe file, and quantize it if the recipe says so; leaves a safetensors file, .opt files and
    /// their result lines.
    #[command(after_help = TRAIN_HELP)]
    Train(TrainArgs),
    /// Measure speed and memory beside other people's programs.
    #[command(subcommand)]
    Bench(Bench),
    /// Check a `.opt` file: every kernel's codes against the interpreter's, and ONNX Runtime's.
    Verify(verify::Options),
    /// Write the report of a results folder again, from the files that the run left in it.
    Report(ReportArgs),
}

#[derive(Debug, Args)]
struct Common {
    /// The images: `auto` (the folder in `OPT_DATA_DIR`, else CIFAR-10 in data/, else its download, else synthetic ones with
    /// a notice), `cifar100`, `synthetic`, or a folder: of CIFAR-10 (`data_batch_1.bin` … `test_batch.bin`), of CIFAR-100
    /// (`train.bin`, `test.bin`), or of images of your own (`train/CLASS/*.png` or `.jpg`, `test/CLASS/*`).
    #[arg(
        long,
        default_value = "auto",
        value_name = "auto|cifar100|synthetic|DIR"
    )]
    data: String,
    /// The side in pixels of the square that images of your own become [default: 32].
    #[arg(long, value_name = "N")]
    image_size: Option<usize>,
    /// The means per channel, on the scale 0 to 1, that images are normalised with, in place of those of the data and of
    /// recipes: what a checkpoint was trained with. With --std.
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "std")]
    mean: Option<Vec<f32>>,
    /// The standard deviations per channel. With --mean.
    #[arg(long, value_name = "R,G,B", value_delimiter = ',', requires = "mean")]
    std: Option<Vec<f32>>,
    /// Where to train: `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads of training and measuring on the CPU [default: `OMP_NUM_THREADS`, else all cores]. Another number gives
    /// other roundings, so that a run with it goes its own way. Beside other programs fewer threads can be faster.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// The folder for results [default: experiments/ and a name made of what is run and on which data]. A stopped run goes
    /// on there with the same command, and a changed recipe repeats only what it touches.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Measure on a tenth of the training images and leave the test images alone: for choosing recipes.
    #[arg(long)]
    holdout: bool,
}

#[derive(Debug, Args)]
struct ExperimentArgs {
    /// One of the experiments, `all`, or `list` to see what there is.
    #[arg(default_value = "list")]
    experiment: String,
    /// How much is run: one of the profiles below, or a file of your own (see crates/opt-bench/profiles).
    #[arg(long, default_value = "quick", value_name = "NAME|FILE.toml")]
    profile: String,
    /// Only what starts from this baseline of the profile, with the teachers that it needs.
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    /// Seeds of every variant [default: the profile's].
    #[arg(long, value_name = "N")]
    seeds: Option<usize>,
    /// The time there is, such as 90s, 30m, 2h or 1h30m: chooses seeds, epochs and networks of the profile that fit into it.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "seeds")]
    budget: Option<Duration>,
    /// Print the plan with its expected time and stop.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// The recipe file (TOML).
    recipe: PathBuf,
    /// A PyTorch checkpoint as safetensors to start from, in place of the recipe's `weights`.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// The seed of weights and order.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// So many seeds, from --seed on: their mean, spread and single values are reported.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// The folder of a run, also one that was broken off: run.json, results.jsonl, curves.jsonl and layers.jsonl are read.
    dir: PathBuf,
}

const TRAIN_HELP: &str = r#"A recipe:
  name = "resnet20"
  model = "resnet20"                # a network of the zoo: see docs/recipes.md
  weights = "start.safetensors"     # optional: a PyTorch checkpoint as safetensors, relative to this file
  [train]
  epochs = 4
  batch = 128
  lr = 0.05
  schedule = { one_cycle = { peak = 0.2, start = 0.1, end = 0.0 } }
  [quantize]                        # optional: integer networks of the result, an .opt file and a result line each
  bits = 8                          # of a weight, 2 to 8; activations have 8
  adds = ["fused", "rounded"]       # how residual additions are rounded; one network for each
  calibration_images = 2000"#;

fn experiment_help() -> String {
    let mut help = "Experiments:\n".to_owned();
    for (name, what) in EXPERIMENTS {
        help += &format!("  {name:<10} {what}\n");
    }
    help += "\nProfiles:\n";
    for (name, _) in PROFILES {
        let about = Profile::built_in(name).map(|p| p.about).unwrap_or_default();
        help += &format!("  {name:<10} {about}\n");
    }
    help
}

/// Runs the program; errors are printed with their causes and what to do next.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let common = match &cli.command {
        Command::Experiment(args) if args.experiment != "list" => Some(&args.common),
        Command::Train(args) => Some(&args.common),
        Command::Experiment(_) | Command::Bench(_) | Command::Verify(_) | Command::Report(_) => {
            None
        }
    };
    if let Some(common) = common {
        let threads = common.threads.map_or_else(threads, usize::from);
        if let Err(error) = device::bind_threads(threads) {
            eprintln!(
                "warning: threads are not bound to processors, which is slower beside other programs: {error}"
            );
        }
        device::name_threads(threads);
    }
    device::keep_memory();
    device::set_threads(threads());
    let done = match cli.command {
        Command::Experiment(args) => experiment(args),
        Command::Train(args) => train(args),
        Command::Bench(bench) => bench::run(&bench),
        Command::Verify(options) => verify::run(&options, &root()),
        Command::Report(args) => report(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn experiment(args: ExperimentArgs) -> Result<()> {
    if args.experiment == "list" {
        #[expect(clippy::print_stdout, reason = "the answer to a question")]
        {
            print!("{}", experiment_help());
        }
        return Ok(());
    }
    let names: Vec<&str> = EXPERIMENTS.iter().map(|(n, _)| *n).collect();
    let experiments: Vec<String> = match args.experiment.as_str() {
        "all" => names.iter().map(|n| (*n).to_owned()).collect(),
        one => {
            ensure!(
                names.contains(&one),
                "no experiment `{one}`; there are {}, all and list",
                names.join(", ")
            );
            vec![one.to_owned()]
        }
    };
    let (mut profile, mut not_run) = chosen_profile(&args, &experiments)?;
    for recipe in &mut profile.baseline {
        normalise(recipe, &args.common)?;
    }
    let seeds = args.seeds.unwrap_or(profile.seeds);
    ensure!(
        (1..=1000).contains(&seeds),
        "--seeds is {seeds}, expected 1 to 1000"
    );
    let device = device::parse(&args.common.device)?;
    let limits = Limits {
        train: profile.train_images,
        test: profile.test_images,
        holdout: args.common.holdout,
        image_size: args.common.image_size,
        prepared: None,
    };
    let chosen = |counts, input: &InputSpec| -> Result<Fitted> {
        let speed = speed(device, &args)?;
        let fitted = match args.budget {
            Some(budget) => fit(
                &profile,
                &experiments,
                counts,
                input,
                device,
                &speed,
                budget,
            )?,
            None => as_it_is(&profile, seeds),
        };
        let plan = plan(&fitted.profile, &experiments, counts, input, device, &speed)?;
        show_plan(&plan, &args.profile, &fitted);
        Ok(fitted)
    };
    let missing = to_download(&args.common.data, &root());
    if let Some((what, input)) = missing.filter(|_| args.dry_run) {
        eprintln!("data: {what} would be downloaded into data/");
        let counts = Counts {
            train: limits.train.unwrap_or(50_000),
            test: limits.test.unwrap_or(10_000),
        };
        chosen(counts, &input)?;
        return Ok(());
    }
    let data = Data::load(&args.common.data, &root(), limits)?;
    let counts = Counts {
        train: data.train.len(),
        test: data.test.len(),
    };
    say_data(&data, device);
    let fitted = chosen(counts, &data.input())?;
    if args.dry_run {
        return Ok(());
    }
    let profile = fitted.profile;
    let mut shown = profile.clone();
    shown.baseline = profile.baseline.iter().map(passed_on).collect();
    let profile_name = file_name(Path::new(&args.profile));
    let base = args.base.clone().unwrap_or_default();
    let budget = args.budget.map_or_else(String::new, |budget| {
        format!("in {}", humantime::format_duration(budget))
    });
    let request = Request {
        out: args.common.out.unwrap_or_else(|| {
            default_out(&[&profile_name, &base, &args.experiment, &budget], &data)
        }),
        profile: profile_name.clone(),
        experiments: experiments.clone(),
        recipes: vec![RecipeText {
            name: profile_name,
            text: toml::to_string(&shown)?,
        }],
        precision: precision(&profile.trains(), device),
        seeds: (0..profile.seeds as u64).collect(),
        root: root(),
    };
    watch_for_stops()?;
    let notes = data.normalisation_notes(&profile.baseline);
    let mut run = Run::start(request, data, device)?;
    run.info.notes.extend(fitted.notes);
    note(&mut run, notes);
    not_run.extend(fitted.dropped.into_iter().map(|name| NotRun {
        what: format!("{name} and everything that starts from it"),
        why: "not enough time in the budget".to_owned(),
    }));
    run.info.not_run = not_run;
    run.write_info()?;
    run_all(&mut run, &profile, &experiments)?;
    finish(&mut run)
}

/// The profile with what `--base` leaves of it, and what does not run because of that.
fn chosen_profile(args: &ExperimentArgs, experiments: &[String]) -> Result<(Profile, Vec<NotRun>)> {
    let mut profile = Profile::load(&args.profile)?;
    if let Some(base) = &args.base {
        profile = profile.only(base)?;
    }
    let empty: Vec<&String> = experiments.iter().filter(|e| !profile.has(e)).collect();
    ensure!(
        empty.len() < experiments.len() && (empty.is_empty() || args.experiment == "all"),
        "the profile {}{} has nothing for `{}`",
        args.profile,
        args.base
            .as_ref()
            .map_or_else(String::new, |base| format!(" with --base {base}")),
        args.experiment
    );
    let mut not_run: Vec<NotRun> = empty
        .into_iter()
        .map(|experiment| NotRun {
            what: experiment.clone(),
            why: "the profile has nothing for it".to_owned(),
        })
        .collect();
    if let Some(base) = &args.base {
        not_run.push(NotRun {
            what: format!("what does not start from {base}"),
            why: "--base".to_owned(),
        });
    }
    Ok((profile, not_run))
}

fn train(args: TrainArgs) -> Result<()> {
    let mut recipe = Recipe::load(&args.recipe)?;
    if args.weights.is_some() {
        recipe.weights = args.weights;
    }
    normalise(&mut recipe, &args.common)?;
    let device = device::parse(&args.common.device)?;
    let limits = Limits {
        holdout: args.common.holdout,
        image_size: args.common.image_size,
        ..Limits::default()
    };
    let data = Data::load(&args.common.data, &root(), limits)?;
    say_data(&data, device);
    let seeds: Vec<u64> = (0..args.seeds).map(|i| args.seed.wrapping_add(i)).collect();
    let request = Request {
        out: args.common.out.unwrap_or_else(|| {
            let seed = format!("seed {}", args.seed);
            let seeds = format!("{} seeds", args.seeds);
            let mut parts = vec!["train", &recipe.name, &seed];
            if args.seeds > 1 {
                parts.push(&seeds);
            }
            default_out(&parts, &data)
        }),
        profile: "train".to_owned(),
        experiments: vec!["train".to_owned()],
        recipes: vec![RecipeText {
            name: recipe.name.clone(),
            text: toml::to_string(&passed_on(&recipe))?,
        }],
        precision: precision(&[&recipe.train], device),
        seeds: seeds.clone(),
        root: root(),
    };
    watch_for_stops()?;
    let notes = data.normalisation_notes(std::slice::from_ref(&recipe));
    let mut run = Run::start(request, data, device)?;
    note(&mut run, notes);
    run.write_info()?;
    for seed in seeds {
        let label = Label {
            experiment: "train".to_owned(),
            variant: recipe.name.clone(),
            seed,
        };
        let trained = train_recipe(&mut run, &recipe, &label)?;
        if let Some(quantize) = &recipe.quantize {
            quantize_recipe(&mut run, &recipe, quantize, &trained)?;
        }
    }
    finish(&mut run)
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn report(args: &ReportArgs) -> Result<()> {
    for file in rewrite_report(&args.dir)? {
        println!("{}", file.display());
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn finish(run: &mut Run) -> Result<()> {
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

/// All of a profile.
fn as_it_is(profile: &Profile, seeds: usize) -> Fitted {
    Fitted {
        profile: Profile {
            seeds,
            ..profile.clone()
        },
        notes: Vec::new(),
        dropped: Vec::new(),
    }
}

/// How fast this machine is. Only a budget is worth the seconds of a measurement.
fn speed(device: tch::Device, args: &ExperimentArgs) -> Result<Speed> {
    if args.budget.is_some() && !args.dry_run {
        return kept_or_measured(device);
    }
    Ok(kept(device)?.unwrap_or_else(|| Speed::assumed(device)))
}

fn show_plan(plan: &Plan, profile: &str, fitted: &Fitted) {
    let seeds = fitted.profile.seeds;
    eprintln!(
        "plan: profile {profile}, {seeds} {}",
        if seeds == 1 { "seed" } else { "seeds" }
    );
    for note in &fitted.notes {
        eprintln!("  {note}");
    }
    for item in &plan.items {
        eprintln!(
            "  {:<10} {:<52} about {}",
            item.experiment,
            item.what,
            HumanDuration(Duration::from_secs_f64(item.seconds))
        );
    }
    let total = plan.seconds() * seeds as f64;
    eprintln!(
        "expected in all: about {} on {} {}",
        HumanDuration(Duration::from_secs_f64(total)),
        threads(),
        if threads() == 1 { "thread" } else { "threads" },
    );
}

fn say_data(data: &Data, device: tch::Device) {
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
fn notice(data: &Data) -> Option<String> {
    let text = opt_report::notice(&data.info)?;
    let rule = "!".repeat(78);
    Some(format!("{rule}\n!! NOTICE: {text}\n{rule}"))
}

/// Sets the normalisation that the command line names, if it does.
fn normalise(recipe: &mut Recipe, common: &Common) -> Result<()> {
    check_normalisation(common.mean.as_deref(), common.std.as_deref())
        .context("in --mean and --std")?;
    if common.mean.is_some() {
        recipe.mean.clone_from(&common.mean);
        recipe.std.clone_from(&common.std);
    }
    Ok(())
}

/// Prints notes and keeps them for `run.json` and the report.
fn note(run: &mut Run, notes: Vec<String>) {
    for note in notes {
        eprintln!("{note}");
        run.info.notes.push(note);
    }
}

/// The arithmetic of all phases of training.
fn precision(trains: &[&Train], device: tch::Device) -> String {
    let mut names: Vec<&str> = trains.iter().map(|t| t.precision_name(device)).collect();
    names.retain(|n| !n.is_empty());
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [] => "nothing is trained".to_owned(),
        names => format!("{} NHWC", names.join(" and ")),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A recipe for `run.json`, which names the checkpoint but not the folder that only this machine has.
fn passed_on(recipe: &Recipe) -> Recipe {
    let name = |path: &PathBuf| path.file_name().map(PathBuf::from);
    Recipe {
        weights: recipe.weights.as_ref().and_then(name),
        ..recipe.clone()
    }
}

/// The repository: where `data/` and the commit are.
fn root() -> PathBuf {
    match std::env::var_os("OPT_ROOT") {
        Some(root) => root.into(),
        None => std::env::current_dir().unwrap_or_else(|_| Path::new(".").to_owned()),
    }
}

/// The same for the same command, so that it finds what it left.
fn default_out(parts: &[&str], data: &Data) -> PathBuf {
    let mut name = parts.join(" ").replace(".toml", "");
    name += &format!(" {}", data.info.name);
    if data.holdout {
        name += " holdout";
    }
    Path::new("experiments").join(slug(&name))
}

/// Says what a stop costs, then ends as the signal would have.
fn watch_for_stops() -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        assert!(experiment_help().contains("pipeline"));
    }

    #[test]
    fn the_recipe_in_the_help_is_one() {
        let text = TRAIN_HELP.split_once('\n').unwrap().1;
        let mut recipe: Recipe = toml::from_str(text).unwrap();
        recipe.check().unwrap();
        assert!(recipe.quantize.is_some());
        recipe.weights = Some("/somewhere/else/start.safetensors".into());
        let weights = passed_on(&recipe).weights.unwrap();
        assert_eq!(weights, Path::new("start.safetensors"));
    }
}
