//! From bytes of a PNG or JPEG file to planes.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use opt_core::{Orientation, Preparation};

use crate::resize::resize_crop;
use crate::{ImageError, Result};

/// The longest image file, in bytes.
pub const MAX_FILE: u64 = 256 << 20;

/// The most bytes of a decoded image before it is resized.
const MAX_DECODED: u64 = 512 << 20;

/// Reads an image file as `preparation` says, for a network that is fed `shape`, `[C, H, W]`.
///
/// # Shapes
///
/// The result is planes, C×H×W.
///
/// # Errors
///
/// [`ImageError::Read`] and [`ImageError::InFile`] with the path; otherwise those of [`prepare`].
pub fn load(path: &Path, shape: [usize; 3], preparation: &Preparation) -> Result<Vec<u8>> {
    let read = |source| ImageError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(read)?;
    let prepared = if metadata.is_file() && metadata.len() <= MAX_FILE {
        prepare(&fs::read(path).map_err(read)?, shape, preparation)
    } else {
        Err(unreadable(format!("no file of at most {MAX_FILE} bytes")))
    };
    prepared.map_err(|error| match error {
        ImageError::Unreadable { .. } => ImageError::InFile {
            path: path.to_owned(),
            source: Box::new(error),
        },
        ImageError::Read { .. }
        | ImageError::InFile { .. }
        | ImageError::Shape { .. }
        | ImageError::Cover { .. } => error,
    })
}

/// Prepares an image file's bytes as `preparation` says, for a network that is fed `shape`, `[C, H, W]`.
///
/// The format is known by the content, whatever the file was called. Sums run in f32 in a fixed order, so the same file
/// gives the same bytes everywhere.
///
/// # Shapes
///
/// The result is planes, C×H×W.
///
/// # Errors
///
/// [`ImageError::Unreadable`] for what is no PNG or JPEG or is not whole (a JPEG is taken for whole by its end marker), [`ImageError::Shape`] for other than 3 channels or 1,
/// [`ImageError::Cover`] for a description that does not fit the shape.
pub fn prepare(bytes: &[u8], shape: [usize; 3], preparation: &Preparation) -> Result<Vec<u8>> {
    let [channels, height, width] = shape;
    let Preparation { orientation, cover } = *preparation;
    if !matches!(channels, 1 | 3) || height == 0 || width == 0 {
        return Err(ImageError::Shape {
            channels,
            height,
            width,
        });
    }
    if cover[0] < height
        || cover[1] < width
        || cover.iter().any(|side| *side > Preparation::MAX_SIDE)
    {
        return Err(ImageError::Cover {
            cover,
            height,
            width,
            most: Preparation::MAX_SIDE,
        });
    }
    let decoded = decode(bytes, orientation)?;
    let sides = [decoded.height() as usize, decoded.width() as usize];
    if sides.contains(&0) {
        return Err(unreadable("it has no pixels"));
    }
    let crop = [height, width];
    Ok(match channels {
        1 => resize_crop::<1>(&decoded.into_luma8(), sides, cover, crop),
        _ => resize_crop::<3>(&decoded.into_rgb8(), sides, cover, crop),
    })
}

/// Decodes all of an image and turns it.
fn decode(bytes: &[u8], orientation: Orientation) -> Result<DynamicImage> {
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| unreadable(error.to_string()))?;
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_whole(bytes) {
        return Err(unreadable("the JPEG data break off"));
    }
    let problem = |error: image::ImageError| unreadable(error.to_string());
    let mut decoder = reader.into_decoder().map_err(problem)?;
    if decoder.total_bytes() > MAX_DECODED {
        let (width, height) = decoder.dimensions();
        return Err(unreadable(format!(
            "{width}×{height} pixels take more than {MAX_DECODED} bytes"
        )));
    }
    // Only asked for where it counts: what is wrong with it must not make an image unreadable that ignores it.
    let turn = match orientation {
        Orientation::Upright => Some(decoder.orientation().map_err(problem)?),
        Orientation::Stored => None,
    };
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(problem)?;
    if let Some(turn) = turn {
        decoded.apply_orientation(turn);
    }
    Ok(decoded)
}

fn unreadable(reason: impl Into<String>) -> ImageError {
    ImageError::Unreadable {
        reason: reason.into(),
    }
}

/// Says whether the markers lead to the end of the image: the decoder makes up what is absent and does not say so. An end
/// marker that was put behind data that break off is believed: only the decoder's strict mode could tell, which also refuses
/// sound photographs for bytes between their headers.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const STUFFED: u8 = 0x00;
    const FILL: u8 = 0xff;
    let mut at = 2;
    while let Some(&[first, marker]) = bytes.get(at..at + 2) {
        match (first, marker) {
            (0xff, 0xd9) => return true,
            // Markers without content, and what only looks like one.
            (0xff, STUFFED | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, FILL) => at += 1,
            (0xff, _) => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else {
                    return false;
                };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
            // Compressed data.
            _ => at += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests;
