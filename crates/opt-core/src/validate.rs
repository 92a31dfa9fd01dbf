//! Whether a network is sound: what is checked before anything computes with it.

use std::collections::BTreeSet;

use crate::model::{Params, Tensor};
use crate::op::Op;
use crate::shape::infer_shapes;
use crate::{CoreError, Model, Output, Result};

impl Model {
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
        let mut used = BTreeSet::new();
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
    use crate::{Task, zoo};

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
