//! One way from an image file to bytes: what accuracy is measured on, and what the example program feeds a network.

#![expect(clippy::unwrap_used, reason = "a test, also in its helpers")]

use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, RgbImage};
use ndarray::ArrayD;
use opt_core::qmodel::{Activation, QModel, QNode, QOp, QWeight};
use opt_core::{Output, Params};
use opt_experiment::data::{Data, Limits};
use opt_infer::{Options, Session};

#[expect(dead_code, reason = "the program around what is tested")]
#[path = "../../opt-infer/examples/classify.rs"]
mod classify;

/// A picture without symmetry.
fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let at = |c: u32| (x * 7 + y * 13 + (x * y + seed) % 31 + c * 50) % 256;
        [0, 1, 2].map(|c| u8::try_from(at(c)).unwrap()).into()
    })
}

/// Files of every kind: wide, tall, turned, deep, small, and one under another's name.
fn write_class(folder: &Path, seed: u32) {
    std::fs::create_dir_all(folder).unwrap();
    let path = |name: &str| folder.join(name);
    picture(50, 20, seed).save(path("wide.png")).unwrap();
    picture(21, 64, seed).save(path("tall.jpg")).unwrap();
    picture(8, 8, seed).save(path("small.jpeg")).unwrap();
    let deep = DynamicImage::from(picture(33, 32, seed)).into_rgba16();
    deep.save(path("deep.PNG")).unwrap();
    let other = picture(31, 40, seed);
    other
        .save_with_format(path("other.jpg"), ImageFormat::Png)
        .unwrap();
    let grey = DynamicImage::from(picture(40, 40, seed)).into_luma8();
    grey.save(path("grey.png")).unwrap();
    for orientation in 1..=8 {
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new(&mut bytes);
        // Little endian, one entry: tag 0x0112, a short, one of them.
        let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
        encoder.set_exif_metadata(exif).unwrap();
        let image = picture(45, 37, seed);
        encoder
            .write_image(&image, 45, 37, ExtendedColorType::Rgb8)
            .unwrap();
        std::fs::write(path(&format!("turned-{orientation}.jpg")), bytes).unwrap();
    }
}

#[test]
fn classify_feeds_the_bytes_that_accuracy_was_measured_on() {
    let root = tempfile::tempdir().unwrap();
    for (seed, class) in [(0, "test/a"), (1, "test/b"), (2, "train/a"), (3, "train/b")] {
        write_class(&root.path().join(class), seed);
    }
    // Below and above the size from which the border is cut.
    for side in [32, 130] {
        let limits = Limits {
            image_size: Some(side),
            ..Limits::default()
        };
        let data = Data::load(root.path().to_str().unwrap(), root.path(), limits).unwrap();
        let node = |name: &str, op, inputs: &[usize], scale: Option<f32>| QNode {
            name: name.to_owned(),
            op,
            inputs: inputs.to_vec(),
            activation: scale.map(|scale| Activation::new(scale, 0)),
        };
        let weight = QWeight {
            codes: ArrayD::zeros(vec![2, 3]),
            scales: vec![1.0; 2],
            bits: 8,
        };
        let bias = vec![0; 2];
        let network = QModel {
            nodes: vec![
                node("image", QOp::Input, &[], Some(1.0)),
                node("mean", QOp::GlobalAveragePool, &[0], Some(1.0)),
                node("vector", QOp::Flatten, &[1], Some(1.0)),
                node("logits", QOp::Logits { weight, bias }, &[2], None),
            ],
            params: Params::new(),
            outputs: vec![Output {
                node: 3,
                labels: data.task().labels,
            }],
            input: data.task().input,
        };
        // As it ships: through a file.
        let file = root.path().join(format!("{side}.opt"));
        let bytes = opt_artifact::write_qmodel(&network, &Default::default()).unwrap();
        opt_artifact::save(&file, &bytes).unwrap();
        let session = Session::load(&file, &Options::default()).unwrap();
        let mut fed: Vec<Vec<u8>> = Vec::new();
        for class in ["test/a", "test/b"] {
            for entry in std::fs::read_dir(root.path().join(class)).unwrap() {
                let path = entry.unwrap().path();
                fed.push(classify::prepared(&session, &path).unwrap());
            }
        }
        // Images of folders are kept in an order of their own.
        let mut measured: Vec<Vec<u8>> = (0..data.test.len())
            .map(|i| data.test.image(i).to_vec())
            .collect();
        fed.sort();
        measured.sort();
        assert_eq!((fed.len(), measured.len()), (28, 28));
        assert!(fed == measured, "at {side} pixels");
        measured.dedup();
        assert!(measured.len() > 20, "the files differ");
    }
}
