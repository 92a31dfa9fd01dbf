//! Tensors of integer codes below `2^bits`: what they mean as numbers, and how they lie in bytes.

use ndarray::{ArrayD, Axis};

use crate::{CoreError, Result};

/// A tensor as codes and what they mean, whoever chose the codes and wherever they are stored.
///
/// Signed codes are kept unsigned: added to their offset, which is the zero point.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedTensor {
    /// The codes, in the shape of the tensor, each below `2^bits`.
    pub codes: ArrayD<u8>,
    /// The width of a code, 1 to 8.
    pub bits: u8,
    /// What the codes mean.
    pub dequantize: Dequantize,
}

/// What codes mean.
#[derive(Debug, Clone, PartialEq)]
pub enum Dequantize {
    /// `ŵ = scale · (code − zero_point)`, the difference exact, the product rounded to f32.
    Affine {
        /// One scale, or one per index of axis 0.
        scales: Vec<f32>,
        /// The code of zero.
        zero_point: u8,
    },
    /// `ŵ = min + step · code`; see [`decode_min_max`].
    MinMax {
        /// The number that code 0 stands for.
        min: f32,
        /// The distance of neighbouring codes; may be 0.
        step: f32,
    },
    /// `ŵ = codebook[code]`, at most `2^bits` numbers.
    Codebook(Vec<f32>),
}

impl QuantizedTensor {
    /// Checks that the codes fit their width and `dequantize` fits the codes.
    ///
    /// # Errors
    ///
    /// [`CoreError::Codes`] says what does not fit.
    pub fn validate(&self) -> Result<()> {
        let Self {
            codes,
            bits,
            dequantize,
        } = self;
        check_bits(*bits)?;
        codes.iter().try_for_each(|code| check_code(*code, *bits))?;
        match dequantize {
            Dequantize::Affine { scales, .. } => {
                let channels = codes.shape().first().copied().unwrap_or(1);
                let n = scales.len();
                if n != 1 && n != channels {
                    return fail(format!(
                        "{n} scales, expected 1 or one for each of {channels} channels"
                    ));
                }
            }
            Dequantize::MinMax { .. } => {}
            Dequantize::Codebook(codebook) => {
                let n = codebook.len();
                if n == 0 || n > 1 << bits {
                    return fail(format!(
                        "a codebook of {n} numbers, expected 1 to {}",
                        1u16 << bits
                    ));
                }
                if let Some(code) = codes.iter().find(|code| usize::from(**code) >= n) {
                    return fail(format!("the code {code} is outside its codebook of {n}"));
                }
            }
        }
        Ok(())
    }

    /// The numbers that the codes stand for.
    ///
    /// ```
    /// use ndarray::arr2;
    /// use opt_core::{QuantizedTensor, Dequantize};
    ///
    /// let dequantize = Dequantize::Affine { scales: vec![0.5, 2.0], zero_point: 1 };
    /// let coded = QuantizedTensor { codes: arr2(&[[0, 1], [2, 3]]).into_dyn(), bits: 2, dequantize };
    /// assert_eq!(coded.dequantize()?, arr2(&[[-0.5, 0.0], [2.0, 4.0]]).into_dyn());
    /// # Ok::<(), opt_core::CoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`QuantizedTensor::validate`].
    pub fn dequantize(&self) -> Result<ArrayD<f32>> {
        self.validate()?;
        Ok(match &self.dequantize {
            Dequantize::Affine { scales, zero_point } => {
                let centred = |code: u8| f32::from(code) - f32::from(*zero_point);
                let mut values = self.codes.mapv(centred);
                if let [scale] = scales.as_slice() {
                    values *= *scale;
                } else {
                    for (mut channel, scale) in values.axis_iter_mut(Axis(0)).zip(scales) {
                        channel *= *scale;
                    }
                }
                values
            }
            Dequantize::MinMax { min, step } => {
                (self.codes).mapv(|code| decode_min_max(code, *min, *step))
            }
            Dequantize::Codebook(codebook) => self.codes.mapv(|code| codebook[usize::from(code)]),
        })
    }
}

