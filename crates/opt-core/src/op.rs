//! The operators, with ONNX names and ONNX semantics (NCHW, no batch axis in shapes).

/// A window that slides over the two spatial axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Padding in ONNX order: top, left, bottom, right.
    pub pads: [usize; 4],
}

/// The largest kernel and padding along an axis: larger ones come from broken files and would take forever.
const MAX_WINDOW: usize = 4096;

impl Window {
    /// A square window with the same stride and padding everywhere.
    ///
    /// ```
    /// let w = opt_core::op::Window::square(3, 2, 1);
    /// assert_eq!(w.output([32, 32]), Some([16, 16]));
    /// ```
    #[must_use]
    pub fn square(kernel: usize, stride: usize, pad: usize) -> Self {
        Self {
            kernel: [kernel; 2],
            stride: [stride; 2],
            pads: [pad; 4],
        }
    }

    /// The number of positions along each axis, or `None` where the window does not fit once or is larger than any that is
    /// meant in earnest (4,096 along an axis).
    ///
    /// ```text
    /// out = (in + pad_begin + pad_end - kernel) / stride + 1      (rounded down)
    /// ```
    #[must_use]
    pub fn output(&self, input: [usize; 2]) -> Option<[usize; 2]> {
        let axis = |i: usize| -> Option<usize> {
            let numbers = [self.kernel[i], self.pads[i], self.pads[i + 2]];
            if self.stride[i] == 0 || self.kernel[i] == 0 || numbers.iter().any(|n| *n > MAX_WINDOW)
            {
                return None;
            }
            let padded = input[i].checked_add(self.pads[i] + self.pads[i + 2])?;
            Some(padded.checked_sub(self.kernel[i])? / self.stride[i] + 1)
        };
        Some([axis(0)?, axis(1)?])
    }

    /// Height times width of the kernel.
    #[must_use]
    pub fn area(&self) -> usize {
        self.kernel[0].saturating_mul(self.kernel[1])
    }
}

/// What a parameter is to its node: decides initialisation, weight decay and what may be pruned or quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamRole {
    /// Multiplied with activations: Conv `[O, I/group, kH, kW]`, Gemm `[O, I]`.
    Weight,
    /// Added to the result of a Conv or Gemm: `[O]`.
    Bias,
    /// BatchNormalization's scale γ: `[C]`.
    NormScale,
    /// BatchNormalization's shift β: `[C]`.
    NormBias,
    /// BatchNormalization's running mean: a statistic, not trained.
    RunningMean,
    /// BatchNormalization's running (unbiased) variance: a statistic, not trained.
    RunningVar,
}

impl ParamRole {
    /// Whether gradient descent changes it.
    #[must_use]
    pub fn is_trainable(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVar)
    }
}

/// An operator with its attributes; parameters are named, not held.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The image. Has no inputs; its shape is the model's input.
    Input,
    /// Cross-correlation with zero padding.
    ///
    /// ```text
    /// y[o,i,j] = b[o] + Σ_c Σ_u Σ_v w[o,c,u,v] · x[g(o)+c, i·s+u-p, j·s+v-p]
    /// ```
    Conv {
        /// Name of the weight, `[O, I/group, kH, kW]`.
        weight: String,
        /// Name of the bias, `[O]`.
        bias: Option<String>,
        /// Kernel, stride and padding.
        window: Window,
        /// Number of groups.
        group: usize,
    },
    /// `y = x·Wᵀ + b` (ONNX `Gemm` with `transB = 1`) on a vector.
    Gemm {
        /// Name of the weight, `[O, I]`.
        weight: String,
        /// Name of the bias, `[O]`.
        bias: Option<String>,
    },
    /// `y = γ·(x - mean)/sqrt(var + ε) + β` per channel.
    BatchNormalization {
        /// Name of γ; `None` means that γ is 1 and not trained.
        scale: Option<String>,
        /// Name of β.
        bias: String,
        /// Name of the running mean.
        mean: String,
        /// Name of the running variance.
        var: String,
        /// ε.
        epsilon: f32,
        /// The weight of the newest batch in the running statistics (PyTorch's convention).
        momentum: f32,
    },
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, min), max)`.
    Clip {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
    /// Element-wise sum of two tensors of one shape.
    Add,
    /// Maximum over the window; padding never wins.
    MaxPool(Window),
    /// Mean over the window; padding is not counted (ONNX `count_include_pad = 0`).
    AveragePool(Window),
    /// Mean over all positions: `[C, H, W]` to `[C, 1, 1]`.
    GlobalAveragePool,
    /// `[C, H, W]` to `[C·H·W]`, channel-major.
    Flatten,
    /// Every `step[i]`-th index of axis `i` from `start[i]` up to, not including, `end[i]`.
    Slice {
        /// First index, per axis of `[C, H, W]`.
        start: Vec<usize>,
        /// End index, exclusive.
        end: Vec<usize>,
        /// Step.
        step: Vec<usize>,
    },
    /// Zeros before and after each axis of `[C, H, W]`.
    Pad {
        /// Zeros before.
        begin: Vec<usize>,
        /// Zeros after.
        end: Vec<usize>,
    },
}

impl Op {
    /// The ONNX operator name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input => "Input",
            Self::Conv { .. } => "Conv",
            Self::Gemm { .. } => "Gemm",
            Self::BatchNormalization { .. } => "BatchNormalization",
            Self::Relu => "Relu",
            Self::Clip { .. } => "Clip",
            Self::Add => "Add",
            Self::MaxPool(_) => "MaxPool",
            Self::AveragePool(_) => "AveragePool",
            Self::GlobalAveragePool => "GlobalAveragePool",
            Self::Flatten => "Flatten",
            Self::Slice { .. } => "Slice",
            Self::Pad { .. } => "Pad",
        }
    }

    /// The number of tensors that it reads from other nodes.
    #[must_use]
    pub fn arity(&self) -> usize {
        match self {
            Self::Input => 0,
            Self::Add => 2,
            _ => 1,
        }
    }

    /// The parameters that it names, with their roles.
    #[must_use]
    pub fn params(&self) -> Vec<(&str, ParamRole)> {
        match self {
            Self::Conv { weight, bias, .. } | Self::Gemm { weight, bias } => {
                let mut params = vec![(weight.as_str(), ParamRole::Weight)];
                params.extend(bias.as_deref().map(|b| (b, ParamRole::Bias)));
                params
            }
            Self::BatchNormalization {
                scale,
                bias,
                mean,
                var,
                ..
            } => {
                let mut params = Vec::with_capacity(4);
                params.extend(scale.as_deref().map(|s| (s, ParamRole::NormScale)));
                params.push((bias, ParamRole::NormBias));
                params.push((mean, ParamRole::RunningMean));
                params.push((var, ParamRole::RunningVar));
                params
            }
            _ => Vec::new(),
        }
    }
}
