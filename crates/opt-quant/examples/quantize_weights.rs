//! Quantizes one weight with every method and prints how far it is off and how many bytes it takes.
//!
//! ```text
//! cargo run -p opt-quant --example quantize_weights
//! ```
#![expect(clippy::print_stdout, reason = "an example shows its results")]

use opt_quant::ndarray::Array;
use opt_quant::{Granularity, QuantError, WeightMethod, metrics, pack, quantize_weight};

fn main() -> Result<(), QuantError> {
    // A weight of 8 output channels whose sizes differ.
    let weights = Array::from_shape_fn((8, 16, 3, 3), |(o, i, y, x)| {
        let at = ((o * 16 + i) * 3 + y) * 3 + x;
        (at as f32 * 0.7).sin() * (o + 1) as f32
    });
    let symmetric = |bits, granularity| WeightMethod::Symmetric { bits, granularity };
    let methods = [
        WeightMethod::Affine { bits: 8 },
        symmetric(8, Granularity::PerTensor),
        symmetric(8, Granularity::PerChannel),
        symmetric(4, Granularity::PerChannel),
        WeightMethod::UniformLevels { levels: 16 },
        WeightMethod::KMeans {
            levels: 16,
            pin_zero: false,
        },
    ];
    let mut ratios = Vec::new();
    for method in methods {
        let quantized = quantize_weight(&weights, &method)?;
        let decoded = quantized.dequantize()?;
        let ratio = metrics::sqnr_db(&weights, &decoded)?;
        let codes: Vec<u8> = quantized.codes.iter().copied().collect();
        let bytes = pack(&codes, quantized.bits)?.len();
        println!(
            "{ratio:5.1} dB, {bytes} bytes instead of {}: {method:?}",
            4 * weights.len()
        );
        ratios.push(ratio);
    }
    // A scale for each channel is better than one for all, and k-means than equal steps.
    assert!(ratios[2] > ratios[1] && ratios[5] > ratios[4]);
    Ok(())
}

#[test]
fn runs() -> Result<(), QuantError> {
    main()
}
