//! Images that a file carries with what its network must answer, so that a program can check itself wherever it runs.
//!
//! ```text
//! golden.images  U8  [n, C, H, W]
//! golden.logits  F32 [n, outputs]      all outputs, one after another; every bit counts, or 1e-4 of the largest behind f32 operators
//! metadata       golden: {"codes_sha256":[HEX, …]}      per image
//! checksum       SHA-256 over the nodes in order: the number of codes as u64, little-endian, then the codes as bytes in
//!                [C, H, W] order. Nodes without codes, such as the logits, are eight zero bytes, and so are nodes behind f32
//!                operators, whose codes may differ between executors (`QModel::exact`).
//! ```

use opt_core::{InputSpec, QModel, interpret_quantized};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::container::Container;
use crate::error::{ArtifactError, tensor_error};
use crate::limits::check_golden_count;

const KEY: &str = "golden";
const IMAGES: &str = "golden.images";
const LOGITS: &str = "golden.logits";

/// Images with the answers of the integer network, as [`golden`] makes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    /// Bytes, `[n, C, H, W]`.
    pub images: Vec<u8>,
    /// `[n, outputs]`: all outputs of an image, one after another.
    pub logits: Vec<f32>,
    /// [`codes_sha256`] of each image: the codes of all nodes that are exact.
    pub codes_sha256: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldenJson {
    codes_sha256: Vec<String>,
}

/// Runs `images` through the integer reference interpreter.
///
/// ```
/// # use opt_core::{Activation, InputSpec, Output, Params, QModel, QNode, QOp, QWeight};
/// # let node = |name: &str, op, inputs: &[usize], scale: Option<f32>| QNode {
/// #     name: name.to_owned(), op, inputs: inputs.to_vec(),
/// #     activation: scale.map(|scale| Activation::new(scale, 0)),
/// # };
/// # let codes = ndarray::ArrayD::from_shape_vec(vec![1, 4], vec![1i8, 0, 0, -1])?;
/// # let weight = QWeight { codes, scales: vec![0.5], bits: 8 };
/// # let model = QModel {
/// #     nodes: vec![
/// #         node("input", QOp::Input, &[], Some(1.0)),
/// #         node("flat", QOp::Flatten, &[0], Some(1.0)),
/// #         node("head", QOp::Logits { weight, bias: vec![0] }, &[1], None),
/// #     ],
/// #     params: Params::new(),
/// #     outputs: vec![Output { node: 2, labels: vec!["a".into()] }],
/// #     input: InputSpec {
/// #         shape: [1, 2, 2], mean: vec![0.0], std: vec![1.0],
/// #         preparation: opt_core::Preparation::usual([1, 2, 2]),
/// #     },
/// # };
/// use opt_artifact::{golden, read_qmodel_with_golden, write_qmodel_with_golden};
///
/// let answers = golden(&model, &[9, 1, 1, 3])?; // one image of 2×2, and 0.5·(9 - 3)
/// assert_eq!(answers.logits, [3.0]);
/// let bytes = write_qmodel_with_golden(&model, &answers, &Default::default())?;
/// let (model, stored) = read_qmodel_with_golden(&bytes)?;
/// let stored = stored.expect("it was written");
/// for n in 0..stored.count() {
///     // In place of the interpreter, the program that is to be checked.
///     let trace = opt_core::interpret_quantized::run(&model, stored.image(n))?;
///     stored.check_codes(n, &model, trace.codes())?;
///     stored.check_logits(n, &model, &trace.outputs)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Shapes
///
/// `images` is `[n, C, H, W]`, flat, n from 1 to 1024.
///
/// # Errors
///
/// [`ArtifactError::Core`] for an unsound model, [`ArtifactError::Tensor`] for bytes that are not whole images.
pub fn golden(model: &QModel, images: &[u8]) -> Result<Golden> {
    model.validate()?;
    let size = image_size(&model.input);
    if !images.len().is_multiple_of(size) {
        return Err(tensor_error(
            IMAGES,
            format!("{} bytes, expected a multiple of {size}", images.len()),
        ));
    }
    check_golden_count(images.len() / size)?;
    let mut golden = Golden {
        images: images.to_vec(),
        logits: Vec::new(),
        codes_sha256: Vec::new(),
    };
    for image in images.chunks_exact(size) {
        let trace = interpret_quantized::run(model, image)?;
        let codes = exact_codes(model, trace.codes());
        golden.codes_sha256.push(codes_sha256(codes));
        golden.logits.extend(trace.outputs);
    }
    Ok(golden)
}

/// The checksum of the codes of all nodes for one image: in graph order, each with its length, as the module says.
///
/// ```
/// use opt_artifact::codes_sha256;
///
/// // Where a node ends matters.
/// assert_ne!(codes_sha256([&[1, 2][..], &[3]]), codes_sha256([&[1][..], &[2, 3]]));
/// ```
pub fn codes_sha256<'a>(codes: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut sha = Sha256::new();
    for codes in codes {
        sha.update((codes.len() as u64).to_le_bytes());
        sha.update(codes);
    }
    sha.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

impl Golden {
    /// The number of images.
    #[must_use]
    pub fn count(&self) -> usize {
        self.codes_sha256.len()
    }

    /// Image `n`, `[C, H, W]`.
    ///
    /// # Panics
    ///
    /// If `n` is not below [`Golden::count`].
    #[must_use]
    #[track_caller]
    pub fn image(&self, n: usize) -> &[u8] {
        part(&self.images, n, self.count())
    }

    /// The logits of image `n`.
    ///
    /// # Panics
    ///
    /// If `n` is not below [`Golden::count`].
    #[must_use]
    #[track_caller]
    pub fn logits(&self, n: usize) -> &[f32] {
        part(&self.logits, n, self.count())
    }

