//! What holds for every tensor and every width, against slow references where there is one.
//!
//! Not asserted, because it is not true: re-calibrating an affine tensor from its decoded values gives the same
//! parameters (nudging moves the ends); the literal formula keeps zero; plain min-max error falls with every single bit
//! on tiny tensors; the error of one channel is never worse with its own scale (only the bound is).
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "the helpers of a test are tests too"
)]

mod generators;

use generators::{ties, values, weight};
use ndarray::{Array1, ArrayD, Axis};
use opt_core::codes::{pack, unpack};
use opt_core::lower::bias_code;
use opt_core::{Dequantize, QParams};
use opt_quant::quantizer::affine::{affine, unsigned_codes};
use opt_quant::quantizer::k_means::k_means;
use opt_quant::quantizer::symmetric::{Granularity, symmetric, symmetric_with_bias};
use opt_quant::quantizer::uniform_levels::{level, uniform_levels, uniform_levels_keeping_zero};
use opt_quant::{MinMax, QuantError, WeightMethod, affine_params, metrics, quantize_weight};
use proptest::prelude::*;

const EPS: f64 = f32::EPSILON as f64;

/// One output channel.
fn tensor(values: &[f32]) -> ArrayD<f32> {
    let row = Array1::from_vec(values.to_vec());
    row.insert_axis(Axis(0)).into_dyn()
}

fn params_of(values: &[f32], bits: u8) -> QParams {
    let range = MinMax::of(&tensor(values).view()).unwrap();
    affine_params(range.min, range.max, unsigned_codes(bits).unwrap()).unwrap()
}

/// The specification in f64 and integers: half to even by cases, zero point added after.
fn slow_code(x: f32, p: &QParams) -> i64 {
    // The quotient is an f32, as in ONNX.
    let quotient = f64::from(x / p.scale).clamp(-1e9, 1e9);
    let (floor, fraction) = (quotient.floor(), quotient - quotient.floor());
    let up = fraction > 0.5 || (fraction == 0.5 && floor.rem_euclid(2.0) == 1.0);
    let rounded = floor as i64 + i64::from(up);
    (rounded + i64::from(p.zero_point)).clamp(p.qmin.into(), p.qmax.into())
}

fn any_params() -> impl Strategy<Value = QParams> {
    (1e-20f32..1e20, -20..=20i32, 1..=8u8, 0.0..1.0f64).prop_map(|(m, e, bits, at)| {
        let qmax = (1i32 << bits) - 1;
        let zero_point = (at * f64::from(qmax + 1)) as i32;
        // Half of the scales are powers of two, so that ties occur.
        let scale = if e % 2 == 0 { 2f32.powi(e) } else { m };
        QParams::new(scale, zero_point, 0, qmax).unwrap()
    })
}

