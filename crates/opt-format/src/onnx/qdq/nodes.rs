//! One node of the integer network as nodes of the graph.

use ndarray::Axis;
use opt_core::Op;
use opt_core::op::Window;
use opt_core::qmodel::{QModel, QNode, QOp, QWeight};

use crate::Result;
use crate::onnx::file::refuse;
use crate::onnx::float::write_op;
use crate::onnx::message::{Elements, constant, int, node, pad, slice, window_attributes};
use crate::onnx::proto::{AttributeProto, GraphProto};

/// The name of the graph's f32 output where it has one. Several outputs have the names of their nodes. They come first among the
/// outputs.
pub const LOGITS: &str = "logits";

/// Appends what `model.nodes[id]` computes. Its value has the name [`tensor`].
pub(super) fn write_node(
    graph: &mut GraphProto,
    model: &QModel,
    id: usize,
    shape: &[usize],
    padded_input: bool,
) -> Result<()> {
    let QNode {
        name,
        op,
        inputs,
        activation,
    } = &model.nodes[id];
    let x = inputs.first().map_or("", |&i| tensor(model, i));
    let y = tensor(model, id);
    write_meaning(graph, model, id);
    let limits = activation.as_ref().map_or((0, u8::MAX), |y| (y.lo, y.hi));
    let unrounded = format!("{name}/unrounded");
    match op {
        QOp::Input => {}
        QOp::Conv {
            weight,
            bias,
            window,
            group,
        } => {
            let bias = bias.clone();
            conv(
                graph,
                model,
                id,
                (weight, bias),
                *window,
                *group,
                padded_input,
            )?;
            quantize(graph, name, &unrounded, limits);
        }
        QOp::Gemm { weight, bias } => {
            gemm(graph, model, id, (weight, bias), &unrounded);
            quantize(graph, name, &unrounded, limits);
        }
        QOp::Logits { weight, bias } => gemm(graph, model, id, (weight, bias), y),
        QOp::Add => {
            let [a, b] = [0, 1].map(|i| {
                let source = inputs[i];
                dequantize(graph, tensor(model, source), meaning_of(model, source))
            });
            graph
                .node
                .push(node(name, "Add", &[&a, &b], &unrounded, Vec::new()));
            quantize(graph, name, &unrounded, limits);
        }
        QOp::Table { function, .. } => {
            let x = dequantize(graph, x, meaning_of(model, inputs[0]));
            write_op(graph, name, &Op::Unary(*function), &[&x], &unrounded, shape);
            quantize(graph, name, &unrounded, limits);
        }
        QOp::AveragePool(window) => {
            let attributes = window_attributes(window);
            mean(graph, model, id, attributes, limits);
        }
        QOp::GlobalAveragePool => mean(graph, model, id, Vec::new(), limits),
        QOp::MaxPool(window) => {
            let attributes = window_attributes(window);
            graph
                .node
                .push(node(name, "MaxPool", &[x], name, attributes));
        }
        QOp::Flatten => {
            let attributes = vec![int("axis", 1)];
            graph
                .node
                .push(node(name, "Flatten", &[x], name, attributes));
        }
        QOp::Slice { start, end, step } => slice(graph, name, x, [start, end, step], name),
        QOp::Pad { begin, end } => {
            let pads = [&[0], &**begin, &[0], end].concat();
            let zero = zero_point(meaning_of(model, id));
            pad(graph, name, x, &pads, &zero, name);
        }
        QOp::Clamp => clip(graph, name, x, limits),
        QOp::Quantize => quantize(graph, name, x, limits),
        QOp::Dequantize if inputs[0] == 0 => dequantize_image(graph, model, name, y),
        QOp::Dequantize => {
            let source = meaning_of(model, inputs[0]);
            let inputs = [x, &scale(source), &zero_point(source)];
            graph
                .node
                .push(node(name, "DequantizeLinear", &inputs, y, Vec::new()));
        }
        QOp::Float(op) => {
            let inputs: Vec<&str> = inputs.iter().map(|&i| tensor(model, i)).collect();
            write_op(graph, name, op, &inputs, y, shape);
        }
    }
    Ok(())
}

/// Appends the scale and the zero point of a node's codes, where they are its own.
fn write_meaning(graph: &mut GraphProto, model: &QModel, id: usize) {
    let QNode {
        name,
        op,
        activation,
        ..
    } = &model.nodes[id];
    if let Some(activation) = activation
        && !op.keeps_codes()
    {
        let shifted = *op == QOp::Input && !zeros_are_equal(model);
        let zero = if shifted {
            0
        } else {
            activation.zero_points[0]
        };
        graph.initializer.extend([
            constant(scale(name), &[], Elements::Floats(&[activation.scale])),
            constant(zero_point(name), &[], Elements::Bytes(&[zero])),
        ]);
    }
}

/// The name of a node's value in the file: the node's, but for a network's only output.
pub(super) fn tensor(model: &QModel, id: usize) -> &str {
    match model.outputs.as_slice() {
        [output] if output.node == id => LOGITS,
        _ => &model.nodes[id].name,
    }
}

