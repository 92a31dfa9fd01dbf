//! The update of all trainable parameters, over one flat buffer: a rule, learning-rate factors, masks, averaging.

mod adamw;
mod average;
mod sgd;
mod state;

use opt_core::ParamRole;
use opt_core::mask::Masks;
use tch::{Kind, Tensor};

pub use adamw::AdamWOptions;
pub use average::Averaging;
pub use sgd::SgdOptions;
pub use state::OptimizerState;

use crate::{Net, NnError, Result};
use average::Average;

/// How a gradient becomes a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent with momentum.
    Sgd(SgdOptions),
    /// Adam with decoupled weight decay.
    AdamW(AdamWOptions),
}

impl Default for Rule {
    fn default() -> Self {
        Self::Sgd(SgdOptions::default())
    }
}

impl Rule {
    /// How many buffers as long as the parameters it keeps.
    fn n_moments(self) -> usize {
        match self {
            Self::Sgd(_) => 1,
            Self::AdamW(_) => 2,
        }
    }
}

/// The knobs of [`Optimizer`].
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerOptions {
    /// The update rule.
    pub rule: Rule,
    /// Weight decay λ on the weights of Conv and Gemm; never on biases and normalisation.
    pub weight_decay: f64,
    /// The learning rate of BatchNormalization's shifts is this many times the others'.
    pub norm_bias_lr: f64,
    /// Parameters that keep their values.
    pub frozen: Vec<String>,
    /// What becomes of the weights along the way.
    pub averaging: Averaging,
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        Self {
            rule: Rule::default(),
            weight_decay: 5e-4,
            norm_bias_lr: 1.0,
            frozen: Vec::new(),
            averaging: Averaging::None,
        }
    }
}

/// Moves the parameters of a network.
///
/// All trainable parameters live in one buffer, decayed ones first; the network's tensors are views of it. A masked
/// element has its gradient removed before it reaches a moment, so it stays exactly zero.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    weight_decay: f64,
    names: Vec<String>,
    /// All parameters, flat.
    weights: Tensor,
    /// What the rule remembers, each in the same order: v, or m and v.
    moments: Vec<Tensor>,
    /// Updates done.
    steps: u64,
    /// How many leading elements are decayed.
    decayed: i64,
    /// Factors on the learning rate, where not all are 1.
    lr_factors: Option<Tensor>,
    /// 1 where an element is kept, 0 where it is masked.
    mask: Option<Tensor>,
    average: Option<Average>,
}

impl Optimizer {
    /// Moves the parameters of `net`, and after them those of a loss's projectors, into one buffer and makes all of
    /// them views of it that collect gradients. Projectors are not decayed.
    ///
    /// # Errors
    ///
    /// [`opt_core::CoreError::Mask`] for a mask that fits no trainable parameter, [`NnError::Frozen`] for a name that no
    /// trainable parameter has.
    pub fn new(
        net: &mut Net,
        projectors: Vec<&mut Tensor>,
        options: &OptimizerOptions,
        masks: &Masks,
    ) -> Result<Self> {
        let mut params = net.trainable();
        params.sort_by_key(|(_, role)| *role != ParamRole::Weight);
        let known = |name: &String| params.iter().any(|(param, _)| param == name);
        if let Some(name) = options.frozen.iter().find(|name| !known(name)) {
            return Err(NnError::Frozen { name: name.clone() });
        }
        let _no_grad = tch::no_grad_guard();
        let mut parts: Vec<Tensor> = params
            .iter()
            .map(|(name, _)| net.tensor(name).detach().reshape([-1]))
            .collect();
        parts.extend(
            projectors
                .iter()
                .map(|c| c.detach().to_device(net.device()).reshape([-1])),
        );
        let weights = Tensor::cat(&parts, 0);
        let lr_factor = |(name, role): &(String, ParamRole)| {
            if options.frozen.contains(name) {
                0.0
            } else if *role == ParamRole::NormBias {
                options.norm_bias_lr
            } else {
                1.0
            }
        };
        let factors = weights.ones_like();
        let mut offset = 0;
        let mut decayed = 0;
        let mut view = |like: &Tensor, factor: f64| {
            let len = length(like);
            let view = weights.narrow(0, offset, len).view(like.size().as_slice());
            let _ = factors.narrow(0, offset, len).fill_(factor);
            offset += len;
            (view.detach().set_requires_grad(true), offset)
        };
        let mut all_ones = true;
        for param in &params {
            let factor = lr_factor(param);
            all_ones &= factor == 1.0;
            let (tensor, end) = view(net.tensor(&param.0), factor);
            net.replace(&param.0, tensor);
            if param.1 == ParamRole::Weight {
                decayed = end;
            }
        }
        for projector in projectors {
            *projector = view(projector, 1.0).0;
        }
        let moments = (0..options.rule.n_moments())
            .map(|_| weights.zeros_like())
            .collect();
        let mut optimizer = Self {
            rule: options.rule,
            weight_decay: options.weight_decay,
            names: params.into_iter().map(|(name, _)| name).collect(),
            moments,
            steps: 0,
            decayed,
            lr_factors: (!all_ones).then_some(factors),
            mask: None,
            average: None,
            weights,
        };
        optimizer.set_masks(net, masks)?;
        optimizer.average = Average::new(options.averaging, &optimizer.weights, net);
        Ok(optimizer)
    }

