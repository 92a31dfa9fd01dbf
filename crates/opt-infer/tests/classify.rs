//! The example program: a file and a PNG in, classes out; errors that say what is wrong.

#![expect(clippy::unwrap_used, reason = "a test, also in its workers")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageFormat, Rgb, RgbImage};
use ndarray::ArrayD;
use opt_core::qmodel::{Activation, QModel, QNode, QOp, QWeight};
use opt_core::{InputSpec, Params};

/// Built now, since `cargo test --test classify` alone leaves examples as they are; where cargo puts it: beside the folder of
/// the tests.
fn example() -> PathBuf {
    let build = [
        "build",
        "--quiet",
        "--package",
        "opt-infer",
        "--example",
        "classify",
    ];
    assert!(
        Command::new(env!("CARGO"))
            .args(build)
            .status()
            .unwrap()
            .success()
    );
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    folder
        .join("examples/classify")
        .with_extension(std::env::consts::EXE_EXTENSION)
}

fn run(example: &Path, net: &Path, image: &Path) -> Output {
    Command::new(example).args([net, image]).output().unwrap()
}

/// Which of red, green and blue a 2×2 image has most of.
fn net() -> QModel {
    let bytes = Activation::new(1.0, 0);
    let image = Some(Activation {
        zero_points: vec![0; 3],
        ..bytes.clone()
    });
    let mean = Some(bytes);
    let identity = |shape: &[usize], scales: Vec<f32>| QWeight {
        codes: ArrayD::from_shape_vec(shape, vec![1, 0, 0, 0, 1, 0, 0, 0, 1]).unwrap(),
        scales,
        bits: 8,
    };
    let node = |name: &str, op, inputs: &[usize], activation| QNode {
        name: name.to_owned(),
        op,
        inputs: inputs.to_vec(),
        activation,
    };
    let conv = QOp::Conv {
        weight: identity(&[3, 3, 1, 1], vec![1.0; 3]),
        bias: vec![0; 3],
        window: opt_core::op::Window::square(1, 1, 0),
        group: 1,
    };
    let logits = QOp::Logits {
        weight: identity(&[3, 3], vec![1.0; 3]),
        bias: vec![0; 3],
    };
    QModel {
        nodes: vec![
            node("image", QOp::Input, &[], image),
            node("conv", conv, &[0], mean.clone()),
            node("mean", QOp::GlobalAveragePool, &[1], mean.clone()),
            node("vector", QOp::Flatten, &[2], mean),
            node("logits", logits, &[3], None),
        ],
        params: Params::new(),
        outputs: vec![opt_core::Output {
            node: 4,
            labels: ["red", "green", "blue"].map(str::to_owned).to_vec(),
        }],
        input: InputSpec {
            shape: [3, 2, 2],
            mean: vec![0.0; 3],
            std: vec![1.0; 3],
            preparation: opt_core::Preparation::usual([3, 2, 2]),
        },
    }
}

#[test]
fn a_png_is_classified() {
    let example = example();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let bytes = opt_artifact::write_qmodel(&net(), &Default::default()).unwrap();
    opt_artifact::save(&path("net.opt"), &bytes).unwrap();
    for (color, label) in [
        ([200, 10, 0], "red"),
        ([0, 99, 90], "green"),
        ([1, 2, 3], "blue"),
    ] {
        // Wider than the network's square: cut and made smaller.
        RgbImage::from_pixel(9, 5, Rgb(color))
            .save(path("image.png"))
            .unwrap();
        let output = run(&example, &path("net.opt"), &path("image.png"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(" %  "), "{text}");
        let first = text.lines().next().unwrap();
        assert!(first.ends_with(label), "{color:?}: {text}");
    }
    // What is no network, and what is no image.
    std::fs::write(path("text"), "no").unwrap();
    for (net, image, expected) in [
        ("text", "image.png", "text: not a safetensors container"),
        ("nowhere", "image.png", "cannot read"),
        ("net.opt", "nowhere.png", "could not read"),
        ("net.opt", "text", "text: not a readable image"),
    ] {
        let output = run(&example, &path(net), &path(image));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && text.contains(expected),
            "{net}, {image}: {text}"
        );
    }
    let usage = Command::new(&example).output().unwrap();
    assert!(
        String::from_utf8(usage.stderr)
            .unwrap()
            .starts_with("usage")
    );
}

