//! Parameters of an f32 model that are stored as integer codes.

use opt_core::Tensor;
use safetensors::Dtype;

use crate::Result;
use crate::container::Container;
use crate::error::{ArtifactError, tensor_error};
use crate::graph_json::{CodecJson, DecodeJson, PackingJson};
use crate::packing::{pack, unpack};

const PACKED: &str = "packed";

/// A parameter as codes and what they mean.
#[derive(Debug, Clone, PartialEq)]
pub struct CodedParam {
    /// The shape of the parameter.
    pub shape: Vec<usize>,
    /// The width of a code, 1 to 8.
    pub bits: u8,
    /// One code per element, row-major, each below `2^bits`.
    pub codes: Vec<u8>,
    /// What the codes mean.
    pub decode: Decode,
}

/// What codes mean.
#[derive(Debug, Clone, PartialEq)]
pub enum Decode {
    /// `ŵ = scale · (code − zero_point)`, the difference exact, the product in f32.
    Affine {
        /// One scale, or one per index of axis 0.
        scales: Vec<f32>,
        /// The code of zero.
        zero_point: i32,
    },
    /// `ŵ = min + step · code`, computed in f64 and rounded to f32 at the end.
    MinMax {
        /// The number that code 0 stands for.
        min: f32,
        /// The distance of neighbouring codes.
        step: f32,
    },
    /// `ŵ = codebook[code]`.
    Codebook(Vec<f32>),
}

impl CodedParam {
    /// The numbers that the codes stand for, row-major.
    ///
    /// ```
    /// use opt_artifact::{CodedParam, Decode};
    ///
    /// let decode = Decode::Affine { scales: vec![0.5, 2.0], zero_point: 1 };
    /// let coded = CodedParam { shape: vec![2, 2], bits: 2, codes: vec![0, 1, 2, 3], decode };
    /// assert_eq!(coded.decode("fc.weight")?, [-0.5, 0.0, 2.0, 4.0]);
    /// # Ok::<(), opt_artifact::ArtifactError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ArtifactError::Tensor`] under the name `param` if the parts do not fit each other.
    pub fn decode(&self, param: &str) -> Result<Vec<f32>> {
        let Self {
            shape,
            bits,
            codes,
            decode,
        } = self;
        let fail = |problem: String| Err(tensor_error(param, problem));
        if !(1..=8).contains(bits) {
            return fail(format!("{bits} bits, expected 1 to 8"));
        }
        if element_count(shape) != Some(codes.len()) {
            return fail(format!("{} codes for shape {shape:?}", codes.len()));
        }
        if let Some(code) = codes.iter().find(|code| u16::from(**code) >> bits != 0) {
            return fail(format!("the code {code} does not fit {bits} bits"));
        }
        match decode {
            Decode::Affine { scales, zero_point } => {
                let channels = shape.first().copied().unwrap_or(1);
                if scales.len() != 1 && scales.len() != channels {
                    let n = scales.len();
                    return fail(format!(
                        "{n} scales, expected 1 or one for each of {channels} channels"
                    ));
                }
                let per_scale = (codes.len() / scales.len().max(1)).max(1);
                let scale = |i: usize| scales[i / per_scale];
                let centred = |code: u8| (i64::from(code) - i64::from(*zero_point)) as f32;
                Ok(codes
                    .iter()
                    .enumerate()
                    .map(|(i, code)| scale(i) * centred(*code))
                    .collect())
            }
            Decode::MinMax { min, step } => {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the one rounding that is documented"
                )]
                let value =
                    |code: &u8| (f64::from(*min) + f64::from(*step) * f64::from(*code)) as f32;
                Ok(codes.iter().map(value).collect())
            }
            Decode::Codebook(codebook) => {
                if codebook.is_empty() || codebook.len() > 1 << bits {
                    let n = codebook.len();
                    return fail(format!(
                        "a codebook of {n} numbers, expected 1 to {}",
                        1u16 << bits
                    ));
                }
                let value = |code: &u8| codebook.get(usize::from(*code)).copied();
                codes.iter().map(value).collect::<Option<_>>().map_or_else(
                    || {
                        fail(format!(
                            "a code is outside its codebook of {}",
                            codebook.len()
                        ))
                    },
                    Ok,
                )
            }
        }
    }
}

/// The number of elements of a shape; `None` on overflow.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

/// The coding of codes of this width and shape.
pub(crate) fn packing(bits: u8, shape: &[usize]) -> PackingJson {
    PackingJson {
        coding: PACKED.to_owned(),
        bits,
        shape: shape.to_vec(),
    }
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
    if !(1..=8).contains(bits) {
        return Err(tensor_error(name, format!("{bits} bits, expected 1 to 8")));
    }
    let count = element_count(shape)
        .ok_or_else(|| tensor_error(name, format!("the shape {shape:?} does not fit memory")))?;
    unpack(bytes, count, *bits).map_err(|problem| tensor_error(name, problem))
}

/// Puts a coded parameter into the file, if it stands for exactly the numbers of `tensor`.
pub(crate) fn store(
    content: &mut Container<'_>,
    name: &str,
    coded: &CodedParam,
    tensor: &Tensor,
) -> Result<CodecJson> {
    let decoded = coded.decode(name)?;
    if coded.shape != tensor.shape() {
        let (found, expected) = (&coded.shape, tensor.shape());
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
    let bytes = pack(coded.codes.iter().copied(), coded.bits);
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
    let codes = packing(coded.bits, &coded.shape);
    Ok(CodecJson { codes, decode })
}

/// Takes a coded parameter out of the file.
pub(crate) fn fetch(
    content: &mut Container<'_>,
    name: &str,
    codec: CodecJson,
) -> Result<CodedParam> {
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
    Ok(CodedParam {
        codes: decode_codes(name, &stored.bytes, &codes)?,
        bits: codes.bits,
        shape: codes.shape,
        decode,
    })
}
