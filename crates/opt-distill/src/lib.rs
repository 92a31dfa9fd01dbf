//! Knowledge distillation losses on tensors.
//!
//! Distillation takes three steps: a large model, the teacher, is trained; a small one, the student, learns from the
//! teacher's outputs; the student is improved. This crate holds the middle: [`kd_loss`] compares the two models' logits
//! for the same images and returns [`Terms`] to differentiate and to log. [`teacher_cross_entropy`] is the same idea
//! without temperature or labels, in its textbook form.
//!
//! # What this crate does not do
//!
//! It knows no model, no data set and no training loop. That the teacher ran in evaluation mode, on the very view of the
//! images that the student saw, is the caller's part; that no gradient reaches it is ensured here. There is no `alpha`:
//! each weight is named by the term that it weighs.

pub mod error;
pub mod kd;

pub use error::DistillError;
pub use kd::{Kd, Terms, kd_loss, kl_divergence, teacher_cross_entropy};

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, DistillError>;

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