/// Which corner of a grey image is the brightest, of `side`×`side` pixels.
fn corners(side: usize) -> QModel {
    let bytes = || Some(Activation::new(1.0, 0));
    let places = [0, side - 1, (side - 1) * side, side * side - 1];
    let mut codes = ArrayD::zeros(vec![4, side * side]);
    for (class, place) in places.into_iter().enumerate() {
        codes[[class, place]] = 1;
    }
    let weight = QWeight {
        codes,
        scales: vec![1.0; 4],
        bits: 8,
    };
    let node = |name: &str, op, inputs: &[usize], activation| QNode {
        name: name.to_owned(),
        op,
        inputs: inputs.to_vec(),
        activation,
    };
    let bias = vec![0; 4];
    let shape = [1, side, side];
    QModel {
        nodes: vec![
            node("image", QOp::Input, &[], bytes()),
            node("vector", QOp::Flatten, &[0], bytes()),
            node("logits", QOp::Logits { weight, bias }, &[1], None),
        ],
        params: Params::new(),
        outputs: vec![opt_core::Output {
            node: 2,
            labels: ["top left", "top right", "bottom left", "bottom right"]
                .map(str::to_owned)
                .to_vec(),
        }],
        input: InputSpec {
            shape,
            mean: vec![0.0],
            std: vec![1.0],
            preparation: opt_core::Preparation::usual(shape),
        },
    }
}

#[test]
fn the_network_says_how_an_image_is_prepared() {
    let example = example();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let save = |name: &str, net: &QModel| {
        let bytes = opt_artifact::write_qmodel(net, &Default::default()).unwrap();
        opt_artifact::save(&path(name), &bytes).unwrap();
    };
    let answer = |net: &str, image: &str| {
        let output = run(&example, &path(net), &path(image));
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        text.lines().next().unwrap().trim().to_owned()
    };
    // A telephone held upright: the bright corner is stored top left and seen top right.
    let mut net = corners(2);
    save("upright.opt", &net);
    net.input.preparation.orientation = opt_core::Orientation::Stored;
    save("stored.opt", &net);
    let mut jpeg = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 100);
    // Little endian, one entry: tag 0x0112, a short, one of them, 6: turn a quarter to the right.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    encoder.set_exif_metadata(exif.to_vec()).unwrap();
    let pixels: Vec<u8> = (0..256)
        .map(|i| if i % 16 < 8 && i < 128 { 250 } else { 5 })
        .collect();
    encoder
        .write_image(&pixels, 16, 16, ExtendedColorType::L8)
        .unwrap();
    // By content, whatever it is called.
    std::fs::write(path("turned.png"), &jpeg).unwrap();
    assert!(answer("upright.opt", "turned.png").ends_with("top right"));
    assert!(answer("stored.opt", "turned.png").ends_with("top left"));
    // Half of it is nothing.
    std::fs::write(path("half.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    assert!(answer("upright.opt", "half.jpg").contains("break off"));
    // A large network loses the border, 9 of 146 pixels on each side: of this image the white frame, and what is left is
    // brightest at the bottom right.
    save("large.opt", &corners(128));
    let image = image::GrayImage::from_fn(146, 146, |x, y| {
        let frame = x.min(y) < 5;
        [if frame {
            255
        } else {
            u8::try_from((x + y) / 3).unwrap()
        }]
        .into()
    });
    image
        .save_with_format(path("frame"), ImageFormat::Png)
        .unwrap();
    assert!(answer("large.opt", "frame").ends_with("bottom right"));
}
