//! The quantized ResNet-20 gives the same codes in the simulation on libtorch and in the integer interpreter, at every
//! activation, also after a round trip through its file.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use opt_compress::calibrate;
use opt_core::lower::{ResidualAdd, lower};
use opt_core::{Model, Task, interpret_quantized, zoo};
use opt_data::Dataset;
use opt_experiment::data::{Data, Limits};
use opt_experiment::measure::{Artifact, measure};
use opt_nn::Batch;
use opt_nn::quantized::Simulation;
use opt_quant::WeightBits;
use rayon::prelude::*;
use tch::Device;

fn batch(set: &Dataset, n: usize) -> Batch {
    let first: Vec<usize> = (0..n).collect();
    let set = set.subset(&first);
    Batch {
        images: set.images.to_vec(),
        labels: set.labels.iter().map(|l| i64::from(*l)).collect(),
        indices: (0..).take(n).collect(),
    }
}

/// Quantizes after training and compares `n` images of every activation, with both kinds of addition.
fn check(model: &Model, calibration: &Dataset, test: &Dataset, n: usize) {
    let images = batch(calibration, 200.min(calibration.len()));
    let calibrated = calibrate(model, &BTreeSet::new(), std::iter::once(images.images)).unwrap();
    for adds in [ResidualAdd::Fused, ResidualAdd::Explicit] {
        let spec = calibrated.spec(adds, WeightBits::hidden(8)).unwrap();
        let lowered = lower(&calibrated.folded, &spec).unwrap();
        let bytes = opt_artifact::write_qmodel(&lowered, &Default::default()).unwrap();
        let stored = opt_artifact::read_qmodel(&bytes).unwrap();
        assert_eq!(stored, lowered);
        let simulation = Simulation::new(&calibrated.folded, &spec, Device::Cpu).unwrap();
        let trace = simulation.trace(&batch(test, n)).unwrap();
        let logits = Vec::<f32>::try_from(trace.logits.reshape([-1])).unwrap();
        (0..n).into_par_iter().for_each(|i| {
            let expected = interpret_quantized::run(&stored, test.image(i)).unwrap();
            for (id, codes) in expected.codes().enumerate() {
                let found = &trace.codes[id][i * codes.len()..][..codes.len()];
                assert_eq!(
                    found, codes,
                    "{adds:?}, image {i}, `{}`",
                    stored.nodes[id].name
                );
            }
            let classes = expected.outputs.len();
            assert_eq!(
                logits[i * classes..][..classes],
                expected.outputs,
                "{adds:?}, image {i}"
            );
        });
        let activations = stored
            .nodes
            .iter()
            .filter(|n| n.activation.is_some())
            .count();
        eprintln!("{adds:?}: {n} images equal at {activations} activations, and in every logit");
    }
}

#[test]
fn resnet20_codes_are_equal_of_every_activation() {
    let data = opt_data::synthetic::synthetic(3, 100, 100);
    let mut model = zoo::build("resnet20", &Task::cifar10(), 7).unwrap();
    // Statistics that make folding do something, as training would.
    for (name, param) in &mut model.params {
        if name.ends_with("running_var") {
            param.fill(1.7);
        } else if name.ends_with("running_mean") {
            param.fill(0.05);
        }
    }
    check(&model, &data.train, &data.test, 100);
}

/// With `OPT_DATA_DIR` (a folder in the CIFAR-10 layout) and `OPT_RESNET20` (a checkpoint as safetensors):
/// `cargo test --release -p opt-experiment --test integer_equality -- --ignored --nocapture`
#[test]
#[ignore = "needs a checkpoint and images; see docs/results.md"]
fn pretrained_resnet20_codes_are_equal_of_every_activation() {
    let path =
        |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("set {name}")));
    let data = opt_data::cifar10::load(&path("OPT_DATA_DIR"))
        .unwrap()
        .splits;
    let zoo = zoo::build("resnet20", &Task::cifar10(), 0).unwrap();
    let bytes = std::fs::read(path("OPT_RESNET20")).unwrap();
    let (model, _) =
        opt_format::import_safetensors(&bytes, &zoo, opt_format::Head::Imported).unwrap();
    check(&model, &data.train, &data.test, 100);
}

#[test]
fn every_shortcut_and_chain_can_be_shipped_and_measured() {
    let limits = Limits {
        train: Some(40),
        test: Some(20),
        ..Limits::default()
    };
    let data = Data::load("synthetic", std::path::Path::new("."), limits).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, bits) in [
        ("resnet20", 8),
        ("resnet20_b", 4),
        ("airbench_4_8_12", 3),
        ("source_net", 8),
    ] {
        let model = zoo::build(name, &data.task(), 5).unwrap();
        let calibrated = calibrate(
            &model,
            &BTreeSet::new(),
            data.calibration(40, 40).map(|batch| batch.images),
        )
        .unwrap();
        let spec = calibrated
            .spec(ResidualAdd::Fused, WeightBits::hidden(bits))
            .unwrap();
        let artifact = Artifact::Integer {
            folded: &calibrated.folded,
            spec: &spec,
        };
        let path = dir.path().join(format!("{name}.opt"));
        let measured = measure(artifact, &path, &Default::default(), &data, Device::Cpu).unwrap();
        assert_eq!(measured.bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(measured.evaluation.predictions.len(), 20);
        // The file carries the first two test images with the answers that follow.
        let (stored, golden) = opt_artifact::load_qmodel_with_golden(&path).unwrap();
        let golden = golden.unwrap();
        assert_eq!(golden.count(), 2);
        for n in 0..2 {
            assert_eq!(golden.image(n), data.test.image(n));
            let trace = interpret_quantized::run(&stored, golden.image(n)).unwrap();
            golden.check_codes(n, &stored, trace.codes()).unwrap();
            golden.check_logits(n, &stored, &trace.outputs).unwrap();
        }
        // The answers are those of the interpreter on what the file holds.
        for (i, answer) in measured.evaluation.predictions.iter().enumerate().take(3) {
            let logits = interpret_quantized::run(&stored, data.test.image(i))
                .unwrap()
                .outputs;
            let best =
                (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
            assert_eq!(best.map(|b| b as i64), Some(*answer), "{name}");
        }
    }
}
