//! What a block of a profile is, whatever its experiment.

use std::fmt::Display;

use anyhow::{Result, bail};

use super::stage::Stages;
use crate::recipe::Train;

/// A block of a profile: what one experiment does with one network.
pub trait Block {
    /// The experiment's name.
    fn experiment(&self) -> &'static str;

    /// The baseline that it is about: what `--base` names.
    fn base(&self) -> &str;

    /// A further baseline that it needs, as teacher.
    fn teacher(&self) -> Option<&str>;

    /// Its phases of training.
    fn trains(&self) -> Vec<&Train>;

    /// The epochs of all its phases, to be scaled.
    fn epochs_mut(&mut self) -> Vec<&mut usize>;

    /// Checks every number.
    ///
    /// # Errors
    ///
    /// Names the key, what it holds and what is expected.
    fn check(&self) -> Result<()>;

    /// Adds what it does to the list.
    ///
    /// # Errors
    ///
    /// A baseline that is not there, a name that is taken.
    fn stages(&self, list: &mut Stages) -> Result<()>;
}

/// Names of variants are made of these values, so each may be there once.
pub(super) fn distinct<T: PartialEq + Display>(values: &[T], fix: &str) -> Result<()> {
    let twice = (1..values.len()).find(|&i| values[..i].contains(&values[i]));
    match twice {
        Some(i) => bail!("{} is there twice; {fix}", values[i]),
        None => Ok(()),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn is_false(value: &bool) -> bool {
    !value
}
