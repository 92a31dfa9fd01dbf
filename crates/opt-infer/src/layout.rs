//! How a tensor lies in memory: height, width, channels, with room for a channel block and a border for padding.

use std::ops::Range;

/// Output channels that one vector of the kernels holds; the channels of a tensor are padded to a multiple of it.
pub(crate) const LANES: usize = 16;

/// Input channels that one 32-bit lane contracts.
pub(crate) const GROUP: usize = 4;

/// A tensor `[C, H, W]` as bytes, a code each, or four for each f32 ([`Layout::float`]).
///
/// ```text
/// at(c, y, x) = (top + y)·row + (left + x)·stride + c        row = (left + W + right)·stride
/// ```
///
/// The border holds the zero point (of each channel, for the image), so that a convolution reads its padding like any
/// other pixel. It is written once. Bytes of channels from C to `stride` mean nothing: the weights that meet them are 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    /// C.
    pub(crate) channels: usize,
    /// H.
    pub(crate) height: usize,
    /// W.
    pub(crate) width: usize,
    /// Bytes from a pixel to the next.
    pub(crate) stride: usize,
    /// Border in ONNX order: top, left, bottom, right.
    pub(crate) border: [usize; 4],
    /// What the border holds: one byte, or one per channel.
    pub(crate) zero: Vec<u8>,
}

impl Layout {
    /// A vector is an image of one pixel.
    pub(crate) fn new(shape: &[usize], multiple: usize, border: [usize; 4], zero: &[u8]) -> Self {
        let (channels, height, width) = match *shape {
            [c, h, w] => (c, h, w),
            _ => (shape.iter().product(), 1, 1),
        };
        Self {
            channels,
            height,
            width,
            stride: channels.next_multiple_of(multiple),
            border,
            zero: zero.to_vec(),
        }
    }

    /// Of f32 values: four bytes for each, without border and filling.
    pub(crate) fn float(shape: &[usize]) -> Self {
        let codes = Self::new(shape, 1, [0; 4], &[0]);
        Self {
            stride: codes.channels.saturating_mul(4),
            ..codes
        }
    }

    /// Bytes from a row to the next.
    pub(crate) fn row(&self) -> usize {
        (self.border[1] + self.width + self.border[3]) * self.stride
    }

    /// Where the first pixel inside the border begins.
    pub(crate) fn origin(&self) -> usize {
        self.border[0] * self.row() + self.border[1] * self.stride
    }

    /// Bytes of the whole tensor.
    pub(crate) fn bytes(&self) -> usize {
        (self.border[0] + self.height + self.border[2]) * self.row()
    }

    /// As [`Self::bytes`], at most `usize::MAX`: of a tensor that may be too large.
    pub(crate) fn saturating_bytes(&self) -> usize {
        let [top, left, bottom, right] = self.border;
        let sum = |a: usize, b: usize, c: usize| a.saturating_add(b).saturating_add(c);
        sum(top, self.height, bottom)
            .saturating_mul(sum(left, self.width, right))
            .saturating_mul(self.stride)
    }

    /// Where the bytes of rows `rows` lie, borders left and right included.
    pub(crate) fn rows(&self, rows: &Range<usize>) -> Range<usize> {
        let row = self.row();
        (self.border[0] + rows.start) * row..(self.border[0] + rows.end) * row
    }

    /// Writes the border into memory that holds zeros, and nothing where it is zero.
    pub(crate) fn write_border(&self, bytes: &mut [u8]) {
        if self.zero.iter().all(|zero| *zero == 0) {
            return;
        }
        let [top, left, _, right] = self.border;
        let fill = |pixels: &mut [u8]| {
            for pixel in pixels.chunks_exact_mut(self.stride) {
                match self.zero.as_slice() {
                    [zero] => pixel[..self.channels].fill(*zero),
                    zeros => pixel[..self.channels].copy_from_slice(zeros),
                }
            }
        };
        let rows = bytes[..self.bytes()].chunks_exact_mut(self.row());
        for (y, row) in rows.enumerate() {
            if (top..top + self.height).contains(&y) {
                fill(&mut row[..left * self.stride]);
                let after = row.len() - right * self.stride;
                fill(&mut row[after..]);
            } else {
                fill(row);
            }
        }
    }

    /// The codes in the order `[C, H, W]`.
    pub(crate) fn codes(&self, bytes: &[u8]) -> Vec<u8> {
        let (origin, row, stride) = (self.origin(), self.row(), self.stride);
        let mut codes = Vec::with_capacity(self.channels * self.height * self.width);
        for c in 0..self.channels {
            for y in 0..self.height {
                let first = origin + y * row + c;
                codes.extend((0..self.width).map(|x| bytes[first + x * stride]));
            }
        }
        codes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_surround_the_pixels() {
        // Two channels in four bytes, 1 × 2 pixels, one row above and one column to the right.
        let layout = Layout::new(&[2, 1, 2], GROUP, [1, 0, 0, 1], &[7, 9]);
        assert_eq!(
            (layout.row(), layout.bytes(), layout.origin()),
            (12, 24, 12)
        );
        let mut bytes = vec![0; 24];
        layout.write_border(&mut bytes);
        let border = [7, 9, 0, 0];
        let expected = [border, border, border, [0; 4], [0; 4], border].concat();
        assert_eq!(bytes, expected);
        bytes[12..20].copy_from_slice(&[1, 2, 99, 99, 3, 4, 99, 99]);
        assert_eq!(layout.codes(&bytes), [1, 3, 2, 4]);
        assert_eq!(layout.rows(&(0..1)), 12..24);
    }

    #[test]
    fn a_vector_is_one_pixel() {
        let layout = Layout::new(&[17], LANES, [0; 4], &[3]);
        assert_eq!((layout.stride, layout.bytes()), (32, 32));
        let bytes: Vec<u8> = (0..32).collect();
        assert_eq!(layout.codes(&bytes), (0..17).collect::<Vec<u8>>());
    }
}
