//! Models come back bit for bit, and codes decode as documented.

use super::*;
use ndarray::Array1;
use opt_core::{Dequantize, Task, zoo};
use safetensors::SafeTensors;

#[test]
fn zoo_nets_come_back_bit_for_bit() {
    for name in ["resnet20", "resnet20_b", "airbench_8_8_8", "source_net"] {
        let mut model = zoo::build(name, &Task::cifar10(), 5).unwrap();
        // A negative zero equals zero but has other bits.
        let first = model.params.values_mut().next().unwrap();
        first.iter_mut().next().map(|v| *v = -0.0).unwrap();
        let provenance = Provenance::from([("note".to_owned(), "quote \" and ü".to_owned())]);
        let bytes = write_model(&model, &provenance).unwrap();
        assert_eq!(bytes, write_model(&model, &provenance).unwrap());
        let back = read_model(&bytes).unwrap();
        assert_eq!(back, model, "{name}");
        for (param, tensor) in &model.params {
            let same = tensor
                .iter()
                .zip(&back.params[param])
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{name}: {param}");
        }
        let info = crate::inspect(&bytes).unwrap();
        assert_eq!((info.kind, info.provenance), (Kind::Model, provenance));
    }
}

#[test]
fn a_pruned_net_loads_without_the_zoo() {
    // Widths that no zoo name has: the graph in the file is enough.
    let mut model = zoo::build("airbench_3_5_7", &Task::cifar10(), 1).unwrap();
    model.graph.outputs[0].labels[3] = "Katze".to_owned();
    assert_eq!(
        read_model(&write_model(&model, &Provenance::new()).unwrap()).unwrap(),
        model
    );
}

#[test]
fn other_readers_see_a_plain_checkpoint() {
    let model = zoo::build("resnet20", &Task::cifar10(), 1).unwrap();
    let bytes = write_model(&model, &Provenance::new()).unwrap();
    let plain = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = plain.names();
    names.sort_unstable();
    assert_eq!(names, model.params.keys().collect::<Vec<_>>());
    let weight = plain.tensor("linear.weight").unwrap();
    assert_eq!(
        (weight.dtype(), weight.shape()),
        (Dtype::F32, [10, 64].as_slice())
    );
    let first = f32::from_le_bytes(weight.data()[..4].try_into().unwrap());
    assert_eq!(first, model.params["linear.weight"][[0, 0]]);
    // Tensors can be mapped into memory as they are.
    assert_eq!(
        weight
            .data()
            .as_ptr()
            .addr()
            .wrapping_sub(bytes.as_ptr().addr())
            % 4,
        0
    );
}

/// Codes for `name` that any decoding accepts, and the model with their numbers.
fn coded(model: &Model, name: &str, bits: u8, dequantize: Dequantize) -> (Model, QuantizedTensor) {
    let shape = model.params[name].raw_dim();
    let codes = Array1::from_shape_fn(model.params[name].len(), |i| {
        u8::try_from(i * 7 % (1 << bits)).unwrap()
    });
    let coded = QuantizedTensor {
        codes: codes.into_shape_with_order(shape).unwrap(),
        bits,
        dequantize,
    };
    let mut model = model.clone();
    let values = coded.dequantize().unwrap().into_shared();
    model.params.insert(name.to_owned(), values);
    (model, coded)
}

#[test]
fn coded_parameters_come_back_as_their_numbers() {
    let model = zoo::build("airbench_8_8_8", &Task::cifar10(), 2).unwrap();
    let plain = write_model(&model, &Provenance::new()).unwrap().len();
    let names: Vec<String> = model
        .weight_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let channels = model.params[&names[1]].shape()[0];
    let per_channel = (1..=channels).map(|o| 0.01 * o as f32).collect();
    let affine = |scales, zero_point| Dequantize::Affine { scales, zero_point };
    let odd = (0..8).map(|i| (i as f32).sin()).collect();
    for bits in 3..=8 {
        let (model, first) = coded(&model, &names[0], bits, affine(vec![0.1], 3));
        let (model, second) = coded(&model, &names[1], bits, affine(Vec::clone(&per_channel), 2));
        let (model, third) = coded(
            &model,
            &names[2],
            bits,
            Dequantize::MinMax {
                min: -0.3,
                step: 0.07,
            },
        );
        let (model, fourth) = coded(&model, &names[3], 3, Dequantize::Codebook(Vec::clone(&odd)));
        let codes: BTreeMap<_, _> = names
            .iter()
            .cloned()
            .zip([first, second, third, fourth])
            .collect();
        let bytes = write_model_with_codes(&model, &codes, &Provenance::new()).unwrap();
        assert_eq!(read_model(&bytes).unwrap(), model);
        assert!(bytes.len() < plain);
        assert_eq!(
            bytes,
            write_model_with_codes(&model, &codes, &Provenance::new()).unwrap()
        );
    }
}

