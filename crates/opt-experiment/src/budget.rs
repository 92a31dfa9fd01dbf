//! A profile for the time given: more seeds where there is time, fewer epochs and then fewer networks where there is not.

use std::time::Duration;

use anyhow::{Result, bail};
use humantime::format_duration;
use opt_core::Task;
use tch::Device;

use crate::experiment::Experiment;
use crate::plan::{Counts, Machine, plan};
use crate::profile::Profile;
use crate::speed::Speed;

/// A profile that fits into a budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// What is left of the profile, with its seeds and epochs: run as it is, it needs no budget.
    pub profile: Profile,
    /// What was decided, in words.
    pub notes: Vec<String>,
    /// The baselines that were left out, with everything that starts from them.
    pub dropped: Vec<String>,
}

/// The share of a budget that is planned; the rest is for what the estimate does not know.
const PLANNED: f64 = 0.9;
/// Where there is time, this many seeds at most, unless the profile has more.
const MOST_SEEDS: usize = 5;
/// Epochs are scaled to this many hundredths at least.
const LEAST_PERCENT: usize = 25;

/// Fits a profile into a budget: the first of these that takes at most nine tenths of it.
///
/// 1. All epochs, with as many seeds as there is time for: at most 5, or the profile's own number if that is larger.
/// 2. One seed, and all epochs times the largest common factor from 0.99 down to 0.25. A phase keeps at least one epoch, and
///    each round of iterative pruning is one.
/// 3. The same two without the most expensive network and all that starts from it, then without the next one. A network
///    stays if some experiment would have nothing left.
///
/// The result depends on nothing but the arguments. More budget never gives fewer networks, and of the same networks never
/// fewer epochs × seeds.
///
/// # Errors
///
/// Nothing fits: names the least budget that would do. Or a network cannot be built.
pub fn fit(
    profile: &Profile,
    experiments: &[Experiment],
    counts: Counts,
    task: &Task,
    device: Device,
    speed: &Speed,
    budget: Duration,
) -> Result<Fitted> {
    let on = Machine::new(profile, counts, task, device, *speed)?;
    fit_on(profile, experiments, &on, budget)
}

fn fit_on(
    profile: &Profile,
    experiments: &[Experiment],
    on: &Machine,
    budget: Duration,
) -> Result<Fitted> {
    let seconds = |profile: &Profile| -> Result<f64> {
        Ok(plan(&profile.stages(experiments)?, on)?.seconds())
    };
    let usable = PLANNED * budget.as_secs_f64();
    let mut rest = profile.clone();
    let mut dropped = Vec::new();
    loop {
        let most_seeds = profile.seeds.max(MOST_SEEDS);
        if let Some(size) = size_within(&rest, usable, most_seeds, seconds)? {
            let mut fitted = scaled(&rest, size.percent);
            fitted.seeds = size.seeds;
            let planned = seconds(&fitted)? * size.seeds as f64;
            return Ok(Fitted {
                notes: vec![words(profile, size, &dropped, budget, planned)],
                profile: fitted,
                dropped,
            });
        }
        let Some((name, smaller)) = without_most_expensive(&rest, experiments, seconds)? else {
            let least = seconds(&scaled(&rest, LEAST_PERCENT))? / PLANNED;
            bail!(
                "a budget of {} is too short: {} need {} with one seed and as few epochs as possible{}; give that much, ask \
                 for one experiment, or name a smaller --profile",
                format_duration(budget),
                words_of(experiments),
                // Rounded up: what is named is enough.
                format_duration(Duration::try_from_secs_f64(least.ceil()).unwrap_or(Duration::MAX)),
                without(&dropped),
            );
        };
        dropped.push(name);
        rest = smaller;
    }
}

/// How much of a profile is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    seeds: usize,
    /// Epochs, in hundredths of the profile's.
    percent: usize,
}

