//! Every set of kernels that this CPU can run, against the interpreter: every code of every value, and every logit's bits.

#![expect(clippy::unwrap_used, reason = "a test, also in its workers")]

mod any_network;
mod hostile;
mod mixed;
mod net;

use net::{Net, Values, padded};
use opt_core::interpret_quantized::{Trace, run as interpret};
use opt_core::op::Window;
use opt_core::qmodel::{QModel, QOp};
use opt_infer::{ImageOrder, Kernels, Options, Session, Sharing, self_test};
use proptest::prelude::*;

/// The sets to test; says which cannot run here.
fn available() -> Vec<Kernels> {
    let (can, cannot): (Vec<_>, Vec<_>) = Kernels::ALL.into_iter().partition(|k| k.available());
    for kernels in cannot {
        eprintln!("this CPU cannot run the kernels `{kernels}`: not tested");
    }
    can
}

fn options(kernels: Kernels) -> Options {
    Options {
        kernels: Some(kernels),
        order: ImageOrder::Chw,
        ..Options::default()
    }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|l| l.to_bits()).collect()
}

fn compare(what: &str, model: &QModel, image: &[u8]) -> Trace {
    let expected = interpret(model, image).unwrap();
    for kernels in available() {
        let mut session = Session::new(
            model,
            &Options {
                keep_codes: true,
                ..options(kernels)
            },
        )
        .unwrap();
        let logits = session.run(image).unwrap().to_vec();
        for (id, node) in model.nodes.iter().enumerate() {
            let found = session.codes(id).unwrap_or_default();
            let expected = expected.values[id].codes();
            let first = found.iter().zip(expected).position(|(a, b)| a != b);
            assert!(
                found == expected,
                "{what}: {kernels} differs at `{}`, first at {first:?}: {:?} for {:?}",
                node.name,
                first.map(|i| found[i]),
                first.map(|i| expected[i]),
            );
        }
        assert_eq!(bits(&logits), bits(&expected.outputs), "{what}: {kernels}");
        // The same with places used again.
        let mut session = Session::new(model, &options(kernels)).unwrap();
        let again = session.run(image).unwrap();
        assert_eq!(bits(again), bits(&expected.outputs), "{what}: {kernels}");
    }
    expected
}

/// One convolution with a residual and the image as its input; the image's channels have zero points of their own.
fn compare_conv(shape: [usize; 3], out: usize, window: Window, values: Values, seed: u64) {
    let mut net = Net::new(shape, values, seed);
    let image = net.image();
    let plain = net.conv(0, out, window, 1, None, seed.is_multiple_of(2));
    let added = net.conv(0, out, window, 1, Some(plain), seed.is_multiple_of(3));
    // Reads what a kernel wrote, with a zero point in the border.
    let last = net.conv(added, out, Window::square(3, 1, 1), 1, Some(plain), false);
    let net = net.close(last);
    let what = format!("{shape:?} to {out} by {window:?}, {values:?}, seed {seed}");
    compare(&what, &net.model, &image);
}

#[test]
fn convolutions_of_odd_shapes() {
    let channels = [1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 48, 64, 67];
    let mut seed = 0;
    for width in 1..=17 {
        for (kernel, stride, pad) in [
            (3, 1, 1),
            (3, 2, 1),
            (3, 1, 0),
            (1, 1, 0),
            (1, 2, 0),
            (3, 2, 0),
        ] {
            let height = 1 + (width * 5 + stride) % 6;
            let window = Window::square(kernel, stride, pad);
            if window.output([height, width]).is_none() {
                continue;
            }
            seed += 1;
            let pick = |i: usize| channels[(seed * 7 + i * 4) % channels.len()];
            let values = [Values::Random, Values::High, Values::Low, Values::Dark][seed % 4];
            compare_conv(
                [pick(0), height, width],
                pick(1),
                window,
                values,
                seed as u64,
            );
        }
    }
}

