//! Recipes, experiments, reports and the command line.
fn main() {}
