//! Quantization: methods for weights, bit widths, post-training against quantization-aware.

use std::time::Instant;

use anyhow::Result;
use opt_core::lower::{Adds, fold_batch_norms};
use opt_nn::Net;
use opt_nn::quantized::FakeQuant;
use opt_nn::train::Constraints;
use opt_quant::{Granularity, WeightBits, WeightMethod};

use super::{Base, Bases};
use crate::measure::Shipped;
use crate::quantization::{Calibrated, calibrate, code_weights};
use crate::run::{Phase, Run, Variant};
use crate::training::Label;

pub(super) fn run(run: &mut Run, bases: &mut Bases<'_>) -> Result<()> {
    for plan in &bases.profile.quantize {
        let base = bases.get(run, &plan.base)?;
        for &levels in &plan.weight_levels {
            let bits =
                u8::try_from(usize::BITS - usize::from(levels - 1).leading_zeros()).unwrap_or(8);
            for (name, method) in weight_methods(levels, bits) {
                let label = bases.label("quantize", name);
                weights_only(run, &base, method, bits, &label)?;
            }
        }
        let images = run.data.calibration(bases.profile.calibration_images, 250);
        let calibrated = calibrate(&base.recorded.model, images, run.device)?;
        for &bits in &plan.post_training {
            let label = bases.label("quantize", format!("W{bits}A8 post-training"));
            integer(run, &base, &calibrated, bits, 0, 0.0, &label)?;
        }
        for &bits in &plan.aware {
            let label = bases.label("quantize", format!("W{bits}A8 quantization-aware"));
            let widths = WeightBits::inner(bits);
            let plain = fold_batch_norms(&base.recorded.model)?;
            let spec = calibrated.spec(widths)?;
            let fake_quant =
                FakeQuant::new(&plain, Adds::Fused, &spec.edges, widths.by_name(&plain))?;
            let mut net = Net::new(&plain, run.device)?;
            let phase = Phase {
                label: &label,
                name: "quantization-aware",
                epochs_before: base.epochs,
            };
            let constraints = Constraints {
                fake_quant: Some(&fake_quant),
                ..Constraints::default()
            };
            let seconds = run.train(&mut net, &plan.aware_train, phase, constraints)?;
            let trained = calibrated.with_weights(&net.to_model()?)?;
            let more = plan.aware_train.epochs;
            integer(run, &base, &trained, bits, more, seconds, &label)?;
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
        activation_bits: 32,
        ..variant(base, label, bits, 0, seconds)
    };
    run.record(variant, Shipped::Coded(&coded))?;
    Ok(())
}

fn integer(
    run: &mut Run,
    base: &Base,
    calibrated: &Calibrated,
    bits: u8,
    more_epochs: usize,
    seconds: f64,
    label: &Label,
) -> Result<()> {
    let spec = calibrated.spec(WeightBits::inner(bits))?;
    let shipped = Shipped::Integer {
        folded: &calibrated.folded,
        spec: &spec,
    };
    run.record(variant(base, label, bits, more_epochs, seconds), shipped)?;
    Ok(())
}

fn variant<'a>(
    base: &'a Base,
    label: &'a Label,
    bits: u8,
    more_epochs: usize,
    seconds: f64,
) -> Variant<'a> {
    let more = match more_epochs {
        0 => String::new(),
        n => format!(" + {n} quantization-aware"),
    };
    Variant {
        label,
        network: &base.recipe.model,
        recipe: &base.recipe.name,
        epochs: (base.epochs + more_epochs) as f64,
        epochs_of: format!("{} base{more}", base.epochs),
        weight_bits: u32::from(bits),
        activation_bits: 8,
        seconds,
        baseline: Some(&base.recorded),
    }
}
