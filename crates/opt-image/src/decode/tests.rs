//! Files that the tests write themselves, whole, turned and broken.

use image::{ExtendedColorType, GrayImage, ImageEncoder, Luma, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn as_is(shape: [usize; 3]) -> Preparation {
    Preparation::usual(shape)
}

/// An `Exif` block that says nothing but how the image is turned.
fn exif(orientation: u8) -> Vec<u8> {
    // Little endian, one entry: tag 0x0112, a short, one of them.
    let mut block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    block
}

/// A file of 3×2 grey pixels with an orientation: 10 20 30 over 40 50 60.
fn turned(orientation: u8, format: ImageFormat) -> Vec<u8> {
    let pixels = [10, 20, 30, 40, 50, 60];
    let mut bytes = Vec::new();
    match format {
        ImageFormat::Png => {
            let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder
                .write_image(&pixels, 3, 2, ExtendedColorType::L8)
                .unwrap();
        }
        _ => {
            let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
            encoder.set_exif_metadata(exif(orientation)).unwrap();
            encoder
                .write_image(&pixels, 3, 2, ExtendedColorType::L8)
                .unwrap();
        }
    }
    bytes
}

#[test]
fn an_image_of_the_networks_size_keeps_every_byte() {
    let image = RgbImage::from_fn(3, 2, |x, y| {
        let at = u8::try_from(3 * y + x).unwrap();
        Rgb([at, 100 + at, 200 + at])
    });
    let planes: Vec<u8> = [0, 100, 200]
        .iter()
        .flat_map(|c| (0..6).map(move |i| c + i))
        .collect();
    let file = encoded(&image.into(), ImageFormat::Png);
    let shape = [3, 2, 3];
    assert_eq!(prepare(&file, shape, &as_is(shape)).unwrap(), planes);
}

#[test]
fn images_are_turned_as_their_files_say_if_the_network_was_trained_so() {
    // By hand, from EXIF 2.32, table 6: where row 0 and column 0 of what is stored lie in what is seen.
    let seen: [(u8, [usize; 2], [u8; 6]); 9] = [
        (1, [2, 3], [10, 20, 30, 40, 50, 60]),
        (2, [2, 3], [30, 20, 10, 60, 50, 40]),
        (3, [2, 3], [60, 50, 40, 30, 20, 10]),
        (4, [2, 3], [40, 50, 60, 10, 20, 30]),
        (5, [3, 2], [10, 40, 20, 50, 30, 60]),
        (6, [3, 2], [40, 10, 50, 20, 60, 30]),
        (7, [3, 2], [60, 30, 50, 20, 40, 10]),
        (8, [3, 2], [30, 60, 20, 50, 10, 40]),
        // No such orientation.
        (9, [2, 3], [10, 20, 30, 40, 50, 60]),
    ];
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        for (orientation, [height, width], expected) in seen {
            let file = turned(orientation, format);
            let run = |shape: [usize; 3], orientation| {
                let preparation = Preparation {
                    orientation,
                    ..as_is(shape)
                };
                prepare(&file, shape, &preparation).unwrap()
            };
            let close = |found: &[u8], expected: &[u8]| {
                // JPEG rounds what its tables hold.
                found.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 4)
            };
            let upright = run([1, height, width], Orientation::Upright);
            assert!(
                close(&upright, &expected),
                "{format:?} {orientation}: {upright:?}"
            );
            let stored = run([1, 2, 3], Orientation::Stored);
            assert!(
                close(&stored, &seen[0].2),
                "{format:?} {orientation}: {stored:?}"
            );
        }
    }
}

#[test]
fn every_kind_of_file_becomes_grey_or_rgb() {
    let grey = GrayImage::from_pixel(3, 3, Luma([70]));
    let clear = RgbaImage::from_pixel(3, 3, Rgba([10, 20, 30, 0]));
    let one = |bytes: &[u8], channels| {
        let shape = [channels, 1, 1];
        prepare(bytes, shape, &as_is(shape)).unwrap()
    };
    let file = encoded(&grey.into(), ImageFormat::Png);
    assert_eq!((one(&file, 1), one(&file, 3)), (vec![70], vec![70; 3]));
    let file = encoded(&clear.into(), ImageFormat::Png);
    assert_eq!(one(&file, 3), [10, 20, 30]);
    // 0.2126 · 10 + 0.7152 · 20 + 0.0722 · 30 = 18.6.
    assert_eq!(one(&file, 1), [19]);
}

