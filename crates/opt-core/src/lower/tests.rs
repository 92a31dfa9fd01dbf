//! Folding keeps the function, fusing finds the operations, lowering refuses what it cannot mean.

use std::collections::BTreeSet;

use super::*;
use crate::Task;
use crate::interpret;
use crate::interpret_quantized;
use crate::zoo;
use ndarray::Axis;

/// A small input whose means are whole bytes, so that padding means the same before and after folding.
fn small_task() -> Task {
    let mut task = Task::cifar10();
    task.input.shape = [3, 26, 26];
    task.input.mean = vec![120.0 / 255.0, 100.0 / 255.0, 128.0 / 255.0];
    task
}

/// Uneven but reproducible numbers in 0 to 1.
fn uneven(i: usize) -> f32 {
    ((i * 2_654_435_761) % 1000) as f32 / 1000.0
}

/// A network of the zoo's families, narrow enough for an interpreter.
fn small(name: &str) -> Model {
    let task = small_task();
    let stage = |[expand, channels, blocks, stride]: [usize; 4]| zoo::InvertedStage {
        expand,
        channels,
        blocks,
        stride,
    };
    match name {
        "vgg" => zoo::vgg(&task, &[&[4, 6], &[8]], 5),
        "basic" => zoo::resnet_imagenet(&task, zoo::Block::Basic, [1, 2, 1, 1], 4, 5),
        "bottleneck" => zoo::resnet_imagenet(&task, zoo::Block::Bottleneck, [2, 1, 1, 1], 2, 5),
        "inverted" => {
            let net = zoo::MobileNetV2 {
                stem: 8,
                stem_stride: 2,
                // The second block of the second stage and both of the third's later ones add their input.
                stages: [[1, 4, 1, 1], [6, 6, 2, 2], [3, 8, 3, 1]]
                    .map(stage)
                    .to_vec(),
                head: 24,
            };
            let mut model = zoo::mobilenet_v2(&task, &net, 5);
            // Low enough that untrained values reach it.
            for node in &mut model.graph.nodes {
                if let Op::Unary(Unary::Clip { max, .. }) = &mut node.op {
                    *max = 1.25;
                }
            }
            model
        }
        _ => zoo::build(name, &task, 5).unwrap(),
    }
}

/// A network in which each BatchNormalization does something.
fn net(name: &str) -> Model {
    let mut model = small(name);
    for (k, (name, param)) in model.params.iter_mut().enumerate() {
        let (low, high) = match name.rsplit('.').next().unwrap() {
            "running_mean" => (-0.2, 0.2),
            "running_var" => (0.5, 2.0),
            "bias" => (-0.3, 0.3),
            "weight" if param.ndim() == 1 => (0.5, 1.5),
            _ => continue,
        };
        for (i, v) in param.iter_mut().enumerate() {
            *v = low + (high - low) * uneven(i + 31 * k);
        }
    }
    model
}

fn image(seed: usize) -> Vec<u8> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 255"
    )]
    let byte = |i: usize| (uneven(i * 7 + seed * 13) * 255.0) as u8;
    (0..3 * 26 * 26).map(byte).collect()
}

