//! Inference beside ONNX Runtime and OpenVINO, and the multiply-accumulates per cycle of every layer.
//!
//! Ours runs the integer network with fused residual additions, which is what a `.opt` file holds by default. The peers run the same
//! weights with explicit residual additions, without which they have no integer kernels, and the network in f32. Each gets its images
//! in the form that costs it least: ours as bytes, the peers' integer network as bytes with their border.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use opt_core::lower::{ResidualAdd, fold, lower, observed_nodes};
use opt_core::{Model, QModel, Task, interpret, zoo};
use opt_format::onnx::{QdqOptions, padded_image, write_float, write_qdq};
use opt_infer::{ImageOrder, Kernels, Options as Engine, Session};
use opt_quant::{MinMax, WeightBits, min_max_spec};
use opt_stats::{Better, ratio};
use serde_json::json;

use crate::clock::clock;
use crate::neighbour::Neighbours;
use crate::options::{Common, chosen, steps_in};
use crate::outcome::{Findings, Row};
use crate::peer::{Peer, find_python, python};
use crate::rounds::{Idle, in_turn};

/// What is run.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    batch: usize,
    threads: usize,
}

/// All of ResNet-20.
const CASES: &[Case] = &[
    case("resnet20, batch 1, 1 thread", 1, 1),
    case("resnet20, batch 1, 2 threads", 1, 2),
    case("resnet20, batch 128, 1 thread", 128, 1),
    case("resnet20, batch 128, 2 threads", 128, 2),
];

const fn case(name: &'static str, batch: usize, threads: usize) -> Case {
    Case {
        name,
        batch,
        threads,
    }
}

/// Two threads of ours beside one, on one image: nothing else runs, or a neighbour on every core but one.
const ALONE: &str = "resnet20, 2 threads beside 1, idle machine";
const BUSY: &str = "resnet20, 2 threads beside 1, busy neighbour";

/// The layers of the first case, on one thread.
const LAYERS: &str = "layers of resnet20";

/// The peer's program.
pub(crate) const SCRIPT: &str = include_str!("../peers/infer.py");

/// How long a peer may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(600);

/// How long a program runs in a round.
const SECONDS: f64 = 0.25;

/// Multiply-accumulates of one `vpdpbusd` on 512 bits, of which the cores that have them begin at least one in a cycle.
const LIMIT: f64 = 64.0;

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The kernels of ours: `scalar` or `avx512vnni` [default: the fastest that this CPU can run].
    #[arg(long, value_name = "NAME")]
    kernels: Option<Kernels>,
}

/// A network in all forms that are run. Speed does not depend on what its weights are, so they are random.
struct Network {
    folded: Model,
    fused: QModel,
    rounded: QModel,
}

