//! Making messages: nodes, attributes, constants and types from Rust values.

use opt_core::op::Window;

use super::proto::{
    AttributeProto, AttributeType, DataType, Dimension, DimensionValue, GraphProto, NodeProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// The elements of a constant.
#[derive(Debug, Clone, Copy)]
pub(in crate::onnx) enum Elements<'a> {
    /// f32.
    Floats(&'a [f32]),
    /// u8.
    Bytes(&'a [u8]),
    /// i8.
    Codes(&'a [i8]),
    /// i32.
    Ints(&'a [i32]),
    /// i64.
    Longs(&'a [i64]),
}

pub(in crate::onnx) fn constant(
    name: String,
    dims: &[usize],
    elements: Elements<'_>,
) -> TensorProto {
    let (data_type, raw_data) = match elements {
        Elements::Floats(x) => (
            DataType::Float,
            x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ),
        Elements::Bytes(x) => (DataType::Uint8, x.to_vec()),
        Elements::Codes(x) => (
            DataType::Int8,
            x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ),
        Elements::Ints(x) => (
            DataType::Int32,
            x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ),
        Elements::Longs(x) => (
            DataType::Int64,
            x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ),
    };
    TensorProto {
        name,
        dims: longs(dims),
        data_type: data_type.into(),
        raw_data,
        ..TensorProto::default()
    }
}

pub(in crate::onnx) fn node(
    name: impl Into<String>,
    op_type: &str,
    inputs: &[&str],
    output: &str,
    attributes: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        name: name.into(),
        op_type: op_type.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: attributes,
        domain: String::new(),
    }
}

pub(in crate::onnx) fn int(name: &str, value: usize) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int.into(),
        i: Some(long(value)),
        ..AttributeProto::default()
    }
}

pub(in crate::onnx) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints.into(),
        ints: longs(values),
        ..AttributeProto::default()
    }
}

/// A tensor of the graph's inputs or outputs: `shape` behind a batch axis, which is called `N` where it has no length.
pub(in crate::onnx) fn value(
    name: &str,
    data_type: DataType,
    batch: Option<usize>,
    shape: &[usize],
    doc_string: &str,
) -> ValueInfoProto {
    let first = batch.map_or_else(
        || DimensionValue::Named("N".to_owned()),
        |n| DimensionValue::Fixed(long(n)),
    );
    let rest = shape.iter().map(|&n| DimensionValue::Fixed(long(n)));
    let dim = std::iter::once(first)
        .chain(rest)
        .map(|value| Dimension { value: Some(value) })
        .collect();
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: data_type.into(),
                shape: Some(TensorShapeProto { dim }),
            }),
        }),
        doc_string: doc_string.to_owned(),
    }
}

/// Sizes of networks that were validated lie far below the limit.
pub(in crate::onnx) fn long(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(in crate::onnx) fn longs(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&value| long(value)).collect()
}

pub(in crate::onnx) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Float.into(),
        f: Some(value),
        ..AttributeProto::default()
    }
}

pub(in crate::onnx) fn window_attributes(window: &Window) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", &window.kernel),
        ints("pads", &window.pads),
        ints("strides", &window.stride),
    ]
}

fn index_constant(graph: &mut GraphProto, name: &str, what: &str, values: &[usize]) -> String {
    let full = format!("{name}/{what}");
    graph.initializer.push(constant(
        full.clone(),
        &[values.len()],
        Elements::Longs(&longs(values)),
    ));
    full
}

pub(in crate::onnx) fn pad(
    graph: &mut GraphProto,
    name: &str,
    x: &str,
    pads: &[usize],
    byte: &str,
    output: &str,
) {
    let pads = index_constant(graph, name, "pads", pads);
    graph
        .node
        .push(node(name, "Pad", &[x, &pads, byte], output, Vec::new()));
}

/// Cuts behind the batch axis; `bounds` are start, end and step.
pub(in crate::onnx) fn slice(
    graph: &mut GraphProto,
    name: &str,
    x: &str,
    bounds: [&[usize]; 3],
    output: &str,
) {
    let axes: Vec<usize> = (1..=bounds[0].len()).collect();
    let [starts, ends, steps] = bounds;
    let inputs = [
        ("starts", starts),
        ("ends", ends),
        ("axes", &axes),
        ("steps", steps),
    ];
    let [starts, ends, axes, steps] =
        inputs.map(|(what, values)| index_constant(graph, name, what, values));
    let inputs = [x, &starts, &ends, &axes, &steps];
    graph
        .node
        .push(node(name, "Slice", &inputs, output, Vec::new()));
}
