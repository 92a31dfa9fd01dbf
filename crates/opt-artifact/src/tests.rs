//! Damaged, foreign and hostile files: an error, never a panic, never another model.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use opt_core::lower::{QuantSpec, ResidualAdd, fold, fuse, lower};
use opt_core::{
    Dequantize, QModel, QParams, QWeight, QuantizedTensor, Task, qparams::round_clamp, zoo,
};
use proptest::prelude::*;

use crate::container::{self, Container};
use crate::{
    Provenance, golden, inspect, read_model, read_qmodel, read_qmodel_with_golden,
    write_model_with_codes, write_qmodel_with_golden,
};

/// Reproducible numbers from 0 to 999.
fn noise(i: usize) -> usize {
    (i.wrapping_mul(2_654_435_761) >> 7) % 1000
}

/// A net of the zoo with scales and zero points that no calibration would choose.
pub(crate) fn quantized(name: &str, adds: ResidualAdd, bits: u8) -> QModel {
    let folded = fold(&zoo::build(name, &Task::cifar10(), 11).unwrap()).unwrap();
    let mut spec = QuantSpec {
        placement: adds.into(),
        ..QuantSpec::default()
    };
    for (i, step) in fuse(&folded, &adds.into()).unwrap().into_iter().enumerate() {
        if step.requantizes(&folded) {
            let scale = 0.01 + noise(i) as f32 / 20_000.0;
            let zero = i32::try_from(noise(7 * i + 3) % 256).unwrap();
            let params = QParams::new(scale, zero, 0, 255).unwrap();
            let name = folded.graph.nodes[step.value].name.clone();
            spec.activations.insert(name, params);
        }
    }
    let limit = QWeight::code_limit(bits);
    for name in folded.weight_names() {
        let weight = &folded.params[name];
        let mut codes = weight.mapv(|_| 0i8).into_owned();
        let mut scales = Vec::new();
        for (filter, mut out) in weight.outer_iter().zip(codes.outer_iter_mut()) {
            let scale = filter.iter().fold(0f32, |m, w| m.max(w.abs())) / f32::from(limit);
            out.zip_mut_with(&filter, |q, w| {
                let code = round_clamp(w / scale, 0, -i32::from(limit), i32::from(limit));
                *q = i8::try_from(code).unwrap();
            });
            scales.push(scale);
        }
        let weight = QWeight {
            codes,
            scales,
            bits,
        };
        spec.weights.insert(name.to_owned(), weight);
    }
    lower(&folded, &spec).unwrap()
}

/// A small file of each kind: a model with codes of every decoding, and a quantized model with packed weights and an image
/// to check with.
fn small_files() -> [Vec<u8>; 2] {
    static FILES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(make_small_files);
    FILES.clone()
}

fn make_small_files() -> [Vec<u8>; 2] {
    let mut model = zoo::build("airbench_2_2_2", &Task::cifar10(), 0).unwrap();
    let decodes = [
        Dequantize::Affine {
            scales: vec![0.1],
            zero_point: 1,
        },
        Dequantize::MinMax {
            min: -0.1,
            step: 0.1,
        },
        Dequantize::Codebook(vec![0.5, 0.0, -0.5, 0.1]),
    ];
    let mut codes = BTreeMap::new();
    let names: Vec<String> = model
        .weight_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    for (name, decode) in names.into_iter().zip(decodes) {
        let tensor = model.params.get_mut(&name).unwrap();
        let mut code = 0u8;
        let coded = QuantizedTensor {
            codes: tensor.map(|_| {
                code = (code + 1) % 4;
                code
            }),
            bits: 2,
            dequantize: decode,
        };
        *tensor = coded.dequantize().unwrap().into_shared();
        codes.insert(name, coded);
    }
    let provenance = Provenance::from([("seed".to_owned(), "0".to_owned())]);
    let quantized = quantized("airbench_2_2_2", ResidualAdd::Fused, 5);
    let answers = golden(&quantized, &[100; 3072]).unwrap();
    [
        write_model_with_codes(&model, &codes, &provenance).unwrap(),
        write_qmodel_with_golden(&quantized, &answers, &provenance).unwrap(),
    ]
}

