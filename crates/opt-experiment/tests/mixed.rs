//! A network with `HardSwish` and one layer in f32, from training to files: trained on libtorch, quantized after training and
//! aware of it, written, read, run by every set of kernels.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{ArrayD, IxDyn};
use opt_compress::calibrate;
use opt_core::interpret_quantized::Interpreter;
use opt_core::lower::{Placement, ResidualAdd, fold_batch_norms, lower};
use opt_core::op::{Op, Unary, Window};
use opt_core::{Graph, InputSpec, Model, Output, Preparation, QOp, interpret};
use opt_infer::{Kernels, Options, Session, first_difference, self_test};
use opt_nn::optimizer::OptimizerOptions;
use opt_nn::quantized::{FakeQuant, Simulation};
use opt_nn::schedule::Schedule;
use opt_nn::train::{Constraints, CrossEntropy, NoHooks, TrainOptions, train};
use opt_nn::{Batch, BatchSource, Net, Precision};
use opt_quant::WeightBits;
use tch::Device;

/// Whether the upper or the lower half of a 12×12 picture is the brighter one.
struct Bars;

fn bars(epoch: usize) -> Batch {
    let mut images = Vec::new();
    for n in 0..32usize {
        let shade = u8::try_from((37 * n + 11 * epoch) % 90).unwrap();
        for pixel in 0..144 {
            let bright = (pixel < 72) == (n % 2 == 0);
            let noise = u8::try_from((pixel * 7 + n) % 13).unwrap();
            images.push(shade + noise + if bright { 60 } else { 30 });
        }
    }
    Batch {
        images,
        labels: [0, 1].repeat(16),
        indices: (0..32).collect(),
    }
}

impl BatchSource for Bars {
    fn epoch(&self, epoch: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        Box::new((0..8).map(move |index| bars(8 * epoch + index)))
    }
    fn batches_per_epoch(&self) -> usize {
        8
    }
}

fn model() -> Model {
    let mut graph = Graph::new();
    let mut params = BTreeMap::new();
    let mut param = |name: &str, shape: &[usize], value: &dyn Fn(usize) -> f32| {
        let values = (0..shape.iter().product()).map(value).collect();
        let array = ArrayD::from_shape_vec(IxDyn(shape), values).unwrap();
        params.insert(name.to_owned(), array.into_shared());
    };
    let uneven = |i: usize| ((i * 2_654_435_761) / 64 % 1000) as f32 / 1000.0 - 0.5;
    let mut x = 0;
    for (i, (n_in, n_out)) in [(1, 6), (6, 8), (8, 8)].into_iter().enumerate() {
        let (conv, bn) = (format!("conv{i}"), format!("bn{i}"));
        let spread = 1.7 / (9.0 * n_in as f32).sqrt();
        param(&format!("{conv}.weight"), &[n_out, n_in, 3, 3], &|k| {
            uneven(k + i) * spread
        });
        let op = Op::Conv {
            weight: format!("{conv}.weight"),
            bias: None,
            window: Window::square(3, 1 + usize::from(i > 0), 1),
            group: 1,
        };
        x = graph.push(conv, op, &[x]);
        param(&format!("{bn}.bias"), &[n_out], &|_| 0.0);
        param(&format!("{bn}.running_mean"), &[n_out], &|_| 0.0);
        param(&format!("{bn}.running_var"), &[n_out], &|_| 1.0);
        let op = Op::BatchNormalization {
            scale: None,
            bias: format!("{bn}.bias"),
            mean: format!("{bn}.running_mean"),
            var: format!("{bn}.running_var"),
            epsilon: 1e-5,
            momentum: 0.3,
        };
        x = graph.push(bn, op, &[x]);
        x = graph.push(format!("act{i}"), Op::Unary(Unary::HardSwish), &[x]);
    }
    let flat = graph.push("flat", Op::Flatten, &[x]);
    param("fc.weight", &[2, 72], &|k| uneven(k) * 0.2);
    param("fc.bias", &[2], &|_| 0.0);
    let op = Op::Gemm {
        weight: "fc.weight".to_owned(),
        bias: Some("fc.bias".to_owned()),
    };
    let node = graph.push("fc", op, &[flat]);
    // The features are a result too, without labels.
    let labels = vec!["top".to_owned(), "bottom".to_owned()];
    graph.outputs = vec![Output { node, labels }, Output::of(flat)];
    Model {
        graph,
        params,
        input: InputSpec {
            shape: [1, 12, 12],
            mean: vec![0.4],
            std: vec![0.2],
            preparation: Preparation::usual([1, 12, 12]),
        },
    }
}

