//! Step two: which weights stay, by exact counts.

mod ranking;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ndarray::{ArrayD, ArrayView, ArrayViewD, Dimension, IxDyn};
use opt_core::mask::Masks;
use opt_core::{Mask, Model};
use rayon::prelude::*;

use crate::filter::first_matches;
use crate::{PruneError, Result, Scores};
use ranking::{Ranked, State, first_nan, keep_best};

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

/// Decides which weights of a model stay.
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
/// Nothing is sorted: time and memory grow with the number of weights, and the memory is about one byte for each. The
/// result does not depend on the number of threads. Without a model, see [`select_arrays`].
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
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let mut layers = Vec::with_capacity(names.len());
    for name in names {
        let shape = model.param(name)?.shape();
        layers.push(Layer {
            name,
            shape,
            scores: scores_of(name, shape, scores),
        });
    }
    let shape_of = |name: &str| Ok(model.param(name)?.shape().to_vec());
    select_layers(layers, shape_of, previous, request)
}

/// Decides which elements of named arrays stay: [`select`] without a model.
///
/// `scores` gives names and scores in the order of the layers: a map by reference, or pairs of a name and whatever gives a view
/// (`&array`, a view, a slice), all with the same number of axes or of any number as `ArrayViewD`. Every array takes part that
/// the request does not exclude. A [`BTreeMap`] orders by name; the order matters where scores of several arrays are equal.
///
/// ```
/// use opt_prune::ndarray::array;
/// use opt_prune::{Masks, Scope, SelectRequest, select_arrays};
///
/// let (first, second) = (array![[4.0, 1.0], [3.0, 2.0]], array![[9.0, 0.5]]);
/// let request = SelectRequest::sparsity(Scope::Global, 0.5);
/// let selection = select_arrays([("first", &first), ("second", &second)], &Masks::new(), &request)?;
/// assert_eq!(selection.masks["first"].keep(), array![[true, false], [true, false]].into_dyn());
/// assert_eq!(selection.masks["second"].keep(), array![[true, false]].into_dyn());
/// # Ok::<(), opt_prune::PruneError>(())
/// ```
///
/// # Errors
///
/// Those of [`select`], with the arrays in place of the model: [`PruneError::Unknown`] for a previous mask without an array;
/// [`PruneError::DuplicateName`].
pub fn select_arrays<'a, N, V, D>(
    scores: impl IntoIterator<Item = (N, V)>,
    previous: &Masks,
    request: &SelectRequest,
) -> Result<Selection>
where
    N: AsRef<str>,
    V: Into<ArrayView<'a, f32, D>>,
    D: Dimension,
{
    let arrays: Vec<(N, ArrayViewD<'a, f32>)> = scores
        .into_iter()
        .map(|(name, scores)| (name, scores.into().into_dyn()))
        .collect();
    let mut shapes = BTreeMap::new();
    for (name, scores) in &arrays {
        let name = name.as_ref();
        if shapes.insert(name, scores.shape()).is_some() {
            let name = name.to_owned();
            return Err(PruneError::DuplicateName { name });
        }
    }
    let layers = arrays.iter().map(|(name, scores)| Layer {
        name: name.as_ref(),
        shape: scores.shape(),
        scores: Ok(scores.view()),
    });
    let shape_of = |name: &str| match shapes.get(name) {
        Some(shape) => Ok(shape.to_vec()),
        None => Err(PruneError::Unknown {
            what: "array for the previous mask",
            name: name.to_owned(),
            known: shapes.keys().copied().collect::<Vec<_>>().join(", "),
        }),
    };
    select_layers(layers.collect(), shape_of, previous, request)
}

/// What a selection needs of a layer.
struct Layer<'a> {
    name: &'a str,
    shape: &'a [usize],
    /// An error counts only if the layer takes part.
    scores: Result<ArrayViewD<'a, f32>>,
}

fn scores_of<'a>(
    name: &str,
    expected: &[usize],
    scores: &'a Scores,
) -> Result<ArrayViewD<'a, f32>> {
    let found = scores.get(name).ok_or_else(|| PruneError::Unknown {
        what: "scores of",
        name: name.to_owned(),
        known: scores.keys().cloned().collect::<Vec<_>>().join(", "),
    })?;
    if found.shape() != expected {
        return Err(PruneError::Shape {
            what: "scores",
            param: name.to_owned(),
            found: found.shape().to_vec(),
            expected: expected.to_vec(),
        });
    }
    Ok(found.view())
}

