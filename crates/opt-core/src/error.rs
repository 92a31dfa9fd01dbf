//! What can be wrong with a model, a mask or a quantization request.

use thiserror::Error;

/// An error of this crate: it names the node or parameter, what was found and what was expected.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum CoreError {
    /// The graph itself is malformed.
    #[error("node `{node}`: {problem}")]
    Graph {
        /// The node's name.
        node: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// Shapes do not fit an operator.
    #[error("node `{node}` ({op}): input shape {input:?} does not fit: {expected}")]
    Shape {
        /// The node's name.
        node: String,
        /// The ONNX name of its operator.
        op: &'static str,
        /// The shape that arrives, without the batch axis.
        input: Vec<usize>,
        /// What the operator needs.
        expected: String,
    },
    /// A parameter that the graph names is not there.
    #[error("parameter `{param}` of node `{node}` is missing from the model")]
    MissingParam {
        /// The node that reads it.
        node: String,
        /// The parameter's name.
        param: String,
    },
    /// A parameter has another shape than its node needs.
    #[error("parameter `{param}`: shape {found:?}, expected {expected:?}")]
    ParamShape {
        /// The parameter's name.
        param: String,
        /// The shape it has.
        found: Vec<usize>,
        /// The shape its node needs.
        expected: Vec<usize>,
    },
    /// A parameter holds a NaN or an infinity.
    #[error("parameter `{param}`: element {index} is {value}, expected a finite number")]
    NotFinite {
        /// The parameter's name.
        param: String,
        /// The flat index of the first such element.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A running variance of which no deviation can be taken.
    #[error(
        "parameter `{param}` of node `{node}`: the variance of channel {channel} is {value} and epsilon {epsilon}, expected \
         a variance from 0 and a positive sum; the file is damaged, or its training diverged"
    )]
    Variance {
        /// The parameter's name.
        param: String,
        /// The BatchNormalization.
        node: String,
        /// The first such channel.
        channel: usize,
        /// Its variance.
        value: f32,
        /// The node's ε.
        epsilon: f32,
    },
    /// A mask does not fit the parameter that it is for.
    #[error("mask for `{param}`: {problem}")]
    Mask {
        /// The parameter's name.
        param: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// Quantization parameters that cannot be used.
    #[error("quantization of `{what}`: {problem}")]
    Quant {
        /// The activation or parameter.
        what: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// Codes that do not fit their width, their decoding or their packed bytes; who knows the tensor adds its name.
    #[error("{problem}")]
    Codes {
        /// What is wrong and what was expected.
        problem: String,
    },
    /// An operator or a combination that integer lowering does not handle.
    #[error("node `{node}` ({op}) cannot be lowered to integers: {why}")]
    Unsupported {
        /// The node's name.
        node: String,
        /// The ONNX name of its operator.
        op: &'static str,
        /// Why, and what to do about it.
        why: String,
    },
    /// A zoo function was asked for a network that it does not have.
    #[error(
        "no network `{name}` in the zoo{guess}; choose one of {known}. A checkpoint needs the network that it was trained as; \
         one that is not here can be put together as an `opt_core::Model`"
    )]
    UnknownZoo {
        /// The name that was asked for.
        name: String,
        /// `, did you mean …?`, or nothing.
        guess: String,
        /// The names that exist.
        known: String,
    },
    /// A network of the zoo that cannot take images of this size.
    #[error(
        "the network `{name}` cannot take images of {shape:?} (channels, height, width): {error}; give it larger images, or \
         choose a network that halves them less often, such as resnet20 or source_net"
    )]
    ZooInput {
        /// The network.
        name: String,
        /// The images.
        shape: [usize; 3],
        /// The first node that does not fit.
        error: Box<Self>,
    },
    /// Input data of the wrong size.
    #[error("{what}: {found} elements, expected {expected}")]
    Length {
        /// Which data.
        what: String,
        /// The number of elements found.
        found: usize,
        /// The number expected.
        expected: usize,
    },
}