/// Min-max quantization of a folded model, as a method crate would do it.
fn min_max_spec(folded: &Model, adds: ResidualAdd, images: &[Vec<u8>], bits: u8) -> QuantSpec {
    let mut spec = QuantSpec {
        placement: adds.into(),
        ..QuantSpec::default()
    };
    let runs: Vec<_> = images
        .iter()
        .map(|i| interpret::run(folded, &folded.input.normalize(i)).unwrap())
        .collect();
    for step in fuse(folded, &adds.into()).unwrap() {
        if step.requantizes(folded) {
            let values = || runs.iter().flat_map(|r| &r[step.value]).copied();
            let (lo, hi) = (values().fold(0.0, f32::min), values().fold(0.0, f32::max));
            let scale = (hi - lo) / 255.0;
            let zero = round_to_i32(-lo / scale);
            let params = QParams::new(scale, zero, 0, 255).unwrap();
            let name = folded.graph.nodes[step.value].name.clone();
            spec.activations.insert(name, params);
        }
    }
    for name in folded.weight_names() {
        let weight = &folded.params[name];
        let limit = f32::from(QWeight::code_limit(bits));
        let largest = |f: ndarray::ArrayViewD<f32>| f.iter().fold(0f32, |m, w| m.max(w.abs()));
        let scales: Vec<f32> = weight
            .axis_iter(Axis(0))
            .map(|f| largest(f) / limit)
            .collect();
        let mut codes = weight.mapv(|_| 0i8);
        for (o, mut filter) in codes.axis_iter_mut(Axis(0)).enumerate() {
            filter.zip_mut_with(&weight.index_axis(Axis(0), o), |q, w| {
                *q = i8::try_from(round_to_i32(w / scales[o])).unwrap();
            });
        }
        let weight = QWeight {
            codes: codes.to_owned(),
            scales,
            bits,
        };
        spec.weights.insert(name.to_owned(), weight);
    }
    spec
}

#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
fn round_to_i32(x: f32) -> i32 {
    x.round_ties_even() as i32
}

const NETS: [&str; 8] = [
    "resnet20",
    "resnet20_b",
    "airbench_4_8_8",
    "source_net",
    "vgg",
    "basic",
    "bottleneck",
    "inverted",
];

#[test]
fn folding_keeps_the_function() {
    for name in NETS {
        let model = net(name);
        let folded = fold(&model).unwrap();
        assert!(is_folded(&folded) && !is_folded(&model));
        let logits = |m: &Model| {
            let run = interpret::run(m, &m.input.normalize(&image(1))).unwrap();
            run[m.graph.output()].clone()
        };
        let (before, after) = (logits(&model), logits(&folded));
        let size = before.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (a, b) in before.iter().zip(&after) {
            // Twenty layers of f32 rounding, each 2^-24 relative, through weights that were rounded twice.
            assert!((a - b).abs() < 2e-5 * size, "{name}: {a} {b}");
        }
        assert_eq!(fold(&folded).unwrap(), folded, "{name}: folding twice");
    }
}

#[test]
fn means_that_are_no_whole_byte_move_into_the_bias() {
    // The airbench stem does not pad, so that folding the image is exact for any mean.
    let mut model = net("airbench_4_8_8");
    model.input.mean = vec![0.4850, 0.4567, 0.4071];
    let folded = fold(&model).unwrap();
    assert_ne!(folded.input.mean, model.input.mean);
    let logits = |m: &Model| {
        let run = interpret::run(m, &m.input.normalize(&image(2))).unwrap();
        run[m.graph.output()].clone()
    };
    let (before, after) = (logits(&model), logits(&folded));
    let size = before.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (a, b) in before.iter().zip(&after) {
        // As in the test above; a mean off by half a byte would move the logits by some 10^-3.
        assert!((a - b).abs() < 2e-5 * size, "{a} {b}");
    }
}

/// Two channels of 3×3 pixels with these means, a 3×3 convolution and a linear layer.
fn small_net(mean: [f32; 2], pads: [usize; 4]) -> Model {
    let window = crate::op::Window {
        kernel: [3, 3],
        stride: [1, 1],
        pads,
    };
    let mut graph = crate::Graph::new();
    let op = Op::Conv {
        weight: "conv.weight".to_owned(),
        bias: None,
        window,
        group: 1,
    };
    let conv = graph.push("conv", op, &[0]);
    let flat = graph.push("flat", Op::Flatten, &[conv]);
    let op = Op::Gemm {
        weight: "fc.weight".to_owned(),
        bias: None,
    };
    graph.push("fc", op, &[flat]);
    let features = 2 * (1 + pads[0] + pads[2]) * (1 + pads[1] + pads[3]);
    let tensor = |shape: &[usize]| {
        let values = (0..shape.iter().product())
            .map(|i| uneven(i) - 0.5)
            .collect();
        let array = ndarray::ArrayD::from_shape_vec(shape.to_vec(), values);
        array.unwrap().into_shared()
    };
    Model {
        graph,
        params: [
            ("conv.weight".to_owned(), tensor(&[2, 2, 3, 3])),
            ("fc.weight".to_owned(), tensor(&[2, features])),
        ]
        .into(),
        input: InputSpec {
            shape: [2, 3, 3],
            mean: mean.to_vec(),
            std: vec![0.5, 0.25],
            preparation: crate::Preparation::usual([2, 3, 3]),
        },
    }
}

