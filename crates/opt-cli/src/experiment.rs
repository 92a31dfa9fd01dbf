//! `experiment`: a profile's experiments.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use indicatif::HumanDuration;
use opt_core::Task;
use opt_experiment::budget::{Fitted, fit};
use opt_experiment::data::{Data, Limits, to_download};
use opt_experiment::experiment::shard::{PartOf, Shard};
use opt_experiment::experiment::stage::Stages;
use opt_experiment::experiment::{Experiment, run_stages};
use opt_experiment::folder::Request;
use opt_experiment::machine::threads;
use opt_experiment::plan::{Cost, Counts, Machine, costs, plan};
use opt_experiment::profile::{PROFILES, Profile};
use opt_experiment::run::Run;
use opt_experiment::speed::{Speed, kept, kept_or_measured};
use opt_nn::device;
use opt_report::{NotRun, RecipeText};

use crate::common::{Common, default_out, file_name, normalise, passed_on, precision, root};
use crate::session::{finish, note, say_data, watch_for_stops};

/// The command line.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One of the experiments, `all`, or `list` to see what there is.
    #[arg(default_value = "list")]
    experiment: String,
    /// How much is run: one of the profiles below, or a file of your own (see crates/opt-experiment/profiles).
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
    /// Only part I of N, for a machine of its own: N runs, I from 1 to N, and `report` that joins them give what one run
    /// gives. Share `OPT_CACHE_DIR` between them, and what several need is trained once.
    #[arg(long, value_name = "I/N", conflicts_with = "budget")]
    shard: Option<PartOf>,
    /// Print every stage with its expected time and stop.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

impl Options {
    /// Whether only the list of what there is was asked for.
    pub(crate) fn lists(&self) -> bool {
        self.experiment == "list"
    }
}

/// The experiments and profiles that there are.
pub(crate) fn help() -> String {
    let mut help = "Experiments:\n".to_owned();
    for experiment in Experiment::ALL {
        help += &format!("  {experiment:<10} {}\n", experiment.about());
    }
    help += "\nProfiles:\n";
    for (name, _) in PROFILES {
        let about = Profile::built_in(name).map(|p| p.about).unwrap_or_default();
        help += &format!("  {name:<10} {about}\n");
    }
    help
}

/// Runs them, or prints what there is.
pub(crate) fn run(options: Options) -> Result<()> {
    if options.lists() {
        #[expect(clippy::print_stdout, reason = "the answer to a question")]
        {
            print!("{}", help());
        }
        return Ok(());
    }
    let experiments: Vec<Experiment> = match options.experiment.as_str() {
        "all" => Experiment::ALL.to_vec(),
        one => vec![
            one.parse()
                .map_err(|e| anyhow::anyhow!("{e}, all and list"))?,
        ],
    };
    let (mut profile, mut not_run) = chosen_profile(&options, &experiments)?;
    for recipe in &mut profile.baseline {
        normalise(recipe, &options.common)?;
    }
    let seeds = options.seeds.unwrap_or(profile.seeds);
    ensure!(
        (1..=1000).contains(&seeds),
        "--seeds is {seeds}, expected 1 to 1000"
    );
    let device = device::parse(&options.common.device)?;
    let limits = Limits {
        train: profile.train_images,
        test: profile.test_images,
        holdout: options.common.holdout,
        image_size: options.common.image_size,
        prepared: None,
    };
    let chosen = |counts, task: &Task| -> Result<(Fitted, Stages)> {
        let speed = speed(device, &options)?;
        let fitted = match options.budget {
            Some(budget) => fit(&profile, &experiments, counts, task, device, &speed, budget)?,
            None => as_it_is(&profile, seeds),
        };
        let stages = fitted.profile.stages(&experiments)?;
        let on = Machine::new(&fitted.profile, counts, task, device, speed)?;
        show_plan(&stages, &on, &options, &fitted)?;
        Ok((fitted, stages))
    };
    let missing = to_download(&options.common.data, &root());
    if let Some((what, task)) = missing.filter(|_| options.dry_run) {
        eprintln!("data: {what} would be downloaded into data/");
        let counts = Counts {
            train: limits.train.unwrap_or(50_000),
            test: limits.test.unwrap_or(10_000),
        };
        chosen(counts, &task)?;
        return Ok(());
    }
    let data = Data::load(&options.common.data, &root(), limits)?;
    let counts = Counts {
        train: data.train.len(),
        test: data.test.len(),
    };
    say_data(&data, device);
    let (fitted, stages) = chosen(counts, &data.task())?;
    if options.dry_run {
        return Ok(());
    }
    let profile = fitted.profile;
    let seeds: Vec<u64> = (0..profile.seeds as u64).collect();
    let shard = match options.shard {
        Some(which) => Some(divided(which, &stages, &profile, &data, &seeds)?),
        None => None,
    };
    let mut shown = profile.clone();
    shown.baseline = profile.baseline.iter().map(passed_on).collect();
    let profile_name = file_name(Path::new(&options.profile));
    let base = options.base.clone().unwrap_or_default();
    let budget = options.budget.map_or_else(String::new, |budget| {
        format!("in {}", humantime::format_duration(budget))
    });
    let part = options.shard.map_or_else(String::new, |part| {
        format!("part {} of {}", part.part, part.of)
    });
    let request = Request {
        shard: options.shard.map(|part| opt_report::Shard {
            part: part.part,
            of: part.of,
            files: stages.files(&seeds),
        }),
        out: options.common.out.unwrap_or_else(|| {
            default_out(
                &[&profile_name, &base, &options.experiment, &budget, &part],
                &data,
            )
        }),
        profile: profile_name.clone(),
        experiments: experiments.iter().map(ToString::to_string).collect(),
        recipes: vec![RecipeText {
            name: profile_name,
            text: toml::to_string(&shown)?,
        }],
        precision: precision(&profile.trains(), device),
        seeds,
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
        file: None,
    }));
    run.info.not_run = not_run;
    run.write_info()?;
    run_stages(&mut run, &stages, shard.as_ref())?;
    finish(&mut run)
}

