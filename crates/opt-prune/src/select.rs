//! Step two: which weights stay, by exact counts.

use std::collections::BTreeMap;

use ndarray::ArrayD;
use opt_core::mask::Masks;
use opt_core::{Mask, Model};
use rayon::prelude::*;

use crate::filter::first_matches;
use crate::{PruneError, Result, Scores};

/// Where weights compete with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All layers together: needs scores that are comparable between layers.
    Global,
    /// Each layer on its own.
    PerLayer,
}

/// How much stays.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// This share, 0 to 1, of the weights that are not excluded is removed: of their *original* number, whatever earlier
    /// rounds removed.
    Sparsity {
        /// Where weights compete.
        scope: Scope,
        /// The share that is removed.
        sparsity: f64,
    },
    /// These numbers of weights stay, by parameter name; other parameters stay whole.
    KeepCounts(BTreeMap<String, usize>),
}

/// What is asked of [`select`].
#[derive(Debug, Clone, PartialEq)]
pub struct SelectRequest {
    /// How much stays.
    pub target: Target,
    /// The least number of weights that a layer keeps (all, if it has fewer), so that no layer is cut off.
    pub min_keep_per_layer: usize,
    /// Filters of parameter names that stay whole ([`filter::matches`](crate::filter::matches)).
    pub exclude: Vec<String>,
}

impl SelectRequest {
    /// A request with a minimum of one weight per layer and no exclusions.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            min_keep_per_layer: 1,
            exclude: Vec::new(),
        }
    }

    /// [`SelectRequest::new`] for a share of the weights.
    #[must_use]
    pub fn sparsity(scope: Scope, sparsity: f64) -> Self {
        Self::new(Target::Sparsity { scope, sparsity })
    }
}

/// A decision about weights, made before anything is changed: print it, then
/// [`apply_masks`](opt_core::mask::apply_masks).
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// What stays, for every parameter that took part, and earlier masks of those that did not.
    pub masks: Masks,
    /// A row for every Conv and Gemm weight, in graph order.
    pub layers: Vec<LayerSelection>,
}

/// What was decided about one weight tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSelection {
    /// The parameter's name.
    pub param: String,
    /// The number of weights that stay.
    pub kept: usize,
    /// The number of weights that it has.
    pub total: usize,
    /// Why it is not what the ranking alone gives.
    pub note: Option<Note>,
}

/// Why a layer stayed whole or kept more than its rank says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A filter keeps it out.
    Excluded {
        /// The filter.
        filter: String,
    },
    /// The counts do not name it.
    NotNamed,
    /// It took part, and all of its weights are among those that stay.
    AllKept,
    /// Only the minimum per layer stopped the removal.
    HeldByMinimum,
}

impl Selection {
    /// The share of all Conv and Gemm weights that is removed, excluded ones counted.
    #[must_use]
    pub fn sparsity(&self) -> f64 {
        let total: usize = self.layers.iter().map(|l| l.total).sum();
        let kept: usize = self.layers.iter().map(|l| l.kept).sum();
        if total == 0 {
            return 0.0;
        }
        1.0 - kept as f64 / total as f64
    }
}

