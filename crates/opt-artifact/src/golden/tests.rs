//! Answers come back with every bit, and whatever does not belong together or differs is named.

use super::*;
use crate::container::{self, Kind};
use crate::tests::{quantized, resealed};
use crate::{
    Provenance, read_qmodel, read_qmodel_with_golden, write_qmodel, write_qmodel_with_golden,
};
use ndarray::ArrayD;
use opt_core::lower::ResidualAdd;
use opt_core::{Activation, Output, Params, QNode, QOp, QWeight};
use proptest::prelude::*;

/// 0.5·(a - d) and -(b + c) for an image a, b, c, d of 2×2.
fn tiny() -> QModel {
    let node = |name: &str, op, inputs: &[usize], scale: Option<f32>| QNode {
        name: name.to_owned(),
        op,
        inputs: inputs.to_vec(),
        activation: scale.map(|scale| Activation::new(scale, 0)),
    };
    let codes = vec![1i8, 0, 0, -1, 0, -1, -1, 0];
    let weight = QWeight {
        codes: ArrayD::from_shape_vec(vec![2, 4], codes).unwrap(),
        scales: vec![0.5, 1.0],
        bits: 8,
    };
    let bias = vec![0, 0];
    QModel {
        nodes: vec![
            node("input", QOp::Input, &[], Some(1.0)),
            node("flat", QOp::Flatten, &[0], Some(1.0)),
            node("head", QOp::Logits { weight, bias }, &[1], None),
        ],
        params: Params::new(),
        outputs: vec![Output {
            node: 2,
            labels: vec!["a".to_owned(), "b".to_owned()],
        }],
        input: InputSpec {
            shape: [1, 2, 2],
            mean: vec![0.0],
            std: vec![1.0],
            preparation: opt_core::Preparation::usual([1, 2, 2]),
        },
    }
}

fn tiny_golden() -> Golden {
    golden(&tiny(), &[9, 1, 1, 3, 0, 0, 0, 255]).unwrap()
}

#[test]
fn answers_are_those_that_one_computes_by_hand() {
    let golden = tiny_golden();
    assert_eq!(golden.count(), 2);
    assert_eq!(golden.logits, [3.0, -2.0, -127.5, 0.0]);
    assert_eq!(
        (golden.image(1), golden.logits(1)),
        (&[0, 0, 0, 255][..], &[-127.5, 0.0][..])
    );
    // hashlib.sha256 over 4, the image, 4, the image, 0; numbers as struct.pack("<Q").
    let expected = [
        "d6af61d14db4dca822ebbd7d9e601da710b1fa7a91f098f5acb192db0c37b564",
        "f99b67d398ddfaae61892fd40006908cc26680ebb5ce6aa1a27d1d2254a51117",
    ];
    assert_eq!(golden.codes_sha256, expected);
}

#[test]
fn real_nets_come_back_and_check_themselves() {
    for (name, adds, bits) in [
        ("resnet20", ResidualAdd::Explicit, 8),
        ("airbench_8_8_8", ResidualAdd::Fused, 4),
    ] {
        let model = quantized(name, adds, bits);
        let images: Vec<u8> = (0..2 * 3072)
            .map(|i: usize| (i * 37 % 251).to_le_bytes()[0])
            .collect();
        let answers = golden(&model, &images).unwrap();
        let bytes = write_qmodel_with_golden(&model, &answers, &Provenance::new()).unwrap();
        let (back, stored) = read_qmodel_with_golden(&bytes).unwrap();
        let stored = stored.unwrap();
        assert_eq!((&back, &stored), (&model, &answers), "{name}");
        for n in 0..2 {
            assert_eq!(stored.image(n), &images[n * 3072..][..3072]);
            let trace = interpret_quantized::run(&back, stored.image(n)).unwrap();
            stored.check_codes(n, &back, trace.codes()).unwrap();
            stored.check_logits(n, &back, &trace.outputs).unwrap();
            // One code of one node.
            let mut codes: Vec<Vec<u8>> = trace.codes().map(<[u8]>::to_vec).collect();
            codes[3][5] ^= 1;
            stored
                .check_codes(n, &back, codes.iter().map(Vec::as_slice))
                .unwrap_err();
        }
        let plain = write_qmodel(&model, &Provenance::new()).unwrap();
        assert_eq!(read_qmodel_with_golden(&plain).unwrap(), (model, None));
        let cost = bytes.len() - plain.len();
        println!("{name}: two images of 3072 bytes cost {cost} bytes");
        // Images, 2 × 10 logits, checksums, and the tensors' entries in the header.
        assert!(
            (6144 + 80 + 128..6144 + 80 + 128 + 250).contains(&cost),
            "{cost}"
        );
    }
}

