//! Proves what a `.opt` file promises: every kernel gives the interpreter's codes on real images, and ONNX Runtime gives
//! nearly all of them.
//!
//! ```text
//! engine        every code of every node, and every logit's bits, equal to opt_core::interpret_quantized
//! ONNX Runtime  of the file as a QDQ graph: no Conv in its optimised graph, at least 99.9 % of the codes equal, the others
//!               one apart
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use opt_core::interpret_quantized::Interpreter;
use opt_core::{Op, Preparation, QModel, QNode, QOp, interpret_quantized};
use opt_data::Dataset;
use opt_format::onnx::{QdqOptions, write_qdq};
use opt_infer::{ImageOrder, Kernels, Options as Engine, Session, first_difference, self_test};
use opt_report::write_atomic;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::infer::SCRIPT;
use crate::peer::{Peer, find_python, python};
use opt_experiment::cpu::cpu;
use opt_experiment::data::{Data, Limits};

/// The share of codes that must be equal in ONNX Runtime.
const EQUAL_IN_ORT: f64 = 0.999;

/// What ONNX Runtime calls a convolution in f32: alone, and joined with its ReLU.
const FLOAT_CONVS: [&str; 2] = ["Conv", "FusedConv"];

/// How long ONNX Runtime may take for all images.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// The command line.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The files, as `experiment` and `train` leave them in `models/`.
    #[arg(required = true, value_name = "FILE.opt")]
    files: Vec<PathBuf>,
    /// The images, as for `experiment`; the first test images are used.
    #[arg(
        long,
        default_value = "auto",
        value_name = "auto|cifar100|synthetic|DIR"
    )]
    data: String,
    /// The side in pixels of the square that images of your own become [default: 32].
    #[arg(long, value_name = "N")]
    image_size: Option<usize>,
    /// How many images.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    /// The Python that has ONNX Runtime [default: `OPT_PEERS_PYTHON`, else what `cargo xtask setup --peers` made]; without
    /// one, the engine alone is checked.
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Write what was found to this file as JSON as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was found in all files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// The processor.
    pub machine: String,
    /// The images.
    pub dataset: String,
    /// How many of them.
    pub images: usize,
    /// One for each file.
    pub files: Vec<FileFindings>,
}

/// What was found in one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileFindings {
    /// The file's name.
    pub file: String,
    /// The SHA-256 that it holds.
    pub sha256: String,
    /// Accuracy of the interpreter on the images, in per cent.
    pub top1: f64,
    /// Images in the file with their answers, which all kernels gave.
    pub golden: usize,
    /// By set of kernels.
    pub kernels: Vec<KernelFindings>,
    /// What was not run, and why.
    pub not_run: Vec<String>,
    /// ONNX Runtime, if it was run.
    pub onnx_runtime: Option<OrtFindings>,
}

/// A set of kernels beside the interpreter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelFindings {
    /// Its name.
    pub kernels: String,
    /// Codes that were compared, at all nodes.
    pub codes: u64,
    /// Codes that differ.
    pub different: u64,
    /// Logits that differ in a bit.
    pub logits_different: u64,
    /// Accuracy on the images, in per cent.
    pub top1: f64,
}

/// ONNX Runtime beside the interpreter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrtFindings {
    /// Its version.
    pub version: String,
    /// How often each operator occurs in its optimised graph.
    pub operators: BTreeMap<String, u64>,
    /// Convolutions that the network itself has in f32.
    #[serde(default)]
    pub float_convs: u64,
    /// Codes that were compared, at all nodes but the image.
    pub codes: u64,
    /// Codes that differ by one.
    pub off_by_one: u64,
    /// Codes that differ by more.
    pub off_by_more: u64,
    /// Accuracy on the images, in per cent.
    pub top1: f64,
}

/// Checks the files, prints what was found and writes it.
///
/// # Errors
///
/// Files or images that cannot be read; a promise that is not kept, after everything was printed and written.
pub fn run(options: &Options, root: &Path) -> Result<()> {
    let limits = Limits {
        test: Some(options.images as usize),
        image_size: options.image_size,
        prepared: Some(common_preparation(&options.files)?),
        ..Limits::default()
    };
    let data = Data::load(&options.data, root, limits)?;
    let mut peer = match find_python(
        options.python.as_deref(),
        std::env::var_os("OPT_PEERS_PYTHON"),
    ) {
        Ok(path) => Some(Peer::start(&mut python(&path, SCRIPT, 1))?),
        Err(error) => {
            eprintln!("ONNX Runtime is left out: {error}");
            None
        }
    };
    let mut findings = Findings {
        machine: cpu().model,
        dataset: data.info.name.clone(),
        images: data.test.len(),
        files: Vec::new(),
    };
    for file in &options.files {
        let found = check(file, &data.test, peer.as_mut());
        findings
            .files
            .push(found.with_context(|| format!("verifying {}", file.display()))?);
        print(&findings, findings.files.len() - 1);
    }
    if let Some(path) = &options.json {
        let mut text = serde_json::to_string_pretty(&findings)?;
        text.push('\n');
        write_atomic(path, text.as_bytes())?;
        eprintln!("written to {}", path.display());
    }
    let broken: Vec<String> = findings.files.iter().flat_map(broken_promises).collect();
    if !broken.is_empty() {
        bail!("{}", broken.join("; "));
    }
    Ok(())
}

