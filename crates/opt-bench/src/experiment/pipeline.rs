//! The whole chain on one network: remove channels, fine-tune with the unpruned network as teacher, quantize, write.

use anyhow::Result;
use opt_core::lower::{Adds, fold_batch_norms};
use opt_distill::Kd;
use opt_nn::Net;
use opt_nn::quantized::FakeQuant;
use opt_nn::train::Constraints;
use opt_prune::channels::{ChannelRequest, ChannelTarget};
use opt_prune::{Criterion, Norm, plan_channels, score_channels, shrink};
use opt_quant::WeightBits;

use super::{Base, Bases};
use crate::distillation::Distill;
use crate::measure::Shipped;
use crate::profile::Pipeline;
use crate::quantization::calibrate;
use crate::run::{Phase, Run, Variant};
use crate::training::Label;

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

        // Remove channels: the network is rebuilt smaller.
        let scores = score_channels(&base.recorded.model, &Criterion::Magnitude(Norm::L2), None)?;
        let request = ChannelRequest {
            multiple_of: plan.multiple_of,
            ..ChannelRequest::new(ChannelTarget::KeepRatio(plan.keep_channels))
        };
        let channels = plan_channels(&base.recorded.model, &scores, &request)?;
        let small = shrink(&base.recorded.model, &channels)?;
        let percent = 100.0 * plan.keep_channels;
        let label = bases.label("pipeline", format!("1 {percent:.0} % of channels"));
        run.record(
            variant(&base, plan, &label, 0, 0.0, 32),
            Shipped::Float(&small),
        )?;

        // Fine-tune with the unpruned network as teacher.
        let label = bases.label(
            "pipeline",
            "2 fine-tuned, taught by itself unpruned".to_owned(),
        );
        let mut net = Net::new(&small, run.device)?;
        let constraints = Constraints {
            teacher: Some(&teacher),
            ..Constraints::default()
        };
        let mut objective = kd(plan.temperature);
        let phase = Phase {
            label: &label,
            name: "fine-tune",
            epochs_before: base.epochs,
        };
        let fine_tuning = run.train_with(
            &mut net,
            &plan.fine_tune,
            phase,
            constraints,
            &mut objective,
        )?;
        let tuned = net.to_model()?;
        let more = plan.fine_tune.epochs;
        run.record(
            variant(&base, plan, &label, more, fine_tuning, 32),
            Shipped::Float(&tuned),
        )?;

        // Quantize after training, then train on with fake quantization.
        let bits = WeightBits::inner(plan.bits);
        let images = run.data.calibration(bases.profile.calibration_images, 250);
        let calibrated = calibrate(&tuned, images, run.device)?;
        let spec = calibrated.spec(bits)?;
        let label = bases.label("pipeline", format!("3 W{}A8 post-training", plan.bits));
        run.record(
            variant(&base, plan, &label, more, fine_tuning, plan.bits),
            Shipped::Integer {
                folded: &calibrated.folded,
                spec: &spec,
            },
        )?;

        let label = bases.label("pipeline", format!("4 W{}A8 quantization-aware", plan.bits));
        let plain = fold_batch_norms(&tuned)?;
        let fake_quant = FakeQuant::new(&plain, Adds::Fused, &spec.edges, bits.by_name(&plain))?;
        let mut net = Net::new(&plain, run.device)?;
        let constraints = Constraints {
            fake_quant: Some(&fake_quant),
            ..constraints
        };
        let mut objective = kd(1.0);
        let phase = Phase {
            label: &label,
            name: "quantization-aware",
            epochs_before: base.epochs + more,
        };
        let aware = run.train_with(
            &mut net,
            &plan.aware_train,
            phase,
            constraints,
            &mut objective,
        )?;
        let trained = calibrated.with_weights(&net.to_model()?)?;
        let spec = trained.spec(bits)?;
        let more = more + plan.aware_train.epochs;
        run.record(
            variant(&base, plan, &label, more, fine_tuning + aware, plan.bits),
            Shipped::Integer {
                folded: &trained.folded,
                spec: &spec,
            },
        )?;
    }
    Ok(())
}

fn variant<'a>(
    base: &'a Base,
    plan: &Pipeline,
    label: &'a Label,
    more_epochs: usize,
    seconds: f64,
    bits: u8,
) -> Variant<'a> {
    let tune = plan.fine_tune.epochs.min(more_epochs);
    let aware = more_epochs - tune;
    Variant {
        label,
        network: &base.recipe.model,
        recipe: &base.recipe.name,
        epochs: (base.epochs + more_epochs) as f64,
        epochs_of: format!(
            "{} base + {tune} fine-tune + {aware} quantization-aware",
            base.epochs
        ),
        weight_bits: u32::from(bits),
        activation_bits: if bits == 32 { 32 } else { 8 },
        seconds,
        baseline: Some(&base.recorded),
    }
}
