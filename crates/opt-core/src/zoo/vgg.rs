//! Chains of 3×3 convolutions with BatchNormalization between pools.

use crate::builder::Builder;
use crate::op::{Op, Unary, Window};
use crate::{Model, Task};

/// The widths of VGG-16's thirteen convolutions, stage by stage.
pub(super) const VGG16: [&[usize]; 5] = [
    &[64, 64],
    &[128, 128],
    &[256, 256, 256],
    &[512, 512, 512],
    &[512, 512, 512],
];

/// For every stage its convolutions (3×3, BatchNormalization, ReLU) and a MaxPool 2; then one linear layer.
///
/// This is the CIFAR form: one linear layer instead of three with dropout, and convolutions without a bias, which
/// BatchNormalization would take away again. Sizes are halved once a stage, rounded down: five stages need 32×32.
///
/// Parameter names count as a PyTorch `Sequential` does: `features.0.weight`, `features.1.running_mean`, …,
/// `classifier.weight`.
///
/// # References
///
/// K. Simonyan, A. Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, 2014,
/// arXiv:1409.1556.
#[must_use]
pub fn vgg(task: &Task, stages: &[&[usize]], seed: u64) -> Model {
    let [mut n_in, mut height, mut width] = task.input.shape;
    let mut b = Builder::new(task, seed);
    let (mut x, mut layer) = (0, 0);
    for widths in stages {
        for &n_out in *widths {
            let name = |offset: usize| format!("features.{}", layer + offset);
            x = b.conv(&name(0), x, [n_in, n_out], Window::square(3, 1, 1), false);
            x = b.batch_norm(&name(1), x, n_out, true);
            x = b.push(&name(2), Op::Unary(Unary::Relu), &[x]);
            layer += 3;
            n_in = n_out;
        }
        let pool = Op::MaxPool(Window::square(2, 2, 0));
        x = b.push(&format!("features.{layer}"), pool, &[x]);
        layer += 1;
        height /= 2;
        width /= 2;
    }
    x = b.push("flatten", Op::Flatten, &[x]);
    b.linear("classifier", x, n_in * height * width, task.labels.len());
    b.into_model()
}