/// Rows, columns and preparation of the images that the files' networks read: one for all, as they are looked at together.
fn common_preparation(files: &[PathBuf]) -> Result<([usize; 2], Preparation)> {
    let mut first = None;
    for file in files {
        let input = opt_artifact::load_qmodel(file)?.input;
        let read = ([input.shape[1], input.shape[2]], input.preparation);
        let (seen, of) = first.get_or_insert((read, file));
        ensure!(
            read == *seen,
            "{} and {} prepare images otherwise ({seen:?} and {read:?}): verify them one by one",
            of.display(),
            file.display()
        );
    }
    first
        .map(|(read, _)| read)
        .context("there is no file to verify")
}

fn check(file: &Path, images: &Dataset, peer: Option<&mut Peer>) -> Result<FileFindings> {
    let bytes = opt_artifact::load(file)?;
    let (model, golden) = opt_artifact::read_qmodel_with_golden(&bytes)?;
    ensure!(
        [images.channels, images.height, images.width] == model.input.shape
            && images.classes.len() == model.labels().len(),
        "the network reads {:?} and knows {} classes; the images are {:?} of {}",
        model.input.shape,
        model.labels().len(),
        [images.channels, images.height, images.width],
        images.classes.len()
    );
    let traces: Vec<interpret_quantized::Trace> = (0..images.len())
        .into_par_iter()
        .map(|n| interpret_quantized::run(&model, images.image(n)))
        .collect::<opt_core::Result<_>>()?;
    let (can, cannot): (Vec<_>, Vec<_>) = Kernels::ALL.into_iter().partition(|k| k.available());
    let mut kernels = Vec::new();
    for set in can {
        kernels.push(check_kernels(
            &model,
            set,
            images,
            &traces,
            golden.as_ref(),
        )?);
    }
    let mut not_run: Vec<String> = cannot
        .iter()
        .map(|k| format!("kernels {k}: this processor lacks {}", k.needs()))
        .collect();
    let onnx_runtime = match peer {
        Some(peer) if is_rounded(&model) => Some(check_ort(&model, images, &traces, peer)?),
        Some(_) => {
            not_run.push("ONNX Runtime: fused residual additions have no QDQ form".to_owned());
            None
        }
        None => {
            not_run.push("ONNX Runtime: no Python with it; `cargo xtask setup --peers`".to_owned());
            None
        }
    };
    let answers = traces.iter().map(|t| &t.outputs[..model.labels().len()]);
    Ok(FileFindings {
        file: file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        sha256: opt_artifact::inspect(&bytes)?.sha256,
        top1: top1(answers, images),
        golden: golden.map_or(0, |g| g.count()),
        kernels,
        not_run,
        onnx_runtime,
    })
}

/// Whether no convolution adds before it rounds, so that the network has a QDQ form.
fn is_rounded(model: &QModel) -> bool {
    let conv = |n: &&QNode| matches!(n.op, QOp::Conv { .. });
    model.nodes.iter().filter(conv).all(|n| n.inputs.len() == 1)
}

fn top1<'a>(logits: impl Iterator<Item = &'a [f32]>, images: &Dataset) -> f64 {
    let correct = logits.zip(images.labels.iter()).filter(|(logits, label)| {
        let best = (0..logits.len())
            .rev()
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        best == Some(usize::from(**label))
    });
    100.0 * correct.count() as f64 / images.len().max(1) as f64
}

