//! The input and the codings as JSON, minified.
//!
//! ```text
//! input           {"layout":"CHW", "dtype":"u8", "shape":[3,32,32], "mean":[…], "std":[…], "preparation":PREPARATION}
//! PREPARATION     {"orientation":"upright", "colours":"RGB", "filter":"triangle", "cover":[32,32], "cut":"centre"}
//! codec (model)   {PARAMETER: {"codes":CODING, "decode":DECODE}, …}
//! codec (qmodel)  {"NODE.weight": CODING, …}
//! CODING          {"coding":"raw"}                                       one code per byte, in the tensor's shape
//!                 {"coding":"packed", "bits":4, "shape":[16,3,3,3]}      low bits first
//! DECODE          {"affine":{"zero_point":8}} | {"min_max":{"min":-0.3,"step":0.07}} | "codebook"
//! ```
//!
//! A layout, type, coding or key that is not listed is refused. Without `layout` and `dtype` an image is `CHW` of `u8`,
//! without an entry in `codec` a parameter is f32 and a quantized weight is raw.
//!
//! `preparation` is [`opt_core::Preparation`] with what it takes for granted; `colours` is `RGB` for three channels, `grey` for
//! one, and absent for other numbers. Files of version 1 have no `preparation`: what was done then, [`Preparation::usual`] without
//! a look at a file's orientation, is what they mean.

