//! Parts of a run: `--shard I/N` runs some of the stages, on a machine of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use anyhow::{Context, Result, ensure};

use super::stage::{StageId, Stages};

/// Which part of how many, from 1: `2/3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartOf {
    /// The part.
    pub part: usize,
    /// How many there are.
    pub of: usize,
}

impl Display for PartOf {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.of)
    }
}

impl FromStr for PartOf {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (part, of) = text.split_once('/')?;
            Some((part.parse().ok()?, of.parse().ok()?))
        };
        let (part, of) = parse().with_context(|| format!("`{text}`, expected I/N such as 1/2"))?;
        ensure!(
            (1..=1000).contains(&of) && (1..=of).contains(&part),
            "`{text}`, expected I/N with I from 1 to N and N at most 1000"
        );
        Ok(Self { part, of })
    }
}

/// The stages of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    own: BTreeMap<u64, BTreeSet<StageId>>,
}

impl Shard {
    /// Divides the stages of all seeds: each belongs to one part, the one that then has the least to do. What a stage needs
    /// and another part has, both train, or the later one takes it from a shared cache. `seconds` are those of each stage on
    /// any one machine; the same on all give the same division.
    #[must_use]
    pub fn new(which: PartOf, stages: &Stages, seeds: &[u64], seconds: &[f64]) -> Self {
        let mut loads: Vec<(f64, BTreeSet<(u64, StageId)>)> =
            vec![(0.0, BTreeSet::new()); which.of];
        let mut own: BTreeMap<u64, BTreeSet<StageId>> = BTreeMap::new();
        for &seed in seeds {
            for ((id, _), _) in stages.iter().zip(seconds) {
                let needs = stages.with_needs([id]);
                let more = |has: &BTreeSet<(u64, StageId)>| -> f64 {
                    let open = stages.iter().zip(seconds);
                    let open =
                        open.filter(|((n, _), _)| needs.contains(n) && !has.contains(&(seed, *n)));
                    open.map(|(_, seconds)| seconds).sum()
                };
                let after = loads.iter().map(|(load, has)| load + more(has));
                let least = after.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
                let Some((part, load)) = least else { continue };
                loads[part].0 = load;
                loads[part].1.extend(needs.iter().map(|n| (seed, *n)));
                if part + 1 == which.part {
                    own.entry(seed).or_default().insert(id);
                }
            }
        }
        Self { own }
    }

    /// Its stages of this seed.
    pub fn of_seed(&self, seed: u64) -> impl Iterator<Item = StageId> {
        self.own.get(&seed).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;
    use crate::profile::{PROFILES, Profile};

    #[test]
    fn every_stage_is_in_one_part() {
        for (name, _) in PROFILES {
            let stages = Profile::built_in(name)
                .unwrap()
                .stages(&Experiment::ALL)
                .unwrap();
            let all: Vec<StageId> = stages.iter().map(|(id, _)| id).collect();
            // Trainings take long, all else is soon done.
            let seconds: Vec<f64> = stages
                .iter()
                .map(|(_, s)| 1.0 + 100.0 * s.work.trains().len() as f64)
                .collect();
            for of in [1, 2, 3, 50] {
                let parts: Vec<Shard> = (1..=of)
                    .map(|part| Shard::new(PartOf { part, of }, &stages, &[0, 7], &seconds))
                    .collect();
                for seed in [0, 7] {
                    let mut found: Vec<StageId> =
                        parts.iter().flat_map(|p| p.of_seed(seed)).collect();
                    found.sort_unstable();
                    assert_eq!(found, all, "{name}: {of}");
                }
            }
            // Two parts share the work: neither has more than three quarters of it.
            let both = |part| Shard::new(PartOf { part, of: 2 }, &stages, &[0, 7], &seconds);
            let whole: f64 = 2.0 * seconds.iter().sum::<f64>();
            for part in [1, 2] {
                let of = |seed| stages.with_needs(both(part).of_seed(seed));
                let ids = [of(0), of(7)];
                let load: f64 = all
                    .iter()
                    .zip(&seconds)
                    .map(|(id, s)| s * ids.iter().filter(|ids| ids.contains(id)).count() as f64)
                    .sum();
                assert!(load < 0.75 * whole, "{name}: {load} of {whole}");
            }
        }
    }

    #[test]
    fn parts_are_numbers_from_one() {
        assert_eq!("2/3".parse::<PartOf>().unwrap().to_string(), "2/3");
        for wrong in [
            "", "1", "0/2", "3/2", "1/0", "1/2/3", "-1/2", "1/1001", "a/b",
        ] {
            let error = wrong.parse::<PartOf>().unwrap_err().to_string();
            assert!(error.contains("expected I/N"), "{wrong}: {error}");
        }
    }
}