    /// Holds these masks from now on, in place of earlier ones: what they remove becomes zero, and so do its moments.
    ///
    /// # Errors
    ///
    /// [`opt_core::CoreError::Mask`] for a mask that fits no trainable parameter; then nothing changes.
    pub fn set_masks(&mut self, net: &Net, masks: &Masks) -> Result<()> {
        check_masks(net, &self.names, masks)?;
        let _no_grad = tch::no_grad_guard();
        self.mask = None;
        if masks.is_empty() {
            return Ok(());
        }
        let mask = self.weights.ones_like();
        let mut offset = 0;
        for name in &self.names {
            let len = length(net.tensor(name));
            if let Some(held) = masks.get(name) {
                let keep: Vec<f32> = held
                    .keep()
                    .iter()
                    .map(|k| f32::from(u8::from(*k)))
                    .collect();
                let keep = Tensor::from_slice(&keep).to_device(net.device());
                let mut part = mask.narrow(0, offset, len);
                part.copy_(&keep);
            }
            offset += len;
        }
        for moment in &mut self.moments {
            let _ = moment.g_mul_(&mask);
        }
        if let Some(average) = &mut self.average {
            let _ = average.weights.g_mul_(&mask);
        }
        self.mask = Some(mask);
        self.hold_mask();
        Ok(())
    }

    /// The first moment, flat, in the order of [`Self::names`] and then of the projectors.
    pub fn momentum(&self) -> &Tensor {
        &self.moments[0]
    }

    /// The network's parameters by name, in the order of the buffer and of the gradients that [`Self::step`] takes;
    /// projectors come after them.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// One update of the parameters and of their average. `gradients` are in the order of [`Self::names`], then those of
    /// the projectors; `progress` is the share of the training that is done with this step.
    pub fn step(&mut self, net: &Net, lr: f64, progress: f64, gradients: &[Tensor]) {
        let _no_grad = tch::no_grad_guard();
        let parts: Vec<Tensor> = gradients
            .iter()
            .map(|g| g.to_kind(Kind::Float).contiguous().view([-1]))
            .collect();
        let mut gradient = Tensor::cat(&parts, 0);
        self.steps += 1;
        let mut decayed = self.weights.narrow(0, 0, self.decayed);
        let direction = match self.rule {
            Rule::Sgd(options) => {
                if self.weight_decay != 0.0 {
                    let mut head = gradient.narrow(0, 0, self.decayed);
                    let _ = head.g_add_(&(&decayed * self.weight_decay));
                }
                if let Some(mask) = &self.mask {
                    let _ = gradient.g_mul_(mask);
                }
                sgd::direction(options, gradient, &mut self.moments[0])
            }
            Rule::AdamW(options) => {
                if let Some(mask) = &self.mask {
                    let _ = gradient.g_mul_(mask);
                }
                if self.weight_decay != 0.0 {
                    let step = &decayed * (lr * self.weight_decay);
                    let _ = match &self.lr_factors {
                        Some(f) => decayed.g_sub_(&(step * f.narrow(0, 0, self.decayed))),
                        None => decayed.g_sub_(&step),
                    };
                }
                adamw::direction(options, self.steps, &gradient, &mut self.moments)
            }
        };
        let step = direction * lr;
        let _ = match &self.lr_factors {
            Some(factors) => self.weights.g_sub_(&(step * factors)),
            None => self.weights.g_sub_(&step),
        };
        self.hold_mask();
        if let Some(average) = &mut self.average {
            average.after_step(self.steps, progress, &mut self.weights, net);
            // An average from before a mask was set is not zero where the mask is.
            self.hold_mask();
        }
    }

    /// Ends the training: where weights are averaged, the average takes their place.
    pub fn finish(&mut self, net: &Net) {
        if let Some(average) = &self.average {
            average.take_over(&mut self.weights, net);
            self.hold_mask();
        }
    }

    fn hold_mask(&mut self) {
        if let Some(mask) = &self.mask {
            let _no_grad = tch::no_grad_guard();
            let _ = self.weights.g_mul_(mask);
        }
    }
}

fn length(tensor: &Tensor) -> i64 {
    i64::try_from(tensor.numel()).unwrap_or(i64::MAX)
}

fn check_masks(net: &Net, names: &[String], masks: &Masks) -> Result<()> {
    for (name, mask) in masks {
        let found: Vec<i64> = mask.keep().shape().iter().map(|d| *d as i64).collect();
        if !names.contains(name) || net.tensor(name).size() != found {
            return Err(opt_core::CoreError::Mask {
                param: name.clone(),
                problem: format!("no trainable parameter of shape {found:?} has this name"),
            }
            .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
