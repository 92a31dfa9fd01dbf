//! Checks an engine where it runs, against the images and answers that a file carries.

use opt_artifact::Golden;
use opt_core::QModel;
use opt_core::interpret_quantized::{Interpreter, Value};

use crate::{ImageOrder, Kernels, Options, Result, Session};

/// Runs the images of `golden` through `model` with `kernels` and compares every code of every value and every bit of the
/// logits with what the reference interpreter gave when the file was written. Returns the number of images.
///
/// ```no_run
/// let (model, golden) = opt_artifact::load_qmodel_with_golden("net.opt".as_ref())?;
/// if let Some(golden) = golden {
///     opt_infer::self_test(&model, &golden, opt_infer::Kernels::best())?;
/// }
/// # Ok::<(), opt_infer::InferError>(())
/// ```
///
/// # Errors
///
/// Those of [`Session::new`]; [`crate::InferError::Artifact`] names the first image that is answered otherwise.
pub fn self_test(model: &QModel, golden: &Golden, kernels: Kernels) -> Result<usize> {
    let options = Options {
        kernels: Some(kernels),
        order: ImageOrder::Chw,
        keep_codes: true,
        ..Options::default()
    };
    let mut session = Session::new(model, &options)?;
    for n in 0..golden.count() {
        let logits = session.run(golden.image(n))?.to_vec();
        let nodes = 0..model.nodes.len();
        let codes: Vec<Vec<u8>> = nodes
            .map(|id| session.codes(id).unwrap_or_default())
            .collect();
        golden.check_codes(n, model, codes.iter().map(Vec::as_slice))?;
        golden.check_logits(n, model, &logits)?;
    }
    Ok(golden.count())
}

/// How far an f32 value may be from the interpreter's, of the largest of its tensor: sums are in another order.
const NEAR: f32 = 1e-4;

/// Runs one image and compares every node's value with what `interpreter` gives for the session's own operands: codes must be
/// equal, f32 values within 1e-4 of the largest of theirs. Returns the index of the first node that differs. The session keeps its
/// values ([`Options::keep_codes`]) and is of the interpreter's network; logits that go to the caller at once are compared as
/// outputs, bit by bit.
///
/// # Errors
///
/// Those of [`Session::run`] and [`Interpreter::node`].
pub fn first_difference(
    session: &mut Session,
    model: &QModel,
    interpreter: &Interpreter<'_>,
    image: &[u8],
) -> Result<Option<usize>> {
    let outputs = session.run(image)?.to_vec();
    let mut first = 0;
    let mut at_once = std::collections::BTreeMap::new();
    for output in &model.outputs {
        let size: usize = interpreter.shapes()[output.node].iter().product();
        at_once.insert(output.node, &outputs[first..first + size]);
        first += size;
    }
    let mut values: Vec<Value> = Vec::with_capacity(model.nodes.len());
    for (id, node) in model.nodes.iter().enumerate() {
        let operands: Vec<&Value> = node.inputs.iter().map(|i| &values[*i]).collect();
        let expected = interpreter.node(id, image, &operands)?;
        let found = match (session.value(id), at_once.get(&id)) {
            (Some(value), _) => value,
            (None, Some(output)) => Value::Float(output.to_vec()),
            // What neither is kept nor is an output is not computed.
            (None, None) => expected.clone(),
        };
        let is_float_op = matches!(node.op, opt_core::QOp::Float(_));
        let equal = if is_float_op {
            near(found.floats(), expected.floats())
        } else {
            found == expected
        };
        if !equal {
            return Ok(Some(id));
        }
        values.push(found);
    }
    Ok(None)
}

fn near(found: &[f32], expected: &[f32]) -> bool {
    let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let mut pairs = found.iter().zip(expected);
    found.len() == expected.len()
        && pairs.all(|(a, b)| (a - b).abs() <= NEAR * largest || a.to_bits() == b.to_bits())
}
