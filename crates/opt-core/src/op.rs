//! The operators, with ONNX names and ONNX semantics (NCHW, no batch axis in shapes). Families of operators that differ in their
//! formula alone are files of their own: [`unary`] and [`binary`].

pub mod binary;
pub mod unary;
pub mod window;

pub use binary::Binary;
pub use unary::Unary;
pub use window::Window;

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
    /// A function of each element.
    Unary(Unary),
    /// A function of two tensors, element by element.
    Binary(Binary),
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
            Self::Unary(function) => function.name(),
            Self::Binary(function) => function.name(),
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
            Self::Binary(_) => 2,
            Self::Conv { .. }
            | Self::Gemm { .. }
            | Self::BatchNormalization { .. }
            | Self::Unary(_)
            | Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Flatten
            | Self::Slice { .. }
            | Self::Pad { .. } => 1,
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
            Self::Input
            | Self::Unary(_)
            | Self::Binary(_)
            | Self::MaxPool(_)
            | Self::AveragePool(_)
            | Self::GlobalAveragePool
            | Self::Flatten
            | Self::Slice { .. }
            | Self::Pad { .. } => Vec::new(),
        }
    }
}
