//! The values of a model's nodes on libtorch.

use opt_core::NodeId;
use opt_core::op::{Binary, Op, Unary, Window};
use tch::{Device, Kind, Tensor};

use crate::batch::normalize;
use crate::{Net, NnError, Result};

/// The arithmetic of Conv and Gemm. Master weights, BatchNormalization parameters and the loss are f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats: what every reported accuracy is computed with.
    F32,
    /// Weights and activations are cast to bfloat16: twice as fast to train where the hardware has it.
    Bf16,
}

impl Precision {
    /// The mode for training on this device: bfloat16 where it is native. Follows the hardware's features, never a
    /// timing, so that a resumed run keeps it.
    #[must_use]
    pub fn for_training(device: Device) -> Self {
        #[cfg(target_arch = "x86_64")]
        let native = std::is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let native = false;
        if native || device.is_cuda() {
            Self::Bf16
        } else {
            Self::F32
        }
    }

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// Whether normalisation uses the batch (and updates the running statistics) or the running statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics.
    Train,
    /// Running statistics.
    Evaluate,
}

/// The network's result, with the values that were asked for.
#[derive(Debug)]
pub struct Outputs {
    /// The first output, `[N, classes]`, f32.
    pub logits: Tensor,
    /// The values of the tapped nodes, in the order asked for.
    pub taps: Vec<Tensor>,
}

/// The indices of the nodes with these names.
///
/// # Errors
///
/// [`NnError::UnknownTap`] for a name that the graph does not have.
pub fn resolve_taps(net: &Net, names: &[String]) -> Result<Vec<NodeId>> {
    let find = |node: &String| {
        net.graph()
            .find(node)
            .ok_or_else(|| NnError::UnknownTap { node: node.clone() })
    };
    names.iter().map(find).collect()
}

/// Runs bytes `[N, C, H, W]` through the network.
#[must_use]
pub fn forward(
    net: &Net,
    bytes: &Tensor,
    mode: Mode,
    precision: Precision,
    taps: &[NodeId],
) -> Outputs {
    let nodes = &net.graph().nodes;
    // A value is dropped after its last reader; taps and the output are read at the end.
    let mut last_reader: Vec<usize> = (0..nodes.len()).collect();
    for (id, node) in nodes.iter().enumerate() {
        for &input in &node.inputs {
            last_reader[input] = id;
        }
    }
    for &kept in taps.iter().chain([&net.graph().output()]) {
        last_reader[kept] = usize::MAX;
    }
    let mut readers = vec![0usize; nodes.len()];
    for &input in nodes.iter().flat_map(|node| &node.inputs) {
        readers[input] += 1;
    }
    // Whether a value may be overwritten by its one reader: the gradient of what made it does not need it.
    let spare: Vec<bool> = (0..nodes.len())
        .map(|id| {
            let made_by = matches!(
                nodes[id].op,
                Op::Conv { .. }
                    | Op::Gemm { .. }
                    | Op::BatchNormalization { .. }
                    | Op::Binary(Binary::Add)
            );
            made_by && last_reader[id] != usize::MAX && readers[id] == 1
        })
        .collect();
    let mut values: Vec<Option<Tensor>> = Vec::with_capacity(nodes.len());
    for (id, node) in nodes.iter().enumerate() {
        let value = match &node.op {
            Op::Input => normalize(bytes, net.input()),
            op => {
                let inputs: Vec<&Tensor> = node
                    .inputs
                    .iter()
                    .filter_map(|&i| values[i].as_ref())
                    .collect();
                let in_place = node.inputs.first().is_some_and(|&input| spare[input]);
                run_op(net, op, &inputs, in_place, mode, precision)
            }
        };
        values.push(Some(value));
        for &input in &node.inputs {
            if last_reader[input] == id {
                values[input] = None;
            }
        }
    }
    let value = |id: NodeId| {
        values[id]
            .as_ref()
            .map_or_else(Tensor::new, Tensor::shallow_clone)
    };
    Outputs {
        logits: value(net.graph().output()).to_kind(Kind::Float),
        taps: taps.iter().map(|&t| value(t)).collect(),
    }
}

/// What an operator gives for these operands, whose parameters are the network's.
pub(crate) fn run_op(
    net: &Net,
    op: &Op,
    inputs: &[&Tensor],
    in_place: bool,
    mode: Mode,
    precision: Precision,
) -> Tensor {
    let x = inputs[0];
    let kind = precision.kind();
    let cast = |name: &str| net.tensor(name).to_kind(kind);
    match op {
        Op::Conv {
            weight,
            bias,
            window,
            group,
        } => conv2d(
            &x.to_kind(kind),
            &cast(weight),
            bias.as_deref().map(cast).as_ref(),
            window,
            *group,
        ),
        Op::Gemm { weight, bias } => x
            .to_kind(kind)
            .linear(&cast(weight), bias.as_deref().map(cast).as_ref()),
        Op::BatchNormalization {
            scale,
            bias,
            mean,
            var,
            epsilon,
            momentum,
        } => {
            let ones = scale.is_none().then(|| net.tensor(bias).ones_like());
            let scale = scale.as_deref().map(|s| net.tensor(s)).or(ones.as_ref());
            x.batch_norm(
                scale,
                Some(net.tensor(bias)),
                Some(net.tensor(mean)),
                Some(net.tensor(var)),
                mode == Mode::Train,
                f64::from(*momentum),
                f64::from(*epsilon),
                false,
            )
        }
        Op::Unary(Unary::Relu) if in_place => x.shallow_clone().relu_(),
        Op::Unary(function) => unary(*function, x),
        Op::Binary(Binary::Add) if in_place && x.kind() == inputs[1].kind() => {
            x.shallow_clone().g_add_(inputs[1])
        }
        Op::Binary(Binary::Add) => x + inputs[1],
        Op::Input
        | Op::MaxPool(_)
        | Op::AveragePool(_)
        | Op::GlobalAveragePool
        | Op::Flatten
        | Op::Slice { .. }
        | Op::Pad { .. } => layout(op, x),
    }
}

