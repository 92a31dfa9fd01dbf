//! Writing an integer network as a QDQ graph that ONNX Runtime fuses into integer kernels.

mod nodes;

use opt_core::op::Window;
use opt_core::qmodel::{QModel, QOp};
use opt_core::{CoreError, InputSpec};

use super::file::{check_batch, file, refuse};
use super::float::write_params;
use super::message::value;
use super::proto::{DataType, GraphProto};
use crate::{FormatError, Result};

pub use nodes::LOGITS;

/// How a network is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QdqOptions {
    /// The number of images of a run; `None` leaves it open.
    pub batch: Option<usize>,
    /// Whether the graph is fed images that [`padded_image`] has padded already, so that the nodes that pad are absent.
    ///
    /// Benchmarks use this: ONNX Runtime's convolution pads with one byte for all channels, so that other padding costs it
    /// nodes of their own, for which a comparison should not charge it.
    pub padded_input: bool,
    /// Whether the codes of every node are outputs too, under the node's name, for comparisons.
    pub all_codes: bool,
}

/// Writes a quantized network as ONNX: f32 operators between `DequantizeLinear` and `QuantizeLinear`, with the codes, scales
/// and zero points of `model`.
///
/// ```text
/// image       uint8 [N, C, H, W]
/// Conv, Gemm  DQ(x), DQ(int8 codes, axis 0), DQ(int32 bias, s_x·s_w) → Conv → Q [→ Clip of the codes]
/// Add, means  DQ → Add, AveragePool, GlobalAveragePool → Q
/// others      MaxPool, Flatten, Slice, Pad, Clip on the codes themselves
/// logits      Gemm without Q: f32 [N, classes]
/// Table       DQ → its function → Q
/// f32 values  between DQ and Q, with their parameters as they are
/// ```
///
/// A ReLU at zero point 0 is the saturation of `Q`. Other limits are a `Clip` of codes behind `Q`: the same function, and
/// one that leaves the convolution an integer kernel, which a Clip before `Q` would not.
///
/// ONNX Runtime fuses zero points per tensor only, while the image has one per channel. Where these differ, the image is
/// written with zero point 0, the convolution's bias takes `-Σ z_c·w` in and the padding, which is `z_c`, becomes explicit.
///
/// # Agreement
///
/// ONNX Runtime 1.32 runs all of it on integer kernels, and a convolution, a Gemm, the logits and whatever moves codes give
/// the interpreter's numbers exactly. Its additions and means take the zero points into one constant before rounding: at a tie,
/// or within a few millionths of one, their code can differ by one, and in a deep network others follow. With scales for which
/// sums are exact in f32, as `opt-quant` chooses them for explicit residual additions, all codes of a trained ResNet-20 are equal;
/// `cargo xtask verify` counts. On x86 without VNNI its products can saturate at 16 bits, and then nothing of this holds.
///
/// # Form
///
/// The same network gives the same bytes. Weights narrower than 8 bits are written as int8. `metadata_props` holds
/// `labels`, a JSON array with those of the first output.
///
/// ```
/// use opt_format::onnx::{QdqOptions, write_qdq};
/// # use opt_core::qmodel::{Activation, QModel, QNode, QOp, QWeight};
/// # let byte = |scale| Some(Activation::new(scale, 0));
/// # let weight = QWeight { codes: ndarray::ArrayD::ones(vec![2, 4]), scales: vec![0.5, 0.25], bits: 8 };
/// # let node = |name: &str, op, inputs, activation| QNode { name: name.into(), op, inputs, activation };
/// # let model = QModel {
/// #     nodes: vec![
/// #         node("input", QOp::Input, vec![], byte(1.0)),
/// #         node("flatten", QOp::Flatten, vec![0], byte(1.0)),
/// #         node("linear", QOp::Logits { weight, bias: vec![3, -3] }, vec![1], None),
/// #     ],
/// #     params: opt_core::Params::new(),
/// #     outputs: vec![opt_core::Output { node: 2, labels: vec!["cat".into(), "dog".into()] }],
/// #     input: opt_core::InputSpec {
/// #         shape: [1, 2, 2], mean: vec![0.0], std: vec![1.0],
/// #         preparation: opt_core::Preparation::usual([1, 2, 2]),
/// #     },
/// # };
/// let bytes = write_qdq(&model, &QdqOptions::default())?;
/// let file: opt_format::onnx::proto::ModelProto = prost::Message::decode(&*bytes)?;
/// let ops: Vec<_> = file.graph.unwrap_or_default().node.into_iter().map(|n| n.op_type).collect();
/// let dequantize = "DequantizeLinear";
/// assert_eq!(ops, ["Flatten", dequantize, dequantize, dequantize, "Gemm"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`FormatError::Core`] for an unsound network; [`FormatError::Onnx`] for a residual that is added before the
/// convolution's one rounding, for names that are empty or collide, for a batch of 0, for `padded_input` where other nodes
/// than one convolution read the image, and for more than protobuf's 2 GiB.
pub fn write_qdq(model: &QModel, options: &QdqOptions) -> Result<Vec<u8>> {
    let shapes = model.validate()?;
    check_batch(options.batch)?;
    let mut input_shape = shapes[0].clone();
    if options.padded_input {
        let [top, left, bottom, right] = stem(model)?.pads;
        input_shape[1] += top + bottom;
        input_shape[2] += left + right;
    }
    let mut graph = GraphProto {
        name: "opt".to_owned(),
        ..GraphProto::default()
    };
    let image = &model.nodes[0];
    let padded = if options.padded_input {
        ", padded already"
    } else {
        ""
    };
    graph.input = vec![value(
        &image.name,
        DataType::Uint8,
        options.batch,
        &input_shape,
        &format!("bytes 0 to 255 as they are in the image, not normalised{padded}"),
    )];
    for output in &model.outputs {
        let (name, shape) = (nodes::tensor(model, output.node), &shapes[output.node]);
        let output = value(name, DataType::Float, options.batch, shape, "");
        graph.output.push(output);
    }
    write_params(&mut graph, &model.params);
    for (id, node) in model.nodes.iter().enumerate() {
        nodes::write_node(&mut graph, model, id, &shapes[id], options.padded_input)?;
        if options.all_codes && id > 0 && node.activation.is_some() {
            let (name, shape) = (&node.name, &shapes[id]);
            let output = value(name, DataType::Uint8, options.batch, shape, "");
            graph.output.push(output);
        }
    }
    file(graph, model.labels())
}

