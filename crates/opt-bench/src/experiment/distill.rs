//! Distillation: a student with a teacher, beside the same student alone and with label smoothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

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
    for (i, plan) in bases.profile.distill.iter().enumerate() {
        // 1. Train the teacher. 2. and 3.: the student learns from its outputs.
        let teacher = bases.get(run, &plan.teacher)?;
        let recipe = bases.profile.recipe(&plan.student)?;
        let precision = recipe.train.precision_name(run.device);
        let alone = match alone_of.entry(&plan.student) {
            Entry::Occupied(alone) => alone.into_mut(),
            Entry::Vacant(place) => {
                let mut alone = bases.get(run, &plan.student)?;
                let label = bases.label("distill", format!("{} alone", recipe.name));
                let seconds = alone.recorded.line.seconds;
                let side_by_side = Variant {
                    baseline: None,
                    ..arm(&alone, &label, seconds, "alone", precision)
                };
                // Measured again under this experiment, so that the arms stand side by side.
                let recorded = run.record(side_by_side, Shipped::Float(&alone.recorded.model))?;
                alone.recorded = recorded;
                place.insert(alone)
            }
        };
        let teacher_net = Net::new(&teacher.recorded.model, run.device)?;
        let start = initial_model(run, recipe, bases.seed)?;

        if bases.profile.trains_control(i) {
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
                network: &recipe.model,
                name: "train",
                epochs_before: 0,
            };
            let seconds = run.train(&mut net, &smoothed, phase, Constraints::default())?;
            let model = net.to_model()?;
            run.record(
                arm(alone, &label, seconds, "alone", precision),
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
                arm(alone, &label, seconds, "with a teacher", precision),
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
