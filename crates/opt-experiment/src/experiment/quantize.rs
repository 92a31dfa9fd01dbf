//! Quantization: methods for weights, bit widths, post-training against quantization-aware.

use anyhow::{Context, Result, bail};
use opt_core::lower::ResidualAdd;
use opt_core::{Binary, Op, zoo};
use opt_quant::{Granularity, WeightMethod};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::block::{Block, distinct};
use super::stage::{Calibration, Loss, Stage, StageId, Stages, Work};
use crate::recipe::{self, Additions, Train};

/// The experiment, on the command line and in result lines.
pub(super) const NAME: &str = "quantize";

/// Quantization of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quantize {
    /// The baseline's name.
    pub base: String,
    /// Levels, 3 to 256, of the source text's formula, of affine and symmetric codes and of codebooks; weights only, f32
    /// activations.
    pub weight_levels: Vec<u16>,
    /// Bits of a weight, 2 to 8, of integer networks without training; activations have 8.
    pub post_training: Vec<u8>,
    /// Bits of a weight, 2 to 8, of integer networks from quantization-aware training (QAT); activations have 8.
    pub qat: Vec<u8>,
    /// That training, with fake quantization; the same without it is what it is compared with.
    pub qat_train: Train,
}

/// The bits that a code of so many levels needs.
#[must_use]
pub fn bits_of(levels: u16) -> u8 {
    let bits = u16::BITS - levels.saturating_sub(1).leading_zeros();
    u8::try_from(bits).unwrap_or(u8::MAX)
}

impl Block for Quantize {
    fn experiment(&self) -> &'static str {
        NAME
    }

    fn base(&self) -> &str {
        &self.base
    }

    fn teacher(&self) -> Option<&str> {
        None
    }

    fn trains(&self) -> Vec<&Train> {
        vec![&self.qat_train]
    }

    fn epochs_mut(&mut self) -> Vec<&mut usize> {
        vec![&mut self.qat_train.epochs]
    }

    fn check(&self) -> Result<()> {
        self.qat_train.check().context("qat_train")?;
        let bits = |b: &&u8| !(2..=8).contains(*b);
        let wrong = self.post_training.iter().chain(&self.qat).find(bits);
        if let Some(wrong) = wrong {
            bail!("a width is {wrong} bits, expected 2 to 8");
        }
        let wrong = self.weight_levels.iter().find(|l| !(3..=256).contains(*l));
        if let Some(wrong) = wrong {
            bail!("weight_levels has {wrong}, expected 3 to 256");
        }
        let bits: Vec<u8> = self.weight_levels.iter().map(|l| bits_of(*l)).collect();
        distinct(&bits, "take one number of levels for each number of bits")
            .context("weight_levels, in bits")?;
        distinct(&self.post_training, "once is enough").context("post_training")?;
        distinct(&self.qat, "once is enough").context("qat")
    }

    fn stages(&self, list: &mut Stages) -> Result<()> {
        let of = NAME;
        let base = list.baseline(&self.base)?;
        for &levels in &self.weight_levels {
            let bits = bits_of(levels);
            for (name, method) in weight_methods(levels, bits) {
                let work = Work::QuantizeWeights { method, bits };
                list.push(list.after(base, of, name, work))?;
            }
        }
        let calibration = list.calibration.clone();
        for &bits in &self.post_training {
            let work = Work::PostTraining {
                calibration: calibration.clone(),
                adds: ResidualAdd::Fused,
                bits,
            };
            list.push(list.after(base, of, format!("W{bits}A8 post-training"), work))?;
        }
        if self.qat.is_empty() {
            return Ok(());
        }
        let control = list.push(trained_on(list, base, of, &self.qat_train))?;
        for &bits in &self.qat {
            let work = Work::QuantizationAware {
                calibration: calibration.clone(),
                bits,
                train: self.qat_train.clone(),
                loss: Loss::CrossEntropy,
            };
            let name = format!("W{bits}A8 quantization-aware");
            let more = self.qat_train.epochs;
            list.push(Stage {
                compared_with: Some(control),
                epochs_of: format!("{} base + {more} quantization-aware", list.get(base).epochs),
                ..list.after(base, of, name, work)
            })?;
        }
        Ok(())
    }
}

/// A baseline trained further as it is, for as many epochs as a variant gets: what these epochs alone are worth. Variants that are
/// trained after their baseline are compared with this.
pub(super) fn trained_on(list: &Stages, base: StageId, of: &'static str, train: &Train) -> Stage {
    let work = Work::Train {
        phase: "train further",
        train: train.clone(),
        loss: Loss::CrossEntropy,
    };
    let baseline = list.get(base);
    Stage {
        epochs_of: format!(
            "{} base + {} without compression",
            baseline.epochs, train.epochs
        ),
        ..list.after(
            base,
            of,
            format!("{} trained further", baseline.recipe),
            work,
        )
    }
}

/// The methods with this number of levels, under the names that results carry.
fn weight_methods(levels: u16, bits: u8) -> Vec<(String, WeightMethod)> {
    let symmetric = |granularity| WeightMethod::Symmetric { bits, granularity };
    vec![
        (
            format!("weights: text's formula, L = {levels}"),
            WeightMethod::UniformLevels { levels },
        ),
        (
            format!("weights: affine, {bits} bits"),
            WeightMethod::Affine { bits },
        ),
        (
            format!("weights: symmetric per tensor, {bits} bits"),
            symmetric(Granularity::PerTensor),
        ),
        (
            format!("weights: symmetric per channel, {bits} bits"),
            symmetric(Granularity::PerChannel),
        ),
        (
            format!("weights: k-means, {levels} values"),
            WeightMethod::KMeans {
                levels,
                pin_zero: true,
            },
        ),
    ]
}

