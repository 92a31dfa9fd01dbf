//! Writing a f32 network as ONNX.

use opt_core::shape::infer_shapes;
use opt_core::{Model, Op};

use super::file::{check_batch, file};
use super::message::{Elements, constant, float, int, node, pad, slice, value, window_attributes};
use super::proto::{DataType, GraphProto};
use crate::Result;

/// Writes a f32 network as ONNX: one node for each of the network's, under its name, and the parameters under theirs.
///
/// ```text
/// input   float [N, C, H, W]     normalised: (byte/255 - mean)/std
/// output  float [N, classes]     named as the network's last node
/// ```
///
/// `batch` is the number of images of a run; `None` leaves it open. The same network gives the same bytes. `metadata_props`
/// holds `labels`, a JSON array.
///
/// ```
/// use opt_format::onnx::{proto::ModelProto, write_float};
///
/// let model = opt_core::zoo::build("airbench_4_4_4", &opt_core::InputSpec::cifar10(), 0)?;
/// let file: ModelProto = prost::Message::decode(&*write_float(&model, Some(1))?)?;
/// let graph = file.graph.unwrap_or_default();
/// assert_eq!(graph.node.len() + 1, model.graph.nodes.len());
/// assert_eq!(graph.node.last().unwrap().op_type, "Gemm");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`crate::FormatError::Core`] for an unsound network; [`crate::FormatError::Onnx`] for names that are empty or collide,
/// for a batch of 0, and for more than protobuf's 2 GiB.
pub fn write_float(model: &Model, batch: Option<usize>) -> Result<Vec<u8>> {
    model.validate()?;
    check_batch(batch)?;
    let shapes = infer_shapes(model)?;
    let mut graph = GraphProto {
        name: "opt".to_owned(),
        ..GraphProto::default()
    };
    let nodes = &model.graph.nodes;
    let normalised = "normalised: (byte/255 - mean)/std";
    let image = (&nodes[0].name, DataType::Float);
    graph.input = vec![value(image.0, image.1, batch, &shapes[0], normalised)];
    let last = model.graph.output;
    graph.output = vec![value(
        &nodes[last].name,
        DataType::Float,
        batch,
        &shapes[last],
        "",
    )];
    for (name, tensor) in &model.params {
        let values: Vec<f32> = tensor.iter().copied().collect();
        graph.initializer.push(constant(
            name.clone(),
            tensor.shape(),
            Elements::Floats(&values),
        ));
    }
    for id in 1..nodes.len() {
        write_node(&mut graph, model, id, &shapes);
    }
    file(graph, &model.input.labels)
}

fn write_node(graph: &mut GraphProto, model: &Model, id: usize, shapes: &[Vec<usize>]) {
    let opt_core::Node { name, op, inputs } = &model.graph.nodes[id];
    let x = &*model.graph.nodes[inputs[0]].name;
    let with_bias = |weight: &str, bias: &Option<String>| -> Vec<String> {
        [x, weight]
            .into_iter()
            .map(str::to_owned)
            .chain(bias.clone())
            .collect()
    };
    let (inputs, attributes) = match op {
        Op::Input => return,
        Op::Conv {
            weight,
            bias,
            window,
            group,
        } => {
            let mut attributes = window_attributes(window);
            attributes.push(int("group", *group));
            (with_bias(weight, bias), attributes)
        }
        Op::Gemm { weight, bias } => (with_bias(weight, bias), vec![int("transB", 1)]),
        Op::BatchNormalization {
            scale,
            bias,
            mean,
            var,
            epsilon,
            ..
        } => {
            let scale = scale.clone().unwrap_or_else(|| {
                let ones = vec![1.0; shapes[id][0]];
                let name = format!("{name}/ones");
                let ones = constant(name.clone(), &[shapes[id][0]], Elements::Floats(&ones));
                graph.initializer.push(ones);
                name
            });
            let inputs = [x.to_owned(), scale, bias.clone(), mean.clone(), var.clone()];
            (inputs.to_vec(), vec![float("epsilon", *epsilon)])
        }
        Op::Clip { min, max } => {
            let mut inputs = vec![x.to_owned()];
            for (what, limit) in [("min", min), ("max", max)] {
                let limit_name = format!("{name}/{what}");
                let limit = constant(limit_name.clone(), &[], Elements::Floats(&[*limit]));
                graph.initializer.push(limit);
                inputs.push(limit_name);
            }
            (inputs, Vec::new())
        }
        Op::Add => {
            let operands = inputs.iter().map(|i| model.graph.nodes[*i].name.clone());
            (operands.collect(), Vec::new())
        }
        Op::MaxPool(window) | Op::AveragePool(window) => {
            (vec![x.to_owned()], window_attributes(window))
        }
        Op::Relu | Op::GlobalAveragePool => (vec![x.to_owned()], Vec::new()),
        Op::Flatten => (vec![x.to_owned()], vec![int("axis", 1)]),
        Op::Slice { start, end, step } => return slice(graph, name, x, [start, end, step]),
        Op::Pad { begin, end } => {
            let zero = format!("{name}/zero");
            let constant = constant(zero.clone(), &[], Elements::Floats(&[0.0]));
            graph.initializer.push(constant);
            let pads = [&[0], &**begin, &[0], end].concat();
            return pad(graph, name, x, &pads, &zero, name);
        }
    };
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    graph
        .node
        .push(node(&**name, op.name(), &inputs, name, attributes));
}

#[cfg(test)]
mod tests;
