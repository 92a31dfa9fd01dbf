//! Exact counts, total order, minima, earlier masks and every refusal.

use super::*;
use ndarray::Array;
use opt_core::op::Op;
use opt_core::{Graph, Params, Task, zoo};
use proptest::prelude::*;

/// Gemms in a row, without biases: layer i is `l{i}` with `sizes[i]` rows of the size before it.
fn stack(widths: &[usize]) -> Model {
    let mut graph = Graph::new();
    let mut x = graph.push("flatten", Op::Flatten, &[0]);
    let mut params = Params::new();
    for (i, pair) in widths.windows(2).enumerate() {
        let weight = format!("l{i}.weight");
        let value = Array::from_elem(vec![pair[1], pair[0]], 1.0).into_shared();
        params.insert(weight.clone(), value);
        x = graph.push(format!("l{i}"), Op::Gemm { weight, bias: None }, &[x]);
    }
    let mut input = Task::cifar10().input;
    input.shape = [widths[0], 1, 1];
    Model {
        graph,
        params,
        input,
    }
}

fn scores(model: &Model, values: &[&[f32]]) -> Scores {
    let names = model.weight_names();
    let of = |(name, values): (&&str, &&[f32])| {
        let shape = model.params[*name].shape();
        let values = Array::from_shape_vec(shape, values.to_vec()).unwrap();
        ((*name).to_owned(), values)
    };
    names.iter().zip(values).map(of).collect()
}

fn kept(selection: &Selection) -> Vec<Vec<usize>> {
    let of = |row: &LayerSelection| match selection.masks.get(&row.param) {
        None => (0..row.total).collect(),
        Some(mask) => {
            let flags = mask.keep();
            let flags = flags.iter().enumerate();
            let kept: Vec<usize> = flags.filter(|(_, k)| **k).map(|(i, _)| i).collect();
            assert_eq!(kept.len(), row.kept);
            kept
        }
    };
    selection.layers.iter().map(of).collect()
}

