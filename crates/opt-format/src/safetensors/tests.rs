//! Checkpoints made here, in every type and with everything that can be wrong.

use super::*;
use ::safetensors::tensor::TensorView;
use opt_core::{Task, zoo};
use proptest::prelude::*;

fn net(seed: u64) -> Model {
    zoo::build("resnet20", &Task::cifar10(), seed).unwrap()
}

fn import(bytes: &[u8], into: &Model) -> Result<(Model, ImportReport)> {
    import_safetensors(bytes, into, Head::Imported)
}

/// Name, type, shape and bytes of each tensor of a file.
type File = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

fn file(model: &Model) -> File {
    let entry = |(name, t): (&String, &opt_core::Tensor)| {
        let bytes = t.iter().flat_map(|v| v.to_le_bytes()).collect();
        (name.clone(), Dtype::F32, t.shape().to_vec(), bytes)
    };
    model.params.iter().map(entry).collect()
}

fn to_bytes(file: &File) -> Vec<u8> {
    let views = file.iter().map(|(name, dtype, shape, bytes)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    ::safetensors::serialize(views, None).unwrap()
}

fn convert(file: &mut File, to: Dtype, number: fn(f32) -> Vec<u8>) {
    for (_, dtype, _, bytes) in file {
        *dtype = to;
        let numbers = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        *bytes = numbers.flat_map(number).collect();
    }
}

#[test]
fn f32_comes_in_exactly() {
    let trained = net(1);
    let (imported, report) = import(&to_bytes(&file(&trained)), &net(2)).unwrap();
    assert_eq!(imported, trained);
    assert_eq!(report, ImportReport::default());
}

#[test]
fn other_types_are_converted() {
    let trained = net(1);
    // f64 holds every f32.
    let mut wide = file(&trained);
    convert(&mut wide, Dtype::F64, |v| {
        f64::from(v).to_le_bytes().to_vec()
    });
    let (imported, report) = import(&to_bytes(&wide), &net(2)).unwrap();
    assert_eq!(imported, trained);
    assert_eq!(report.converted.len(), trained.params.len());
    assert_eq!(report.converted[0].from, "F64");
    // bfloat16 by cutting: the imported numbers are the cut ones.
    let mut narrow = file(&trained);
    convert(&mut narrow, Dtype::BF16, |v| v.to_le_bytes()[2..].to_vec());
    let (imported, _) = import(&to_bytes(&narrow), &net(2)).unwrap();
    for (name, tensor) in &trained.params {
        let cut = tensor.mapv(|v| f32::from_bits(v.to_bits() & 0xffff_0000));
        assert_eq!(imported.params[name], cut, "{name}");
    }
    // One and a half everywhere in half precision.
    for (_, dtype, shape, bytes) in &mut narrow {
        *dtype = Dtype::F16;
        *bytes = [0x00, 0x3e].repeat(shape.iter().product());
    }
    let (imported, _) = import(&to_bytes(&narrow), &net(2)).unwrap();
    assert!(imported.params.values().flatten().all(|v| *v == 1.5));
}

#[test]
fn half_precision_is_exact() {
    struct Case {
        bits: u16,
        expect: f32,
    }
    let cases = [
        Case {
            bits: 0x0000,
            expect: 0.0,
        },
        Case {
            bits: 0x8000,
            expect: -0.0,
        },
        Case {
            bits: 0x3c00,
            expect: 1.0,
        },
        Case {
            bits: 0xc000,
            expect: -2.0,
        },
        Case {
            bits: 0x3555,
            expect: 0.333_251_95,
        },
        // The largest, the smallest normal, the largest and the smallest subnormal number.
        Case {
            bits: 0x7bff,
            expect: 65504.0,
        },
        Case {
            bits: 0x0400,
            expect: 6.103_515_6e-5,
        },
        Case {
            bits: 0x03ff,
            expect: 6.097_555e-5,
        },
        Case {
            bits: 0x0001,
            expect: 5.960_464_5e-8,
        },
        Case {
            bits: 0xfc00,
            expect: f32::NEG_INFINITY,
        },
    ];
    for case in cases {
        assert_eq!(
            from_f16(case.bits).to_bits(),
            case.expect.to_bits(),
            "{:04x}",
            case.bits
        );
    }
    assert!(from_f16(0x7c01).is_nan() && from_f16(0xffff).is_nan());
    // Neighbours are in order, so no exponent is off.
    assert!((0..0x7c00).all(|bits| from_f16(bits) < from_f16(bits + 1)));
}

#[test]
fn the_prefixes_of_wrappers_go_where_every_name_has_them() {
    let trained = net(1);
    for prefix in [
        // DataParallel; torch.compile; both, either way around.
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        // As an attribute of a larger module, and in a dictionary.
        "model.",
        "state_dict.",
        "state_dict.model.module._orig_mod.",
        "model.model.",
    ] {
        let mut wrapped = file(&trained);
        wrapped.iter_mut().for_each(|t| t.0.insert_str(0, prefix));
        let counter = format!("{prefix}bn1.num_batches_tracked");
        wrapped.push((counter, Dtype::I64, vec![], vec![0; 8]));
        let (imported, report) = import(&to_bytes(&wrapped), &net(2)).unwrap();
        assert_eq!(imported, trained);
        assert_eq!(report.stripped, prefix);
        assert_eq!(report.ignored, ["bn1.num_batches_tracked"]);
        // Not where one name lacks it.
        wrapped[0].0.drain(..prefix.len());
        let error = import(&to_bytes(&wrapped), &net(2)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("unexpected: {prefix}bn1.")),
            "{error}"
        );
    }
    // What no wrapper writes stays.
    let mut other = file(&trained);
    other.iter_mut().for_each(|t| t.0.insert_str(0, "ema."));
    assert!(import(&to_bytes(&other), &net(2)).is_err());
}

