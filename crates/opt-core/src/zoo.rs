//! The networks of the experiments: functions from widths and depths to a [`Model`] with seeded weights.

mod airbench;
mod build;
mod resnet;
mod source_net;

pub use airbench::airbench;
pub use resnet::{Shortcut, resnet};
pub use source_net::source_net;

use crate::{CoreError, InputSpec, Model, Result};

/// The names that [`build`] knows, with what they are.
pub const NAMES: &[(&str, &str)] = &[
    (
        "source_net",
        "two convolutions and one linear layer, as in the source text; 77.3 MMAC",
    ),
    (
        "resnet20",
        "CIFAR ResNet-20, padding shortcuts (option A); 40.6 MMAC",
    ),
    ("resnet32", "CIFAR ResNet-32, option A; 68.9 MMAC"),
    ("resnet44", "CIFAR ResNet-44, option A; 97.2 MMAC"),
    ("resnet56", "CIFAR ResNet-56, option A; 125.5 MMAC"),
    (
        "resnet20_b",
        "CIFAR ResNet-20, convolution shortcuts (option B); 40.8 MMAC",
    ),
    ("resnet32_b", "CIFAR ResNet-32, option B; 69.1 MMAC"),
    ("resnet44_b", "CIFAR ResNet-44, option B; 97.4 MMAC"),
    ("resnet56_b", "CIFAR ResNet-56, option B; 125.7 MMAC"),
    (
        "airbench_16_32_32",
        "airbench-shaped chain, a student for 32/64/128; 6.1 MMAC",
    ),
    (
        "airbench_32_64_128",
        "airbench-shaped chain, widths 32/64/128; 19.9 MMAC",
    ),
    (
        "airbench_64_128_128",
        "airbench-shaped chain, widths 64/128/128; 54.2 MMAC",
    ),
];

/// Builds a network by name: one of [`NAMES`], or `airbench_A_B_C` with any widths.
///
/// # Errors
///
/// [`CoreError::UnknownZoo`] lists the names.
pub fn build(name: &str, input: &InputSpec, seed: u64) -> Result<Model> {
    let unknown = || CoreError::UnknownZoo {
        name: name.to_owned(),
        known: NAMES
            .iter()
            .map(|(n, _)| *n)
            .chain(["airbench_A_B_C with widths of your own"])
            .collect::<Vec<_>>()
            .join(", "),
    };
    let model = match name {
        "source_net" => source_net(input, seed),
        "resnet20" => resnet(input, 20, Shortcut::A, seed),
        "resnet32" => resnet(input, 32, Shortcut::A, seed),
        "resnet44" => resnet(input, 44, Shortcut::A, seed),
        "resnet56" => resnet(input, 56, Shortcut::A, seed),
        "resnet20_b" => resnet(input, 20, Shortcut::B, seed),
        "resnet32_b" => resnet(input, 32, Shortcut::B, seed),
        "resnet44_b" => resnet(input, 44, Shortcut::B, seed),
        "resnet56_b" => resnet(input, 56, Shortcut::B, seed),
        _ => {
            let widths: Vec<usize> = name
                .strip_prefix("airbench_")
                .ok_or_else(unknown)?
                .split('_')
                .map(|w| w.parse::<usize>().ok().filter(|w| (1..=1024).contains(w)))
                .collect::<Option<_>>()
                .ok_or_else(unknown)?;
            airbench(input, widths.try_into().map_err(|_| unknown())?, seed)
        }
    };
    model.validate()?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::cost;

    #[test]
    fn every_name_builds_and_the_descriptions_count_right() {
        for (name, what) in NAMES {
            let model = build(name, &InputSpec::cifar10(), 3).unwrap();
            let mmac = cost(&model).unwrap().macs as f64 / 1e6;
            assert!(
                what.ends_with(&format!("; {mmac:.1} MMAC")),
                "{name}: {mmac}"
            );
        }
    }

    #[test]
    fn the_seed_decides_the_weights() {
        let build = |seed| build("resnet20", &InputSpec::cifar10(), seed).unwrap();
        assert_eq!(build(1), build(1));
        assert_ne!(build(1).params, build(2).params);
    }

    #[test]
    fn unknown_names_are_refused_with_the_list() {
        for name in [
            "resnet21",
            "airbench_1_2",
            "airbench_0_1_1",
            "airbench_a_b_c",
            "",
        ] {
            let message = build(name, &InputSpec::cifar10(), 0)
                .unwrap_err()
                .to_string();
            assert!(message.contains("resnet56_b"), "{message}");
        }
    }

    #[test]
    fn other_inputs_are_followed() {
        let mut input = InputSpec::cifar10();
        input.shape = [1, 28, 28];
        input.mean = vec![0.5];
        input.std = vec![0.25];
        input.labels.truncate(4);
        for name in ["source_net", "resnet20", "airbench_8_8_8"] {
            build(name, &input, 0).unwrap();
        }
    }
}