/// The largest size that takes at most `usable` seconds, if one does.
fn size_within(
    profile: &Profile,
    usable: f64,
    most_seeds: usize,
    seconds: impl Fn(&Profile) -> Result<f64>,
) -> Result<Option<Size>> {
    let whole = seconds(profile)?;
    let seeds = (1..=most_seeds).rev().find(|n| *n as f64 * whole <= usable);
    if let Some(seeds) = seeds {
        let percent = 100;
        return Ok(Some(Size { seeds, percent }));
    }
    let fits = |percent| Ok::<_, anyhow::Error>(seconds(&scaled(profile, percent))? <= usable);
    if !fits(LEAST_PERCENT)? {
        return Ok(None);
    }
    let (mut percent, mut too_much) = (LEAST_PERCENT, 100);
    while percent + 1 < too_much {
        let middle = usize::midpoint(percent, too_much);
        match fits(middle)? {
            true => percent = middle,
            false => too_much = middle,
        }
    }
    Ok(Some(Size { seeds: 1, percent }))
}

/// The profile with every phase's epochs scaled, to the nearest epoch.
fn scaled(profile: &Profile, percent: usize) -> Profile {
    let mut profile = profile.clone();
    for epochs in profile.epochs_mut() {
        if *epochs > 0 {
            *epochs = ((*epochs * percent + 50) / 100).max(1);
        }
    }
    profile
}

/// The network whose removal saves the most time among those that can be spared, and what is left without it; of equals the
/// first.
fn without_most_expensive(
    profile: &Profile,
    experiments: &[Experiment],
    seconds: impl Fn(&Profile) -> Result<f64>,
) -> Result<Option<(String, Profile)>> {
    let before = seconds(profile)?;
    let mut most: Option<(f64, String, Profile)> = None;
    for recipe in &profile.baseline {
        let smaller = without_network(profile, &recipe.name);
        let emptied = |e: &Experiment| profile.has(*e) && !smaller.has(*e);
        let saved = before - seconds(&smaller)?;
        let least = most.as_ref().map_or(0.0, |(saved, ..)| *saved);
        if !experiments.iter().any(emptied) && saved > least {
            most = Some((saved, recipe.name.clone(), smaller));
        }
    }
    Ok(most.map(|(_, name, smaller)| (name, smaller)))
}

/// The profile without a baseline and every block that starts from it.
fn without_network(profile: &Profile, name: &str) -> Profile {
    let mut profile = profile.clone();
    profile.baseline.retain(|recipe| recipe.name != name);
    profile.retain_blocks(|block| block.base() != name && block.teacher() != Some(name));
    profile
}

fn words_of(experiments: &[Experiment]) -> String {
    let names: Vec<&str> = experiments.iter().map(|e| e.name()).collect();
    names.join(", ")
}

/// `budget 30m: 1 seed, epochs × 0.60, without source; 26m planned, the rest in reserve`.
fn words(
    profile: &Profile,
    size: Size,
    dropped: &[String],
    budget: Duration,
    planned: f64,
) -> String {
    let count = |n: usize| format!("{n} {}", if n == 1 { "seed" } else { "seeds" });
    let instead = match size.seeds == profile.seeds {
        true => String::new(),
        false => format!(" instead of {}", profile.seeds),
    };
    let epochs = match size.percent {
        100 => "all epochs".to_owned(),
        percent => format!("epochs × {:.2}", percent as f64 / 100.0),
    };
    let unit = match planned {
        s if s < 120.0 => 1.0,
        s if s < 3600.0 => 10.0,
        _ => 60.0,
    };
    let planned = Duration::try_from_secs_f64((planned / unit).ceil() * unit);
    format!(
        "budget {}: {}{instead}, {epochs}{}; {} planned, the rest in reserve",
        format_duration(budget),
        count(size.seeds),
        without(dropped),
        format_duration(planned.unwrap_or(Duration::MAX)),
    )
}