#[test]
fn a_network_whose_own_names_begin_so_keeps_them() {
    let mut own = net(1);
    let params = std::mem::take(&mut own.params);
    own.params = params
        .into_iter()
        .map(|(n, t)| (format!("model.{n}"), t))
        .collect();
    let tensors = |prefix: &str| -> BTreeMap<String, Stored<'static>> {
        let stored = Stored {
            dtype: Dtype::U8,
            shape: vec![0],
            bytes: Vec::new().into(),
        };
        own.params
            .keys()
            .map(|n| (format!("{prefix}{n}"), stored.clone()))
            .collect()
    };
    assert_eq!(common_prefix(&tensors(""), &own), "");
    assert_eq!(common_prefix(&tensors("module."), &own), "module.");
    assert_eq!(common_prefix(&BTreeMap::new(), &own), "");
}

#[test]
fn a_new_head_stays_as_it_is_and_everything_else_comes_in() {
    let trained = net(1);
    let mut task = Task::cifar10();
    task.labels.truncate(8);
    let eight = zoo::build("resnet20", &task, 2).unwrap();
    let bytes = to_bytes(&file(&trained));
    let message = import(&bytes, &eight).unwrap_err().to_string();
    for part in [
        "linear.weight (shape [10, 64], expected [8, 64])",
        "`head = \"new\"` in the recipe",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let (imported, report) = import_safetensors(&bytes, &eight, Head::New).unwrap();
    assert_eq!(report.kept, ["linear.bias", "linear.weight"]);
    for (name, tensor) in &imported.params {
        let from = if name.starts_with("linear.") {
            &eight
        } else {
            &trained
        };
        assert_eq!(tensor, &from.params[name], "{name}");
    }
    // A head of the same shape is left too, and a checkpoint may have none.
    let mut headless = file(&trained);
    headless.retain(|t| !t.0.starts_with("linear."));
    for bytes in [bytes, to_bytes(&headless)] {
        let (imported, _) = import_safetensors(&bytes, &net(2), Head::New).unwrap();
        assert_eq!(imported.params["linear.bias"], net(2).params["linear.bias"]);
        assert_eq!(
            imported.params["conv1.weight"],
            trained.params["conv1.weight"]
        );
    }
    // What else does not fit is no matter of the head.
    let mut broken = file(&trained);
    broken.retain(|t| t.0 != "conv1.weight");
    for head in [Head::Imported, Head::New] {
        let message = import_safetensors(&to_bytes(&broken), &eight, head)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("missing: conv1.weight") && !message.contains("head"),
            "{message}"
        );
    }
    // Nor is a NaN in it.
    let mut broken = file(&trained);
    let bias = broken.iter_mut().find(|t| t.0 == "linear.bias").unwrap();
    bias.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let message = import(&to_bytes(&broken), &net(2)).unwrap_err().to_string();
    assert!(!message.contains("head"), "{message}");
}