proptest! {
    // 1: the reconstruction bound; 3: the code range; 5: the domain of the parameters.
    #[test]
    fn affine_error_is_at_most_half_a_step(values in values(), bits in 1..=8u8) {
        let p = params_of(&values, bits);
        prop_assert!(p.scale.is_normal() && p.scale > 0.0);
        prop_assert!((p.qmin..=p.qmax).contains(&p.zero_point));
        let bound = f64::from(p.scale) * (0.5 + 2.0 * f64::from(p.qmax - p.qmin) * EPS);
        for &x in &values {
            prop_assert!((p.qmin..=p.qmax).contains(&p.quantize(x)));
            let error = (f64::from(p.fake_quantize(x)) - f64::from(x)).abs();
            prop_assert!(error <= bound, "{x}: {error} above {bound}");
        }
        let low = values.iter().fold(0f32, |a, &b| a.min(b));
        if low == 0.0 {
            prop_assert_eq!(p.zero_point, p.qmin);
        }
    }

    // 2: saturation; 3, for numbers from anywhere.
    #[test]
    fn affine_saturates(p in any_params(), bits in any::<u32>()) {
        let x = f32::from_bits(bits);
        prop_assume!(x.is_finite());
        let q = p.quantize(x);
        prop_assert!((p.qmin..=p.qmax).contains(&q));
        if x > p.dequantize(p.qmax) {
            prop_assert_eq!(q, p.qmax);
        }
        if x < p.dequantize(p.qmin) {
            prop_assert_eq!(q, p.qmin);
        }
    }

    // 4: zero is exact.
    #[test]
    fn zero_is_exact(values in values(), bits in 2..=8u8) {
        let p = params_of(&values, bits);
        for zero in [0.0f32, -0.0] {
            prop_assert_eq!(p.quantize(zero), p.zero_point);
            prop_assert_eq!(p.fake_quantize(zero).to_bits(), 0);
        }
        let weights = tensor(&values);
        for granularity in [Granularity::PerTensor, Granularity::PerChannel] {
            let q = symmetric(&weights.view(), bits, granularity).unwrap();
            for (&w, &decoded) in weights.iter().zip(&q.dequantize()) {
                prop_assert!(w != 0.0 || decoded.to_bits() == 0);
            }
        }
    }

    // 6: every code survives; 7: fake quantization is idempotent, bit for bit.
    #[test]
    fn codes_and_fake_quantization_are_idempotent(p in any_params(), x in -1e3f32..1e3) {
        for q in p.qmin..=p.qmax {
            prop_assert_eq!(p.quantize(p.dequantize(q)), q);
        }
        let once = p.fake_quantize(x * p.scale);
        prop_assert_eq!(p.fake_quantize(once).to_bits(), once.to_bits());
    }

    // 8: re-calibration of the symmetric scheme.
    #[test]
    fn symmetric_scales_survive_recalibration(weights in weight(), bits in 2..=8u8) {
        let once = symmetric(&weights.view(), bits, Granularity::PerChannel).unwrap();
        let twice = symmetric(&once.dequantize().view(), bits, Granularity::PerChannel).unwrap();
        prop_assert_eq!(&twice.codes, &once.codes);
        for (channel, (a, b)) in once.scales.iter().zip(&twice.scales).enumerate() {
            let dead = once.codes.index_axis(Axis(0), channel).iter().all(|&q| q == 0);
            prop_assert!(dead || a == b, "{a} became {b}");
        }
    }

    // 9: monotone without tolerance.
    #[test]
    fn quantizing_is_monotone(values in values(), bits in 1..=8u8) {
        let p = params_of(&values, bits);
        let mut sorted = values.clone();
        sorted.sort_by(f32::total_cmp);
        let low = sorted[0];
        let high = sorted[sorted.len() - 1];
        for pair in sorted.windows(2) {
            prop_assert!(p.quantize(pair[0]) <= p.quantize(pair[1]));
            prop_assert!(p.fake_quantize(pair[0]) <= p.fake_quantize(pair[1]));
            prop_assert!(level(pair[0], low, high, 16) <= level(pair[1], low, high, 16));
        }
    }

    // 10: negation.
    #[test]
    fn symmetric_codes_negate(weights in weight(), bits in 2..=8u8) {
        for granularity in [Granularity::PerTensor, Granularity::PerChannel] {
            let plus = symmetric(&weights.view(), bits, granularity).unwrap();
            let minus = symmetric(&weights.mapv(|w| -w).view(), bits, granularity).unwrap();
            prop_assert_eq!(&plus.scales, &minus.scales);
            prop_assert_eq!(plus.codes, minus.codes.mapv(|q| -q));
        }
    }

    // 11: scaling by a power of two changes the scale alone.
    #[test]
    fn powers_of_two_change_the_scale_alone(
        values in prop_oneof![prop::collection::vec(-1.0f32..1.0, 1..80), ties()],
        k in -20..=20i32,
        bits in 2..=8u8,
    ) {
        // Not below 2^-60, so that nothing becomes subnormal.
        let values: Vec<f32> = values.into_iter().map(|x| if x.abs() < 1e-18 { 0.0 } else { x }).collect();
        prop_assume!(values.iter().any(|&x| x != 0.0));
        let factor = 2f32.powi(k);
        let scaled: Vec<f32> = values.iter().map(|x| x * factor).collect();
        let (p, q) = (params_of(&values, bits), params_of(&scaled, bits));
        prop_assert_eq!(p.scale * factor, q.scale);
        prop_assert_eq!(p.zero_point, q.zero_point);
        for (&x, &y) in values.iter().zip(&scaled) {
            prop_assert_eq!(p.quantize(x), q.quantize(y));
        }
        let (a, b) = (tensor(&values), tensor(&scaled));
        let a = symmetric(&a.view(), bits, Granularity::PerTensor).unwrap();
        let b = symmetric(&b.view(), bits, Granularity::PerTensor).unwrap();
        prop_assert_eq!(a.scales[0] * factor, b.scales[0]);
        prop_assert_eq!(a.codes, b.codes);
    }

    // 12: the literal formula translates by levels.
    #[test]
    fn moving_by_steps_moves_the_level(
        (levels, from, to) in (3..=256u16).prop_flat_map(|l| (Just(l), 0..l - 1, 0..l - 1)),
        exponent in -10..=10i32,
        eighths in 0..=8u8,
    ) {
        let step = 2f32.powi(exponent);
        let (min, max) = (-step, -step + step * f32::from(levels - 1));
        let at = |whole: u16| min + step * (f32::from(whole) + f32::from(eighths) / 8.0);
        let (a, b) = (level(at(from), min, max, levels), level(at(to), min, max, levels));
        prop_assert_eq!(a + to, b + from);
    }

    // 13: order does not matter; channels do not matter to each other.
    #[test]
    fn parameters_do_not_depend_on_the_order(weights in weight(), bits in 2..=8u8) {
        let mut reversed = weights.clone();
        reversed.invert_axis(Axis(0));
        let a = affine(&weights.view(), bits).unwrap();
        let b = affine(&reversed.view(), bits).unwrap();
        prop_assert_eq!(a.params, b.params);
        let a = symmetric(&weights.view(), bits, Granularity::PerChannel).unwrap();
        let b = symmetric(&reversed.view(), bits, Granularity::PerChannel).unwrap();
        prop_assert!(a.scales.iter().eq(b.scales.iter().rev()));
        let mut back = b.codes;
        back.invert_axis(Axis(0));
        prop_assert_eq!(a.codes, back);
    }

    // 14: the rounding of the definition, on ties with even and odd zero points.
    #[test]
    fn codes_are_those_of_the_definition(p in any_params(), halves in prop::collection::vec(-600..=600i16, 1..40)) {
        for half in halves {
            let x = f32::from(half) * 0.5 * p.scale;
            prop_assert_eq!(i64::from(p.quantize(x)), slow_code(x, &p));
        }
    }

    #[test]
    fn tensors_are_quantized_as_numbers_are(values in values(), bits in 2..=8u8) {
        let weights = tensor(&values);
        let quantized = affine(&weights.view(), bits).unwrap();
        for (&x, &q) in values.iter().zip(&quantized.codes) {
            prop_assert_eq!(i64::from(q), slow_code(x, &quantized.params));
        }
        let quantized = symmetric(&weights.view(), bits, Granularity::PerTensor).unwrap();
        let top = (1 << (bits - 1)) - 1;
        let p = QParams::new(quantized.scales[0], 0, -top, top).unwrap();
        for (&x, &q) in values.iter().zip(&quantized.codes) {
            prop_assert_eq!(i64::from(q), slow_code(x, &p));
        }
    }

    // 15: the literal formula.
    #[test]
    fn the_literal_formula_uses_levels_from_1_to_l(values in values(), levels in 2..=256u16) {
        let range = MinMax::of(&tensor(&values).view()).unwrap();
        let quantized = uniform_levels(&tensor(&values).view(), levels).unwrap();
        let decoded = quantized.dequantize();
        let constant = range.min == range.max;
        prop_assert_eq!(level(range.min, range.min, range.max, levels), 1);
        prop_assert_eq!(level(range.max, range.min, range.max, levels), if constant { 1 } else { levels });
        // Half a step; the step and the sum are rounded to f32, which matters relative to the range's ends.
        let largest = f64::from(range.max.abs().max(range.min.abs()));
        let bound = f64::from(quantized.step) * 0.5 + largest * 2.0 * EPS + 256.0 * f64::from(f32::from_bits(1));
        for ((&x, &code), &y) in values.iter().zip(&quantized.codes).zip(&decoded) {
            prop_assert!(u16::from(code) < levels);
            prop_assert_eq!(u16::from(code) + 1, level(x, range.min, range.max, levels));
            prop_assert!((f64::from(y) - f64::from(x)).abs() <= bound, "{x} became {y}, step {}", quantized.step);
            prop_assert!(!constant || (code == 0 && y == x));
        }
    }

    #[test]
    fn zeros_survive_with_a_level_of_their_own(values in values(), bits in 2..=8u8) {
        let quantized = uniform_levels_keeping_zero(&tensor(&values).view(), bits).unwrap();
        prop_assert_eq!(quantized.centroids.len(), 1 << bits);
        let decoded = quantized.dequantize();
        for ((&x, &code), &y) in values.iter().zip(&quantized.codes).zip(&decoded) {
            prop_assert_eq!(x == 0.0, code == 0);
            prop_assert!(x != 0.0 || y.to_bits() == 0);
        }
    }

    // 16: constants.
    #[test]
    fn a_constant_is_nearly_exact(m in prop_oneof![-1.0f32..-0.01, 0.01f32..1.0], e in -30..=30i32, bits in 2..=8u8) {
        let c = m * 10f32.powi(e);
        let weights = tensor(&[c, c, c]);
        for method in methods(bits) {
            let decoded = quantize_weight(&weights.view(), &method).unwrap().dequantize().unwrap();
            for &y in &decoded {
                let error = (f64::from(y) - f64::from(c)).abs();
                prop_assert!(error <= f64::from(c).abs() * 2.0 * EPS, "{method:?}: {c} became {y}");
            }
        }
    }

    // 17: no code for what is not finite.
    #[test]
    fn what_is_not_finite_is_an_error(
        mut values in values(),
        at in any::<prop::sample::Index>(),
        bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
    ) {
        let at = at.index(values.len());
        values[at] = bad;
        for method in methods(4) {
            let result = quantize_weight(&tensor(&values).view(), &method);
            let named = matches!(result, Err(QuantError::NotFinite { index, .. }) if index == at);
            prop_assert!(named, "{method:?}: {result:?}");
        }
    }

    // 19: a channel's own scale is never above the tensor's.
    #[test]
    fn channel_scales_are_at_most_the_tensors(weights in weight(), bits in 2..=8u8) {
        let whole = symmetric(&weights.view(), bits, Granularity::PerTensor).unwrap();
        let split = symmetric(&weights.view(), bits, Granularity::PerChannel).unwrap();
        for (channel, &scale) in weights.axis_iter(Axis(0)).zip(&split.scales) {
            let dead = channel.iter().all(|&w| w == 0.0);
            prop_assert!(dead || scale <= whole.scales[0]);
        }
    }

    // 22: with the same scale, more bits only widen the grid.
    #[test]
    fn bits_at_the_same_scale_never_hurt(x in -1e3f32..1e3, scale in 1e-3f32..1e3, bits in 2..8u8) {
        let at = |bits: u8| {
            let top = (1 << (bits - 1)) - 1;
            let y = QParams::new(scale, 0, -top, top).unwrap().fake_quantize(x);
            (f64::from(y) - f64::from(x)).abs()
        };
        prop_assert!(at(bits + 1) <= at(bits));
    }

    // 24: twice the intervals between the same ends never hurts any element.
    #[test]
    fn halving_the_interval_never_hurts(values in values(), levels in 2..=128u16) {
        let weights = tensor(&values);
        let range = MinMax::of(&weights.view()).unwrap();
        let coarse = uniform_levels(&weights.view(), levels).unwrap().dequantize();
        let fine = uniform_levels(&weights.view(), 2 * levels - 1).unwrap().dequantize();
        // Exact but for the rounding of the step and of the decoded number.
        let slack = f64::from(range.max.abs().max(range.min.abs())) * 2.0 * EPS + 512.0 * f64::from(f32::from_bits(1));
        for ((&x, &a), &b) in values.iter().zip(&coarse).zip(&fine) {
            let error = |y: f32| (f64::from(y) - f64::from(x)).abs();
            prop_assert!(error(b) <= error(a) + slack);
        }
    }

    // 25, for min-max: merging is one pass over all.
    #[test]
    fn merging_is_observing_everything(a in values(), b in values(), c in values()) {
        let of = |parts: &[&[f32]]| {
            let mut range = MinMax::default();
            for part in parts {
                range.observe(part).unwrap();
            }
            range
        };
        let merged = |mut x: MinMax, y: MinMax| {
            x.merge(&y);
            x
        };
        let (ra, rb, rc) = (of(&[&a]), of(&[&b]), of(&[&c]));
        let all = of(&[&a, &b, &c]);
        prop_assert_eq!(merged(merged(ra, rb), rc), all);
        prop_assert_eq!(merged(ra, merged(rb, rc)), all);
        prop_assert_eq!(merged(rc, merged(rb, ra)), all);
        prop_assert_eq!(merged(ra, MinMax::default()), ra);
    }

    // 37: never worse than the grid it starts from.
    #[test]
    fn k_means_is_at_most_as_wrong_as_the_uniform_grid(values in values(), levels in 2..=32u16) {
        let weights = tensor(&values);
        let error = |decoded: ArrayD<f32>| metrics::mse(&weights.view(), &decoded.view()).unwrap();
        let uniform = error(uniform_levels(&weights.view(), levels).unwrap().dequantize());
        let clustered = error(k_means(&weights.view(), levels, false).unwrap().dequantize());
        // The sums run in another order than inside; 80 summands.
        prop_assert!(clustered <= uniform * (1.0 + 1e-12), "{clustered} above {uniform}");
    }

    // 38: assignment, order and means; 39: a pinned zero keeps every zero.
    #[test]
    fn a_codebook_is_sorted_and_assigns_the_nearest(
        values in values(),
        levels in 2..=32u16,
        pin_zero in any::<bool>(),
    ) {
        let quantized = k_means(&tensor(&values).view(), levels, pin_zero).unwrap();
        let centroids = &quantized.centroids;
        prop_assert!(centroids.len() <= usize::from(levels));
        prop_assert!(centroids.windows(2).all(|pair| pair[0] <= pair[1]));
        for (&w, &code) in values.iter().zip(&quantized.codes) {
            let distance = |c: f32| (f64::from(w) - f64::from(c)).abs();
            let mut slow = 0;
            for (index, &c) in centroids.iter().enumerate() {
                if distance(c) < distance(centroids[slow]) {
                    slow = index;
                }
            }
            prop_assert_eq!(usize::from(code), slow);
        }
        for (index, &centroid) in centroids.iter().enumerate() {
            let mine: Vec<f64> = values.iter().zip(&quantized.codes)
                .filter(|&(_, &code)| usize::from(code) == index)
                .map(|(&w, _)| f64::from(w))
                .collect();
            let is_pinned = pin_zero && centroid == 0.0;
            if !(mine.is_empty() || is_pinned) {
                let mean = mine.iter().sum::<f64>() / mine.len() as f64;
                let size = mine.iter().fold(f64::from(f32::MIN_POSITIVE), |a, b| a.max(b.abs()));
                prop_assert!((mean - f64::from(centroid)).abs() <= 1e-6 * size, "{mean}, {centroid}");
            }
        }
        if pin_zero {
            prop_assert!(centroids.contains(&0.0));
            for (&w, &y) in values.iter().zip(&quantized.dequantize()) {
                prop_assert!(w != 0.0 || y == 0.0);
            }
        }
        let mut distinct = values.clone();
        distinct.iter_mut().for_each(|w| *w += 0.0);
        distinct.sort_by(f32::total_cmp);
        distinct.dedup();
        if distinct.len() + usize::from(pin_zero) <= usize::from(levels) {
            prop_assert!(quantized.dequantize().iter().zip(&values).all(|(a, b)| a == b));
        }
    }

    // 41, through the methods: codes fit their width and survive packing.
    #[test]
    fn codes_of_every_method_fit_and_pack(weights in weight(), bits in 2..=8u8) {
        for method in methods(bits) {
            let quantized = quantize_weight(&weights.view(), &method).unwrap();
            prop_assert!(quantized.bits <= bits);
            prop_assert_eq!(quantized.codes.shape(), weights.shape());
            let codes: Vec<u8> = quantized.codes.iter().copied().collect();
            let bytes = pack(&codes, quantized.bits).unwrap();
            prop_assert_eq!(&unpack(&bytes, quantized.bits, codes.len()).unwrap(), &codes);
            let decoded = quantized.dequantize().unwrap();
            prop_assert!(decoded.iter().all(|w| w.is_finite()));
            if let Dequantize::Codebook(centroids) = &quantized.dequantize {
                prop_assert!(centroids.len() <= 1 << quantized.bits);
            }
        }
    }
}

