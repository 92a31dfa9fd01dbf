//! Structure of written f32 networks, and refusals.

use opt_core::op::Window;
use opt_core::{Graph, Model, Op, Task, zoo};
use prost::Message;

use super::*;
use crate::onnx::proto::ModelProto;

fn ops(model: &Model) -> Vec<(String, String)> {
    let bytes = write_float(model, None).unwrap();
    let graph = ModelProto::decode(&*bytes).unwrap().graph.unwrap();
    let named = |n: crate::onnx::proto::NodeProto| (n.name, n.op_type);
    graph.node.into_iter().map(named).collect()
}

#[test]
fn every_node_keeps_its_name_and_operator() {
    let names = [
        "resnet20",
        "vgg16_bn",
        "mobilenet_v2_32",
        "source_net",
        "airbench_4_8_8",
    ];
    for name in names {
        let model = zoo::build(name, &Task::cifar10(), 0).unwrap();
        let expected: Vec<(String, String)> = model.graph.nodes[1..]
            .iter()
            .map(|n| (n.name.clone(), n.op.name().to_owned()))
            .collect();
        assert_eq!(ops(&model), expected, "{name}");
    }
}

#[test]
fn parameters_keep_names_shapes_and_bits() {
    let model = zoo::build("resnet20", &Task::cifar10(), 3).unwrap();
    let bytes = write_float(&model, Some(7)).unwrap();
    assert_eq!(bytes, write_float(&model, Some(7)).unwrap());
    let graph = ModelProto::decode(&*bytes).unwrap().graph.unwrap();
    for (name, tensor) in &model.params {
        let stored = graph.initializer.iter().find(|t| t.name == *name).unwrap();
        let shape: Vec<usize> = stored
            .dims
            .iter()
            .map(|d| usize::try_from(*d).unwrap())
            .collect();
        assert_eq!(shape, tensor.shape(), "{name}");
        let values = stored
            .raw_data
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b));
        assert!(values.eq(tensor.iter().copied()), "{name}");
    }
    let used = |name: &String| graph.node.iter().any(|n| n.input.contains(name));
    assert!(graph.initializer.iter().all(|t| used(&t.name)));
}

#[test]
fn what_has_no_form_is_refused() {
    let model = zoo::build("airbench_4_4_4", &Task::cifar10(), 0).unwrap();
    let message = write_float(&model, Some(0)).unwrap_err().to_string();
    assert!(message.contains("at least 1 image"), "{message}");
    // A node called like a parameter.
    let mut twice = model.clone();
    let parameter = twice.params.keys().next().unwrap().clone();
    twice.graph.nodes[1].name = parameter.clone();
    let message = write_float(&twice, None).unwrap_err().to_string();
    assert!(
        message.contains(&parameter) && message.contains("rename"),
        "{message}"
    );
    // A network that is not one.
    let mut unsound = model;
    unsound.graph = Graph::new();
    unsound
        .graph
        .push("pool", Op::MaxPool(Window::square(64, 1, 0)), &[0]);
    write_float(&unsound, None).unwrap_err();
}
