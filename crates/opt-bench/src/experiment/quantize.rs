//! Quantization: methods for weights, bit widths, post-training against quantization-aware.

use std::time::Instant;

use anyhow::Result;
use opt_quant::{Granularity, WeightBits, WeightMethod};

use super::{Base, Bases, policy, train_aware, train_on, variant};
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
        let started = Instant::now();
        let images = run.data.calibration(bases.profile.calibration_images, 250);
        let calibrated = calibrate(&base.recorded.model, images, run.device)?;
        let calibrating = started.elapsed().as_secs_f64();
        for &bits in &plan.post_training {
            let label = bases.label("quantize", format!("W{bits}A8 post-training"));
            let variant = quantized(&base, &label, bits, calibrating);
            integer(run, variant, &calibrated, bits)?;
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
            integer(run, variant, &trained, bits)?;
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

fn integer(run: &mut Run, variant: Variant<'_>, calibrated: &Calibrated, bits: u8) -> Result<()> {
    let spec = calibrated.spec(WeightBits::inner(bits))?;
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
