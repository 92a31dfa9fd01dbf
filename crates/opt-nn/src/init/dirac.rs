//! Convolutions that begin as the identity.

use opt_core::Model;
use opt_core::op::Op;

/// Sets the first filters of every 3×3 or larger convolution, one for each input channel (as far as there are filters), to
/// pass that channel through.
///
/// ```text
/// W[o] = δ(channel o, centre)   for o < min(O, I)        the others: as they are, divided by √6
/// ```
///
/// The division takes random weights that start with variance `2/fan_in` (uniform, He) to `±1/sqrt(fan_in)`, so that
/// identity and noise are of a size. The first convolution, grouped ones and kernels with no centre keep their values.
///
/// # References
///
/// S. Zagoruyko, N. Komodakis, *`DiracNets`: Training Very Deep Neural Networks Without Skip-Connections*, 2017,
/// arXiv:1706.00388; the partial form is that of K. Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024,
/// arXiv:2404.00498.
#[must_use]
pub fn dirac(mut model: Model) -> Model {
    let convolutions = model.graph.nodes.iter().filter_map(|node| {
        let Op::Conv {
            weight,
            window,
            group: 1,
            ..
        } = &node.op
        else {
            return None;
        };
        Some((weight.clone(), window.kernel))
    });
    for (weight, [kh, kw]) in convolutions.skip(1).collect::<Vec<_>>() {
        if kh < 3 || kw < 3 || kh % 2 == 0 || kw % 2 == 0 {
            continue;
        }
        let Some(values) = model.params.get_mut(&weight) else {
            continue;
        };
        let (n_out, n_in) = (values.shape()[0], values.shape()[1]);
        let sqrt6 = 6f32.sqrt();
        for (index, value) in values.indexed_iter_mut() {
            let o = index[0];
            *value = if o < n_out.min(n_in) {
                f32::from(u8::from(
                    index[1] == o && index[2] == kh / 2 && index[3] == kw / 2,
                ))
            } else {
                *value / sqrt6
            };
        }
    }
    model
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::{Task, zoo};

    #[test]
    fn the_first_filters_pass_their_channel_and_the_others_shrink() {
        let before = zoo::build("airbench_4_8_6", &Task::cifar10(), 1).unwrap();
        let after = dirac(before.clone());
        // The stem keeps its values; 8 → 6 has a filter for six channels only.
        for (name, n_identity) in [
            ("stem", 0),
            ("blocks.1.conv1", 4),
            ("blocks.1.conv2", 8),
            ("blocks.2.conv1", 6),
        ] {
            let name = format!("{name}.weight");
            let old = &before.params[&name];
            for (index, value) in after.params[&name].indexed_iter() {
                let (o, i, y, x) = (index[0], index[1], index[2], index[3]);
                let expect = if name.starts_with("stem") {
                    old[[o, i, y, x]]
                } else if o < n_identity {
                    if o == i && (y, x) == (1, 1) { 1.0 } else { 0.0 }
                } else {
                    old[[o, i, y, x]] / 6f32.sqrt()
                };
                assert_eq!(*value, expect, "{name} {index:?}");
            }
        }
    }
}