#[test]
fn selections() {
    // Two layers of 4 and 2 weights.
    let model = stack(&[2, 2, 1]);
    struct Case {
        scores: [&'static [f32]; 2],
        scope: Scope,
        sparsity: f64,
        minimum: usize,
        expect: [&'static [usize]; 2],
        notes: [Option<Note>; 2],
    }
    let cases = [
        // The three largest of all.
        Case {
            scores: [&[1.0, 6.0, 2.0, 5.0], &[4.0, 3.0]],
            scope: Scope::Global,
            sparsity: 0.5,
            minimum: 1,
            expect: [&[1, 3], &[0]],
            notes: [None, None],
        },
        // Half of each layer.
        Case {
            scores: [&[1.0, 6.0, 2.0, 5.0], &[4.0, 3.0]],
            scope: Scope::PerLayer,
            sparsity: 0.5,
            minimum: 1,
            expect: [&[1, 3], &[0]],
            notes: [None, None],
        },
        // All equal: the earlier layer wins, then the lower index; the minimum saves one of the last layer.
        Case {
            scores: [&[1.0; 4], &[1.0; 2]],
            scope: Scope::Global,
            sparsity: 0.5,
            minimum: 1,
            expect: [&[0, 1], &[0]],
            notes: [None, None],
        },
        // Without a minimum a layer may be emptied.
        Case {
            scores: [&[1.0; 4], &[1.0; 2]],
            scope: Scope::Global,
            sparsity: 0.5,
            minimum: 0,
            expect: [&[0, 1, 2], &[]],
            notes: [None, None],
        },
        // A minimum above a layer's size is its size.
        Case {
            scores: [&[9.0; 4], &[1.0; 2]],
            scope: Scope::Global,
            sparsity: 1.0 / 6.0,
            minimum: 3,
            expect: [&[0, 1, 2], &[0, 1]],
            notes: [None, Some(Note::AllKept)],
        },
        // Half zeros and a small ratio: one is removed, not half of them. 0.9 · 6 = 5.4.
        Case {
            scores: [&[0.0, 0.0, 0.0, 5.0], &[4.0, 3.0]],
            scope: Scope::Global,
            sparsity: 0.1,
            minimum: 1,
            expect: [&[0, 1, 3], &[0, 1]],
            notes: [None, Some(Note::AllKept)],
        },
        // Ratio 0: nothing.
        Case {
            scores: [&[1.0, 6.0, 2.0, 5.0], &[4.0, 3.0]],
            scope: Scope::Global,
            sparsity: 0.0,
            minimum: 1,
            expect: [&[0, 1, 2, 3], &[0, 1]],
            notes: [Some(Note::AllKept), Some(Note::AllKept)],
        },
        // Ratio 1 where nothing need stay.
        Case {
            scores: [&[1.0, 6.0, 2.0, 5.0], &[4.0, 3.0]],
            scope: Scope::Global,
            sparsity: 1.0,
            minimum: 0,
            expect: [&[], &[]],
            notes: [None, None],
        },
        // Ratio 1 in layer scope: the minimum wins and says so.
        Case {
            scores: [&[1.0, 6.0, 2.0, 5.0], &[4.0, 3.0]],
            scope: Scope::PerLayer,
            sparsity: 1.0,
            minimum: 1,
            expect: [&[1], &[0]],
            notes: [Some(Note::HeldByMinimum), Some(Note::HeldByMinimum)],
        },
        // Halves round up: 0.5 and 1 stay of 2 and 4 as 1 and 1.
        Case {
            scores: [&[1.0, 6.0, 2.0, 5.0], &[4.0, 3.0]],
            scope: Scope::PerLayer,
            sparsity: 0.75,
            minimum: 0,
            expect: [&[1], &[0]],
            notes: [None, None],
        },
        // Signed scores, as the second order gives.
        Case {
            scores: [&[-1.0, -6.0, -2.0, -5.0], &[0.0, -0.5]],
            scope: Scope::Global,
            sparsity: 0.5,
            minimum: 0,
            expect: [&[0], &[0, 1]],
            notes: [None, Some(Note::AllKept)],
        },
    ];
    for (i, case) in cases.into_iter().enumerate() {
        let mut request = SelectRequest::sparsity(case.scope, case.sparsity);
        request.min_keep_per_layer = case.minimum;
        let scores = scores(&model, &case.scores);
        let selection = select(&model, &scores, &Masks::new(), &request).unwrap();
        assert_eq!(kept(&selection), case.expect, "case {i}");
        let notes: Vec<_> = selection.layers.iter().map(|l| l.note.clone()).collect();
        assert_eq!(notes, case.notes, "case {i}");
    }
}

#[test]
fn earlier_rounds_hold_whatever_the_scores_say() {
    let model = stack(&[2, 2, 1]);
    let first = scores(&model, &[&[4.0, 3.0, 2.0, 1.0], &[6.0, 5.0]]);
    let request = SelectRequest::sparsity(Scope::Global, 1.0 / 3.0);
    let one = select(&model, &first, &Masks::new(), &request).unwrap();
    assert_eq!(kept(&one), [vec![0, 1], vec![0, 1]]);

    // What was removed now scores best and still stays out; half of the original six stay.
    let second = scores(&model, &[&[1.0, 2.0, 90.0, 80.0], &[4.0, 3.0]]);
    let request = SelectRequest::sparsity(Scope::Global, 0.5);
    let two = select(&model, &second, &one.masks, &request).unwrap();
    assert_eq!(kept(&two), [vec![1], vec![0, 1]]);

    // The same target again changes nothing.
    let again = select(&model, &second, &two.masks, &request).unwrap();
    assert_eq!(again.masks, two.masks);

    // An excluded layer keeps the mask that it had.
    let mut request = SelectRequest::sparsity(Scope::PerLayer, 0.5);
    request.exclude = vec!["l0.*".to_owned()];
    let three = select(&model, &second, &two.masks, &request).unwrap();
    assert_eq!(kept(&three), [vec![1], vec![0]]);

    // A schedule that falls.
    let request = SelectRequest::sparsity(Scope::Global, 0.1);
    let message = select(&model, &second, &two.masks, &request)
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "global sparsity 0.1 keeps 5 weights, but earlier rounds left 3; a schedule must not fall"
    );
}

#[test]
fn exclusions_and_counts() {
    let model = stack(&[2, 2, 1]);
    let scores = scores(&model, &[&[4.0, 3.0, 2.0, 1.0], &[6.0, 5.0]]);
    let mut request = SelectRequest::sparsity(Scope::Global, 0.5);
    request.exclude = vec!["l1*".to_owned()];
    let selection = select(&model, &scores, &Masks::new(), &request).unwrap();
    assert_eq!(kept(&selection), [vec![0, 1], vec![0, 1]]);
    assert!(!selection.masks.contains_key("l1.weight"));
    let filter = "l1*".to_owned();
    assert_eq!(selection.layers[1].note, Some(Note::Excluded { filter }));
    assert!((selection.sparsity() - 1.0 / 3.0).abs() < 1e-15);

    let counts = BTreeMap::from([("l0.weight".to_owned(), 3)]);
    let request = SelectRequest::new(Target::KeepCounts(counts));
    let selection = select(&model, &scores, &Masks::new(), &request).unwrap();
    assert_eq!(kept(&selection), [vec![0, 1, 2], vec![0, 1]]);
    assert_eq!(selection.layers[1].note, Some(Note::NotNamed));
}

#[test]
fn refusals() {
    let model = stack(&[2, 2, 1]);
    let good = scores(&model, &[&[4.0, 3.0, 2.0, 1.0], &[6.0, 5.0]]);
    let global = |s| SelectRequest::sparsity(Scope::Global, s);
    let counts = |name: &str, n| {
        SelectRequest::new(Target::KeepCounts(BTreeMap::from([(name.to_owned(), n)])))
    };
    struct Case {
        request: SelectRequest,
        expect: &'static str,
    }
    let cases = [
        // 0.99 · 6 rounds to 6.
        Case {
            request: global(0.01),
            expect: "removes nothing from 6 weights",
        },
        Case {
            request: SelectRequest::sparsity(Scope::PerLayer, 0.01),
            expect: "removes nothing from 6 weights",
        },
        Case {
            request: counts("l0.weight", 4),
            expect: "removes nothing from 4 weights",
        },
        // Nothing takes part.
        Case {
            request: SelectRequest {
                exclude: vec!["*".to_owned()],
                ..global(0.5)
            },
            expect: "removes nothing from 0 weights",
        },
        // One is to stay of two layers with a minimum of one.
        Case {
            request: global(0.8),
            expect: "global sparsity 0.8 keeps 1 weights, but 2 layers with a minimum of 1 need 2; lower",
        },
        // Outside 0 to 1.
        Case {
            request: global(-0.1),
            expect: "the sparsity is -0.1, expected 0 to 1",
        },
        Case {
            request: global(1.5),
            expect: "the sparsity is 1.5",
        },
        Case {
            request: global(f64::NAN),
            expect: "the sparsity is NaN",
        },
        // A filter that matches nothing.
        Case {
            request: SelectRequest {
                exclude: vec!["l2.*".to_owned()],
                ..global(0.5)
            },
            expect: "the filter `l2.*` matches none of l0.weight, l1.weight",
        },
        // Counts of nothing, below the minimum, above the size, and of an excluded layer.
        Case {
            request: counts("l9.weight", 1),
            expect: "no prunable weight (that no filter excludes) `l9.weight`",
        },
        Case {
            request: counts("l0.weight", 0),
            expect: "keep of `l0.weight` is 0, expected 1 to 4",
        },
        Case {
            request: counts("l0.weight", 5),
            expect: "keep of `l0.weight` is 5, expected 1 to 4",
        },
        Case {
            request: SelectRequest {
                exclude: vec!["l0.*".to_owned()],
                ..counts("l0.weight", 1)
            },
            expect: "no prunable weight (that no filter excludes) `l0.weight`",
        },
    ];
    for case in cases {
        let message = select(&model, &good, &Masks::new(), &case.request)
            .unwrap_err()
            .to_string();
        assert!(message.contains(case.expect), "{message}");
    }

    let mut nan = good.clone();
    nan.get_mut("l1.weight").unwrap()[[0, 1]] = f32::NAN;
    let error = select(&model, &nan, &Masks::new(), &global(0.5)).unwrap_err();
    assert!(error.to_string().contains("score 1 of `l1.weight` is NaN"));
    let mut missing = good.clone();
    missing.remove("l0.weight");
    let error = select(&model, &missing, &Masks::new(), &global(0.5)).unwrap_err();
    assert!(error.to_string().contains("no scores of `l0.weight`"));
    let other = Masks::from([(
        "l0.weight".to_owned(),
        Mask::new(ArrayD::from_elem(vec![4], true)),
    )]);
    let error = select(&model, &good, &other, &global(0.5)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the previous mask of `l0.weight`: shape [4], expected [2, 2]")
    );
}

#[test]
fn large_nets_are_cut_exactly() {
    let model = zoo::build("resnet20", &Task::cifar10(), 2).unwrap();
    let criterion = crate::Criterion::Magnitude(crate::Norm::L1);
    let scores = crate::score(&model, &criterion, None).unwrap();
    for (sparsity, expect) in [(0.4, 161_002), (0.9, 26_834), (0.99, 2_683), (0.9999, 27)] {
        let request = SelectRequest::sparsity(Scope::Global, sparsity);
        let selection = select(&model, &scores, &Masks::new(), &request).unwrap();
        let kept: usize = selection.layers.iter().map(|l| l.kept).sum();
        assert_eq!(kept, expect, "{sparsity}");
        assert!(selection.layers.iter().all(|l| l.kept >= 1));
    }
}

/// The definition, in global scope: each layer's minimum first, then the best of the rest, everything sorted.
fn by_sorting(
    layers: &[Vec<f32>],
    alive: &[Vec<bool>],
    minimum: usize,
    n_keep: usize,
) -> Vec<Vec<bool>> {
    let mut keep: Vec<Vec<bool>> = layers.iter().map(|l| vec![false; l.len()]).collect();
    let mut rest = Vec::new();
    for (l, scores) in layers.iter().enumerate() {
        let mut order: Vec<usize> = (0..scores.len()).filter(|&i| alive[l][i]).collect();
        order.sort_by(|&i, &j| scores[j].total_cmp(&scores[i]).then(i.cmp(&j)));
        let (first, others) = order.split_at(minimum.min(order.len()));
        first.iter().for_each(|&i| keep[l][i] = true);
        rest.extend(others.iter().map(|&i| (scores[i], l, i)));
    }
    let n_kept: usize = keep.iter().flatten().filter(|k| **k).count();
    rest.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    for &(_, l, i) in &rest[..n_keep - n_kept] {
        keep[l][i] = true;
    }
    keep
}

fn any_score() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => (-3i8..3).prop_map(f32::from),
        1 => any::<u32>().prop_map(f32::from_bits).prop_filter("NaN", |s| !s.is_nan()),
        1 => (0..9u32).prop_map(f32::from_bits),
        1 => prop::sample::select(vec![f32::INFINITY, f32::NEG_INFINITY, -0.0]),
    ]
}

