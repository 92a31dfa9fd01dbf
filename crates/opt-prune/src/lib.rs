//! Importance scores, exact selection, sparsity schedules and removal of channels.
//!
//! Pruning has three steps, and each is a function that takes data and returns data. Nothing changes before a decision
//! has been made that can be printed.
//!
//! ```
//! use opt_core::mask::{Masks, apply_masks};
//! use opt_core::{cost::cost, zoo, Task};
//! use opt_prune::{Criterion, Norm, Schedule, Scope, SelectRequest, score, select, sparsities};
//!
//! let mut model = zoo::build("source_net", &Task::cifar10(), 0)?;
//! let mut masks = Masks::new();
//! for sparsity in sparsities(Schedule::Iterative { steps: 2 }, 0.75)? {
//!     // 1. How important is every weight?
//!     let scores = score(&model, &Criterion::Magnitude(Norm::L1), None)?;
//!     // 2. Which stay, exactly?
//!     let request = SelectRequest::sparsity(Scope::Global, sparsity);
//!     let selection = select(&model, &scores, &masks, &request)?;
//!     assert!(selection.layers.iter().all(|layer| layer.kept > 0));
//!     // 3. Apply, then fine-tune under the masks and validate (the training loop's part).
//!     masks = selection.masks;
//!     model = apply_masks(&model, &masks)?;
//! }
//! let cost = cost(&model)?;
//! assert_eq!((cost.weights, cost.weights_nonzero), (157_376, 39_344));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without a model, the same steps take arrays by name: [`score_arrays`], [`select_arrays`], [`apply_mask`]. Functions of single
//! arrays take what ndarray makes a view of: `&array` or a view of any dimension, or a slice. The crate's [`ndarray`] is the one
//! whose arrays it takes.
//!
//! ```
//! use opt_prune::{Criterion, Masks, Norm, Scope, SelectRequest, apply_mask, score_arrays, select_arrays};
//!
//! let mut first = vec![0.9, -0.1, 0.4, -0.8];
//! let mut second = vec![0.3, 0.2];
//! let weights = [("first", &first[..]), ("second", &second[..])];
//! let scores = score_arrays(weights, &Criterion::Magnitude(Norm::L1), None)?;
//! let request = SelectRequest::sparsity(Scope::Global, 0.5);
//! let masks = select_arrays(&scores, &Masks::new(), &request)?.masks;
//! apply_mask(&mut first, &masks["first"])?;
//! apply_mask(&mut second, &masks["second"])?;
//! assert_eq!((first, second), (vec![0.9, 0.0, 0.0, -0.8], vec![0.3, 0.0]));
//! # Ok::<(), opt_prune::PruneError>(())
//! ```
//!
//! Whole channels go the same way, and leave a smaller dense network:
//!
//! ```
//! use opt_core::{cost::cost, zoo, Task};
//! use opt_prune::{ChannelRequest, ChannelTarget, Criterion, Norm, plan_channels, score_channels, shrink};
//!
//! let model = zoo::build("source_net", &Task::cifar10(), 0)?;
//! let scores = score_channels(&model, &Criterion::Magnitude(Norm::L1), None)?;
//! let plan = plan_channels(&model, &scores, &ChannelRequest::new(ChannelTarget::KeepRatio(0.5)))?;
//! assert_eq!((plan.keep["conv1"].len(), plan.keep["conv2"].len()), (32, 64));
//! let small = shrink(&model, &plan)?;
//! // 32·3·9·1024 + 64·32·9·1024 + 10·4096, before 77,348,864.
//! assert_eq!(cost(&small)?.macs, 19_800_064);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What this crate does not do
//!
//! It trains nothing, evaluates nothing and reads no data: gradients come as named sums ([`opt_core::GradientSums`]), losses through
//! a closure ([`score::ablation`]). It removes channels along plain chains; a sum, a slice or a fork on the way is an error
//! that names the node.

mod apply;
pub mod channels;
pub mod error;
pub mod filter;
mod group;
pub mod rank_correlation;
mod rounding;
pub mod schedule;
pub mod score;
pub mod select;

pub use apply::apply_mask;
pub use channels::{
    ChannelPlan, ChannelRequest, ChannelTarget, KeepLists, Prunability, channel_masks,
    mask_channels, plan_channels, prunable_channels, shrink,
};
pub use error::PruneError;
pub use group::{Blocked, ChannelGroup, Member, Side, channel_groups};
pub use rank_correlation::rank_correlation;
pub use schedule::{Schedule, sparsities};
pub use score::{
    ChannelScores, Criterion, Norm, Scores, TaylorForm, gates, score, score_arrays, score_channels,
};
pub use select::{
    LayerSelection, Note, Scope, SelectRequest, Selection, Target, select, select_arrays,
};

pub use ndarray;
pub use opt_core::mask::{Masks, apply_masks};
pub use opt_core::{GradientSums, Mask, Model};

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, PruneError>;

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
