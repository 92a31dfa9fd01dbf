//! A graph with its parameters and its input: what is trained, pruned, imported and exported.

use std::collections::BTreeMap;

use ndarray::{ArcArray, IxDyn};

use crate::op::{Op, ParamRole};
use crate::shape::infer_shapes;
use crate::{CoreError, Graph, Output, Preparation, Result};

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

    /// Checks the graph, every parameter's presence, shape and finiteness, that every BatchNormalization has a deviation, the
    /// input, and the size of the output.
    ///
    /// # Errors
    ///
    /// Names the first node or parameter that is wrong; a parameter that no node names is wrong too.
    pub fn validate(&self) -> Result<()> {
        self.graph.validate()?;
        let shapes = infer_shapes(self)?;
        self.input.validate()?;
        for output in &self.graph.outputs {
            check_labels(
                output,
                &self.graph.nodes[output.node].name,
                &shapes[output.node],
            )?;
        }
        let mut used = std::collections::BTreeSet::new();
        for param in self.param_refs() {
            let tensor = &self.params[param.name];
            used.insert(param.name);
            check_finite(param.name, tensor)?;
        }
        for node in &self.graph.nodes {
            check_deviations(&self.params, &node.name, &node.op)?;
        }
        if let Some(stray) = self.params.keys().find(|k| !used.contains(k.as_str())) {
            return Err(CoreError::Graph {
                node: stray.clone(),
                problem: "this parameter belongs to no node".to_owned(),
            });
        }
        Ok(())
    }
}

/// Checks that an output of this shape has as many labels as numbers, if it has any.
pub(crate) fn check_labels(output: &Output, name: &str, shape: &[usize]) -> Result<()> {
    let (numbers, labels) = (shape.iter().product::<usize>(), output.labels.len());
    if labels == 0 || labels == numbers {
        return Ok(());
    }
    Err(CoreError::Graph {
        node: name.to_owned(),
        problem: format!("gives {numbers} numbers for {labels} labels"),
    })
}

impl Model {
    /// The labels of the first output; none if it has none.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        self.graph.outputs.first().map_or(&[], |o| &o.labels)
    }
}

/// A BatchNormalization divides by `sqrt(var + ε)`: of a negative variance, which no batch has, nothing but NaN would
/// come, and later operators can hide it.
pub(crate) fn check_deviations(params: &Params, name: &str, op: &Op) -> Result<()> {
    let Op::BatchNormalization { var, epsilon, .. } = op else {
        return Ok(());
    };
    if !(epsilon.is_finite() && *epsilon >= 0.0) {
        return Err(CoreError::Graph {
            node: name.to_owned(),
            problem: format!("its epsilon is {epsilon}, expected a finite number from 0"),
        });
    }
    let variances = params.get(var).into_iter().flatten().enumerate();
    let unusable = |(_, v): &(usize, &f32)| **v < 0.0 || **v + epsilon <= 0.0;
    match variances.into_iter().find(unusable) {
        None => Ok(()),
        Some((channel, value)) => Err(CoreError::Variance {
            param: var.clone(),
            node: name.to_owned(),
            channel,
            value: *value,
            epsilon: *epsilon,
        }),
    }
}

/// Checks that a parameter holds numbers alone.
pub(crate) fn check_finite(name: &str, tensor: &Tensor) -> Result<()> {
    match tensor.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        None => Ok(()),
        Some((index, value)) => Err(CoreError::NotFinite {
            param: name.to_owned(),
            index,
            value: *value,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    #[test]
    fn normalization_is_per_channel() {
        let mut spec = Task::cifar10().input;
        spec.shape = [2, 1, 2];
        spec.mean = vec![0.0, 0.5];
        spec.std = vec![1.0, 0.5];
        assert_eq!(spec.normalize(&[0, 255, 0, 255]), vec![0.0, 1.0, -1.0, 1.0]);
    }

    fn set_epsilon(model: &mut Model, value: f32) {
        let bn1 = model.graph.find("bn1").unwrap();
        if let Op::BatchNormalization { epsilon, .. } = &mut model.graph.nodes[bn1].op {
            *epsilon = value;
        }
    }

    #[test]
    fn validation_finds_what_is_wrong_with_parameters() {
        let sound = zoo::build("resnet20", &Task::cifar10(), 0).unwrap();
        sound.validate().unwrap();
        struct Case {
            break_it: fn(&mut Model),
            expect: &'static str,
        }
        let cases = [
            // A parameter is not there.
            Case {
                break_it: |m| drop(m.params.remove("linear.bias")),
                expect: "parameter `linear.bias` of node `linear` is missing",
            },
            // A parameter that nothing reads.
            Case {
                break_it: |m| {
                    let stray = m.params["linear.bias"].clone();
                    m.params.insert("stray".to_owned(), stray);
                },
                expect: "node `stray`: this parameter belongs to no node",
            },
            // A transposed weight.
            Case {
                break_it: |m| {
                    let w = m.params["linear.weight"].t().to_owned().into_shared();
                    m.params.insert("linear.weight".to_owned(), w);
                },
                expect: "parameter `linear.weight`: shape [64, 10], expected [64, 64]",
            },
            // A NaN.
            Case {
                break_it: |m| m.params.get_mut("bn1.bias").unwrap()[3] = f32::NAN,
                expect: "parameter `bn1.bias`: element 3 is NaN",
            },
            // An infinity in a statistic.
            Case {
                break_it: |m| m.params.get_mut("bn1.running_var").unwrap()[2] = f32::INFINITY,
                expect: "parameter `bn1.running_var`: element 2 is inf",
            },
            // A variance below zero, by more and by less than epsilon.
            Case {
                break_it: |m| m.params.get_mut("bn1.running_var").unwrap()[5] = -0.5,
                expect: "parameter `bn1.running_var` of node `bn1`: the variance of channel 5 is -0.5",
            },
            Case {
                break_it: |m| m.params.get_mut("layer2.0.bn2.running_var").unwrap()[0] = -1e-6,
                expect: "parameter `layer2.0.bn2.running_var` of node `layer2.0.bn2`: the variance of channel 0 is -0.000001",
            },
            // No variance and no epsilon.
            Case {
                break_it: |m| {
                    m.params.get_mut("bn1.running_var").unwrap()[1] = 0.0;
                    set_epsilon(m, 0.0);
                },
                expect: "the variance of channel 1 is 0 and epsilon 0",
            },
            Case {
                break_it: |m| set_epsilon(m, f32::NAN),
                expect: "node `bn1`: its epsilon is NaN",
            },
            Case {
                break_it: |m| set_epsilon(m, -1e-5),
                expect: "node `bn1`: its epsilon is -0.00001",
            },
            // A class too many.
            Case {
                break_it: |m| m.graph.outputs[0].labels.push("zebra".to_owned()),
                expect: "gives 10 numbers for 11 labels",
            },
            // A zero deviation.
            Case {
                break_it: |m| m.input.std[1] = 0.0,
                expect: "deviations positive",
            },
        ];
        for case in cases {
            let mut model = sound.clone();
            (case.break_it)(&mut model);
            let message = model.validate().unwrap_err().to_string();
            assert!(message.contains(case.expect), "{message}");
        }
    }
}
