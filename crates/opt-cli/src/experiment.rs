//! `experiment`: a profile's experiments.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use indicatif::HumanDuration;
use opt_core::Task;
use opt_experiment::budget::{Fitted, fit};
use opt_experiment::data::{Data, Limits, to_download};
use opt_experiment::experiment::run_all;
use opt_experiment::plan::{Counts, Plan, plan};
use opt_experiment::profile::{EXPERIMENTS, PROFILES, Profile};
use opt_experiment::run::{Request, Run, threads};
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
    /// Print the plan with its expected time and stop.
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

/// Runs them, or prints what there is.
pub(crate) fn run(options: Options) -> Result<()> {
    if options.lists() {
        #[expect(clippy::print_stdout, reason = "the answer to a question")]
        {
            print!("{}", help());
        }
        return Ok(());
    }
    let names: Vec<&str> = EXPERIMENTS.iter().map(|(n, _)| *n).collect();
    let experiments: Vec<String> = match options.experiment.as_str() {
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
    let chosen = |counts, task: &Task| -> Result<Fitted> {
        let speed = speed(device, &options)?;
        let fitted = match options.budget {
            Some(budget) => fit(&profile, &experiments, counts, task, device, &speed, budget)?,
            None => as_it_is(&profile, seeds),
        };
        let plan = plan(&fitted.profile, &experiments, counts, task, device, &speed)?;
        show_plan(&plan, &options.profile, &fitted);
        Ok(fitted)
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
    let fitted = chosen(counts, &data.task())?;
    if options.dry_run {
        return Ok(());
    }
    let profile = fitted.profile;
    let mut shown = profile.clone();
    shown.baseline = profile.baseline.iter().map(passed_on).collect();
    let profile_name = file_name(Path::new(&options.profile));
    let base = options.base.clone().unwrap_or_default();
    let budget = options.budget.map_or_else(String::new, |budget| {
        format!("in {}", humantime::format_duration(budget))
    });
    let request = Request {
        out: options.common.out.unwrap_or_else(|| {
            default_out(&[&profile_name, &base, &options.experiment, &budget], &data)
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
fn chosen_profile(options: &Options, experiments: &[String]) -> Result<(Profile, Vec<NotRun>)> {
    let mut profile = Profile::load(&options.profile)?;
    if let Some(base) = &options.base {
        profile = profile.only(base)?;
    }
    let empty: Vec<&String> = experiments.iter().filter(|e| !profile.has(e)).collect();
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
            what: experiment.clone(),
            why: "the profile has nothing for it".to_owned(),
        })
        .collect();
    if let Some(base) = &options.base {
        not_run.push(NotRun {
            what: format!("what does not start from {base}"),
            why: "--base".to_owned(),
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
