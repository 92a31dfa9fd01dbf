//! What is measured is the file that ships: it is written, read back, and what was read is evaluated.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use opt_artifact::{Golden, Provenance};
use opt_core::cost::cost;
use opt_core::lower::{QuantSpec, lower};
use opt_core::{Cost, Model, QModel, interpret_integer};
use opt_nn::Net;
use opt_nn::evaluate::{Evaluation, evaluate, evaluate_with};
use opt_nn::quantized::Simulation;
use tch::Device;

use crate::data::Data;
use crate::identity;
use crate::quantization::CodedModel;

/// Images on which the integer network that was read back is compared with the simulation, code by code.
const CHECKED_IMAGES: usize = 8;

/// Images in the file of an integer network, the first of the test set, with which whoever runs it checks itself. Each
/// costs its pixels and about 200 bytes; two are enough to see answers that get mixed up in a batch.
const GOLDEN_IMAGES: usize = 2;

/// A model in the form in which it ships.
#[derive(Debug, Clone, Copy)]
pub enum Shipped<'a> {
    /// 32-bit floats.
    Float(&'a Model),
    /// f32 arithmetic on weights that are stored as codes.
    Coded(&'a CodedModel),
    /// An integer network.
    Integer {
        /// The folded model.
        folded: &'a Model,
        /// Its codes and scales.
        spec: &'a QuantSpec,
    },
}

impl Shipped<'_> {
    /// The bits of a stored weight, by its parameter's name, and of the values that it is multiplied with.
    #[must_use]
    pub fn bits(&self, weight: &str) -> (u32, u32) {
        match self {
            Self::Float(_) => (32, 32),
            Self::Coded(coded) => {
                let code = coded.codes.get(weight);
                (code.map_or(32, |c| u32::from(c.bits)), 32)
            }
            Self::Integer { spec, .. } => {
                let codes = spec.weights.get(weight);
                // Every edge of an integer network is u8.
                (codes.map_or(32, |w| u32::from(w.bits)), 8)
            }
        }
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Accuracy on the test images.
    pub evaluation: Evaluation,
    /// Parameters, non-zeros, multiply-accumulates.
    pub cost: Cost,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// How the accuracy was computed.
    pub precision: &'static str,
    /// The model as the file holds it, in f32; of an integer network, its decoded weights.
    pub model: Model,
}

/// A hash of what ships: of the file without its provenance and golden images.
///
/// # Errors
///
/// A model that cannot be written.
pub fn content(shipped: Shipped<'_>) -> Result<String> {
    let none = Provenance::new();
    let bytes = match shipped {
        Shipped::Integer { folded, spec } => {
            opt_artifact::write_qmodel(&lower(folded, spec)?, &none)?
        }
        _ => write(shipped, &none, &[])?,
    };
    Ok(identity::hash(&bytes))
}

/// The model as its file holds it, as [`measure`] returned it.
///
/// # Errors
///
/// The file cannot be read.
pub fn stored_model(shipped: Shipped<'_>, path: &Path) -> Result<Model> {
    match shipped {
        Shipped::Float(_) | Shipped::Coded(_) => {
            Ok(opt_artifact::read_model(&opt_artifact::load(path)?)?)
        }
        Shipped::Integer { folded, spec } => Ok(decoded(folded, spec)),
    }
}

/// The file; `golden` are the images that an integer network's carries.
fn write(shipped: Shipped<'_>, provenance: &Provenance, golden: &[u8]) -> Result<Vec<u8>> {
    Ok(match shipped {
        Shipped::Float(model) => opt_artifact::write_model(model, provenance)?,
        Shipped::Coded(coded) => {
            opt_artifact::write_model_with_codes(&coded.model, &coded.codes, provenance)?
        }
        Shipped::Integer { folded, spec } => {
            let network = lower(folded, spec)?;
            let golden = opt_artifact::golden(&network, golden)?;
            opt_artifact::write_qmodel_with_golden(&network, &golden, provenance)?
        }
    })
}

/// Writes a model to `path`, reads it back and evaluates what was read.
///
/// # Errors
///
/// Writing or reading; a file that gives another model; an integer network that disagrees with its simulation.
pub fn measure(
    shipped: Shipped<'_>,
    path: &Path,
    provenance: &Provenance,
    data: &Data,
    device: Device,
) -> Result<Measured> {
    let bytes = write(shipped, provenance, &first_images(data, GOLDEN_IMAGES))?;
    opt_artifact::save(path, &bytes)?;
    let stored = opt_artifact::load(path)?;
    let (evaluation, model, precision) = match shipped {
        Shipped::Float(_) | Shipped::Coded(_) => {
            let model = opt_artifact::read_model(&stored)?;
            let net = Net::new(&model, device)?;
            (evaluate(&net, data.test_batches())?, model, "f32")
        }
        Shipped::Integer { folded, spec } => {
            let (network, golden) = opt_artifact::read_qmodel_with_golden(&stored)?;
            ensure!(
                network == lower(folded, spec)?,
                "{}: the network that was read is not the one that was written",
                path.display()
            );
            let simulation = Simulation::new(folded, spec, device)?;
            let golden = golden.context("the images to check with were not stored")?;
            check_codes(&network, &golden, &simulation, data)
                .with_context(|| format!("checking {}", path.display()))?;
            let evaluation = evaluate_with(data.test_batches(), |b| simulation.logits(b))?;
            let model = decoded(folded, spec);
            (evaluation, model, "integer-exact simulation")
        }
    };
    Ok(Measured {
        evaluation,
        cost: cost(&model)?,
        bytes: stored.len() as u64,
        precision,
        model,
    })
}

/// The first `n` test images, or all if there are fewer.
fn first_images(data: &Data, n: usize) -> Vec<u8> {
    let first: Vec<usize> = (0..n.min(data.test.len())).collect();
    data.test.subset(&first).images.to_vec()
}

/// Compares the network in the file with the simulation at every edge, and with the file's own answers.
fn check_codes(
    network: &QModel,
    golden: &Golden,
    simulation: &Simulation,
    data: &Data,
) -> Result<()> {
    let images = CHECKED_IMAGES.min(data.test.len());
    let batch = opt_nn::Batch {
        images: first_images(data, images),
        labels: vec![0; images],
        indices: vec![0; images],
    };
    let trace = simulation.trace(&batch)?;
    let logits = Vec::<f32>::try_from(trace.logits.reshape([-1]))?;
    for n in 0..images {
        let expected = interpret_integer::run(network, data.test.image(n))?;
        if n < golden.count() {
            golden.check_codes(n, expected.codes.iter().map(Vec::as_slice))?;
            golden.check_logits(n, &expected.logits)?;
        }
        for (id, codes) in expected.codes.iter().enumerate() {
            let found = &trace.codes[id][n * codes.len()..][..codes.len()];
            ensure!(
                found == codes.as_slice(),
                "image {n}: the codes at `{}` differ between the stored network and its simulation; \
                 please report this with the file",
                network.nodes[id].name
            );
        }
        let classes = expected.logits.len();
        ensure!(
            logits[n * classes..][..classes] == expected.logits,
            "image {n}: the logits differ between the stored network and its simulation; please report this with \
             the file"
        );
    }
    Ok(())
}

/// The folded model with the weights that the codes stand for: counts zeros as they ship.
fn decoded(folded: &Model, spec: &QuantSpec) -> Model {
    let mut model = folded.clone();
    for (name, weight) in &spec.weights {
        let values = weight.dequantize().into_shared();
        model.params.insert(name.clone(), values);
    }
    model
}
