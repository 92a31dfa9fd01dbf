//! The network of the source text: two convolutions, an average pool and a linear layer.

use crate::builder::Builder;
use crate::op::{Op, Unary, Window};
use crate::{Model, Task};

/// Conv 3→64, ReLU, Conv 64→128, ReLU, AveragePool 4, Linear 128·8·8→10 (for 32×32 inputs).
///
/// The text flattens to another size; 128·8·8 is what its layers give.
#[must_use]
pub fn source_net(task: &Task, seed: u64) -> Model {
    let [channels, h, w] = task.input.shape;
    let mut b = Builder::new(task, seed);
    let x = b.conv("conv1", 0, [channels, 64], Window::square(3, 1, 1), true);
    let x = b.push("relu1", Op::Unary(Unary::Relu), &[x]);
    let x = b.conv("conv2", x, [64, 128], Window::square(3, 1, 1), true);
    let x = b.push("relu2", Op::Unary(Unary::Relu), &[x]);
    let x = b.push("pool", Op::AveragePool(Window::square(4, 4, 0)), &[x]);
    let x = b.push("flatten", Op::Flatten, &[x]);
    b.linear("fc", x, 128 * (h / 4) * (w / 4), task.labels.len());
    b.into_model()
}
