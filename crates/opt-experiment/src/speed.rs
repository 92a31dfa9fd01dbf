//! How fast this machine is: measured once in a few seconds and kept, so that plans come out the same every time.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Once;
use std::time::Instant;

use anyhow::{Context, Result};
use opt_core::cost::cost;
use opt_core::{Model, Task, zoo};
use opt_nn::evaluate::evaluate;
use opt_nn::optimizer::OptimizerOptions;
use opt_nn::schedule::Schedule;
use opt_nn::train::{Constraints, CrossEntropy, NoHooks, TrainOptions, train};
use opt_nn::{Batch, BatchSource, Net, Precision, device};
use opt_report::write_atomic;
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::cache;
use crate::cpu::cpu;
use crate::machine::{LIBTORCH_VERSION, threads};

/// Multiply-accumulates per second, over all threads; a step of training counts as one forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Training in bf16; that in f32 where the hardware has no bf16.
    pub bf16_training: f64,
    /// Training in f32.
    pub f32_training: f64,
    /// Forward passes alone in f32, which evaluation uses.
    pub f32_forward: f64,
}

impl Speed {
    /// What is assumed of a device that was not measured: of a CPU per thread, from 77 to 20 MMAC networks at batch 128 on a
    /// 2.6 GHz Zen 4; of a GPU, a guess that only has to be of the right order.
    #[must_use]
    pub fn assumed(device: Device) -> Self {
        if device.is_cuda() {
            return Self {
                bf16_training: 2e12,
                f32_training: 2e12,
                f32_forward: 2e12,
            };
        }
        let threads = threads() as f64;
        Self {
            bf16_training: 22e9 * threads,
            f32_training: 11e9 * threads,
            f32_forward: 25e9 * threads,
        }
    }

    /// The speed of training in this arithmetic.
    #[must_use]
    pub fn training(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Bf16 => self.bf16_training,
            Precision::F32 => self.f32_training,
        }
    }
}

/// The speed that was kept for this machine, `None` if it was never measured. Measures nothing.
///
/// # Errors
///
/// There is no cache folder, or its `speed.json` is broken.
pub fn kept(device: Device) -> Result<Option<Speed>> {
    find(&cache::folder()?.join(FILE), &Machine::this(device))
}

/// The speed that was kept for this machine; measured now and kept if there is none.
///
/// # Errors
///
/// There is no cache folder, its `speed.json` is broken or cannot be written, or the measurement fails.
pub fn kept_or_measured(device: Device) -> Result<Speed> {
    let (folder, machine) = (cache::folder()?, Machine::this(device));
    find_or_keep(&folder, machine, || {
        eprintln!("measuring how fast this machine trains, once, in a few seconds");
        let before = schedule_times();
        let speed = measure(device)?;
        let waited = waited_share(before, schedule_times());
        if waited > BUSY {
            eprintln!(
                "warning: other programs took the processor for {:.0} % of the measurement, so that the machine seems slower \
                 than it is; remove {} to measure again",
                100.0 * waited,
                folder.join(FILE).display()
            );
        }
        Ok(speed)
    })
}

/// A training as the plan sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Training<'a> {
    /// The network.
    pub(crate) model: &'a Model,
    /// The network that teaches it, if one does.
    pub(crate) teacher: Option<&'a Model>,
    /// Whether it is trained with fake quantization.
    pub(crate) fake_quant: bool,
    /// Its arithmetic.
    pub(crate) precision: Precision,
}

/// Images that the plan has trained in a second. It is there for a hint only, so where the speed cannot be read there is
/// a warning, once, and no number.
pub(crate) fn planned(training: Training<'_>, device: Device) -> Option<f64> {
    static ONCE: Once = Once::new();
    match planned_at(training, kept(device), device) {
        Ok(planned) => Some(planned),
        Err(error) => {
            ONCE.call_once(|| eprintln!("warning: nothing is compared with the plan: {error:#}"));
            None
        }
    }
}

