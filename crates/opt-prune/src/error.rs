//! What can be wrong with a request to prune.

use opt_core::CoreError;
use thiserror::Error;

/// An error of this crate: it names the layer or parameter, what was found and what was expected.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The model or a mask is wrong in itself.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// A criterion needs gradient sums of a parameter and they are not there.
    #[error(
        "scoring `{param}`: {criterion} needs its {what}, which is missing; collect gradients of every trainable parameter first"
    )]
    MissingGradient {
        /// The parameter's name.
        param: String,
        /// The criterion.
        criterion: &'static str,
        /// Which sum is missing.
        what: &'static str,
    },
    /// Gradient sums or scores have another shape than their parameter.
    #[error("{what} of `{param}`: shape {found:?}, expected {expected:?} as the parameter has")]
    Shape {
        /// Which data.
        what: &'static str,
        /// The parameter's or layer's name.
        param: String,
        /// The shape found.
        found: Vec<usize>,
        /// The parameter's shape.
        expected: Vec<usize>,
    },
    /// A score is NaN: the weights or the gradients hold a NaN, or the loss did.
    #[error(
        "score {index} of `{param}` is NaN; look for NaN in its weights, its gradients or the loss"
    )]
    NanScore {
        /// The parameter's or layer's name.
        param: String,
        /// The flat index, or the channel.
        index: usize,
    },
    /// Something is named that the model does not have, or that was not scored.
    #[error("no {what} `{name}`; there are {known}")]
    Unknown {
        /// What kind of thing was looked for.
        what: &'static str,
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// Two arrays of the same name.
    #[error("two arrays are called `{name}`; every name must occur once")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A name filter that matches nothing.
    #[error("the filter `{filter}` matches none of {known}")]
    FilterMatchesNothing {
        /// The filter.
        filter: String,
        /// The names that it was held against.
        known: String,
    },
    /// A number outside its range.
    #[error("{what} is {found}, expected {expected}")]
    OutOfRange {
        /// Which number.
        what: String,
        /// Its value.
        found: String,
        /// The range.
        expected: String,
    },
    /// A request that would leave everything as it is.
    #[error("{request} removes nothing from {total} {units}; ask for more")]
    NothingRemoved {
        /// What was asked for.
        request: String,
        /// The number of things it could have removed.
        total: usize,
        /// What these are.
        units: &'static str,
    },
    /// A selection that cannot be met exactly.
    #[error("{request} keeps {n_keep} weights, but {bound}")]
    Infeasible {
        /// What was asked for.
        request: String,
        /// The number of weights that it keeps.
        n_keep: usize,
        /// What stands against it and what to do.
        bound: String,
    },
    /// Channels of a layer cannot be removed.
    #[error("channels of `{layer}` cannot be removed: node `{node}` ({op}): {why}")]
    NotPrunable {
        /// The layer.
        layer: String,
        /// The node that stands in the way.
        node: String,
        /// The ONNX name of its operator.
        op: &'static str,
        /// Why.
        why: String,
    },
    /// A keep-list that does not fit its layer.
    #[error("keep-list of `{layer}`: {problem}")]
    KeepList {
        /// The layer.
        layer: String,
        /// What is wrong and what was expected.
        problem: String,
    },
}