/// The file with other content and a checksum that fits it.
pub(crate) fn resealed(bytes: &[u8], change: impl FnOnce(&mut Container<'_>)) -> Vec<u8> {
    let mut content = container::read(bytes).unwrap();
    change(&mut content);
    container::write(content).unwrap()
}

fn set(content: &mut Container<'_>, key: &str, find: &str, replace: &str) {
    let text = content.metadata.get_mut(key).unwrap();
    assert!(text.contains(find), "{find} is not in {text}");
    *text = text.replacen(find, replace, 1);
}

/// The error of whichever reader the file is for.
fn error(bytes: &[u8]) -> String {
    match inspect(bytes) {
        Ok(info) if info.kind == crate::Kind::QModel => read_qmodel(bytes).unwrap_err().to_string(),
        _ => read_model(bytes).unwrap_err().to_string(),
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let [model, quantized] = small_files();
    struct Case {
        file: Vec<u8>,
        expect: &'static str,
    }
    let change = |file: &[u8], change: fn(&mut Container<'_>)| resealed(file, change);
    let put = |content: &mut Container<'_>, key: &str, value: &str| {
        content.metadata.insert(key.to_owned(), value.to_owned());
    };
    let cases = [
        // A newer version, and none.
        Case {
            file: resealed(&model, |c| put(c, "version", "4")),
            expect: "format version `4`, expected `1`, `2` or `3`; read it with the version of the program that wrote it",
        },
        Case {
            file: resealed(&model, |c| drop(c.metadata.remove("version"))),
            expect: "format version ``, expected `1`, `2` or `3`",
        },
        // Somebody else's file.
        Case {
            file: resealed(&model, |c| put(c, "format", "pt")),
            expect: "format `pt`, expected `opt`",
        },
        Case {
            file: change(&model, |c| c.metadata.clear()),
            expect: "format is not given, expected `opt`",
        },
        // A kind that does not exist.
        Case {
            file: resealed(&model, |c| put(c, "kind", "sound")),
            expect: "the file holds a `sound`, expected a `model`",
        },
        // No graph.
        Case {
            file: change(&model, |c| drop(c.metadata.remove("graph"))),
            expect: "the metadata have no `graph`",
        },
        // An operator of the future.
        Case {
            file: change(&model, |c| set(c, "graph", "\"Relu\"", "\"Mish\"")),
            expect: "the metadata's `graph`: unknown variant `Mish`",
        },
        // Codings of the future, in both kinds.
        Case {
            file: change(&model, |c| set(c, "codec", "\"packed\"", "\"rans12\"")),
            expect: ".weight` is coded as `rans12`, expected `raw` or `packed`",
        },
        Case {
            file: change(&quantized, |c| set(c, "codec", "\"packed\"", "\"rans12\"")),
            expect: ".weight` is coded as `rans12`, expected `raw` or `packed`",
        },
        // The other coding: the tensor has another name.
        Case {
            file: change(&quantized, |c| {
                let text = c.metadata.get_mut("codec").unwrap();
                let end = text.find('}').unwrap();
                let start = text[..end].rfind('{').unwrap();
                text.replace_range(start..=end, "{\"coding\":\"raw\"}");
            }),
            expect: ".weight`: the file has no tensor of this name",
        },
        // A coding for nothing.
        Case {
            file: change(&quantized, |c| {
                set(c, "codec", "{", "{\"stray\":{\"coding\":\"raw\"},");
            }),
            expect: "`stray`: a coding for a weight that the graph does not have",
        },
        // The coding in the place where it was once.
        Case {
            file: change(&quantized, |c| {
                set(c, "graph", "\"op\":", "\"w\":1,\"op\":")
            }),
            expect: "the metadata's `graph`: unknown field `w`",
        },
        // Pixels in another order, and another type.
        Case {
            file: change(&model, |c| set(c, "input", "\"CHW\"", "\"HWC\"")),
            expect: "the metadata's `input`: unknown variant `HWC`, expected `CHW`",
        },
        Case {
            file: change(&quantized, |c| set(c, "input", "\"u8\"", "\"i8\"")),
            expect: "the metadata's `input`: unknown variant `i8`, expected `u8`",
        },
        // Widths that lie.
        Case {
            file: change(&model, |c| set(c, "codec", "\"bits\":2", "\"bits\":9")),
            expect: "9 bits, expected 1 to 8",
        },
        Case {
            file: change(&quantized, |c| set(c, "codec", "\"bits\":5", "\"bits\":0")),
            expect: "0 bits, expected 1 to 8",
        },
        Case {
            file: change(&quantized, |c| set(c, "codec", "\"bits\":5", "\"bits\":4")),
            expect: "codes of 4 bits",
        },
        // Shapes that lie.
        Case {
            file: change(&model, |c| {
                set(
                    c,
                    "codec",
                    "\"shape\":[",
                    "\"shape\":[9223372036854775807,4,",
                );
            }),
            expect: "does not fit memory",
        },
        Case {
            file: change(&model, |c| {
                set(c, "codec", "\"shape\":[", "\"shape\":[1073741824,")
            }),
            expect: "bytes, expected",
        },
        // An image larger than anything.
        Case {
            file: change(&model, |c| {
                set(c, "input", "[3,32,32]", "[3,4294967295,4294967295]")
            }),
            expect: "expected 1 to 268435456 elements",
        },
        Case {
            file: change(&quantized, |c| set(c, "input", "[3,32,32]", "[3,0,32]")),
            expect: "expected 1 to 268435456 elements",
        },
        // Images resized to less than the network reads, and to more than anything.
        Case {
            file: change(&model, |c| {
                set(c, "input", "\"cover\":[32,32]", "\"cover\":[32,31]")
            }),
            expect: "cover [32, 31], expected [32, 32] at least",
        },
        Case {
            file: change(&quantized, |c| {
                set(c, "input", "\"cover\":[32,32]", "\"cover\":[32,65537]")
            }),
            expect: "65536 at most",
        },
        // A part of another version.
        Case {
            file: resealed(&model, |c| put(c, "version", "1")),
            expect: "no `labels`, which a file of version 1 or 2 has",
        },
        // Padding that would overflow.
        Case {
            file: change(&model, |c| {
                set(
                    c,
                    "graph",
                    "\"p\":[1,1,1,1]",
                    "\"p\":[1,1,1,18446744073709551615]",
                );
            }),
            expect: "18446744073709551615 in its window",
        },
        Case {
            file: change(&model, |c| {
                set(c, "graph", "\"p\":[1,1,1,1]", "\"p\":[1,1,1,200000000]")
            }),
            expect: "is too much",
        },
        Case {
            file: change(&quantized, |c| {
                set(
                    c,
                    "graph",
                    "\"p\":[1,1,1,1]",
                    "\"p\":[18446744073709551615,1,1,1]",
                );
            }),
            expect: "18446744073709551615 in its window",
        },
        // A tensor that nobody reads.
        Case {
            file: change(&quantized, |c| {
                c.insert_f32s("stray".to_owned(), &[1], &[1.0]).unwrap()
            }),
            expect: "`stray`: nothing in the graph reads this tensor",
        },
        Case {
            file: change(&model, |c| {
                c.insert_f32s("stray".to_owned(), &[1], &[1.0]).unwrap()
            }),
            expect: "`stray`: this parameter belongs to no node",
        },
        // A tensor that is not there.
        Case {
            file: change(&quantized, |c| {
                c.tensors.retain(|name, _| !name.ends_with(".bias"))
            }),
            expect: ".bias`: the file has no tensor of this name",
        },
        // A NaN among the numbers.
        Case {
            file: change(&model, |c| {
                let stored = c.tensors.values_mut().find(|t| t.shape == [2]).unwrap();
                stored.bytes.to_mut()[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            }),
            expect: "is NaN",
        },
        // A parameter as numbers and as codes.
        Case {
            file: change(&model, |c| {
                let coded = c
                    .tensors
                    .keys()
                    .find_map(|n| n.strip_suffix(".codes"))
                    .unwrap();
                let name = coded.to_owned();
                c.insert_f32s(name, &[1], &[1.0]).unwrap();
            }),
            expect: "stored twice",
        },
    ];
    for (i, case) in cases.into_iter().enumerate() {
        let message = error(&case.file);
        assert!(message.contains(case.expect), "case {i}: {message}");
    }
    let message = read_model(&quantized).unwrap_err().to_string();
    assert!(
        message.contains("holds a `qmodel`, expected a `model`"),
        "{message}"
    );
    let message = read_qmodel(&model).unwrap_err().to_string();
    assert!(
        message.contains("holds a `model`, expected a `qmodel`"),
        "{message}"
    );
}

#[test]
fn a_flipped_bit_is_a_checksum_error() {
    for file in small_files() {
        for back in [1, 100] {
            let mut damaged = file.clone();
            let at = damaged.len() - back;
            damaged[at] ^= 4;
            let message = error(&damaged);
            assert!(message.contains("the checksum does not match"), "{message}");
        }
        // In the graph, too, where it would otherwise be another sound model.
        let at = file.windows(4).position(|w| w == b"seed").unwrap();
        let mut damaged = file.clone();
        damaged[at] = b'S';
        assert!(error(&damaged).contains("the checksum does not match"));
    }
}

#[test]
fn truncated_and_extended_files_are_refused() {
    for file in small_files() {
        let cuts = (0..file.len()).step_by(61).chain([7, 8, 9, file.len() - 1]);
        for cut in cuts {
            let message = error(&file[..cut]);
            assert!(
                message.contains("not a safetensors container"),
                "{cut}: {message}"
            );
        }
        let longer = [file.as_slice(), b"\0"].concat();
        assert!(error(&longer).contains("bytes of tensors, expected"));
    }
}

#[test]
fn files_of_other_kinds_are_called_by_their_names() {
    struct Case {
        bytes: &'static [u8],
        expect: [&'static str; 2],
    }
    let cases = [
        // PyTorch's, of today and before 1.6.
        Case {
            bytes: b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl",
            expect: [
                "a zip archive, as PyTorch writes .pth",
                "safetensors.torch.save_file",
            ],
        },
        Case {
            bytes: b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
            expect: [
                "a pickle, as PyTorch wrote .pth",
                "safetensors.torch.save_file",
            ],
        },
        // Not fetched.
        Case {
            bytes: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            expect: ["a pointer of git-lfs", "git lfs pull"],
        },
        Case {
            bytes: b"\xef\xbb\xbf<!doctype html><title>Sign in</title>",
            expect: ["an HTML page", "fetch the file itself"],
        },
        Case {
            bytes: b"\n\n<HTML>",
            expect: ["an HTML page", "`resolve` in place of `blob`"],
        },
        Case {
            bytes: b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>",
            expect: ["an XML text", "fetch the file itself"],
        },
        Case {
            bytes: b"{\"metadata\":{},\"weight_map\":{}}",
            expect: ["a JSON text", "in one part"],
        },
        Case {
            bytes: b"\x1f\x8b\x08\0",
            expect: ["a gzip archive", "unpack it"],
        },
        Case {
            bytes: b"\x89HDF\r\n\x1a\n",
            expect: ["an HDF5 file", "safetensors"],
        },
        // A container whose length looks like a pickle, cut.
        Case {
            bytes: b"\x80\x02\0\0\0\0\0\0{\"a\":",
            expect: ["not a safetensors container: 13 bytes", "truncated"],
        },
    ];
    for Case { bytes, expect } in cases {
        let message = error(bytes);
        for part in expect {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn offsets_that_wrap_around_are_refused() {
    // Nine tensors whose lengths sum up to 2^64 and a little: an unchecked sum would look right.
    let step = 1u64 << 61;
    let mut entries = Vec::new();
    let mut from = 0u64;
    for i in 0..9u64 {
        let length = if i == 8 { u64::MAX - from } else { step - 1 };
        let to = from + length;
        entries.push(format!(
            "\"t{i}\":{{\"dtype\":\"U8\",\"shape\":[{length}],\"data_offsets\":[{from},{to}]}}"
        ));
        from = to;
    }
    let header = format!("{{{}}}", entries.join(","));
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length, header.as_bytes()].concat();
    assert!(error(&bytes).contains("0 bytes of tensors, expected 18446744073709551615"));
}

/// Numbers that break careless arithmetic.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "255",
    "256",
    "65536",
    "268435456",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "-1",
    "1e30",
    "1e-46",
];

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read_model(&bytes).is_err());
        prop_assert!(read_qmodel(&bytes).is_err());
    }

    #[test]
    fn arbitrary_headers_never_panic(header in "\\{(\"[a-z_]{0,12}\":(\\[[0-9]{0,3}\\]|\\{\\}|\"opt\"),?){0,4}\\}") {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        prop_assert!(read_model(&bytes).is_err());
    }

    #[test]
    fn one_changed_byte_gives_an_error_or_the_same_model(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let [model, quantized] = small_files();
        let mut changed = model.clone();
        changed[at.index(model.len())] = byte;
        if let Ok(read) = read_model(&changed) {
            prop_assert_eq!(read, read_model(&model).unwrap());
        }
        let mut changed = quantized.clone();
        changed[at.index(quantized.len())] = byte;
        if let Ok(read) = read_qmodel(&changed) {
            prop_assert_eq!(read, read_qmodel(&quantized).unwrap());
        }
    }

    #[test]
    fn hostile_metadata_under_a_right_checksum_never_panic(
        key in prop::sample::select(vec!["graph", "graph", "graph", "input", "codec", "codec", "golden"]),
        kind in 0..2usize,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), prop::sample::select(NUMBERS.to_vec())), 1..4),
    ) {
        let file = resealed(&small_files()[kind], |content| {
            let Some(text) = content.metadata.get_mut(key) else { return };
            for (at, number) in edits {
                let starts: Vec<usize> = text
                    .char_indices()
                    .filter(|(i, c)| c.is_ascii_digit() && !text.as_bytes()[i - 1].is_ascii_alphanumeric())
                    .map(|(i, _)| i)
                    .collect();
                if starts.is_empty() {
                    return;
                }
                let start = starts[at.index(starts.len())];
                let length = text[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
                text.replace_range(start..start + length, number);
            }
        });
        // What still reads is sound, so that it can be written again.
        if let Ok(model) = read_model(&file) {
            prop_assert!(crate::write_model(&model, &Provenance::new()).is_ok());
        }
        if let Ok((model, Some(golden))) = read_qmodel_with_golden(&file) {
            prop_assert!(write_qmodel_with_golden(&model, &golden, &Provenance::new()).is_ok());
        }
    }

    #[test]
    fn changed_characters_under_a_right_checksum_never_panic(
        key in prop::sample::select(vec!["graph", "input", "codec", "golden"]),
        kind in 0..2usize,
        at in any::<prop::sample::Index>(),
        character in prop::sample::select(b"0129[]{},:\"-eNk".to_vec()),
    ) {
        let file = resealed(&small_files()[kind], |content| {
            let Some(text) = content.metadata.get_mut(key) else { return };
            let at = at.index(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
                text.replace_range(at..=at, &char::from(character).to_string());
            }
        });
        let _ = read_model(&file);
        let _ = read_qmodel(&file);
    }
}
