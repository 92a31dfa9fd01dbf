//! Windows that slide over the two spatial axes: one set of rules for shape inference, validation and execution.

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
