//! Inverted residuals: depthwise convolutions between 1×1 convolutions that widen and narrow.

use crate::builder::Builder;
use crate::op::{Binary, Op, Unary, Window};
use crate::{Model, NodeId, Task};

/// Some inverted residuals of one width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvertedStage {
    /// How many times wider the depthwise convolution is than the block's input.
    pub expand: usize,
    /// Output channels of every block.
    pub channels: usize,
    /// The number of blocks.
    pub blocks: usize,
    /// The stride of the first block's depthwise convolution; the others have 1.
    pub stride: usize,
}

/// The widths, depths and strides of a MobileNetV2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MobileNetV2 {
    /// Channels of the first 3×3 convolution.
    pub stem: usize,
    /// Its stride.
    pub stem_stride: usize,
    /// The inverted residuals.
    pub stages: Vec<InvertedStage>,
    /// Channels of the last 1×1 convolution.
    pub head: usize,
}

impl MobileNetV2 {
    /// The network of the paper, for 224×224.
    #[must_use]
    pub fn imagenet() -> Self {
        let stages = [
            [1, 16, 1, 1],
            [6, 24, 2, 2],
            [6, 32, 3, 2],
            [6, 64, 4, 2],
            [6, 96, 3, 1],
            [6, 160, 3, 2],
            [6, 320, 1, 1],
        ];
        let stage = |[expand, channels, blocks, stride]: [usize; 4]| InvertedStage {
            expand,
            channels,
            blocks,
            stride,
        };
        Self {
            stem: 32,
            stem_stride: 2,
            stages: stages.map(stage).to_vec(),
            head: 1280,
        }
    }

    /// The same network for 32×32, by stride alone: the stem and the first stage that halves (24 channels) have stride 1,
    /// so that the last convolutions see 4×4.
    #[must_use]
    pub fn cifar() -> Self {
        let mut net = Self::imagenet();
        net.stem_stride = 1;
        net.stages[1].stride = 1;
        net
    }
}

/// A MobileNetV2 with the parameter names of torchvision (`features.0.0.weight`, `features.2.conv.1.0.weight`, …,
/// `classifier.1.weight`).
///
/// As there, a block adds its input only where its stride is 1 and its input has as many channels as its output (some
/// adaptations to 32×32 put a convolution into the other shortcuts of stride 1), and ReLU6 is a Clip from 0 to 6. The
/// dropout before the linear layer is left out.
///
/// # References
///
/// M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen, *MobileNetV2: Inverted Residuals and Linear Bottlenecks*,
/// 2018, arXiv:1801.04381.
#[must_use]
pub fn mobilenet_v2(task: &Task, net: &MobileNetV2, seed: u64) -> Model {
    let mut b = Builder::new(task, seed);
    let stem = Window::square(3, net.stem_stride, 1);
    let x = b.conv(
        "features.0.0",
        0,
        [task.input.shape[0], net.stem],
        stem,
        false,
    );
    let mut x = norm_clip(&mut b, "features.0", x, net.stem);
    let (mut n_in, mut feature) = (net.stem, 1);
    for stage in &net.stages {
        for block in 0..stage.blocks {
            let stride = if block == 0 { stage.stride } else { 1 };
            let name = format!("features.{feature}");
            let channels = [n_in, stage.channels];
            x = inverted_residual(&mut b, &name, x, channels, stage.expand, stride);
            n_in = stage.channels;
            feature += 1;
        }
    }
    let name = format!("features.{feature}");
    let one = Window::square(1, 1, 0);
    x = b.conv(&format!("{name}.0"), x, [n_in, net.head], one, false);
    x = norm_clip(&mut b, &name, x, net.head);
    x = b.push("avgpool", Op::GlobalAveragePool, &[x]);
    x = b.push("flatten", Op::Flatten, &[x]);
    b.linear("classifier.1", x, net.head, task.labels.len());
    b.into_model()
}

/// Element 1 and 2 of a `Sequential` whose element 0 is a convolution.
fn norm_clip(b: &mut Builder, name: &str, x: NodeId, channels: usize) -> NodeId {
    let x = b.batch_norm(&format!("{name}.1"), x, channels, true);
    b.push(
        &format!("{name}.2"),
        Op::Unary(Unary::Clip { min: 0.0, max: 6.0 }),
        &[x],
    )
}

fn inverted_residual(
    b: &mut Builder,
    name: &str,
    input: NodeId,
    [n_in, n_out]: [usize; 2],
    expand: usize,
    stride: usize,
) -> NodeId {
    let wide = n_in * expand;
    let one = Window::square(1, 1, 0);
    let (mut x, mut element) = (input, 0);
    if expand != 1 {
        let widen = format!("{name}.conv.0");
        x = b.conv(&format!("{widen}.0"), x, [n_in, wide], one, false);
        x = norm_clip(b, &widen, x, wide);
        element += 1;
    }
    let depthwise = format!("{name}.conv.{element}");
    let window = Window::square(3, stride, 1);
    x = b.depthwise(&format!("{depthwise}.0"), x, wide, window);
    x = norm_clip(b, &depthwise, x, wide);
    let narrow = format!("{name}.conv.{}", element + 1);
    x = b.conv(&narrow, x, [wide, n_out], one, false);
    x = b.batch_norm(&format!("{name}.conv.{}", element + 2), x, n_out, true);
    if stride == 1 && n_in == n_out {
        x = b.push(&format!("{name}.add"), Op::Binary(Binary::Add), &[x, input]);
    }
    x
}
