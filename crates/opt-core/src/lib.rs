//! The nouns of model compression and their meaning: what a model, a mask, a quantized model and a cost *are*,
//! with slow reference interpreters that define what each operator computes.
//!
//! In reading order: [`graph`] and [`op`] (what a network is), [`model`] (a graph with its parameters and its input), [`preparation`] (how an image
//! file becomes that input),
//! [`shape`] and [`cost`] (what it needs), [`mask`] (which weights are kept) and [`gradients`] (what the
//! data says about them), [`interpret`] (what it computes, in f32) and [`observe`](mod@observe) (how its values are seen),
//! [`codes`] (tensors as integer codes and as packed bytes), [`qparams`], [`qmodel`] and [`lower`] (the quantized network and the only place where one is made from a
//! model), [`interpret_quantized`] (what that computes, code by code), [`builder`] (a network of
//! one's own) and [`zoo`] (those of the experiments).
//!
//! # What this crate does not do
//!
//! It knows no compression method, trains nothing, reads and writes no file and links no libtorch. Its interpreters
//! are specifications: clear, exact and slow. Nothing here is serializable; the crates that own a file format convert.

pub mod builder;
pub mod codes;
pub mod cost;
pub mod error;
pub mod gradients;
pub mod graph;
pub mod interpret;
pub mod interpret_quantized;
pub mod lower;
pub mod mask;
pub mod model;
pub mod observe;
pub mod op;
pub mod preparation;
pub mod qmodel;
pub mod qparams;
mod rounding;
pub mod shape;
mod validate;
pub mod zoo;

pub use builder::Builder;
pub use codes::{Dequantize, QuantizedTensor};
pub use cost::{Cost, LayerCost};
pub use error::CoreError;
pub use gradients::{Gate, GradientSums};
pub use graph::{Graph, Node, NodeId, Output};
pub use mask::Mask;
pub use model::{InputSpec, Model, Params, Task, Tensor};
pub use observe::{Observe, Observed};
pub use op::{Binary, Op, ParamRole, Unary};
pub use preparation::{Orientation, Preparation};
pub use qmodel::{Activation, QModel, QNode, QOp, QWeight};
pub use qparams::QParams;

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, CoreError>;

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