fn planned_at(training: Training<'_>, kept: Result<Option<Speed>>, device: Device) -> Result<f64> {
    let speed = kept?.unwrap_or_else(|| Speed::assumed(device));
    let macs = |model: &Model| -> Result<f64> { Ok(cost(model)?.macs as f64) };
    let teacher = training.teacher.map(macs).transpose()?;
    let macs = step_macs(macs(training.model)?, teacher, training.fake_quant);
    Ok(speed.training(training.precision) / macs.max(1.0))
}

/// The share of waiting from which on a measurement says little about the machine.
const BUSY: f64 = 0.2;

/// Nanoseconds that the threads of this process ran, and waited for a processor although they could have run; zero where the
/// kernel does not say.
pub(crate) fn schedule_times() -> (u64, u64) {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return (0, 0);
    };
    let times = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        let mut words = text.split_whitespace().map(str::parse);
        Some((words.next()?.ok()?, words.next()?.ok()?))
    });
    times.fold((0, 0), |sum: (u64, u64), time: (u64, u64)| {
        (sum.0 + time.0, sum.1 + time.1)
    })
}

/// The share of waiting between two [`schedule_times`].
pub(crate) fn waited_share(before: (u64, u64), after: (u64, u64)) -> f64 {
    let ran = after.0.saturating_sub(before.0) as f64;
    let waited = after.1.saturating_sub(before.1) as f64;
    waited / (ran + waited).max(1.0)
}

/// The file in the cache folder.
const FILE: &str = "speed.json";

/// Changes when training becomes faster or the measurement another: older measurements are no longer found.
const METHOD: u32 = 1;

/// What a speed depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    cpu: String,
    /// Processors of one name differ in these.
    #[serde(default)]
    features: Vec<String>,
    threads: usize,
    device: String,
    libtorch: String,
    method: u32,
}

impl Machine {
    fn this(on: Device) -> Self {
        let cpu = cpu();
        Self {
            cpu: cpu.model,
            features: cpu.features,
            threads: threads(),
            device: device::name(on),
            libtorch: LIBTORCH_VERSION.to_owned(),
            method: METHOD,
        }
    }
}

/// One machine's speed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    machine: Machine,
    #[serde(flatten)]
    speed: Speed,
}

fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} does not hold measured speeds; remove it, and they are measured again",
            path.display()
        )
    })
}

fn find(path: &Path, machine: &Machine) -> Result<Option<Speed>> {
    let entries = read(path)?;
    let entry = entries.iter().find(|entry| entry.machine == *machine);
    Ok(entry.map(|entry| entry.speed))
}

/// Holds a lock while it measures: of two runs that start together the second takes what the first found.
fn find_or_keep(
    folder: &Path,
    machine: Machine,
    measure: impl FnOnce() -> Result<Speed>,
) -> Result<Speed> {
    let path = folder.join(FILE);
    if let Some(speed) = find(&path, &machine)? {
        return Ok(speed);
    }
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let lock = path.with_extension("lock");
    let file = File::create(&lock).with_context(|| format!("creating {}", lock.display()))?;
    file.lock()
        .with_context(|| format!("locking {}", lock.display()))?;
    let mut entries = read(&path)?;
    if let Some(entry) = entries.iter().find(|entry| entry.machine == machine) {
        return Ok(entry.speed);
    }
    let speed = rounded(measure()?);
    entries.push(Entry { machine, speed });
    let mut text = serde_json::to_string_pretty(&entries)?;
    text.push('\n');
    write_atomic(&path, text.as_bytes())?;
    Ok(speed)
}

/// Whole tenths of 10⁹: what was measured and what is read back are the same number.
fn rounded(speed: Speed) -> Speed {
    let round = |value: f64| (value / 1e8).round().max(1.0) * 1e8;
    Speed {
        bf16_training: round(speed.bf16_training),
        f32_training: round(speed.f32_training),
        f32_forward: round(speed.f32_forward),
    }
}

/// The network that is measured: of medium size among those of the profiles.
const NETWORK: &str = "airbench_32_64_128";
/// Images in a step.
const BATCH: usize = 128;
/// Seconds of one of several repetitions.
const REPETITION: f64 = 0.25;

