//! Times the quantizers, with their memory and a checksum of their codes.
//!
//! ```text
//! cargo run --release -p opt-quant --example quantizer_speed -- [ROUNDS [WEIGHTS [K_MEANS_WEIGHTS]]]
//! ```
//!
//! `RAYON_NUM_THREADS=1` takes one thread.
#![expect(clippy::print_stdout, reason = "an example shows its results")]

use std::time::Instant;

use ndarray::ArrayD;
use opt_core::{Dequantize, QuantizedTensor};
use opt_quant::quantizer::symmetric::{Granularity, symmetric};
use opt_quant::{WeightMethod, metrics, quantize_weight};

/// A line of `/proc/self/status` in MB (10⁶ bytes); nothing where there is no such file.
fn status_mb(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// Bell-shaped weights, the same ones every time: the sum of four scrambled fractions.
fn weights(count: usize) -> ArrayD<f32> {
    let mut state = 1u64;
    let mut fraction = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let rows = 2048.min(count);
    ArrayD::from_shape_simple_fn(vec![rows, count / rows], || {
        0.05 * (fraction() + fraction() + fraction() + fraction() - 2.0)
    })
}

/// FNV-1a over codes and the bits of what decodes them.
fn checksum(codes: impl Iterator<Item = u8>, scales: &[f32]) -> u64 {
    let scales = scales.iter().map(|s| u64::from(s.to_bits()));
    (codes.map(u64::from).chain(scales)).fold(0xcbf2_9ce4_8422_2325, |hash, value| {
        (hash ^ value).wrapping_mul(0x0100_0000_01b3)
    })
}

fn checksum_of(tensor: &QuantizedTensor) -> u64 {
    let codes = tensor.codes.iter().copied();
    match &tensor.dequantize {
        Dequantize::Affine { scales, .. } => checksum(codes, scales),
        Dequantize::MinMax { min, step } => checksum(codes, &[*min, *step]),
        Dequantize::Codebook(centroids) => checksum(codes, centroids),
    }
}

/// Runs `quantize` and prints one line.
fn time<T>(name: &str, rounds: usize, quantize: impl Fn() -> T, describe: impl Fn(&T) -> String) {
    // Writing 5 makes the kernel count the peak anew.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let start = status_mb("VmRSS");
    let mut times = Vec::new();
    let mut peak = None;
    let mut description = String::new();
    for round in 0..rounds {
        let begin = Instant::now();
        let result = quantize();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        peak = status_mb("VmHWM");
        if round + 1 == rounds {
            description = describe(&result);
        }
    }
    times.sort_by(f64::total_cmp);
    let extra = start
        .zip(peak)
        .map_or(f64::NAN, |(start, peak)| peak - start);
    println!(
        "{name:<30} median {:8.1} ms, best {:8.1} ms, peak memory +{extra:.0} MB, {description}",
        times.get(times.len() / 2).unwrap_or(&f64::NAN),
        times.first().unwrap_or(&f64::NAN),
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = std::env::args().skip(1).map(|n| n.parse());
    let args: Vec<usize> = args.collect::<Result<_, _>>()?;
    let arg = |i: usize, default| args.get(i).copied().unwrap_or(default);
    let rounds = arg(0, 5);

    let large = weights(arg(1, 25_165_824));
    println!("{:?}", large.shape());
    for (name, granularity) in [
        ("symmetric per channel, 8 bits", Granularity::PerChannel),
        ("symmetric per tensor, 8 bits", Granularity::PerTensor),
    ] {
        time(
            name,
            rounds,
            || symmetric(&large.view(), 8, granularity),
            |result| match result {
                Ok(w) => {
                    let codes = w.codes.iter().map(|code| code.cast_unsigned());
                    format!("checksum {:016x}", checksum(codes, &w.scales))
                }
                Err(error) => error.to_string(),
            },
        );
    }
    for (name, method) in [
        ("affine, 8 bits", WeightMethod::Affine { bits: 8 }),
        (
            "uniform levels, 256",
            WeightMethod::UniformLevels { levels: 256 },
        ),
        (
            "with a level for zero, 8 bits",
            WeightMethod::UniformLevelsKeepingZero { bits: 8 },
        ),
    ] {
        time(
            name,
            rounds,
            || quantize_weight(&large.view(), &method),
            |result| match result {
                Ok(tensor) => format!("checksum {:016x}", checksum_of(tensor)),
                Err(error) => error.to_string(),
            },
        );
    }
    drop(large);

    let small = weights(arg(2, 1_048_576));
    println!("{:?}", small.shape());
    for (levels, pin_zero) in [
        (4, false),
        (16, false),
        (16, true),
        (64, false),
        (256, false),
    ] {
        let method = WeightMethod::KMeans { levels, pin_zero };
        time(
            &format!(
                "k-means, {levels} levels{}",
                if pin_zero { ", zero kept" } else { "" }
            ),
            rounds,
            || quantize_weight(&small.view(), &method),
            |result| match result {
                Ok(tensor) => {
                    let decoded = tensor.dequantize().map_err(|e| e.to_string());
                    let mse = decoded.and_then(|d| {
                        metrics::mse(&small.view(), &d.view()).map_err(|e| e.to_string())
                    });
                    format!(
                        "mean squared error {mse:?}, checksum {:016x}",
                        checksum_of(tensor)
                    )
                }
                Err(error) => error.to_string(),
            },
        );
    }
    Ok(())
}
