//! The table `[quantize]` of a recipe: integer networks made of what was trained, without training on.

use anyhow::{Result, ensure};
use opt_core::{Binary, Model, Op};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which integer networks are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quantize {
    /// Bits of a weight, 2 to 8, or a list of them; below 8 the first and last layer keep 8. Activations have 8.
    #[serde(default = "default_bits")]
    pub bits: OneOrMore<u8>,
    /// One network for each of these kinds of addition.
    #[serde(default = "default_residual_add")]
    pub residual_add: Vec<Additions>,
    /// Training images, without augmentation, whose smallest and largest values give the scales; all if there are fewer.
    #[serde(default = "default_calibration_images")]
    pub calibration_images: usize,
    /// Layers that stay f32, by the name of their node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub float: Vec<String>,
}

/// A value of TOML that may be a list of such values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number, or a list of numbers")]
pub enum OneOrMore<T> {
    /// `bits = 8`.
    One(T),
    /// `bits = [8, 4]`.
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    /// The values, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::More(values) => values,
        }
    }
}

impl OneOrMore<u8> {
    /// Checks that these are widths of weights, each once.
    pub(crate) fn check_bits(&self) -> Result<()> {
        let bits = self.as_slice();
        ensure!(!bits.is_empty(), "bits is empty, expected 2 to 8");
        for (i, width) in bits.iter().enumerate() {
            ensure!((2..=8).contains(width), "bits is {width}, expected 2 to 8");
            ensure!(
                !bits[..i].contains(width),
                "bits: {width} is there twice; once is enough"
            );
        }
        Ok(())
    }
}

/// What happens to residual additions: [`opt_core::lower::ResidualAdd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Additions {
    /// Within the convolution before, which rounds once.
    Fused,
    /// Both operands first, as other programs' integer kernels need it.
    Explicit,
}

fn default_bits() -> OneOrMore<u8> {
    OneOrMore::One(8)
}
fn default_residual_add() -> Vec<Additions> {
    vec![Additions::Fused]
}
fn default_calibration_images() -> usize {
    2000
}

impl Quantize {
    /// Checks every number, and that each kind of addition makes a network of its own of `model`.
    pub(super) fn check(&self, model: &Model) -> Result<()> {
        let Self {
            bits,
            residual_add,
            calibration_images,
            float,
        } = self;
        bits.check_bits()?;
        ensure!(
            (1..=10_000_000).contains(calibration_images),
            "calibration_images is {calibration_images}, expected 1 to 10,000,000"
        );
        for name in float {
            let Some(id) = model.graph.find(name) else {
                anyhow::bail!(
                    "float names `{name}`, expected a layer of the network: {}",
                    layers(model)
                );
            };
            ensure!(
                matches!(
                    model.graph.nodes[id].op,
                    Op::Conv { .. }
                        | Op::Gemm { .. }
                        | Op::Binary(_)
                        | Op::AveragePool(_)
                        | Op::GlobalAveragePool
                ),
                "float names `{name}`, which is a {}, expected a layer that computes: {}",
                model.graph.nodes[id].op.name(),
                layers(model)
            );
        }
        let [first, rest @ ..] = residual_add.as_slice() else {
            anyhow::bail!("residual_add is empty, expected \"fused\", \"explicit\" or both");
        };
        ensure!(
            rest.len() <= 1 && !rest.contains(first),
            "residual_add names a kind twice, expected \"fused\", \"explicit\" or both"
        );
        ensure!(
            residual_add == &default_residual_add()
                || model
                    .graph
                    .nodes
                    .iter()
                    .any(|n| n.op == Op::Binary(Binary::Add)),
            "residual_add: this network adds nothing, so that every kind gives the same; leave the key out"
        );
        Ok(())
    }
}

/// The convolutions and matrices of a network, for whoever looks for a name.
fn layers(model: &Model) -> String {
    let is_layer = |op: &Op| matches!(op, Op::Conv { .. } | Op::Gemm { .. });
    let nodes = model.graph.nodes.iter().filter(|n| is_layer(&n.op));
    let names: Vec<&str> = nodes.map(|n| n.name.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::{Task, zoo};

    fn parse(text: &str, model: &str) -> Result<Quantize> {
        let quantize: Quantize = toml::from_str(text)?;
        quantize.check(&zoo::build(model, &Task::cifar10(), 0)?)?;
        Ok(quantize)
    }

    #[test]
    fn an_empty_table_is_eight_bits_with_fused_additions() {
        let expect = Quantize {
            bits: OneOrMore::One(8),
            residual_add: vec![Additions::Fused],
            calibration_images: 2000,
            float: Vec::new(),
        };
        assert_eq!(parse("", "resnet20").unwrap(), expect);
        let all = "bits = 4\nresidual_add = [\"explicit\", \"fused\"]\ncalibration_images = 1\n";
        let quantize = parse(all, "resnet20").unwrap();
        assert_eq!(toml::to_string(&quantize).unwrap(), all);
    }

    #[test]
    fn mistakes_are_named() {
        struct Case {
            text: &'static str,
            model: &'static str,
            expect: &'static str,
        }
        let cases = [
            // Layers that there are not, and what is none.
            Case {
                text: "float = [\"conv9\"]",
                model: "resnet20",
                expect: "float names `conv9`, expected a layer of the network: conv1, layer1.0.conv1",
            },
            Case {
                text: "float = [\"bn1\"]",
                model: "resnet20",
                expect: "float names `bn1`, which is a BatchNormalization",
            },
            // Widths that there are not.
            Case {
                text: "bits = 1",
                model: "resnet20",
                expect: "bits is 1, expected 2 to 8",
            },
            Case {
                text: "bits = 9",
                model: "resnet20",
                expect: "bits is 9, expected 2 to 8",
            },
            // Nothing to observe.
            Case {
                text: "calibration_images = 0",
                model: "resnet20",
                expect: "calibration_images is 0",
            },
            // No network, the same network twice, and one that does not exist.
            Case {
                text: "residual_add = []",
                model: "resnet20",
                expect: "residual_add is empty",
            },
            Case {
                text: "residual_add = [\"fused\", \"fused\"]",
                model: "resnet20",
                expect: "residual_add names a kind twice",
            },
            Case {
                text: "residual_add = [\"fused\", \"explicit\", \"fused\"]",
                model: "resnet20",
                expect: "residual_add names a kind twice",
            },
            Case {
                text: "residual_add = [\"exact\"]",
                model: "resnet20",
                expect: "unknown variant `exact`, expected `fused` or `explicit`",
            },
            // The same network under another name.
            Case {
                text: "residual_add = [\"explicit\"]",
                model: "airbench_2_2_2",
                expect: "this network adds nothing",
            },
            Case {
                text: "levels = 16",
                model: "resnet20",
                expect: "unknown field `levels`",
            },
        ];
        for case in cases {
            let error = format!("{:#}", parse(case.text, case.model).unwrap_err());
            assert!(error.contains(case.expect), "{}: {error}", case.text);
        }
    }
}
