//! One way from an image file to the bytes that a network is fed: the same for training, measuring and use.
//!
//! What is done is data, [`opt_core::Preparation`], which travels with the network: `opt-data` reads folders of images by it,
//! a `.opt` file holds it, and whoever runs the file prepares pictures with it. So a picture is answered as it was when the
//! accuracy was measured.
//!
//! ```
//! use opt_core::Preparation;
//!
//! // A PNG of one red pixel, as a network reads it that is fed 3×2×2.
//! let mut png = std::io::Cursor::new(Vec::new());
//! image::RgbImage::from_pixel(1, 1, image::Rgb([200, 0, 7])).write_to(&mut png, image::ImageFormat::Png)?;
//! let shape = [3, 2, 2];
//! let planes = opt_image::prepare(png.get_ref(), shape, &Preparation::usual(shape))?;
//! assert_eq!(planes, [200, 200, 200, 200, 0, 0, 0, 0, 7, 7, 7, 7]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What this crate does not do
//!
//! It knows no data sets, labels or networks, does not normalise (mean and deviation are the network's), and is Rust alone:
//! nothing in its tree compiles or links C.

mod decode;
mod error;
mod resize;

pub use decode::{MAX_FILE, load, prepare};
pub use error::ImageError;

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, ImageError>;

/// The example of README.md is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
