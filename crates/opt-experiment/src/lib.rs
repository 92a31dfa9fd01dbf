//! Recipes and experiments: where the method crates meet the training loop, the data and the files.
//!
//! In reading order: [`recipe`] (how one network is trained) and [`profile`] (which experiments are run with which
//! recipes), [`data`] (what they are fed), [`run`] (a run and its lines) in its [`folder`], [`variant`] (what a
//! line is called), [`measure`] (what is measured: the
//! file that ships, and its [`layers`]), [`training`] (the loop with its progress), [`trained`] (phases kept in the [`cache`]
//! under their [`identity`], which knows the [`machine`] and its [`cpu`]), [`distillation`] (the losses, joined to the
//! loop), [`experiment`] (the experiments), [`plan`] (what a run will do and how long that takes), [`speed`] (of this machine),
//! [`budget`] (a profile for the time given), [`keys`] (the page about recipes and profiles), [`renamed`] (keys that older ones
//! have). What a run leaves behind and what readers see of it is `opt-report`.
//!
//! # What this crate does not do
//!
//! It holds no method: a formula that is not about counting results belongs to another crate. It reads no command line.

pub mod budget;
pub mod cache;
#[cfg(test)]
mod code;
pub mod cpu;
pub mod data;
pub mod distillation;
pub mod experiment;
pub mod folder;
pub mod identity;
pub mod keys;
pub mod layers;
pub mod machine;
pub mod measure;
pub mod plan;
pub mod profile;
pub mod recipe;
pub mod renamed;
pub mod run;
pub mod speed;
pub mod trained;
pub mod training;
pub mod variant;

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
