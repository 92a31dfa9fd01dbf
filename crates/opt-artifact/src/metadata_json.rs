//! The input and the codings as JSON, minified.
//!
//! ```text
//! input           {"layout":"CHW", "dtype":"u8", "shape":[3,32,32], "mean":[…], "std":[…], "labels":[…]}
//! codec (model)   {PARAMETER: {"codes":CODING, "decode":DECODE}, …}
//! codec (qmodel)  {"NODE.weight": CODING, …}
//! CODING          {"coding":"raw"}                                       one code per byte, in the tensor's shape
//!                 {"coding":"packed", "bits":4, "shape":[16,3,3,3]}      low bits first
//! DECODE          {"affine":{"zero_point":8}} | {"min_max":{"min":-0.3,"step":0.07}} | "codebook"
//! ```
//!
//! A layout, type, coding or key that is not listed is refused. Without `layout` and `dtype` an image is `CHW` of `u8`,
//! without an entry in `codec` a parameter is f32 and a quantized weight is raw.

use opt_core::InputSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Result;
use crate::error::{ArtifactError, tensor_error};
use crate::graph_json::finite;

#[derive(Debug, Default, Serialize, Deserialize)]
enum LayoutJson {
    #[default]
    #[serde(rename = "CHW")]
    Chw,
}

#[derive(Debug, Default, Serialize, Deserialize)]
enum DtypeJson {
    #[default]
    #[serde(rename = "u8")]
    U8,
}

/// [`InputSpec`] in JSON, with what it takes for granted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputJson {
    #[serde(default)]
    layout: LayoutJson,
    #[serde(default)]
    dtype: DtypeJson,
    shape: [usize; 3],
    mean: Vec<f32>,
    std: Vec<f32>,
    labels: Vec<String>,
}

impl From<&InputSpec> for InputJson {
    fn from(input: &InputSpec) -> Self {
        let InputSpec {
            shape,
            mean,
            std,
            labels,
        } = input.clone();
        Self {
            layout: LayoutJson::Chw,
            dtype: DtypeJson::U8,
            shape,
            mean,
            std,
            labels,
        }
    }
}

impl From<InputJson> for InputSpec {
    fn from(json: InputJson) -> Self {
        let InputJson {
            layout: LayoutJson::Chw,
            dtype: DtypeJson::U8,
            shape,
            mean,
            std,
            labels,
        } = json;
        Self {
            shape,
            mean,
            std,
            labels,
        }
    }
}

/// How codes lie in their tensor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "coding", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum CodingJson {
    Raw {},
    Packed { bits: u8, shape: Vec<usize> },
}

/// The coding of `tensor`. Its name is looked at first: what else belongs to an unknown one is unknown too.
pub(crate) fn coding(tensor: &str, json: Value) -> Result<CodingJson> {
    match json.get("coding").and_then(Value::as_str) {
        None | Some("raw" | "packed") => serde_json::from_value(json)
            .map_err(|e| tensor_error(tensor, format!("its entry in `codec`: {e}"))),
        Some(unknown) => Err(ArtifactError::UnknownCoding {
            tensor: tensor.to_owned(),
            coding: unknown.to_owned(),
        }),
    }
}

/// [`opt_core::Decode`] in JSON; scales and codebooks are tensors of their own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum DecodeJson {
    #[serde(rename = "affine")]
    Affine { zero_point: u8 },
    #[serde(rename = "min_max")]
    MinMax {
        #[serde(serialize_with = "finite")]
        min: f32,
        #[serde(serialize_with = "finite")]
        step: f32,
    },
    #[serde(rename = "codebook")]
    Codebook,
}

/// An entry of a model's `codec`; on reading, the coding is still to be looked at.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CodecJson<C> {
    pub(crate) codes: C,
    pub(crate) decode: DecodeJson,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_says_how_its_bytes_lie() {
        let input = InputSpec {
            shape: [1, 2, 3],
            mean: vec![0.5],
            std: vec![0.25],
            labels: vec!["a \"b\"".to_owned()],
        };
        let text = serde_json::to_string(&InputJson::from(&input)).unwrap();
        let expect = r#"{"layout":"CHW","dtype":"u8","shape":[1,2,3],"mean":[0.5],"std":[0.25],"labels":["a \"b\""]}"#;
        assert_eq!(text, expect);
        for sound in [
            text.as_str(),
            &text.replace(r#""layout":"CHW","dtype":"u8","#, ""),
        ] {
            let back: InputJson = serde_json::from_str(sound).unwrap();
            assert_eq!(InputSpec::from(back), input, "{sound}");
        }
        struct Case {
            find: &'static str,
            replace: &'static str,
            expect: &'static str,
        }
        let cases = [
            // Bytes in another order.
            Case {
                find: "\"CHW\"",
                replace: "\"HWC\"",
                expect: "unknown variant `HWC`, expected `CHW`",
            },
            // Other numbers than bytes.
            Case {
                find: "\"u8\"",
                replace: "\"f32\"",
                expect: "unknown variant `f32`, expected `u8`",
            },
            // A step that this program would leave out.
            Case {
                find: "\"shape\"",
                replace: "\"crop\":224,\"shape\"",
                expect: "unknown field `crop`",
            },
            Case {
                find: "\"mean\":[0.5],",
                replace: "",
                expect: "missing field `mean`",
            },
        ];
        for case in cases {
            let text = text.replace(case.find, case.replace);
            let error = serde_json::from_str::<InputJson>(&text).unwrap_err();
            assert!(error.to_string().contains(case.expect), "{text}: {error}");
        }
    }

    #[test]
    fn codings_are_named() {
        struct Case {
            json: &'static str,
            expect: &'static str,
        }
        let cases = [
            // The two that there are.
            Case {
                json: r#"{"coding":"raw"}"#,
                expect: "Ok(Raw)",
            },
            Case {
                json: r#"{"coding":"packed","bits":4,"shape":[2]}"#,
                expect: "Ok(Packed { bits: 4, shape: [2] })",
            },
            // One that is not there yet, with keys of its own.
            Case {
                json: r#"{"coding":"rans12","table":[1]}"#,
                expect: "`a.weight` is coded as `rans12`, expected `raw` or `packed`",
            },
            // Keys that the coding does not have, or lacks.
            Case {
                json: r#"{"coding":"raw","bits":4}"#,
                expect: "`a.weight`: its entry in `codec`: unknown field `bits`",
            },
            Case {
                json: r#"{"coding":"packed","bits":4}"#,
                expect: "`a.weight`: its entry in `codec`: missing field `shape`",
            },
            Case {
                json: r#"{"bits":4}"#,
                expect: "`a.weight`: its entry in `codec`: missing field `coding`",
            },
            Case {
                json: "3",
                expect: "`a.weight`: its entry in `codec`: invalid type",
            },
        ];
        for case in cases {
            let found = coding("a.weight", serde_json::from_str(case.json).unwrap());
            let found = match found {
                Ok(coding) => format!("Ok({coding:?})"),
                Err(error) => error.to_string(),
            };
            assert!(found.contains(case.expect), "{}: {found}", case.json);
        }
        let raw = serde_json::to_string(&CodingJson::Raw {}).unwrap();
        assert_eq!(raw, r#"{"coding":"raw"}"#);
    }
}
