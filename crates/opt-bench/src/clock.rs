//! The clock of the core that this thread runs on, to turn seconds into cycles.

use std::hint::black_box;
use std::time::Instant;

/// Multiplications that wait for each other.
const CHAIN: u32 = 1_000_000;

/// Cycles from the operands of a 64-bit multiplication to its product, on every x86-64 core since 2008.
const LATENCY: f64 = 3.0;

/// Cycles per second, from a chain of multiplications; the best of a few tries. `None` where the latency is not known.
///
/// A change of the clock so cannot pass for a change of speed.
pub(crate) fn clock() -> Option<f64> {
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    let tries = (0..3).map(|_| {
        let mut x = black_box(1_u64);
        let started = Instant::now();
        for _ in 0..CHAIN {
            // Unknown each time: powers of a known factor would shorten the chain.
            x = x.wrapping_mul(black_box(0x9e37_79b9_7f4a_7c15));
        }
        black_box(x);
        LATENCY * f64::from(CHAIN) / started.elapsed().as_secs_f64()
    });
    tries.max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_plausible_clock() {
        // Unoptimised code takes longer for each multiplication, but no core runs above 10 GHz.
        let clock = clock().unwrap();
        assert!((1e7..1e10).contains(&clock), "{clock}");
    }
}