fn measure(device: Device) -> Result<Speed> {
    let model = zoo::build(NETWORK, &Task::cifar10(), 0)?;
    let macs = cost(&model)?.macs as f64;
    let f32_training = macs * training(&model, Precision::F32, device)?;
    let bf16_training = match Precision::for_training(device) {
        Precision::Bf16 => macs * training(&model, Precision::Bf16, device)?,
        Precision::F32 => f32_training,
    };
    let net = Net::new(&model, device)?;
    let forward = |steps: usize| -> Result<f64> {
        let started = Instant::now();
        evaluate(&net, Steps(steps).epoch(0))?;
        Ok((steps * BATCH) as f64 / started.elapsed().as_secs_f64().max(1e-9))
    };
    forward(1)?;
    let (steps, repetitions) = extent(forward(1)?);
    let rates: Result<Vec<f64>> = (0..repetitions).map(|_| forward(steps)).collect();
    Ok(Speed {
        bf16_training,
        f32_training,
        f32_forward: macs * typical(rates?),
    })
}

/// Images that training finishes per second.
fn training(model: &Model, precision: Precision, device: Device) -> Result<f64> {
    let mut net = Net::new(model, device)?;
    let mut rates = |epochs: usize, steps: usize| -> Result<Vec<f64>> {
        let options = TrainOptions {
            epochs,
            lr: 1e-3,
            schedule: Schedule::Constant,
            optimizer: OptimizerOptions::default(),
            precision,
        };
        let mut loss = CrossEntropy {
            label_smoothing: 0.0,
        };
        let reports = train(
            &mut net,
            &Steps(steps),
            &mut loss,
            &options,
            Constraints::default(),
            &mut NoHooks,
        )?;
        Ok(reports.iter().map(|r| r.images_per_second).collect())
    };
    // The first step of all allocates.
    let warm = rates(2, 1)?;
    let (steps, repetitions) = extent(warm[1]);
    Ok(typical(rates(repetitions, steps)?))
}

/// Steps of a repetition, and repetitions, at about this many images per second.
fn extent(images_per_second: f64) -> (usize, usize) {
    let step = BATCH as f64 / images_per_second;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small positive number"
    )]
    let steps = (REPETITION / step).clamp(1.0, 100.0) as usize;
    (steps, if step > REPETITION { 2 } else { 5 })
}

/// The upper quartile: what else runs on the machine makes some repetitions slow, and none fast.
fn typical(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(|a, b| b.total_cmp(a));
    rates[rates.len() / 4]
}

/// Epochs of so many steps over made-up images.
#[derive(Debug, Clone, Copy)]
struct Steps(usize);

impl BatchSource for Steps {
    fn epoch(&self, _epoch: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        let bytes: Vec<u8> = (0..=255u8).rev().chain(0..=255).collect();
        let pixels = BATCH * 3 * 32 * 32;
        let batch = Batch {
            images: bytes.iter().copied().cycle().take(pixels).collect(),
            labels: (0..10).cycle().take(BATCH).collect(),
            indices: vec![0; BATCH],
        };
        Box::new(std::iter::repeat_n(batch, self.0))
    }

    fn batches_per_epoch(&self) -> usize {
        self.0
    }
}

/// Fake quantization makes a step about this much slower.
pub(crate) const AWARE: f64 = 2.3;
/// A teacher's forward pass takes about this share of a step of its own training.
const TEACHING: f64 = 1.0 / 3.0;

