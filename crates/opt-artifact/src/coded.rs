//! Parameters of an f32 model that are stored as integer codes.

use ndarray::{ArrayD, IxDyn};
use opt_core::codes::{pack, unpack};
use opt_core::{Dequantize, QuantizedTensor, Tensor};
use safetensors::Dtype;
use serde_json::Value;

use crate::Result;
use crate::container::{Container, Stored};
use crate::error::tensor_error;
use crate::metadata_json::{CodecJson, CodingJson, DecodeJson, coding};

/// The numbers of a coded parameter.
pub(crate) fn decode(name: &str, coded: &QuantizedTensor) -> Result<ArrayD<f32>> {
    coded
        .dequantize()
        .map_err(|e| tensor_error(name, e.to_string()))
}

/// The bytes of codes, row-major.
pub(crate) fn pack_codes(name: &str, codes: impl Iterator<Item = u8>, bits: u8) -> Result<Vec<u8>> {
    let codes: Vec<u8> = codes.collect();
    pack(&codes, bits).map_err(|e| tensor_error(name, e.to_string()))
}

/// Codes as they lie in memory.
#[derive(Debug, PartialEq)]
pub(crate) struct Codes {
    pub(crate) values: Vec<u8>,
    pub(crate) shape: Vec<usize>,
    pub(crate) bits: u8,
}

/// The codes of a tensor of bytes. Other codings get their place here.
pub(crate) fn decode_codes(name: &str, stored: &Stored<'_>, coding: CodingJson) -> Result<Codes> {
    match coding {
        CodingJson::Raw {} => Ok(Codes {
            values: stored.bytes.to_vec(),
            shape: stored.shape.clone(),
            bits: 8,
        }),
        CodingJson::Packed { bits, shape } => {
            let count = (shape.iter())
                .try_fold(1usize, |n, d| n.checked_mul(*d))
                .ok_or_else(|| {
                    tensor_error(name, format!("the shape {shape:?} does not fit memory"))
                })?;
            let values = unpack(&stored.bytes, bits, count)
                .map_err(|e| tensor_error(name, e.to_string()))?;
            Ok(Codes {
                values,
                shape,
                bits,
            })
        }
    }
}

/// Puts a coded parameter into the file, if it stands for exactly the numbers of `tensor`.
pub(crate) fn store(
    content: &mut Container<'_>,
    name: &str,
    coded: &QuantizedTensor,
    tensor: &Tensor,
) -> Result<CodecJson<CodingJson>> {
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
    let decode = match &coded.dequantize {
        Dequantize::Affine { scales, zero_point } => {
            content.insert_f32s(format!("{name}.scales"), &[scales.len()], scales)?;
            DecodeJson::Affine {
                zero_point: *zero_point,
            }
        }
        Dequantize::MinMax { min, step } => DecodeJson::MinMax {
            min: *min,
            step: *step,
        },
        Dequantize::Codebook(codebook) => {
            content.insert_f32s(format!("{name}.codebook"), &[codebook.len()], codebook)?;
            DecodeJson::Codebook
        }
    };
    let codes = CodingJson::Packed {
        bits: coded.bits,
        shape: coded.codes.shape().to_vec(),
    };
    Ok(CodecJson { codes, decode })
}

/// Takes a coded parameter out of the file.
pub(crate) fn fetch(
    content: &mut Container<'_>,
    name: &str,
    codec: CodecJson<Value>,
) -> Result<QuantizedTensor> {
    let CodecJson { codes, decode } = codec;
    let coding = coding(name, codes)?;
    let stored = content.take(&format!("{name}.codes"), Dtype::U8)?;
    let decode = match decode {
        DecodeJson::Affine { zero_point } => Dequantize::Affine {
            scales: content.take(&format!("{name}.scales"), Dtype::F32)?.f32s(),
            zero_point,
        },
        DecodeJson::MinMax { min, step } => Dequantize::MinMax { min, step },
        DecodeJson::Codebook => Dequantize::Codebook(
            content
                .take(&format!("{name}.codebook"), Dtype::F32)?
                .f32s(),
        ),
    };
    let Codes {
        values,
        shape,
        bits,
    } = decode_codes(name, &stored, coding)?;
    Ok(QuantizedTensor {
        codes: ArrayD::from_shape_vec(IxDyn(&shape), values)
            .map_err(|e| tensor_error(name, format!("shape {shape:?}: {e}")))?,
        bits,
        dequantize: decode,
    })
}
