//! Residual networks for CIFAR.

use crate::builder::Builder;
use crate::op::{Binary, Op, Unary, Window};
use crate::{Model, NodeId, Task};

/// How a block with a stride carries its input past its convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortcut {
    /// Every second pixel, zero channels before and after: no parameters.
    A,
    /// A strided 1×1 convolution with BatchNormalization.
    B,
}

/// The CIFAR ResNet of `depth` = 6n + 2 layers: a stem of 16 channels and three stages of n blocks with 16, 32 and 64.
///
/// Parameter names are those of published PyTorch checkpoints (`layer1.0.conv1.weight`, …, `linear.bias`; option B's
/// convolution is `layer2.0.shortcut.0`).
///
/// # Panics
///
/// If `depth` is not 6n + 2 with n ≥ 1.
///
/// # References
///
/// K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition*, 2015, arXiv:1512.03385.
#[must_use]
#[track_caller]
pub fn resnet(task: &Task, depth: usize, shortcut: Shortcut, seed: u64) -> Model {
    assert!(depth >= 8 && depth % 6 == 2, "depth {depth} is not 6n + 2");
    let blocks = (depth - 2) / 6;
    let [channels, mut height, mut width] = task.input.shape;
    let mut b = Builder::new(task, seed);
    let x = b.conv("conv1", 0, [channels, 16], Window::square(3, 1, 1), false);
    let x = b.batch_norm("bn1", x, 16, true);
    let mut x = b.push("relu", Op::Unary(Unary::Relu), &[x]);
    let mut n_in = 16;
    for (stage, n_out) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", stage + 1);
            x = basic_block(
                &mut b,
                &name,
                x,
                [n_in, n_out],
                stride,
                [height, width],
                shortcut,
            );
            height = height.div_ceil(stride);
            width = width.div_ceil(stride);
            n_in = n_out;
        }
    }
    let x = b.push("avgpool", Op::GlobalAveragePool, &[x]);
    let x = b.push("flatten", Op::Flatten, &[x]);
    b.linear("linear", x, 64, task.labels.len());
    b.into_model()
}

fn basic_block(
    b: &mut Builder,
    name: &str,
    input: NodeId,
    [n_in, n_out]: [usize; 2],
    stride: usize,
    [height, width]: [usize; 2],
    shortcut: Shortcut,
) -> NodeId {
    let x = b.conv(
        &format!("{name}.conv1"),
        input,
        [n_in, n_out],
        Window::square(3, stride, 1),
        false,
    );
    let x = b.batch_norm(&format!("{name}.bn1"), x, n_out, true);
    let x = b.push(&format!("{name}.relu1"), Op::Unary(Unary::Relu), &[x]);
    let x = b.conv(
        &format!("{name}.conv2"),
        x,
        [n_out, n_out],
        Window::square(3, 1, 1),
        false,
    );
    let x = b.batch_norm(&format!("{name}.bn2"), x, n_out, true);
    let skip = if stride == 1 && n_in == n_out {
        input
    } else {
        match shortcut {
            Shortcut::A => {
                let every_second = Op::Slice {
                    start: vec![0; 3],
                    end: vec![n_in, height, width],
                    step: vec![1, stride, stride],
                };
                let s = b.push(&format!("{name}.shortcut.slice"), every_second, &[input]);
                let before = (n_out - n_in) / 2;
                let zeros = Op::Pad {
                    begin: vec![before, 0, 0],
                    end: vec![n_out - n_in - before, 0, 0],
                };
                b.push(&format!("{name}.shortcut.pad"), zeros, &[s])
            }
            Shortcut::B => {
                let conv = format!("{name}.shortcut.0");
                let s = b.conv(
                    &conv,
                    input,
                    [n_in, n_out],
                    Window::square(1, stride, 0),
                    false,
                );
                b.batch_norm(&format!("{name}.shortcut.1"), s, n_out, true)
            }
        }
    };
    let x = b.push(&format!("{name}.add"), Op::Binary(Binary::Add), &[x, skip]);
    b.push(&format!("{name}.relu2"), Op::Unary(Unary::Relu), &[x])
}