/// The profile with what `--base` leaves of it, and what does not run because of that.
fn chosen_profile(options: &Options, experiments: &[Experiment]) -> Result<(Profile, Vec<NotRun>)> {
    let mut profile = Profile::load(&options.profile)?;
    if let Some(base) = &options.base {
        profile = profile.only(base)?;
    }
    let all = experiments.iter().copied();
    let empty: Vec<Experiment> = all.filter(|e| !profile.has(*e)).collect();
    ensure!(
        empty.len() < experiments.len() && (empty.is_empty() || options.experiment == "all"),
        "the profile {}{} has nothing for `{}`",
        options.profile,
        options
            .base
            .as_ref()
            .map_or_else(String::new, |base| format!(" with --base {base}")),
        options.experiment
    );
    let mut not_run: Vec<NotRun> = empty
        .into_iter()
        .map(|experiment| NotRun {
            what: experiment.to_string(),
            why: "the profile has nothing for it".to_owned(),
            file: None,
        })
        .collect();
    if let Some(base) = &options.base {
        not_run.push(NotRun {
            what: format!("what does not start from {base}"),
            why: "--base".to_owned(),
            file: None,
        });
    }
    Ok((profile, not_run))
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
fn speed(device: tch::Device, options: &Options) -> Result<Speed> {
    if options.budget.is_some() && !options.dry_run {
        return kept_or_measured(device);
    }
    Ok(kept(device)?.unwrap_or_else(|| Speed::assumed(device)))
}

/// The part of the stages that `--shard` names. It does not depend on this machine: all parts are cut from the same whole.
fn divided(
    which: PartOf,
    stages: &Stages,
    profile: &Profile,
    data: &Data,
    seeds: &[u64],
) -> Result<Shard> {
    let counts = Counts {
        train: data.train.len(),
        test: data.test.len(),
    };
    let device = tch::Device::Cpu;
    let speed = Speed::assumed(device);
    let on = Machine::new(profile, counts, &data.task(), device, speed)?;
    let seconds: Vec<f64> = costs(stages, &on)?.iter().map(|c| c.seconds).collect();
    Ok(Shard::new(which, stages, seeds, &seconds))
}

/// Prints what will be done: every stage for `--dry-run`, else a line for each experiment and network.
fn show_plan(stages: &Stages, on: &Machine, options: &Options, fitted: &Fitted) -> Result<()> {
    let seeds = fitted.profile.seeds;
    eprintln!(
        "plan: profile {}, {}",
        options.profile,
        count(seeds, "seed")
    );
    for note in &fitted.notes {
        eprintln!("  {note}");
    }
    let plan = plan(stages, on)?;
    if options.dry_run {
        for ((_, stage), Cost { epochs, seconds }) in stages.iter().zip(costs(stages, on)?) {
            let what = match epochs {
                0 => String::new(),
                _ => format!(", {}", count(epochs, "epoch")),
            };
            let name = format!("{}{what}", stage.name);
            line(stage.experiment, &name, seconds);
        }
    } else {
        for item in &plan.items {
            let networks = count(item.networks, "network");
            let what = format!("{}: {networks}, {}", item.base, count(item.epochs, "epoch"));
            line(item.experiment, &what, item.seconds);
        }
    }
    let total = plan.seconds() * seeds as f64;
    eprintln!(
        "expected in all: about {} on {}",
        HumanDuration(Duration::from_secs_f64(total)),
        count(threads(), "thread"),
    );
    Ok(())
}

fn line(experiment: &str, what: &str, seconds: f64) {
    let time = HumanDuration(Duration::from_secs_f64(seconds));
    eprintln!("  {experiment:<10} {what:<60} about {time}");
}

/// `1 epoch`, `3 epochs`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_experiments_and_profiles() {
        let help = help();
        for name in ["pipeline", "quick"] {
            assert!(help.contains(&format!("  {name} ")), "{help}");
        }
    }
}
