//! Masked equals shrunk; counts; what is refused and why.

use super::*;
use opt_core::Unary;
use opt_core::cost::cost;
use opt_core::op::Window;
use opt_core::{Graph, Task, interpret, zoo};
use opt_core::{Op, Params};
use proptest::prelude::*;

/// Numbers in (-1, 1) that differ everywhere.
fn varied(name: &str, shape: &[usize]) -> opt_core::Tensor {
    let scores = crate::score::random::element_scores(name, shape, 5);
    scores.mapv(|v| 2.0 * v - 1.0).into_shared()
}

/// Gives every parameter of the graph the shape that `shapes` lists, with varied values; variances are positive.
fn with_params(graph: Graph, input: [usize; 3], shapes: &[(&str, &[usize])]) -> Model {
    let mut spec = Task::cifar10().input;
    spec.shape = input;
    spec.mean = vec![0.5; input[0]];
    spec.std = vec![0.25; input[0]];
    let mut params = Params::new();
    for (name, shape) in shapes {
        let mut value = varied(name, shape);
        if name.ends_with("var") {
            value.mapv_inplace(|v| v.abs() + 0.1);
        }
        params.insert((*name).to_owned(), value);
    }
    let model = Model {
        graph,
        params,
        input: spec,
    };
    model.validate().unwrap();
    model
}

fn conv(name: &str, bias: bool, window: Window) -> Op {
    Op::Conv {
        weight: format!("{name}.weight"),
        bias: bias.then(|| format!("{name}.bias")),
        window,
        group: 1,
    }
}

fn gemm(name: &str) -> Op {
    Op::Gemm {
        weight: format!("{name}.weight"),
        bias: Some(format!("{name}.bias")),
    }
}

fn norm(name: &str, scale: bool) -> Op {
    Op::BatchNormalization {
        scale: scale.then(|| format!("{name}.weight")),
        bias: format!("{name}.bias"),
        mean: format!("{name}.mean"),
        var: format!("{name}.var"),
        epsilon: 1e-5,
        momentum: 0.1,
    }
}

/// A chain with every operator that channels may pass: both norms, one of them behind a Flatten, and a hidden Gemm.
fn long_chain() -> Model {
    let mut g = Graph::new();
    let same = Window::square(3, 1, 1);
    let x = g.push("a", conv("a", true, same), &[0]);
    let x = g.push("a.relu", Op::Unary(Unary::Relu), &[x]);
    let x = g.push("b", conv("b", false, same), &[x]);
    let x = g.push("b.norm", norm("b.norm", true), &[x]);
    let clip = Op::Unary(Unary::Clip { min: 0.0, max: 6.0 });
    let x = g.push("b.clip", clip, &[x]);
    let x = g.push("b.pool", Op::MaxPool(Window::square(3, 2, 1)), &[x]);
    let x = g.push("c", conv("c", true, same), &[x]);
    let x = g.push("c.pool", Op::AveragePool(Window::square(2, 2, 0)), &[x]);
    let x = g.push("c.norm", norm("c.norm", false), &[x]);
    let x = g.push("c.flatten", Op::Flatten, &[x]);
    let x = g.push("c.norm2", norm("c.norm2", true), &[x]);
    let x = g.push("d", gemm("d"), &[x]);
    let x = g.push("d.relu", Op::Unary(Unary::Relu), &[x]);
    g.push("e", gemm("e"), &[x]);
    with_params(
        g,
        [2, 8, 8],
        &[
            ("a.weight", &[5, 2, 3, 3]),
            ("a.bias", &[5]),
            ("b.weight", &[4, 5, 3, 3]),
            ("b.norm.weight", &[4]),
            ("b.norm.bias", &[4]),
            ("b.norm.mean", &[4]),
            ("b.norm.var", &[4]),
            ("c.weight", &[3, 4, 3, 3]),
            ("c.bias", &[3]),
            ("c.norm.bias", &[3]),
            ("c.norm.mean", &[3]),
            ("c.norm.var", &[3]),
            ("c.norm2.weight", &[12]),
            ("c.norm2.bias", &[12]),
            ("c.norm2.mean", &[12]),
            ("c.norm2.var", &[12]),
            ("d.weight", &[6, 12]),
            ("d.bias", &[6]),
            ("e.weight", &[4, 6]),
            ("e.bias", &[4]),
        ],
    )
}

