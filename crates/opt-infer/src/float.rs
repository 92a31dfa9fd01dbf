//! Operators on f32 values made ready for the kernels: weights in the order in which they are read.
//!
//! ```text
//! values : [H][W][C], four bytes each          weights : [group][tap][input channel][output channel]
//! ```

use opt_core::Params;
use opt_core::op::Window;

/// A convolution, or a matrix times a vector as one of 1 × 1 on one pixel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FloatConv {
    pub(crate) weights: Vec<f32>,
    /// One for each output channel.
    pub(crate) bias: Vec<f32>,
    pub(crate) window: Window,
    /// Input and output channels of each group.
    pub(crate) per_group: [usize; 2],
}

impl FloatConv {
    /// Packs a weight `[O, I/group, kH, kW]`, or `[O, I]` with a window of one pixel. Shape inference has accepted it.
    pub(crate) fn new(
        params: &Params,
        weight: &str,
        bias: Option<&str>,
        window: Window,
        group: usize,
    ) -> Self {
        let values: Vec<f32> = params[weight].iter().copied().collect();
        let out = params[weight].shape()[0];
        let taps = window.area();
        let out_per_group = out / group;
        let in_per_group = values.len() / (out * taps);
        let mut weights = Vec::with_capacity(values.len());
        for g in 0..group {
            for tap in 0..taps {
                for c in 0..in_per_group {
                    let of = |o: usize| {
                        values[((g * out_per_group + o) * in_per_group + c) * taps + tap]
                    };
                    weights.extend((0..out_per_group).map(of));
                }
            }
        }
        Self {
            weights,
            bias: match bias {
                Some(name) => params[name].iter().copied().collect(),
                None => vec![0.0; out],
            },
            window,
            per_group: [in_per_group, out_per_group],
        }
    }
}

/// A BatchNormalization as a factor and a shift for each channel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Affine {
    pub(crate) factor: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

impl Affine {
    /// `γ/sqrt(var + ε)` and `β - mean·factor`, computed in f64.
    pub(crate) fn new(
        params: &Params,
        [scale, bias, mean, var]: [Option<&str>; 4],
        epsilon: f32,
    ) -> Self {
        let of = |name: Option<&str>, c: usize, default: f64| {
            let values = name.and_then(|name| params.get(name));
            values.map_or(default, |values| f64::from(values[c]))
        };
        let channels = bias
            .and_then(|name| params.get(name))
            .map_or(0, |b| b.len());
        let each = (0..channels).map(|c| {
            let deviation = (of(var, c, 1.0) + f64::from(epsilon)).sqrt();
            let factor = of(scale, c, 1.0) / deviation;
            let shift = of(bias, c, 0.0) - of(mean, c, 0.0) * factor;
            #[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
            let rounded = (factor as f32, shift as f32);
            rounded
        });
        let (factor, shift) = each.unzip();
        Self { factor, shift }
    }
}
