//! Times the selection over the 25.5 million weights of ResNet-50, with its memory and a checksum of what stays.
//!
//! ```text
//! cargo run --release -p opt-prune --example selection_speed -- [ROUNDS]        RAYON_NUM_THREADS=1 for one thread
//! ```
#![expect(clippy::print_stdout, reason = "an example shows its results")]

use std::time::Instant;

use opt_core::mask::Masks;
use opt_core::{Task, zoo};
use opt_prune::{Criterion, Norm, Scope, Scores, SelectRequest, score, select};

/// A line of `/proc/self/status` in MB (10⁶ bytes); nothing where there is no such file.
fn status_mb(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rounds = std::env::args().nth(1).map_or(Ok(5), |n| n.parse())?;
    let mut task = Task::cifar10();
    task.labels = (0..1000).map(|class| class.to_string()).collect();
    let model = zoo::build("resnet50", &task, 1)?;
    let magnitudes = score(&model, &Criterion::Magnitude(Norm::L1), None)?;
    let equal: Scores = (magnitudes.iter())
        .map(|(name, s)| (name.clone(), s.mapv(|_| 1.0)))
        .collect();
    let weights: usize = magnitudes.values().map(|s| s.len()).sum();
    println!("{weights} weights in {} layers", magnitudes.len());

    let none = Masks::new();
    let half = SelectRequest::sparsity(Scope::Global, 0.5);
    let before = select(&model, &magnitudes, &none, &half)?.masks;
    let cases = [
        ("global, 90 %", &magnitudes, &none, Scope::Global),
        (
            "global, 90 %, after 50 %",
            &magnitudes,
            &before,
            Scope::Global,
        ),
        ("global, 90 %, all equal", &equal, &none, Scope::Global),
        ("per layer, 90 %", &magnitudes, &none, Scope::PerLayer),
    ];
    for (name, scores, previous, scope) in cases {
        let request = SelectRequest::sparsity(scope, 0.9);
        // Writing 5 makes the kernel count the peak anew.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let start = status_mb("VmRSS");
        let mut times = Vec::new();
        let mut checksum = 0u64;
        for _ in 0..rounds {
            let begin = Instant::now();
            let selection = select(&model, scores, previous, &request)?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            // FNV-1a over every decision.
            let kept = selection
                .masks
                .values()
                .flat_map(|m| m.keep().iter().copied().collect::<Vec<_>>());
            checksum = kept.fold(0xcbf2_9ce4_8422_2325, |hash, keep| {
                (hash ^ u64::from(keep)).wrapping_mul(0x0100_0000_01b3)
            });
        }
        let peak = status_mb("VmHWM");
        times.sort_by(f64::total_cmp);
        let extra = start
            .zip(peak)
            .map_or(f64::NAN, |(start, peak)| peak - start);
        println!(
            "{name:<26} median {:7.1} ms, best {:7.1} ms, peak memory +{extra:.0} MB, checksum {checksum:016x}",
            times[times.len() / 2],
            times[0],
        );
    }
    Ok(())
}
