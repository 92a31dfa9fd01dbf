//! What a variant is called, and what it takes part in.

use opt_report::Arm;

/// A variant's part in a comparison: see [`ResultLine::group`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What is compared, the same words for all that take part.
    pub group: String,
    /// As what it takes part.
    pub arm: Arm,
}

/// How the weights of a variant were pruned: variants of equal sparsity are compared with each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Pruning {
    /// Share of the weights that was to be removed, 0 to 1.
    pub sparsity: f64,
    /// What variants of this sparsity differ in: `global, one-shot`.
    pub method: String,
}

/// The file of a stage, but for its folder, seed and kind.
pub(crate) fn file_of(experiment: &str, network: &str, variant: &str) -> String {
    format!("{experiment}-{network}-{}", slug(variant))
}

/// A variant's name as part of a file name: letters, digits, dots and single dashes.
pub fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        if c.is_ascii_alphanumeric() || c == '.' {
            slug.push(c);
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_become_file_names() {
        let cases = [
            ("one-shot 80 %, global", "one-shot-80-global"),
            ("W8A8 post-training", "w8a8-post-training"),
            ("../../etc", "..-..-etc"),
            ("T = 2.5", "t-2.5"),
        ];
        for (name, expect) in cases {
            assert_eq!(slug(name), expect);
        }
    }
}