/// Decides which weights stay.
///
/// ```text
/// kept = round((1 - sparsity) · n)        n: weights that take part (Global) or of the layer (PerLayer); halves round up
/// ```
///
/// The order is total: larger score, then earlier layer in the graph, then lower flat index. So counts are exact, with
/// ties too. Weights that `previous` removes stay removed and count as removed; pass empty masks in the first round.
/// Minima per layer are served first: in global scope the count stays exact, in layer scope a minimum above the layer's
/// count wins and the row says so.
///
/// # Errors
///
/// [`PruneError::NothingRemoved`] for a target that leaves everything as the dense model has it, unless the sparsity is
/// exactly 0; [`PruneError::Infeasible`] if the minima or what is left after `previous` contradict the count;
/// [`PruneError::OutOfRange`], [`PruneError::FilterMatchesNothing`]; [`PruneError::Unknown`], [`PruneError::Shape`] and
/// [`PruneError::NanScore`] for scores that do not fit the model.
pub fn select(
    model: &Model,
    scores: &Scores,
    previous: &Masks,
    request: &SelectRequest,
) -> Result<Selection> {
    let mut names = model.weight_names();
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let excluded = first_matches(&request.exclude, &names)?;
    check_previous(model, previous)?;

    let mut layers = Vec::with_capacity(names.len());
    let mut candidates = Vec::new();
    for (name, filter) in names.iter().zip(excluded) {
        let total = model.param(name)?.len();
        let kept = previous.get(*name).map_or(total, Mask::n_kept);
        let note = match (&request.target, filter) {
            (_, Some(filter)) => Some(Note::Excluded {
                filter: filter.to_owned(),
            }),
            (Target::KeepCounts(counts), None) if !counts.contains_key(*name) => {
                Some(Note::NotNamed)
            }
            _ => {
                candidates.push(Candidate::new(model, name, layers.len(), scores, previous)?);
                None
            }
        };
        layers.push(LayerSelection {
            param: (*name).to_owned(),
            kept,
            total,
            note,
        });
    }

    let keep = match &request.target {
        Target::Sparsity { scope, sparsity } => {
            if !(0.0..=1.0).contains(sparsity) {
                return Err(PruneError::OutOfRange {
                    what: "the sparsity".to_owned(),
                    found: sparsity.to_string(),
                    expected: "0 to 1".to_owned(),
                });
            }
            match scope {
                Scope::Global => keep_globally(&candidates, *sparsity, request)?,
                Scope::PerLayer => keep_per_layer(&candidates, *sparsity, request, &mut layers)?,
            }
        }
        Target::KeepCounts(counts) => keep_counts(&candidates, counts, request, &names)?,
    };

    let mut masks = previous.clone();
    let (mut kept, mut total) = (0, 0);
    for (candidate, keep) in candidates.iter().zip(keep) {
        let row = &mut layers[candidate.layer];
        row.kept = keep.iter().filter(|k| **k).count();
        if row.kept == row.total {
            row.note = Some(Note::AllKept);
        }
        kept += row.kept;
        total += row.total;
        let mut mask = ArrayD::from_elem(scores[candidate.param].raw_dim(), false);
        mask.iter_mut().zip(keep).for_each(|(slot, k)| *slot = k);
        masks.insert(candidate.param.to_owned(), Mask::new(mask));
    }
    let asks_for_nothing =
        matches!(request.target, Target::Sparsity { sparsity, .. } if sparsity == 0.0);
    if kept == total && !asks_for_nothing {
        return Err(PruneError::NothingRemoved {
            request: format!("{:?}", request.target),
            total,
            units: "weights",
        });
    }
    Ok(Selection { masks, layers })
}

fn check_previous(model: &Model, previous: &Masks) -> Result<()> {
    for (name, mask) in previous {
        let expected = model.param(name)?.shape();
        if mask.keep().shape() != expected {
            return Err(PruneError::Shape {
                what: "the previous mask",
                param: name.clone(),
                found: mask.keep().shape().to_vec(),
                expected: expected.to_vec(),
            });
        }
    }
    Ok(())
}

/// A layer that takes part.
struct Candidate<'a> {
    param: &'a str,
    /// Its row, which is its place in graph order.
    layer: usize,
    total: usize,
    /// Flat indices of the weights that are not removed yet, most important first, with their scores.
    order: Vec<(f32, usize)>,
}

impl<'a> Candidate<'a> {
    fn new(
        model: &Model,
        param: &'a str,
        layer: usize,
        scores: &Scores,
        previous: &Masks,
    ) -> Result<Self> {
        let found = scores.get(param).ok_or_else(|| PruneError::Unknown {
            what: "scores of",
            name: param.to_owned(),
            known: scores.keys().cloned().collect::<Vec<_>>().join(", "),
        })?;
        let expected = model.param(param)?.shape();
        if found.shape() != expected {
            return Err(PruneError::Shape {
                what: "scores",
                param: param.to_owned(),
                found: found.shape().to_vec(),
                expected: expected.to_vec(),
            });
        }
        if let Some(index) = found.iter().position(|s| s.is_nan()) {
            return Err(PruneError::NanScore {
                param: param.to_owned(),
                index,
            });
        }
        let all = found.iter().copied().zip(0..);
        let mut order: Vec<(f32, usize)> = match previous.get(param) {
            None => all.collect(),
            Some(mask) => all
                .zip(mask.keep().iter())
                .filter_map(|(entry, alive)| alive.then_some(entry))
                .collect(),
        };
        order.par_sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(Self {
            param,
            layer,
            total: found.len(),
            order,
        })
    }