/// The work of training on one image, in multiply-accumulates as [`Speed`] counts them: `macs` of the network, more with
/// fake quantization, and a forward pass of the teacher.
pub(crate) fn step_macs(macs: f64, teacher: Option<f64>, fake_quant: bool) -> f64 {
    let own = if fake_quant { AWARE * macs } else { macs };
    own + TEACHING * teacher.unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpu: &str, threads: usize) -> Machine {
        Machine {
            cpu: cpu.to_owned(),
            features: vec!["avx2".to_owned()],
            threads,
            device: "cpu".to_owned(),
            libtorch: "2.13.0".to_owned(),
            method: METHOD,
        }
    }

    fn speed(bf16_training: f64) -> Speed {
        Speed {
            bf16_training,
            f32_training: 1.23e10,
            f32_forward: 2e10,
        }
    }

    #[test]
    fn what_was_measured_once_is_kept_for_each_machine() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("cache");
        let ask = |machine, measured: Option<f64>| {
            find_or_keep(&folder, machine, || {
                Ok(speed(measured.context("measured a second time")?))
            })
        };
        let first = ask(machine("a", 2), Some(3.004_56e10)).unwrap();
        assert_eq!(first.bf16_training, 3e10);
        assert_eq!(ask(machine("a", 2), None).unwrap(), first);
        // Another processor, and other threads of the same one.
        for (cpu, threads, measured) in [("b", 2, 4e10), ("a", 1, 5e10)] {
            let other = ask(machine(cpu, threads), Some(measured)).unwrap();
            assert_eq!(other.bf16_training, measured);
        }
        // One name may stand for several processors.
        let newer = Machine {
            features: vec!["avx2".to_owned(), "avx_vnni".to_owned()],
            ..machine("a", 2)
        };
        assert_eq!(ask(newer, Some(6e10)).unwrap().bf16_training, 6e10);
        assert_eq!(ask(machine("a", 2), None).unwrap(), first);
        let found = find(&folder.join(FILE), &machine("a", 1)).unwrap();
        assert_eq!(found.unwrap().bf16_training, 5e10);
        let unknown = find(&folder.join(FILE), &machine("c", 1)).unwrap();
        assert_eq!(unknown, None);
    }

    #[test]
    fn a_broken_file_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "[{").unwrap();
        let asked = find_or_keep(folder.path(), machine("a", 1), || Ok(speed(1e9)));
        let error = format!("{:#}", asked.unwrap_err());
        assert!(
            error.contains("speed.json does not hold measured speeds; remove it"),
            "{error}"
        );
    }

    #[test]
    fn teachers_and_rounding_are_part_of_the_planned_speed() {
        let build = |name: &str| zoo::build(name, &Task::cifar10(), 0).unwrap();
        let (small, large) = (build("airbench_2_2_2"), build("airbench_4_4_4"));
        let macs = |model: &Model| cost(model).unwrap().macs as f64;
        let alone = Training {
            model: &small,
            teacher: None,
            fake_quant: false,
            precision: Precision::Bf16,
        };
        let planned = |training| planned_at(training, Ok(Some(speed(1e9))), Device::Cpu).unwrap();
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a}, {b}");
        close(planned(alone), 1e9 / macs(&small));
        let taught = Training {
            teacher: Some(&large),
            ..alone
        };
        close(planned(taught), 1e9 / (macs(&small) + macs(&large) / 3.0));
        let aware = Training {
            fake_quant: true,
            ..taught
        };
        close(
            planned(aware),
            1e9 / (2.3 * macs(&small) + macs(&large) / 3.0),
        );
        let broken = planned_at(alone, Err(anyhow::anyhow!("broken")), Device::Cpu);
        assert!(broken.is_err());
    }

    #[test]
    fn waiting_is_a_share_of_the_time_that_threads_could_have_run() {
        assert_eq!(waited_share((100, 50), (400, 150)), 0.25);
        // Nothing is known, and a thread that has ended since.
        assert_eq!(waited_share((0, 0), (0, 0)), 0.0);
        assert_eq!(waited_share((100, 50), (90, 40)), 0.0);
    }

    #[test]
    fn a_measurement_that_fails_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let ask =
            |measured: Result<Speed>| find_or_keep(folder.path(), machine("a", 1), || measured);
        ask(Err(anyhow::anyhow!("busy"))).unwrap_err();
        assert_eq!(ask(Ok(speed(2e9))).unwrap().bf16_training, 2e9);
    }

    #[test]
    fn repetitions_fit_into_seconds() {
        // 1,280 images/s: 0.1 s a step. 100 images/s: a step is a repetition, and two are enough.
        assert_eq!(extent(1280.0), (2, 5));
        assert_eq!(extent(100.0), (1, 2));
        assert_eq!(extent(1e9), (100, 5));
        assert_eq!(typical(vec![1.0, 9.0, 5.0, 8.0, 7.0]), 8.0);
        assert_eq!(typical(vec![1.0, 2.0]), 2.0);
    }
}