#[test]
fn means_outside_the_bytes_fold_exactly_or_not_at_all() {
    let image: Vec<u8> = (0..18).map(|i| i * 14).collect();
    let logits = |m: &Model| {
        let run = interpret::run(m, &m.input.normalize(&image)).unwrap();
        run[m.graph.output()].clone()
    };
    let cases = [[-1.0, 0.5], [0.0, 2.0], [-7.3, -0.01], [0.25, 1.004]];
    for mean in cases {
        // Without padding: exact.
        let model = small_net(mean, [0; 4]);
        let folded = fold(&model).unwrap();
        let (before, after) = (logits(&model), logits(&folded));
        for (a, b) in before.iter().zip(&after) {
            // Some ten roundings of numbers up to 30.
            assert!((a - b).abs() < 1e-4, "{mean:?}: {before:?} {after:?}");
        }
        assert_eq!(fold(&folded).unwrap(), folded);
        // A padded zero would be a byte that there is not, on whichever side it is padded.
        for pads in [[1, 1, 1, 1], [0, 0, 0, 1]] {
            let message = fold(&small_net(mean, pads)).unwrap_err().to_string();
            let channel = usize::from((0.0..=1.0).contains(&mean[0]));
            let expect = format!(
                "with the mean {} of channel {channel} a zero is the byte",
                mean[channel]
            );
            assert!(
                message.contains(&expect) && message.contains("`conv`"),
                "{message}"
            );
        }
    }
    // The ends themselves are bytes, also for means that round to them.
    for mean in [[0.0, 1.0], [-0.0009, 1.0009]] {
        fold(&small_net(mean, [1; 4])).unwrap();
    }
}

