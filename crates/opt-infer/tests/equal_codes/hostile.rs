//! Networks that pass `QModel::validate` and ask for more than a machine has.

use opt_core::op::Window;
use opt_core::qmodel::QOp;
use opt_infer::{InferError, Options, Session};

use crate::net::{Net, Values};
use crate::{available, compare, options};

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
        .edge
        .as_mut()
        .unwrap()
        .zero_points
        .truncate(1);
    net.model.nodes[b].edge = net.model.nodes[0].edge.clone();
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
            self.0.run(&self.1).unwrap();
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
