//! The same picture as pixels, for documents that take no SVG.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use super::INK;
use crate::{ReportError, Result};

/// Pixels for each unit of the SVG: sharp on screens with small pixels.
const SCALE: f32 = 2.0;

/// The one font of all PNG, so that they are the same on every machine.
static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    fonts.set_sans_serif_family("Ubuntu");
    Arc::new(fonts)
});

/// Renders an SVG of this crate as PNG, twice as large.
///
/// Text is set in Ubuntu Light, whatever fonts the machine has; equal input gives equal bytes.
///
/// # Errors
///
/// `svg` is not one, or is larger than memory.
pub fn png(svg: &str) -> Result<Vec<u8>> {
    let options = Options {
        font_family: "Ubuntu".to_owned(),
        fontdb: Arc::clone(&FONTS),
        ..Options::default()
    };
    let problem = |problem: String| ReportError::Picture { problem };
    let tree = Tree::from_str(&thickened(svg), &options).map_err(|e| problem(e.to_string()))?;
    let size = tree.size().to_int_size().scale_by(SCALE);
    let pixels = size.and_then(|size| Pixmap::new(size.width(), size.height()));
    let mut pixels = pixels.ok_or_else(|| problem("it is too large".to_owned()))?;
    resvg::render(
        &tree,
        Transform::from_scale(SCALE, SCALE),
        &mut pixels.as_mut(),
    );
    pixels.encode_png().map_err(|e| problem(e.to_string()))
}

/// The font is a light one: a rim in the colour of its text gives it the weight of a normal one.
fn thickened(svg: &str) -> String {
    let mut thick = String::with_capacity(svg.len() * 2);
    for line in svg.lines() {
        match line.strip_prefix("<text ") {
            Some(rest) => {
                let width = if rest.contains("font-weight=") {
                    1.0
                } else {
                    0.3
                };
                thick += &format!("<text stroke=\"{INK}\" stroke-width=\"{width}\" {rest}\n");
            }
            None => thick += &format!("{line}\n"),
        }
    }
    thick
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"100\" height=\"30\"></svg>";

    #[test]
    fn text_is_drawn_with_the_font_that_is_brought_along() {
        let with = |words: &str| {
            let text =
                format!("<text x=\"5\" y=\"20\" font-family=\"sans-serif\">{words}</text></svg>");
            png(&EMPTY.replace("</svg>", &text)).unwrap()
        };
        let (nothing, words) = (png(EMPTY).unwrap(), with("abc"));
        assert_ne!(nothing, words);
        assert_eq!(words, with("abc"));
        // Every sign that plots write has a shape of its own: none is the box of a missing one.
        let missing = with("\u{10FFFF}");
        for sign in ["Δ", "×", "−", "±", "·", "…", "%", "µ"] {
            assert_ne!(with(sign), missing, "{sign}");
            assert_ne!(with(sign), nothing, "{sign}");
        }
    }

    #[test]
    fn the_size_is_twice_that_of_the_svg() {
        let png = png(EMPTY).unwrap();
        // Width and height stand behind the signature and the head of the first chunk.
        assert_eq!(png[16..24], [0, 0, 0, 200, 0, 0, 0, 60]);
    }

    #[test]
    fn what_is_not_an_svg_is_an_error() {
        assert!(png("<svg").is_err());
    }
}