/// The zoo starts its norms as identities; here they do something.
fn airbench() -> Model {
    let mut task = Task::cifar10();
    task.input.shape = [3, 25, 25];
    let mut model = zoo::airbench(&task, [4, 6, 5], 3);
    let names: Vec<String> = model.params.keys().cloned().collect();
    for name in names.iter().filter(|n| n.contains("norm")) {
        let mut value = varied(name, model.params[name].shape());
        if name.ends_with("var") {
            value.mapv_inplace(|v| v.abs() + 0.1);
        }
        model.params.insert(name.clone(), value);
    }
    model
}

fn source_net() -> Model {
    let mut task = Task::cifar10();
    task.input.shape = [3, 8, 8];
    zoo::source_net(&task, 1)
}

fn image(model: &Model) -> Vec<f32> {
    varied("image", &model.input.shape)
        .iter()
        .copied()
        .collect()
}

fn output(model: &Model) -> Vec<f32> {
    let values = interpret::run(model, &image(model)).unwrap();
    values[model.graph.output()].clone()
}

/// Masked and shrunk models add the same terms in the same order, the masked one with zeros between, in f64: the results
/// are equal, not close.
fn assert_masked_equals_shrunk(model: &Model, plan: &ChannelPlan) {
    let masked = mask_channels(model, plan).unwrap();
    let small = shrink(model, plan).unwrap();
    small.validate().unwrap();
    assert_eq!(output(&masked), output(&small), "{plan:?}");
}

fn plan(keep: &[(&str, &[usize])]) -> ChannelPlan {
    let keep = keep
        .iter()
        .map(|(name, k)| ((*name).to_owned(), k.to_vec()));
    ChannelPlan {
        keep: keep.collect(),
    }
}

