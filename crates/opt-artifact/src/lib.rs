//! The files that ship: models and quantized models with their graphs, integer codes and checks.