/// `min + step · code`, computed in f64 and rounded to f32 once, after the sum.
#[must_use]
pub fn decode_min_max(code: u8, min: f32, step: f32) -> f32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded once, after the sum"
    )]
    let value = (f64::from(min) + f64::from(step) * f64::from(code)) as f32;
    value
}

/// The number of bytes that `count` codes of `bits` bits take.
///
/// ```text
/// ⌈count · bits / 8⌉
/// ```
///
/// # Panics
///
/// If `bits` is greater than 8.
#[must_use]
#[track_caller]
pub fn packed_len(count: usize, bits: u8) -> usize {
    assert!(bits <= 8, "{bits} bits");
    let bits = usize::from(bits);
    // Eight codes fill whole bytes; the product `count · bits` itself could overflow.
    count / 8 * bits + (count % 8 * bits).div_ceil(8)
}

/// Packs codes without gaps: code `i` takes the bits from `i · bits` on, counted from the lowest bit of the first byte;
/// bits after the last code are zero.
///
/// ```
/// use opt_core::codes::{pack, unpack};
///
/// let bytes = pack(&[1, 2, 3], 3)?;
/// assert_eq!(bytes, [0b11_010_001, 0b0]);
/// assert_eq!(unpack(&bytes, 3, 3)?, [1, 2, 3]);
/// # Ok::<(), opt_core::CoreError>(())
/// ```
///
/// # Errors
///
/// [`CoreError::Codes`] for a width outside 1 to 8 or a code that needs more bits.
pub fn pack(codes: &[u8], bits: u8) -> Result<Vec<u8>> {
    check_bits(bits)?;
    let mut bytes = Vec::with_capacity(packed_len(codes.len(), bits));
    let (mut pending, mut n_pending) = (0u16, 0u8);
    for &code in codes {
        check_code(code, bits)?;
        pending |= u16::from(code) << n_pending;
        n_pending += bits;
        if n_pending >= 8 {
            bytes.push(pending.to_le_bytes()[0]);
            pending >>= 8;
            n_pending -= 8;
        }
    }
    if n_pending > 0 {
        bytes.push(pending.to_le_bytes()[0]);
    }
    Ok(bytes)
}

/// Unpacks `count` codes.
///
/// # Errors
///
/// [`CoreError::Codes`] for a width outside 1 to 8, for `bytes` that are not exactly as long as `count` codes are, and for
/// a set bit after the last code.
pub fn unpack(bytes: &[u8], bits: u8, count: usize) -> Result<Vec<u8>> {
    check_bits(bits)?;
    let (found, expected) = (bytes.len(), packed_len(count, bits));
    if found != expected {
        return fail(format!(
            "{found} bytes, expected {expected} for {count} codes of {bits} bits; the data are truncated or of another width"
        ));
    }
    let mask = (1u16 << bits) - 1;
    let mut codes = Vec::with_capacity(count);
    let (mut pending, mut n_pending) = (0u16, 0u8);
    for &byte in bytes {
        pending |= u16::from(byte) << n_pending;
        n_pending += 8;
        while n_pending >= bits && codes.len() < count {
            codes.push((pending & mask).to_le_bytes()[0]);
            pending >>= bits;
            n_pending -= bits;
        }
    }
    if pending != 0 {
        return fail(format!(
            "the bits after the last of {count} codes of {bits} bits are not zero; the data are corrupt or of another width"
        ));
    }
    Ok(codes)
}

fn check_bits(bits: u8) -> Result<()> {
    if (1..=8).contains(&bits) {
        return Ok(());
    }
    fail(format!("{bits} bits, expected 1 to 8"))
}

fn check_code(code: u8, bits: u8) -> Result<()> {
    if u16::from(code) >> bits == 0 {
        return Ok(());
    }
    fail(format!("the code {code} does not fit {bits} bits"))
}

fn fail<T>(problem: String) -> Result<T> {
    Err(CoreError::Codes { problem })
}

#[cfg(test)]
mod tests;
