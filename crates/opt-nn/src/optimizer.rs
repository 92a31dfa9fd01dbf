//! Stochastic gradient descent over one flat buffer.

use opt_core::ParamRole;
use opt_core::mask::Masks;
use tch::{Kind, Tensor};

use crate::{Net, Result};

/// The knobs of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdOptions {
    /// Momentum μ.
    pub momentum: f64,
    /// Nesterov's form.
    pub nesterov: bool,
    /// Weight decay λ on the weights of Conv and Gemm; never on biases and normalisation.
    pub weight_decay: f64,
}

impl Default for SgdOptions {
    fn default() -> Self {
        Self {
            momentum: 0.9,
            nesterov: true,
            weight_decay: 5e-4,
        }
    }
}

/// SGD with momentum, as PyTorch computes it.
///
/// ```text
/// g ← g + λ·w        v ← μ·v + g        w ← w - lr·(g + μ·v)  (Nesterov)   or   w ← w - lr·v
/// ```
///
/// All trainable parameters live in one buffer, decayed ones first; the network's tensors are views of it. A masked
/// element has its gradient removed before it reaches the momentum, so it stays exactly zero.
///
/// # References
///
/// I. Sutskever, J. Martens, G. Dahl, G. Hinton, *On the importance of initialization and momentum in deep learning*,
/// 2013.
#[derive(Debug)]
pub struct Sgd {
    options: SgdOptions,
    names: Vec<String>,
    /// All parameters, flat.
    weights: Tensor,
    /// v, in the same order.
    momentum: Tensor,
    /// How many leading elements are decayed.
    decayed: i64,
    /// 1 where an element is kept, 0 where it is masked.
    mask: Option<Tensor>,
}

impl Sgd {
    /// Moves the parameters of `net`, and after them those of an objective's connectors, into one buffer and makes all of
    /// them views of it that collect gradients. Connectors are not decayed.
    ///
    /// # Errors
    ///
    /// [`opt_core::CoreError::Mask`] for a mask that fits no trainable parameter.
    pub fn new(
        net: &mut Net,
        connectors: Vec<&mut Tensor>,
        options: SgdOptions,
        masks: &Masks,
    ) -> Result<Self> {
        let mut params = net.trainable();
        params.sort_by_key(|(_, role)| *role != ParamRole::Weight);
        let _no_grad = tch::no_grad_guard();
        let mut parts: Vec<Tensor> = params
            .iter()
            .map(|(name, _)| net.tensor(name).detach().reshape([-1]))
            .collect();
        parts.extend(
            connectors
                .iter()
                .map(|c| c.detach().to_device(net.device()).reshape([-1])),
        );
        let weights = Tensor::cat(&parts, 0);
        let mut offset = 0;
        let mut decayed = 0;
        let mut view = |like: &Tensor| {
            let len = i64::try_from(like.numel()).unwrap_or(i64::MAX);
            let view = weights.narrow(0, offset, len).view(like.size().as_slice());
            offset += len;
            (view.detach().set_requires_grad(true), offset)
        };
        for (name, role) in &params {
            let (tensor, end) = view(net.tensor(name));
            net.replace(name, tensor);
            if *role == ParamRole::Weight {
                decayed = end;
            }
        }
        for connector in connectors {
            *connector = view(connector).0;
        }
        let mut sgd = Self {
            options,
            names: params.into_iter().map(|(name, _)| name).collect(),
            momentum: weights.zeros_like(),
            weights,
            decayed,
            mask: None,
        };
        sgd.set_masks(net, masks)?;
        Ok(sgd)
    }

    /// Holds these masks from now on, in place of earlier ones: what they remove becomes zero, and so does its momentum.
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
            let len = i64::try_from(net.tensor(name).numel()).unwrap_or(i64::MAX);
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
        let _ = self.momentum.g_mul_(&mask);
        self.mask = Some(mask);
        self.hold_mask();
        Ok(())
    }

    /// The momentum v, flat, in the order of [`Self::names`] and then of the connectors.
    pub fn momentum(&self) -> &Tensor {
        &self.momentum
    }

    /// The network's parameters by name, in the order of the buffer and of the gradients that [`Self::step`] takes;
    /// connectors come after them.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// One update. `gradients` are in the order of [`Self::names`], then those of the connectors.
    pub fn step(&mut self, lr: f64, gradients: &[Tensor]) {
        let _no_grad = tch::no_grad_guard();
        let parts: Vec<Tensor> = gradients
            .iter()
            .map(|g| g.to_kind(Kind::Float).contiguous().view([-1]))
            .collect();
        let mut gradient = Tensor::cat(&parts, 0);
        let SgdOptions {
            momentum,
            nesterov,
            weight_decay,
        } = self.options;
        if weight_decay != 0.0 {
            let mut head = gradient.narrow(0, 0, self.decayed);
            let _ = head.g_add_(&(self.weights.narrow(0, 0, self.decayed) * weight_decay));
        }
        if let Some(mask) = &self.mask {
            let _ = gradient.g_mul_(mask);
        }
        let _ = self.momentum.g_mul_scalar_(momentum);
        let _ = self.momentum.g_add_(&gradient);
        let step = if nesterov {
            gradient + &self.momentum * momentum
        } else {
            self.momentum.shallow_clone()
        };
        let _ = self.weights.g_sub_(&(step * lr));
        self.hold_mask();
    }

    fn hold_mask(&mut self) {
        if let Some(mask) = &self.mask {
            let _no_grad = tch::no_grad_guard();
            let _ = self.weights.g_mul_(mask);
        }
    }
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
