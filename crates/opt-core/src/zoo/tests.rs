//! Published counts and names, seeds, and inputs of other sizes.

use super::*;
use crate::cost::cost;
use crate::interpret;
use crate::shape::infer_shapes;

/// 224×224 with a thousand classes.
fn imagenet() -> Task {
    let mut task = Task::cifar10();
    task.input.shape = [3, 224, 224];
    task.labels = (0..1000).map(|class| class.to_string()).collect();
    task
}

#[test]
fn every_name_builds_and_the_descriptions_count_right() {
    for (name, what) in NAMES {
        let large = what.contains("at 224×224");
        let task = if large { imagenet() } else { Task::cifar10() };
        let model = build(name, &task, 3).unwrap();
        let mmac = cost(&model).unwrap().macs as f64 / 1e6;
        assert!(
            what.ends_with(&format!(" {mmac:.1} MMAC")),
            "{name}: {mmac}"
        );
    }
}

#[test]
fn counts_and_parameter_names_are_the_published_ones() {
    struct Case {
        net: &'static str,
        task: Task,
        macs: u64,
        params: usize,
        shapes: &'static [(&'static str, &'static [usize])],
    }
    let cases = [
        // Thirteen convolutions without bias and one linear layer.
        Case {
            net: "vgg16_bn",
            task: Task::cifar10(),
            macs: 313_201_664,
            params: 14_724_042,
            shapes: &[
                ("features.0.weight", &[64, 3, 3, 3]),
                ("features.1.running_var", &[64]),
                ("features.7.weight", &[128, 64, 3, 3]),
                ("features.40.weight", &[512, 512, 3, 3]),
                ("features.41.bias", &[512]),
                ("classifier.weight", &[10, 512]),
            ],
        },
        // The convolutions of the network for 224×224 and ten classes: 3,504,872 - 990·1281.
        Case {
            net: "mobilenet_v2_32",
            task: Task::cifar10(),
            macs: 87_976_448,
            params: 2_236_682,
            shapes: &[("features.18.0.weight", &[1280, 320, 1, 1])],
        },
        Case {
            net: "resnet18",
            task: imagenet(),
            macs: 1_814_073_344,
            params: 11_689_512,
            shapes: &[
                ("conv1.weight", &[64, 3, 7, 7]),
                ("layer1.1.bn2.running_mean", &[64]),
                ("layer2.0.downsample.0.weight", &[128, 64, 1, 1]),
                ("layer4.1.conv2.weight", &[512, 512, 3, 3]),
                ("fc.weight", &[1000, 512]),
            ],
        },
        // The first block has a convolution in its shortcut although its stride is 1.
        Case {
            net: "resnet50",
            task: imagenet(),
            macs: 4_089_184_256,
            params: 25_557_032,
            shapes: &[
                ("layer1.0.downsample.0.weight", &[256, 64, 1, 1]),
                ("layer1.0.downsample.1.weight", &[256]),
                ("layer3.5.conv2.weight", &[256, 256, 3, 3]),
                ("layer4.0.conv3.weight", &[2048, 512, 1, 1]),
                ("fc.bias", &[1000]),
            ],
        },
        // The first block does not widen; its elements are counted accordingly.
        Case {
            net: "mobilenet_v2",
            task: imagenet(),
            macs: 300_774_272,
            params: 3_504_872,
            shapes: &[
                ("features.0.0.weight", &[32, 3, 3, 3]),
                ("features.1.conv.0.0.weight", &[32, 1, 3, 3]),
                ("features.1.conv.1.weight", &[16, 32, 1, 1]),
                ("features.1.conv.2.running_mean", &[16]),
                ("features.2.conv.0.0.weight", &[96, 16, 1, 1]),
                ("features.2.conv.1.0.weight", &[96, 1, 3, 3]),
                ("features.2.conv.1.1.bias", &[96]),
                ("features.17.conv.2.weight", &[320, 960, 1, 1]),
                ("features.17.conv.3.weight", &[320]),
                ("features.18.1.weight", &[1280]),
                ("classifier.1.weight", &[1000, 1280]),
            ],
        },
    ];
    for case in cases {
        let model = build(case.net, &case.task, 0).unwrap();
        let cost = cost(&model).unwrap();
        let found = (cost.macs, cost.params);
        assert_eq!(found, (case.macs, case.params), "{}", case.net);
        for (name, shape) in case.shapes {
            assert_eq!(model.param(name).unwrap().shape(), *shape, "{name}");
        }
    }
}

#[test]
fn bottlenecks_have_their_stride_in_the_middle() {
    let net = resnet_imagenet(&Task::cifar10(), Block::Bottleneck, [1; 4], 2, 0);
    let strided: Vec<&str> = (net.graph.nodes.iter())
        .filter(|n| matches!(&n.op, crate::Op::Conv { window, .. } if window.stride == [2, 2]))
        .map(|n| n.name.as_str())
        .collect();
    let expected = [
        "conv1",
        "layer2.0.conv2",
        "layer2.0.downsample.0",
        "layer3.0.conv2",
        "layer3.0.downsample.0",
        "layer4.0.conv2",
        "layer4.0.downsample.0",
    ];
    assert_eq!(strided, expected);
}