/// The image that a graph with [`QdqOptions::padded_input`] is fed: bytes `[C, H, W]` with the stem's padding around them,
/// each channel's own zero point.
///
/// # Errors
///
/// As [`write_qdq`] with that option; [`FormatError::Core`] if `image` is not one image.
pub fn padded_image(model: &QModel, image: &[u8]) -> Result<Vec<u8>> {
    model.validate()?;
    let InputSpec {
        shape: [channels, height, width],
        ..
    } = model.input;
    if image.len() != channels * height * width {
        return Err(FormatError::Core(CoreError::Length {
            what: "one image".to_owned(),
            found: image.len(),
            expected: channels * height * width,
        }));
    }
    let [top, left, bottom, right] = stem(model)?.pads;
    let row = left + width + right;
    let mut padded = Vec::with_capacity(channels * (top + height + bottom) * row);
    for (plane, zero) in image.chunks_exact(height * width).zip(nodes::zeros(model)) {
        padded.resize(padded.len() + top * row, zero);
        for pixels in plane.chunks_exact(width) {
            padded.resize(padded.len() + left, zero);
            padded.extend_from_slice(pixels);
            padded.resize(padded.len() + right, zero);
        }
        padded.resize(padded.len() + bottom * row, zero);
    }
    Ok(padded)
}

/// The one convolution that reads the image.
fn stem(model: &QModel) -> Result<Window> {
    let mut readers = model.nodes.iter().filter(|n| n.inputs.contains(&0));
    if let (Some(QOp::Conv { window, .. }), None) = (readers.next().map(|n| &n.op), readers.next())
    {
        return Ok(*window);
    }
    Err(refuse(
        "padded_input",
        "the image must be read by one convolution and nothing else; leave it out",
    ))
}

#[cfg(test)]
mod tests;
