//! Writing a f32 network as ONNX.

use opt_core::shape::infer_shapes;
use opt_core::{Binary, Model, Node, Op, Params, Unary};

use super::file::{check_batch, file};
use super::message::{Elements, constant, float, int, node, pad, slice, value, window_attributes};
use super::proto::{DataType, GraphProto};
use crate::Result;

/// Writes a f32 network as ONNX: one node for each of the network's, under its name, and the parameters under theirs.
///
/// ```text
/// input   float [N, C, H, W]     normalised: (byte/255 - mean)/std
/// outputs float [N, …]           named as the nodes whose values they are
/// ```
///
/// `batch` is the number of images of a run; `None` leaves it open. The same network gives the same bytes. `metadata_props`
/// holds `labels`, a JSON array with those of the first output.
///
/// ```
/// use opt_format::onnx::{proto::ModelProto, write_float};
///
/// let model = opt_core::zoo::build("airbench_4_4_4", &opt_core::Task::cifar10(), 0)?;
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
    for output in &model.graph.outputs {
        let (name, shape) = (&nodes[output.node].name, &shapes[output.node]);
        let output = value(name, DataType::Float, batch, shape, "");
        graph.output.push(output);
    }
    write_params(&mut graph, &model.params);
    for id in 1..nodes.len() {
        write_node(&mut graph, model, id, &shapes);
    }
    file(graph, model.labels())
}

/// The parameters as constants under their names.
pub(super) fn write_params(graph: &mut GraphProto, params: &Params) {
    for (name, tensor) in params {
        let values: Vec<f32> = tensor.iter().copied().collect();
        graph.initializer.push(constant(
            name.clone(),
            tensor.shape(),
            Elements::Floats(&values),
        ));
    }
}

fn write_node(graph: &mut GraphProto, model: &Model, id: usize, shapes: &[Vec<usize>]) {
    let Node { name, op, inputs } = &model.graph.nodes[id];
    let inputs: Vec<&str> = inputs
        .iter()
        .map(|i| &*model.graph.nodes[*i].name)
        .collect();
    write_op(graph, name, op, &inputs, name, &shapes[id]);
}

/// Appends an operator on the f32 tensors `inputs`, whose result has this name and shape; its parameters are the graph's.
/// [`Op::Input`] is nothing.
pub(super) fn write_op(
    graph: &mut GraphProto,
    name: &str,
    op: &Op,
    inputs: &[&str],
    output: &str,
    shape: &[usize],
) {
    let x = inputs.first().copied().unwrap_or_default();
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
                let ones = vec![1.0; shape[0]];
                let name = format!("{name}/ones");
                let ones = constant(name.clone(), &[shape[0]], Elements::Floats(&ones));
                graph.initializer.push(ones);
                name
            });
            let inputs = [x.to_owned(), scale, bias.clone(), mean.clone(), var.clone()];
            (inputs.to_vec(), vec![float("epsilon", *epsilon)])
        }
        // Its bounds are operands.
        Op::Unary(Unary::Clip { min, max }) => {
            let mut inputs = vec![x.to_owned()];
            for (what, limit) in [("min", min), ("max", max)] {
                let limit_name = format!("{name}/{what}");
                let limit = constant(limit_name.clone(), &[], Elements::Floats(&[*limit]));
                graph.initializer.push(limit);
                inputs.push(limit_name);
            }
            (inputs, Vec::new())
        }
        Op::Binary(Binary::Add) => {
            let operands = inputs.iter().map(|name| (*name).to_owned());
            (operands.collect(), Vec::new())
        }
        Op::MaxPool(window) | Op::AveragePool(window) => {
            (vec![x.to_owned()], window_attributes(window))
        }
        Op::Unary(function) => {
            let attributes = function.attributes().into_iter();
            let attributes = attributes.map(|(name, value)| float(name, value));
            (vec![x.to_owned()], attributes.collect())
        }
        Op::GlobalAveragePool => (vec![x.to_owned()], Vec::new()),
        Op::Flatten => (vec![x.to_owned()], vec![int("axis", 1)]),
        Op::Slice { start, end, step } => {
            return slice(graph, name, x, [start, end, step], output);
        }
        Op::Pad { begin, end } => {
            let zero = format!("{name}/zero");
            let constant = constant(zero.clone(), &[], Elements::Floats(&[0.0]));
            graph.initializer.push(constant);
            let pads = [&[0], &**begin, &[0], end].concat();
            return pad(graph, name, x, &pads, &zero, output);
        }
    };
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    graph
        .node
        .push(node(name, op.name(), &inputs, output, attributes));
}

#[cfg(test)]
mod tests;