    fn minimum(&self, request: &SelectRequest) -> usize {
        request.min_keep_per_layer.min(self.order.len())
    }

    /// Decisions that keep the first `n_keep` of the order.
    fn keep_first(&self, n_keep: usize) -> Vec<bool> {
        let mut keep = vec![false; self.total];
        for &(_, index) in &self.order[..n_keep] {
            keep[index] = true;
        }
        keep
    }

    fn check_left(&self, request: &str, n_keep: usize) -> Result<()> {
        if n_keep <= self.order.len() {
            return Ok(());
        }
        Err(PruneError::Infeasible {
            request: format!("{request} for `{}`", self.param),
            n_keep,
            bound: format!(
                "earlier rounds left {} of {}; a schedule must not fall",
                self.order.len(),
                self.total
            ),
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a number of weights"
)]
fn count_of(sparsity: f64, total: usize) -> usize {
    ((1.0 - sparsity) * total as f64).round() as usize
}

fn keep_globally(
    candidates: &[Candidate<'_>],
    sparsity: f64,
    request: &SelectRequest,
) -> Result<Vec<Vec<bool>>> {
    let n_keep = count_of(sparsity, candidates.iter().map(|c| c.total).sum());
    let minima: usize = candidates.iter().map(|c| c.minimum(request)).sum();
    let left: usize = candidates.iter().map(|c| c.order.len()).sum();
    let infeasible = |bound: String| PruneError::Infeasible {
        request: format!("global sparsity {sparsity}"),
        n_keep,
        bound,
    };
    if n_keep < minima {
        return Err(infeasible(format!(
            "{} layers with a minimum of {} need {minima}; lower the sparsity or the minimum",
            candidates.len(),
            request.min_keep_per_layer
        )));
    }
    if n_keep > left {
        return Err(infeasible(format!(
            "earlier rounds left {left}; a schedule must not fall"
        )));
    }
    let mut keep: Vec<Vec<bool>> = candidates
        .iter()
        .map(|c| c.keep_first(c.minimum(request)))
        .collect();
    let mut rest: Vec<(f32, usize, usize)> = Vec::with_capacity(left - minima);
    for (layer, candidate) in candidates.iter().enumerate() {
        let open = &candidate.order[candidate.minimum(request)..];
        rest.extend(open.iter().map(|&(score, index)| (score, layer, index)));
    }
    rest.par_sort_unstable_by(|a, b| {
        let by_score = b.0.total_cmp(&a.0);
        by_score.then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2))
    });
    for &(_, layer, index) in &rest[..n_keep - minima] {
        keep[layer][index] = true;
    }
    Ok(keep)
}

fn keep_per_layer(
    candidates: &[Candidate<'_>],
    sparsity: f64,
    request: &SelectRequest,
    layers: &mut [LayerSelection],
) -> Result<Vec<Vec<bool>>> {
    let mut keep = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let wanted = count_of(sparsity, candidate.total);
        candidate.check_left(&format!("sparsity {sparsity}"), wanted)?;
        let minimum = candidate.minimum(request);
        if wanted < minimum {
            layers[candidate.layer].note = Some(Note::HeldByMinimum);
        }
        keep.push(candidate.keep_first(wanted.max(minimum)));
    }
    Ok(keep)
}

fn keep_counts(
    candidates: &[Candidate<'_>],
    counts: &BTreeMap<String, usize>,
    request: &SelectRequest,
    names: &[&str],
) -> Result<Vec<Vec<bool>>> {
    let takes_part = |name: &str| candidates.iter().any(|c| c.param == name);
    if let Some(name) = counts.keys().find(|name| !takes_part(name)) {
        return Err(PruneError::Unknown {
            what: "prunable weight (that no filter excludes)",
            name: name.clone(),
            known: names.join(", "),
        });
    }
    let mut keep = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let n_keep = counts[candidate.param];
        if n_keep > candidate.total || n_keep < candidate.minimum(request) {
            return Err(PruneError::OutOfRange {
                what: format!("the number of weights to keep of `{}`", candidate.param),
                found: n_keep.to_string(),
                expected: format!("{} to {}", candidate.minimum(request), candidate.total),
            });
        }
        candidate.check_left("a count", n_keep)?;
        keep.push(candidate.keep_first(n_keep));
    }
    Ok(keep)
}

#[cfg(test)]
mod tests;