fn check_kernels(
    model: &QModel,
    set: Kernels,
    images: &Dataset,
    traces: &[interpret_quantized::Trace],
    golden: Option<&opt_artifact::Golden>,
) -> Result<KernelFindings> {
    let engine = Engine {
        kernels: Some(set),
        order: ImageOrder::Chw,
        keep_codes: true,
        ..Engine::default()
    };
    let mut session = Session::new(model, &engine)?;
    let mut found = KernelFindings {
        kernels: set.to_string(),
        codes: 0,
        different: 0,
        logits_different: 0,
        top1: 0.0,
    };
    let interpreter = Interpreter::new(model)?;
    let exact = model.exact();
    let all_exact = model.outputs.iter().all(|o| exact[o.node]);
    let mut answers = Vec::with_capacity(traces.len());
    for (n, trace) in traces.iter().enumerate() {
        let mut logits = session.run(images.image(n))?.to_vec();
        if all_exact {
            let bits = logits
                .iter()
                .zip(&trace.outputs)
                .filter(|(a, b)| a.to_bits() != b.to_bits());
            found.logits_different += bits.count() as u64;
        } else {
            // Behind f32 operators each node is compared for the engine's own operands.
            let differs = first_difference(&mut session, model, &interpreter, images.image(n))?;
            found.logits_different += u64::from(differs.is_some());
        }
        for (node, expected) in trace.codes().enumerate().filter(|(id, _)| exact[*id]) {
            let codes = session.codes(node).unwrap_or_default();
            found.codes += expected.len() as u64;
            let equal = codes.iter().zip(expected).filter(|(a, b)| a == b).count();
            found.different += (expected.len().max(codes.len()) - equal) as u64;
        }
        logits.truncate(model.labels().len());
        answers.push(logits);
    }
    found.top1 = top1(answers.iter().map(Vec::as_slice), images);
    if let Some(golden) = golden {
        self_test(model, golden, set)?;
    }
    Ok(found)
}

fn check_ort(
    model: &QModel,
    images: &Dataset,
    traces: &[interpret_quantized::Trace],
    peer: &mut Peer,
) -> Result<OrtFindings> {
    let folder = tempfile::tempdir().context("making a folder for ONNX Runtime")?;
    let path = |name: &str| folder.path().join(name);
    let (plain, all) = (path("plain.onnx"), path("all.onnx"));
    fs::write(&plain, write_qdq(model, &QdqOptions::default())?)?;
    let every = QdqOptions {
        all_codes: true,
        ..QdqOptions::default()
    };
    fs::write(&all, write_qdq(model, &every)?)?;
    fs::write(path("images"), &images.images[..])?;
    let hello: BTreeMap<String, String> = peer.ask(&json!({"do": "hello"}), TIMEOUT)?;
    let mut kinds = |model: &Path| -> Result<BTreeMap<String, u64>> {
        peer.ask(&json!({"do": "kinds", "model": model}), TIMEOUT)
    };
    // The graph whose codes are compared must be executed as the one that ships.
    let (operators, compared) = (kinds(&plain)?, kinds(&all)?);
    for op in FLOAT_CONVS.into_iter().chain(["QLinearConv", "QLinearAdd"]) {
        ensure!(
            operators.get(op) == compared.get(op),
            "ONNX Runtime has {:?} {op} without and {:?} with all codes as outputs",
            operators.get(op),
            compared.get(op)
        );
    }
    let request = json!({
        "do": "codes", "model": all, "images": path("images"), "out": path("codes"), "count": images.len(),
    });
    let names: Vec<String> = peer.ask(&request, TIMEOUT)?;
    let values = fs::read(path("codes")).context("reading what ONNX Runtime computed")?;
    let is_float_conv = |n: &&QNode| matches!(n.op, QOp::Float(Op::Conv { .. }));
    let float_convs = model.nodes.iter().filter(is_float_conv).count();
    let mut found = OrtFindings {
        version: hello.get("ONNX Runtime").cloned().unwrap_or_default(),
        operators,
        float_convs: float_convs as u64,
        codes: 0,
        off_by_one: 0,
        off_by_more: 0,
        top1: 0.0,
    };
    let classes = model.labels().len();
    let mut rest = values.as_slice();
    let mut answers = Vec::with_capacity(traces.len());
    let mut take = |length: usize| -> Result<&[u8]> {
        let (head, tail) = rest
            .split_at_checked(length)
            .context("ONNX Runtime wrote fewer values than the network has")?;
        rest = tail;
        Ok(head)
    };
    for trace in traces {
        for name in &names {
            if name == opt_format::onnx::LOGITS {
                let bytes = take(4 * classes)?;
                let floats = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
                answers.push(floats.collect::<Vec<f32>>());
                continue;
            }
            let node = model.nodes.iter().position(|n| n.name == *name);
            let node =
                node.with_context(|| format!("ONNX Runtime knows `{name}`, the network does not"))?;
            let expected = trace.values[node].codes();
            found.codes += expected.len() as u64;
            for (a, b) in take(expected.len())?.iter().zip(expected) {
                match a.abs_diff(*b) {
                    0 => {}
                    1 => found.off_by_one += 1,
                    _ => found.off_by_more += 1,
                }
            }
        }
    }
    ensure!(
        take(1).is_err(),
        "ONNX Runtime wrote more values than the network has"
    );
    ensure!(found.codes > 0, "ONNX Runtime gave no codes");
    found.top1 = top1(answers.iter().map(Vec::as_slice), images);
    Ok(found)
}

