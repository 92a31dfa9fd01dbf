//! Averages of the weights along the way: exponential moving average and lookahead.

use tch::{Kind, Tensor};

use crate::Net;

/// What becomes of the weights along the way. Running statistics are averaged with them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Averaging {
    /// The last weights are the result.
    #[default]
    None,
    /// The exponential moving average is the result; training does not see it.
    ///
    /// ```text
    /// a ← d·a + (1 - d)·w        d = min(decay, (t + 1)/(t + 10))   after step t = 1, 2, …
    /// ```
    ///
    /// # References
    ///
    /// B. Polyak, A. Juditsky, *Acceleration of stochastic approximation by averaging*, 1992.
    Ema {
        /// The largest d.
        decay: f64,
    },
    /// Every so many steps the weights are set to their slow average, which hardly moves them at first and holds them at
    /// the end.
    ///
    /// ```text
    /// a ← d·a + (1 - d)·w,   w ← a        d = decay·p³   at the share p of the training
    /// ```
    ///
    /// # References
    ///
    /// M. Zhang, J. Lucas, G. Hinton, J. Ba, *Lookahead Optimizer: k steps forward, 1 step back*, 2019, arXiv:1907.08610;
    /// the schedule of d is that of K. Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, arXiv:2404.00498.
    Lookahead {
        /// Steps between two averages.
        every: u64,
        /// d at the end of the training.
        decay: f64,
    },
}

/// The average itself.
#[derive(Debug)]
pub(super) struct Average {
    averaging: Averaging,
    /// Of the flat parameters.
    pub(super) weights: Tensor,
    /// Of the running statistics, by name.
    pub(super) statistics: Vec<(String, Tensor)>,
}

impl Average {
    pub(super) fn new(averaging: Averaging, weights: &Tensor, net: &Net) -> Option<Self> {
        if averaging == Averaging::None {
            return None;
        }
        let statistics = net
            .statistics()
            .into_iter()
            .map(|name| {
                let copy = net.tensor(&name).copy();
                (name, copy)
            })
            .collect();
        Some(Self {
            averaging,
            weights: weights.detach().copy(),
            statistics,
        })
    }

    /// Follows the weights after step `step` (from 1) at the share `progress` of the training.
    pub(super) fn after_step(&mut self, step: u64, progress: f64, weights: &mut Tensor, net: &Net) {
        match self.averaging {
            Averaging::None => {}
            Averaging::Ema { decay } => {
                let t = step as f64;
                self.follow(decay.min((t + 1.0) / (t + 10.0)), weights, net);
            }
            Averaging::Lookahead { every, decay } => {
                if step.is_multiple_of(every.max(1)) {
                    self.follow(decay * progress.powi(3), weights, net);
                    self.take_over(weights, net);
                }
            }
        }
    }

    /// a ← d·a + (1 - d)·w, as a + (1 - d)·(w - a).
    fn follow(&mut self, d: f64, weights: &Tensor, net: &Net) {
        // In this form, what does not move is its own average to the last bit.
        let mix = |a: &mut Tensor, w: &Tensor| {
            let step = (w.detach().to_kind(Kind::Float) - &*a) * (1.0 - d);
            let _ = a.g_add_(&step);
        };
        mix(&mut self.weights, weights);
        for (name, average) in &mut self.statistics {
            mix(average, net.tensor(name));
        }
    }

    /// Puts the average in the weights' place.
    pub(super) fn take_over(&self, weights: &mut Tensor, net: &Net) {
        let _no_grad = tch::no_grad_guard();
        weights.copy_(&self.weights);
        for (name, average) in &self.statistics {
            net.tensor(name).shallow_clone().copy_(average);
        }
    }
}
