//! Networks that pass `QModel::validate` and ask for more than a machine has.

use ndarray::{ArrayD, IxDyn};
use opt_core::Output;
use opt_core::interpret_quantized::run as interpret;
use opt_core::op::Window;
use opt_core::qmodel::{QOp, QWeight};
use opt_infer::{InferError, Kernels, Limits, Options, Session, Sharing};

use crate::net::{Net, Values};
use crate::{available, bits, compare, options};

#[test]
fn borders_that_no_memory_holds_are_refused() {
    // One pixel of 64 channels, around which a file of a few hundred bytes asks for 4,096 on each side: 4 GiB of border.
    let mut net = Net::new([64, 1, 1], Values::Random, 1);
    let window = Window {
        kernel: [1, 1],
        stride: [1 << 20, 1 << 20],
        pads: [4096; 4],
    };
    let a = net.conv(0, 3, window, 1, None, false);
    let net = net.close(a);
    for kernels in available() {
        let error = Session::new(&net.model, &options(kernels)).unwrap_err();
        assert!(matches!(error, InferError::Memory { .. }), "{error}");
        assert!(error.to_string().contains("MiB, more than"), "{error}");
    }
}

/// A pixel with a border of so many on each side: a small file that asks for much.
fn bordered(pads: usize) -> Net {
    let mut net = Net::new([64, 1, 1], Values::Random, 1);
    let window = Window {
        kernel: [1, 1],
        stride: [1 << 20, 1 << 20],
        pads: [pads; 4],
    };
    let a = net.conv(0, 3, window, 1, None, false);
    net.close(a)
}

