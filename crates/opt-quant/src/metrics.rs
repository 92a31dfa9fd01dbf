//! How far decoded numbers are from the originals.

use ndarray::{ArrayView, Dimension};

use crate::{QuantError, Result};

/// Returns the mean squared error, summed in f64; 0 for empty tensors.
///
/// ```text
/// mse = 1/n · Σ (x − x̂)²
/// ```
///
/// # Errors
///
/// [`QuantError::Shape`] if the shapes differ.
pub fn mse<'a, 'b, D: Dimension, E: Dimension>(
    original: impl Into<ArrayView<'a, f32, D>>,
    decoded: impl Into<ArrayView<'b, f32, E>>,
) -> Result<f64> {
    let (original, decoded) = (original.into(), decoded.into());
    let noise = squared_error(&original, &decoded)?;
    Ok(noise / original.len().max(1) as f64)
}

/// Returns the signal to quantization noise ratio in decibels: +∞ without noise, −∞ if all of it is noise.
///
/// ```text
/// sqnr = 10 · log10(Σ x² / Σ (x − x̂)²)
/// ```
///
/// ```
/// assert!((opt_quant::metrics::sqnr_db(&[3.0, 4.0], &[3.0, 4.5])? - 20.0).abs() < 1e-9);
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
///
/// # Errors
///
/// [`QuantError::Shape`] if the shapes differ.
pub fn sqnr_db<'a, 'b, D: Dimension, E: Dimension>(
    original: impl Into<ArrayView<'a, f32, D>>,
    decoded: impl Into<ArrayView<'b, f32, E>>,
) -> Result<f64> {
    let (original, decoded) = (original.into(), decoded.into());
    let noise = squared_error(&original, &decoded)?;
    if noise == 0.0 {
        return Ok(f64::INFINITY);
    }
    let signal: f64 = original.iter().map(|&x| f64::from(x).powi(2)).sum();
    Ok(10.0 * (signal / noise).log10())
}

fn squared_error<D: Dimension, E: Dimension>(
    original: &ArrayView<'_, f32, D>,
    decoded: &ArrayView<'_, f32, E>,
) -> Result<f64> {
    if original.shape() != decoded.shape() {
        return Err(QuantError::Shape {
            found: decoded.shape().to_vec(),
            expected: original.shape().to_vec(),
        });
    }
    let pairs = original.iter().zip(decoded.iter());
    Ok(pairs
        .map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2))
        .sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{ArrayD, arr1};

    #[test]
    fn errors_by_hand() {
        struct Case {
            x: &'static [f32],
            y: &'static [f32],
            mse: f64,
            sqnr_db: f64,
        }
        let cases = [
            // Noise 1 in a signal of 100.
            Case {
                x: &[10.0, 0.0],
                y: &[10.0, 1.0],
                mse: 0.5,
                sqnr_db: 20.0,
            },
            // No noise.
            Case {
                x: &[1.0, -1.0],
                y: &[1.0, -1.0],
                mse: 0.0,
                sqnr_db: f64::INFINITY,
            },
            // No signal.
            Case {
                x: &[0.0, 0.0],
                y: &[2.0, 0.0],
                mse: 2.0,
                sqnr_db: f64::NEG_INFINITY,
            },
            // Nothing at all.
            Case {
                x: &[],
                y: &[],
                mse: 0.0,
                sqnr_db: f64::INFINITY,
            },
        ];
        for case in cases {
            let (x, y) = (arr1(case.x).into_dyn(), arr1(case.y).into_dyn());
            assert_eq!(mse(&x.view(), &y.view()), Ok(case.mse));
            assert_eq!(sqnr_db(&x.view(), &y.view()), Ok(case.sqnr_db));
        }
    }

    #[test]
    fn shapes_must_agree() {
        let (x, y) = (ArrayD::zeros(vec![2, 3]), ArrayD::zeros(vec![3, 2]));
        assert!(matches!(
            mse(&x.view(), &y.view()),
            Err(QuantError::Shape { .. })
        ));
    }
}