fn trained(net: &mut Net, fake_quant: Option<&FakeQuant>, epochs: usize, lr: f64) -> Model {
    let options = TrainOptions {
        epochs,
        lr,
        schedule: Schedule::Constant,
        optimizer: OptimizerOptions::default(),
        precision: Precision::F32,
    };
    let mut loss = CrossEntropy {
        label_smoothing: 0.0,
    };
    let constraints = Constraints {
        fake_quant,
        ..Constraints::default()
    };
    train(net, &Bars, &mut loss, &options, constraints, &mut NoHooks).unwrap();
    net.to_model().unwrap()
}

/// The share of images that are answered rightly.
fn accuracy(answers: impl Iterator<Item = Vec<f32>>, labels: &[i64]) -> f64 {
    let right = answers.zip(labels).filter(|(logits, label)| {
        let best = i64::from(logits[1] > logits[0]);
        best == **label
    });
    right.count() as f64 / labels.len() as f64
}

#[test]
fn hard_swish_and_a_layer_in_f32_from_training_to_files() {
    let model = trained(&mut Net::new(&model(), Device::Cpu).unwrap(), None, 3, 0.05);
    let test = bars(99);
    let images = || test.images.chunks_exact(144);
    let float = |name: &str| BTreeSet::from([name.to_owned()]);
    for float in [BTreeSet::new(), float("conv1"), float("conv0"), float("fc")] {
        let calibrated = calibrate(&model, &float, (0..4).map(|n| bars(n).images)).unwrap();
        let real = images().map(|image| {
            let folded = &calibrated.folded;
            let run = interpret::run(folded, &folded.input.normalize(image)).unwrap();
            run[folded.graph.output()].clone()
        });
        assert_eq!(accuracy(real, &test.labels), 1.0, "it was trained");
        // Aware training goes on from the same ranges.
        let plain = fold_batch_norms(&model).unwrap();
        let bits = WeightBits::hidden(4);
        let spec = calibrated.spec(ResidualAdd::Fused, bits).unwrap();
        let widths = bits.by_name(&plain);
        let placement = Placement {
            adds: ResidualAdd::Fused,
            float: float.clone(),
        };
        let fake = FakeQuant::new(&plain, &placement, &spec.activations, widths).unwrap();
        let aware = trained(
            &mut Net::new(&plain, Device::Cpu).unwrap(),
            Some(&fake),
            1,
            0.002,
        );
        let aware = calibrated.with_weights(&aware).unwrap();
        for (calibrated, bits) in [(&calibrated, 8), (&aware, 4)] {
            let spec = calibrated
                .spec(ResidualAdd::Fused, WeightBits::hidden(bits))
                .unwrap();
            let lowered = lower(&calibrated.folded, &spec).unwrap();
            let of = |name: &str| lowered.nodes.iter().find(|n| n.name == name).unwrap();
            for (conv, act) in [("conv0", "act0"), ("conv1", "act1"), ("conv2", "act2")] {
                match float.contains(conv) {
                    false => assert!(matches!(of(act).op, QOp::Table { .. }), "{float:?}"),
                    true => assert!(matches!(of(act).op, QOp::Float(Op::Unary(_))), "{float:?}"),
                }
            }
            let golden = opt_artifact::golden(&lowered, &test.images[..288]).unwrap();
            let bytes = opt_artifact::write_qmodel_with_golden(&lowered, &golden, &BTreeMap::new());
            let read = opt_artifact::read_qmodel_with_golden(&bytes.unwrap()).unwrap();
            assert_eq!(read, (lowered.clone(), Some(golden.clone())));
            let interpreter = Interpreter::new(&lowered).unwrap();
            for kernels in Kernels::ALL.into_iter().filter(|k| k.available()) {
                let options = Options {
                    kernels: Some(kernels),
                    keep_codes: true,
                    ..Options::default()
                };
                assert_eq!(self_test(&lowered, &golden, kernels).unwrap(), 2);
                let mut session = Session::new(&lowered, &options).unwrap();
                assert_eq!(session.labels(), ["top", "bottom"]);
                let shapes: Vec<&[usize]> = session.outputs().iter().map(|o| &*o.shape).collect();
                assert_eq!(shapes, [[2], [72]]);
                for image in images() {
                    let at = first_difference(&mut session, &lowered, &interpreter, image);
                    let name = at.unwrap().map(|id| &lowered.nodes[id].name);
                    assert_eq!(name, None, "{float:?}, {bits} bits, {kernels}");
                }
                let answers = images().map(|image| session.run(image).unwrap().to_vec());
                assert_eq!(
                    accuracy(answers, &test.labels),
                    1.0,
                    "{float:?}, {bits} bits"
                );
            }
            let simulation = Simulation::new(&calibrated.folded, &spec, Device::Cpu).unwrap();
            let logits = simulation.logits(&test).unwrap();
            let logits = Vec::<f32>::try_from(logits.reshape([-1])).unwrap();
            let answers = logits.chunks_exact(2).map(<[f32]>::to_vec);
            assert_eq!(
                accuracy(answers, &test.labels),
                1.0,
                "{float:?}, {bits} bits"
            );
        }
    }
}
