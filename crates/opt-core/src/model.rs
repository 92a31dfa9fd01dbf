//! A graph with its parameters and its input: what is trained, pruned, imported and exported.

use std::collections::BTreeMap;

use ndarray::{ArcArray, IxDyn};

use crate::op::ParamRole;
use crate::{CoreError, Graph, Preparation, Result};

/// A shared f32 array: cloning it copies no numbers.
pub type Tensor = ArcArray<f32, IxDyn>;

/// Parameters by PyTorch's name, in lexical order.
pub type Params = BTreeMap<String, Tensor>;

/// What the network is fed: without it no accuracy can be computed from a file.
///
/// ```text
/// x[c] = (byte[c] / 255 - mean[c]) / std[c]
/// ```
///
/// Everywhere in this workspace the bytes of an image are planes, C×H×W: all of the first channel, row by row, then all of
/// the next.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSpec {
    /// `[C, H, W]`.
    pub shape: [usize; 3],
    /// Mean per channel, on the scale 0 to 1.
    pub mean: Vec<f32>,
    /// Standard deviation per channel, on the scale 0 to 1.
    pub std: Vec<f32>,
    /// How an image file becomes the bytes.
    pub preparation: Preparation,
}

impl InputSpec {
    /// Checks that every channel has a finite mean and a positive, finite deviation.
    ///
    /// # Errors
    ///
    /// [`CoreError::Graph`] of the node `input`.
    pub fn validate(&self) -> Result<()> {
        let channels = self.shape[0];
        let problem = if self.mean.len() != channels || self.std.len() != channels {
            format!(
                "{} means and {} deviations for {channels} channels",
                self.mean.len(),
                self.std.len()
            )
        } else if !self.std.iter().all(|s| s.is_finite() && *s > 0.0)
            || !self.mean.iter().all(|m| m.is_finite())
        {
            "means must be finite and deviations positive and finite".to_owned()
        } else {
            return Ok(());
        };
        Err(CoreError::Graph {
            node: "input".to_owned(),
            problem,
        })
    }

    /// Bytes (`[N, C, H, W]` or one image) to normalised f32.
    ///
    /// # Panics
    ///
    /// If `bytes` does not hold whole images.
    #[must_use]
    #[track_caller]
    pub fn normalize(&self, bytes: &[u8]) -> Vec<f32> {
        let [c, h, w] = self.shape;
        assert_eq!(bytes.len() % (c * h * w), 0, "whole images");
        let mut out = Vec::with_capacity(bytes.len());
        for (plane, chunk) in bytes.chunks_exact(h * w).enumerate() {
            let (mean, std) = (self.mean[plane % c], self.std[plane % c]);
            out.extend(chunk.iter().map(|&b| (f32::from(b) / 255.0 - mean) / std));
        }
        out
    }
}

/// What a data set asks of a classifier: what it is fed, and the classes that it tells apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// What it is fed.
    pub input: InputSpec,
    /// The classes, in the order of the logits.
    pub labels: Vec<String>,
}

impl Task {
    /// 32×32 RGB with the mean and deviation that published CIFAR-10 checkpoints use, and CIFAR-10's classes.
    #[must_use]
    pub fn cifar10() -> Self {
        let labels = [
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ];
        Self {
            input: InputSpec {
                shape: [3, 32, 32],
                mean: vec![0.485, 0.456, 0.406],
                std: vec![0.229, 0.224, 0.225],
                preparation: Preparation::usual([3, 32, 32]),
            },
            labels: labels.map(str::to_owned).to_vec(),
        }
    }
}

/// A network in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its operations.
    pub graph: Graph,
    /// Its parameters and statistics. Cloning a model is cheap: buffers are shared until written.
    pub params: Params,
    /// Its input.
    pub input: InputSpec,
}

/// A parameter as a node uses it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParamRef<'a> {
    /// The node.
    pub node: usize,
    /// The parameter's name.
    pub name: &'a str,
    /// What it is to the node.
    pub role: ParamRole,
}

impl Model {
    /// Every parameter that the graph names, in graph order.
    pub fn param_refs(&self) -> impl Iterator<Item = ParamRef<'_>> {
        self.graph.nodes.iter().enumerate().flat_map(|(node, n)| {
            n.op.params()
                .into_iter()
                .map(move |(name, role)| ParamRef { node, name, role })
        })
    }

    /// The names of the weights of Conv and Gemm nodes, in graph order: what pruning and quantization work on.
    #[must_use]
    pub fn weight_names(&self) -> Vec<&str> {
        self.param_refs()
            .filter(|p| p.role == ParamRole::Weight)
            .map(|p| p.name)
            .collect()
    }

    /// The parameter of this name.
    ///
    /// # Errors
    ///
    /// [`CoreError::MissingParam`] if there is none.
    pub fn param(&self, name: &str) -> Result<&Tensor> {
        self.params
            .get(name)
            .ok_or_else(|| CoreError::MissingParam {
                node: "model".to_owned(),
                param: name.to_owned(),
            })
    }

    /// The labels of the first output; none if it has none.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        self.graph.outputs.first().map_or(&[], |o| &o.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalization_is_per_channel() {
        let mut spec = Task::cifar10().input;
        spec.shape = [2, 1, 2];
        spec.mean = vec![0.0, 0.5];
        spec.std = vec![1.0, 0.5];
        assert_eq!(spec.normalize(&[0, 255, 0, 255]), vec![0.0, 1.0, -1.0, 1.0]);
    }
}