/// A convolution without its one rounding. Of the image it takes the zero points of each channel in, and where the image is not
/// padded already, their padding.
fn conv(
    graph: &mut GraphProto,
    model: &QModel,
    id: usize,
    (weight, mut bias): (&QWeight, Vec<i32>),
    mut window: Window,
    group: usize,
    padded_input: bool,
) -> Result<()> {
    let QNode { name, inputs, .. } = &model.nodes[id];
    if inputs.len() == 2 {
        let problem = "it adds a residual before its one rounding, for which QDQ has no form; \
                       lower the network with ResidualAdd::Explicit";
        return Err(refuse(name, problem));
    }
    let mut x = tensor(model, inputs[0]).to_owned();
    if inputs[0] == 0 && (padded_input || !zeros_are_equal(model)) {
        if !padded_input && window.pads != [0; 4] {
            x = pad_by_channel(graph, model, name, &window);
        }
        window.pads = [0; 4];
    }
    if inputs[0] == 0 && !zeros_are_equal(model) {
        take_in_zeros(&mut bias, weight, &zeros(model), group);
    }
    let x = dequantize(graph, &x, meaning_of(model, inputs[0]));
    let [w, b] = parameters(graph, model, id, weight, &bias);
    let mut attributes = window_attributes(&window);
    attributes.push(int("group", group));
    let y = format!("{name}/unrounded");
    graph
        .node
        .push(node(name, "Conv", &[&*x, &w, &b], &y, attributes));
    Ok(())
}

/// A mean under windows or over everything.
fn mean(
    graph: &mut GraphProto,
    model: &QModel,
    id: usize,
    attributes: Vec<AttributeProto>,
    limits: (u8, u8),
) {
    let QNode {
        name, op, inputs, ..
    } = &model.nodes[id];
    let x = tensor(model, inputs[0]);
    let x = dequantize(graph, x, meaning_of(model, inputs[0]));
    let unrounded = format!("{name}/unrounded");
    graph
        .node
        .push(node(name, op.name(), &[&x], &unrounded, attributes));
    quantize(graph, name, &unrounded, limits);
}

/// The numbers of the image's bytes, whose channels have zero points of their own.
fn dequantize_image(graph: &mut GraphProto, model: &QModel, name: &str, output: &str) {
    let zeros = zeros(model);
    let scale_of = model.nodes[0].activation.as_ref().map_or(1.0, |a| a.scale);
    graph.initializer.extend([
        constant(
            scale(name),
            &[zeros.len()],
            Elements::Floats(&vec![scale_of; zeros.len()]),
        ),
        constant(zero_point(name), &[zeros.len()], Elements::Bytes(&zeros)),
    ]);
    let inputs = [&*model.nodes[0].name, &scale(name), &zero_point(name)];
    let axis = vec![int("axis", 1)];
    graph
        .node
        .push(node(name, "DequantizeLinear", &inputs, output, axis));
}

fn gemm(
    graph: &mut GraphProto,
    model: &QModel,
    id: usize,
    (weight, bias): (&QWeight, &[i32]),
    output: &str,
) {
    let QNode { name, inputs, .. } = &model.nodes[id];
    let x = tensor(model, inputs[0]);
    let x = dequantize(graph, x, meaning_of(model, inputs[0]));
    let [w, b] = parameters(graph, model, id, weight, bias);
    let attributes = vec![int("transB", 1)];
    graph
        .node
        .push(node(name, "Gemm", &[&x, &w, &b], output, attributes));
}

/// Writes codes and biases as constants and returns the names of the numbers that they stand for.
fn parameters(
    graph: &mut GraphProto,
    model: &QModel,
    id: usize,
    weight: &QWeight,
    bias: &[i32],
) -> [String; 2] {
    let QNode { name, inputs, .. } = &model.nodes[id];
    let x_scale = model.nodes[inputs[0]]
        .activation
        .as_ref()
        .map_or(1.0, |a| a.scale);
    let n = bias.len();
    let codes: Vec<i8> = weight.codes.iter().copied().collect();
    let bias_scales: Vec<f32> = weight.scales.iter().map(|s| x_scale * s).collect();
    let of = |what: &str| format!("{name}/{what}");
    let [w, b] = [of("weight"), of("bias")];
    graph.initializer.extend([
        constant(w.clone(), weight.codes.shape(), Elements::Codes(&codes)),
        constant(scale(&w), &[n], Elements::Floats(&weight.scales)),
        constant(zero_point(&w), &[n], Elements::Codes(&vec![0; n])),
        constant(b.clone(), &[n], Elements::Ints(bias)),
        constant(scale(&b), &[n], Elements::Floats(&bias_scales)),
        constant(zero_point(&b), &[n], Elements::Ints(&vec![0; n])),
    ]);
    [w, b].map(|tensor| {
        let output = format!("{tensor}/dequantized");
        let inputs = [&*tensor, &scale(&tensor), &zero_point(&tensor)];
        let axis = vec![int("axis", 0)];
        graph
            .node
            .push(node(&*output, "DequantizeLinear", &inputs, &output, axis));
        output
    })
}

