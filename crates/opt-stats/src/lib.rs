//! How differences are judged, everywhere in this workspace: one rule for interval, mark and p-value.
//!
//! | question | answered by |
//! |---|---|
//! | is one network more accurate than the other, or is it chance? | [`SignificanceTest`], from [`Pair`]s of accuracies |
//! | on which images do the two differ? | [`discordant`] |
//! | mean and spread over seeds | [`Spread`] |
//! | how many times faster is one program than the other? | [`ratio`](fn@ratio), from rounds in which both ran |
//!
//! ```
//! use opt_stats::{Discordant, Pair, SignificanceTest, Verdict};
//!
//! // 10,000 images, of which only the first network has 300 right and only the second 250: +0.5 points.
//! let discordant = Some(Discordant { only_variant: 300, only_baseline: 250 });
//! let pair = Pair { top1: 84.5, other: 84.0, n_test: 10_000, discordant };
//! let test = SignificanceTest::of(&[pair], true);
//! assert_eq!(test.verdict, Verdict::Better);
//! assert!((test.p_value - 0.0367).abs() < 1e-4);
//! ```
//!
//! # What this crate does not do
//!
//! It knows no network, no file and no experiment.

mod distributions;
mod interval;
mod mcnemar;
mod pair;
mod ratio;
mod significance;
mod spread;

pub use interval::Interval;
pub use mcnemar::{Discordant, discordant};
pub use pair::Pair;
pub use ratio::{Better, Ratio, RatioError, ratio};
pub use significance::{HoldsFor, SignificanceTest, Verdict};
pub use spread::Spread;

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
