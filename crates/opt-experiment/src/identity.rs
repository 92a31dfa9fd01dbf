//! Names for things by their content: what a trained network or a result line follows from, as text and as its hash.

mod ingredient;

use opt_core::Model;
use opt_core::mask::Masks;
use sha2::{Digest, Sha256};

pub use ingredient::{Ingredient, fields};

/// The version of the meaning of an identity and of what is kept under it. Raise it when either changes otherwise than in an
/// ingredient, so that no entry of an older version is taken for a new one.
pub const FORMAT: u32 = 2;

/// Everything that a result follows from, one `name: value` a line; its hash is the result's name.
///
/// ```
/// use opt_experiment::identity::Identity;
///
/// let identity = Identity::default().with("lr", 0.1).with("seed", 3u64);
/// assert_eq!(identity.text(), "format: 2\nlr: 1e-1\nseed: 3\n");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    text: String,
}

impl Default for Identity {
    /// Holds the [`FORMAT`] alone.
    fn default() -> Self {
        let text = String::new();
        Self { text }.with("format", FORMAT)
    }
}

impl Identity {
    /// Adds a line. A name has neither colon nor line break.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Ingredient) -> Self {
        self.text.push_str(name);
        self.text.push_str(": ");
        value.write(&mut self.text);
        self.text.push('\n');
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
    digest.iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// A model by its graph, input and every bit of its parameters.
#[must_use]
pub fn model(model: &Model) -> String {
    let Model {
        graph,
        input,
        params,
    } = model;
    let mut hasher = Sha256::new();
    let mut header = String::new();
    (graph, input, params.len()).write(&mut header);
    hasher.update(header);
    for (name, param) in params {
        header = String::new();
        (name, param.shape()).write(&mut header);
        hasher.update(header);
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
        let mut header = String::new();
        (name, mask.keep().shape()).write(&mut header);
        hasher.update(header);
        let bytes: Vec<u8> = mask.keep().iter().map(|k| u8::from(*k)).collect();
        hasher.update(bytes);
    }
    hex(hasher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_core::mask::Mask;
    use opt_core::{InputSpec, Task, zoo};

    #[test]
    fn every_line_counts() {
        let base = Identity::default().with("lr", 0.1).with("seed", 3u64);
        assert_eq!(base.text(), "format: 2\nlr: 1e-1\nseed: 3\n");
        assert_eq!(base.hash().len(), 32);
        for other in [
            Identity::default().with("lr", 0.1).with("seed", 4u64),
            Identity::default().with("lr", 0.2).with("seed", 3u64),
            Identity::default().with("seed", 3u64).with("lr", 0.1),
        ] {
            assert_ne!(base.hash(), other.hash());
        }
    }

    // If this fails, every network in every user's cache is trained again: raise `FORMAT` and say so in the changelog.
    #[test]
    fn keys_are_those_of_this_format() {
        let identity = Identity::default()
            .with("code", "0123456789abcdef")
            .with("cpu", ("a processor", vec!["avx2", "fma"]))
            .with("settings", vec![("OMP_DYNAMIC", "true")])
            .with("lr", (0.1, 1e-300, f64::NAN, -0.0f32))
            .with("teacher", None::<&str>)
            .with("masks", Some("ab\ncd\"\\"));
        assert_eq!(
            identity.text(),
            "format: 2\ncode: \"0123456789abcdef\"\ncpu: [\"a processor\",[\"avx2\",\"fma\"]]\n\
             settings: [[\"OMP_DYNAMIC\",\"true\"]]\nlr: [1e-1,1e-300,NaN,-0e0]\nteacher: none\n\
             masks: some(\"ab\\ncd\\\"\\\\\")\n"
        );
        assert_eq!(identity.hash(), "7597e9e18a2098be4069bd746b346fdb");
        // SHA-256 of the header `[graph{nodes=[["input",Input{},[]]],outputs=[[0,[]]]},input{…},1]`, of `["w",[2]]` and of the floats.
        let weights = ndarray::arr1(&[1.0f32, -2.0]).into_dyn().into_shared();
        let network = Model {
            graph: opt_core::Graph::new(),
            input: InputSpec {
                shape: [1, 1, 1],
                mean: vec![0.5],
                std: vec![0.25],
                preparation: opt_core::Preparation::usual([1, 1, 1]),
            },
            params: [("w".to_owned(), weights)].into(),
        };
        assert_eq!(model(&network), "64d1b4e4d454bffff356a2b15c8a57e9");
    }

    #[test]
    fn two_lists_of_ingredients_never_read_alike() {
        let with = |name: &str, value: &dyn Fn(Identity) -> Identity| {
            (name.to_owned(), value(Identity::default()))
        };
        let all = [
            with("two lines", &|i| i.with("a", "x").with("b", "y")),
            // A value that looks like the end of its line and the next.
            with("one line", &|i| i.with("a", "x\"\nb: \"y")),
            with("escaped by hand", &|i| i.with("a", "x\\\"\\nb: \\\"y")),
            with("a pair", &|i| i.with("a", ("x", "y"))),
            with("a list in a list", &|i| i.with("a", (vec!["x"], "y"))),
            with("all in the list", &|i| i.with("a", vec!["x", "y"])),
            with("one string", &|i| i.with("a", "x\",\"y")),
            with("joined", &|i| i.with("a", "xy")),
            with("cut elsewhere", &|i| i.with("a", ("xy", ""))),
            with("nothing and all", &|i| i.with("a", ("", "xy"))),
            with("the word none", &|i| i.with("a", "none")),
            with("none", &|i| i.with("a", None::<&str>)),
            with("some none", &|i| i.with("a", Some(None::<&str>))),
            with("an empty string", &|i| i.with("a", Some(""))),
            with("a number", &|i| i.with("a", 1u64)),
            with("a float", &|i| i.with("a", 1.0)),
            with("a string of a number", &|i| i.with("a", "1")),
            with("a flag", &|i| i.with("a", true)),
        ];
        for (n, (left, a)) in all.iter().enumerate() {
            for (right, b) in &all[n + 1..] {
                // A pair and a list of two are one and the same; everything else differs.
                if (left.as_str(), right.as_str()) == ("a pair", "all in the list") {
                    continue;
                }
                assert_ne!(a.text(), b.text(), "{left} and {right}");
            }
        }
    }

    #[test]
    fn one_bit_of_one_weight_is_another_model() {
        let a = zoo::build("airbench_2_2_2", &Task::cifar10(), 0).unwrap();
        let mut b = a.clone();
        assert_eq!(model(&a), model(&b));
        let weight = b.params.get_mut("head.weight").unwrap();
        weight[[0, 0]] = f32::from_bits(weight[[0, 0]].to_bits() ^ 1);
        assert_ne!(model(&a), model(&b));
        b = a.clone();
        b.input.mean[0] += 0.1;
        assert_ne!(model(&a), model(&b));
        b = a.clone();
        b.graph.nodes[1].name.push('x');
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