fn without(dropped: &[String]) -> String {
    match dropped {
        [] => String::new(),
        names => format!(", without {}", names.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::experiment::Experiment::{Baseline, Prune};

    /// Two networks of 10 and 20 epochs, everything else on the second; an epoch of either takes ten seconds, evaluation
    /// no time.
    fn profile() -> Profile {
        Profile::parse(
            r#"
about = "for tests"
seeds = 2
calibration_images = 10

[[baseline]]
name = "side"
model = "airbench_8_16_16"
[baseline.train]
epochs = 20
lr = 0.1
precision = "f32"

[[baseline]]
name = "main"
model = "airbench_8_16_16"
[baseline.train]
epochs = 10
lr = 0.1
precision = "f32"

[[prune]]
base = "main"
sparsities = [0.5]
rounds = 2
round_epochs = 3
scopes = ["global"]
[prune.fine_tune]
epochs = 2
lr = 0.1
precision = "f32"
"#,
        )
        .unwrap()
    }

    fn machine() -> Machine {
        Machine {
            counts: Counts {
                train: 1000,
                test: 1,
            },
            device: Device::Cpu,
            speed: Speed {
                bf16_training: f64::NAN,
                f32_training: 1e5,
                f32_forward: f64::INFINITY,
            },
            macs: ["side", "main"].map(|n| (n.to_owned(), 1000.0)).into(),
        }
    }

    fn epochs(profile: &Profile) -> Vec<usize> {
        profile.trains().iter().map(|train| train.epochs).collect()
    }

    #[test]
    fn a_profile_fits_into_the_time_given() {
        struct Case {
            experiments: &'static [Experiment],
            seconds: u64,
            seeds: usize,
            epochs: &'static [usize],
            note: &'static str,
        }
        let cases = [
            // 300 s for the baselines, 50 + 20 + 50 s for pruning: 420 s a seed; nine tenths of the budget count.
            Case {
                experiments: &[Baseline, Prune],
                seconds: 934,
                seeds: 2,
                epochs: &[20, 10, 2],
                note: "budget 15m 34s: 2 seeds, all epochs; 14m planned, the rest in reserve",
            },
            Case {
                experiments: &[Baseline, Prune],
                seconds: 933,
                seeds: 1,
                epochs: &[20, 10, 2],
                note: "budget 15m 33s: 1 seed instead of 2, all epochs; 7m planned, the rest in reserve",
            },
            // Never more than five seeds.
            Case {
                experiments: &[Baseline, Prune],
                seconds: 86_400,
                seeds: 5,
                epochs: &[20, 10, 2],
                note: "budget 1day: 5 seeds instead of 2, all epochs; 35m planned, the rest in reserve",
            },
            // 270 s: at 0.68 there would be 14 + 7 + 2·2 + 3·1 epochs, at 0.67 13 + 7 + 2·2 + 3·1.
            Case {
                experiments: &[Baseline, Prune],
                seconds: 300,
                seeds: 1,
                epochs: &[13, 7, 1],
                note: "budget 5m: 1 seed instead of 2, epochs × 0.67; 4m 30s planned, the rest in reserve",
            },
            // 6 + 3 + 2·1 + 3·1 epochs, hardly more than at a quarter: a round has one.
            Case {
                experiments: &[Baseline, Prune],
                seconds: 156,
                seeds: 1,
                epochs: &[6, 3, 1],
                note: "budget 2m 36s: 1 seed instead of 2, epochs × 0.32; 2m 20s planned, the rest in reserve",
            },
            // Too little for both networks; without the first there is time for 5 + 2·2 + 3·1 epochs.
            Case {
                experiments: &[Baseline, Prune],
                seconds: 144,
                seeds: 1,
                epochs: &[5, 1],
                note: "budget 2m 24s: 1 seed instead of 2, epochs × 0.54, without side; 2m planned, the rest in reserve",
            },
            // Only what the experiments train counts: `prune` needs no `side`.
            Case {
                experiments: &[Prune],
                seconds: 245,
                seeds: 1,
                epochs: &[20, 10, 2],
                note: "budget 4m 5s: 1 seed instead of 2, all epochs; 3m 40s planned, the rest in reserve",
            },
        ];
        for case in cases {
            let budget = Duration::from_secs(case.seconds);
            let fitted = fit_on(&profile(), case.experiments, &machine(), budget).unwrap();
            assert_eq!(fitted.profile.seeds, case.seeds, "{:?}", fitted.notes);
            assert_eq!(epochs(&fitted.profile), case.epochs, "{:?}", fitted.notes);
            assert_eq!(fitted.notes, [case.note]);
        }
    }

    #[test]
    fn what_cannot_be_fitted_names_the_time_that_would_do() {
        let fit = |experiments: &[Experiment], seconds| {
            let budget = Duration::from_secs(seconds);
            fit_on(&profile(), experiments, &machine(), budget)
        };
        // Without `side`, 3 + 2·1 + 3·1 epochs are 80 s.
        let error = fit(&[Baseline, Prune], 88).unwrap_err().to_string();
        assert_eq!(
            error,
            "a budget of 1m 28s is too short: baseline, prune need 1m 29s with one seed and as few epochs as possible, \
             without side; give that much, ask for one experiment, or name a smaller --profile"
        );
        let fitted = fit(&[Baseline, Prune], 89).unwrap();
        assert_eq!(fitted.dropped, ["side"]);
        assert_eq!(epochs(&fitted.profile), [3, 1]);
        // `main` is all that `prune` has; it stays, and `side` costs `prune` nothing.
        let error = fit(&[Prune], 0).unwrap_err().to_string();
        assert!(!error.contains("without side"), "{error}");
        // Of the baselines alone one must stay: the cheaper one, 3 epochs.
        let error = fit(&[Baseline], 1).unwrap_err().to_string();
        assert!(error.contains("baseline need 34s with one seed"), "{error}");
    }

    #[test]
    fn a_network_leaves_with_everything_that_starts_from_it() {
        let quick = Profile::built_in("quick").unwrap();
        let rest = without_network(&quick, "airbench-s");
        assert!(rest.distill.is_empty() && rest.recipe("airbench-s").is_err());
        assert_eq!((rest.prune.len(), rest.pipeline.len()), (1, 1));
        let rest = without_network(&quick, "airbench-m");
        let blocks = rest.prune.len() + rest.quantize.len() + rest.distill.len();
        assert_eq!(blocks + rest.pipeline.len(), 0);
        assert_eq!(rest.baseline.len(), 2);
    }

    #[test]
    fn a_fitted_profile_is_one_that_can_be_run() {
        let task = Task::cifar10();
        let speed = Speed {
            bf16_training: 4e10,
            f32_training: 2e10,
            f32_forward: 5e10,
        };
        let counts = Counts {
            train: 50_000,
            test: 10_000,
        };
        for (name, _) in crate::profile::PROFILES {
            let profile = Profile::built_in(name).unwrap();
            let fit = |seconds| {
                fit(
                    &profile,
                    &Experiment::ALL,
                    counts,
                    &task,
                    Device::Cpu,
                    &speed,
                    Duration::from_secs(seconds),
                )
            };
            let shortest = (0..).map(|n| 60 << n).find_map(|s| fit(s).ok()).unwrap();
            for fitted in [shortest, fit(1_000_000).unwrap()] {
                let text = toml::to_string(&fitted.profile).unwrap();
                assert_eq!(Profile::parse(&text).unwrap(), fitted.profile);
                for experiment in Experiment::ALL {
                    assert!(fitted.profile.has(experiment), "{experiment}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn more_time_never_gives_less(
            name in prop::sample::select(vec!["smoke", "quick", "full"]),
            asked in prop::sample::subsequence(Experiment::ALL.to_vec(), 1..=Experiment::ALL.len()),
            seconds in prop::array::uniform2(60u64..300_000),
        ) {
            let profile = Profile::built_in(name).unwrap();
            // Work of made-up size: more for the first networks of a profile.
            let macs = profile.baseline.iter().zip(1..);
            let on = Machine {
                counts: Counts { train: 50_000, test: 10_000 },
                speed: Speed { bf16_training: 4e10, f32_training: 2e10, f32_forward: 5e10 },
                macs: macs.map(|(r, n)| (r.name.clone(), 8e7 / f64::from(n))).collect(),
                ..machine()
            };
            let fit = |seconds| fit_on(&profile, &asked, &on, Duration::from_secs(seconds)).ok();
            let [shorter, longer] = seconds;
            let (less, more) = (fit(shorter.min(longer)), fit(shorter.max(longer)));
            let Some(less) = less else { return Ok(()) };
            let more = more.unwrap();
            prop_assert!(more.profile.baseline.len() >= less.profile.baseline.len());
            prop_assert!(less.dropped.starts_with(&more.dropped));
            if more.dropped == less.dropped {
                let trained = |fitted: &Fitted| fitted.profile.seeds * epochs(&fitted.profile).iter().sum::<usize>();
                prop_assert!(trained(&more) >= trained(&less));
            }
            for (fitted, budget) in [(&less, shorter.min(longer)), (&more, shorter.max(longer))] {
                let one = plan(&fitted.profile.stages(&asked).unwrap(), &on).unwrap().seconds();
                prop_assert!(one * fitted.profile.seeds as f64 <= PLANNED * budget as f64);
            }
        }
    }
}
