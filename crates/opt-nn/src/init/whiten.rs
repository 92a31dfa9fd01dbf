//! A first convolution whose outputs are uncorrelated and of equal variance.

use ndarray::Array;
use opt_core::Model;
use opt_core::op::Op;
use tch::{Kind, Tensor};

use crate::batch::normalize;
use crate::net::to_array;
use crate::{Batch, NnError, Result};

/// Added to the eigenvalues, for pixels with values of size 1.
const EPSILON: f64 = 5e-4;

/// Sets the weights of the first convolution to the whitening of the image patches that it sees, each direction with both
/// signs, so that ReLU loses nothing.
///
/// ```text
/// C = 1/P Σ p·pᵀ = Σ λ_i·v_i·v_iᵀ        W = [v_i/sqrt(λ_i + ε), -v_i/sqrt(λ_i + ε)],   ε = 5e-4, largest λ first
/// ```
///
/// over all patches p of `images` after normalisation. Train with that weight frozen.
///
/// # Shapes
///
/// The convolution is `[2·I·kH·kW, I, kH, kW]` with stride and groups of 1.
///
/// # Errors
///
/// [`NnError::Init`] if the first layer is no such convolution, [`NnError::Batch`] for images that do not fit,
/// [`NnError::Torch`] if the eigenvalues cannot be found.
///
/// # References
///
/// D. Page, *How to Train Your ResNet 8: Bag of Tricks*, 2019; K. Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single
/// GPU*, 2024, arXiv:2404.00498.
pub fn whiten(mut model: Model, images: &Batch) -> Result<Model> {
    let first = model.graph.nodes.iter().find_map(|node| {
        let Op::Conv {
            weight,
            window,
            group,
            ..
        } = &node.op
        else {
            return None;
        };
        Some((node.inputs[0], weight.clone(), *window, *group))
    });
    let problem = |problem: String| NnError::Init {
        what: "whitening".to_owned(),
        problem,
    };
    let Some((input, weight, window, group)) = first else {
        return Err(problem("the network has no convolution".to_owned()));
    };
    let n_in = model.input.shape[0];
    let [kh, kw] = window.kernel;
    let patch = n_in * kh * kw;
    let shape = model.param(&weight)?.shape().to_vec();
    if input != 0 || group != 1 || window.stride != [1, 1] || shape[0] != 2 * patch {
        return Err(problem(format!(
            "the first layer must be a convolution of the image, of stride 1 and with 2·{n_in}·{kh}·{kw} = {} filters; \
             `{weight}` has {}",
            2 * patch,
            shape[0]
        )));
    }
    let torch =
        |e: &tch::TchError| NnError::torch("finding the eigenvalues of the images' patches", e);
    let bytes = images.bytes(&model.input, tch::Device::Cpu)?;
    let weights = tch::no_grad(|| -> std::result::Result<Tensor, tch::TchError> {
        let x = normalize(&bytes, &model.input);
        let (patch, kh, kw) = (patch as i64, kh as i64, kw as i64);
        // [N, C, H', W', kH, kW] → [P, C·kH·kW].
        let patches = x
            .f_unfold(2, kh, 1)?
            .f_unfold(3, kw, 1)?
            .f_permute([0, 2, 3, 1, 4, 5])?
            .f_reshape([-1, patch])?
            .f_to_kind(Kind::Double)?;
        let n = patches.size()[0] as f64;
        let covariance = patches.f_tr()?.f_matmul(&patches)? / n;
        let (values, vectors) = covariance.f_linalg_eigh("L")?;
        let scaled = (vectors / (values + EPSILON).f_sqrt()?.f_unsqueeze(0)?)
            .f_tr()?
            .f_flip([0])?;
        Tensor::f_cat(&[&scaled, &scaled.f_neg()?], 0)?.f_to_kind(Kind::Float)
    })
    .map_err(|e| torch(&e))?;
    let flat = to_array(&weights, &weight)?;
    let values = Array::from_shape_vec(shape, flat.iter().copied().collect())
        .map_err(|e| problem(e.to_string()))?;
    model.params.insert(weight, values.into_shared());
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Net;
    use crate::forward::{Mode, Precision, forward};
    use opt_core::{Task, zoo};
    use tch::Device;

    fn images(n: usize) -> Batch {
        // Neighbours resemble each other, as in pictures.
        let images = (0..n * 3 * 32 * 32)
            .map(|i| {
                let noise = i.wrapping_mul(2_654_435_761) >> 7;
                u8::try_from((i / 5 * 3 + noise % 60) % 256).unwrap()
            })
            .collect();
        Batch {
            images,
            labels: vec![0; n],
            indices: (0..u32::try_from(n).unwrap()).collect(),
        }
    }

    #[test]
    fn outputs_are_uncorrelated_and_of_equal_variance() {
        let task = Task::cifar10();
        let model = zoo::build("airbench_4_4_4", &task, 1).unwrap();
        let batch = images(20);
        let mut model = whiten(model, &batch).unwrap();
        let weight = &model.params["stem.weight"];
        for (a, b) in weight.iter().take(144).zip(weight.iter().skip(144)) {
            assert_eq!(*a, -b);
        }
        model.params.get_mut("stem.bias").unwrap().fill(0.0);
        let net = Net::new(&model, Device::Cpu).unwrap();
        let bytes = batch.bytes(&task.input, Device::Cpu).unwrap();
        let y = forward(&net, &bytes, Mode::Evaluate, Precision::F32, &[1]).taps;
        let y = y[0]
            .permute([1, 0, 2, 3])
            .reshape([24, -1])
            .to_kind(Kind::Double);
        let y = y.narrow(0, 0, 12);
        let second_moment = y.matmul(&y.tr()) / y.size()[1] as f64;
        let values = Vec::<f64>::try_from(second_moment.reshape([-1])).unwrap();
        for (k, value) in values.iter().enumerate() {
            let (i, j) = (k / 12, k % 12);
            if i == j {
                // λ/(λ + ε), and every direction of this noise has λ > 0.005.
                assert!((0.9..1.0001).contains(value), "{i}: {value}");
            } else {
                assert!(value.abs() < 1e-4, "{i} {j}: {value}");
            }
        }
    }

    #[test]
    fn another_first_layer_is_refused() {
        let model = zoo::build("resnet20", &Task::cifar10(), 1).unwrap();
        let error = whiten(model, &images(1)).unwrap_err().to_string();
        assert!(
            error.contains("54 filters; `conv1.weight` has 16"),
            "{error}"
        );
    }
}
