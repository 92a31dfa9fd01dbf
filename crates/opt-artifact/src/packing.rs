//! Codes of 1 to 8 bits without gaps: code `i` takes the bits from `i · bits` on, low bits first.

/// The bytes that `count` codes take; `None` on overflow.
pub(crate) fn packed_len(count: usize, bits: u8) -> Option<usize> {
    Some(count.checked_mul(usize::from(bits))?.div_ceil(8))
}

/// Packs codes that are below `2^bits`.
pub(crate) fn pack(codes: impl ExactSizeIterator<Item = u8>, bits: u8) -> Vec<u8> {
    let bits = usize::from(bits);
    let mut bytes = vec![0u8; (codes.len() * bits).div_ceil(8)];
    for (i, code) in codes.enumerate() {
        let at = i * bits;
        let [low, high] = (u16::from(code) << (at % 8)).to_le_bytes();
        bytes[at / 8] |= low;
        if high != 0 {
            bytes[at / 8 + 1] |= high;
        }
    }
    bytes
}

/// Unpacks `count` codes, or says what is wrong with `bytes`.
pub(crate) fn unpack(bytes: &[u8], count: usize, bits: u8) -> Result<Vec<u8>, String> {
    let expected = packed_len(count, bits);
    if expected != Some(bytes.len()) {
        let expected = expected.map_or("more than memory".to_owned(), |n| n.to_string());
        return Err(format!(
            "{} bytes, expected {expected} for {count} codes of {bits} bits",
            bytes.len()
        ));
    }
    let code = |i: usize| -> u8 {
        let at = i * usize::from(bits);
        let pair = [bytes[at / 8], bytes.get(at / 8 + 1).copied().unwrap_or(0)];
        let [low, _] = (u16::from_le_bytes(pair) >> (at % 8)).to_le_bytes();
        low & (u8::MAX >> (8 - bits))
    };
    let codes: Vec<u8> = (0..count).map(code).collect();
    let used = count * usize::from(bits) % 8;
    match bytes.last() {
        Some(last) if used != 0 && last >> used != 0 => {
            Err("the bits after the last code are not zero".to_owned())
        }
        _ => Ok(codes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn low_bits_come_first() {
        assert_eq!(pack([1, 2, 3].into_iter(), 3), [0b11_010_001, 0]);
        assert_eq!(pack([1, 0, 1, 1].into_iter(), 1), [0b1101]);
        assert_eq!(pack([0xab, 0xcd].into_iter(), 8), [0xab, 0xcd]);
        assert!(pack([].into_iter(), 5).is_empty());
    }

    #[test]
    fn wrong_lengths_and_padding_are_refused() {
        assert!(unpack(&[0, 0], 3, 4).is_ok());
        assert!(unpack(&[0], 3, 4).unwrap_err().contains("expected 2"));
        assert!(unpack(&[0, 0, 0], 3, 4).is_err());
        assert!(unpack(&[0, 0x10], 3, 4).unwrap_err().contains("not zero"));
        assert!(unpack(&[0], usize::MAX, 8).is_err());
    }

    proptest! {
        #[test]
        fn codes_survive(bits in 1..=8u8, codes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let codes: Vec<u8> = codes.iter().map(|c| c >> (8 - bits)).collect();
            let packed = pack(codes.iter().copied(), bits);
            prop_assert_eq!(Some(packed.len()), packed_len(codes.len(), bits));
            prop_assert_eq!(unpack(&packed, codes.len(), bits).unwrap(), codes);
        }
    }
}
