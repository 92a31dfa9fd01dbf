//! A chain of convolutions in the shape of the airbench speed-run networks, with ReLU.

use crate::builder::Builder;
use crate::op::{Op, Unary, Window};
use crate::{Model, Task};

/// A 2×2 stem of 24 channels, then three blocks (Conv, MaxPool, BatchNormalization, ReLU, Conv, BatchNormalization, ReLU) of
/// `widths` channels, MaxPool 3 and a linear layer. No branches: channels can be removed from any of its convolutions.
///
/// Differs from airbench in three ways, so that it trains with the common loop and has an exact integer form: the
/// stem is random rather than the patches' whitening (`opt_nn::init::whiten` makes it that), ReLU stands for GELU, and no factor scales the logits.
/// BatchNormalization has no trained γ, as there; so its factor is positive and commutes with MaxPool.
///
/// # References
///
/// K. Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, arXiv:2404.00498.
#[must_use]
pub fn airbench(task: &Task, widths: [usize; 3], seed: u64) -> Model {
    let [channels, h, w] = task.input.shape;
    let mut b = Builder::new(task, seed);
    let stem = Window::square(2, 1, 0);
    let mut x = b.conv("stem", 0, [channels, 24], stem, true);
    x = b.push("stem.relu", Op::Unary(Unary::Relu), &[x]);
    let (mut n_in, mut size) = (24, [h.saturating_sub(1), w.saturating_sub(1)]);
    for (block, n_out) in widths.into_iter().enumerate() {
        let name = format!("blocks.{block}");
        let same = Window::square(3, 1, 1);
        x = b.conv(&format!("{name}.conv1"), x, [n_in, n_out], same, false);
        x = b.push(
            &format!("{name}.pool"),
            Op::MaxPool(Window::square(2, 2, 0)),
            &[x],
        );
        x = b.batch_norm(&format!("{name}.norm1"), x, n_out, false);
        x = b.push(&format!("{name}.relu1"), Op::Unary(Unary::Relu), &[x]);
        x = b.conv(&format!("{name}.conv2"), x, [n_out, n_out], same, false);
        x = b.batch_norm(&format!("{name}.norm2"), x, n_out, false);
        x = b.push(&format!("{name}.relu2"), Op::Unary(Unary::Relu), &[x]);
        n_in = n_out;
        size = size.map(|s| s / 2);
    }
    x = b.push("pool", Op::MaxPool(Window::square(3, 3, 0)), &[x]);
    x = b.push("flatten", Op::Flatten, &[x]);
    let features = n_in * (size[0] / 3) * (size[1] / 3);
    b.linear("head", x, features, task.labels.len());
    b.into_model()
}