/// Selects among layers in their order; `shape_of` knows everything that a previous mask may be of.
fn select_layers(
    layers: Vec<Layer<'_>>,
    shape_of: impl Fn(&str) -> Result<Vec<usize>>,
    previous: &Masks,
    request: &SelectRequest,
) -> Result<Selection> {
    let names: Vec<&str> = layers.iter().map(|layer| layer.name).collect();
    let excluded = first_matches(&request.exclude, &names)?;
    for (name, mask) in previous {
        let expected = shape_of(name)?;
        if mask.keep().shape() != expected {
            return Err(PruneError::Shape {
                what: "the previous mask",
                param: name.clone(),
                found: mask.keep().shape().to_vec(),
                expected,
            });
        }
    }

    let mut rows = Vec::with_capacity(names.len());
    let mut candidates = Vec::new();
    for (layer, filter) in layers.into_iter().zip(excluded) {
        let total = layer.shape.iter().product();
        let kept = previous.get(layer.name).map_or(total, Mask::n_kept);
        let param = layer.name.to_owned();
        let note = match (&request.target, filter) {
            (_, Some(filter)) => Some(Note::Excluded {
                filter: filter.to_owned(),
            }),
            (Target::KeepCounts(counts), None) if !counts.contains_key(layer.name) => {
                Some(Note::NotNamed)
            }
            (Target::KeepCounts(_) | Target::Sparsity { .. }, None) => {
                candidates.push(Candidate::new(layer, rows.len(), previous)?);
                None
            }
        };
        rows.push(LayerSelection {
            param,
            kept,
            total,
            note,
        });
    }

    match &request.target {
        Target::Sparsity { scope, sparsity } => {
            if !(0.0..=1.0).contains(sparsity) {
                return Err(PruneError::OutOfRange {
                    what: "the sparsity".to_owned(),
                    found: sparsity.to_string(),
                    expected: "0 to 1".to_owned(),
                });
            }
            match scope {
                Scope::Global => keep_globally(&mut candidates, *sparsity, request)?,
                Scope::PerLayer => keep_per_layer(&mut candidates, *sparsity, request, &mut rows)?,
            }
        }
        Target::KeepCounts(counts) => keep_counts(&mut candidates, counts, request, &names)?,
    }

    let takes_part: BTreeSet<&str> = candidates.iter().map(|c| c.name).collect();
    let others = (previous.iter()).filter(|(name, _)| !takes_part.contains(name.as_str()));
    let mut masks: Masks = others
        .map(|(name, mask)| (name.clone(), mask.clone()))
        .collect();
    let (mut kept, mut total) = (0, 0);
    let decided: Vec<Decided<'_>> = (candidates.into_par_iter())
        .map(Candidate::decided)
        .collect();
    for decided in decided {
        let row = &mut rows[decided.row];
        row.kept = decided.kept;
        if row.kept == row.total {
            row.note = Some(Note::AllKept);
        }
        kept += row.kept;
        total += row.total;
        masks.insert(decided.name.to_owned(), Mask::new(decided.keep?));
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
    Ok(Selection {
        masks,
        layers: rows,
    })
}

/// A layer that takes part.
struct Candidate<'a> {
    name: &'a str,
    shape: &'a [usize],
    /// Its row, which is its place in the order of the layers.
    row: usize,
    total: usize,
    /// How many weights earlier rounds left.
    left: usize,
    ranked: Ranked<'a>,
}

/// What was decided about a layer that took part.
struct Decided<'a> {
    name: &'a str,
    row: usize,
    kept: usize,
    keep: Result<ArrayD<bool>>,
}

