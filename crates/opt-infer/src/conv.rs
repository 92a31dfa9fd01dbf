//! A convolution (or matrix times vector) made ready for the kernels: packed weights, where to read, how to round.
//!
//! ```text
//! acc[o] = bias'[o] + Σ_taps Σ_i x[i]·w[o, i]            bias' = bias - Σ z_x·w: the border holds z_x, so that this is exact
//! weights: [panel][step][vector][16 output channels][4 input channels], one block of 64 bytes for each `vpdpbusd`
//! a step reads four bytes; a run is so many steps over bytes that follow each other
//! ```
//!
//! Where a pixel's channels fill its bytes, a row of taps is one run: 3 × 3 taps on 16 channels are three runs of twelve
//! steps.

use opt_core::op::Window;
use opt_core::qmodel::{Activation, QWeight};

use crate::layout::{GROUP, LANES, Layout};

/// Weights for 16 output channels × 4 input channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Block(pub(crate) [i8; LANES * GROUP]);

/// Steps over bytes that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first byte, from that of the first tap.
    pub(crate) offset: usize,
    /// Steps of four bytes.
    pub(crate) steps: usize,
}

/// Output channels that are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panel {
    /// The first of its blocks.
    pub(crate) block: usize,
    /// Vectors of 16 output channels, 1 to [`MAX_VECTORS`].
    pub(crate) vectors: usize,
    /// Its first output channel.
    pub(crate) channel: usize,
    /// Output channels in its last vector that may be written: 16, but for groups.
    pub(crate) lanes: usize,
    /// Where its group's input channels begin in a pixel.
    pub(crate) input: usize,
}

/// Vectors of output channels in a panel: with eight pixels, 16 accumulators stay in registers.
pub(crate) const MAX_VECTORS: usize = 2;

/// How much there is of [`Products`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Bytes of everything that is packed.
    pub(crate) bytes: usize,
    /// Products for one output pixel of all channels, those that only fill vectors included.
    pub(crate) products: usize,
}

/// The sums of products of every output channel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Products {
    pub(crate) blocks: Vec<Block>,
    pub(crate) runs: Vec<Run>,
    pub(crate) panels: Vec<Panel>,
    /// `bias'`, padded with 0 to a multiple of 16 and by one vector.
    pub(crate) bias: Vec<i32>,
    /// Bytes that a tile reads from its first tap's first byte.
    pub(crate) reach: usize,
    /// Channels up to which codes are written, and up to which a residual is read: whole vectors.
    pub(crate) written: usize,
    pub(crate) read: usize,
}

/// What is added before rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Residual {
    pub(crate) scale: f32,
    pub(crate) zero: i32,
    pub(crate) origin: usize,
    pub(crate) row: usize,
    pub(crate) stride: usize,
}

/// From a sum to a code.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Requant {
    /// `(s_x·s_w[o])/s_y`, padded as the bias.
    pub(crate) multipliers: Vec<f32>,
    pub(crate) zero: u8,
    pub(crate) lo: u8,
    pub(crate) hi: u8,
}

impl Requant {
    pub(crate) fn new(x: &Activation, weight: &QWeight, y: &Activation) -> Self {
        let scales = weight.scales.iter();
        Self {
            multipliers: padded(scales.map(|s| x.scale * s / y.scale), 0.0),
            zero: y.zero_points[0],
            lo: y.lo,
            hi: y.hi,
        }
    }
}

/// A convolution in its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conv {
    pub(crate) products: Products,
    pub(crate) requant: Requant,
    pub(crate) residual: Option<Residual>,
    /// Where the first tap of the first output pixel begins.
    pub(crate) origin: usize,
    /// Bytes from an output pixel's first tap to the next one's, and to the next row's.
    pub(crate) pixel: usize,
    pub(crate) row: usize,
    /// Output pixels in a row, their border and their bytes.
    pub(crate) out_width: usize,
    pub(crate) out_left: usize,
    pub(crate) out_row: usize,
    pub(crate) out_stride: usize,
}

impl Conv {
    pub(crate) fn new(
        (weight, bias): (&QWeight, &[i32]),
        window: &Window,
        group: usize,
        (x, meaning): (&Layout, &Activation),
        requant: Requant,
        residual: Option<(&Layout, Residual)>,
        y: &Layout,
    ) -> Self {
        let border = |side: usize| x.border[side] - window.pads[side];
        Self {
            products: Products::new(weight, bias, window.kernel, group, x, meaning),
            requant,
            residual: residual.map(|(layout, residual)| Residual {
                origin: layout.origin(),
                row: layout.row(),
                stride: layout.stride,
                ..residual
            }),
            origin: border(0) * x.row() + border(1) * x.stride,
            // A stride of any size is sound where there is one output pixel, to which it is not applied.
            pixel: window.stride[1].saturating_mul(x.stride),
            row: window.stride[0].saturating_mul(x.row()),
            out_width: y.width,
            out_left: y.border[1],
            out_row: y.row(),
            out_stride: y.stride,
        }
    }
}

