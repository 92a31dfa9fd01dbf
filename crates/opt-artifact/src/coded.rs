//! Parameters of an f32 model that are stored as integer codes.

use ndarray::{ArrayD, IxDyn};
use opt_core::codes::{pack, unpack};
use opt_core::{CodedTensor, Decode, Tensor};
use safetensors::Dtype;

use crate::Result;
use crate::container::Container;
use crate::error::{ArtifactError, tensor_error};
use crate::graph_json::{CodecJson, DecodeJson, PackingJson};

const PACKED: &str = "packed";

/// The coding of codes of this width and shape.
pub(crate) fn packing(bits: u8, shape: &[usize]) -> PackingJson {
    PackingJson {
        coding: PACKED.to_owned(),
        bits,
        shape: shape.to_vec(),
    }
}

/// The numbers of a coded parameter.
pub(crate) fn decode(name: &str, coded: &CodedTensor) -> Result<ArrayD<f32>> {
    coded
        .decode()
        .map_err(|e| tensor_error(name, e.to_string()))
}

/// The bytes of codes, row-major.
pub(crate) fn pack_codes(name: &str, codes: impl Iterator<Item = u8>, bits: u8) -> Result<Vec<u8>> {
    let codes: Vec<u8> = codes.collect();
    pack(&codes, bits).map_err(|e| tensor_error(name, e.to_string()))
}

/// The codes of a tensor of bytes. Other codings than `packed` get their place here.
pub(crate) fn decode_codes(name: &str, bytes: &[u8], packing: &PackingJson) -> Result<Vec<u8>> {
    let PackingJson {
        coding,
        bits,
        shape,
    } = packing;
    if coding != PACKED {
        return Err(ArtifactError::UnknownCoding {
            tensor: name.to_owned(),
            coding: coding.clone(),
        });
    }
    let count = (shape.iter())
        .try_fold(1usize, |n, d| n.checked_mul(*d))
        .ok_or_else(|| tensor_error(name, format!("the shape {shape:?} does not fit memory")))?;
    unpack(bytes, *bits, count).map_err(|e| tensor_error(name, e.to_string()))
}

/// Puts a coded parameter into the file, if it stands for exactly the numbers of `tensor`.
pub(crate) fn store(
    content: &mut Container<'_>,
    name: &str,
    coded: &CodedTensor,
    tensor: &Tensor,
) -> Result<CodecJson> {
    let decoded = decode(name, coded)?;
    if decoded.shape() != tensor.shape() {
        let (found, expected) = (decoded.shape(), tensor.shape());
        return Err(tensor_error(
            name,
            format!("codes of shape {found:?}, expected {expected:?}"),
        ));
    }
    if let Some((i, (code, value))) = decoded
        .iter()
        .zip(tensor.iter())
        .enumerate()
        .find(|(_, (a, b))| a != b)
    {
        return Err(tensor_error(
            name,
            format!(
                "element {i} is {value} in the model but {code} decoded; put the decoded numbers into the model and measure that"
            ),
        ));
    }
    let bytes = pack_codes(name, coded.codes.iter().copied(), coded.bits)?;
    content.insert(format!("{name}.codes"), Dtype::U8, &[bytes.len()], bytes)?;
    let decode = match &coded.decode {
        Decode::Affine { scales, zero_point } => {
            content.insert_f32s(format!("{name}.scales"), &[scales.len()], scales)?;
            DecodeJson::Affine {
                zero_point: *zero_point,
            }
        }
        Decode::MinMax { min, step } => DecodeJson::MinMax {
            min: *min,
            step: *step,
        },
        Decode::Codebook(codebook) => {
            content.insert_f32s(format!("{name}.codebook"), &[codebook.len()], codebook)?;
            DecodeJson::Codebook
        }
    };
    let codes = packing(coded.bits, coded.codes.shape());
    Ok(CodecJson { codes, decode })
}

/// Takes a coded parameter out of the file.
pub(crate) fn fetch(
    content: &mut Container<'_>,
    name: &str,
    codec: CodecJson,
) -> Result<CodedTensor> {
    let CodecJson { codes, decode } = codec;
    let stored = content.take(&format!("{name}.codes"), Dtype::U8)?;
    let decode = match decode {
        DecodeJson::Affine { zero_point } => Decode::Affine {
            scales: content.take(&format!("{name}.scales"), Dtype::F32)?.f32s(),
            zero_point,
        },
        DecodeJson::MinMax { min, step } => Decode::MinMax { min, step },
        DecodeJson::Codebook => Decode::Codebook(
            content
                .take(&format!("{name}.codebook"), Dtype::F32)?
                .f32s(),
        ),
    };
    let values = decode_codes(name, &stored.bytes, &codes)?;
    let PackingJson { bits, shape, .. } = codes;
    Ok(CodedTensor {
        codes: ArrayD::from_shape_vec(IxDyn(&shape), values)
            .map_err(|e| tensor_error(name, format!("shape {shape:?}: {e}")))?,
        bits,
        decode,
    })
}