impl<'a> Candidate<'a> {
    fn new(layer: Layer<'a>, row: usize, previous: &Masks) -> Result<Self> {
        let Layer {
            name,
            shape,
            scores,
        } = layer;
        let scores = scores?;
        let scores = match scores.to_slice() {
            Some(scores) => Cow::Borrowed(scores),
            None => Cow::Owned(scores.iter().copied().collect()),
        };
        if let Some(index) = first_nan(&scores) {
            return Err(PruneError::NanScore {
                param: name.to_owned(),
                index,
            });
        }
        let mut states = vec![State::Open; scores.len()];
        let mut left = scores.len();
        if let Some(mask) = previous.get(name) {
            let state = |keep: bool| if keep { State::Open } else { State::Removed };
            let keep = mask.keep();
            match keep.to_slice() {
                Some(keep) => (states.iter_mut().zip(keep)).for_each(|(s, k)| *s = state(*k)),
                None => (states.iter_mut().zip(&keep)).for_each(|(s, k)| *s = state(*k)),
            }
            left = states.iter().filter(|s| **s == State::Open).count();
        }
        Ok(Self {
            name,
            shape,
            row,
            total: scores.len(),
            left,
            ranked: Ranked { scores, states },
        })
    }

    fn minimum(&self, request: &SelectRequest) -> usize {
        request.min_keep_per_layer.min(self.left)
    }

    /// Keeps the `n` best of those that no earlier round removed.
    fn keep_first(&mut self, n: usize) {
        keep_best([&mut self.ranked], n);
    }

    fn decided(self) -> Decided<'a> {
        let states = &self.ranked.states;
        let keep: Vec<bool> = states.iter().map(|s| *s == State::Kept).collect();
        let kept = keep.iter().filter(|keep| **keep).count();
        let keep = ArrayD::from_shape_vec(IxDyn(self.shape), keep);
        Decided {
            name: self.name,
            row: self.row,
            kept,
            keep: keep.map_err(|_| PruneError::Shape {
                what: "scores",
                param: self.name.to_owned(),
                found: vec![self.total],
                expected: self.shape.to_vec(),
            }),
        }
    }

    fn check_left(&self, request: &str, n_keep: usize) -> Result<()> {
        if n_keep <= self.left {
            return Ok(());
        }
        Err(PruneError::Infeasible {
            request: format!("{request} for `{}`", self.name),
            n_keep,
            bound: format!(
                "earlier rounds left {} of {}; a schedule must not fall",
                self.left, self.total
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
    candidates: &mut [Candidate<'_>],
    sparsity: f64,
    request: &SelectRequest,
) -> Result<()> {
    let n_keep = count_of(sparsity, candidates.iter().map(|c| c.total).sum());
    let minima: usize = candidates.iter().map(|c| c.minimum(request)).sum();
    let left: usize = candidates.iter().map(|c| c.left).sum();
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
    (candidates.par_iter_mut()).for_each(|c| c.keep_first(c.minimum(request)));
    keep_best(
        candidates.iter_mut().map(|c| &mut c.ranked),
        n_keep - minima,
    );
    Ok(())
}

fn keep_per_layer(
    candidates: &mut [Candidate<'_>],
    sparsity: f64,
    request: &SelectRequest,
    rows: &mut [LayerSelection],
) -> Result<()> {
    for candidate in &*candidates {
        let wanted = count_of(sparsity, candidate.total);
        candidate.check_left(&format!("sparsity {sparsity}"), wanted)?;
        if wanted < candidate.minimum(request) {
            rows[candidate.row].note = Some(Note::HeldByMinimum);
        }
    }
    candidates.par_iter_mut().for_each(|candidate| {
        let wanted = count_of(sparsity, candidate.total);
        candidate.keep_first(wanted.max(candidate.minimum(request)));
    });
    Ok(())
}

fn keep_counts(
    candidates: &mut [Candidate<'_>],
    counts: &BTreeMap<String, usize>,
    request: &SelectRequest,
    names: &[&str],
) -> Result<()> {
    let takes_part = |name: &str| candidates.iter().any(|c| c.name == name);
    if let Some(name) = counts.keys().find(|name| !takes_part(name)) {
        return Err(PruneError::Unknown {
            what: "prunable weight (that no filter excludes)",
            name: name.clone(),
            known: names.join(", "),
        });
    }
    for candidate in &*candidates {
        let n_keep = counts[candidate.name];
        if n_keep > candidate.total || n_keep < candidate.minimum(request) {
            return Err(PruneError::OutOfRange {
                what: format!("the number of weights to keep of `{}`", candidate.name),
                found: n_keep.to_string(),
                expected: format!("{} to {}", candidate.minimum(request), candidate.total),
            });
        }
        candidate.check_left("a count", n_keep)?;
    }
    (candidates.par_iter_mut()).for_each(|c| c.keep_first(counts[c.name]));
    Ok(())
}

#[cfg(test)]
mod tests;
