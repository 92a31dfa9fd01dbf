//! What a teacher's gain is compared with: the same training without one, but for one thing.

use std::fmt::{self, Display, Formatter};

use anyhow::{Result, bail, ensure};
use opt_distill::Kd;

use super::block::distinct;
use super::stage::Loss;
use crate::recipe::Train;

/// How a network is trained without a teacher, to be compared with a taught one: as its recipe says, but for one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Control {
    /// With this label smoothing.
    Smoothing(f64),
    /// At this learning rate.
    Lr(f64),
    /// With a cross-entropy of this weight.
    Weight(f64),
}

impl Display for Control {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Smoothing(smoothing) => write!(f, "label smoothing {smoothing}"),
            Self::Lr(lr) => write!(f, "lr {lr}"),
            Self::Weight(weight) => write!(f, "loss × {weight}"),
        }
    }
}

impl Control {
    /// The training with `train` but for this, and what it minimises.
    pub(super) fn training(self, train: &Train) -> (Train, Loss) {
        let mut train = train.clone();
        match self {
            Self::Smoothing(smoothing) => train.label_smoothing = smoothing,
            Self::Lr(lr) => train.lr = lr,
            Self::Weight(weight) => return (train, Loss::Weighted(weight)),
        }
        (train, Loss::CrossEntropy)
    }

    /// Whether `train` is this already.
    fn is(self, train: &Train) -> bool {
        match self {
            Self::Smoothing(smoothing) => smoothing == train.label_smoothing,
            Self::Lr(lr) => lr == train.lr,
            Self::Weight(weight) => weight == 1.0,
        }
    }

    /// Without the arms that are the training as it is, each once.
    pub(super) fn only_other(controls: Vec<Self>, train: &Train) -> Vec<Self> {
        let mut other = Vec::new();
        for control in controls {
            if !control.is(train) && !other.contains(&control) {
                other.push(control);
            }
        }
        other
    }
}

/// A profile's loss of a taught network.
pub(super) fn loss_at(temperature: f64, w_kd: f64, w_ce: f64) -> Kd {
    Kd {
        temperature,
        w_kd,
        w_ce,
        label_smoothing: 0.0,
    }
}

/// The weight of a whole distillation loss, to six significant digits: 14.5 and not 14.500000000000002.
pub(super) fn weight_of(kd: &Kd) -> f64 {
    let weight = kd.total_weight();
    format!("{weight:.5e}").parse().unwrap_or(weight)
}

pub(super) fn check_lrs(lrs: &[f64]) -> Result<()> {
    let wrong = lrs.iter().find(|lr| !(lr.is_finite() && **lr > 0.0));
    if let Some(wrong) = wrong {
        bail!("a learning rate is {wrong}, expected a positive number");
    }
    distinct(lrs, "once is enough")
}

pub(super) fn check_teaching(kd: &Kd) -> Result<()> {
    let &Kd {
        temperature,
        w_kd,
        w_ce,
        label_smoothing: _,
    } = kd;
    ensure!(
        temperature.is_finite() && temperature > 0.0,
        "a temperature is {temperature}, expected a positive number"
    );
    ensure!(
        [w_kd, w_ce].iter().all(|w| w.is_finite() && *w >= 0.0) && w_kd + w_ce > 0.0,
        "w_kd is {w_kd} and w_ce is {w_ce}, expected 0 or more and not both 0"
    );
    let weight = kd.total_weight();
    ensure!(
        weight.is_finite() && weight > 0.0,
        "w_ce + w_kd · T² is {weight} with a temperature of {temperature}, expected a positive number"
    );
    Ok(())
}