proptest! {
    #[test]
    fn a_global_selection_is_that_of_a_full_sort(
        layers in prop::collection::vec(prop::collection::vec((any_score(), prop::bool::weighted(0.8)), 0..30), 1..6),
        minimum in 0..4usize,
        sparsity in 0.0..1.0f64,
    ) {
        let (scores, alive): (Vec<Vec<f32>>, Vec<Vec<bool>>) =
            layers.into_iter().map(|layer| layer.into_iter().unzip()).unzip();
        let name = |l: usize| format!("layer {l}");
        let mask = |(l, keep): (usize, &Vec<bool>)| (name(l), Mask::new(Array::from_vec(keep.clone()).into_dyn()));
        let previous: Masks = alive.iter().enumerate().map(mask).collect();
        let n_keep = count_of(sparsity, scores.iter().map(Vec::len).sum());
        let request = SelectRequest {
            min_keep_per_layer: minimum,
            ..SelectRequest::sparsity(Scope::Global, sparsity)
        };
        let run = |n_threads: usize| {
            let named = scores.iter().enumerate().map(|(l, scores)| (name(l), scores));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            let named: Vec<_> = named.collect();
            pool.install(|| select_arrays(named, &previous, &request))
        };
        let found = run(1);
        prop_assert_eq!(&run(3), &found);
        let left = |alive: &Vec<bool>| alive.iter().filter(|a| **a).count();
        let minima: usize = alive.iter().map(|a| minimum.min(left(a))).sum();
        let all_left: usize = alive.iter().map(left).sum();
        match found {
            Ok(selection) => {
                let expected = by_sorting(&scores, &alive, minimum, n_keep);
                let found: Masks = expected.iter().enumerate().map(mask).collect();
                prop_assert_eq!(&selection.masks, &found);
                for (l, row) in selection.layers.iter().enumerate() {
                    prop_assert_eq!(&row.param, &name(l));
                    prop_assert_eq!(row.kept, left(&expected[l]));
                }
            }
            Err(PruneError::Infeasible { .. }) => prop_assert!(n_keep < minima || n_keep > all_left),
            Err(PruneError::NothingRemoved { .. }) => {
                prop_assert_eq!(n_keep, scores.iter().map(Vec::len).sum::<usize>());
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

#[test]
fn arrays_are_selected_as_a_model_is() {
    let model = zoo::build("resnet20", &Task::cifar10(), 2).unwrap();
    let scores = crate::score(&model, &crate::Criterion::Random { seed: 3 }, None).unwrap();
    for scope in [Scope::Global, Scope::PerLayer] {
        let request = SelectRequest::sparsity(scope, 0.7);
        let by_model = select(&model, &scores, &Masks::new(), &request).unwrap();
        let in_order = model
            .weight_names()
            .into_iter()
            .map(|name| (name, &scores[name]));
        let by_name = select_arrays(in_order, &Masks::new(), &request).unwrap();
        assert_eq!(by_name, by_model);
    }
}

#[test]
fn the_order_of_arrays_breaks_ties_and_strides_do_not_matter() {
    let ones = Array::from_elem((2, 3), 1.0f32);
    let request = SelectRequest {
        min_keep_per_layer: 0,
        ..SelectRequest::sparsity(Scope::Global, 0.5)
    };
    let selection = select_arrays([("z", &ones), ("a", &ones)], &Masks::new(), &request).unwrap();
    assert_eq!(kept(&selection), [vec![0, 1, 2, 3, 4, 5], vec![]]);
    // The flat index is that of the transposed array: 0 3 1 4 2 5.
    let scores = Array::from_shape_fn((2, 3), |(i, j)| (3 * i + j) as f32);
    let selection = select_arrays([("t", scores.t())], &Masks::new(), &request).unwrap();
    assert_eq!(kept(&selection), [vec![1, 3, 5]]);
    // A transposed mask from before removes the same elements.
    let old = Array::from_shape_fn((2, 3), |(i, _)| i == 0).reversed_axes();
    let previous = Masks::from([("t".to_owned(), Mask::new(old.into_dyn()))]);
    let selection = select_arrays([("t", scores.t())], &previous, &request).unwrap();
    assert_eq!(kept(&selection), [vec![0, 2, 4]]);
    // Slices, and arrays without elements.
    let pairs = [("full", &[1.0f32, 2.0][..]), ("empty", &[])];
    let selection = select_arrays(pairs, &Masks::new(), &request).unwrap();
    assert_eq!(kept(&selection), [vec![1], vec![]]);
}

#[test]
fn arrays_that_do_not_fit_are_refused() {
    let one = [1.0f32, 2.0];
    let request = SelectRequest::sparsity(Scope::Global, 0.5);
    let message = |arrays: &[(&str, &[f32])], previous: &Masks| {
        let arrays = arrays.iter().copied();
        select_arrays(arrays, previous, &request)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message(&[("a", &one), ("a", &one)], &Masks::new()),
        "two arrays are called `a`; every name must occur once"
    );
    let mask = |len: usize| Mask::new(ArrayD::from_elem(vec![len], true));
    let previous = Masks::from([("b".to_owned(), mask(2))]);
    assert_eq!(
        message(&[("a", &one)], &previous),
        "no array for the previous mask `b`; there are a"
    );
    let previous = Masks::from([("a".to_owned(), mask(3))]);
    assert!(message(&[("a", &one)], &previous).contains("shape [3], expected [2]"));
    let nan = [1.0, f32::NAN];
    assert!(message(&[("a", &one), ("b", &nan)], &Masks::new()).contains("score 1 of `b` is NaN"));
    assert!(message(&[], &Masks::new()).contains("removes nothing from 0 weights"));
}

proptest! {
    #[test]
    fn counts_are_exact_and_the_order_is_respected(
        a in proptest::collection::vec(-2i8..2, 12),
        b in proptest::collection::vec(-2i8..2, 8),
        sparsity in 0.0..0.85f64,
        per_layer: bool,
    ) {
        let model = stack(&[3, 4, 2]);
        let values: Vec<Vec<f32>> =
            [&a, &b].map(|v| v.iter().copied().map(f32::from).collect()).to_vec();
        let scores = scores(&model, &[&values[0], &values[1]]);
        let scope = if per_layer { Scope::PerLayer } else { Scope::Global };
        let request = SelectRequest::sparsity(scope, sparsity);
        match select(&model, &scores, &Masks::new(), &request) {
            Err(PruneError::NothingRemoved { .. }) => {
                let largest = if per_layer { 12 } else { 20 };
                prop_assert_eq!(count_of(sparsity, largest), largest);
            }
            Err(other) => prop_assert!(false, "{}", other),
            Ok(selection) => {
                let n: Vec<usize> = selection.layers.iter().map(|l| l.kept).collect();
                // Slow reference: every kept element beyond the minimum against every removed one.
                let rank = |layer: usize, i: usize| (-i16::from([&a, &b][layer][i]), layer, i);
                let kept = kept(&selection);
                if per_layer {
                    prop_assert_eq!(&n, &vec![count_of(sparsity, 12).max(1), count_of(sparsity, 8).max(1)]);
                } else {
                    prop_assert_eq!(n.iter().sum::<usize>(), count_of(sparsity, 20));
                }
                for (layer, layer_values) in values.iter().enumerate() {
                    for removed in (0..layer_values.len()).filter(|i| !kept[layer].contains(i)) {
                        for (other, other_kept) in kept.iter().enumerate() {
                            if other_kept.len() == 1 || (per_layer && other != layer) {
                                continue;
                            }
                            for &k in other_kept {
                                prop_assert!(rank(other, k) < rank(layer, removed));
                            }
                        }
                    }
                }
            }
        }
    }
}
