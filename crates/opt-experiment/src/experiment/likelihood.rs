//! Importance by likelihood: what the criteria say against what removal costs in log-likelihood, measured by removing.
//!
//! The change is that of the loss, −log P: positive where likelihood is lost. Like is compared with like: criteria without a
//! sign with the size of the change, signed approximations with the change. The gradients are those of some training images, the
//! change is measured on others. Removed are single weights, random sets of
//! weights, and whole channels.

use std::collections::BTreeMap;

use anyhow::Result;
use opt_core::{GradientSums, Model};
use opt_nn::Net;
use opt_nn::evaluate::evaluate;
use opt_nn::gradients::gradient_sums;
use opt_prune::score::ablation::{Unit, loss_changes};
use opt_prune::score::{channel_loss_changes, random, taylor};
use opt_prune::{
    Criterion, Norm, TaylorForm, gates, prunable_channels, rank_correlation, score, score_channels,
};
use opt_report::write_atomic;
use serde::{Deserialize, Serialize};

use super::stage::Stage;
use crate::identity::Identity;
use crate::run::{Measured, Run};

/// Images for gradients, and as many others for the change of likelihood.
const IMAGES: usize = 256;
/// A random set holds this share of all weights.
const SET_SHARE: usize = 100;
/// The seed of random scores, and with another name of random sets.
const SEED: u64 = 0;

/// Removes weights, sets of weights and channels one by one, measures what each removal costs in log-likelihood, and compares
/// the order with that of the criteria. Writes `likelihood-NAME-sSEED.json`.
pub(super) fn run(
    run: &mut Run,
    stage: &Stage,
    base: &Measured,
    weights: usize,
    sets: usize,
) -> Result<()> {
    let name = format!("likelihood-{}-s{}.json", stage.recipe, base.line.seed);
    let path = run.out.join(name);
    let images = Images::spread(run.data.train.len());
    let key = Identity::default()
        .with("code", env!("OPT_PRUNING_CODE"))
        .with("base", &base.line.key)
        .with("images", (images.gradient.len(), images.measured.len()))
        .with("data", &run.data.train_hash)
        .with("units", (weights, sets, SEED))
        .hash();
    let earlier = std::fs::read(&path).ok();
    let earlier = earlier.and_then(|text| serde_json::from_slice::<Likelihood>(&text).ok());
    let found = match earlier.filter(|e| e.key == key) {
        Some(earlier) => earlier,
        None => {
            let found = measure(run, base, (weights, sets), &images)?;
            Likelihood { key, ..found }
        }
    };
    eprintln!("  {}", found.words());
    run.info.notes.push(found.words());
    let mut text = serde_json::to_string_pretty(&found)?;
    text.push('\n');
    Ok(write_atomic(&path, text.as_bytes())?)
}

/// The content of `likelihood-NAME-sSEED.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Likelihood {
    model: String,
    recipe: String,
    seed: u64,
    /// Training images whose gradients the criteria rest on.
    gradient_images: usize,
    /// Other training images, on which the change is measured.
    measured_images: usize,
    /// Which those are.
    images: String,
    /// Single weights, evenly spaced in graph order.
    weights: Ranks,
    /// Random sets of weights that are removed together.
    sets: Ranks,
    /// Output channels with what stands on them until they are read, evenly spaced over all that can be removed.
    channels: Ranks,
    key: String,
}

/// Rank correlations of one kind of units; none where an order is constant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Ranks {
    /// Units of this kind.
    count: usize,
    /// Weights in each; 0 where they differ.
    weights_each: usize,
    /// Of criteria without a sign with the size of the measured change.
    with_size_of_change: BTreeMap<String, Option<f64>>,
    /// Of signed approximations with the measured change.
    with_signed_change: BTreeMap<String, Option<f64>>,
}