fn methods(bits: u8) -> Vec<WeightMethod> {
    let levels = 1u16 << bits;
    vec![
        WeightMethod::UniformLevels { levels },
        WeightMethod::UniformLevelsKeepingZero { bits },
        WeightMethod::Affine { bits },
        WeightMethod::Symmetric {
            bits,
            granularity: Granularity::PerTensor,
        },
        WeightMethod::Symmetric {
            bits,
            granularity: Granularity::PerChannel,
        },
        WeightMethod::KMeans {
            levels,
            pin_zero: false,
        },
        WeightMethod::KMeans {
            levels,
            pin_zero: true,
        },
    ]
}

/// 2: the largest numbers, where quotients overflow.
#[test]
fn the_largest_numbers_saturate() {
    let p = QParams::new(f32::MIN_POSITIVE, 3, 0, 15).unwrap();
    assert_eq!(p.quantize(f32::MAX), 15);
    assert_eq!(p.quantize(f32::MIN), 0);
}

/// 15: the literal formula is the affine code with a real zero point, minus one; on numbers where both are exact.
#[test]
fn the_literal_formula_is_affine_with_a_real_zero_point() {
    let (min, step, levels) = (-0.6875f32, 0.25f32, 9u16);
    let max = min + 8.0 * step;
    let zero_point = -min / step;
    for eighth in 0..=64u8 {
        let w = min + step * f32::from(eighth) / 8.0;
        let affine_code = (w / step + zero_point).round();
        assert_eq!(
            f32::from(level(w, min, max, levels) - 1),
            affine_code,
            "{w}"
        );
    }
}

