//! What is measured is the file that ships: it is written, read back, and what was read is evaluated.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use opt_artifact::{Golden, Provenance};
use opt_compress::QuantizedWeights;
use opt_core::cost::cost;
use opt_core::interpret_quantized::Interpreter;
use opt_core::lower::{QuantSpec, lower};
use opt_core::{Cost, Model, QModel, interpret_quantized};
use opt_infer::{ImageOrder, Kernels, Session, first_difference};
use opt_nn::evaluate::{Evaluation, evaluate, evaluate_with};
use opt_nn::quantized::Simulation;
use opt_nn::{Net, NnError};
use tch::{Device, Tensor};

use crate::data::Data;
use crate::identity;
use crate::machine::threads;

/// Images on which the integer network that was read back is compared with the simulation, code by code.
const CHECKED_IMAGES: usize = 8;

/// Images in the file of an integer network, the first of the test set, with which whoever runs it checks itself. Each
/// costs its pixels and about 200 bytes; two are enough to see answers that get mixed up in a batch.
const GOLDEN_IMAGES: usize = 2;

/// Runs of which latency is the median.
const TIMED_RUNS: usize = 51;

/// A model in the form in which it ships.
#[derive(Debug, Clone, Copy)]
pub enum Artifact<'a> {
    /// 32-bit floats.
    Float(&'a Model),
    /// f32 arithmetic on weights that are stored as codes.
    Weights(&'a QuantizedWeights),
    /// An integer network.
    Integer {
        /// The folded model.
        folded: &'a Model,
        /// Its codes and scales.
        spec: &'a QuantSpec,
    },
}

impl Artifact<'_> {
    /// The bits of a stored weight, by its parameter's name, and of the values that it is multiplied with.
    #[must_use]
    pub fn bits(&self, weight: &str) -> (u32, u32) {
        match self {
            Self::Float(_) => (32, 32),
            Self::Weights(coded) => {
                let code = coded.codes.get(weight);
                (code.map_or(32, |c| u32::from(c.bits)), 32)
            }
            Self::Integer { spec, .. } => {
                let codes = spec.weights.get(weight);
                // Every activation of an integer network is u8.
                (codes.map_or(32, |w| u32::from(w.bits)), 8)
            }
        }
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Accuracy on the test images.
    pub evaluation: Evaluation,
    /// Parameters, non-zeros, multiply-accumulates.
    pub cost: Cost,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// How many of them are its provenance.
    pub bytes_provenance: u64,
    /// How the accuracy was computed.
    pub precision: String,
    /// Milliseconds of one image on one thread of the engine; `None` for what the engine does not run.
    pub latency_ms: Option<f64>,
    /// The model as the file holds it, in f32; of an integer network, its decoded weights.
    pub model: Model,
}

/// A hash of what ships: of the file without its provenance and golden images.
///
/// # Errors
///
/// A model that cannot be written.
pub fn content(artifact: Artifact<'_>) -> Result<String> {
    let none = Provenance::new();
    let bytes = match artifact {
        Artifact::Integer { folded, spec } => {
            opt_artifact::write_qmodel(&lower(folded, spec)?, &none)?
        }
        _ => write(artifact, &none, &[])?,
    };
    Ok(identity::hash(&bytes))
}

/// The model as its file holds it, as [`measure`] returned it.
///
/// # Errors
///
/// The file cannot be read.
pub fn stored_model(artifact: Artifact<'_>, path: &Path) -> Result<Model> {
    match artifact {
        Artifact::Float(_) | Artifact::Weights(_) => {
            Ok(opt_artifact::read_model(&opt_artifact::load(path)?)?)
        }
        Artifact::Integer { folded, spec } => Ok(decoded(folded, spec)),
    }
}

/// The file; `golden` are the images that an integer network's carries.
fn write(artifact: Artifact<'_>, provenance: &Provenance, golden: &[u8]) -> Result<Vec<u8>> {
    Ok(match artifact {
        Artifact::Float(model) => opt_artifact::write_model(model, provenance)?,
        Artifact::Weights(coded) => {
            opt_artifact::write_model_with_codes(&coded.model, &coded.codes, provenance)?
        }
        Artifact::Integer { folded, spec } => {
            let network = lower(folded, spec)?;
            let golden = opt_artifact::golden(&network, golden)?;
            opt_artifact::write_qmodel_with_golden(&network, &golden, provenance)?
        }
    })
}

/// Writes a model to `path`, reads it back and evaluates what was read. A network without finite answers leaves no file:
/// it has no result that would go with it.
///
/// # Errors
///
/// Writing or reading; a file that gives another model; an integer network that disagrees with its simulation;
/// [`NnError::NoAnswer`].
pub fn measure(
    artifact: Artifact<'_>,
    path: &Path,
    provenance: &Provenance,
    data: &Data,
    device: Device,
) -> Result<Measurement> {
    let measured = measure_file(artifact, path, provenance, data, device);
    if let Err(error) = &measured
        && let Some(NnError::NoAnswer { .. }) = error.downcast_ref()
    {
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    }
    measured
}

fn measure_file(
    artifact: Artifact<'_>,
    path: &Path,
    provenance: &Provenance,
    data: &Data,
    device: Device,
) -> Result<Measurement> {
    let golden = first_images(data, GOLDEN_IMAGES);
    let bytes = write(artifact, provenance, &golden)?;
    let content = write(artifact, &Provenance::new(), &golden)?.len();
    opt_artifact::save(path, &bytes)?;
    let stored = opt_artifact::load(path)?;
    let (evaluation, model, precision, latency_ms) = match artifact {
        Artifact::Float(_) | Artifact::Weights(_) => {
            let model = opt_artifact::read_model(&stored)?;
            let net = Net::new(&model, device)?;
            let evaluation = evaluate(&net, data.test_batches())?;
            (evaluation, model, "f32".to_owned(), None)
        }
        Artifact::Integer { folded, spec } => {
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
            let mut session = session(&network, Kernels::best(), threads(), false)?;
            let evaluation = evaluate_with(data.test_batches(), |batch| {
                engine_logits(&mut session, batch)
            })?;
            let precision = format!("integers in the engine, kernels {}", session.kernels());
            let latency = latency(&network, data.test.image(0))?;
            (evaluation, decoded(folded, spec), precision, Some(latency))
        }
    };
    Ok(Measurement {
        evaluation,
        cost: cost(&model)?,
        bytes: stored.len() as u64,
        bytes_provenance: stored.len().saturating_sub(content) as u64,
        precision,
        latency_ms,
        model,
    })
}

fn session(
    network: &QModel,
    kernels: Kernels,
    threads: usize,
    keep_codes: bool,
) -> Result<Session> {
    let options = opt_infer::Options {
        threads,
        kernels: Some(kernels),
        order: ImageOrder::Chw,
        keep_codes,
        ..opt_infer::Options::default()
    };
    Ok(Session::new(network, &options)?)
}

fn engine_logits(session: &mut Session, batch: &opt_nn::Batch) -> opt_nn::Result<Tensor> {
    let logits = session
        .run_batch(&batch.images, batch.labels.len())
        .map_err(|source| NnError::Method {
            what: "running the engine".to_owned(),
            source: Box::new(source),
        })?;
    let n = batch.labels.len() as i64;
    Ok(Tensor::from_slice(logits).reshape([n, -1]))
}

/// The median of the milliseconds of one image on one thread.
fn latency(network: &QModel, image: &[u8]) -> Result<f64> {
    let mut session = session(network, Kernels::best(), 1, false)?;
    let mut logits = session.run(image)?.to_vec();
    let mut times = Vec::with_capacity(TIMED_RUNS);
    for _ in 0..TIMED_RUNS {
        let started = Instant::now();
        session.run_into(image, &mut logits)?;
        times.push(1e3 * started.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[TIMED_RUNS / 2])
}

/// The first `n` test images, or all if there are fewer.
fn first_images(data: &Data, n: usize) -> Vec<u8> {
    let first: Vec<usize> = (0..n.min(data.test.len())).collect();
    data.test.subset(&first).images.to_vec()
}

/// Compares the network in the file with the simulation and every kernel of the engine of every activation, and with the file's own
/// answers.
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
    let available = Kernels::ALL.into_iter().filter(|k| k.available());
    let mut sessions: Vec<Session> = available
        .map(|k| session(network, k, 1, true))
        .collect::<Result<_>>()?;
    let logits = Vec::<f32>::try_from(trace.logits.reshape([-1]))?;
    let interpreter = Interpreter::new(network)?;
    let exact = network.exact();
    for n in 0..images {
        let image = data.test.image(n);
        let expected = interpret_quantized::run(network, image)?;
        if n < golden.count() {
            golden.check_codes(n, network, expected.codes())?;
            golden.check_logits(n, network, &expected.outputs)?;
        }
        for session in &mut sessions {
            let kernels = session.kernels();
            let differs = first_difference(session, network, &interpreter, image)?;
            ensure!(
                differs.is_none(),
                "image {n}: the engine with the kernels {kernels} differs from the interpreter at `{}`; please report this with \
                 the file",
                differs.map_or("", |id| &network.nodes[id].name)
            );
        }
        for (id, codes) in expected.codes().enumerate().filter(|(id, _)| exact[*id]) {
            let found = &trace.codes[id][n * codes.len()..][..codes.len()];
            ensure!(
                found == codes,
                "image {n}: the codes at `{}` differ between the stored network and its simulation; \
                 please report this with the file",
                network.nodes[id].name
            );
        }
        // The first output; behind f32 operators its last bits may be others.
        let output = &network.outputs[0];
        let expected = expected.values[output.node].floats();
        let found = &logits[n * expected.len()..][..expected.len()];
        let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * largest;
        ensure!(
            found == expected || !exact[output.node] && found.iter().zip(expected).all(near),
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

#[cfg(test)]
mod tests {
    use opt_core::{Task, zoo};

    use super::*;
    use crate::data::Limits;

    #[test]
    fn a_network_without_answers_leaves_no_file() {
        let limits = Limits {
            train: Some(10),
            test: Some(10),
            ..Limits::default()
        };
        let data = Data::load("synthetic", Path::new("."), limits).unwrap();
        let mut model = zoo::build("airbench_2_2_2", &Task::cifar10(), 0).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let measure = |model: &Model| {
            let none = Provenance::new();
            measure(Artifact::Float(model), &path, &none, &data, Device::Cpu)
        };
        measure(&model).unwrap();
        assert!(path.exists());
        // Each weight is finite and so is written; their sums are not.
        let names = model.weight_names().into_iter().map(str::to_owned);
        for name in names.collect::<Vec<_>>() {
            let huge = model.params[&name].mapv(|_| 1e30).into_shared();
            model.params.insert(name, huge);
        }
        let error = measure(&model).unwrap_err();
        assert!(
            matches!(error.downcast_ref(), Some(NnError::NoAnswer { .. })),
            "{error:#}"
        );
        assert!(!path.exists());
    }
}