/// The numbers that the codes in `tensor` stand for, one node for all that read them; `meaning` is the node that has their
/// scale.
fn dequantize(graph: &mut GraphProto, tensor: &str, meaning: &str) -> String {
    let output = format!("{tensor}/dequantized");
    if !graph.node.iter().any(|n| n.output[0] == output) {
        let inputs = [tensor, &scale(meaning), &zero_point(meaning)];
        graph.node.push(node(
            &*output,
            "DequantizeLinear",
            &inputs,
            &output,
            Vec::new(),
        ));
    }
    output
}

/// Rounds a tensor to the codes of the node `name`.
fn quantize(graph: &mut GraphProto, name: &str, unrounded: &str, limits: (u8, u8)) {
    let saturates = limits == (0, u8::MAX);
    let codes = if saturates {
        name.to_owned()
    } else {
        format!("{name}/unlimited")
    };
    let inputs = [unrounded, &scale(name), &zero_point(name)];
    graph.node.push(node(
        format!("{name}/quantized"),
        "QuantizeLinear",
        &inputs,
        &codes,
        Vec::new(),
    ));
    if !saturates {
        clip(graph, name, &codes, limits);
    }
}

/// Limits codes. Behind `QuantizeLinear` it is the limit before it: both saturate.
fn clip(graph: &mut GraphProto, name: &str, codes: &str, (lo, hi): (u8, u8)) {
    let [min, max] = [("min", lo), ("max", hi)].map(|(what, limit)| {
        let limit_name = format!("{name}/{what}");
        let limit = constant(limit_name.clone(), &[], Elements::Bytes(&[limit]));
        graph.initializer.push(limit);
        limit_name
    });
    graph.node.push(node(
        format!("{name}/limited"),
        "Clip",
        &[codes, &min, &max],
        name,
        Vec::new(),
    ));
}

/// Puts each channel's own zero point around the image, for the convolution `name`.
fn pad_by_channel(graph: &mut GraphProto, model: &QModel, name: &str, window: &Window) -> String {
    let zeros = zeros(model);
    let [top, left, bottom, right] = window.pads;
    let pads = [0, 0, top, left, 0, 0, bottom, right];
    let planes: Vec<String> = (0..zeros.len())
        .map(|c| format!("{name}/plane{c}"))
        .collect();
    let image = &*model.nodes[0].name;
    let mut split = node(
        format!("{name}/planes"),
        "Split",
        &[image],
        "",
        vec![int("axis", 1)],
    );
    split.output.clone_from(&planes);
    graph.node.push(split);
    let mut padded = Vec::with_capacity(planes.len());
    for (plane, zero) in planes.iter().zip(zeros) {
        let byte = zero_point(plane);
        graph
            .initializer
            .push(constant(byte.clone(), &[], Elements::Bytes(&[zero])));
        let output = format!("{plane}/padded");
        pad(graph, &output, plane, &pads, &byte, &output);
        padded.push(output);
    }
    let output = format!("{name}/padded");
    let planes: Vec<&str> = padded.iter().map(String::as_str).collect();
    let axis = vec![int("axis", 1)];
    graph
        .node
        .push(node(&*output, "Concat", &planes, &output, axis));
    output
}

/// Makes a bias for codes whose zero point is 0 from one for `zeros`; what `QModel::validate` bounds, it bounds too.
fn take_in_zeros(bias: &mut [i32], weight: &QWeight, zeros: &[u8], group: usize) {
    let out_per_group = bias.len() / group;
    let in_per_group = zeros.len() / group;
    for (o, (bias, filter)) in bias.iter_mut().zip(weight.codes.outer_iter()).enumerate() {
        let first = o / out_per_group * in_per_group;
        for (zero, plane) in zeros[first..].iter().zip(filter.axis_iter(Axis(0))) {
            *bias -= i32::from(*zero) * plane.iter().map(|&w| i32::from(w)).sum::<i32>();
        }
    }
}

/// The zero points of the image, one per channel.
pub(super) fn zeros(model: &QModel) -> Vec<u8> {
    let channels = model.input.shape[0];
    let zeros = model.nodes[0].activation.as_ref().map(|e| &e.zero_points);
    match zeros.map(Vec::as_slice) {
        Some([zero]) => vec![*zero; channels],
        Some(zeros) => zeros.to_vec(),
        None => vec![0; channels],
    }
}

fn zeros_are_equal(model: &QModel) -> bool {
    zeros(model).windows(2).all(|pair| pair[0] == pair[1])
}

/// The node that has the scale and the zero point of the codes of `id`.
fn meaning_of(model: &QModel, mut id: usize) -> &str {
    while model.nodes[id].op.keeps_codes() {
        id = model.nodes[id].inputs[0];
    }
    &model.nodes[id].name
}

fn scale(tensor: &str) -> String {
    format!("{tensor}/scale")
}

fn zero_point(tensor: &str) -> String {
    format!("{tensor}/zero_point")
}
