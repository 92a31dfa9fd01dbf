//! What can be wrong with an image file, or with what is asked of it.

use std::path::PathBuf;

use thiserror::Error;

/// An error of this crate: it says what was found, what was expected and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The operating system refused.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The bytes are no image, or half of one.
    #[error(
        "not a readable image: {reason}; expected a whole PNG or JPEG file, replace or delete it"
    )]
    Unreadable {
        /// What the decoder met.
        reason: String,
    },
    /// Something is wrong with the content of this file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<Self>,
    },
    /// The network's input is no picture.
    #[error(
        "the network reads {channels}×{height}×{width}, expected 3 channels (red, green, blue) or 1 (grey) and sides of at \
         least 1; it cannot be fed image files"
    )]
    Shape {
        /// The channels.
        channels: usize,
        /// The rows.
        height: usize,
        /// The columns.
        width: usize,
    },
    /// The description contradicts the network's input.
    #[error(
        "images are resized to cover {}×{}, expected {height}×{width} at least and {most}×{most} at most: what the network \
         reads is cut from it",
        cover[0], cover[1]
    )]
    Cover {
        /// Rows and columns that are to be covered.
        cover: [usize; 2],
        /// The network's rows.
        height: usize,
        /// The network's columns.
        width: usize,
        /// The largest side.
        most: usize,
    },
}
