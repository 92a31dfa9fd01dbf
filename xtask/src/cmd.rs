//! The commands, one module each.

pub(crate) mod check;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod program;
pub(crate) mod setup;
pub(crate) mod test;
