//! Distillation: a student with a teacher, beside the same student without one.
//!
//! A teacher's loss has longer gradients than a cross-entropy, so a gain over the student alone may be one of the step's
//! length. Controls without a teacher get what a longer step alone gives: another learning rate, and a cross-entropy of the
//! same weight. All arms have the student's start, data, batches and epochs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::Result;
use opt_nn::Net;
use opt_nn::train::Constraints;
use opt_report::Arm;

use super::{Base, Bases, initial_model, train_control, unless_diverged, variant};
use crate::distillation::Distill;
use crate::measure::Shipped;
use crate::recipe::Train;
use crate::run::{Part, Phase, Run, Variant};
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
                    ..arm(&alone, &label, seconds, Arm::Control, precision)
                };
                // Measured again under this experiment, so that the arms stand side by side.
                let recorded = run.record(side_by_side, Shipped::Float(&alone.recorded.model))?;
                alone.recorded = recorded;
                place.insert(alone)
            }
        };
        let teacher_net = Net::new(&teacher.recorded.model, run.device)?;
        let start = initial_model(run, recipe, bases.seed)?;

        for control in bases.profile.controls(i)? {
            let label = bases.label("distill", format!("{} alone, {control}", recipe.name));
            let mut net = Net::new(&start, run.device)?;
            let phase = Phase {
                label: &label,
                network: &recipe.model,
                name: "train",
                epochs_before: 0,
            };
            let trained = train_control(run, &mut net, &recipe.train, control, phase);
            if let Some(seconds) = unless_diverged(run, &label, trained)? {
                let variant = arm(alone, &label, seconds, Arm::Control, precision);
                record(run, variant, &net)?;
            }
        }

        for lesson in plan.lessons(&recipe.train) {
            let label = bases.label(
                "distill",
                format!(
                    "{} taught by {}, {lesson}",
                    recipe.name, teacher.recipe.name
                ),
            );
            let train = Train {
                lr: lesson.lr.unwrap_or(recipe.train.lr),
                ..recipe.train.clone()
            };
            let mut objective = Distill(plan.kd(lesson.temperature));
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
            let trained = run.train_with(&mut net, &train, phase, constraints, &mut objective);
            if let Some(seconds) = unless_diverged(run, &label, trained)? {
                let variant = arm(alone, &label, seconds, Arm::Taught, precision);
                record(run, variant, &net)?;
            }
        }
    }
    Ok(())
}

/// Records an arm; its weights may have diverged in its last steps, which no loss has seen.
fn record(run: &mut Run, variant: Variant<'_>, net: &Net) -> Result<()> {
    let label = variant.label;
    let recorded = run.record(variant, Shipped::Float(&net.to_model()?));
    unless_diverged(run, label, recorded)?;
    Ok(())
}

/// A student that had as many epochs as the student alone.
fn arm<'a>(
    alone: &'a Base,
    label: &'a Label,
    seconds: f64,
    arm: Arm,
    precision: &'static str,
) -> Variant<'a> {
    let how = match arm {
        Arm::Control => "alone",
        Arm::Taught => "with a teacher",
    };
    Variant {
        epochs_of: format!("{} {how}", alone.epochs),
        train_precision: precision,
        part: Some(Part {
            group: alone.recipe.name.clone(),
            arm,
        }),
        ..variant(alone, label, seconds)
    }
}