/// Every number of channels from 1 to 67, in and out.
#[test]
fn every_number_of_channels() {
    for channels in 1..=67 {
        let shape = [channels, 3, 5];
        let window = Window::square(3, 1 + channels % 2, 1);
        compare_conv(
            shape,
            68 - channels,
            window,
            Values::Random,
            channels as u64,
        );
    }
}

#[test]
fn windows_that_are_not_square_and_pads_that_are_not_even() {
    let windows = [
        ([1, 3], [1, 1], [0, 1, 0, 1]),
        ([3, 1], [2, 1], [1, 0, 0, 0]),
        ([2, 5], [1, 2], [1, 2, 0, 3]),
        ([5, 4], [3, 2], [2, 3, 4, 1]),
        // Padding that a whole tile lies in.
        ([1, 1], [1, 1], [3, 9, 3, 9]),
    ];
    for (seed, (kernel, stride, pads)) in windows.into_iter().enumerate() {
        let window = Window {
            kernel,
            stride,
            pads,
        };
        for channels in [3, 16, 20] {
            compare_conv([channels, 7, 9], 18, window, Values::Random, seed as u64);
        }
    }
}

#[test]
fn groups_and_depthwise() {
    for (seed, (channels, out, group)) in [
        (4, 4, 2),
        (16, 16, 16),
        (33, 66, 33),
        (64, 32, 2),
        (6, 51, 3),
    ]
    .into_iter()
    .enumerate()
    {
        let mut net = Net::new([channels, 5, 6], Values::Random, seed as u64);
        let image = net.image();
        let window = Window::square(3, 1, 1);
        let a = net.conv(0, out, window, group, None, true);
        let b = net.conv(0, out, window, group, Some(a), false);
        let net = net.close(b);
        compare(&format!("{group} groups"), &net.model, &image);
    }
}

#[test]
fn a_network_of_every_operator() {
    for seed in 0..24_usize {
        let values = [Values::Random, Values::Dark][seed % 2];
        let mut net = Net::new([3, 9 + seed % 8, 11], values, seed as u64);
        let image = net.image();
        let stem = net.conv(0, 12, Window::square(3, 1, 1), 1, None, true);
        let short = net.shortcut(stem, [2, 6]);
        let down = net.conv(stem, 20, Window::square(3, 2, 1), 1, Some(short), true);
        let side = net.conv(stem, 20, Window::square(1, 2, 0), 1, None, false);
        let sum = net.add(down, side);
        let around = QOp::Pad {
            begin: vec![0, 2, 1],
            end: vec![0, 1, 3],
        };
        let &[c, h, w] = &net.shapes[sum][..] else {
            panic!("{:?}", net.shapes[sum]);
        };
        let y = padded(net.meaning(sum));
        let sum = net.push(around, &[sum], Some(y), vec![c, h + 3, w + 4]);
        let (y, shape) = (net.meaning(sum).within(9, 201), net.shapes[sum].clone());
        let sum = net.push(QOp::Clamp, &[sum], Some(y), shape);
        let wide = Window {
            kernel: [3, 2],
            stride: [2, 1],
            pads: [1, 0, 1, 1],
        };
        let largest = net.pool(sum, QOp::MaxPool, wide);
        let mean = net.pool(largest, QOp::AveragePool, wide);
        let back = net.conv(mean, 33, Window::square(1, 1, 0), 1, None, true);
        let flat = net.flatten(back);
        // A vector that a slice reads must lie in order; one that only matrices read may stay where it is.
        let (y, features) = (net.meaning(flat), net.shapes[flat][0]);
        let x = if seed % 3 == 0 {
            let every = QOp::Slice {
                start: vec![1],
                end: vec![features],
                step: vec![3],
            };
            let sliced = net.push(
                every,
                &[flat],
                Some(y.clone()),
                vec![(features - 1).div_ceil(3)],
            );
            let pad = QOp::Pad {
                begin: vec![2],
                end: vec![1],
            };
            let n = net.shapes[sliced][0] + 3;
            net.push(pad, &[sliced], Some(padded(y)), vec![n])
        } else {
            flat
        };
        let x = net.gemm(x, 37);
        let x = net.gemm(x, 18);
        let net = net.logits(x);
        compare(&format!("seed {seed}"), &net.model, &image);
    }
}