proptest! {
    /// A layer with a bias: the bias is off by half of its step at most, and the sum by what its roundings add up to.
    #[test]
    fn biases_and_dot_products_stay_within_their_bounds(
        (weights, inputs) in (1usize..40).prop_flat_map(|n| (
            proptest::collection::vec(prop_oneof![3 => -1f32..1.0, 1 => Just(0.0)], n),
            proptest::collection::vec(-3f32..5.0, n),
        )),
        weight_size in prop_oneof![Just(0.0f32), Just(1e-40), Just(1e-6), Just(1.0), Just(40.0)],
        bias in prop_oneof![Just(0.0f32), -1e-3f32..1e-3, -2f32..2.0, -1e6f32..1e6],
        bits in 2..=8u8,
    ) {
        let weights: Vec<f32> = weights.iter().map(|w| w * weight_size).collect();
        let range = MinMax::of(&tensor(&inputs).view()).unwrap();
        let x = affine_params(range.min, range.max, 0..=255).unwrap();
        let quantized = symmetric_with_bias(&tensor(&weights).view(), bits, &[bias], x.scale).unwrap();
        let s_w = f64::from(quantized.scales[0]);
        let unit = f64::from(x.scale * quantized.scales[0]);
        let bias_code = bias_code(bias, x.scale, quantized.scales[0]).expect("a code");
        let decoded_bias = f64::from(bias_code) * unit;
        let (s_x, bias) = (f64::from(x.scale), f64::from(bias));
        prop_assert!((decoded_bias - bias).abs() <= unit / 2.0, "{decoded_bias} for {bias}");

        let acc: i64 = inputs.iter().zip(&quantized.codes)
            .map(|(v, q)| i64::from(x.quantize(*v) - x.zero_point) * i64::from(*q))
            .sum::<i64>() + i64::from(bias_code);
        let real: f64 = inputs.iter().zip(&weights).map(|(v, w)| f64::from(*v) * f64::from(*w)).sum();
        // x̂·ŵ - x·w = (x̂ - x)·w + x̂·(ŵ - w), with each factor off by half a step and f32's rounding of its quotient.
        let step = 0.5 * (1.0 + 1e-4);
        let bound: f64 = inputs.iter().zip(&weights)
            .map(|(v, w)| {
                let (v, w) = (f64::from(v.abs()), f64::from(w.abs()));
                step * s_x * w + (v + step * s_x) * step * s_w
            })
            .sum();
        let size: f64 = real.abs() + bound + bias.abs();
        let found = acc as f64 * unit;
        prop_assert!(
            (found - (real + bias)).abs() <= bound + unit / 2.0 + 1e-6 * size + 1e-44,
            "{found} for {}, bound {bound}", real + bias
        );
        // What is zero stays zero.
        for (w, q) in weights.iter().zip(&quantized.codes) {
            prop_assert!(*w != 0.0 || *q == 0);
        }
    }
}

