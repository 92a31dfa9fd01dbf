//! The whole chain on one network: remove channels, fine-tune with the unpruned network as teacher, quantize, write.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Result;
use opt_core::lower::Adds;
use opt_nn::Net;
use opt_nn::train::Constraints;
use opt_prune::channels::{ChannelRequest, ChannelTarget};
use opt_prune::{Criterion, Norm, plan_channels, score_channels, shrink};
use opt_quant::WeightBits;
use opt_report::Arm;

use super::{Bases, policy, train_aware, train_control, train_on, unless_diverged, variant};
use crate::distillation::Distill;
use crate::measure::Shipped;
use crate::quantization::calibrate;
use crate::recipe::Train;
use crate::run::{Part, Phase, Run, Variant};
use crate::training::Label;

pub(super) fn run(run: &mut Run, bases: &mut Bases<'_>) -> Result<()> {
    for plan in &bases.profile.pipeline {
        let base = bases.get(run, &plan.base)?;
        let teacher = Net::new(&base.recorded.model, run.device)?;

        // What the epochs that follow are worth without compression: every step is compared with this.
        let epochs = plan.fine_tune.epochs + plan.aware_train.epochs;
        let train = Train {
            epochs,
            ..plan.fine_tune.clone()
        };
        let label = bases.label("pipeline", format!("{} trained on", base.recipe.name));
        let control = train_on(run, &base, &train, &label)?;

        // Remove channels: the network is rebuilt smaller.
        let started = Instant::now();
        let scores = score_channels(&base.recorded.model, &Criterion::Magnitude(Norm::L2), None)?;
        let request = ChannelRequest {
            multiple_of: plan.multiple_of,
            ..ChannelRequest::new(ChannelTarget::KeepRatio(plan.keep_channels))
        };
        let channels = plan_channels(&base.recorded.model, &scores, &request)?;
        let small = shrink(&base.recorded.model, &channels)?;
        let mut seconds = started.elapsed().as_secs_f64();
        let removed = 100.0 * (1.0 - plan.keep_channels);
        let label = bases.label("pipeline", format!("1. {removed:.0} % of channels removed"));
        let pruned = Variant {
            baseline: Some(&control),
            ..variant(&base, &label, seconds)
        };
        run.record(pruned.clone(), Shipped::Float(&small))?;

        // What fine-tuning gives without a teacher; no step goes on from there.
        let more = plan.fine_tune.epochs;
        let tuned = Variant {
            epochs: (base.epochs + more) as f64,
            epochs_of: format!("{} base + {more} fine-tune", base.epochs),
            train_precision: plan.fine_tune.precision_name(run.device),
            ..pruned
        };
        let part = |arm| {
            let group = format!("{}, step 2", base.recipe.name);
            Some(Part { group, arm })
        };
        for other in [None]
            .into_iter()
            .chain(plan.controls().into_iter().map(Some))
        {
            let how = other.map_or_else(String::new, |other| format!(", {other}"));
            let label = bases.label("pipeline", format!("2. fine-tuned without a teacher{how}"));
            let mut net = Net::new(&small, run.device)?;
            let phase = Phase {
                label: &label,
                network: &base.recipe.model,
                name: "fine-tune",
                epochs_before: base.epochs,
            };
            let trained = match other {
                Some(other) => train_control(run, &mut net, &plan.fine_tune, other, phase),
                None => run.train(&mut net, &plan.fine_tune, phase, Constraints::default()),
            };
            if let Some(tuning) = unless_diverged(run, &label, trained)? {
                let alone = Variant {
                    label: &label,
                    seconds: seconds + tuning,
                    part: part(Arm::Control),
                    ..tuned.clone()
                };
                let recorded = run.record(alone, Shipped::Float(&net.to_model()?));
                unless_diverged(run, &label, recorded)?;
            }
        }

        // Fine-tune with the unpruned network as teacher.
        let label = bases.label("pipeline", "2. fine-tuned with a teacher".to_owned());
        let mut net = Net::new(&small, run.device)?;
        let constraints = Constraints {
            teacher: Some(&teacher),
            ..Constraints::default()
        };
        let mut objective = Distill(plan.kd(plan.temperature));
        let phase = Phase {
            label: &label,
            network: &base.recipe.model,
            name: "fine-tune",
            epochs_before: base.epochs,
        };
        let train = &plan.fine_tune;
        let trained = run.train_with(&mut net, train, phase, constraints, &mut objective);
        let later = [
            format!("3. W{}A8 post-training", plan.bits),
            format!("4. W{}A8 quantization-aware", plan.bits),
        ]
        .map(|step| bases.label("pipeline", step));
        let Some(tuning) = unless_diverged(run, &label, trained)? else {
            leave_out(run, &later)?;
            continue;
        };
        seconds += tuning;
        let taught = net.to_model()?;
        let trained = Variant {
            label: &label,
            seconds,
            part: part(Arm::Taught),
            ..tuned
        };
        let recorded = run.record(trained.clone(), Shipped::Float(&taught));
        if unless_diverged(run, &label, recorded)?.is_none() {
            leave_out(run, &later)?;
            continue;
        }

        // Quantize after training, then train on with fake quantization.
        let bits = WeightBits::inner(plan.bits);
        let started = Instant::now();
        let images = run.data.calibration(bases.profile.calibration_images, 250);
        let calibrated = calibrate(&taught, images, run.device, &BTreeSet::new())?;
        let spec = calibrated.spec(Adds::Fused, bits)?;
        seconds += started.elapsed().as_secs_f64();
        let [post_training, aware_label] = &later;
        let quantized = Variant {
            label: post_training,
            weight_bits: u32::from(plan.bits),
            activation_bits: 8,
            policy: policy(plan.bits),
            seconds,
            part: None,
            ..trained
        };
        let shipped = Shipped::Integer {
            folded: &calibrated.folded,
            spec: &spec,
        };
        run.record(quantized.clone(), shipped)?;

        let phase = Phase {
            label: aware_label,
            network: &base.recipe.model,
            name: "quantization-aware",
            epochs_before: base.epochs + more,
        };
        let (aware, aware_seconds) = train_aware(
            run,
            &taught,
            &calibrated,
            bits,
            &plan.aware_train,
            phase,
            Some((&teacher, Distill(plan.kd(1.0)))),
        )?;
        let spec = aware.spec(Adds::Fused, bits)?;
        let last = Variant {
            label: aware_label,
            epochs: (base.epochs + epochs) as f64,
            epochs_of: format!(
                "{} base + {more} fine-tune + {} quantization-aware",
                base.epochs, plan.aware_train.epochs
            ),
            seconds: seconds + aware_seconds,
            ..quantized
        };
        let shipped = Shipped::Integer {
            folded: &aware.folded,
            spec: &spec,
        };
        run.record(last, shipped)?;
    }
    Ok(())
}

/// Notes the steps that would go on from one that diverged.
fn leave_out(run: &mut Run, steps: &[Label]) -> Result<()> {
    for label in steps {
        run.leave_out(label, "goes on from step 2, which diverged".to_owned())?;
    }
    Ok(())
}
