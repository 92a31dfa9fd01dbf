//! Helpers that stop or break in the middle of their work.

use std::sync::atomic::{AtomicU8, Ordering};

use ndarray::ArrayD;
use opt_core::op::Window;
use opt_core::qmodel::{Activation, QModel, QNode, QOp, QWeight};
use opt_core::{InputSpec, Output, Params};

use super::*;
use crate::Kernels;

/// What workers meet in the middle of their work.
#[derive(Debug, Default)]
pub(super) struct Trouble(AtomicU8);

const NONE: u8 = 0;
const STALL: u8 = 1;
const PANIC: u8 = 2;

impl Trouble {
    pub(super) fn meet(&self) {
        while self.0.load(Ordering::Acquire) == STALL {
            std::thread::yield_now();
        }
        assert_ne!(self.0.load(Ordering::Acquire), PANIC, "on purpose");
    }

    fn set(&self, trouble: u8) {
        self.0.store(trouble, Ordering::Release);
    }
}

/// A convolution of 3 channels to 16 on 8 × 8 pixels, a mean and three logits.
fn model() -> QModel {
    let weight = |shape: &[usize]| QWeight {
        codes: ArrayD::from_shape_fn(shape, |at| {
            let at: usize = (0..shape.len()).map(|i| at[i] * (7 + i)).sum();
            i8::try_from(at % 19).unwrap() - 9
        }),
        scales: vec![0.1; shape[0]],
        bits: 8,
    };
    let node = |op: QOp, inputs: &[usize], scale: Option<f32>| QNode {
        name: format!("{} {inputs:?}", op.name()),
        op,
        inputs: inputs.to_vec(),
        activation: scale.map(|scale| Activation::new(scale, 3)),
    };
    let conv = QOp::Conv {
        weight: weight(&[16, 3, 3, 3]),
        bias: (0..16).collect(),
        window: Window::square(3, 1, 1),
        group: 1,
    };
    let logits = QOp::Logits {
        weight: weight(&[3, 16]),
        bias: vec![1, 2, 3],
    };
    QModel {
        nodes: vec![
            node(QOp::Input, &[], Some(1.0)),
            node(conv, &[0], Some(2.0)),
            node(QOp::GlobalAveragePool, &[1], Some(1.0)),
            node(QOp::Flatten, &[2], Some(1.0)),
            node(logits, &[3], None),
        ],
        params: Params::new(),
        outputs: vec![Output {
            node: 4,
            labels: ["a", "b", "c"].map(str::to_owned).to_vec(),
        }],
        input: InputSpec {
            shape: [3, 8, 8],
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
            preparation: opt_core::Preparation::usual([3, 8, 8]),
        },
    }
}

/// A thread pool whose caller gives work to all workers and waits two milliseconds for it.
fn thread_pool(threads: usize) -> (ThreadPool, Plan) {
    let options = Options {
        threads,
        order: ImageOrder::Chw,
        sharing: Sharing::Always,
        ..Options::default()
    };
    let model = model();
    let shapes = model.validate().unwrap();
    let plan = Plan::new(&model, &shapes, Kernels::best(), &options).unwrap();
    let mut thread_pool = ThreadPool::new(plan.clone(), &options).unwrap();
    thread_pool.timeout = Some(Duration::from_millis(2));
    (thread_pool, plan)
}

/// Runs so many images and compares with the interpreter.
fn run(thread_pool: &mut ThreadPool, count: usize) {
    let model = model();
    let byte = |i: usize| u8::try_from(i * 37 % 251).unwrap();
    let images: Vec<u8> = (0..count * 192).map(byte).collect();
    let mut logits = vec![f32::NAN; count * 3];
    thread_pool.run(&images, &mut logits);
    for (image, found) in images.chunks(192).zip(logits.chunks(3)) {
        let expected = opt_core::interpret_quantized::run(&model, image).unwrap();
        assert_eq!(found, expected.outputs);
    }
}

fn is_any_busy(thread_pool: &ThreadPool) -> bool {
    let mut each = thread_pool.workers.iter().zip(&thread_pool.shared.desks);
    each.any(|(worker, desk)| worker.is_busy(desk))
}

/// Runs until a worker has taken something and is stuck in it.
fn run_until_stuck(thread_pool: &mut ThreadPool, count: usize) {
    for _ in 0..1_000 {
        run(thread_pool, count);
        if is_any_busy(thread_pool) {
            return;
        }
    }
    panic!("no worker took anything");
}

#[test]
fn a_helper_that_stands_still_holds_nobody_up() {
    for threads in [2, 3] {
        let (mut thread_pool, _) = thread_pool(threads);
        for count in [1, 40] {
            thread_pool.shared.trouble.set(STALL);
            run_until_stuck(&mut thread_pool, count);
            // The caller returned with the right logits, and does so again: alone, and with those who still work.
            for count in [1, 2, 40, 1] {
                run(&mut thread_pool, count);
            }
            assert!(is_any_busy(&thread_pool));
            thread_pool.shared.trouble.set(NONE);
            while is_any_busy(&thread_pool) {
                std::thread::yield_now();
            }
            // Now everybody works again.
            thread_pool.timeout = Some(Duration::MAX);
            run(&mut thread_pool, 1);
            assert_eq!(thread_pool.last, ROWS);
            run(&mut thread_pool, 40);
            thread_pool.timeout = Some(Duration::from_millis(2));
        }
    }
}

#[test]
fn a_crew_ends_while_a_helper_stands_still() {
    let (mut thread_pool, _) = thread_pool(2);
    thread_pool.shared.trouble.set(STALL);
    run_until_stuck(&mut thread_pool, 1);
    let shared = Arc::clone(&thread_pool.shared);
    let ends = std::thread::spawn(move || drop(thread_pool));
    shared.trouble.set(NONE);
    ends.join().unwrap();
}

#[test]
fn a_helper_that_panics_leaves_its_work_to_the_caller() {
    for count in [1, 40] {
        let (mut thread_pool, _) = thread_pool(3);
        thread_pool.timeout = Some(Duration::MAX);
        thread_pool.shared.trouble.set(PANIC);
        let all_gone = |thread_pool: &ThreadPool| {
            let mut desks = thread_pool.shared.desks.iter();
            desks.all(|desk| desk.answers.gone.load(Ordering::Acquire))
        };
        for _ in 0..1_000 {
            run(&mut thread_pool, count);
            if all_gone(&thread_pool) {
                break;
            }
        }
        assert!(all_gone(&thread_pool));
        for count in [1, 40] {
            run(&mut thread_pool, count);
        }
    }
}

#[test]
fn a_panic_of_everybody_reaches_the_caller() {
    for count in [1, 40] {
        let (_, mut plan) = thread_pool(2);
        let conv = plan.steps.iter_mut().find_map(|step| match &mut step.work {
            Work::Conv(conv) => Some(conv),
            _ => None,
        });
        // A convolution that reads behind its source: a defect of the planner would look like this.
        conv.unwrap().origin = usize::MAX / 2;
        let options = Options {
            threads: 2,
            sharing: Sharing::Always,
            ..Options::default()
        };
        let mut thread_pool = ThreadPool::new(plan, &options).unwrap();
        let images = vec![0; count * 192];
        let mut logits = vec![0.0; count * 3];
        for _ in 0..3 {
            let run = AssertUnwindSafe(|| thread_pool.run(&images, &mut logits));
            assert!(catch_unwind(run).is_err());
        }
    }
}