#[test]
fn the_seed_decides_the_weights() {
    let build = |seed| build("resnet20", &Task::cifar10(), seed).unwrap();
    assert_eq!(build(1), build(1));
    assert_ne!(build(1).params, build(2).params);
}

#[test]
fn unknown_names_are_refused_with_the_list() {
    for name in [
        "resnet21",
        "airbench_1_2",
        "airbench_0_1_1",
        "airbench_a_b_c",
        "",
    ] {
        let message = build(name, &Task::cifar10(), 0).unwrap_err().to_string();
        assert!(
            message.contains("choose one of") && message.contains("resnet56_b"),
            "{message}"
        );
    }
    // What was meant is offered where it is near.
    for (name, meant) in [
        ("ResNet-20", "resnet20"),
        ("resnet_56b", "resnet56_b"),
        ("vgg16bn", "vgg16_bn"),
        ("mobilnet_v2", "mobilenet_v2"),
    ] {
        let message = build(name, &Task::cifar10(), 0).unwrap_err().to_string();
        assert!(
            message.contains(&format!("did you mean `{meant}`?")),
            "{message}"
        );
    }
    let message = build("inception", &Task::cifar10(), 0)
        .unwrap_err()
        .to_string();
    assert!(!message.contains("did you mean"), "{message}");
}

#[test]
fn other_inputs_are_followed() {
    let mut task = Task::cifar10();
    task.input.shape = [1, 28, 28];
    task.input.mean = vec![0.5];
    task.input.std = vec![0.25];
    task.labels.truncate(4);
    for name in [
        "source_net",
        "resnet20",
        "airbench_8_8_8",
        "mobilenet_v2_32",
    ] {
        let model = build(name, &task, 0).unwrap();
        assert_eq!(model.input, task.input, "{name}");
        // The first layer reads one channel, the last gives four classes, and both compute.
        let names = model.weight_names();
        let shape = |name: &str| model.params[name].shape().to_vec();
        assert_eq!(shape(names[0])[1], 1, "{name}");
        assert_eq!(shape(names[names.len() - 1])[0], 4, "{name}");
        let values = interpret::run(&model, &vec![0.5; 28 * 28]).unwrap();
        let logits = &values[model.graph.output()];
        assert!(
            logits.len() == 4 && logits.iter().any(|v| *v != 0.0),
            "{name}: {logits:?}"
        );
    }
    // Five halvings of 64 and 70 leave 2 by 2 positions.
    task.input.shape = [1, 64, 70];
    let model = build("vgg16_bn", &task, 0).unwrap();
    let shapes = infer_shapes(&model).unwrap();
    let before_flatten = shapes.iter().rfind(|s| s.len() == 3).unwrap();
    assert_eq!(before_flatten[1..], [2, 2]);
}

#[test]
fn inputs_that_are_too_small_are_errors_with_a_reason() {
    struct Case {
        net: &'static str,
        size: [usize; 2],
        expect: &'static str,
    }
    let cases = [
        // The fifth pool has one row left.
        Case {
            net: "vgg16_bn",
            size: [31, 64],
            expect: "node `features.43` (MaxPool): input shape [512, 1, 4] does not fit",
        },
        // No pixels at all: networks with padding everywhere take any other size.
        Case {
            net: "resnet18",
            size: [0, 224],
            expect: "node `input`: its shape is [3, 0, 224]",
        },
        Case {
            net: "mobilenet_v2",
            size: [0, 0],
            expect: "node `input`: its shape is [3, 0, 0]",
        },
        // Fewer pixels than the stem's 2×2 kernel takes away.
        Case {
            net: "airbench_8_8_8",
            size: [0, 0],
            expect: "node `input`: its shape is [3, 0, 0]",
        },
    ];
    for case in cases {
        let mut task = Task::cifar10();
        task.input.shape = [3, case.size[0], case.size[1]];
        let message = build(case.net, &task, 0).unwrap_err().to_string();
        let opening = format!(
            "the network `{}` cannot take images of {:?}",
            case.net, task.input.shape
        );
        assert!(
            message.starts_with(&opening) && message.contains(case.expect),
            "{message}"
        );
        assert!(message.contains("give it larger images"), "{message}");
    }
}

#[test]
fn other_images_are_not_advised_where_numbers_are_wrong() {
    let sound = Task::cifar10();
    let (mut mean, mut zero, mut nan) = (sound.clone(), sound.clone(), sound);
    mean.input.mean.pop();
    zero.input.std[1] = 0.0;
    nan.input.std[2] = f32::NAN;
    for task in [mean, zero, nan] {
        let message = build("resnet20", &task, 0).unwrap_err().to_string();
        assert!(
            message.starts_with("node `input`") && !message.contains("images"),
            "{message}"
        );
    }
}

/// Every trained figure rests on these draws.
#[test]
fn initial_weights_stay_as_they_are() {
    let model = build("resnet20", &Task::cifar10(), 0).unwrap();
    let first = model.params["conv1.weight"].iter().take(3);
    let bits: Vec<u32> = first.map(|w| w.to_bits()).collect();
    assert_eq!(bits, [3_186_614_841, 3_202_544_609, 3_200_764_303]);
}
