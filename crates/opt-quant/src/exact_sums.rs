//! Scales with which explicit residual additions are exact in f32, so that every program rounds the same number.
//!
//! ```text
//! f = (a - z_a)·(s_a/s_y) + (b - z_b)·(s_b/s_y)        s_a/s_y = A/2^k, s_b/s_y = B/2^k, A and B integers to 2^14
//! ```
//!
//! All products and sums are then integers below 2^24 over 2^k, with `z_y` added too since k is at most 15: f32 holds them,
//! whatever the order of the operations and whether they are fused. Without this, a program that subtracts the zero points
//! elsewhere (ONNX Runtime folds them into one constant) comes to another side of a half now and then, and in a deep network
//! each such code changes others. The zero point of the sum is made even: some programs add it before they round, which is
//! the same for even ones alone.
//!
//! Scales grow by what it takes, about 0.01 %, and up to 5 % where a value is added twice; a sum that would take more is left
//! as it is, since coarser codes cost more than a code that differs by one.

use std::collections::{BTreeMap, BTreeSet};

use opt_core::lower::{FusedOp, Step};
use opt_core::{Model, QParams};

/// Bits of the larger ratio.
const BITS: i32 = 14;

/// The most that k may be: `z_y·2^k` stays below 2^23, as the products' sum does.
const MOST_FRACTION_BITS: i32 = 15;

/// The most that a scale may grow.
const MOST_GROWTH: f32 = 1.05;

/// How many larger ratios are tried before a sum is left as it is.
const TRIES: u32 = 4096;

/// Raises the scales of what additions read and write until the additions are exact.
///
/// An addition is left as it is where that would take a scale that grows by more than 5 %, such as of two values that earlier
/// additions have fixed already at scales that no ratio joins: its codes may differ by one elsewhere.
pub(crate) fn make_sums_exact(
    folded: &Model,
    steps: &[Step],
    activations: &mut BTreeMap<String, QParams>,
) {
    let name = |step: usize| folded.graph.nodes[steps[step].value].name.clone();
    // The step whose scale a step's codes have.
    let root = |mut step: usize| {
        while !steps[step].requantizes(folded)
            && !steps[step].op.is_float()
            && !steps[step].inputs.is_empty()
        {
            step = steps[step].inputs[0];
        }
        name(step)
    };
    let mut fixed: BTreeSet<String> = BTreeSet::new();
    for (id, step) in steps.iter().enumerate() {
        if !matches!(step.op, FusedOp::Add { .. }) {
            continue;
        }
        let y = name(id);
        let mut operands: Vec<String> = step.inputs.iter().map(|i| root(*i)).collect();
        operands.dedup();
        // Those that cannot give way come first.
        operands.sort_by_key(|operand| !fixed.contains(operand));
        let known = operands
            .iter()
            .all(|operand| activations.contains_key(operand));
        let (Some(sum), true) = (activations.get(&y).copied(), known) else {
            continue;
        };
        let scales: Vec<f32> = operands.iter().map(|o| activations[o].scale).collect();
        let can_grow: Vec<bool> = operands.iter().map(|o| !fixed.contains(o)).collect();
        if let Some((sum, scales)) = exact(sum, &scales, &can_grow) {
            activations.insert(y.clone(), sum);
            for (operand, scale) in operands.iter().zip(scales) {
                if let Some(params) = activations.get_mut(operand) {
                    params.scale = scale;
                }
            }
        }
        fixed.insert(y);
        fixed.extend(operands);
    }
}

/// The sum's parameters and its operands' scales with exact ratios; none is smaller than it was.
fn exact(sum: QParams, scales: &[f32], can_grow: &[bool]) -> Option<(QParams, Vec<f32>)> {
    let given = sum.scale;
    let sum = even(sum)?;
    let largest = scales.iter().fold(0.0_f32, |m, s| m.max(s / sum.scale));
    if !(largest.is_normal() && sum.scale.is_normal()) {
        return None;
    }
    let k = (BITS - 1 - exponent(largest)).min(MOST_FRACTION_BITS);
    let one = power(k)?;
    let first = scales[0];
    let start = (f64::from(first) / f64::from(sum.scale) * one).floor();
    (0..TRIES).find_map(|try_| {
        let y = if can_grow[0] {
            sum.scale
        } else {
            // The sum gives way: the largest ratio that leaves its scale no smaller.
            narrow(f64::from(first) * one / (start - f64::from(try_)).max(1.0))
        };
        if y < sum.scale {
            return None;
        }
        let y = if can_grow[0] { grown(y, try_) } else { y };
        if y > given * MOST_GROWTH {
            return None;
        }
        let mut found = Vec::with_capacity(scales.len());
        for (scale, can_grow) in scales.iter().zip(can_grow) {
            let ratio = f64::from(*scale) / f64::from(y) * one;
            let candidates = if *can_grow { 16 } else { 1 };
            let raised: Option<f32> = (0..candidates).find_map(|more| {
                let scale = if *can_grow {
                    narrow(f64::from(y) * (ratio.ceil() + f64::from(more)) / one).max(*scale)
                } else {
                    *scale
                };
                is_exact(scale, y, one).then_some(scale)
            });
            found.push(raised.filter(|raised| *raised <= scale * MOST_GROWTH)?);
        }
        Some((QParams { scale: y, ..sum }, found))
    })
}

/// Whether the ratio that f32 division gives is an integer of at most 2^14 over `one`.
fn is_exact(scale: f32, y: f32, one: f64) -> bool {
    let ratio = f64::from(scale / y) * one;
    ratio.fract() == 0.0 && (1.0..=power(BITS).unwrap_or(0.0)).contains(&ratio)
}

