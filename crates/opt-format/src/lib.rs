//! Other people's formats: safetensors checkpoints.