#[test]
fn differences_are_named_and_every_bit_counts() {
    let golden = tiny_golden();
    struct Case {
        logits: &'static [f32],
        expect: &'static str,
    }
    let cases = [
        // The last bit.
        Case {
            logits: &[-127.50001, 0.0],
            expect: "image 1 of the 2 to check with: the logit of class 0 is -127.50001, expected -127.5; this program",
        },
        // Equal, but other bits.
        Case {
            logits: &[-127.5, -0.0],
            expect: "the logit of class 1 is -0.0, expected 0.0",
        },
        Case {
            logits: &[f32::NAN, 0.0],
            expect: "the logit of class 0 is NaN, expected -127.5",
        },
        // Of another network.
        Case {
            logits: &[-127.5],
            expect: "1 logits, expected 2",
        },
    ];
    for case in cases {
        let message = golden
            .check_logits(1, &tiny(), case.logits)
            .unwrap_err()
            .to_string();
        assert!(message.contains(case.expect), "{message}");
    }
    golden.check_logits(1, &tiny(), &[-127.5, 0.0]).unwrap();
    let image: &[u8] = &[0, 0, 0, 255];
    golden.check_codes(1, &tiny(), [image, image, &[]]).unwrap();
    // A node too few, and the other image's codes.
    for (n, codes) in [(1, vec![image, image]), (0, vec![image, image, &[]])] {
        let message = golden
            .check_codes(n, &tiny(), codes)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("the checksum of its codes is "),
            "{message}"
        );
        assert!(message.contains(&golden.codes_sha256[n]), "{message}");
    }
}

#[test]
#[should_panic(expected = "image 2 of 2")]
fn an_image_that_is_not_there_panics() {
    let _ = tiny_golden().image(2);
}

#[test]
fn images_that_are_not_whole_or_too_many_are_refused() {
    for (length, expect) in [
        (0, "`golden.images`: 0 images, expected 1 to 1024"),
        (5, "`golden.images`: 5 bytes, expected a multiple of 4"),
        (4 * 1025, "`golden.images`: 1025 images, expected 1 to 1024"),
    ] {
        let message = golden(&tiny(), &vec![0; length]).unwrap_err().to_string();
        assert_eq!(message, expect);
    }
    assert_eq!(golden(&tiny(), &[0; 4 * 1024]).unwrap().count(), 1024);
    // A network without pixels, before anything is divided by their number.
    let mut unsound = tiny();
    unsound.input.shape = [1, 0, 2];
    let message = golden(&unsound, &[]).unwrap_err().to_string();
    assert!(message.contains("its shape is [1, 0, 2]"), "{message}");
}

#[test]
fn answers_that_do_not_belong_together_are_not_written() {
    struct Case {
        change: fn(&mut Golden),
        expect: &'static str,
    }
    let cases = [
        Case {
            change: |g| g.images.truncate(7),
            expect: "`golden.images`: 7 numbers, expected 8 for [2, 1, 2, 2]",
        },
        Case {
            change: |g| g.logits.push(0.0),
            expect: "`golden.logits`: 5 numbers, expected 4 for [2, 2]",
        },
        // The checksums say how many images there are.
        Case {
            change: |g| drop(g.codes_sha256.pop()),
            expect: "`golden.images`: 8 numbers, expected 4 for [1, 1, 2, 2]",
        },
        Case {
            change: |g| g.codes_sha256.clear(),
            expect: "`golden.images`: 0 images, expected 1 to 1024",
        },
        Case {
            change: |g| g.codes_sha256[1].make_ascii_uppercase(),
            expect: "expected 64 of 0-9 and a-f",
        },
    ];
    for case in cases {
        let mut golden = tiny_golden();
        (case.change)(&mut golden);
        let error = write_qmodel_with_golden(&tiny(), &golden, &Provenance::new()).unwrap_err();
        assert!(error.to_string().contains(case.expect), "{error}");
    }
}

#[test]
fn names_that_are_taken_are_refused() {
    for name in ["golden", "golden.images", "golden.1"] {
        let mut model = tiny();
        model.nodes[2].name = name.to_owned();
        for error in [
            write_qmodel(&model, &Provenance::new()).unwrap_err(),
            write_qmodel_with_golden(&model, &tiny_golden(), &Provenance::new()).unwrap_err(),
        ] {
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("`{name}`: `golden` and what begins")),
                "{message}"
            );
        }
    }
    let bytes = write_qmodel(&tiny(), &Provenance::new()).unwrap();
    let bytes = resealed(&bytes, |c| {
        let graph = c.metadata.get_mut("graph").unwrap();
        *graph = graph.replace("\"flat\"", "\"golden.flat\"");
    });
    let message = read_qmodel(&bytes).unwrap_err().to_string();
    assert!(message.contains("rename the node"), "{message}");
    let mut model = tiny();
    model.nodes[2].name = "goldener".to_owned();
    write_qmodel(&model, &Provenance::new()).unwrap();
}

