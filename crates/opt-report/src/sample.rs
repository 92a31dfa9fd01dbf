//! A made run that tests of reports and plots share, also those of other crates.

use std::collections::BTreeMap;

use opt_stats::Discordant;

use crate::{
    Cpu, CurvePoint, DataSource, DatasetInfo, Layer, LayerLine, NotRun, RecipeText, ResultLine,
    RunInfo, SCHEMA, Versions,
};

/// Lines of two seeds.
#[must_use]
pub fn sample_lines() -> Vec<ResultLine> {
    let base = ResultLine {
        experiment: "baseline".to_owned(),
        variant: "resnet20".to_owned(),
        model: "resnet20".to_owned(),
        dataset: "cifar10".to_owned(),
        seed: 0,
        device: "cpu".to_owned(),
        epochs: 8.0,
        epochs_of: "8 base".to_owned(),
        top1: 91.6,
        top1_baseline: 91.6,
        baseline: None,
        group: String::new(),
        arm: None,
        bytes_baseline: Some(1_100_000),
        macs_baseline: Some(40_551_040),
        agreement: None,
        discordant: None,
        sparsity: None,
        method: String::new(),
        n_test: 10_000,
        params: 269_722,
        nonzero: 269_722,
        macs: 40_551_040,
        bytes: 1_100_000,
        bytes_provenance: 0,
        latency_ms: None,
        layers: 20,
        weight_bits: 32,
        policy: String::new(),
        activation_bits: 32,
        precision: "f32".to_owned(),
        train_precision: "bf16".to_owned(),
        seconds: 412.4,
        recipe: "resnet20-quick".to_owned(),
        file: "models/baseline-resnet20-0.safetensors".to_owned(),
        key: String::new(),
        commit: "0123456789abcdef".to_owned(),
    };
    let variant = |experiment: &str, name: &str, top1: f64, nonzero: u64, bytes: u64| ResultLine {
        experiment: experiment.to_owned(),
        variant: name.to_owned(),
        baseline: Some("resnet20".to_owned()),
        top1,
        top1_baseline: 91.6,
        agreement: Some(top1 + 3.0),
        epochs: 10.0,
        epochs_of: "8 base + 2 fine-tune".to_owned(),
        nonzero,
        bytes,
        seconds: 61.0,
        file: format!("models/{experiment}.safetensors"),
        ..base.clone()
    };
    let pruned = |name: &str, sparsity: f64, top1: f64, nonzero: u64, bytes: u64| ResultLine {
        sparsity: Some(sparsity),
        method: "global".to_owned(),
        ..variant("prune", name, top1, nonzero, bytes)
    };
    let quantized = |name: &str, top1: f64, weight_bits: u32, bytes: u64| ResultLine {
        weight_bits,
        activation_bits: 8,
        policy: match weight_bits {
            8 => String::new(),
            _ => "first and last layer 8 bits".to_owned(),
        },
        epochs: 8.0,
        epochs_of: "8 base".to_owned(),
        precision: "integers in the engine, kernels avx512vnni".to_owned(),
        latency_ms: Some(0.187),
        train_precision: String::new(),
        ..variant("quantize", name, top1, 269_722, bytes)
    };
    let pipeline = |name: &str, top1: f64, weight_bits: u32, bytes: u64| ResultLine {
        weight_bits,
        activation_bits: 8,
        params: 172_000,
        macs: 26_000_000,
        policy: match weight_bits {
            8 => String::new(),
            _ => "first and last layer 8 bits".to_owned(),
        },
        precision: "integers in the engine, kernels avx512vnni".to_owned(),
        latency_ms: Some(0.094),
        ..variant("pipeline", name, top1, 172_000, bytes)
    };
    let student = ResultLine {
        model: "airbench-16-32-32".to_owned(),
        bytes_baseline: Some(150_000),
        macs_baseline: Some(6_000_000),
        params: 36_000,
        nonzero: 36_000,
        macs: 6_000_000,
        layers: 8,
        ..variant("distill", "student alone", 84.1, 36_000, 150_000)
    };
    vec![
        base.clone(),
        ResultLine {
            variant: "source_net".to_owned(),
            model: "source_net".to_owned(),
            epochs: 2.0,
            epochs_of: "2 base".to_owned(),
            top1: 68.2,
            top1_baseline: 68.2,
            bytes_baseline: Some(630_000),
            macs_baseline: Some(77_332_480),
            params: 157_578,
            nonzero: 157_578,
            macs: 77_332_480,
            bytes: 630_000,
            layers: 3,
            ..base.clone()
        },
        ResultLine {
            discordant: Some(Discordant {
                only_variant: 160,
                only_baseline: 200,
            }),
            ..variant("prune", "one-shot 50 %", 91.3, 136_000, 640_000)
        },
        pruned("one-shot 90 %", 0.9, 84.9, 29_000, 190_000),
        pruned("iterative 80 %", 0.8, 90.4, 56_000, 330_000),
        quantized("post-training W8A8", 91.65, 8, 285_000),
        ResultLine {
            epochs: 9.0,
            epochs_of: "8 base + 1 quantization-aware".to_owned(),
            train_precision: "f32".to_owned(),
            ..quantized("aware W4A8", 90.1, 4, 152_000)
        },
        quantized("L-level formula, L = 16", 74.0, 4, 152_000),
        ResultLine {
            baseline: None,
            top1_baseline: 84.1,
            agreement: None,
            ..student.clone()
        },
        ResultLine {
            variant: "student taught by resnet20".to_owned(),
            baseline: Some("student alone".to_owned()),
            top1: 85.3,
            top1_baseline: 84.1,
            discordant: Some(Discordant {
                only_variant: 420,
                only_baseline: 300,
            }),
            ..student
        },
        pipeline("channels + W8A8", 90.85, 8, 178_300),
        pipeline("channels + W4A8", 89.9, 4, 98_000),
        // A second seed of the first.
        ResultLine {
            seed: 1,
            top1: 91.8,
            top1_baseline: 91.8,
            ..base
        },
    ]
}