/// What a recipe's `quantize` adds: an integer network for each number of bits and kind of addition.
pub(super) fn recipe_stages(
    list: &mut Stages,
    trained: StageId,
    quantize: &recipe::Quantize,
) -> Result<()> {
    let recipe::Quantize {
        bits,
        residual_add,
        calibration_images: _,
        float,
    } = quantize;
    let has_adds = has_adds(&list.get(trained).network)?;
    for &bits in bits.as_slice() {
        for kind in residual_add {
            let (adds, how) = match kind {
                Additions::Fused => (ResidualAdd::Fused, ", fused residual add"),
                Additions::Explicit => (ResidualAdd::Explicit, ", explicit residual add"),
            };
            let name = format!(
                "W{bits}A8{}{}",
                if has_adds { how } else { "" },
                match float.len() {
                    0 => String::new(),
                    n => format!(", {n} in f32"),
                }
            );
            let work = Work::PostTraining {
                calibration: Calibration {
                    float: float.iter().cloned().collect(),
                    ..list.calibration.clone()
                },
                adds,
                bits,
            };
            list.push(Stage {
                experiment: list.get(trained).experiment,
                ..list.after(trained, NAME, name, work)
            })?;
        }
    }
    Ok(())
}

/// Whether a network adds: only then do kinds of addition differ.
fn has_adds(network: &str) -> Result<bool> {
    let model = zoo::build(network, &opt_core::Task::cifar10(), 0)?;
    let adds = Op::Binary(Binary::Add);
    Ok(model.graph.nodes.iter().any(|n| n.op == adds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Data, Limits};
    use crate::experiment::{recipe_stages, run_stages};
    use crate::folder::Request;
    use crate::recipe::Recipe;
    use crate::run::Run;

    #[test]
    fn a_recipe_gives_a_file_and_a_line_for_each_kind_of_addition() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            train: Some(30),
            test: Some(10),
            ..Limits::default()
        };
        let data = Data::load("synthetic", dir.path(), limits).unwrap();
        let request = Request {
            out: dir.path().join("run"),
            profile: "train".to_owned(),
            experiments: vec!["train".to_owned()],
            recipes: Vec::new(),
            precision: String::new(),
            seeds: vec![3],
            shard: None,
            root: dir.path().to_owned(),
        };
        let mut run = Run::start(request, data, tch::Device::Cpu).unwrap();
        let text = "name = \"r\"\nmodel = \"resnet20\"\n[train]\nepochs = 0\nlr = 0.1\n[quantize]\nbits = 4\n\
                    residual_add = [\"explicit\", \"fused\"]\ncalibration_images = 30\n";
        let recipe: Recipe = toml::from_str(text).unwrap();
        run_stages(&mut run, &recipe_stages(&recipe).unwrap(), None).unwrap();
        let [float, explicit, fused] = run.lines.as_slice() else {
            panic!("{:?}", run.lines);
        };
        assert_eq!(
            (float.weight_bits, float.file.as_str()),
            (32, "models/train-resnet20-r-s3.safetensors")
        );
        // An explicit residual add is a node of its own; a fused one is a second operand of its convolution.
        for (line, kind, own) in [(explicit, "explicit", 9), (fused, "fused", 0)] {
            assert_eq!(line.variant, format!("W4A8, {kind} residual add"));
            assert_eq!(
                line.file,
                format!("models/train-resnet20-w4a8-{kind}-residual-add-s3.opt")
            );
            assert_eq!((line.weight_bits, line.activation_bits), (4, 8));
            assert_eq!(line.policy, "first and last layer 8 bits");
            assert_eq!(line.baseline.as_deref(), Some("r"));
            assert_eq!(line.bytes_baseline, Some(float.bytes));
            let network = opt_artifact::load_qmodel(&run.out.join(&line.file)).unwrap();
            let adds = |op: &opt_core::QOp| matches!(op, opt_core::QOp::Add);
            assert_eq!(
                network.nodes.iter().filter(|n| adds(&n.op)).count(),
                own,
                "{kind}"
            );
        }
        // Both were seen by the same calibration.
        assert_eq!(explicit.seconds.to_bits(), fused.seconds.to_bits());
    }

    #[test]
    fn bits_hold_their_levels() {
        for (levels, bits) in [(3, 2), (4, 2), (5, 3), (16, 4), (17, 5), (256, 8)] {
            assert_eq!(bits_of(levels), bits, "{levels}");
        }
    }

    #[test]
    fn a_recipe_may_list_bits() {
        let text = "name = \"r\"\nmodel = \"source_net\"\n[train]\nepochs = 0\nlr = 0.1\n[quantize]\nbits = [8, 5]\n";
        let recipe: Recipe = toml::from_str(text).unwrap();
        let stages = recipe_stages(&recipe).unwrap();
        let names: Vec<&str> = stages.iter().map(|(_, s)| s.name.as_str()).collect();
        assert_eq!(names, ["r", "W8A8", "W5A8"]);
        assert!(stages.iter().all(|(_, s)| s.experiment == "train"));
    }
}