/// With an even zero point, and a scale at which the codes still reach as far.
fn even(params: QParams) -> Option<QParams> {
    if params.zero_point % 2 == 0 {
        return Some(params);
    }
    let zero_point = params.zero_point + 1;
    let room = |z: i32| f64::from(params.qmax - z);
    if zero_point >= params.qmax {
        return None;
    }
    let scale = f64::from(params.scale) * room(params.zero_point) / room(zero_point);
    Some(QParams {
        zero_point,
        scale: grown(narrow(scale), 1),
        ..params
    })
}

/// The `n`-th f32 above.
fn grown(scale: f32, n: u32) -> f32 {
    f32::from_bits(scale.to_bits() + n)
}

#[expect(clippy::cast_possible_truncation, reason = "scales are f32")]
fn narrow(scale: f64) -> f32 {
    scale as f32
}

/// e with 2^e ≤ x < 2^(e+1), for normal x.
fn exponent(x: f32) -> i32 {
    (x.to_bits() >> 23).cast_signed() - 127
}

/// 2^k, for ratios that are not out of this world.
fn power(k: i32) -> Option<f64> {
    (-60..=60).contains(&k).then(|| f64::from(k).exp2())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params(scale: f32, zero_point: i32) -> QParams {
        QParams::new(scale, zero_point, 0, 255).unwrap()
    }

    /// Every order of operations gives the same, and so does every place of the zero points.
    fn all_agree(a: f32, b: f32, y: QParams, zeros: [i32; 2]) {
        let (ra, rb, s) = (a / y.scale, b / y.scale, y.zero_point as f32);
        for (qa, qb) in (0..=255)
            .zip((0..=255).rev())
            .chain((0..=255).zip((0..=255).cycle().skip(97)))
        {
            let (da, db) = ((qa - zeros[0]) as f32, (qb - zeros[1]) as f32);
            let apart = (da * ra + db * rb).round_ties_even() + s;
            let constant = s - (ra * zeros[0] as f32 + rb * zeros[1] as f32);
            let folded = (qa as f32).mul_add(ra, (qb as f32).mul_add(rb, constant));
            assert_eq!(
                apart,
                folded.round_ties_even(),
                "{a} {b} {y:?} {zeros:?} {qa} {qb}"
            );
        }
    }

    #[test]
    fn scales_that_are_not_exact_differ_somewhere() {
        // The check itself: a half that the two orders see differently.
        let found = std::panic::catch_unwind(|| {
            for i in 0..2000 {
                let a = 0.01 + i as f32 * 1e-5;
                all_agree(a, 0.017, params(0.02, 0), [131, 0]);
            }
        });
        assert!(found.is_err());
    }

    #[test]
    fn nothing_gets_smaller_and_zero_points_are_even() {
        let (y, scales) = exact(params(0.02, 7), &[0.011, 0.03], &[false, true]).unwrap();
        assert_eq!((y.zero_point, scales[0]), (8, 0.011));
        assert!(y.scale >= 0.02 * 248.0 / 247.0 && y.scale < 0.0203, "{y:?}");
        assert!(scales[1] >= 0.03 && scales[1] < 0.0301, "{scales:?}");
        // No room for an even zero point above, and a ratio out of this world.
        assert_eq!(exact(params(0.02, 255), &[0.01], &[true]), None);
        assert_eq!(exact(params(1e30, 0), &[1e-30], &[true]), None);
    }

    #[test]
    fn nothing_grows_by_more_than_a_twentieth() {
        // Two values that cannot give way leave it all to the sum: some ratios join at once, others at twice the scale.
        let joined = exact(params(0.02, 4), &[0.011, 0.0173], &[false, false]).unwrap();
        assert!(joined.0.scale < 0.021, "{joined:?}");
        let apart = exact(params(0.02, 4), &[0.0061, 0.0203], &[false, false]);
        assert_eq!(apart, None);
        // A value so small beside the sum that its ratio would become that of a neighbour.
        assert_eq!(exact(params(0.02, 4), &[0.02, 2.1e-6], &[true, true]), None);
    }

    #[test]
    fn small_ratios_leave_room_for_the_zero_point() {
        // With fractions of more than 15 bits, z_y takes bits from the sum that it is added to.
        for i in 0..2000_u16 {
            let y = 0.02 + 1e-6 * f32::from(i);
            let scales = [
                y * (0.01 + 1e-4 * f32::from(i % 900)),
                y * (0.02 + 1e-4 * f32::from(i * 7 % 600)),
            ];
            if let Some((sum, found)) = exact(params(y, 200), &scales, &[true, true]) {
                all_agree(found[0], found[1], sum, [131, 77]);
            }
        }
    }

    proptest! {
        #[test]
        fn exact_sums_do_not_depend_on_the_order(
            y in 1e-4f32..1e2,
            a in 0.2f32..4.0,
            b in 0.2f32..4.0,
            z in 0..200i32,
            zeros in [0..=255i32, 0..=255i32],
            fixed in any::<bool>(),
        ) {
            let scales = [a * y, b * y];
            let (sum, found) = exact(params(y, z), &scales, &[!fixed, true]).expect("a ratio");
            prop_assert!(sum.scale >= y && sum.scale <= y * MOST_GROWTH, "{sum:?} {found:?}");
            for (found, scale) in found.iter().zip(scales) {
                prop_assert!(*found >= scale && *found <= scale * MOST_GROWTH, "{found} for {scale}");
                // Integers over 2^k, and so over 2^15.
                let ratio = f64::from(found / sum.scale) * f64::from(1u16 << MOST_FRACTION_BITS);
                prop_assert!(ratio.fract() == 0.0, "{found} over {sum:?}");
            }
            all_agree(found[0], found[1], sum, zeros);
        }
    }
}
