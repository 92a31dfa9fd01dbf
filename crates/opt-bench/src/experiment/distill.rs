//! Distillation: a student with a teacher, beside the same student alone and with label smoothing.

use std::collections::BTreeMap;

use anyhow::Result;
use opt_distill::Kd;
use opt_nn::Net;
use opt_nn::train::Constraints;

use super::{Base, Bases, initial_model, variant};
use crate::distillation::Distill;
use crate::measure::Shipped;
use crate::run::{Phase, Run, Variant};
use crate::training::Label;

pub(super) fn run(run: &mut Run, bases: &mut Bases<'_>) -> Result<()> {
    // One student may have several teachers: it is alone once.
    let mut alone_of: BTreeMap<&str, Base> = BTreeMap::new();
    let mut controls: Vec<(&str, f64)> = Vec::new();
    for plan in &bases.profile.distill {
        // 1. Train the teacher. 2. and 3.: the student learns from its outputs.
        let teacher = bases.get(run, &plan.teacher)?;
        let student = plan.student.as_str();
        let mut alone = bases.get(run, student)?;
        let recipe = alone.recipe.clone();
        let precision = recipe.train.precision_name(run.device);
        if let Some(measured) = alone_of.get(student) {
            alone = measured.clone();
        } else {
            let label = bases.label("distill", format!("{} alone", recipe.name));
            let seconds = alone.recorded.line.seconds;
            let side_by_side = Variant {
                baseline: None,
                ..arm(&alone, &label, seconds, "alone", precision)
            };
            // Measured again under this experiment, so that the arms stand side by side.
            let recorded = run.record(side_by_side, Shipped::Float(&alone.recorded.model))?;
            alone.recorded = recorded;
            alone_of.insert(student, alone.clone());
        }
        let teacher_net = Net::new(&teacher.recorded.model, run.device)?;
        let start = initial_model(run, &recipe, bases.seed)?;

        let smoothing = plan.control_smoothing;
        if !controls.contains(&(student, smoothing)) {
            controls.push((student, smoothing));
            let label = bases.label(
                "distill",
                format!("{} alone, label smoothing {smoothing}", recipe.name),
            );
            let mut smoothed = recipe.train.clone();
            smoothed.label_smoothing = smoothing;
            let mut net = Net::new(&start, run.device)?;
            let phase = Phase {
                label: &label,
                network: &recipe.model,
                name: "train",
                epochs_before: 0,
            };
            let seconds = run.train(&mut net, &smoothed, phase, Constraints::default())?;
            let model = net.to_model()?;
            run.record(
                arm(&alone, &label, seconds, "alone", precision),
                Shipped::Float(&model),
            )?;
        }

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
                network: &recipe.model,
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
                arm(&alone, &label, seconds, "with a teacher", precision),
                Shipped::Float(&model),
            )?;
        }
    }
    Ok(())
}

/// A student that had as many epochs as the student alone.
fn arm<'a>(
    alone: &'a Base,
    label: &'a Label,
    seconds: f64,
    how: &str,
    precision: &'static str,
) -> Variant<'a> {
    Variant {
        epochs_of: format!("{} {how}", alone.epochs),
        train_precision: precision,
        ..variant(alone, label, seconds)
    }
}