#[test]
fn what_does_not_fit_is_listed() {
    struct Case {
        break_it: fn(&mut File),
        expect: &'static [&'static str],
    }
    fn find<'a>(file: &'a mut File, name: &str) -> &'a mut (String, Dtype, Vec<usize>, Vec<u8>) {
        file.iter_mut().find(|t| t.0 == name).unwrap()
    }
    let cases = [
        // Another name: one is missing, one too many.
        Case {
            break_it: |f| find(f, "linear.bias").0 = "fc.bias".to_owned(),
            expect: &["1 missing: linear.bias", "1 unexpected: fc.bias"],
        },
        // Nothing at all: the list is cut.
        Case {
            break_it: Vec::clear,
            expect: &[
                "97 missing: bn1.bias, bn1.running_mean, bn1.running_var, bn1.weight, conv1.weight, …",
            ],
        },
        // A transposed shape of as many elements.
        Case {
            break_it: |f| find(f, "linear.weight").2.reverse(),
            expect: &["1 wrong: linear.weight (shape [64, 10], expected [10, 64])"],
        },
        // Integers.
        Case {
            break_it: |f| find(f, "linear.bias").1 = Dtype::I32,
            expect: &["linear.bias (type I32, expected F32, F16, BF16 or F64)"],
        },
        // A NaN.
        Case {
            break_it: |f| find(f, "linear.bias").3[4..8].copy_from_slice(&f32::NAN.to_le_bytes()),
            expect: &["linear.bias (element 1 is NaN, expected a finite number)"],
        },
        // An f64 that no f32 holds.
        Case {
            break_it: |f| {
                let bias = find(f, "linear.bias");
                (bias.1, bias.3) = (Dtype::F64, 1e300f64.to_le_bytes().repeat(10));
            },
            expect: &["linear.bias (element 0 is inf, expected a finite number)"],
        },
    ];
    for case in cases {
        let mut broken = file(&net(1));
        (case.break_it)(&mut broken);
        let message = import(&to_bytes(&broken), &net(2)).unwrap_err().to_string();
        for expect in case.expect {
            assert!(message.contains(expect), "{message}");
        }
    }
}

#[test]
fn files_of_other_kinds_are_called_by_their_names() {
    for (bytes, expect) in [
        (
            &b"PK\x03\x04\x14\0\0\0archive/data.pkl"[..],
            "a zip archive, as PyTorch writes .pth",
        ),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j", "a pickle"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a pointer of git-lfs",
        ),
        (b"\n <!DOCTYPE html>\n<html>", "an HTML page"),
        (b"<HTML lang=en>", "an HTML page"),
    ] {
        let message = import(bytes, &net(2)).unwrap_err().to_string();
        assert!(message.contains(expect), "{message}");
    }
}

#[test]
fn other_bytes_are_refused() {
    let whole = to_bytes(&file(&net(1)));
    for cut in [0, 7, 8, 100, whole.len() - 1] {
        let message = import(&whole[..cut], &net(2)).unwrap_err().to_string();
        assert!(
            message.contains("not a safetensors container"),
            "{cut}: {message}"
        );
    }
    // Lengths whose unchecked sum wraps around.
    let entry = |i: u64, from: u64, to: u64| {
        let length = to - from;
        format!("\"t{i}\":{{\"dtype\":\"U8\",\"shape\":[{length}],\"data_offsets\":[{from},{to}]}}")
    };
    let step = (1u64 << 61) - 1;
    let mut entries: Vec<String> = (0..8).map(|i| entry(i, i * step, (i + 1) * step)).collect();
    entries.push(entry(8, 8 * step, u64::MAX));
    let header = format!("{{{}}}", entries.join(","));
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let message = import(&bytes, &net(2)).unwrap_err().to_string();
    assert!(
        message.contains("0 bytes of tensors, expected 18446744073709551615"),
        "{message}"
    );
}

#[test]
fn exports_are_plain_deterministic_and_carry_metadata() {
    let trained = net(1);
    let plain = export_safetensors(&trained, &BTreeMap::new()).unwrap();
    assert_eq!(plain, to_bytes(&file(&trained)));
    let metadata: BTreeMap<String, String> = ["b", "a", "format"]
        .map(|k| (k.to_owned(), "say \"pt\"".to_owned()))
        .into();
    let bytes = export_safetensors(&trained, &metadata).unwrap();
    assert_eq!(bytes, export_safetensors(&trained, &metadata).unwrap());
    let (_, read) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(
        read.metadata()
            .as_ref()
            .unwrap()
            .clone()
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        metadata
    );
    assert_eq!(import(&bytes, &net(2)).unwrap().0, trained);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let model = zoo::build("airbench_1_1_1", &Task::cifar10(), 0).unwrap();
        prop_assert!(import(&bytes, &model).is_err());
    }

    #[test]
    fn changed_bytes_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let model = zoo::build("airbench_1_1_1", &Task::cifar10(), 0).unwrap();
        let mut bytes = export_safetensors(&model, &BTreeMap::new()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok((imported, _)) = import(&bytes, &model) {
            prop_assert!(imported.validate().is_ok());
        }
    }
}
