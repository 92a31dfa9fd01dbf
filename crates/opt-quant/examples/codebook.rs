//! Quantizes pruned weights to a codebook of 16 values by k-means: zeros stay zeros.
//!
//! ```text
//! cargo run -p opt-quant --example codebook
//! ```
#![expect(clippy::print_stdout, reason = "an example shows its results")]

use opt_quant::QuantError;
use opt_quant::metrics::mse;
use opt_quant::quantizer::k_means::k_means;
use opt_quant::quantizer::uniform_levels::uniform_levels;

fn main() -> Result<(), QuantError> {
    // A plain vector; two thirds are pruned.
    let weights: Vec<f32> = (0..3000)
        .map(|i| {
            if i % 3 == 0 {
                (i as f32).sin().powi(3)
            } else {
                0.0
            }
        })
        .collect();

    let quantized = k_means(&weights, 16, true)?;
    println!("codebook: {:?}", quantized.centroids);
    println!("codes:    {:?} …", &quantized.codes.to_vec()[..12]);
    let decoded = quantized.dequantize();
    let zeros = decoded.iter().filter(|w| **w == 0.0).count();
    println!("{zeros} of {} are zero", weights.len());
    assert!(zeros >= 2000);

    let uniform = uniform_levels(&weights, 16)?.dequantize();
    let (k_means_error, uniform_error) = (mse(&weights, &decoded)?, mse(&weights, &uniform)?);
    println!("mean squared error {k_means_error:.2e}, of equal steps {uniform_error:.2e}");
    assert!(k_means_error < uniform_error);
    Ok(())
}

#[test]
fn runs() -> Result<(), QuantError> {
    main()
}
