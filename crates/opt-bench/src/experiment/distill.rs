//! Distillation: a student with a teacher, beside the same student alone and with label smoothing.

use anyhow::Result;
use opt_core::zoo;
use opt_distill::Kd;
use opt_nn::Net;
use opt_nn::train::Constraints;

use super::{Base, Bases};
use crate::distillation::Distill;
use crate::measure::Shipped;
use crate::run::{Phase, Run, Variant};

pub(super) fn run(run: &mut Run, bases: &mut Bases<'_>) -> Result<()> {
    for plan in &bases.profile.distill {
        // 1. Train the teacher. 2. and 3.: the student learns from its outputs.
        let teacher = bases.get(run, &plan.teacher)?;
        let alone = bases.get(run, &plan.student)?;
        let recipe = alone.recipe.clone();
        let teacher_net = Net::new(&teacher.recorded.model, run.device)?;
        let start = |seed| zoo::build(&recipe.model, &run.data.input(), seed);
        let start = start(bases.seed)?;

        let smoothing = plan.control_smoothing;
        let label = bases.label(
            "distill",
            format!("{} alone, label smoothing {smoothing}", recipe.name),
        );
        let mut smoothed = recipe.train.clone();
        smoothed.label_smoothing = smoothing;
        let mut net = Net::new(&start, run.device)?;
        let phase = Phase {
            label: &label,
            name: "train",
            epochs_before: 0,
        };
        let seconds = run.train(&mut net, &smoothed, phase, Constraints::default())?;
        let model = net.to_model()?;
        run.record(
            variant(&alone, &label, seconds, "alone"),
            Shipped::Float(&model),
        )?;

        for &temperature in &plan.temperatures {
            let label = bases.label(
                "distill",
                format!(
                    "{} taught by {}, T = {temperature}",
                    recipe.name, teacher.recipe.name
                ),
            );
            let mut objective = Distill(Kd {
                temperature,
                w_kd: plan.w_kd,
                w_ce: plan.w_ce,
                label_smoothing: 0.0,
            });
            let mut net = Net::new(&start, run.device)?;
            let phase = Phase {
                label: &label,
                name: "train",
                epochs_before: 0,
            };
            let constraints = Constraints {
                teacher: Some(&teacher_net),
                ..Constraints::default()
            };
            let seconds =
                run.train_with(&mut net, &recipe.train, phase, constraints, &mut objective)?;
            let model = net.to_model()?;
            run.record(
                variant(&alone, &label, seconds, "with a teacher"),
                Shipped::Float(&model),
            )?;
        }
    }
    Ok(())
}

fn variant<'a>(
    alone: &'a Base,
    label: &'a crate::training::Label,
    seconds: f64,
    how: &str,
) -> Variant<'a> {
    Variant {
        label,
        network: &alone.recipe.model,
        recipe: &alone.recipe.name,
        epochs: alone.epochs as f64,
        epochs_of: format!("{} {how}", alone.epochs),
        weight_bits: 32,
        activation_bits: 32,
        seconds,
        baseline: Some(&alone.recorded),
    }
}
