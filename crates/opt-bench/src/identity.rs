//! Names for things by their content: what a trained network or a result line follows from, as text and as its hash.

use std::fmt::{Debug, Write as _};

use opt_core::Model;
use opt_core::mask::Masks;
use sha2::{Digest, Sha256};

/// Everything that a result follows from, one `name: value` a line; its hash is the result's name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    text: String,
}

impl Identity {
    /// Adds a line. Values are written as `Debug` does: floats in the shortest form that reads back as the same bits.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Debug) -> Self {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{name}: {value:?}");
        self
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// 32 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        hash(self.text.as_bytes())
    }
}

/// The first half of a SHA-256, in hexadecimal digits.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

fn hex(hasher: Sha256) -> String {
    let digest = hasher.finalize();
    digest.iter().take(16).fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// A model by its graph, input and every bit of its parameters.
#[must_use]
pub fn model(model: &Model) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("{:?} {:?}", model.graph, model.input));
    for (name, param) in &model.params {
        hasher.update(format!("{name} {:?}", param.shape()));
        let bytes: Vec<u8> = param.iter().flat_map(|v| v.to_le_bytes()).collect();
        hasher.update(bytes);
    }
    hex(hasher)
}

/// Masks by every element that they keep.
#[must_use]
pub fn masks(masks: &Masks) -> String {
    let mut hasher = Sha256::new();
    for (name, mask) in masks {
        hasher.update(format!("{name} {:?}", mask.keep().shape()));
        let bytes: Vec<u8> = mask.keep().iter().map(|k| u8::from(*k)).collect();
        hasher.update(bytes);
    }
    hex(hasher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::mask::Mask;
    use opt_core::{InputSpec, zoo};

    #[test]
    fn every_line_counts() {
        let base = Identity::default().with("lr", 0.1).with("seed", 3u64);
        assert_eq!(base.text(), "lr: 0.1\nseed: 3\n");
        assert_eq!(base.hash().len(), 32);
        for other in [
            Identity::default().with("lr", 0.1).with("seed", 4u64),
            Identity::default().with("lr", 0.2).with("seed", 3u64),
            Identity::default().with("seed", 3u64).with("lr", 0.1),
        ] {
            assert_ne!(base.hash(), other.hash());
        }
    }

    #[test]
    fn one_bit_of_one_weight_is_another_model() {
        let a = zoo::build("airbench_2_2_2", &InputSpec::cifar10(), 0).unwrap();
        let mut b = a.clone();
        assert_eq!(model(&a), model(&b));
        let weight = b.params.get_mut("head.weight").unwrap();
        weight[[0, 0]] = f32::from_bits(weight[[0, 0]].to_bits() ^ 1);
        assert_ne!(model(&a), model(&b));
        b = a.clone();
        b.input.mean[0] += 0.1;
        assert_ne!(model(&a), model(&b));
    }

    #[test]
    fn one_element_is_another_mask() {
        let mask = |keep: Vec<bool>| {
            let keep = ndarray::ArrayD::from_shape_vec(vec![keep.len()], keep).unwrap();
            masks(&Masks::from([("a".to_owned(), Mask::new(keep))]))
        };
        assert_eq!(mask(vec![true, false]), mask(vec![true, false]));
        assert_ne!(mask(vec![true, false]), mask(vec![false, true]));
        assert_ne!(masks(&Masks::new()), mask(vec![true]));
    }
}
