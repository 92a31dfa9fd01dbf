//! Knowledge distillation losses on tensors.