impl Likelihood {
    fn words(&self) -> String {
        let list = |ranks: &BTreeMap<String, Option<f64>>| {
            let one = |(name, rho): (&String, &Option<f64>)| match rho {
                Some(rho) => format!("{name} {rho:.2}"),
                None => format!("{name} –"),
            };
            ranks.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let kind = |what: String, ranks: &Ranks| {
            (ranks.count > 0).then(|| {
                format!(
                    "{what}: with the size of the loss {}; with the loss and its sign {}.",
                    list(&ranks.with_size_of_change),
                    list(&ranks.with_signed_change)
                )
            })
        };
        let kinds = [
            kind(
                format!("{} single weights", self.weights.count),
                &self.weights,
            ),
            kind(
                format!(
                    "{} random sets of {} weights",
                    self.sets.count, self.sets.weights_each
                ),
                &self.sets,
            ),
            kind(format!("{} channels", self.channels.count), &self.channels),
        ];
        let kinds: Vec<String> = kinds.into_iter().flatten().collect();
        format!(
            "Importance by likelihood, {}: rank correlations of criteria (gradients of {} training images) with the loss of \
             log-likelihood that removal makes on {} other training images; 1 would be the same order. {}",
            self.recipe,
            self.gradient_images,
            self.measured_images,
            kinds.join(" ")
        )
    }
}

/// Training images by their indices.
#[derive(Debug, Clone, PartialEq)]
struct Images {
    gradient: Vec<usize>,
    measured: Vec<usize>,
}

impl Images {
    /// Two disjoint sets of at most [`IMAGES`] each, evenly spaced over all `n` in turn: images may be sorted by class.
    fn spread(n: usize) -> Self {
        let each = IMAGES.min(n / 2);
        let at = |k: usize| k * n / (2 * each.max(1));
        Self {
            gradient: (0..each).map(|k| at(2 * k)).collect(),
            measured: (0..each).map(|k| at(2 * k + 1)).collect(),
        }
    }
}

fn measure(
    run: &Run,
    base: &Measured,
    (n_weights, n_sets): (usize, usize),
    images: &Images,
) -> Result<Likelihood> {
    let model = &base.model;
    let data = &run.data;
    anyhow::ensure!(
        !images.gradient.is_empty(),
        "{} training images, expected at least 2: gradients and likelihood are taken on different ones",
        data.train.len()
    );
    let device = run.device;
    let mut net = Net::new(model, device)?;
    let sums = gradient_sums(&mut net, data.chosen(&images.gradient, 1), &gates(model)?)?;
    let changes = |units: &[Unit]| {
        loss_changes::<anyhow::Error>(model, units, |model| {
            let net = Net::new(model, device)?;
            let batches = data.chosen(&images.measured, images.measured.len());
            Ok(evaluate(&net, batches)?.nll)
        })
    };
    let of_weights = WeightScores::new(model, &sums)?;

    let single = spaced_weights(model, n_weights);
    let units: Vec<Unit> = single
        .iter()
        .map(|(param, index)| Unit::Weight {
            param: param.clone(),
            index: *index,
        })
        .collect();
    let single: Vec<Vec<(String, usize)>> = single.into_iter().map(|w| vec![w]).collect();
    let weights = of_weights.ranks(&single, &changes(&units)?)?;

    let sets = random_sets(model, n_sets);
    let units: Vec<Unit> = sets.iter().cloned().map(Unit::Weights).collect();
    let sets = of_weights.ranks(&sets, &changes(&units)?)?;

    let channels = channels(model, n_sets, &sums, changes)?;
    Ok(Likelihood {
        model: base.line.model.clone(),
        recipe: base.line.recipe.clone(),
        seed: base.line.seed,
        gradient_images: images.gradient.len(),
        measured_images: images.measured.len(),
        images: format!(
            "of {} training images evenly spaced ones, in turn for gradients and for measuring",
            data.train.len()
        ),
        weights,
        sets,
        channels,
        key: String::new(),
    })
}

/// The criteria that have no sign, by the names that results give them.
fn unsigned() -> [(&'static str, Criterion); 5] {
    [
        ("magnitude |w|", Criterion::Magnitude(Norm::L1)),
        ("Taylor E|g·w|", Criterion::Taylor(TaylorForm::MeanAbs)),
        ("Taylor E(g·w)²", Criterion::Taylor(TaylorForm::MeanSquare)),
        ("Taylor |E(g)·w|", Criterion::Taylor(TaylorForm::AbsMean)),
        ("random", Criterion::Random { seed: SEED }),
    ]
}

const FIRST_ORDER: &str = "first order";
const SECOND_ORDER: &str = "second order (OBD)";
const FIRST_ORDER_SIZE: &str = "|first order|";
const SECOND_ORDER_SIZE: &str = "|second order| (OBD)";

/// Scores of all weights, by the criterion's name and the parameter's, flat.
struct WeightScores {
    unsigned: Vec<(&'static str, BTreeMap<String, Vec<f64>>)>,
    signed: Vec<(&'static str, BTreeMap<String, Vec<f64>>)>,
}

impl WeightScores {
    fn new(model: &Model, sums: &GradientSums) -> Result<Self> {
        let by = |criterion: &Criterion| -> Result<BTreeMap<String, Vec<f64>>> {
            let scores = score(model, criterion, Some(sums))?.into_iter();
            Ok(scores
                .map(|(name, s)| (name, s.iter().map(|v| f64::from(*v)).collect()))
                .collect())
        };
        let unsigned = unsigned().into_iter();
        let unsigned = unsigned
            .map(|(name, criterion)| Ok((name, by(&criterion)?)))
            .collect::<Result<_>>()?;
        let mut first = BTreeMap::new();
        for name in model.weight_names() {
            let n = sums.n_samples as f64;
            let mean = sums.sum_gradient[name].mapv(|v| f64::from(v) / n);
            let change = taylor::loss_change(model.param(name)?.view(), mean.view());
            first.insert(name.to_owned(), change.iter().copied().collect());
        }
        let second = by(&Criterion::ObdDiagonal)?;
        Ok(Self {
            unsigned,
            signed: vec![(FIRST_ORDER, first), (SECOND_ORDER, second)],
        })
    }

    /// A set's score is the sum of its weights' scores; only signed ones can take back in the sum what they gave.
    fn ranks(&self, sets: &[Vec<(String, usize)>], measured: &[f64]) -> Result<Ranks> {
        let sum = |of: &BTreeMap<String, Vec<f64>>| -> Vec<f64> {
            let sum = |set: &Vec<(String, usize)>| set.iter().map(|(p, i)| of[p][*i]).sum();
            sets.iter().map(sum).collect()
        };
        let sums = |of: &[(&'static str, BTreeMap<String, Vec<f64>>)]| -> Vec<_> {
            of.iter()
                .map(|(name, scores)| (*name, sum(scores)))
                .collect()
        };
        let mut ranks = ranks(sums(&self.unsigned), sums(&self.signed), measured);
        ranks.weights_each = sets.first().map_or(0, Vec::len);
        Ok(ranks)
    }
}

/// Unsigned scores and the sizes of signed ones against the size of the measured change, signed ones against the change.
fn ranks(
    mut unsigned: Vec<(&'static str, Vec<f64>)>,
    signed: Vec<(&'static str, Vec<f64>)>,
    measured: &[f64],
) -> Ranks {
    let sizes = |values: &[f64]| -> Vec<f64> { values.iter().map(|v| v.abs()).collect() };
    for (of, size) in [
        (FIRST_ORDER, FIRST_ORDER_SIZE),
        (SECOND_ORDER, SECOND_ORDER_SIZE),
    ] {
        if let Some((_, order)) = signed.iter().find(|(name, _)| *name == of) {
            unsigned.push((size, sizes(order)));
        }
    }
    let against = |scores: Vec<(&str, Vec<f64>)>, measured: &[f64]| {
        let one =
            |(name, order): (&str, Vec<f64>)| (name.to_owned(), rank_correlation(&order, measured));
        scores.into_iter().map(one).collect()
    };
    Ranks {
        count: measured.len(),
        weights_each: 0,
        with_size_of_change: against(unsigned, &sizes(measured)),
        with_signed_change: against(signed, measured),
    }
}

/// Channels that can be removed, evenly spaced, at most `n`: their own criteria against the measured change.
fn channels(
    model: &Model,
    n: usize,
    sums: &GradientSums,
    changes: impl Fn(&[Unit]) -> Result<Vec<f64>>,
) -> Result<Ranks> {
    let mut all: Vec<(String, usize)> = Vec::new();
    for layer in prunable_channels(model)? {
        if layer.blocked.is_none() {
            all.extend((0..layer.channels).map(|channel| (layer.layer.clone(), channel)));
        }
    }
    let n = n.min(all.len());
    let chosen: Vec<&(String, usize)> = (0..n).map(|k| &all[k * all.len() / n]).collect();
    let units: Vec<Unit> = chosen
        .iter()
        .map(|(layer, channel)| Unit::Channel {
            layer: layer.clone(),
            channel: *channel,
        })
        .collect();
    let measured = changes(&units)?;
    let pick = |scores: BTreeMap<String, Vec<f64>>| -> Vec<f64> {
        chosen.iter().map(|(layer, c)| scores[layer][*c]).collect()
    };
    let by = |criterion: &Criterion| -> Result<Vec<f64>> {
        Ok(pick(score_channels(model, criterion, Some(sums))?))
    };
    let unsigned = unsigned().into_iter();
    let unsigned = unsigned
        .map(|(name, criterion)| Ok((name, by(&criterion)?)))
        .collect::<Result<_>>()?;
    let signed = vec![
        (FIRST_ORDER, pick(channel_loss_changes(model, sums)?)),
        (SECOND_ORDER, by(&Criterion::ObdDiagonal)?),
    ];
    Ok(ranks(unsigned, signed, &measured))
}

/// At most `n` weights, evenly spaced over all in graph order.
fn spaced_weights(model: &Model, n: usize) -> Vec<(String, usize)> {
    let names = model.weight_names();
    let total: usize = names.iter().map(|n| model.params[*n].len()).sum();
    let n = n.min(total);
    let mut chosen = Vec::with_capacity(n);
    let mut position = 0;
    for name in names {
        let len = model.params[name].len();
        let first = (position * n).div_ceil(total);
        let end = ((position + len) * n).div_ceil(total);
        chosen.extend((first..end).map(|k| (name.to_owned(), k * total / n - position)));
        position += len;
    }
    chosen
}

/// At most `n` random sets without a weight in common, each of a hundredth of all weights.
fn random_sets(model: &Model, n: usize) -> Vec<Vec<(String, usize)>> {
    let mut order: Vec<(f32, &str, usize)> = Vec::new();
    for name in model.weight_names() {
        let drawn = random::element_scores(
            &format!("likelihood sets: {name}"),
            model.params[name].shape(),
            SEED,
        );
        order.extend(drawn.iter().enumerate().map(|(i, s)| (*s, name, i)));
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let each = (order.len() / SET_SHARE).max(2);
    let sets = order.chunks_exact(each).take(n);
    sets.map(|set| set.iter().map(|(_, p, i)| ((*p).to_owned(), *i)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::{Task, zoo};

    #[test]
    fn gradients_and_changes_are_of_different_images() {
        for n in [2, 3, 100, 511, 512, 513, 50_000] {
            let images = Images::spread(n);
            let each = IMAGES.min(n / 2);
            assert_eq!((images.gradient.len(), images.measured.len()), (each, each));
            let mut all = [images.gradient, images.measured].concat();
            all.sort_unstable();
            assert!(all.windows(2).all(|w| w[0] < w[1]) && all[all.len() - 1] < n);
        }
        // From all parts of sorted images.
        let images = Images::spread(50_000);
        assert!(images.gradient.iter().filter(|i| **i >= 25_000).count() == 128);
        assert!(images.measured.iter().filter(|i| **i >= 25_000).count() == 128);
        assert!(Images::spread(1).gradient.is_empty());
    }

    #[test]
    fn units_are_different_weights() {
        let model = zoo::build("source_net", &Task::cifar10(), 0).unwrap();
        let spaced = spaced_weights(&model, 200);
        assert_eq!((spaced.len(), spaced[0].1), (200, 0));
        let sets = random_sets(&model, 60);
        assert_eq!((sets.len(), sets[0].len()), (60, 1573));
        for chosen in [spaced, sets.concat()] {
            let distinct: std::collections::BTreeSet<_> = chosen.iter().collect();
            assert_eq!(distinct.len(), chosen.len());
            assert!(chosen.iter().all(|(p, i)| *i < model.params[p].len()));
        }
        // No more than there are.
        assert_eq!(random_sets(&model, 1000).len(), 100);
    }

    /// In a set the first order of two weights can cancel, which the sum of their sizes does not see.
    #[test]
    fn the_first_order_of_a_set_is_a_sum_with_signs() {
        let of = |values: [f64; 4]| BTreeMap::from([("w".to_owned(), values.to_vec())]);
        let scores = WeightScores {
            unsigned: vec![("Taylor |E(g)·w|", of([5.0, 5.0, 1.0, 2.0]))],
            signed: vec![(FIRST_ORDER, of([5.0, -5.0, 1.0, 2.0]))],
        };
        let sets = [[0, 1], [2, 3]].map(|set| set.map(|i| ("w".to_owned(), i)).to_vec());
        let ranks = scores.ranks(&sets, &[0.1, 0.7]).unwrap();
        assert_eq!(ranks.with_size_of_change["Taylor |E(g)·w|"], Some(-1.0));
        assert_eq!(ranks.with_size_of_change[FIRST_ORDER_SIZE], Some(1.0));
        assert_eq!(ranks.weights_each, 2);
    }

    /// A removal that costs likelihood has a positive change, so the words say of what.
    #[test]
    fn what_is_measured_is_called_a_loss() {
        let ranks = Ranks {
            count: 1,
            ..Ranks::default()
        };
        let likelihood = Likelihood {
            model: String::new(),
            recipe: "source".to_owned(),
            seed: 0,
            gradient_images: 256,
            measured_images: 256,
            images: String::new(),
            weights: ranks.clone(),
            sets: ranks.clone(),
            channels: ranks,
            key: String::new(),
        };
        let words = likelihood.words();
        assert!(
            words.contains("with the loss of log-likelihood that removal makes")
                && words.contains("with the loss and its sign")
                && !words.contains("change"),
            "{words}"
        );
    }

    #[test]
    fn like_is_compared_with_like() {
        // The change is 1, -2, 3: in size as ordered as in the unsigned scores, with its sign as in the signed ones.
        let measured = [1.0, -2.0, 3.0];
        let unsigned = vec![("magnitude |w|", vec![0.1, 0.2, 0.3])];
        let signed = vec![
            (FIRST_ORDER, vec![0.0, -9.0, 1.0]),
            (SECOND_ORDER, vec![-1.0, 1.0, 2.0]),
        ];
        let ranks = ranks(unsigned, signed, &measured);
        assert_eq!(ranks.count, 3);
        assert_eq!(ranks.with_size_of_change["magnitude |w|"], Some(1.0));
        assert_eq!(ranks.with_signed_change[FIRST_ORDER], Some(1.0));
        assert_eq!(ranks.with_signed_change[SECOND_ORDER], Some(0.5));
        // 1, 1, 2 against 1, 2, 3: a tie.
        // 0, 9, 1 against 1, 2, 3.
        assert_eq!(ranks.with_size_of_change[FIRST_ORDER_SIZE], Some(0.5));
        let size = ranks.with_size_of_change[SECOND_ORDER_SIZE].unwrap();
        assert!((size - 0.75f64.sqrt()).abs() < 1e-12, "{size}");
    }
}
