//! How an image file becomes the bytes that a network is fed: what was done to the images that its accuracy was measured on.

/// How an image file becomes the bytes of [`InputSpec::shape`](crate::InputSpec::shape).
///
/// This is the description; the crate `opt-image` does what it says, in this order:
///
/// ```text
/// decode     by content, whole or not at all; 8 bits, red, green, blue for three channels, grey for one; no colour
///            management, transparency is ignored
/// turn       as `orientation` says
/// resize     antialiased triangle filter, proportions kept, until both sides of `cover` are reached and one is met:
///            h×w → cover[0] × ⌊w · cover[0] / h⌋ or ⌊h · cover[1] / w⌋ × cover[1], whichever covers
/// cut        the centre, H×W: first row ⌊(h' − H) / 2⌋, first column ⌊(w' − W) / 2⌋
/// lay out    bytes 0 to 255 as planes, C×H×W; mean and deviation come after, inside the network
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preparation {
    /// Whether the image is turned.
    pub orientation: Orientation,
    /// The rows and columns that the resized image reaches before it is cut, at least the network's own.
    pub cover: [usize; 2],
}

/// Whether an image is turned as its file says (EXIF's `Orientation`, as telephones write it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// As a viewer shows it.
    Upright,
    /// As its pixels are stored, whatever the file says.
    Stored,
}

impl Preparation {
    /// The largest side of [`cover`](Self::cover): no file names more, and no image is resized to more.
    pub const MAX_SIDE: usize = 1 << 16;

    /// What is done to images of one's own for a network that reads `[C, H, W]`.
    ///
    /// ```text
    /// cover = s(H), s(W),   s(n) = n below 128, n · 256 / 224 rounded from there
    /// ```
    ///
    /// Large images lose their border, as is customary for `ImageNet`; small ones keep all they have. An image that has the
    /// network's size already, such as one of CIFAR's, keeps every byte.
    ///
    /// ```
    /// use opt_core::Preparation;
    ///
    /// assert_eq!(Preparation::usual([3, 32, 127]).cover, [32, 127]);
    /// assert_eq!(Preparation::usual([3, 128, 224]).cover, [146, 256]);
    /// ```
    #[must_use]
    pub const fn usual([_, height, width]: [usize; 3]) -> Self {
        const fn side(n: usize) -> usize {
            if n < 128 {
                n
            } else {
                (n.saturating_mul(256).saturating_add(112)) / 224
            }
        }
        Self {
            orientation: Orientation::Upright,
            cover: [side(height), side(width)],
        }
    }
}
