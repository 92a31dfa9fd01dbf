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
    /// Moves the parameters of `net` into one buffer and makes its tensors views of it that collect gradients.
    ///
    /// # Errors
    ///
    /// [`opt_core::CoreError::Mask`] for a mask that fits no trainable parameter.
    pub fn new(net: &mut Net, options: SgdOptions, masks: &Masks) -> Result<Self> {
        let mut params = net.trainable();
        params.sort_by_key(|(_, role)| *role != ParamRole::Weight);
        check_masks(net, &params, masks)?;
        let _no_grad = tch::no_grad_guard();
        let flat = |f: &dyn Fn(&str) -> Tensor| {
            let parts: Vec<Tensor> = params.iter().map(|(n, _)| f(n).reshape([-1])).collect();
            Tensor::cat(&parts, 0)
        };
        let weights = flat(&|name| net.tensor(name).detach());
        let mask = (!masks.is_empty()).then(|| {
            flat(&|name| {
                let ones = net.tensor(name).ones_like();
                match masks.get(name) {
                    None => ones,
                    Some(mask) => {
                        let keep: Vec<f32> = mask
                            .keep()
                            .iter()
                            .map(|k| f32::from(u8::from(*k)))
                            .collect();
                        Tensor::from_slice(&keep).to_device(net.device())
                    }
                }
            })
        });
        let mut offset = 0;
        let mut decayed = 0;
        for (name, role) in &params {
            let size = net.tensor(name).size();
            let len: i64 = size.iter().product();
            let view = weights
                .narrow(0, offset, len)
                .view(size.as_slice())
                .detach();
            let view = view.set_requires_grad(true);
            net.replace(name, view);
            offset += len;
            if *role == ParamRole::Weight {
                decayed = offset;
            }
        }
        let mut sgd = Self {
            options,
            names: params.into_iter().map(|(name, _)| name).collect(),
            momentum: weights.zeros_like(),
            weights,
            decayed,
            mask,
        };
        sgd.hold_mask();
        Ok(sgd)
    }

    /// The parameters' names, in the order of the buffer and of the gradients that [`Self::step`] takes.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// One update. `gradients` are in the order of [`Self::names`].
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

fn check_masks(net: &Net, params: &[(String, ParamRole)], masks: &Masks) -> Result<()> {
    for (name, mask) in masks {
        let found: Vec<i64> = mask.keep().shape().iter().map(|d| *d as i64).collect();
        let known = params.iter().any(|(n, _)| n == name);
        if !known || net.tensor(name).size() != found {
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
