//! TOML of recipes and profiles, where a key of older files is an error that says what it is called now.

use anyhow::{Result, anyhow};
use serde::de::DeserializeOwned;

/// Keys that older files have, each with what it is called now.
pub const RENAMED: &[(&str, &str)] = &[
    ("adds", "residual_add"),
    ("aware", "qat"),
    ("aware_train", "qat_train"),
    ("momentum", "optimizer.sgd.momentum"),
    ("nesterov", "optimizer.sgd.nesterov"),
];

/// Reads TOML.
///
/// # Errors
///
/// Names the place and the key; of a key that has another name now, that name.
pub fn from_toml<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| match renamed(error.message()) {
        Some((old, new)) => {
            let now = format!("the key `{old}` is now called `{new}`");
            anyhow!(error.to_string().replace(error.message(), &now))
        }
        None => error.into(),
    })
}

/// The key that `message` does not know, if the same table has it under another name.
fn renamed(message: &str) -> Option<&'static (&'static str, &'static str)> {
    let (key, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
    RENAMED.iter().find(|(old, new)| {
        let first = new.split('.').next().unwrap_or(new);
        *old == key && expected.contains(&format!("`{first}`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{PROFILES, Profile};
    use crate::recipe::Recipe;

    #[test]
    fn an_old_key_is_an_error_that_names_the_new_one() {
        let (_, smoke) = PROFILES[0];
        let error = |from: &str, to: &str| {
            assert!(smoke.contains(from), "{from}");
            format!(
                "{:#}",
                Profile::parse(&smoke.replace(from, to)).unwrap_err()
            )
        };
        let cases = [
            ("qat = [4]", "aware = [4]", "`aware` is now called `qat`"),
            (
                "[quantize.qat_train]",
                "[quantize.aware_train]",
                "`aware_train` is now called `qat_train`",
            ),
            (
                "[pipeline.qat_train]",
                "[pipeline.aware_train]",
                "`aware_train` is now called `qat_train`",
            ),
            // A table that never had the key: the new name would be as wrong.
            (
                "[[prune]]",
                "[[prune]]\naware = [4]",
                "unknown field `aware`",
            ),
        ];
        for (from, to, expected) in cases {
            let error = error(from, to);
            assert!(error.contains(expected), "{to}: {error}");
        }
        let error = error("qat = [4]", "aware = [4]");
        let lines: Vec<&str> = smoke.lines().collect();
        let line = 1 + lines.iter().position(|l| *l == "qat = [4]").unwrap();
        let expected = format!(
            "TOML parse error at line {line}, column 1\n   |\n{line} | aware = [4]\n   | ^^^^^\nthe key `aware` is now called `qat`"
        );
        assert_eq!(error.trim_end(), expected);
    }

    #[test]
    fn keys_of_the_first_recipes_are_known_too() {
        let recipe = |train: &str| {
            let text = format!(
                "name = \"r\"\nmodel = \"resnet20\"\n[train]\nepochs = 1\nlr = 0.1\n{train}\n"
            );
            from_toml::<Recipe>(&text)
        };
        assert!(recipe("optimizer.sgd = { momentum = 0.0, nesterov = false }").is_ok());
        for key in ["momentum = 0.0", "nesterov = false"] {
            let error = recipe(key).unwrap_err().to_string();
            let (name, _) = key.split_once(' ').unwrap();
            let expected = format!("the key `{name}` is now called `optimizer.sgd.{name}`");
            assert!(error.contains(&expected), "{error}");
        }
        let other = recipe("momentums = 0.0").unwrap_err().to_string();
        assert!(other.contains("unknown field `momentums`"), "{other}");
    }
}
