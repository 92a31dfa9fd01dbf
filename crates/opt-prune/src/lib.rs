//! Importance scores, exact selection, sparsity schedules and removal of channels.
