//! The whole chain on one network: remove channels, fine-tune with the unpruned network as teacher, quantize, write.

use std::time::Instant;

use anyhow::Result;
use opt_core::lower::Adds;
use opt_distill::Kd;
use opt_nn::Net;
use opt_nn::train::Constraints;
use opt_prune::channels::{ChannelRequest, ChannelTarget};
use opt_prune::{Criterion, Norm, plan_channels, score_channels, shrink};
use opt_quant::WeightBits;

use super::{Bases, policy, train_aware, train_on, variant};
use crate::distillation::Distill;
use crate::measure::Shipped;
use crate::quantization::calibrate;
use crate::recipe::Train;
use crate::run::{Phase, Run, Variant};

pub(super) fn run(run: &mut Run, bases: &mut Bases<'_>) -> Result<()> {
    for plan in &bases.profile.pipeline {
        let base = bases.get(run, &plan.base)?;
        let teacher = Net::new(&base.recorded.model, run.device)?;
        let kd = |temperature| {
            Distill(Kd {
                temperature,
                w_kd: plan.w_kd,
                w_ce: plan.w_ce,
                label_smoothing: 0.0,
            })
        };

        // What the epochs that follow are worth without compression.
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
        let pruned = variant(&base, &label, seconds);
        run.record(pruned, Shipped::Float(&small))?;

        // Fine-tune with the unpruned network as teacher.
        let label = bases.label("pipeline", "2. fine-tuned with a teacher".to_owned());
        let mut net = Net::new(&small, run.device)?;
        let constraints = Constraints {
            teacher: Some(&teacher),
            ..Constraints::default()
        };
        let mut objective = kd(plan.temperature);
        let phase = Phase {
            label: &label,
            network: &base.recipe.model,
            name: "fine-tune",
            epochs_before: base.epochs,
        };
        seconds += run.train_with(
            &mut net,
            &plan.fine_tune,
            phase,
            constraints,
            &mut objective,
        )?;
        let tuned = net.to_model()?;
        let more = plan.fine_tune.epochs;
        let trained = Variant {
            epochs: (base.epochs + more) as f64,
            epochs_of: format!("{} base + {more} fine-tune", base.epochs),
            train_precision: plan.fine_tune.precision_name(run.device),
            baseline: Some(&control),
            ..variant(&base, &label, seconds)
        };
        run.record(trained.clone(), Shipped::Float(&tuned))?;

        // Quantize after training, then train on with fake quantization.
        let bits = WeightBits::inner(plan.bits);
        let started = Instant::now();
        let images = run.data.calibration(bases.profile.calibration_images, 250);
        let calibrated = calibrate(&tuned, images, run.device)?;
        let spec = calibrated.spec(Adds::Fused, bits)?;
        seconds += started.elapsed().as_secs_f64();
        let label = bases.label("pipeline", format!("3. W{}A8 post-training", plan.bits));
        let quantized = Variant {
            label: &label,
            weight_bits: u32::from(plan.bits),
            activation_bits: 8,
            policy: policy(plan.bits),
            seconds,
            ..trained
        };
        let shipped = Shipped::Integer {
            folded: &calibrated.folded,
            spec: &spec,
        };
        run.record(quantized.clone(), shipped)?;

        let label = bases.label(
            "pipeline",
            format!("4. W{}A8 quantization-aware", plan.bits),
        );
        let phase = Phase {
            label: &label,
            network: &base.recipe.model,
            name: "quantization-aware",
            epochs_before: base.epochs + more,
        };
        let (aware, aware_seconds) = train_aware(
            run,
            &tuned,
            &calibrated,
            bits,
            &plan.aware_train,
            phase,
            Some((&teacher, kd(1.0))),
        )?;
        let spec = aware.spec(Adds::Fused, bits)?;
        let last = Variant {
            label: &label,
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
