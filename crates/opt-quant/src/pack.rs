//! Codes of 1 to 8 bits, packed without gaps, low bits first.

use crate::{QuantError, Result};

/// Returns how many bytes `count` codes of `bits` bits take.
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

/// Packs codes: code `i` takes the bits from `i · bits` on, counted from the lowest bit of the first byte; bits after the
/// last code are zero.
///
/// ```
/// let bytes = opt_quant::pack(&[1, 2, 3], 3)?;
/// assert_eq!(bytes, [0b11_010_001, 0b0]);
/// assert_eq!(opt_quant::unpack(&bytes, 3, 3)?, [1, 2, 3]);
/// # Ok::<(), opt_quant::QuantError>(())
/// ```
///
/// # Errors
///
/// [`QuantError::Bits`] outside 1 to 8; [`QuantError::Code`] if a code needs more bits.
pub fn pack(codes: &[u8], bits: u8) -> Result<Vec<u8>> {
    check_bits(bits)?;
    let mut bytes = Vec::with_capacity(packed_len(codes.len(), bits));
    let (mut pending, mut n_pending) = (0u16, 0u8);
    for (index, &code) in codes.iter().enumerate() {
        if u16::from(code) >> bits != 0 {
            return Err(QuantError::Code { index, code, bits });
        }
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
/// [`QuantError::Bits`] outside 1 to 8; [`QuantError::PackedLength`] if `bytes` is not exactly as long as `count` codes
/// are; [`QuantError::Padding`] if a bit after the last code is set.
pub fn unpack(bytes: &[u8], bits: u8, count: usize) -> Result<Vec<u8>> {
    check_bits(bits)?;
    let expected = packed_len(count, bits);
    if bytes.len() != expected {
        return Err(QuantError::PackedLength {
            count,
            bits,
            found: bytes.len(),
            expected,
        });
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
        return Err(QuantError::Padding { count, bits });
    }
    Ok(codes)
}

fn check_bits(bits: u8) -> Result<()> {
    if (1..=8).contains(&bits) {
        return Ok(());
    }
    Err(QuantError::Bits {
        method: "packing",
        bits,
        min: 1,
        max: 8,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layouts_by_hand() {
        struct Case {
            bits: u8,
            codes: &'static [u8],
            bytes: &'static [u8],
        }
        let cases = [
            // The first code is in the lowest bit.
            Case {
                bits: 1,
                codes: &[1, 0, 0, 0, 0, 0, 0, 0, 1],
                bytes: &[0x01, 0x01],
            },
            // Nibbles, low first.
            Case {
                bits: 4,
                codes: &[0x1, 0xF, 0x2],
                bytes: &[0xF1, 0x02],
            },
            // 31 = 11111b crosses the byte: three bits here, two there.
            Case {
                bits: 5,
                codes: &[0, 31],
                bytes: &[0b1110_0000, 0b0000_0011],
            },
            // Bytes as they are.
            Case {
                bits: 8,
                codes: &[0, 255, 7],
                bytes: &[0, 255, 7],
            },
            // Nothing.
            Case {
                bits: 3,
                codes: &[],
                bytes: &[],
            },
        ];
        for case in cases {
            assert_eq!(pack(case.codes, case.bits).unwrap(), case.bytes);
            assert_eq!(
                unpack(case.bytes, case.bits, case.codes.len()).unwrap(),
                case.codes
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(
            pack(&[3, 4], 2),
            Err(QuantError::Code {
                index: 1,
                code: 4,
                bits: 2
            })
        );
        for bits in [0, 9, 255] {
            assert!(matches!(pack(&[], bits), Err(QuantError::Bits { .. })));
            assert!(matches!(unpack(&[], bits, 0), Err(QuantError::Bits { .. })));
        }
        for bytes in [&[0u8][..], &[0; 3]] {
            assert!(matches!(
                unpack(bytes, 3, 4),
                Err(QuantError::PackedLength { expected: 2, .. })
            ));
        }
        // A count from a corrupt file: no overflow, no allocation.
        assert!(matches!(
            unpack(&[0], 7, usize::MAX),
            Err(QuantError::PackedLength { .. })
        ));
        assert_eq!(
            unpack(&[0, 0x10], 3, 4),
            Err(QuantError::Padding { count: 4, bits: 3 })
        );
    }

    fn codes_of_a_width() -> impl Strategy<Value = (u8, Vec<u8>)> {
        (1..=8u8).prop_flat_map(|bits| {
            let top = u8::MAX >> (8 - bits);
            (Just(bits), prop::collection::vec(0..=top, 0..70))
        })
    }

    proptest! {
        // Invariant 41.
        #[test]
        fn codes_come_back((bits, codes) in codes_of_a_width()) {
            let bytes = pack(&codes, bits).unwrap();
            prop_assert_eq!(bytes.len(), (codes.len() * usize::from(bits)).div_ceil(8));
            prop_assert_eq!(&unpack(&bytes, bits, codes.len()).unwrap(), &codes);
            if let Some((_, truncated)) = bytes.split_last() {
                prop_assert!(unpack(truncated, bits, codes.len()).is_err());
            }
        }

        #[test]
        fn unpacking_arbitrary_bytes_never_panics(
            bits in 0..10u8,
            count in 0..40usize,
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Ok(codes) = unpack(&bytes, bits, count) {
                prop_assert_eq!(pack(&codes, bits).unwrap(), bytes);
            }
        }
    }
}
