//! Tensors that quantizers meet and those that break them.

use proptest::prelude::*;

/// Any finite bit pattern whose magnitude leaves room for differences.
fn any_scale() -> impl Strategy<Value = f32> {
    (-1.0f32..1.0, -30..=30i32).prop_map(|(m, e)| m * 10f32.powi(e))
}

/// Values of one tensor: ordinary, one-sided, pruned, constant, zero, two-valued, with an outlier, tiny, huge,
/// subnormal, and exactly between two codes.
pub(crate) fn values() -> impl Strategy<Value = Vec<f32>> {
    let ordinary = || prop::collection::vec(-1.0f32..1.0, 1..80);
    prop_oneof![
        ordinary(),
        ordinary().prop_map(|v| v.iter().map(|x| x.max(0.0)).collect()),
        ordinary().prop_map(|v| v.iter().map(|x| -x.abs() - 0.5).collect()),
        ordinary().prop_map(|v| v
            .iter()
            .map(|&x| if x.abs() < 0.8 { 0.0 } else { x })
            .collect()),
        (any_scale(), 1..20usize).prop_map(|(c, n)| vec![c; n]),
        (1..20usize).prop_map(|n| (0..n)
            .map(|i| if i % 2 == 0 { 0.0 } else { -0.0 })
            .collect()),
        (any_scale(), any_scale(), 1..20usize)
            .prop_map(|(a, b, n)| (0..n).map(|i| if i % 3 == 0 { a } else { b }).collect()),
        (ordinary(), -1e6f32..1e6).prop_map(|(mut v, outlier)| {
            v[0] = outlier;
            v
        }),
        any_scale().prop_map(|x| vec![x]),
        (ordinary(), -30..=30i32).prop_map(|(v, e)| v.iter().map(|x| x * 10f32.powi(e)).collect()),
        prop::collection::vec(any_scale(), 1..40),
        prop::collection::vec(0..0x0080_0000u32, 1..20)
            .prop_map(|v| v.into_iter().map(f32::from_bits).collect()),
        ties(),
    ]
}

/// Multiples of half a power of two: with such a step, every odd one is a tie.
pub(crate) fn ties() -> impl Strategy<Value = Vec<f32>> {
    (prop::collection::vec(-255..=255i16, 2..40), -20..=20i32).prop_map(|(v, e)| {
        v.into_iter()
            .map(|k| f32::from(k) * 0.5 * 2f32.powi(e))
            .collect()
    })
}

/// Values as a weight of some channels.
pub(crate) fn weight() -> impl Strategy<Value = ndarray::ArrayD<f32>> {
    (prop::collection::vec(values(), 1..5)).prop_map(|channels| {
        let width = channels.iter().map(Vec::len).min().unwrap();
        let flat: Vec<f32> = channels.iter().flat_map(|c| c[..width].to_vec()).collect();
        ndarray::ArrayD::from_shape_vec(vec![channels.len(), width], flat).unwrap()
    })
}
