//! Networks that nobody would train, but which `QModel::validate` takes: whatever reads whatever, with windows, strides and
//! pads of any size.

use opt_core::interpret_quantized::run as interpret;
use opt_core::op::Window;
use opt_core::qmodel::{QModel, QOp};
use opt_infer::{Options, Session, Sharing};

use crate::net::{Net, Values, padded};
use crate::{available, bits, compare, options};

/// Elements of a value, so that debug builds take no minutes.
const LARGEST: usize = 6_000;

/// Appends a random operator to the network, unless it does not fit what it drew; the sources may be any earlier values.
fn grow(net: &mut Net) {
    let id = net.below(net.shapes.len());
    let (shape, y) = (net.shapes[id].clone(), net.meaning(id));
    let per_channel = y.zero_points.len() > 1;
    let op = net.below(10);
    if per_channel && op > 1 {
        return;
    }
    match (op, shape.as_slice()) {
        (0..=2, &[c, h, w]) => {
            let window = window(net, 4, 5);
            let group = [1, 1, c, 2][net.below(4)];
            let out = group * (1 + net.below([40, 6][usize::from(group > 1)]));
            let Some([oh, ow]) = window.output([h, w]) else {
                return;
            };
            if out * oh * ow > LARGEST || c % group != 0 {
                return;
            }
            let same: Vec<usize> = (0..net.shapes.len())
                .filter(|i| net.shapes[*i] == [out, oh, ow])
                .filter(|i| net.one_zero(*i))
                .collect();
            let residual = (!same.is_empty()).then(|| same[net.below(same.len())]);
            let relu = net.below(2) == 0;
            net.conv(id, out, window, group, residual, relu);
        }
        (3, _) => {
            let same: Vec<usize> = (0..net.shapes.len())
                .filter(|i| net.shapes[*i] == shape && net.one_zero(*i))
                .collect();
            let other = same[net.below(same.len())];
            net.add(id, other);
        }
        (4, &[_, h, w]) => {
            let mut window = window(net, 4, 4);
            for i in 0..4 {
                window.pads[i] = window.pads[i].min(window.kernel[i % 2] - 1);
            }
            if window.output([h, w]).is_some() {
                let op = [QOp::MaxPool as fn(Window) -> QOp, QOp::AveragePool][net.below(2)];
                net.pool(id, op, window);
            }
        }
        (5, &[c, ..]) if shape.len() == 3 => {
            let mean = net.activation(id, 1);
            net.push(QOp::GlobalAveragePool, &[id], Some(mean), vec![c, 1, 1]);
        }
        (6, _) => {
            net.flatten(id);
        }
        (7, _) => {
            let start: Vec<usize> = shape.iter().map(|n| net.below(*n)).collect();
            let end: Vec<usize> = (start.iter().zip(&shape))
                .map(|(s, n)| s + 1 + net.below(n - s))
                .collect();
            let step: Vec<usize> = (0..shape.len())
                .map(|_| [1, 1, 2, 3, usize::MAX][net.below(5)])
                .collect();
            let shape = (0..shape.len())
                .map(|i| (end[i] - start[i]).div_ceil(step[i]))
                .collect();
            net.push(QOp::Slice { start, end, step }, &[id], Some(y), shape);
        }
        (8, _) => {
            let begin: Vec<usize> = shape.iter().map(|_| net.below(4)).collect();
            let end: Vec<usize> = shape.iter().map(|_| net.below(18)).collect();
            let shape: Vec<usize> = (0..shape.len())
                .map(|i| begin[i] + shape[i] + end[i])
                .collect();
            if shape.iter().product::<usize>() <= LARGEST {
                net.push(QOp::Pad { begin, end }, &[id], Some(padded(y)), shape);
            }
        }
        (9, [features]) if *features > 0 => {
            let out = 1 + net.below(40);
            net.gemm(id, out);
        }
        _ => {
            let (lo, hi) = (y.lo.max(3).min(y.hi), y.hi.min(199).max(y.lo));
            net.push(QOp::Clamp, &[id], Some(y.within(lo, hi)), shape);
        }
    }
}

fn window(net: &mut Net, kernel: usize, pad: usize) -> Window {
    let pads = [0, 1, 2, pad, 40];
    Window {
        kernel: [1 + net.below(kernel), 1 + net.below(kernel)],
        stride: [0, 1].map(|_| [1, 1, 2, 3, 60][net.below(5)]),
        pads: [0, 1, 2, 3].map(|_| pads[net.below(5) * net.below(2)]),
    }
}

/// A vector for the logits from any value that is not per channel.
fn end(mut net: Net) -> Net {
    let any: Vec<usize> = (0..net.shapes.len()).filter(|i| net.one_zero(*i)).collect();
    let Some(last) = any.last().copied() else {
        let conv = net.conv(0, 3, Window::square(1, 1, 0), 1, None, false);
        let flat = net.flatten(conv);
        return net.logits(flat);
    };
    let id = [last, any[net.below(any.len())]][net.below(2)];
    let x = match net.shapes[id].len() {
        1 if net.below(2) == 0 => id,
        _ => net.flatten(id),
    };
    net.logits(x)
}

#[test]
fn networks_of_anything() {
    for seed in 0..400 {
        let mut net = Net::new([1, 1, 1], Values::Random, seed);
        let shape = [
            [1, 2, 3, 4, 5, 16, 20][net.below(7)],
            1 + net.below(9),
            1 + net.below(9),
        ];
        let mut net = Net::new(shape, Values::Random, seed ^ 0x5555);
        if net.below(2) == 0 {
            net.model.nodes[0]
                .activation
                .as_mut()
                .unwrap()
                .zero_points
                .truncate(1);
        }
        net.plain = net.below(3) == 0;
        for _ in 0..2 + net.below(20) {
            grow(&mut net);
        }
        let mut net = end(net);
        let image = net.image();
        let what = format!("seed {seed}");
        compare(&what, &net.model, &image);
        by_rows(&what, &net.model, &image);
    }
}

/// One image on three threads.
fn by_rows(what: &str, model: &QModel, image: &[u8]) {
    let expected = interpret(model, image).unwrap().outputs;
    for kernels in available() {
        let options = Options {
            threads: 3,
            sharing: Sharing::Always,
            ..options(kernels)
        };
        let mut session = Session::new(model, &options).unwrap();
        for _ in 0..2 {
            let found = session.run(image).unwrap();
            assert_eq!(bits(found), bits(&expected), "{what}: {kernels}, threads");
        }
    }
}
