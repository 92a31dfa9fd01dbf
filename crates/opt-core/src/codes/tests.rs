//! Decoding by hand, codes through bytes and back, and what is refused.

use super::*;
use ndarray::arr2;
use proptest::prelude::*;

fn affine(scales: &[f32], zero_point: u8) -> Dequantize {
    Dequantize::Affine {
        scales: scales.to_vec(),
        zero_point,
    }
}

fn coded(codes: [[u8; 2]; 2], bits: u8, dequantize: Dequantize) -> QuantizedTensor {
    let codes = arr2(&codes).into_dyn();
    QuantizedTensor {
        codes,
        bits,
        dequantize,
    }
}

#[test]
fn decoding_is_one_rounding_each() {
    #[expect(clippy::cast_possible_truncation, reason = "the rounding under test")]
    let once = (-f64::from(0.1f32) + f64::from(0.1f32) * 3.0) as f32;
    assert_ne!(once, -0.1 + 0.1f32 * 3.0);
    struct Case {
        codes: [[u8; 2]; 2],
        dequantize: Dequantize,
        expect: [[f32; 2]; 2],
    }
    let cases = [
        // One scale; the negative side of the zero point.
        Case {
            codes: [[0, 1], [2, 3]],
            dequantize: affine(&[0.1], 1),
            expect: [[-0.1, 0.0], [0.1, 0.2]],
        },
        // A scale for each row.
        Case {
            codes: [[0, 1], [2, 3]],
            dequantize: affine(&[1.0, 10.0], 3),
            expect: [[-3.0, -2.0], [-10.0, 0.0]],
        },
        // In f32 alone, 3 · 0.1 would be rounded before the sum.
        Case {
            codes: [[3, 0], [0, 3]],
            dequantize: Dequantize::MinMax {
                min: -0.1,
                step: 0.1,
            },
            expect: [[once, -0.1], [-0.1, once]],
        },
        // The values in no order.
        Case {
            codes: [[3, 0], [1, 2]],
            dequantize: Dequantize::Codebook(vec![5.0, -6.0, 7.0, 0.5]),
            expect: [[0.5, 5.0], [-6.0, 7.0]],
        },
    ];
    for case in cases {
        let decoded = coded(case.codes, 2, case.dequantize).dequantize().unwrap();
        assert_eq!(decoded, arr2(&case.expect).into_dyn());
    }
}

#[test]
fn tensors_without_elements_or_axes_decode() {
    let empty = QuantizedTensor {
        codes: ArrayD::zeros(vec![2, 0]),
        bits: 3,
        dequantize: affine(&[1.0, 2.0], 0),
    };
    assert_eq!(empty.dequantize().unwrap().shape(), [2, 0]);
    let scalar = QuantizedTensor {
        codes: ArrayD::from_elem(vec![], 5),
        bits: 3,
        dequantize: affine(&[2.0], 1),
    };
    assert_eq!(scalar.dequantize().unwrap(), ArrayD::from_elem(vec![], 8.0));
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    struct Case {
        bits: u8,
        dequantize: Dequantize,
        expect: &'static str,
    }
    let cases = [
        // Widths that no byte has.
        Case {
            bits: 9,
            dequantize: affine(&[1.0], 0),
            expect: "9 bits, expected 1 to 8",
        },
        Case {
            bits: 0,
            dequantize: affine(&[1.0], 0),
            expect: "0 bits, expected 1 to 8",
        },
        // A code too wide.
        Case {
            bits: 1,
            dequantize: affine(&[1.0], 0),
            expect: "the code 3 does not fit 1 bits",
        },
        // Scales for another axis.
        Case {
            bits: 2,
            dequantize: affine(&[1.0; 5], 0),
            expect: "5 scales, expected 1 or one for each of 2 channels",
        },
        Case {
            bits: 2,
            dequantize: affine(&[], 0),
            expect: "0 scales, expected 1",
        },
        // A codebook shorter than the largest code, an empty one, one too long.
        Case {
            bits: 2,
            dequantize: Dequantize::Codebook(vec![0.0; 3]),
            expect: "the code 3 is outside its codebook of 3",
        },
        Case {
            bits: 2,
            dequantize: Dequantize::Codebook(vec![]),
            expect: "a codebook of 0 numbers",
        },
        Case {
            bits: 2,
            dequantize: Dequantize::Codebook(vec![0.0; 5]),
            expect: "a codebook of 5 numbers, expected 1 to 4",
        },
    ];
    for case in cases {
        let broken = coded([[3, 0], [1, 2]], case.bits, case.dequantize);
        let message = broken.dequantize().unwrap_err().to_string();
        assert!(message.contains(case.expect), "{message}");
    }
}

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
fn what_does_not_pack_or_unpack_is_refused() {
    let problem = |result: Result<Vec<u8>>| result.unwrap_err().to_string();
    assert_eq!(problem(pack(&[3, 4], 2)), "the code 4 does not fit 2 bits");
    for bits in [0, 9, 255] {
        assert!(problem(pack(&[], bits)).contains("expected 1 to 8"));
        assert!(problem(unpack(&[], bits, 0)).contains("expected 1 to 8"));
    }
    for bytes in [&[0u8][..], &[0; 3]] {
        assert!(problem(unpack(bytes, 3, 4)).contains("expected 2 for 4 codes of 3 bits"));
    }
    // A count from a corrupt file: no overflow, no allocation.
    for bits in [7, 8] {
        assert!(problem(unpack(&[0], bits, usize::MAX)).contains("1 bytes, expected"));
    }
    assert!(problem(unpack(&[0, 0x10], 3, 4)).contains("are not zero"));
}

fn codes_of_a_width() -> impl Strategy<Value = (u8, Vec<u8>)> {
    (1..=8u8).prop_flat_map(|bits| {
        let top = u8::MAX >> (8 - bits);
        (Just(bits), prop::collection::vec(0..=top, 0..70))
    })
}

proptest! {
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