    /// Compares outputs with those of image `n`: bit by bit, and behind f32 operators within 1e-4 of the largest.
    ///
    /// # Errors
    ///
    /// [`ArtifactError::Golden`] with the first number that differs.
    ///
    /// # Panics
    ///
    /// If `n` is not below [`Golden::count`].
    #[track_caller]
    pub fn check_logits(&self, n: usize, model: &QModel, logits: &[f32]) -> Result<()> {
        let expected = self.logits(n);
        if logits.len() != expected.len() {
            let (found, expected) = (logits.len(), expected.len());
            return Err(self.differs(n, format!("{found} logits, expected {expected}")));
        }
        let exact = model.exact();
        let all_exact = model
            .outputs
            .iter()
            .all(|o| exact.get(o.node) == Some(&true));
        let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let differs = |(_, (a, b)): &(usize, (&f32, &f32))| {
            let near = !all_exact && (**a - **b).abs() <= 1e-4 * largest;
            a.to_bits() != b.to_bits() && !near
        };
        match logits.iter().zip(expected).enumerate().find(differs) {
            None => Ok(()),
            Some((class, (a, b))) => Err(self.differs(
                n,
                format!("the logit of class {class} is {a:?}, expected {b:?}"),
            )),
        }
    }

    /// Compares the codes of all nodes of `model` with those of image `n`, but for nodes behind f32 operators.
    ///
    /// # Errors
    ///
    /// [`ArtifactError::Golden`] if one of them differs; which, a checksum cannot say.
    ///
    /// # Panics
    ///
    /// If `n` is not below [`Golden::count`].
    #[track_caller]
    pub fn check_codes<'a>(
        &self,
        n: usize,
        model: &QModel,
        codes: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<()> {
        let found = codes_sha256(exact_codes(model, codes));
        let expected = &self.codes_sha256[n];
        if found == *expected {
            return Ok(());
        }
        Err(self.differs(
            n,
            format!("the checksum of its codes is {found}, expected {expected}"),
        ))
    }

    fn differs(&self, image: usize, problem: String) -> ArtifactError {
        ArtifactError::Golden {
            image,
            count: self.count(),
            problem,
        }
    }
}

/// The codes of each node, or none where executors may differ.
fn exact_codes<'a>(
    model: &QModel,
    codes: impl IntoIterator<Item = &'a [u8]>,
) -> impl Iterator<Item = &'a [u8]> {
    let pairs = codes.into_iter().zip(model.exact());
    pairs.map(|(codes, exact)| if exact { codes } else { &[] })
}

#[track_caller]
fn part<T>(all: &[T], n: usize, count: usize) -> &[T] {
    assert!(n < count, "image {n} of {count}");
    let size = all.len() / count;
    &all[n * size..][..size]
}

fn image_size(input: &InputSpec) -> usize {
    input.shape.iter().product()
}

/// Puts images and answers into the file.
pub(crate) fn store(content: &mut Container<'_>, model: &QModel, golden: &Golden) -> Result<()> {
    let Golden {
        images,
        logits,
        codes_sha256,
    } = golden;
    let [image_shape, logit_shape] = shapes(model, codes_sha256)?;
    for (name, found, shape) in [
        (IMAGES, images.len(), &image_shape),
        (LOGITS, logits.len(), &logit_shape),
    ] {
        let expected: usize = shape.iter().product();
        if found != expected {
            return Err(tensor_error(
                name,
                format!("{found} numbers, expected {expected} for {shape:?}"),
            ));
        }
    }
    content.insert(IMAGES.to_owned(), Dtype::U8, &image_shape, images.clone())?;
    content.insert_f32s(LOGITS.to_owned(), &logit_shape, logits)?;
    let json = GoldenJson {
        codes_sha256: codes_sha256.clone(),
    };
    content.set_json(KEY, &json)
}

/// Takes images and answers out of the file, if it has them. `model` was checked.
pub(crate) fn fetch(content: &mut Container<'_>, model: &QModel) -> Result<Option<Golden>> {
    if !content.metadata.contains_key(KEY) {
        return Ok(None);
    }
    let GoldenJson { codes_sha256 } = content.json(KEY)?;
    let [image_shape, logit_shape] = shapes(model, &codes_sha256)?;
    let mut take = |name, dtype, expected: &[usize]| {
        let stored = content.take(name, dtype)?;
        if stored.shape == expected {
            return Ok(stored);
        }
        Err(tensor_error(
            name,
            format!("shape {:?}, expected {expected:?}", stored.shape),
        ))
    };
    let images = take(IMAGES, Dtype::U8, &image_shape)?;
    let logits = take(LOGITS, Dtype::F32, &logit_shape)?;
    Ok(Some(Golden {
        images: images.bytes.into_owned(),
        logits: logits.f32s(),
        codes_sha256,
    }))
}

/// The shapes of images and logits, which follow from the number of checksums.
fn shapes(model: &QModel, codes_sha256: &[String]) -> Result<[Vec<usize>; 2]> {
    check_golden_count(codes_sha256.len())?;
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if let Some(wrong) = codes_sha256
        .iter()
        .find(|s| s.len() != 64 || !s.bytes().all(hex))
    {
        return Err(tensor_error(
            KEY,
            format!("the checksum `{wrong}`, expected 64 of 0-9 and a-f"),
        ));
    }
    let count = codes_sha256.len();
    let [c, h, w] = model.input.shape;
    let shapes = model.validate()?;
    let sizes = model
        .outputs
        .iter()
        .map(|o| shapes[o.node].iter().product::<usize>());
    Ok([vec![count, c, h, w], vec![count, sizes.sum()]])
}

#[cfg(test)]
mod tests;