#[test]
fn fusing_finds_the_operations() {
    struct Case {
        net: &'static str,
        adds: ResidualAdd,
        expect: &'static str,
    }
    let cases = [
        // 19 convolutions, 2 slices and pads; additions are inside.
        Case {
            net: "resnet20",
            adds: ResidualAdd::Fused,
            expect: "Input 1, Conv 19, Logits 1, Add 0, Clamp 0, Plain 6, residual 9",
        },
        Case {
            net: "resnet20",
            adds: ResidualAdd::Explicit,
            expect: "Input 1, Conv 19, Logits 1, Add 9, Clamp 0, Plain 6, residual 0",
        },
        // The shortcut's convolution stays apart, the main path takes the addition.
        Case {
            net: "resnet20_b",
            adds: ResidualAdd::Fused,
            expect: "Input 1, Conv 21, Logits 1, Add 0, Clamp 0, Plain 2, residual 9",
        },
        // Every ReLU is in its convolution, also those that followed a pool.
        Case {
            net: "airbench_4_8_8",
            adds: ResidualAdd::Fused,
            expect: "Input 1, Conv 7, Logits 1, Add 0, Clamp 0, Plain 5, residual 0",
        },
        // The padded pool stays apart; three convolutions in shortcuts.
        Case {
            net: "basic",
            adds: ResidualAdd::Fused,
            expect: "Input 1, Conv 14, Logits 1, Add 0, Clamp 0, Plain 3, residual 5",
        },
        // Every Clip is in its convolution; additions without activation join the narrowing convolutions.
        Case {
            net: "inverted",
            adds: ResidualAdd::Fused,
            expect: "Input 1, Conv 19, Logits 1, Add 0, Clamp 0, Plain 2, residual 3",
        },
        Case {
            net: "inverted",
            adds: ResidualAdd::Explicit,
            expect: "Input 1, Conv 19, Logits 1, Add 3, Clamp 0, Plain 2, residual 0",
        },
    ];
    for case in cases {
        let folded = fold(&net(case.net)).unwrap();
        let steps = fuse(&folded, &case.adds.into()).unwrap();
        let count = |f: fn(&Step) -> bool| steps.iter().filter(|s| f(s)).count();
        let found = format!(
            "Input {}, Conv {}, Logits {}, Add {}, Clamp {}, Plain {}, residual {}",
            count(|s| matches!(s.op, FusedOp::Input)),
            count(|s| matches!(s.op, FusedOp::Conv { .. })),
            count(|s| matches!(s.op, FusedOp::Logits { .. })),
            count(|s| matches!(s.op, FusedOp::Add { .. })),
            count(|s| matches!(s.op, FusedOp::Clamp { .. })),
            count(|s| matches!(s.op, FusedOp::Plain { .. })),
            count(|s| matches!(s.op, FusedOp::Conv { .. }) && s.inputs.len() == 2),
        );
        assert_eq!(found, case.expect, "{} {:?}", case.net, case.adds);
    }
    // One calibration serves both kinds of addition: 19 convolutions before and 9 values after an addition, one mean.
    let folded = fold(&net("resnet20")).unwrap();
    assert_eq!(
        observed_nodes(&folded, &BTreeSet::new()).unwrap().len(),
        19 + 9 + 1
    );
}

/// How far the logits of the integer network are from those of the folded model, in decibel.
fn signal_to_noise(folded: &Model, lowered: &QModel, images: &[Vec<u8>]) -> f64 {
    let (mut noise, mut signal) = (0.0, 0.0);
    for image in images {
        let real = interpret::run(folded, &folded.input.normalize(image)).unwrap();
        let logits = interpret_quantized::run(lowered, image).unwrap().outputs;
        for (a, b) in real[folded.graph.output()].iter().zip(&logits) {
            noise += f64::from(a - b).powi(2);
            signal += f64::from(*a).powi(2);
        }
    }
    10.0 * (signal / noise).log10()
}

#[test]
fn the_integer_network_computes_nearly_the_same() {
    for name in NETS {
        let folded = fold(&net(name)).unwrap();
        let images: Vec<Vec<u8>> = (0..3).map(image).collect();
        for adds in [ResidualAdd::Fused, ResidualAdd::Explicit] {
            let spec = min_max_spec(&folded, adds, &images, 8);
            let lowered = lower(&folded, &spec).unwrap();
            let decibel = signal_to_noise(&folded, &lowered, &images);
            // 8 bits give about 40 dB a layer; a misplaced zero point or scale leaves less than 10 dB.
            assert!(decibel > 25.0, "{name} {adds:?}: {decibel} dB");
        }
    }
}

#[test]
fn clip_holds_where_codes_reach_beyond_it() {
    let folded = fold(&net("inverted")).unwrap();
    let images: Vec<Vec<u8>> = (0..3).map(image).collect();
    let mut spec = min_max_spec(&folded, ResidualAdd::Fused, &images, 8);
    for activation in spec.activations.values_mut() {
        let QParams {
            scale, zero_point, ..
        } = *activation;
        *activation = QParams::new(scale * 1.5, zero_point, 0, 255).unwrap();
    }
    let lowered = lower(&folded, &spec).unwrap();
    let limits = |name: &str| {
        let node = lowered.nodes.iter().find(|n| n.name == name).unwrap();
        let y = node.activation.as_ref().unwrap();
        match node.op {
            QOp::Conv { group, .. } => (y.lo, y.hi, group),
            _ => panic!("{name} is a convolution"),
        }
    };
    // A range of 0 to 1.25, one and a half times that in 255 steps: 1.25 is code 170. Depthwise, then narrow.
    assert_eq!(limits("features.1.conv.0.2"), (0, 170, 8));
    assert_eq!(limits("features.1.conv.1"), (0, 255, 1));
    // Steps half as large again cost 3.5 dB of some 40; without the limits 12 dB are left.
    let decibel = signal_to_noise(&folded, &lowered, &images);
    assert!(decibel > 25.0, "{decibel} dB");
}