#[test]
fn the_limit_on_bytes_is_for_all_threads_together() {
    // 2,001 × 2,001 × 64 bytes: 245 MiB for one thread, 4 GiB for sixteen.
    let net = bordered(1000);
    let many = Options {
        threads: 16,
        ..Options::default()
    };
    let error = Session::new(&net.model, &many).unwrap_err().to_string();
    for part in [
        "values for 16 threads",
        "need 3911 MiB",
        "the limit of 1024 MiB",
        "raise `Options::limits.bytes`",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    // 21 × 21 × 64 bytes and the other values for each thread, and the weights once.
    let net = bordered(10);
    let mut fewest = Vec::new();
    for threads in [1, 2, 3] {
        let takes = |bytes: &usize| {
            let limits = Limits {
                bytes: *bytes,
                ..Limits::default()
            };
            let options = Options {
                threads,
                limits,
                ..Options::default()
            };
            Session::new(&net.model, &options).is_ok()
        };
        fewest.push((0..200_000).step_by(64).find(takes).unwrap());
    }
    assert!(fewest[0] > 21 * 21 * 64, "{fewest:?}");
    assert_eq!(fewest[1] - fewest[0], fewest[2] - fewest[1], "{fewest:?}");
    assert!(fewest[1] - fewest[0] > 21 * 21 * 64, "{fewest:?}");
}

#[test]
fn work_that_takes_days_is_refused() {
    // One of many results, so that the mean and the logits are small.
    let close = |mut net: Net, a: usize| {
        let op = QOp::Slice {
            start: vec![0; 3],
            end: vec![1; 3],
            step: vec![1; 3],
        };
        let y = net.meaning(a);
        let a = net.push(op, &[a], Some(y), vec![1; 3]);
        net.close(a)
    };
    let pool = |side: usize, kernel: usize, op: fn(Window) -> QOp| {
        let mut net = Net::new([1, side, side], Values::Random, 1);
        let a = net.pool(0, op, Window::square(kernel, 1, 0));
        close(net, a)
    };
    let conv = {
        let mut net = Net::new([1, 4096, 4096], Values::Random, 1);
        let a = net.conv(0, 1, Window::square(256, 1, 0), 1, None, false);
        close(net, a)
    };
    let nets = [
        pool(8191, 4096, QOp::MaxPool),
        pool(4096, 255, QOp::AveragePool),
        conv,
    ];
    for (net, billions) in nets.iter().zip(["281475", "959", "61879"]) {
        let error = Session::new(&net.model, &Options::default()).unwrap_err();
        assert!(matches!(error, InferError::Work { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(billions), "{error}");
        assert!(error.contains("`Options::limits.operations`"), "{error}");
    }
    let mut net = Net::new([3, 4, 5], Values::Random, 2);
    let a = net.conv(0, 17, Window::square(3, 1, 1), 1, None, false);
    let net = net.close(a);
    for (operations, fits) in [(10, false), (100_000, true)] {
        let limits = Limits {
            operations,
            ..Limits::default()
        };
        let options = Options {
            limits,
            ..Options::default()
        };
        assert_eq!(Session::new(&net.model, &options).is_ok(), fits);
    }
}

#[test]
fn logits_that_are_not_the_last_do_no_harm() {
    let mut net = Net::new([3, 4, 5], Values::Random, 2);
    let image = net.image();
    let a = net.conv(0, 9, Window::square(3, 1, 1), 1, None, false);
    let mean = net.activation(a, 1);
    let mean = net.push(QOp::GlobalAveragePool, &[a], Some(mean), vec![9, 1, 1]);
    let vector = net.flatten(mean);
    // Seven numbers that nothing reads and that are no output.
    let weight = QWeight {
        codes: ArrayD::from_elem(IxDyn(&[40, 9]), 3),
        scales: vec![0.1; 40],
        bits: 8,
    };
    let bias = vec![1; 40];
    net.push(QOp::Logits { weight, bias }, &[vector], None, vec![40]);
    let mut unread = net.logits(vector).model;
    let mut without = unread.clone();
    without.nodes.remove(4);
    without.outputs[0].node = 4;
    let expected = interpret(&without, &image).unwrap().outputs;
    for threads in [1, 2] {
        let options = Options {
            threads,
            sharing: Sharing::Always,
            ..options(Kernels::best())
        };
        let mut session = Session::new(&unread, &options).unwrap();
        // What nothing is computed from is not computed.
        assert_eq!(session.steps().len(), 4);
        assert_eq!(bits(session.run(&image).unwrap()), bits(&expected));
        // As an output they come where they stand.
        unread.outputs.insert(0, Output::of(4));
        let mut session = Session::new(&unread, &options).unwrap();
        let both = session.run(&image).unwrap();
        assert_eq!(bits(&both[40..]), bits(&expected));
        assert_eq!(
            bits(both),
            bits(&interpret(&unread, &image).unwrap().outputs)
        );
        unread.outputs.remove(0);
    }
}

#[test]
fn a_chain_of_flattens_is_planned_in_no_time() {
    let mut net = Net::new([3, 4, 5], Values::Random, 2);
    let image = net.image();
    let mut a = net.conv(0, 9, Window::square(3, 1, 1), 1, None, false);
    for _ in 0..20_000 {
        a = net.flatten(a);
    }
    let net = net.logits(a);
    let expected = interpret(&net.model, &image).unwrap().outputs;
    let mut session = Session::new(&net.model, &options(Kernels::best())).unwrap();
    assert_eq!(bits(session.run(&image).unwrap()), bits(&expected));
}

#[test]
fn strides_beyond_every_image_read_its_first_pixel() {
    let mut net = Net::new([3, 4, 5], Values::Random, 2);
    let image = net.image();
    let window = Window {
        stride: [usize::MAX; 2],
        ..Window::square(3, 1, 1)
    };
    let a = net.conv(0, 17, window, 1, None, false);
    let b = net.pool(0, QOp::MaxPool, Window::square(1, 1, 0));
    net.model.nodes[0]
        .activation
        .as_mut()
        .unwrap()
        .zero_points
        .truncate(1);
    net.model.nodes[b].activation = net.model.nodes[0].activation.clone();
    let pooled = Window {
        pads: [0; 4],
        ..window
    };
    net.pool(b, QOp::MaxPool, pooled);
    let net = net.close(a);
    compare("strides", &net.model, &image);
}

#[test]
fn a_destructor_may_run_a_session_while_its_thread_unwinds() {
    struct RunsWhenDropped(Session, Vec<u8>);
    impl Drop for RunsWhenDropped {
        fn drop(&mut self) {
            self.0.run_batch(&self.1, 2).unwrap();
        }
    }
    let mut net = Net::new([3, 4, 5], Values::Random, 2);
    let image = net.image();
    let a = net.conv(0, 17, Window::square(3, 1, 1), 1, None, false);
    let net = net.close(a);
    for threads in [1, 2] {
        let options = Options {
            threads,
            ..Options::default()
        };
        let session = Session::new(&net.model, &options).unwrap();
        let held = RunsWhenDropped(session, [image.clone(), image.clone()].concat());
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = held;
            panic!("on purpose");
        }));
        assert!(unwound.is_err());
    }
}