#[test]
fn values_of_one_shape_take_the_place_of_dead_ones_alone() {
    for seed in 0..4 {
        let mut net = Net::new([3, 6, 8], Values::Random, seed);
        net.plain = true;
        let image = net.image();
        let window = Window::square(3, 1, 1);
        let first = net.conv(0, 16, window, 1, None, true);
        let mut x = first;
        let mut vectors = Vec::new();
        for _ in 0..4 {
            x = net.conv(x, 16, window, 1, None, true);
            // A vector that is read only after the next ones were computed, through a Flatten.
            let mean = net.pool(x, |_| QOp::GlobalAveragePool, Window::square(1, 1, 0));
            net.shapes[mean] = vec![16, 1, 1];
            vectors.push(net.flatten(mean));
        }
        // The first value is read last.
        x = net.conv(x, 16, window, 1, Some(first), true);
        let mean = net.pool(x, |_| QOp::GlobalAveragePool, Window::square(1, 1, 0));
        net.shapes[mean] = vec![16, 1, 1];
        let mut sum = net.flatten(mean);
        for vector in vectors {
            let dense = net.gemm(vector, 16);
            sum = net.add(sum, dense);
        }
        let net = net.logits(sum);
        compare(&format!("seed {seed}"), &net.model, &image);
    }
}

#[test]
fn the_largest_multipliers_are_computed_alike() {
    let mut net = Net::new([4, 3, 3], Values::Random, 5);
    let image = net.image();
    let a = net.conv(0, 16, Window::square(3, 1, 1), 1, None, false);
    let b = net.conv(a, 16, Window::square(3, 1, 1), 1, Some(a), false);
    let mut net = net.close(b);
    // Sums times these would be infinite, and infinity minus infinity is not a number.
    let scales = |model: &mut QModel, of_a, of_b| {
        for (node, scale) in [(a, of_a), (b, of_b)] {
            model.nodes[node].activation.as_mut().unwrap().scale = scale;
        }
    };
    scales(&mut net.model, 1e30, 1e-7);
    let error = net.model.validate().unwrap_err().to_string();
    assert!(error.contains("times smaller than its input's"), "{error}");
    // Near the largest that are accepted: far beyond every code.
    scales(&mut net.model, 1e20, 1e-6);
    net.model.validate().unwrap();
    let trace = compare("large", &net.model, &image);
    let codes = trace.values[b].codes();
    assert!(codes.iter().any(|q| *q != codes[0]));
}