/// 16: nothing but zeros.
#[test]
fn zeros_stay_zeros() {
    let zeros = tensor(&[0.0, -0.0, 0.0]);
    for bits in 2..=8 {
        for method in methods(bits) {
            let quantized = quantize_weight(&zeros.view(), &method).unwrap();
            assert!(
                (quantized.dequantize().unwrap().iter()).all(|w| w.to_bits() == 0),
                "{method:?}"
            );
        }
    }
}

/// A bell-shaped sample without a random generator: the sum of 12 scrambled fractions, as the seed says.
fn bell(n: u64, seed: u64) -> Vec<f32> {
    let fraction = |i: u64| {
        let mut x = i.wrapping_add(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 40) as f32 / (1 << 24) as f32
    };
    (0..n)
        .map(|i| (0..12).map(|k| fraction(i * 12 + k)).sum::<f32>() - 6.0)
        .collect()
}

/// 18: the error of a smooth density is that of a uniform one.
#[test]
fn the_noise_is_a_twelfth_of_the_squared_step() {
    let weights = tensor(&bell(100_000, 18));
    for bits in [6, 7, 8] {
        let quantized = affine(&weights.view(), bits).unwrap();
        let noise = metrics::mse(&weights.view(), &quantized.dequantize().view()).unwrap();
        let ratio = noise / (f64::from(quantized.params.scale).powi(2) / 12.0);
        // Sampling error at n = 1e5 is 0.3 %.
        assert!((0.95..=1.05).contains(&ratio), "{bits} bits: {ratio}");
    }
}