impl Network {
    fn new(name: &str) -> Result<Self> {
        let images = opt_data::synthetic::synthetic(0, 4, 0).train;
        let folded = fold(&zoo::build(name, &Task::cifar10(), 0)?)?;
        let nodes = observed_nodes(&folded, &BTreeSet::new())?;
        let mut ranges: BTreeMap<String, MinMax> = BTreeMap::new();
        for n in 0..images.len() {
            let values = interpret::run(&folded, &folded.input.normalize(images.image(n)))?;
            for node in &nodes {
                let name = folded.graph.nodes[*node].name.clone();
                ranges.entry(name).or_default().observe(&values[*node])?;
            }
        }
        let widths = WeightBits::hidden(8).by_name(&folded).into();
        let integers = |adds: ResidualAdd| -> Result<QModel> {
            let spec = min_max_spec(&folded, &adds.into(), &ranges, &widths)?;
            Ok(lower(&folded, &spec)?)
        };
        Ok(Self {
            fused: integers(ResidualAdd::Fused)?,
            rounded: integers(ResidualAdd::Explicit)?,
            folded,
        })
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Findings> {
    let common = &options.common;
    let cases = CASES.iter().map(|c| c.name);
    let names: Vec<&str> = cases.chain([ALONE, BUSY, LAYERS]).collect();
    let names = chosen(&names, common.case.as_deref())?;
    let cases: Vec<&Case> = CASES.iter().filter(|c| names.contains(&c.name)).collect();
    let network = Network::new("resnet20")?;
    let kernels = options.kernels.unwrap_or_else(Kernels::best);
    let mut findings = if cases.is_empty() {
        Findings {
            threads: 2,
            ..Findings::default()
        }
    } else {
        beside_peers(&cases, &network, kernels, common)?
    };
    findings.facts.push(format!("kernels {kernels}"));
    if names.contains(&ALONE) {
        threads(
            ALONE,
            &network,
            kernels,
            common.rounds.into(),
            &mut findings,
        )?;
    }
    if names.contains(&BUSY) {
        match Neighbours::start() {
            Ok(neighbours) => {
                threads(BUSY, &network, kernels, common.rounds.into(), &mut findings)?;
                drop(neighbours);
            }
            Err(error) => findings.notes.push(format!("{BUSY}: left out: {error}")),
        }
    }
    if names.contains(&LAYERS) {
        layers(&network, kernels, common.rounds.into(), &mut findings)?;
    }
    Ok(findings)
}

/// The rows of the cases with peers.
fn beside_peers(
    cases: &[&Case],
    network: &Network,
    kernels: Kernels,
    common: &Common,
) -> Result<Findings> {
    let path = find_python(
        common.python.as_deref(),
        std::env::var_os("OPT_PEERS_PYTHON"),
    )?;
    let threads = cases.iter().map(|c| c.threads).max().unwrap_or(1);
    let mut peer = Peer::start(&mut python(&path, SCRIPT, threads))?;
    let engines: BTreeMap<String, String> = peer.ask(&json!({"do": "hello"}), TIMEOUT)?;
    let folder = tempfile::tempdir().context("making a folder for the peers' networks")?;
    let mut findings = Findings {
        threads,
        peer: engines.values().cloned().collect::<Vec<_>>().join(", "),
        ..Findings::default()
    };
    if !engines.contains_key("OpenVINO") {
        findings
            .notes
            .push("OpenVINO is not installed beside ONNX Runtime: left out".to_owned());
    }
    let mut idle = Idle::default();
    for case in cases {
        let mut ours = session(&network.fused, kernels, case.threads)?;
        let images = images(case.batch);
        let peer_engines = load(&mut peer, network, case, &engines, &images, folder.path())?;
        let mut block = |program: usize, peer: &mut Peer, n: usize| -> Result<f64> {
            let mut median = 0.0;
            let waiting = if program == 0 {
                peer.id()
            } else {
                std::process::id()
            };
            idle.during(waiting, || {
                let started = Instant::now();
                median = match program.checked_sub(1) {
                    None => ours_in(&mut ours, &images, n)?,
                    Some(i) => {
                        let request = json!({"do": "run", "name": peer_engines[i].name, "runs": n});
                        peer.ask(&request, TIMEOUT)?
                    }
                };
                Ok(started.elapsed().as_secs_f64())
            })?;
            Ok(1e3 * median)
        };
        let mut runs = Vec::new();
        for program in 0..=peer_engines.len() {
            let once = block(program, &mut peer, 5)? / 1e3;
            runs.push(steps_in(SECONDS, once));
        }
        eprintln!("{}: {} rounds", case.name, common.rounds);
        let values = in_turn(common.rounds.into(), runs.len(), |program| {
            block(program, &mut peer, runs[program])
        })?;
        for (theirs, engine) in values[1..].iter().zip(&peer_engines) {
            let compared = ratio(&values[0], theirs, Better::Smaller)?;
            let what = format!("{}, beside {}", case.name, engine.arithmetic);
            findings
                .rows
                .push(Row::new(&what, engine.engine, "ms", compared));
        }
    }
    findings.facts.extend(idle.words());
    Ok(findings)
}

/// Rows of two threads of ours beside one, in turn. Means count what a median hides: single runs that take very long.
fn threads(
    what: &str,
    network: &Network,
    kernels: Kernels,
    rounds: usize,
    findings: &mut Findings,
) -> Result<()> {
    let image = images(1);
    let mut sessions = [
        session(&network.fused, kernels, 2)?,
        session(&network.fused, kernels, 1)?,
    ];
    let once = median(&mut times(&mut sessions[1], &image, 5)?);
    let runs = steps_in(SECONDS, once);
    eprintln!("{what}: {rounds} rounds");
    // Of each program and round: the median, the mean and the time that 99 runs of 100 keep within.
    let mut all: [Vec<[f64; 3]>; 2] = [Vec::new(), Vec::new()];
    in_turn(rounds, 2, |program| {
        let mut times = times(&mut sessions[program], &image, runs)?;
        let mean = times.iter().sum::<f64>() / runs as f64;
        let median = median(&mut times);
        all[program].push([median, mean, times[runs * 99 / 100]].map(|s| 1e3 * s));
        Ok(median)
    })?;
    for (i, of) in ["median", "mean", "99 of 100 runs"].iter().enumerate() {
        let [ours, one] = [0, 1].map(|c| -> Vec<f64> { all[c].iter().map(|v| v[i]).collect() });
        let compared = ratio(&ours, &one, Better::Smaller)?;
        let what = format!("{what}, {of}");
        findings
            .rows
            .push(Row::new(&what, "ours, 1 thread", "ms", compared));
    }
    Ok(())
}

fn session(model: &QModel, kernels: Kernels, threads: usize) -> Result<Session> {
    let engine = Engine {
        threads,
        kernels: Some(kernels),
        order: ImageOrder::Chw,
        ..Engine::default()
    };
    Ok(Session::new(model, &engine)?)
}

fn images(batch: usize) -> Vec<u8> {
    opt_data::synthetic::synthetic(1, batch, 0)
        .train
        .images
        .to_vec()
}

/// The median of the seconds of so many runs, each timed alone.
fn ours_in(session: &mut Session, images: &[u8], runs: usize) -> Result<f64> {
    Ok(median(&mut times(session, images, runs)?))
}

/// The seconds of so many runs, each timed alone.
fn times(session: &mut Session, images: &[u8], runs: usize) -> Result<Vec<f64>> {
    let count = images.len() / session.image_bytes();
    let mut logits = session.run_batch(images, count)?.to_vec();
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let started = Instant::now();
        session.run_into(images, &mut logits)?;
        times.push(started.elapsed().as_secs_f64());
    }
    Ok(times)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A peer's network, ready.
struct PeerEngine {
    engine: &'static str,
    arithmetic: &'static str,
    name: String,
}

/// Makes the peers' networks ready and compares their logits with ours.
fn load(
    peer: &mut Peer,
    network: &Network,
    case: &Case,
    engines: &BTreeMap<String, String>,
    images: &[u8],
    folder: &Path,
) -> Result<Vec<PeerEngine>> {
    let [c, h, w] = network.folded.input.shape;
    let bytes = c * h * w;
    let options = QdqOptions {
        batch: Some(case.batch),
        padded_input: true,
        ..QdqOptions::default()
    };
    let mut padded = Vec::new();
    for image in images.chunks_exact(bytes) {
        padded.extend(padded_image(&network.rounded, image)?);
    }
    let normalized = images
        .chunks_exact(bytes)
        .flat_map(|i| network.folded.input.normalize(i));
    let normalized: Vec<u8> = normalized.flat_map(f32::to_le_bytes).collect();
    let forms = [
        (
            "int8",
            write_qdq(&network.rounded, &options)?,
            padded,
            [h + 2, w + 2],
        ),
        (
            "f32",
            write_float(&network.folded, Some(case.batch))?,
            normalized,
            [h, w],
        ),
    ];
    let mut peer_engines = Vec::new();
    for (arithmetic, model, input, [h, w]) in forms {
        let model_path = folder.join(format!("{arithmetic}.onnx"));
        let input_path = folder.join(format!("{arithmetic}.bin"));
        fs::write(&model_path, model).with_context(|| model_path.display().to_string())?;
        fs::write(&input_path, input).with_context(|| input_path.display().to_string())?;
        let expected = expected(network, arithmetic, &images[..bytes])?;
        for engine in ["ONNX Runtime", "OpenVINO"] {
            if !engines.contains_key(engine) {
                continue;
            }
            let name = format!("{engine} {arithmetic}, {}", case.name);
            let request = json!({
                "do": "load", "name": name, "engine": engine, "model": model_path, "threads": case.threads,
                "images": input_path, "shape": [case.batch, c, h, w],
            });
            let logits: Vec<f32> = peer.ask(&request, TIMEOUT)?;
            same(&name, &expected, &logits)?;
            peer_engines.push(PeerEngine {
                engine,
                arithmetic,
                name,
            });
        }
    }
    Ok(peer_engines)
}

/// The logits of the first image, by our own means.
fn expected(network: &Network, arithmetic: &str, image: &[u8]) -> Result<Vec<f32>> {
    if arithmetic == "f32" {
        let mut values = interpret::run(&network.folded, &network.folded.input.normalize(image))?;
        return Ok(values.swap_remove(network.folded.graph.output()));
    }
    Ok(session(&network.rounded, Kernels::best(), 1)?
        .run(image)?
        .to_vec())
}

/// Refuses a peer that runs another network. Integer peers may differ by single codes, which random weights spread.
fn same(name: &str, ours: &[f32], theirs: &[f32]) -> Result<()> {
    let largest = ours.iter().fold(0.0_f32, |m, l| m.max(l.abs()));
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    let worst = worst.fold(0.0_f32, f32::max);
    ensure!(
        theirs.len() >= ours.len() && worst <= 0.05 * largest,
        "{name} runs another network: its logits begin with {:?}, ours are {ours:?}",
        &theirs[..ours.len().min(theirs.len())]
    );
    Ok(())
}

/// Rows of multiply-accumulates per cycle.
fn layers(
    network: &Network,
    kernels: Kernels,
    rounds: usize,
    findings: &mut Findings,
) -> Result<()> {
    if clock().is_none() || kernels != Kernels::Avx512Vnni {
        findings.notes.push(format!(
            "{LAYERS}: left out, since their limit is known for the kernels {} alone",
            Kernels::Avx512Vnni
        ));
        return Ok(());
    }
    let mut session = session(&network.fused, kernels, 1)?;
    let image = images(1);
    let mut logits = session.run(&image)?.to_vec();
    let steps = session.steps().to_vec();
    let mut values = vec![Vec::with_capacity(rounds); steps.len()];
    let mut clocks = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let hertz = clock().unwrap_or(f64::NAN);
        clocks.push(hertz);
        let mut times = vec![Vec::new(); steps.len()];
        for _ in 0..101 {
            for (step, times) in times.iter_mut().enumerate() {
                let started = Instant::now();
                session.run_step(step, &image, &mut logits)?;
                times.push(started.elapsed().as_secs_f64());
            }
        }
        for ((times, values), step) in times.iter_mut().zip(&mut values).zip(&steps) {
            values.push(step.macs as f64 / (median(times) * hertz));
        }
    }
    let limit = vec![LIMIT; rounds];
    for (values, step) in values.iter().zip(&steps).filter(|(_, s)| s.macs > 100_000) {
        let compared = ratio(values, &limit, Better::Larger)?;
        let what = format!("{LAYERS}: {} {} {:?}", step.name, step.op, step.shape);
        findings.rows.push(Row::new(
            &what,
            "the instruction's limit",
            "MAC/cycle",
            compared,
        ));
    }
    findings
        .facts
        .push(format!("clock {:.2} GHz", median(&mut clocks) / 1e9));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a Python: what is measured is ours alone.
    #[test]
    fn threads_are_compared_without_peers() {
        let network = Network::new("resnet20").unwrap();
        let mut findings = Findings::default();
        threads(BUSY, &network, Kernels::best(), 2, &mut findings).unwrap();
        let cases: Vec<&str> = findings.rows.iter().map(|r| r.case.as_str()).collect();
        let expected = ["median", "mean", "99 of 100 runs"].map(|of| format!("{BUSY}, {of}"));
        assert_eq!(cases, expected);
        assert!(findings.rows.iter().all(|r| r.ours > 0.0 && r.unit == "ms"));
    }

    #[test]
    fn another_network_is_refused() {
        same("a peer", &[1.0, -4.0], &[1.1, -4.1, 7.0]).unwrap();
        let error = same("a peer", &[1.0, -4.0], &[1.5, -4.0]).unwrap_err();
        assert!(error.to_string().contains("a peer runs another network"));
        same("a peer", &[1.0, -4.0], &[1.0]).unwrap_err();
    }

    #[test]
    fn the_network_has_integers_of_both_kinds() {
        let network = Network::new("resnet20").unwrap();
        let adds = |model: &QModel| {
            let add = |n: &&opt_core::QNode| matches!(n.op, opt_core::QOp::Add);
            model.nodes.iter().filter(add).count()
        };
        assert_eq!((adds(&network.fused), adds(&network.rounded)), (0, 9));
        let image = images(1);
        let rounded = expected(&network, "int8", &image).unwrap();
        let float = expected(&network, "f32", &image).unwrap();
        assert_eq!((rounded.len(), float.len()), (10, 10));
    }
}