#[test]
fn threads_and_orders_change_nothing() {
    let mut net = Net::new([3, 14, 10], Values::Random, 3);
    let a = net.conv(0, 20, Window::square(3, 1, 1), 1, None, true);
    let b = net.conv(a, 20, Window::square(3, 1, 1), 1, Some(a), true);
    let images: Vec<Vec<u8>> = (0..7).map(|_| net.image()).collect();
    let net = net.close(b);
    let expected: Vec<f32> = images
        .iter()
        .flat_map(|image| interpret(&net.model, image).unwrap().outputs)
        .collect();
    let hwc = |image: &Vec<u8>| -> Vec<u8> {
        let at = |i: usize| image[i % 3 * 140 + i / 3];
        (0..420).map(at).collect()
    };
    for kernels in available() {
        for (threads, sharing) in [1, 2, 3, 8]
            .into_iter()
            .flat_map(|n| [(n, Sharing::Always), (n, Sharing::Measured)])
        {
            for order in [ImageOrder::Chw, ImageOrder::Hwc] {
                let options = Options {
                    threads,
                    order,
                    sharing,
                    ..options(kernels)
                };
                let mut session = Session::new(&net.model, &options).unwrap();
                // More images than threads, fewer, one, none, and again.
                for count in [7, 2, 1, 0, 1, 7] {
                    let bytes: Vec<u8> = match order {
                        ImageOrder::Hwc => images[..count].iter().flat_map(hwc).collect(),
                        ImageOrder::Chw => images[..count].concat(),
                    };
                    let found = session.run_batch(&bytes, count).unwrap();
                    let what = format!(
                        "{kernels}, {threads} threads, {sharing:?}, {count} images, {order:?}"
                    );
                    assert_eq!(bits(found), bits(&expected[..count * 5]), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_file_checks_the_engine() {
    let mut net = Net::new([3, 6, 5], Values::Random, 8);
    let images = [net.image(), net.image()].concat();
    let a = net.conv(0, 20, Window::square(3, 1, 1), 1, None, true);
    let net = net.close(a);
    let golden = opt_artifact::golden(&net.model, &images).unwrap();
    for kernels in available() {
        assert_eq!(self_test(&net.model, &golden, kernels).unwrap(), 2);
        // One weight of another network.
        let mut other = net.model.clone();
        let QOp::Conv { bias, .. } = &mut other.nodes[a].op else {
            panic!("{:?}", other.nodes[a]);
        };
        bias[7] += 500;
        let message = self_test(&other, &golden, kernels).unwrap_err().to_string();
        assert!(message.contains("image 0"), "{message}");
    }
}

#[test]
fn wrong_arguments_are_told() {
    let mut net = Net::new([3, 4, 4], Values::Random, 0);
    let a = net.conv(0, 4, Window::square(1, 1, 0), 1, None, false);
    let net = net.close(a);
    let mut session = Session::new(&net.model, &Options::default()).unwrap();
    for (bytes, count, message) in [
        (
            47,
            1,
            "an image of 47 values, expected 48: 4 × 4 pixels of 3 channels",
        ),
        // A picture of twice the height and width is four times an image.
        (4 * 48, 1, "several images are for `run_batch`"),
        (0, 1, "an image of 0 values"),
        (48, 2, "images of 48 values, expected 2 times 48"),
        (48, 0, "images of 48 values, expected 0 times 48"),
        (48, usize::MAX, "images of 48 values"),
    ] {
        let images = vec![0; bytes];
        let found = session.run_batch(&images, count).unwrap_err().to_string();
        assert!(found.contains(message), "{found}");
        if count == 1 {
            let found = session.run(&images).unwrap_err().to_string();
            assert!(found.contains(message), "{found}");
        }
    }
    assert_eq!(session.run_batch(&[0; 4 * 48], 4).unwrap().len(), 4 * 5);
    for (bytes, room) in [(48, 4), (4 * 48, 5), (48, 10), (48, 0)] {
        session
            .run_into(&vec![0; bytes], &mut vec![0.0; room])
            .unwrap_err();
    }
    let step = session.run_step(99, &[0; 48], &mut [0.0; 5]).unwrap_err();
    assert_eq!(
        step.to_string(),
        "there is no step 99; there are 4, counted from 0"
    );
    assert_eq!((session.image_shape(), session.codes(0)), ([3, 4, 4], None));
    for threads in [0, 257] {
        let options = Options {
            threads,
            ..Options::default()
        };
        let message = Session::new(&net.model, &options).unwrap_err().to_string();
        assert!(message.contains("expected 1 to 256"), "{message}");
    }
    let mut unsound = net.model.clone();
    unsound.nodes.pop();
    Session::new(&unsound, &Options::default()).unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_convolution(
        channels in 1usize..=67,
        out in 1usize..=67,
        height in 1usize..=9,
        width in 1usize..=33,
        kernel in 1usize..=3,
        stride in 1usize..=2,
        pad in 0usize..=1,
        seed in any::<u64>(),
    ) {
        let window = Window::square(kernel, stride, pad);
        prop_assume!(window.output([height, width]).is_some());
        compare_conv([channels, height, width], out, window, Values::Random, seed);
    }
}