#[test]
fn damaged_answers_are_named() {
    let bytes = write_qmodel_with_golden(&tiny(), &tiny_golden(), &Provenance::new()).unwrap();
    struct Case {
        change: fn(&mut Container<'_>),
        expect: &'static str,
    }
    let cases = [
        Case {
            change: |c| drop(c.tensors.remove(IMAGES)),
            expect: "`golden.images`: the file has no tensor of this name",
        },
        Case {
            change: |c| drop(c.tensors.remove(LOGITS)),
            expect: "`golden.logits`: the file has no tensor of this name",
        },
        // Without their metadata they are tensors like any other.
        Case {
            change: |c| drop(c.metadata.remove(KEY)),
            expect: "`golden.images`: nothing in the graph reads this tensor",
        },
        // Shapes that lie.
        Case {
            change: |c| c.tensors.get_mut(IMAGES).unwrap().shape = vec![8],
            expect: "`golden.images`: shape [8], expected [2, 1, 2, 2]",
        },
        Case {
            change: |c| c.tensors.get_mut(LOGITS).unwrap().shape = vec![4],
            expect: "`golden.logits`: shape [4], expected [2, 2]",
        },
        // Another type.
        Case {
            change: |c| c.tensors.get_mut(LOGITS).unwrap().dtype = Dtype::I32,
            expect: "`golden.logits`: type I32, expected F32",
        },
        // Checksums: none, one too few, not one, and something new beside them.
        Case {
            change: |c| drop(c.set_json(KEY, &serde_json::json!({"codes_sha256": []}))),
            expect: "`golden.images`: 0 images, expected 1 to 1024",
        },
        Case {
            change: |c| {
                let one = "0".repeat(64);
                c.set_json(KEY, &serde_json::json!({"codes_sha256": [one]}))
                    .unwrap();
            },
            expect: "`golden.images`: shape [2, 1, 2, 2], expected [1, 1, 2, 2]",
        },
        Case {
            change: |c| drop(c.set_json(KEY, &serde_json::json!({"codes_sha256": ["0", "1"]}))),
            expect: "`golden`: the checksum `0`, expected 64 of 0-9 and a-f",
        },
        Case {
            change: |c| drop(c.set_json(KEY, &serde_json::json!({"codes_md5": []}))),
            expect: "the metadata's `golden`: unknown field `codes_md5`",
        },
    ];
    for case in cases {
        let message = read_qmodel(&resealed(&bytes, case.change))
            .unwrap_err()
            .to_string();
        assert!(message.contains(case.expect), "{message}");
    }
    // One bit of a logit or of an image: the file's checksum sees it, and under a right one the program that checks.
    for name in [IMAGES, LOGITS] {
        let changed = resealed(&bytes, |c| {
            c.tensors.get_mut(name).unwrap().bytes.to_mut()[0] ^= 1;
        });
        let mut content = container::parse(&changed).unwrap();
        let sound = container::read(&bytes).unwrap();
        content
            .metadata
            .insert("sha256".to_owned(), sound.metadata["sha256"].clone());
        let unsealed = container::serialize(&content).unwrap();
        let message = read_qmodel(&unsealed).unwrap_err().to_string();
        assert!(message.contains("the checksum does not match"), "{message}");
        let (model, golden) = read_qmodel_with_golden(&changed).unwrap();
        let golden = golden.unwrap();
        let trace = interpret_quantized::run(&model, golden.image(0)).unwrap();
        golden.check_logits(0, &model, &trace.outputs).unwrap_err();
        let same = golden.check_codes(0, &model, trace.codes()).is_ok();
        assert_eq!(same, name == LOGITS);
    }
    assert_eq!(crate::inspect(&bytes).unwrap().kind, Kind::QModel);
}

proptest! {
    #[test]
    fn any_images_come_back(pixels in prop::collection::vec(any::<[u8; 4]>(), 1..6)) {
        let images = pixels.concat();
        let answers = golden(&tiny(), &images).unwrap();
        let bytes = write_qmodel_with_golden(&tiny(), &answers, &Provenance::new()).unwrap();
        prop_assert_eq!(&bytes, &write_qmodel_with_golden(&tiny(), &answers, &Provenance::new()).unwrap());
        prop_assert_eq!(read_qmodel(&bytes).unwrap(), tiny());
        let (model, stored) = read_qmodel_with_golden(&bytes).unwrap();
        prop_assert_eq!((model, stored), (tiny(), Some(answers.clone())));
        prop_assert_eq!(answers.images, images);
        for (n, [a, b, c, d]) in pixels.into_iter().map(|p| p.map(f32::from)).enumerate() {
            // Halves and small integers are exact.
            prop_assert_eq!(&answers.logits[2 * n..][..2], &[0.5 * (a - d), -(b + c)]);
        }
    }

    #[test]
    fn codes_have_one_checksum_each(
        a in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3), 0..4),
        b in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3), 0..4),
    ) {
        let sum = |codes: &[Vec<u8>]| codes_sha256(codes.iter().map(Vec::as_slice));
        prop_assert_eq!(a == b, sum(&a) == sum(&b));
    }
}