/// For each removable layer, a keep-list of at least one channel, or none.
fn any_plan(model: &Model) -> impl Strategy<Value = ChannelPlan> {
    let layers = prunable_channels(model).unwrap();
    let lists: Vec<_> = layers
        .into_iter()
        .filter(|l| l.blocked.is_none())
        .map(|l| {
            let all: Vec<usize> = (0..l.channels).collect();
            let list = proptest::sample::subsequence(all, 1..=l.channels);
            proptest::option::weighted(0.8, list.prop_map(move |keep| (l.layer.clone(), keep)))
        })
        .collect();
    lists.prop_map(|lists| ChannelPlan {
        keep: lists.into_iter().flatten().collect(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn masked_equals_shrunk_on_a_long_chain(plan in any_plan(&long_chain())) {
        assert_masked_equals_shrunk(&long_chain(), &plan);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn masked_equals_shrunk_on_airbench(plan in any_plan(&airbench())) {
        assert_masked_equals_shrunk(&airbench(), &plan);
    }

    #[test]
    fn masked_equals_shrunk_on_the_source_net(plan in any_plan(&source_net())) {
        assert_masked_equals_shrunk(&source_net(), &plan);
    }
}

#[test]
fn only_trained_parameters_have_masks_and_removed_means_are_zero() {
    let plan = plan(&[("a", &[0, 2, 4]), ("b", &[1]), ("c", &[0, 2])]);
    let model = long_chain();
    let masks = channel_masks(&model, &plan).unwrap();
    let trained: Vec<&str> = model
        .param_refs()
        .filter(|p| p.role.is_trainable())
        .map(|p| p.name)
        .collect();
    assert!(
        masks.keys().all(|name| trained.contains(&name.as_str())),
        "{:?}",
        masks.keys()
    );
    for name in ["b.weight", "b.norm.bias", "c.norm.bias", "c.norm2.bias"] {
        assert!(masks.contains_key(name), "{name}");
    }
    let masked = mask_channels(&model, &plan).unwrap();
    let (old, new) = (&model.params["b.norm.mean"], &masked.params["b.norm.mean"]);
    assert_eq!(new.as_slice().unwrap(), [0.0, old[1], 0.0, 0.0]);
    // The masks alone change nothing more: they are what holds the masked model.
    assert_eq!(apply_masks(&masked, &masks).unwrap(), masked);
}

#[test]
fn removal_changes_the_result_and_full_lists_do_not() {
    let model = long_chain();
    let before = output(&model);
    for layer in ["a", "b", "c", "d"] {
        let small = shrink(&model, &plan(&[(layer, &[0, 2])])).unwrap();
        assert_ne!(output(&small), before, "{layer}");
    }
    let full = plan(&[("a", &[0, 1, 2, 3, 4]), ("b", &[0, 1, 2, 3])]);
    assert_eq!(shrink(&model, &full).unwrap(), model);
    assert_eq!(shrink(&model, &ChannelPlan::default()).unwrap(), model);
}

#[test]
fn the_right_numbers_stay() {
    let model = long_chain();
    let small = shrink(&model, &plan(&[("c", &[0, 2])])).unwrap();
    let (old, new) = (&model.params, &small.params);
    assert_eq!(new["c.weight"].shape(), [2, 4, 3, 3]);
    assert_eq!(
        new["c.weight"].index_axis(Axis(0), 1),
        old["c.weight"].index_axis(Axis(0), 2)
    );
    assert_eq!(new["c.norm.var"][1], old["c.norm.var"][2]);
    // 2·2 positions: channel 2 owned the features 8 to 11 and now owns 4 to 7.
    assert_eq!(new["d.weight"].shape(), [6, 8]);
    assert_eq!(new["c.norm2.mean"][5], old["c.norm2.mean"][9]);
    assert_eq!(new["d.weight"][[3, 7]], old["d.weight"][[3, 11]]);
}

#[test]
fn costs_equal_hand_counts() {
    let model = zoo::build("source_net", &Task::cifar10(), 0).unwrap();
    let keep16: Vec<usize> = (0..64).step_by(4).collect();
    let keep100: Vec<usize> = (14..114).collect();
    let small = shrink(&model, &plan(&[("conv1", &keep16), ("conv2", &keep100)])).unwrap();
    let found = cost(&small).unwrap();
    let weights = 16 * 3 * 9 + 100 * 16 * 9 + 10 * 100 * 64;
    assert_eq!(found.weights, weights);
    assert_eq!(found.params, weights + 16 + 100 + 10);
    assert_eq!(
        found.macs,
        (16 * 3 * 9 + 100 * 16 * 9) * 1024 + 10 * 100 * 64
    );

    // Norms count, too: γ and β are trained, the statistics take bytes.
    let small = shrink(&long_chain(), &plan(&[("b", &[3])])).unwrap();
    let found = cost(&small).unwrap();
    let norm = &found.layers[2];
    assert_eq!(
        (norm.name.as_str(), norm.params, norm.bytes),
        ("b.norm", 2, 16)
    );
    assert_eq!(found.layers[3].weights, 3 * 9);
}

#[test]
fn what_stands_in_the_way_is_named() {
    let reason = |model: &Model, layer: &str| {
        let layers = prunable_channels(model).unwrap();
        let row = layers.into_iter().find(|l| l.layer == layer).unwrap();
        let plan = plan(&[(layer, &[0])]);
        match (
            &row.blocked,
            shrink(model, &plan),
            mask_channels(model, &plan),
        ) {
            (None, Ok(_), Ok(_)) => String::new(),
            (Some(why), Err(shrink), Err(mask)) => {
                assert_eq!(shrink, mask);
                assert!(shrink.to_string().ends_with(why.as_str()), "{shrink}");
                shrink.to_string()
            }
            other => panic!("{layer}: {other:?}"),
        }
    };
    let resnet = zoo::build("resnet20", &Task::cifar10(), 0).unwrap();
    let resnet_b = zoo::build("resnet20_b", &Task::cifar10(), 0).unwrap();
    let chain = long_chain();
    // A clip that makes a constant of a removed channel.
    let mut clipped = long_chain();
    let clip = clipped.graph.find("b.clip").unwrap();
    clipped.graph.nodes[clip].op = Op::Unary(Unary::Clip { min: 0.5, max: 6.0 });
    // Two groups.
    let mut grouped = long_chain();
    let c = grouped.graph.find("c").unwrap();
    if let Op::Conv { group, weight, .. } = &mut grouped.graph.nodes[c].op {
        *group = 2;
        *weight = "grouped.weight".to_owned();
    }
    grouped.params.remove("c.weight");
    grouped
        .params
        .insert("grouped.weight".to_owned(), varied("g", &[4, 2, 3, 3]));
    for name in ["c.bias", "c.norm.bias", "c.norm.mean", "c.norm.var"] {
        grouped.params.insert(name.to_owned(), varied("v", &[4]));
    }
    for name in ["weight", "bias", "mean", "var"] {
        let name = format!("c.norm2.{name}");
        grouped.params.insert(name, varied("v", &[16]));
    }
    grouped
        .params
        .insert("d.weight".to_owned(), varied("d", &[6, 16]));
    // One bias for two layers.
    let mut shared = long_chain();
    let d = shared.graph.find("d").unwrap();
    shared.graph.nodes[d].op = Op::Gemm {
        weight: "d.weight".to_owned(),
        bias: Some("c.norm2.six".to_owned()),
    };
    shared
        .params
        .insert("c.norm2.six".to_owned(), varied("six", &[6]));
    shared.params.remove("d.bias");
    let norm = shared.graph.find("c.norm").unwrap();
    if let Op::BatchNormalization { bias, .. } = &mut shared.graph.nodes[norm].op {
        "c.bias".clone_into(bias);
    }
    shared.params.remove("c.norm.bias");

    struct Case<'a> {
        model: &'a Model,
        layer: &'a str,
        expect: &'a str,
    }
    let cases = [
        // Free.
        Case {
            model: &chain,
            layer: "c",
            expect: "",
        },
        // Inside a block there is no coupling.
        Case {
            model: &resnet,
            layer: "layer2.0.conv1",
            expect: "",
        },
        // The classes.
        Case {
            model: &chain,
            layer: "e",
            expect: "channels of `e` cannot be removed: node `e` (Gemm): its outputs are the network's result, which is never pruned",
        },
        // A fork to the block and its shortcut.
        Case {
            model: &resnet,
            layer: "conv1",
            expect: "node `relu` (Relu): the path forks to layer1.0.conv1 and layer1.0.add; coupling of channels across a fork is not handled yet, leave `conv1` out",
        },
        // The sum.
        Case {
            model: &resnet,
            layer: "layer1.0.conv2",
            expect: "node `layer1.0.add` (Add): coupling of channels through Add is not handled yet, leave `layer1.0.conv2` out",
        },
        Case {
            model: &resnet_b,
            layer: "layer2.0.shortcut.0",
            expect: "node `layer2.0.add` (Add)",
        },
        Case {
            model: &clipped,
            layer: "b",
            expect: "node `b.clip` (Clip): it turns a removed channel's 0 into a constant, 0.5",
        },
        // A reader with groups, and a layer with groups.
        Case {
            model: &grouped,
            layer: "b",
            expect: "node `c` (Conv): it reads channels in 2 groups",
        },
        Case {
            model: &grouped,
            layer: "c",
            expect: "node `c` (Conv): it works in 2 groups",
        },
        Case {
            model: &shared,
            layer: "c",
            expect: "its parameter `c.bias` is shared with another node",
        },
    ];
    for case in cases {
        let message = reason(case.model, case.layer);
        let fits = match case.expect {
            "" => message.is_empty(),
            expect => message.contains(expect),
        };
        assert!(fits, "{}: {message}", case.layer);
    }
}

#[test]
fn slices_and_pads_are_named() {
    for (op, kind, channels) in [
        (
            Op::Slice {
                start: vec![0; 3],
                end: vec![3, 4, 4],
                step: vec![1; 3],
            },
            "Slice",
            3,
        ),
        (
            Op::Pad {
                begin: vec![1, 0, 0],
                end: vec![0; 3],
            },
            "Pad",
            4,
        ),
    ] {
        let mut g = Graph::new();
        let x = g.push("a", conv("a", true, Window::square(1, 1, 0)), &[0]);
        let x = g.push("move", op, &[x]);
        let x = g.push("pool", Op::GlobalAveragePool, &[x]);
        let x = g.push("flat", Op::Flatten, &[x]);
        g.push("e", gemm("e"), &[x]);
        let shapes: [(&str, &[usize]); 4] = [
            ("a.weight", &[3, 2, 1, 1]),
            ("a.bias", &[3]),
            ("e.weight", &[4, channels]),
            ("e.bias", &[4]),
        ];
        let model = with_params(g, [2, 4, 4], &shapes);
        let message = shrink(&model, &plan(&[("a", &[0])]))
            .unwrap_err()
            .to_string();
        let expect = format!("node `move` ({kind}): coupling of channels through {kind}");
        assert!(message.contains(&expect), "{message}");
    }
}

#[test]
fn keep_lists_that_do_not_fit_are_errors() {
    struct Case {
        layer: &'static str,
        keep: &'static [usize],
        expect: &'static str,
    }
    let cases = [
        // Nothing left.
        Case {
            layer: "b",
            keep: &[],
            expect: "keep-list of `b`: it is empty, at least one channel must stay",
        },
        // Twice the same.
        Case {
            layer: "b",
            keep: &[1, 1],
            expect: "keep-list of `b`: its indices do not ascend",
        },
        // One past the end.
        Case {
            layer: "b",
            keep: &[0, 4],
            expect: "keep-list of `b`: it names channel 4 of 4",
        },
        // Not there, and there but no layer.
        Case {
            layer: "z",
            keep: &[0],
            expect: "no Conv or Gemm `z`; there are a, b, c, d, e",
        },
        Case {
            layer: "a.relu",
            keep: &[0],
            expect: "no Conv or Gemm `a.relu`; there are a, b, c, d, e",
        },
    ];
    for case in cases {
        let plan = plan(&[(case.layer, case.keep)]);
        let errors = [
            shrink(&long_chain(), &plan).unwrap_err(),
            mask_channels(&long_chain(), &plan).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.to_string(), case.expect);
        }
    }
}

fn scores(of: &[(&str, &[f64])]) -> ChannelScores {
    let scores = of.iter().map(|(name, s)| ((*name).to_owned(), s.to_vec()));
    scores.collect()
}

/// Scores for the long chain: 5, 4, 3 and 6 channels.
fn chain_scores() -> ChannelScores {
    scores(&[
        ("a", &[5.0, 1.0, 4.0, 2.0, 3.0]),
        ("b", &[7.0; 4]),
        ("c", &[-1.0, 0.0, -2.0]),
        ("d", &[0.1, 0.6, 0.2, 0.5, 0.3, 0.4]),
    ])
}

#[test]
fn plans_keep_the_largest() {
    struct Case {
        ratio: f64,
        multiple_of: usize,
        min_channels: usize,
        exclude: &'static [&'static str],
        expect: &'static [(&'static str, &'static [usize])],
    }
    let cases = [
        // round(2.5) is 3, round(1.5) is 2; ties in b go to the lower index.
        Case {
            ratio: 0.5,
            multiple_of: 1,
            min_channels: 1,
            exclude: &[],
            expect: &[
                ("a", &[0, 2, 4]),
                ("b", &[0, 1]),
                ("c", &[0, 1]),
                ("d", &[1, 3, 5]),
            ],
        },
        // A ratio of nearly nothing: the minimum holds.
        Case {
            ratio: 1e-9,
            multiple_of: 1,
            min_channels: 2,
            exclude: &[],
            expect: &[
                ("a", &[0, 2]),
                ("b", &[0, 1]),
                ("c", &[0, 1]),
                ("d", &[1, 3]),
            ],
        },
        // Multiples round up, to all channels at most.
        Case {
            ratio: 0.2,
            multiple_of: 4,
            min_channels: 1,
            exclude: &["d"],
            expect: &[
                ("a", &[0, 2, 3, 4]),
                ("b", &[0, 1, 2, 3]),
                ("c", &[0, 1, 2]),
            ],
        },
        // Ratio 1 is the one way to ask for nothing.
        Case {
            ratio: 1.0,
            multiple_of: 1,
            min_channels: 1,
            exclude: &["a", "b", "d"],
            expect: &[("c", &[0, 1, 2])],
        },
    ];
    for case in cases {
        let request = ChannelRequest {
            target: ChannelTarget::KeepRatio(case.ratio),
            multiple_of: case.multiple_of,
            min_channels: case.min_channels,
            exclude: case.exclude.iter().map(|e| (*e).to_owned()).collect(),
        };
        let found = plan_channels(&long_chain(), &chain_scores(), &request).unwrap();
        assert_eq!(found, plan(case.expect));
        assert_masked_equals_shrunk(&long_chain(), &found);
    }
    let counts = BTreeMap::from([("a".to_owned(), 2), ("d".to_owned(), 1)]);
    let request = ChannelRequest::new(ChannelTarget::KeepCounts(counts));
    let found = plan_channels(&long_chain(), &chain_scores(), &request).unwrap();
    assert_eq!(found, plan(&[("a", &[0, 2]), ("d", &[1])]));
}

#[test]
fn senseless_plans_are_errors() {
    let ratio = |r| ChannelRequest::new(ChannelTarget::KeepRatio(r));
    let count = |name: &str, n| {
        ChannelRequest::new(ChannelTarget::KeepCounts([(name.to_owned(), n)].into()))
    };
    struct Case {
        request: ChannelRequest,
        expect: &'static str,
    }
    let cases = [
        // Rounds to all channels everywhere.
        Case {
            request: ratio(0.95),
            expect: "removes nothing from 18 removable channels",
        },
        Case {
            request: count("a", 5),
            expect: "removes nothing from 5 removable channels",
        },
        // Ratios outside (0, 1].
        Case {
            request: ratio(0.0),
            expect: "the keep ratio is 0, expected more than 0 and at most 1",
        },
        Case {
            request: ratio(f64::NAN),
            expect: "the keep ratio is NaN",
        },
        // Counts outside 1 to n, or no multiple.
        Case {
            request: count("a", 0),
            expect: "channels to keep of `a` is 0, expected 1 to 5",
        },
        Case {
            request: ChannelRequest {
                multiple_of: 2,
                ..count("a", 3)
            },
            expect: "channels to keep of `a` is 3, expected 1 to 5, a multiple of 2 or all",
        },
        // The classes.
        Case {
            request: count("e", 1),
            expect: "node `e` (Gemm): its outputs are the network's result",
        },
        // An idle filter, a zero multiple.
        Case {
            request: ChannelRequest {
                exclude: vec!["conv*".to_owned()],
                ..ratio(0.5)
            },
            expect: "the filter `conv*` matches none of a, b, c, d, e",
        },
        Case {
            request: ChannelRequest {
                multiple_of: 0,
                ..ratio(0.5)
            },
            expect: "multiple_of is 0, expected 1 or more",
        },
    ];
    for case in cases {
        let message = plan_channels(&long_chain(), &chain_scores(), &case.request)
            .unwrap_err()
            .to_string();
        assert!(message.contains(case.expect), "{message}");
    }
    let with = |name: &str, values: &[f64]| {
        let mut all = chain_scores();
        all.insert(name.to_owned(), values.to_vec());
        plan_channels(&long_chain(), &all, &ratio(0.5))
            .unwrap_err()
            .to_string()
    };
    assert!(with("c", &[0.0, f64::NAN, 1.0]).contains("score 1 of `c` is NaN"));
    assert!(with("c", &[0.0, 1.0]).contains("channel scores of `c`: shape [2], expected [3]"));
    let none = plan_channels(&long_chain(), &ChannelScores::new(), &ratio(0.5)).unwrap_err();
    assert!(none.to_string().contains("no channel scores of `a`"));
}
