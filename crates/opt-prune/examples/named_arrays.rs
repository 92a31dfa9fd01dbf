//! Prunes two weight arrays in three rounds, by magnitude, without any model.
//!
//! ```text
//! cargo run -p opt-prune --example named_arrays
//! ```
#![expect(clippy::print_stdout, reason = "an example shows its results")]

use std::collections::BTreeMap;

use opt_prune::ndarray::{Array, ArrayD};
use opt_prune::{
    Criterion, Masks, Norm, PruneError, Schedule, Scope, SelectRequest, apply_mask, score_arrays,
    select_arrays, sparsities,
};

fn main() -> Result<(), PruneError> {
    // Weights from anywhere, by name.
    let wave = |shape: &[usize], step: f32| -> ArrayD<f32> {
        let mut at = 0.0f32;
        Array::from_shape_simple_fn(shape, || {
            at += step;
            at.sin()
        })
    };
    let mut weights = BTreeMap::from([
        ("conv.weight", wave(&[8, 3, 3, 3], 0.7)),
        ("fc.weight", wave(&[10, 32], 0.3) * 0.5),
    ]);

    let mut masks = Masks::new();
    for sparsity in sparsities(Schedule::Iterative { steps: 3 }, 0.9)? {
        // How important is every weight, and which stay?
        let scores = score_arrays(&weights, &Criterion::Magnitude(Norm::L1), None)?;
        let request = SelectRequest::sparsity(Scope::Global, sparsity);
        let selection = select_arrays(&scores, &masks, &request)?;
        for layer in &selection.layers {
            println!("{}: {} of {} stay", layer.param, layer.kept, layer.total);
        }
        println!("{:.1} % removed\n", 100.0 * selection.sparsity());
        masks = selection.masks;
        for (name, array) in &mut weights {
            apply_mask(array, &masks[*name])?;
        }
        // Here you would train further, with the masks held.
    }

    // 10 % of 8·3·3·3 + 10·32 weights, rounded.
    let left = weights.values().flatten().filter(|w| **w != 0.0).count();
    assert_eq!(left, 54);
    Ok(())
}

#[test]
fn runs() -> Result<(), PruneError> {
    main()
}
