//! Runs and trains a Model on libtorch.
