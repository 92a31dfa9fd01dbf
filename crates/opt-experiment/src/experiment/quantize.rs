//! Quantization: methods for weights, bit widths, post-training against quantization-aware.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Result;
use opt_core::lower::Adds;
use opt_core::{Binary, Op};
use opt_quant::{Granularity, WeightBits, WeightMethod};

use super::{Base, Bases, policy, train_aware, train_on, variant};
use crate::measure::Shipped;
use crate::profile::bits_of;
use crate::quantization::{Calibrated, calibrate, code_weights};
use crate::recipe::{self, Additions, Recipe};
use crate::run::{Phase, Recorded, Run, Variant};
use crate::training::Label;

pub(super) fn run(run: &mut Run, bases: &mut Bases<'_>) -> Result<()> {
    for plan in &bases.profile.quantize {
        let base = bases.get(run, &plan.base)?;
        for &levels in &plan.weight_levels {
            let bits = bits_of(levels);
            for (name, method) in weight_methods(levels, bits) {
                let label = bases.label("quantize", name);
                weights_only(run, &base, method, bits, &label)?;
            }
        }
        let started = Instant::now();
        let images = run.data.calibration(bases.profile.calibration_images, 250);
        let calibrated = calibrate(&base.recorded.model, images, run.device, &BTreeSet::new())?;
        let calibrating = started.elapsed().as_secs_f64();
        for &bits in &plan.post_training {
            let label = bases.label("quantize", format!("W{bits}A8 post-training"));
            let variant = quantized(&base, &label, bits, calibrating);
            integer(run, variant, &calibrated, Adds::Fused, bits)?;
        }
        if plan.aware.is_empty() {
            continue;
        }
        let label = bases.label("quantize", format!("{} trained on", base.recipe.name));
        let control = train_on(run, &base, &plan.aware_train, &label)?;
        for &bits in &plan.aware {
            let label = bases.label("quantize", format!("W{bits}A8 quantization-aware"));
            let phase = Phase {
                label: &label,
                network: &base.recipe.model,
                name: "quantization-aware",
                epochs_before: base.epochs,
            };
            let (trained, seconds) = train_aware(
                run,
                &base.recorded.model,
                &calibrated,
                WeightBits::inner(bits),
                &plan.aware_train,
                phase,
                None,
            )?;
            let more = plan.aware_train.epochs;
            let variant = Variant {
                epochs: (base.epochs + more) as f64,
                epochs_of: format!("{} base + {more} quantization-aware", base.epochs),
                train_precision: plan.aware_train.precision_name(run.device),
                baseline: Some(&control),
                ..quantized(&base, &label, bits, calibrating + seconds)
            };
            integer(run, variant, &trained, Adds::Fused, bits)?;
        }
    }
    Ok(())
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

fn weights_only(
    run: &mut Run,
    base: &Base,
    method: WeightMethod,
    bits: u8,
    label: &Label,
) -> Result<()> {
    let started = Instant::now();
    let coded = code_weights(&base.recorded.model, method)?;
    let seconds = started.elapsed().as_secs_f64();
    let variant = Variant {
        weight_bits: u32::from(bits),
        ..variant(base, label, seconds)
    };
    run.record(variant, Shipped::Coded(&coded))?;
    Ok(())
}

/// Quantizes what a recipe trained, without training on: a file and a result line for each kind of addition.
///
/// # Errors
///
/// A network without an integer form, measuring.
pub fn quantize_recipe(
    run: &mut Run,
    recipe: &Recipe,
    quantize: &recipe::Quantize,
    trained: &Recorded,
) -> Result<()> {
    let recipe::Quantize {
        bits,
        adds,
        calibration_images,
        float,
    } = quantize;
    let base = Base {
        recipe: recipe.clone(),
        recorded: trained.clone(),
        epochs: recipe.train.epochs,
    };
    let started = Instant::now();
    let images = run.data.calibration(*calibration_images, 250);
    let float = float.iter().cloned().collect();
    let calibrated = calibrate(&trained.model, images, run.device, &float)?;
    let calibrating = started.elapsed().as_secs_f64();
    let has_adds = trained
        .model
        .graph
        .nodes
        .iter()
        .any(|n| n.op == Op::Binary(Binary::Add));
    for kind in adds {
        let (adds, name) = match kind {
            Additions::Fused => (Adds::Fused, ", fused additions"),
            Additions::Rounded => (Adds::Rounded, ", rounded additions"),
        };
        let label = Label {
            experiment: trained.line.experiment.clone(),
            variant: format!(
                "W{bits}A8{}{}",
                if has_adds { name } else { "" },
                match float.len() {
                    0 => String::new(),
                    n => format!(", {n} in f32"),
                }
            ),
            seed: trained.line.seed,
        };
        let variant = quantized(&base, &label, *bits, calibrating);
        integer(run, variant, &calibrated, adds, *bits)?;
    }
    Ok(())
}

fn integer(
    run: &mut Run,
    variant: Variant<'_>,
    calibrated: &Calibrated,
    adds: Adds,
    bits: u8,
) -> Result<()> {
    let spec = calibrated.spec(adds, WeightBits::inner(bits))?;
    let shipped = Shipped::Integer {
        folded: &calibrated.folded,
        spec: &spec,
    };
    run.record(variant, shipped)?;
    Ok(())
}

/// A quantized variant that was not trained after its base.
fn quantized<'a>(base: &'a Base, label: &'a Label, bits: u8, seconds: f64) -> Variant<'a> {
    Variant {
        weight_bits: u32::from(bits),
        activation_bits: 8,
        policy: policy(bits),
        ..variant(base, label, seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Data, Limits};
    use crate::experiment::train_recipe;
    use crate::run::Request;

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
            root: dir.path().to_owned(),
        };
        let mut run = Run::start(request, data, tch::Device::Cpu).unwrap();
        let text = "name = \"r\"\nmodel = \"resnet20\"\n[train]\nepochs = 0\nlr = 0.1\n[quantize]\nbits = 4\n\
                    adds = [\"rounded\", \"fused\"]\ncalibration_images = 30\n";
        let recipe: Recipe = toml::from_str(text).unwrap();
        let label = Label {
            experiment: "train".to_owned(),
            variant: "r".to_owned(),
            seed: 3,
        };
        let trained = train_recipe(&mut run, &recipe, &label).unwrap();
        let quantize = recipe.quantize.as_ref().unwrap();
        quantize_recipe(&mut run, &recipe, quantize, &trained).unwrap();
        let [float, rounded, fused] = run.lines.as_slice() else {
            panic!("{:?}", run.lines);
        };
        assert_eq!(
            (float.weight_bits, float.file.as_str()),
            (32, "models/train-resnet20-r-s3.safetensors")
        );
        // A rounded addition is a node of its own; a fused one is a second operand of its convolution.
        for (line, kind, own) in [(rounded, "rounded", 9), (fused, "fused", 0)] {
            assert_eq!(line.variant, format!("W4A8, {kind} additions"));
            assert_eq!(
                line.file,
                format!("models/train-resnet20-w4a8-{kind}-additions-s3.opt")
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
        assert_eq!(rounded.seconds.to_bits(), fused.seconds.to_bits());
    }
}
