//! Words of a method's crate as values of TOML.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use opt_prune::Criterion;
use opt_quant::RangeMethod;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A choice that TOML writes as the word by which the method's crate knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Word<T>(pub T);

impl<T: Display> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        word.parse().map(Self).map_err(D::Error::custom)
    }
}

impl JsonSchema for Word<Criterion> {
    fn schema_name() -> Cow<'static, str> {
        "Criterion".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": Criterion::WORDS.map(|(word, _)| word) })
    }
}

impl JsonSchema for Word<RangeMethod> {
    fn schema_name() -> Cow<'static, str> {
        "RangeMethod".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": RangeMethod::WORDS.map(|(word, _)| word) })
    }
}