use opt_core::{InputSpec, Orientation, Preparation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Result;
use crate::container::Container;
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

#[derive(Debug, Serialize, Deserialize)]
enum OrientationJson {
    #[serde(rename = "upright")]
    Upright,
    #[serde(rename = "stored")]
    Stored,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum ColoursJson {
    #[serde(rename = "RGB")]
    Rgb,
    #[serde(rename = "grey")]
    Grey,
}

impl ColoursJson {
    fn of(channels: usize) -> Option<Self> {
        match channels {
            1 => Some(Self::Grey),
            3 => Some(Self::Rgb),
            _ => None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum FilterJson {
    #[serde(rename = "triangle")]
    Triangle,
}

#[derive(Debug, Serialize, Deserialize)]
enum CutJson {
    #[serde(rename = "centre")]
    Centre,
}

/// [`Preparation`] in JSON, with what it takes for granted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreparationJson {
    orientation: OrientationJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    colours: Option<ColoursJson>,
    filter: FilterJson,
    cover: [usize; 2],
    cut: CutJson,
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
    /// Of versions 1 and 2; later ones have them at the outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preparation: Option<PreparationJson>,
}

impl From<&InputSpec> for InputJson {
    fn from(input: &InputSpec) -> Self {
        let InputSpec {
            shape,
            mean,
            std,
            preparation: Preparation { orientation, cover },
        } = input.clone();
        Self {
            layout: LayoutJson::Chw,
            dtype: DtypeJson::U8,
            shape,
            mean,
            std,
            labels: None,
            preparation: Some(PreparationJson {
                orientation: match orientation {
                    Orientation::Upright => OrientationJson::Upright,
                    Orientation::Stored => OrientationJson::Stored,
                },
                colours: ColoursJson::of(shape[0]),
                filter: FilterJson::Triangle,
                cover,
                cut: CutJson::Centre,
            }),
        }
    }
}

/// The input of a file, and the labels that it has in versions 1 and 2.
pub(crate) fn input(content: &Container<'_>) -> Result<(InputSpec, Option<Vec<String>>)> {
    let InputJson {
        layout: LayoutJson::Chw,
        dtype: DtypeJson::U8,
        shape,
        mean,
        std,
        labels,
        preparation,
    } = content.json("input")?;
    let wrong = |problem: &str| Err(tensor_error("input", problem));
    match (content.has_outputs()?, &labels) {
        (true, Some(_)) => return wrong("`labels`, which belong to the outputs of the graph"),
        (false, None) => return wrong("no `labels`, which a file of version 1 or 2 has"),
        (true, None) | (false, Some(_)) => {}
    }
    let preparation = match (content.has_preparation()?, preparation) {
        (true, Some(json)) => {
            let PreparationJson {
                orientation,
                colours,
                filter: FilterJson::Triangle,
                cover,
                cut: CutJson::Centre,
            } = json;
            if colours != ColoursJson::of(shape[0]) {
                let expected = "expected `RGB` for 3, `grey` for 1 and none for others";
                return wrong(&format!(
                    "colours {colours:?} for {} channels, {expected}",
                    shape[0]
                ));
            }
            let orientation = match orientation {
                OrientationJson::Upright => Orientation::Upright,
                OrientationJson::Stored => Orientation::Stored,
            };
            Preparation { orientation, cover }
        }
        (false, None) => Preparation {
            orientation: Orientation::Stored,
            ..Preparation::usual(shape)
        },
        (true, None) => return wrong("no `preparation`, which a file of this version has"),
        (false, Some(_)) => {
            return wrong("a `preparation`, which a file of version 1 does not have");
        }
    };
    let input = InputSpec {
        shape,
        mean,
        std,
        preparation,
    };
    Ok((input, labels))
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

/// [`opt_core::Dequantize`] in JSON; scales and codebooks are tensors of their own.
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

    fn content(version: &str, input: &str) -> Container<'static> {
        let mut content = Container::new(crate::Kind::Model);
        for (key, value) in [("version", version), ("input", input)] {
            content.metadata.insert(key.to_owned(), value.to_owned());
        }
        content
    }

    #[test]
    fn the_input_says_how_its_bytes_come_about() {
        let spec = InputSpec {
            shape: [1, 2, 3],
            mean: vec![0.5],
            std: vec![0.25],
            preparation: Preparation {
                orientation: Orientation::Upright,
                cover: [2, 4],
            },
        };
        let text = serde_json::to_string(&InputJson::from(&spec)).unwrap();
        let old = r#"{"layout":"CHW","dtype":"u8","shape":[1,2,3],"mean":[0.5],"std":[0.25]"#;
        let new = r#","preparation":{"orientation":"upright","colours":"grey","filter":"triangle","cover":[2,4],"cut":"centre"}}"#;
        assert_eq!(text, format!("{old}{new}"));
        let read =
            |version: &str, text: &str| input(&content(version, text)).map(|(input, _)| input);
        let labelled = format!(r#"{old},"labels":["a \"b\""]"#);
        let short = text.replace(r#""layout":"CHW","dtype":"u8","#, "");
        for sound in [&text, &short] {
            assert_eq!(read("3", sound).unwrap(), spec, "{sound}");
        }
        // Version 1 says nothing, and means what was done then.
        let (_, labels) = input(&content("2", &format!("{labelled}{new}"))).unwrap();
        assert_eq!(labels, Some(vec!["a \"b\"".to_owned()]));
        let then = read("1", &format!("{labelled}}}")).unwrap();
        let stored = Preparation {
            orientation: Orientation::Stored,
            cover: [2, 3],
        };
        assert_eq!(then.preparation, stored);
        let large = format!("{labelled}}}").replace("[1,2,3]", "[1,224,128]");
        assert_eq!(read("1", &large).unwrap().preparation.cover, [256, 146]);
        // Other colours.
        for channels in [2, 3] {
            let other = InputSpec {
                shape: [channels, 2, 2],
                preparation: stored,
                ..spec.clone()
            };
            let text = serde_json::to_string(&InputJson::from(&other)).unwrap();
            assert_eq!(text.contains("\"RGB\""), channels == 3, "{text}");
            assert_eq!(read("3", &text).unwrap(), other);
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
                find: "\"cover\"",
                replace: "\"gamma\":2.2,\"cover\"",
                expect: "unknown field `gamma`",
            },
            // Steps that this program does otherwise.
            Case {
                find: "\"triangle\"",
                replace: "\"bicubic\"",
                expect: "unknown variant `bicubic`, expected `triangle`",
            },
            Case {
                find: "\"centre\"",
                replace: "\"five\"",
                expect: "unknown variant `five`, expected `centre`",
            },
            Case {
                find: "\"upright\"",
                replace: "\"mirrored\"",
                expect: "unknown variant `mirrored`",
            },
            Case {
                find: "\"grey\"",
                replace: "\"RGB\"",
                expect: "colours Some(Rgb) for 1 channels",
            },
            Case {
                find: "\"mean\":[0.5],",
                replace: "",
                expect: "missing field `mean`",
            },
        ];
        for case in cases {
            let text = text.replace(case.find, case.replace);
            let error = read("3", &text).unwrap_err().to_string();
            assert!(error.contains(case.expect), "{text}: {error}");
        }
        let error = read("2", &format!("{labelled}}}")).unwrap_err().to_string();
        assert!(error.contains("no `preparation`"), "{error}");
        let error = read("1", &format!("{labelled}{new}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("version 1 does not have"), "{error}");
        // Labels where they do not belong, and none where they do.
        let error = read("3", &format!("{labelled}{new}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("belong to the outputs"), "{error}");
        let error = read("2", &text).unwrap_err().to_string();
        assert!(error.contains("no `labels`"), "{error}");
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