#[test]
fn what_does_not_fit_is_named() {
    let whole = encoded(
        &RgbImage::from_pixel(40, 40, Rgb([9, 8, 7])).into(),
        ImageFormat::Jpeg,
    );
    let png = encoded(
        &RgbImage::from_fn(40, 40, |x, y| Rgb([u8::try_from(x * y % 251).unwrap(); 3])).into(),
        ImageFormat::Png,
    );
    let shape = [3, 4, 4];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    let case = |bytes: &[u8]| {
        let in_memory = prepare(bytes, shape, &as_is(shape))
            .unwrap_err()
            .to_string();
        fs::write(&path, bytes).unwrap();
        let in_file = load(&path, shape, &as_is(shape)).unwrap_err().to_string();
        assert!(
            in_file.starts_with(&path.display().to_string()) && in_file.ends_with(&in_memory),
            "{in_file}"
        );
        in_memory
    };
    for (bytes, expected) in [
        // No image; another format; half a JPEG; a JPEG without its end; half a PNG; nothing.
        (&b"text"[..], "not a readable image"),
        (b"GIF89a\x01\0\x01\0\0\0\0;", "not a readable image"),
        (&whole[..whole.len() / 2], "break off"),
        (&whole[..whole.len() - 1], "break off"),
        (&png[..png.len() / 2], "not a readable image"),
        (&[], "expected a whole PNG or JPEG"),
    ] {
        let found = case(bytes);
        assert!(found.contains(expected), "{found}");
    }
    // The limit that `prepare` states: an end marker behind data that break off is believed.
    let closed = [&whole[..whole.len() - 6], &[0xff, 0xd9]].concat();
    assert_eq!(prepare(&closed, shape, &as_is(shape)).unwrap().len(), 48);
    // By content, whatever it is called.
    fs::write(&path, &whole).unwrap();
    assert_eq!(load(&path, shape, &as_is(shape)).unwrap().len(), 48);
    let missing = load(&folder.path().join("b.png"), shape, &as_is(shape))
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("could not read") && missing.contains("b.png"),
        "{missing}"
    );
    let no_file = load(folder.path(), shape, &as_is(shape))
        .unwrap_err()
        .to_string();
    assert!(no_file.contains("no file of at most"), "{no_file}");
    // What the network reads is no picture, or larger than what is resized to.
    for (shape, cover, expected) in [
        ([2, 4, 4], [4, 4], "the network reads 2×4×4"),
        ([3, 0, 4], [4, 4], "the network reads 3×0×4"),
        ([3, 4, 4], [4, 3], "cover 4×3, expected 4×4 at least"),
        ([3, 4, 4], [usize::MAX, 4], "65536×65536 at most"),
    ] {
        let preparation = Preparation {
            orientation: Orientation::Upright,
            cover,
        };
        let found = prepare(&whole, shape, &preparation)
            .unwrap_err()
            .to_string();
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn markers_lead_to_the_end_of_a_jpeg() {
    struct Case {
        bytes: &'static [u8],
        whole: bool,
    }
    let cases = [
        // Start and end.
        Case {
            bytes: &[0xff, 0xd8, 0xff, 0xd9],
            whole: true,
        },
        // An end within a segment, such as a preview's, is not the image's.
        Case {
            bytes: &[0xff, 0xd8, 0xff, 0xe1, 0, 4, 0xff, 0xd9, 1, 2],
            whole: false,
        },
        // Data with a stuffed byte, a restart, fill bytes and the end; more may follow.
        Case {
            bytes: &[
                0xff, 0xd8, 0xff, 0xda, 0, 2, 7, 0xff, 0, 0xff, 0xd0, 9, 0xff, 0xff, 0xd9, 1, 2, 3,
            ],
            whole: true,
        },
        // A segment that is longer than the file; a length that is cut; nothing.
        Case {
            bytes: &[0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff],
            whole: false,
        },
        Case {
            bytes: &[0xff, 0xd8, 0xff, 0xe0, 0],
            whole: false,
        },
        Case {
            bytes: &[],
            whole: false,
        },
    ];
    for Case { bytes, whole } in cases {
        assert_eq!(jpeg_is_whole(bytes), whole, "{bytes:x?}");
    }
}
