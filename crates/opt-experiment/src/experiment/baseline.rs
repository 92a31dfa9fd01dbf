//! Trains every network of the profile.

use anyhow::Result;

use super::Bases;
use crate::run::Run;

pub(super) fn run(run: &mut Run, bases: &mut Bases<'_>) -> Result<()> {
    for recipe in &bases.profile.baseline {
        bases.get(run, &recipe.name)?;
    }
    Ok(())
}