/// A function of each element.
pub(crate) fn unary(function: Unary, x: &Tensor) -> Tensor {
    match function {
        Unary::Relu => x.relu(),
        Unary::Clip { min, max } => x.clamp(f64::from(min), f64::from(max)),
        Unary::HardSwish => x.hardswish(),
    }
}

/// Operators without parameters that mean the same on numbers and on centred codes: pools by maximum, and moves.
/// Averages are among them; the exact simulation does those itself.
pub(crate) fn layout(op: &Op, x: &Tensor) -> Tensor {
    match op {
        Op::MaxPool(w) => {
            let padded = pad(x, w, f64::NEG_INFINITY);
            padded.max_pool2d(dims(w.kernel), dims(w.stride), [0, 0], [1, 1], false)
        }
        Op::AveragePool(w) => {
            // libtorch's own padding is symmetric and at most half the kernel.
            let its_own = w.pads[0] == w.pads[2]
                && w.pads[1] == w.pads[3]
                && (0..2).all(|i| 2 * w.pads[i] <= w.kernel[i]);
            if its_own {
                let pads = dims([w.pads[0], w.pads[1]]);
                x.avg_pool2d(
                    dims(w.kernel),
                    dims(w.stride),
                    pads,
                    false,
                    false,
                    None::<i64>,
                )
            } else {
                // The mean over what is inside: sums of the padded values over sums of padded ones.
                let area = Some(1);
                let sum = |t: &Tensor| {
                    pad(t, w, 0.0).avg_pool2d(
                        dims(w.kernel),
                        dims(w.stride),
                        [0, 0],
                        false,
                        true,
                        area,
                    )
                };
                sum(x) / sum(&x.ones_like())
            }
        }
        Op::GlobalAveragePool => x.mean_dim([2i64, 3].as_slice(), true, x.kind()),
        Op::Flatten => flatten(x),
        Op::Slice { start, end, step } => {
            let mut y = x.shallow_clone();
            for axis in 0..start.len() {
                let whole =
                    start[axis] == 0 && step[axis] == 1 && y.size()[axis + 1] == end[axis] as i64;
                if !whole {
                    let (from, to) = (start[axis] as i64, end[axis] as i64);
                    y = y.slice(axis as i64 + 1, from, to, step[axis] as i64);
                }
            }
            y
        }
        Op::Pad { begin, end } => {
            let pads: Vec<i64> = (0..begin.len())
                .rev()
                .flat_map(|a| [begin[a] as i64, end[a] as i64])
                .collect();
            x.constant_pad_nd(pads)
        }
        // These are no moves, and their callers do them.
        Op::Input
        | Op::Conv { .. }
        | Op::Gemm { .. }
        | Op::BatchNormalization { .. }
        | Op::Unary(_)
        | Op::Binary(_) => x.shallow_clone(),
    }
}

/// Channels first, as weights expect. Clamping to all numbers changes none, but its gradient has the layout of its input:
/// without it, everything before would be propagated in the slow layout of the flattened gradient.
fn flatten(x: &Tensor) -> Tensor {
    let moves = x.requires_grad() && x.dim() == 4 && !x.is_contiguous();
    let x = if moves {
        x.clamp_min(f64::NEG_INFINITY)
    } else {
        x.shallow_clone()
    };
    x.contiguous().flatten(1, -1)
}

/// Convolution with padding on each side as the window says.
pub(crate) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: &Window,
    group: usize,
) -> Tensor {
    let [top, left, bottom, right] = window.pads;
    let group = group as i64;
    let stride = dims(window.stride);
    if top == bottom && left == right {
        x.conv2d(weight, bias, stride, dims([top, left]), [1, 1], group)
    } else {
        pad(x, window, 0.0).conv2d(weight, bias, stride, [0, 0], [1, 1], group)
    }
}

fn pad(x: &Tensor, window: &Window, value: f64) -> Tensor {
    let [top, left, bottom, right] = window.pads.map(|p| p as i64);
    if [top, left, bottom, right] == [0; 4] {
        return x.shallow_clone();
    }
    x.pad([left, right, top, bottom], "constant", value)
}

fn dims(pair: [usize; 2]) -> [i64; 2] {
    pair.map(|d| d as i64)
}

#[cfg(test)]
mod tests;