#[test]
fn fewer_bits_are_kept_in_the_network() {
    let folded = fold(&net("airbench_4_8_8")).unwrap();
    let images = [image(0)];
    let lowered = |bits| {
        let spec = min_max_spec(&folded, ResidualAdd::Fused, &images, bits);
        lower(&folded, &spec).unwrap()
    };
    let weights = crate::cost::cost(&folded).unwrap().weights;
    assert_eq!(
        lowered(8).payload_bytes() - lowered(4).payload_bytes(),
        weights / 2
    );
}

#[test]
fn what_is_missing_or_stray_is_named() {
    let folded = fold(&net("resnet20")).unwrap();
    let sound = min_max_spec(&folded, ResidualAdd::Fused, &[image(0)], 8);
    struct Case {
        break_it: fn(&mut QuantSpec),
        expect: &'static str,
    }
    let cases = [
        // An activation without a scale.
        Case {
            break_it: |s| s.activations.retain(|name, _| name != "layer2.1.relu1"),
            expect: "quantization of `layer2.1.relu1`: no scale was chosen",
        },
        // A weight without codes.
        Case {
            break_it: |s| drop(s.weights.remove("linear.weight")),
            expect: "quantization of `linear.weight`: no codes",
        },
        // A scale for a value that the fused addition never rounds.
        Case {
            break_it: |s| {
                let stray = s.activations["relu"];
                s.activations.insert("layer1.0.conv2".to_owned(), stray);
            },
            expect: "quantization of `layer1.0.conv2`: the specification names it",
        },
        // Signed codes of an activation.
        Case {
            break_it: |s| s.activations.get_mut("relu").unwrap().qmin = -128,
            expect: "quantization of `relu`: codes -128 to 255",
        },
        // A scale so small that the bias cannot be written.
        Case {
            break_it: |s| s.weights.get_mut("conv1.weight").unwrap().scales[2] = 1e-20,
            expect: "quantization of `conv1.bias`: channel 2",
        },
        // A code outside the narrow range.
        Case {
            break_it: |s| s.weights.get_mut("conv1.weight").unwrap().codes[[0, 0, 0, 0]] = -128,
            expect: "node `relu`: Conv: the code -128 is outside ±127",
        },
    ];
    for case in cases {
        let mut spec = sound.clone();
        (case.break_it)(&mut spec);
        let message = lower(&folded, &spec).unwrap_err().to_string();
        assert!(message.contains(case.expect), "{message}");
    }
}

