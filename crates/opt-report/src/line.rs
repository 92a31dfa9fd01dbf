//! One line of `results.jsonl` and one of `curves.jsonl`.

use opt_stats::Discordant;
use serde::{Deserialize, Serialize};

/// One line of `results.jsonl`: one variant of one experiment with one seed.
///
/// Unknown keys are ignored on reading, so that an older program reads the lines of a newer one. A line that repeats
/// the experiment, variant, model, dataset and seed of an earlier one replaces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultLine {
    /// The experiment, for example `prune`.
    pub experiment: String,
    /// The variant within the experiment, for example `iterative 80 %`.
    pub variant: String,
    /// The zoo name of the network, for example `resnet20`.
    pub model: String,
    /// The name of the data set, for example `cifar10`.
    pub dataset: String,
    /// The seed of initialisation and shuffling.
    pub seed: u64,
    /// Where it was trained: `cpu`, `cuda:0`.
    pub device: String,
    /// Epochs from random initialisation to this model, over all its phases.
    pub epochs: f64,
    /// What these epochs were, for example `8 base + 2 fine-tune`.
    #[serde(default)]
    pub epochs_of: String,
    /// Accuracy on the test set without test-time augmentation, in percent.
    pub top1: f64,
    /// Accuracy of the model that this one is compared with, same seed, in percent; of a baseline, its own.
    pub top1_baseline: f64,
    /// The variant that this one is compared with; `None` for a baseline.
    #[serde(default)]
    pub baseline: Option<String>,
    /// The question that this line helps to answer: lines of one experiment, group and seed are compared with each other.
    /// Empty if there is none, and in lines of older programs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The part that this line has in its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<Arm>,
    /// Size of the baseline's model file in bytes, if known.
    #[serde(default)]
    pub bytes_baseline: Option<u64>,
    /// Multiply-accumulates of the baseline for one image, if known.
    #[serde(default)]
    pub macs_baseline: Option<u64>,
    /// Test images predicted as the baseline predicts them, in percent.
    #[serde(default)]
    pub agreement: Option<f64>,
    /// Test images that only this variant, and only its baseline, answers right; `None` for a baseline and in lines of
    /// older programs.
    #[serde(default)]
    pub discordant: Option<Discordant>,
    /// Share of the weights that pruning was asked to remove, 0 to 1; `None` where no weights were pruned and in lines of
    /// older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// What lines of equal sparsity differ in, for example `global, one-shot`: those are compared with each other. Empty
    /// where `sparsity` is `None`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Images in the test set.
    pub n_test: u64,
    /// Trainable parameters.
    pub params: u64,
    /// Parameters that are not zero.
    pub nonzero: u64,
    /// Multiply-accumulates of Conv and Gemm for one image, zeros included.
    pub macs: u64,
    /// Size of the written model file in bytes.
    pub bytes: u64,
    /// How many of these bytes say where the file comes from: names of variant and recipe, commit. Two files that differ in
    /// nothing else are equally large. 0 in lines of older programs.
    #[serde(default)]
    pub bytes_provenance: u64,
    /// Milliseconds of one image on one thread of the engine, median; `None` for f32, and in lines of older programs.
    #[serde(default)]
    pub latency_ms: Option<f64>,
    /// Number of Conv and Gemm layers.
    pub layers: u32,
    /// Bits of a stored weight; 32 for float.
    pub weight_bits: u32,
    /// Which weights `weight_bits` holds for, for example `first and last layer 8 bits` or `all weights`; empty if there
    /// is nothing to say. Reports mark the bits and print it below the table.
    #[serde(default)]
    pub policy: String,
    /// Bits of an activation; 32 for float.
    pub activation_bits: u32,
    /// How the accuracy was computed: `f32`, `integers in the engine, kernels scalar`.
    pub precision: String,
    /// The arithmetic of the training that lies between the baseline and this model, or that made a baseline: `bf16`,
    /// `f32`; empty if nothing was trained.
    #[serde(default)]
    pub train_precision: String,
    /// Wall-clock time of this variant beyond its baseline, in seconds.
    pub seconds: f64,
    /// The recipe's name.
    pub recipe: String,
    /// The model file, relative to the run's folder; empty if none was written.
    #[serde(default)]
    pub file: String,
    /// The commit of the program that wrote the line.
    #[serde(default)]
    pub commit: String,
    /// A hash of everything that this line follows from; a run that comes to the same takes the line as it is. Empty in
    /// files of older programs.
    #[serde(default)]
    pub key: String,
}

/// The part that a variant has in a comparison: the method is worth what its best arm has over the best control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// As long a training without a teacher.
    Control,
    /// With a teacher.
    Taught,
}

impl Arm {
    /// Its word, as in a result line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Taught => "taught",
        }
    }
}

/// One line of `curves.jsonl`: the state of training after an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The experiment.
    pub experiment: String,
    /// The variant within the experiment.
    pub variant: String,
    /// The zoo's name of the network; empty in files of older programs.
    #[serde(default)]
    pub model: String,
    /// The seed.
    pub seed: u64,
    /// What was being done: `train`, `fine-tune`, `quantization-aware`.
    #[serde(default)]
    pub phase: String,
    /// Epochs finished, counted from 1 over all phases of the variant.
    pub epoch: f64,
    /// Mean training loss of the epoch, in nats.
    pub loss: f64,
    /// Accuracy on the augmented training images of the epoch, in percent.
    pub train_top1: f64,
    /// Learning rate at the end of the epoch.
    pub lr: f64,
    /// Training images per second of wall-clock time.
    pub images_per_second: f64,
}