/// A baseline, and a variant of it without half of the channels in between.
/// Their layers.
#[must_use]
pub fn sample_layers() -> Vec<LayerLine> {
    let layer = |name: &str, op: &str, weight: &[usize], output: &[usize], bits: u32| {
        let n = weight.iter().product::<usize>();
        let positions = if op == "Conv" {
            output[1] * output[2]
        } else {
            1
        };
        Layer {
            name: name.to_owned(),
            op: op.to_owned(),
            weight_shape: weight.to_vec(),
            output_shape: output.to_vec(),
            params: n as u64,
            macs: if op == "BatchNormalization" {
                0
            } else {
                (n * positions) as u64
            },
            sparsity: 0.25,
            weight_bits: bits,
            activation_bits: bits,
        }
    };
    let line = |experiment: &str, variant: &str, layers: Vec<Layer>| LayerLine {
        experiment: experiment.to_owned(),
        variant: variant.to_owned(),
        model: "resnet20".to_owned(),
        seed: 0,
        layers,
    };
    vec![
        line(
            "baseline",
            "resnet20",
            vec![
                layer("conv1", "Conv", &[16, 3, 3, 3], &[16, 32, 32], 32),
                layer("bn1", "BatchNormalization", &[16], &[16, 32, 32], 32),
                layer("conv2", "Conv", &[16, 16, 3, 3], &[16, 32, 32], 32),
                layer("fc", "Gemm", &[10, 64], &[10], 32),
            ],
        ),
        line(
            "pipeline",
            "channels + W8A8",
            vec![
                layer("conv1", "Conv", &[8, 3, 3, 3], &[8, 32, 32], 8),
                layer("conv2", "Conv", &[16, 8, 3, 3], &[16, 32, 32], 8),
                layer("fc", "Gemm", &[10, 64], &[10], 8),
            ],
        ),
    ]
}

/// Their epochs.
#[must_use]
pub fn sample_curves() -> Vec<CurvePoint> {
    let mut points = Vec::new();
    for (experiment, variant, n_epochs, end) in [
        ("baseline", "resnet20", 8, 92.0),
        ("baseline", "source_net", 2, 66.0),
        ("prune", "one-shot 90 %", 10, 86.0),
        ("prune", "iterative 80 %", 10, 91.0),
    ] {
        for epoch in 1..=n_epochs {
            let epoch = f64::from(epoch);
            points.push(CurvePoint {
                experiment: experiment.to_owned(),
                variant: variant.to_owned(),
                model: "resnet20".to_owned(),
                seed: 0,
                phase: "train".to_owned(),
                epoch,
                loss: 2.3 / epoch,
                train_top1: end - 50.0 / epoch,
                lr: 0.1,
                images_per_second: 796.0,
            });
        }
    }
    points
}

/// Their conditions.
#[must_use]
pub fn sample_run() -> RunInfo {
    RunInfo {
        schema: SCHEMA,
        warning: None,
        started: "2025-01-02T03:04:05Z".to_owned(),
        resumed: Vec::new(),
        finished: Some("2025-01-02T03:33:05Z".to_owned()),
        command: "cargo xtask experiment all --data cifar-10-batches-bin".to_owned(),
        profile: "quick".to_owned(),
        experiments: ["baseline", "prune", "quantize", "distill", "pipeline"]
            .map(str::to_owned)
            .to_vec(),
        recipes: vec![RecipeText {
            name: "resnet20-quick".to_owned(),
            text: "model = \"resnet20\"\nepochs = 8\n".to_owned(),
        }],
        commit: "0123456789abcdef0123".to_owned(),
        dirty: Some(true),
        versions: Versions {
            opt: "0.1.0".to_owned(),
            rustc: "1.95.0".to_owned(),
            tch: "0.26.0".to_owned(),
            libtorch: "2.13.0".to_owned(),
        },
        cpu: Cpu {
            model: "AMD EPYC 9R14".to_owned(),
            features: vec!["avx2".to_owned(), "avx512f".to_owned()],
            cores: 2,
        },
        threads: 2,
        settings: BTreeMap::new(),
        device: "cpu".to_owned(),
        precision: "bf16 NHWC".to_owned(),
        dataset: DatasetInfo {
            name: "cifar10".to_owned(),
            source: DataSource::Unofficial,
            hash: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            notice: Some(
                "real CIFAR-10 images, re-encoded as JPEG by their publisher: accuracies are a few tenths of a point \
                 below those on the official files"
                    .to_owned(),
            ),
            n_train: 50_000,
            n_test: 10_000,
            split: "all 50,000 training images, last epoch reported".to_owned(),
        },
        seeds: vec![0, 1],
        shard: None,
        not_run: vec![NotRun {
            what: "source_net, 10 epochs a phase".to_owned(),
            why: "belongs to the profile full".to_owned(),
            file: None,
        }],
        notes: vec!["resnet20: magnitude ranks weights worse than the second-order score".to_owned()],
    }
}