#[test]
fn graphs_without_an_integer_form_are_refused() {
    let message = |model: &Model| fold(model).unwrap_err().to_string();
    // A normalisation that something else reads too.
    let mut model = net("resnet20");
    let add = model.graph.find("layer1.0.add").unwrap();
    model.graph.nodes[add].inputs[1] = model.graph.find("layer1.0.conv2").unwrap();
    assert!(message(&model).contains("node `layer1.0.bn2` (BatchNormalization)"));
    // A factor below zero after a pool does not commute with it.
    let mut model = net("airbench_4_8_8");
    let norm = model.graph.find("blocks.0.norm1").unwrap();
    let Op::BatchNormalization { scale, .. } = &mut model.graph.nodes[norm].op else {
        panic!("norm1 is a BatchNormalization");
    };
    *scale = Some("gamma".to_owned());
    let gamma = ndarray::arr1(&[1.0, -1.0, 1.0, 1.0])
        .into_dyn()
        .into_shared();
    model.params.insert("gamma".to_owned(), gamma);
    assert!(message(&model).contains("not positive"));
    // Two nodes that read one weight, and a name that is taken.
    let mut model = net("resnet20");
    let first = model.graph.find("layer1.0.conv1").unwrap();
    let second = model.graph.find("layer1.0.conv2").unwrap();
    model.graph.nodes[second].op = model.graph.nodes[first].op.clone();
    model.params.remove("layer1.0.conv2.weight");
    assert!(
        message(&model)
            .contains("shares parameter `layer1.0.conv1.weight` with node `layer1.0.conv1`")
    );
    let mut model = net("resnet20");
    let norm = model.graph.find("bn1").unwrap();
    let Op::BatchNormalization { bias, .. } = &mut model.graph.nodes[norm].op else {
        panic!("bn1 is a BatchNormalization");
    };
    *bias = "conv1.bias".to_owned();
    let beta = model.params.remove("bn1.bias").unwrap();
    model.params.insert("conv1.bias".to_owned(), beta);
    assert!(message(&model).contains("`conv1.bias`, which exists"));
    // Not folded.
    let model = net("resnet20");
    let error = lower(&model, &QuantSpec::default()).unwrap_err();
    assert!(error.to_string().contains("must be folded first"));
}

#[test]
fn a_scale_that_loses_a_bias_is_refused() {
    let zeros = |scale: f32| QWeight {
        codes: ndarray::ArrayD::zeros(vec![2, 3]),
        scales: vec![scale, 1e-9],
        bits: 8,
    };
    let codes = |weight: &QWeight, y: Option<f32>| bias_codes("b", &[0.4, 0.0], weight, 1.0, y);
    // Half an output code is 0.05: 0.4 at steps of 0.8 becomes 0, at 0.6 it becomes 0.6, at 0.1 it is kept.
    for (scale, expect) in [(0.8, "becomes 0;"), (0.6, "becomes 0.6")] {
        let message = codes(&zeros(scale), Some(0.1)).unwrap_err().to_string();
        assert!(
            message.contains(expect) && message.contains("channel 0"),
            "{message}"
        );
    }
    assert_eq!(codes(&zeros(0.1), Some(0.1)), Ok(vec![4, 0]));
    // An output so coarse that it does not see the bias.
    assert_eq!(codes(&zeros(1.0), Some(1.0)), Ok(vec![0, 0]));
    // Logits see all of it.
    assert!(codes(&zeros(0.1), None).is_ok() && codes(&zeros(0.15), None).is_err());
    // Weights that are not zero may need their scale, whatever it does to the bias.
    let mut weight = zeros(0.8);
    weight.codes[[0, 1]] = 127;
    assert_eq!(codes(&weight, Some(0.1)), Ok(vec![0, 0]));
    // What 30 bits cannot hold finer.
    let floor = ScaleFloor::new(1.0);
    let huge = zeros(floor.filter_scale(0.0, 1e30, 127));
    assert!(bias_codes("b", &[1e30, 0.0], &huge, 1.0, Some(1e-3)).is_ok());
    // One bias too few.
    assert!(bias_codes("b", &[0.4], &zeros(1.0), 1.0, None).is_err());
}

#[test]
fn bias_codes_round_half_even_and_refuse_overflow() {
    assert_eq!(bias_code(0.5, 1.0, 1.0), Some(0));
    assert_eq!(bias_code(1.5, 1.0, 1.0), Some(2));
    assert_eq!(bias_code(-7.0, 0.5, 2.0), Some(-7));
    assert_eq!(bias_code(1.1e9, 1.0, 1.0), None);
    assert_eq!(bias_code(f32::NAN, 1.0, 1.0), None);
}