/// 11: scaling by anything else moves codes by at most one, and rarely.
#[test]
fn any_factor_moves_few_codes() {
    let values = bell(100_000, 11);
    let (mut moved, mut all) = (0u32, 0u32);
    for factor in [0.3f32, 1.7, 123.4] {
        let scaled: Vec<f32> = values.iter().map(|x| x * factor).collect();
        let a = affine(&tensor(&values).view(), 8).unwrap();
        let b = affine(&tensor(&scaled).view(), 8).unwrap();
        assert_eq!(a.params.zero_point, b.params.zero_point);
        for (&p, &q) in a.codes.iter().zip(&b.codes) {
            assert!(p.abs_diff(q) <= 1);
            moved += u32::from(p != q);
            all += 1;
        }
    }
    assert!(f64::from(moved) < 1e-4 * f64::from(all), "{moved} of {all}");
}

/// 19: summed over channels of 64 and more weights, own scales are better. 24: so is every further bit.
#[test]
fn own_scales_and_more_bits_lower_the_error() {
    for seed in 0..50 {
        let mut weights = tensor(&bell(8 * 64, seed))
            .into_shape_with_order(vec![8, 64])
            .unwrap();
        for (i, mut channel) in weights.axis_iter_mut(Axis(0)).enumerate() {
            channel *= 1.0 + i as f32 / 4.0;
        }
        let error = |method: &WeightMethod| {
            let decoded = quantize_weight(&weights.view(), method)
                .unwrap()
                .dequantize()
                .unwrap();
            metrics::mse(&weights.view(), &decoded.view()).unwrap()
        };
        for bits in 2..=8 {
            let split = WeightMethod::Symmetric {
                bits,
                granularity: Granularity::PerChannel,
            };
            let whole = WeightMethod::Symmetric {
                bits,
                granularity: Granularity::PerTensor,
            };
            assert!(error(&split) < error(&whole), "{seed}, {bits}");
        }
        for (coarse, fine) in methods(2).into_iter().zip(methods(4)) {
            assert!(error(&fine) < error(&coarse), "{seed}, {fine:?}");
        }
        for bits in 2..8 {
            for (coarse, fine) in methods(bits).into_iter().zip(methods(bits + 1)) {
                assert!(error(&fine) < error(&coarse), "{seed}, {fine:?}");
            }
        }
    }
}