/// One sentence for each.
fn broken_promises(found: &FileFindings) -> Vec<String> {
    let file = &found.file;
    let mut broken = Vec::new();
    for k in &found.kernels {
        if k.different + k.logits_different > 0 {
            broken.push(format!(
                "{file}: {} codes and {} logits of the kernels {} differ from the interpreter's; please report this \
                 with the file",
                k.different, k.logits_different, k.kernels
            ));
        }
    }
    if let Some(ort) = &found.onnx_runtime {
        let in_f32 = FLOAT_CONVS.iter().filter_map(|op| ort.operators.get(*op));
        if in_f32.sum::<u64>() > ort.float_convs {
            broken.push(format!("{file}: ONNX Runtime keeps a convolution in f32"));
        }
        if ort.off_by_more > 0 || (ort.off_by_one as f64) > (1.0 - EQUAL_IN_ORT) * ort.codes as f64
        {
            broken.push(format!(
                "{file}: of {} codes in ONNX Runtime {} differ by one and {} by more",
                ort.codes, ort.off_by_one, ort.off_by_more
            ));
        }
    }
    broken
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn print(findings: &Findings, file: usize) {
    let found = &findings.files[file];
    println!(
        "{} (SHA-256 {}…)",
        found.file,
        &found.sha256[..16.min(found.sha256.len())]
    );
    println!(
        "  interpreter         top-1 {:.2} % of {} images of {}; {} golden images",
        found.top1, findings.images, findings.dataset, found.golden
    );
    for k in &found.kernels {
        println!(
            "  kernels {:<11} top-1 {:.2} %; {} of {} codes differ, {} logits",
            k.kernels, k.top1, k.different, k.codes, k.logits_different
        );
    }
    if let Some(ort) = &found.onnx_runtime {
        let count = |op: &str| ort.operators.get(op).copied().unwrap_or(0);
        println!(
            "  ONNX Runtime        top-1 {:.2} %; of {} codes {} differ by one ({:.4} %), {} by more; {} QLinearConv, {} \
             convolutions in f32",
            ort.top1,
            ort.codes,
            ort.off_by_one,
            100.0 * ort.off_by_one as f64 / ort.codes.max(1) as f64,
            ort.off_by_more,
            count("QLinearConv"),
            FLOAT_CONVS.map(count).iter().sum::<u64>(),
        );
    }
    for what in &found.not_run {
        println!("  not run: {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> FileFindings {
        FileFindings {
            file: "net.opt".to_owned(),
            sha256: "ab".repeat(32),
            top1: 90.0,
            golden: 4,
            kernels: vec![KernelFindings {
                kernels: "scalar".to_owned(),
                codes: 1000,
                different: 0,
                logits_different: 0,
                top1: 90.0,
            }],
            not_run: Vec::new(),
            onnx_runtime: Some(OrtFindings {
                version: "ONNX Runtime".to_owned(),
                float_convs: 0,
                operators: BTreeMap::from([("QLinearConv".to_owned(), 19)]),
                codes: 10_000,
                off_by_one: 10,
                off_by_more: 0,
                top1: 90.0,
            }),
        }
    }

    #[test]
    fn each_broken_promise_is_told() {
        assert!(broken_promises(&sound()).is_empty());
        type Breaks = fn(&mut FileFindings);
        let cases: [(Breaks, &str); 6] = [
            (
                |f| f.kernels[0].different = 1,
                "1 codes and 0 logits of the kernels scalar",
            ),
            (
                |f| f.kernels[0].logits_different = 2,
                "0 codes and 2 logits",
            ),
            // One code more than a thousandth.
            (
                |f| f.onnx_runtime.as_mut().unwrap().off_by_one = 11,
                "11 differ by one",
            ),
            (
                |f| f.onnx_runtime.as_mut().unwrap().off_by_more = 1,
                "1 by more",
            ),
            (
                |f| {
                    let ort = f.onnx_runtime.as_mut().unwrap();
                    ort.operators.insert("Conv".to_owned(), 1);
                },
                "keeps a convolution in f32",
            ),
            (
                |f| {
                    let ort = f.onnx_runtime.as_mut().unwrap();
                    ort.operators.insert("FusedConv".to_owned(), 1);
                },
                "keeps a convolution in f32",
            ),
        ];
        for (break_it, expected) in cases {
            let mut found = sound();
            break_it(&mut found);
            let broken = broken_promises(&found);
            assert!(
                broken.len() == 1 && broken[0].contains(expected),
                "{broken:?}"
            );
        }
    }

    #[test]
    fn ties_go_to_the_first_class() {
        let images = opt_data::synthetic::synthetic(0, 10, 0).train;
        let label = usize::from(images.labels[0]);
        let mut logits = vec![0.0; 10];
        assert_eq!(
            top1([logits.as_slice()].into_iter(), &images) > 0.0,
            label == 0
        );
        logits[label] = 1.0;
        assert_eq!(top1([logits.as_slice()].into_iter(), &images), 10.0);
    }
}
