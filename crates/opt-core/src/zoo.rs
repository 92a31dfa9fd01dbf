//! The networks of the experiments: functions from widths and depths to a [`Model`] with seeded weights.

mod airbench;
mod mobilenet_v2;
mod resnet;
mod resnet_imagenet;
mod source_net;
mod vgg;

pub use airbench::airbench;
pub use mobilenet_v2::{InvertedStage, MobileNetV2, mobilenet_v2};
pub use resnet::{Shortcut, resnet};
pub use resnet_imagenet::{Block, resnet_imagenet};
pub use source_net::source_net;
pub use vgg::vgg;

use crate::{CoreError, Model, Result, Task};

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
        "vgg16_bn",
        "CIFAR VGG-16 with BatchNormalization and one linear layer; 313.2 MMAC",
    ),
    (
        "mobilenet_v2_32",
        "MobileNetV2 with the strides of 32×32 images; 88.0 MMAC",
    ),
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
    (
        "resnet18",
        "ResNet-18; at 224×224 and 1000 classes 1814.1 MMAC",
    ),
    (
        "resnet50",
        "ResNet-50 v1.5; at 224×224 and 1000 classes 4089.2 MMAC",
    ),
    (
        "mobilenet_v2",
        "MobileNetV2; at 224×224 and 1000 classes 300.8 MMAC",
    ),
];

/// Builds a network by name: one of [`NAMES`], or `airbench_A_B_C` with any widths.
///
/// # Errors
///
/// [`CoreError::UnknownZoo`] lists the names; [`CoreError::ZooInput`] names the first layer that is too large for the
/// input.
pub fn build(name: &str, task: &Task, seed: u64) -> Result<Model> {
    let unknown = || CoreError::UnknownZoo {
        name: name.to_owned(),
        guess: guess(name).map_or_else(String::new, |n| format!(", did you mean `{n}`?")),
        known: NAMES
            .iter()
            .map(|(n, _)| *n)
            .chain(["airbench_A_B_C with widths of your own"])
            .collect::<Vec<_>>()
            .join(", "),
    };
    let model = match name {
        "source_net" => source_net(task, seed),
        "resnet20" => resnet(task, 20, Shortcut::A, seed),
        "resnet32" => resnet(task, 32, Shortcut::A, seed),
        "resnet44" => resnet(task, 44, Shortcut::A, seed),
        "resnet56" => resnet(task, 56, Shortcut::A, seed),
        "resnet20_b" => resnet(task, 20, Shortcut::B, seed),
        "resnet32_b" => resnet(task, 32, Shortcut::B, seed),
        "resnet44_b" => resnet(task, 44, Shortcut::B, seed),
        "resnet56_b" => resnet(task, 56, Shortcut::B, seed),
        "vgg16_bn" => vgg(task, &vgg::VGG16, seed),
        "mobilenet_v2_32" => mobilenet_v2(task, &MobileNetV2::cifar(), seed),
        "resnet18" => resnet_imagenet(task, Block::Basic, [2, 2, 2, 2], 64, seed),
        "resnet50" => resnet_imagenet(task, Block::Bottleneck, [3, 4, 6, 3], 64, seed),
        "mobilenet_v2" => mobilenet_v2(task, &MobileNetV2::imagenet(), seed),
        _ => {
            let widths: Vec<usize> = name
                .strip_prefix("airbench_")
                .ok_or_else(unknown)?
                .split('_')
                .map(|w| w.parse::<usize>().ok().filter(|w| (1..=1024).contains(w)))
                .collect::<Option<_>>()
                .ok_or_else(unknown)?;
            airbench(task, widths.try_into().map_err(|_| unknown())?, seed)
        }
    };
    model.validate().map_err(|error| {
        // Nothing else can be mended by larger images.
        if matches!(error, CoreError::Shape { .. }) || task.input.shape.contains(&0) {
            CoreError::ZooInput {
                name: name.to_owned(),
                shape: task.input.shape,
                error: Box::new(error),
            }
        } else {
            error
        }
    })?;
    Ok(model)
}

/// The name that was meant: letters and digits are the same (`ResNet-20`), or all but two of them.
fn guess(name: &str) -> Option<&'static str> {
    let plain = |name: &str| -> Vec<char> {
        let kept = name.chars().filter(char::is_ascii_alphanumeric);
        kept.map(|c| c.to_ascii_lowercase()).collect()
    };
    let wanted = plain(name);
    let near = NAMES
        .iter()
        .map(|(known, _)| (edits(&wanted, &plain(known)), *known));
    let (edits, known) = near.min_by_key(|(edits, _)| *edits)?;
    (edits <= 2 && wanted.len() > 2).then_some(known)
}

/// How many characters must be inserted, removed or replaced (Levenshtein).
fn edits(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
