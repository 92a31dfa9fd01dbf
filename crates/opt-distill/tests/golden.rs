//! The losses against values that PyTorch computed; `golden/kd.py` makes them.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use opt_distill::{Kd, kd_loss, teacher_cross_entropy};
use serde_json::Value;
use tch::{Kind, Tensor};

fn matrix(value: &Value) -> Tensor {
    let rows: Vec<Tensor> = value
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let row = row.as_array().unwrap().iter();
            Tensor::from_slice(&row.map(|v| v.as_f64().unwrap()).collect::<Vec<_>>())
        })
        .collect();
    Tensor::stack(&rows, 0)
}

#[test]
fn losses_and_gradients_are_those_of_pytorch() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/kd.json")).unwrap();
    assert_eq!(cases.len(), 5);
    for case in &cases {
        let number = |key: &str| case[key].as_f64().unwrap();
        let settings = Kd {
            temperature: number("temperature"),
            w_kd: number("w_kd"),
            w_ce: number("w_ce"),
            label_smoothing: number("label_smoothing"),
        };
        let labels = case["labels"].as_array().unwrap().iter();
        let labels = Tensor::from_slice(&labels.map(|v| v.as_i64().unwrap()).collect::<Vec<_>>());
        // In f64 only the order of operations may differ; in f32 each of a few dozen operations rounds by 6e-8.
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 5e-6)] {
            let student = matrix(&case["student"])
                .to_kind(kind)
                .set_requires_grad(true);
            let teacher = matrix(&case["teacher"]).to_kind(kind);
            let terms = kd_loss(&student, &teacher, &labels, &settings).unwrap();
            let textbook = teacher_cross_entropy(&student, &teacher, settings.temperature).unwrap();
            for (key, found) in [
                ("kd", &terms.kd),
                ("ce", &terms.ce),
                ("total", &terms.total),
                ("teacher_cross_entropy", &textbook),
            ] {
                let (found, expect) = (found.double_value(&[]), number(key));
                let name = &case["name"];
                assert!(
                    (found - expect).abs() <= tolerance * (1.0 + expect.abs()),
                    "{name}, {kind:?}, {key}: {found}, expected {expect}"
                );
            }
            terms.total.backward();
            let difference = student.grad().to_kind(Kind::Double) - matrix(&case["gradient"]);
            let largest = difference.abs().max().double_value(&[]);
            assert!(largest <= tolerance, "{}: {largest}", case["name"]);
        }
    }
}