impl Products {
    /// What [`Self::new`] would make, at most `usize::MAX` of each.
    pub(crate) fn size(out: usize, channels: usize, kernel: [usize; 2], group: usize) -> Size {
        let taps = kernel[0].saturating_mul(kernel[1]);
        let steps = (channels / group).div_ceil(GROUP).saturating_mul(taps);
        let vectors = (out / group).div_ceil(LANES).saturating_mul(group);
        let blocks = steps.saturating_mul(vectors);
        let bytes = [
            (blocks, size_of::<Block>()),
            (taps, size_of::<Run>()),
            (vectors, size_of::<Panel>()),
            (out.saturating_add(2 * LANES), 2 * size_of::<i32>()),
        ];
        let bytes = bytes.map(|(n, size)| n.saturating_mul(size));
        Size {
            bytes: bytes.into_iter().fold(0, usize::saturating_add),
            products: blocks.saturating_mul(LANES * GROUP),
        }
    }

    /// Packs a weight `[O, I/group, kH, kW]`, or `[O, I·kH·kW]` in the same order.
    pub(crate) fn new(
        weight: &QWeight,
        bias: &[i32],
        [kh, kw]: [usize; 2],
        group: usize,
        x: &Layout,
        meaning: &Activation,
    ) -> Self {
        let out = weight.scales.len();
        let per_group = x.channels / group;
        let codes: Vec<i8> = weight.codes.iter().copied().collect();
        let code = |o: usize, i: usize, tap: usize| codes[(o * per_group + i) * kh * kw + tap];
        let steps = per_group.div_ceil(GROUP);
        let runs = if steps * GROUP == x.stride {
            let run = |y: usize| Run {
                offset: y * x.row(),
                steps: kw * steps,
            };
            (0..kh).map(run).collect()
        } else {
            let run = |tap: usize| Run {
                offset: tap / kw * x.row() + tap % kw * x.stride,
                steps,
            };
            (0..kh * kw).map(run).collect::<Vec<Run>>()
        };

        let out_per_group = out / group;
        let mut panels = Vec::new();
        let mut blocks = Vec::new();
        for g in 0..group {
            let mut channel = g * out_per_group;
            let end = channel + out_per_group;
            while channel < end {
                // Vectors of a group that does not fill them are not written whole: its neighbours lie behind.
                let vectors = (end - channel).div_ceil(LANES).min(MAX_VECTORS);
                let last = (end - channel).min(vectors * LANES) - (vectors - 1) * LANES;
                panels.push(Panel {
                    block: blocks.len(),
                    vectors,
                    channel,
                    lanes: if group == 1 { LANES } else { last },
                    input: g * per_group,
                });
                for tap in 0..kh * kw {
                    for step in 0..steps {
                        for vector in 0..vectors {
                            let mut block = [0i8; LANES * GROUP];
                            for (k, weight) in block.iter_mut().enumerate() {
                                let o = channel + vector * LANES + k / GROUP;
                                let i = step * GROUP + k % GROUP;
                                if o < end && i < per_group {
                                    *weight = code(o, i, tap);
                                }
                            }
                            blocks.push(Block(block));
                        }
                    }
                }
                channel += vectors * LANES;
            }
        }
        let folded = bias.iter().enumerate().map(|(o, b)| {
            let first = o / out_per_group * per_group;
            // Wrapping: a part of the sum may pass 32 bits, the whole never does (`QModel::validate`).
            (0..per_group).fold(*b, |b, i| {
                let sum: i32 = (0..kh * kw).map(|tap| i32::from(code(o, i, tap))).sum();
                b.wrapping_sub(meaning.zero(first + i).wrapping_mul(sum))
            })
        });
        let last_run = runs.iter().map(|r| r.offset + r.steps * GROUP).max();
        let last_group = panels.iter().map(|p| p.input).max();
        let ends = |of: fn(&Panel) -> usize| panels.iter().map(of).max().unwrap_or(0);
        let written = ends(|p| p.channel + (p.vectors - 1) * LANES + p.lanes);
        let read = ends(|p| p.channel + p.vectors * LANES);
        Self {
            bias: padded(folded, 0),
            reach: last_run.unwrap_or(0) + last_group.unwrap_or(0),
            written,
            read,
            blocks,
            runs,
            panels,
        }
    }
}

/// Up to a multiple of 16 and one vector more, so that a vector that begins at any channel can be read.
fn padded<T: Copy>(values: impl Iterator<Item = T>, fill: T) -> Vec<T> {
    let mut padded: Vec<T> = values.collect();
    padded.resize(padded.len().next_multiple_of(LANES) + LANES, fill);
    padded
}
