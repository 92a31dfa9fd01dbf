//! Residual networks for 224×224.

use crate::builder::Builder;
use crate::op::{Binary, Op, Unary, Window};
use crate::{Model, NodeId, Task};

/// What a block computes beside its shortcut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Two 3×3 convolutions; the first has the stride.
    Basic,
    /// 1×1, 3×3 with the stride (the form called v1.5), 1×1 to four times the width.
    Bottleneck,
}

impl Block {
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// The ResNet with a 7×7 stem of stride 2, a MaxPool 3 of stride 2, and four stages of `depths` blocks with `width`, 2,
/// 4 and 8 times `width` channels. ResNet-18 is `Basic`, `[2, 2, 2, 2]`, 64; ResNet-50 is `Bottleneck`,
/// `[3, 4, 6, 3]`, 64.
///
/// Parameter names are torchvision's (`layer1.0.conv1.weight`, `layer2.0.downsample.0.weight`, …, `fc.bias`).
///
/// # References
///
/// K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition*, 2015, arXiv:1512.03385.
#[must_use]
pub fn resnet_imagenet(
    task: &Task,
    block: Block,
    depths: [usize; 4],
    width: usize,
    seed: u64,
) -> Model {
    let mut b = Builder::new(task, seed);
    let stem = Window::square(7, 2, 3);
    let mut x = b.conv("conv1", 0, [task.input.shape[0], width], stem, false);
    x = b.batch_norm("bn1", x, width, true);
    x = b.push("relu", Op::Unary(Unary::Relu), &[x]);
    x = b.push("maxpool", Op::MaxPool(Window::square(3, 2, 1)), &[x]);
    let mut n_in = width;
    for (stage, depth) in depths.into_iter().enumerate() {
        for index in 0..depth {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let name = format!("layer{}.{index}", stage + 1);
            let inner = width << stage;
            x = residual_block(&mut b, &name, x, block, [n_in, inner], stride);
            n_in = inner * block.expansion();
        }
    }
    x = b.push("avgpool", Op::GlobalAveragePool, &[x]);
    x = b.push("flatten", Op::Flatten, &[x]);
    b.linear("fc", x, n_in, task.labels.len());
    b.into_model()
}

fn residual_block(
    b: &mut Builder,
    name: &str,
    input: NodeId,
    block: Block,
    [n_in, inner]: [usize; 2],
    stride: usize,
) -> NodeId {
    let n_out = inner * block.expansion();
    let one = Window::square(1, 1, 0);
    let three = |stride| Window::square(3, stride, 1);
    let convs = match block {
        Block::Basic => vec![([n_in, inner], three(stride)), ([inner, inner], three(1))],
        Block::Bottleneck => vec![
            ([n_in, inner], one),
            ([inner, inner], three(stride)),
            ([inner, n_out], one),
        ],
    };
    let (mut x, last) = (input, convs.len());
    for (number, (channels, window)) in (1..).zip(convs) {
        x = b.conv(&format!("{name}.conv{number}"), x, channels, window, false);
        x = b.batch_norm(&format!("{name}.bn{number}"), x, channels[1], true);
        if number < last {
            x = b.push(
                &format!("{name}.relu{number}"),
                Op::Unary(Unary::Relu),
                &[x],
            );
        }
    }
    let mut skip = input;
    if stride != 1 || n_in != n_out {
        let window = Window::square(1, stride, 0);
        let conv = format!("{name}.downsample.0");
        skip = b.conv(&conv, input, [n_in, n_out], window, false);
        skip = b.batch_norm(&format!("{name}.downsample.1"), skip, n_out, true);
    }
    x = b.push(&format!("{name}.add"), Op::Binary(Binary::Add), &[x, skip]);
    b.push(&format!("{name}.relu{last}"), Op::Unary(Unary::Relu), &[x])
}
