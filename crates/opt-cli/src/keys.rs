//! `keys`: the keys of recipes and profiles, as docs/keys.md holds them.

use std::io::Write;

use anyhow::Result;

/// Prints the page.
pub(crate) fn run() -> Result<()> {
    std::io::stdout().write_all(opt_experiment::keys::page().as_bytes())?;
    Ok(())
}