#[test]
fn raw_codes_of_a_parameter_are_read_too() {
    let model = zoo::build("airbench_8_8_8", &Task::cifar10(), 2).unwrap();
    let name = model.weight_names()[0].to_owned();
    let decode = Dequantize::Affine {
        scales: vec![0.1],
        zero_point: 3,
    };
    let (model, coded) = coded(&model, &name, 8, decode);
    let shape = coded.codes.shape().to_vec();
    let codes = BTreeMap::from([(name.clone(), coded)]);
    let bytes = write_model_with_codes(&model, &codes, &Provenance::new()).unwrap();
    let raw = crate::tests::resealed(&bytes, |c| {
        let text = c.metadata.get_mut("codec").unwrap();
        let (start, end) = (text.find("{\"coding\"").unwrap(), text.find('}').unwrap());
        text.replace_range(start..=end, "{\"coding\":\"raw\"}");
        c.tensors.get_mut(&format!("{name}.codes")).unwrap().shape = shape;
    });
    assert_eq!(read_model(&raw).unwrap(), model);
}

#[test]
fn codes_that_do_not_fit_are_refused() {
    let model = zoo::build("airbench_8_8_8", &Task::cifar10(), 2).unwrap();
    let name = model.weight_names()[0].to_owned();
    let scales = vec![0.1];
    let decode = Dequantize::Affine {
        scales,
        zero_point: 4,
    };
    let (model, sound) = coded(&model, &name, 4, decode);
    struct Case {
        break_it: fn(&mut QuantizedTensor),
        expect: &'static str,
    }
    let cases = [
        // Parts that do not fit each other: the parameter is named.
        Case {
            break_it: |c| c.bits = 9,
            expect: "9 bits, expected 1 to 8",
        },
        Case {
            break_it: |c| c.dequantize = Dequantize::Codebook(vec![0.0; 15]),
            expect: "the code 15 is outside its codebook of 15",
        },
        // Another shape of as many elements.
        Case {
            break_it: |c| c.codes.swap_axes(0, 1),
            expect: "codes of shape",
        },
        // One number is not what the model holds.
        Case {
            break_it: |c| c.codes[[0, 0, 0, 0]] ^= 1,
            expect: "element 0 is",
        },
    ];
    for case in cases {
        let mut broken = sound.clone();
        (case.break_it)(&mut broken);
        let codes = BTreeMap::from([(name.clone(), broken)]);
        let error = write_model_with_codes(&model, &codes, &Provenance::new()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(case.expect) && message.contains(&name),
            "{message}"
        );
    }
    let codes = BTreeMap::from([("stray".to_owned(), sound)]);
    let error = write_model_with_codes(&model, &codes, &Provenance::new()).unwrap_err();
    assert!(
        error.to_string().contains("`stray`: codes for a parameter"),
        "{error}"
    );
}

#[test]
fn unsound_models_are_not_written() {
    let mut model = zoo::build("airbench_8_8_8", &Task::cifar10(), 2).unwrap();
    let name = model.weight_names()[0].to_owned();
    model
        .params
        .get_mut(&name)
        .unwrap()
        .iter_mut()
        .for_each(|v| *v = f32::NAN);
    let error = write_model(&model, &Provenance::new()).unwrap_err();
    assert!(error.to_string().contains("is NaN"), "{error}");
}
