//! The keys of recipes and profiles as a page, made of the types that read them: their comments, types and defaults.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use crate::profile::Profile;
use crate::recipe::Recipe;
use crate::renamed::RENAMED;

const INTRO: &str = "\
# Keys of recipes and profiles

Made by `cargo xtask keys > docs/keys.md` from the types that read them; [recipes.md](recipes.md) explains them with examples.
Unknown keys are errors. A name with dots is one inside a table: `optimizer.sgd.momentum` is written
`optimizer = { sgd = { momentum = 0.9, … } }` too.
";

/// The page, as Markdown: a section for each table, a row for each key.
#[must_use]
pub fn page() -> String {
    let (tops, types) = schemas();
    let mut page = Page {
        types: &types,
        text: INTRO.to_owned(),
        titles: BTreeMap::new(),
    };
    for (title, name) in tops {
        page.section(title, &name);
    }
    let old = RENAMED.iter();
    let rows: String = old
        .map(|(old, new)| format!("| `{old}` | `{new}` |\n"))
        .collect();
    page.text += &format!("\n## Keys of older files\n\n| was | is now |\n|---|---|\n{rows}");
    page.text
}

/// The titles and types of the two files, and every type by its name.
fn schemas() -> ([(&'static str, String); 2], Map<String, Value>) {
    let mut generator = SchemaGenerator::default();
    let recipe = generator.subschema_for::<Recipe>();
    let profile = generator.subschema_for::<Profile>();
    let name = |schema: schemars::Schema| referred(schema.as_value()).unwrap_or("").to_owned();
    let tops = [("A recipe", name(recipe)), ("A profile", name(profile))];
    (tops, generator.take_definitions(true))
}

struct Page<'a> {
    types: &'a Map<String, Value>,
    text: String,
    /// The titles of the sections that there are, by the names of their types.
    titles: BTreeMap<String, String>,
}

impl Page<'_> {
    fn section(&mut self, title: &str, name: &str) {
        self.titles.insert(name.to_owned(), title.to_owned());
        let schema = &self.types[name];
        let mut tables = Vec::new();
        let mut rows = String::new();
        self.rows("", schema, &mut rows, &mut tables);
        self.text += &format!(
            "\n## {title}\n\n{}\n\n| key | type | default | what |\n|---|---|---|---|\n{rows}",
            description(schema)
        );
        for (title, name) in tables {
            if !self.titles.contains_key(&name) {
                self.section(&title, &name);
            }
        }
    }

    /// A row for each key of a table, and for those of what a key chooses between. Tables with sections of their own are
    /// collected.
    fn rows(
        &self,
        place: &str,
        table: &Value,
        rows: &mut String,
        tables: &mut Vec<(String, String)>,
    ) {
        for (key, schema) in keys(table) {
            let key = format!("{place}{key}");
            let (item, is_list) = match self.resolved(schema).get("items") {
                Some(item) => (item, true),
                None => (schema, false),
            };
            let name = name_in(item).filter(|name| is_table(&self.types[*name]));
            let kind = match name {
                Some(name) => {
                    let (kind, own) = match is_list {
                        true => ("tables", format!("Each `[[{key}]]`")),
                        false => ("table", format!("`[{key}]`")),
                    };
                    let title = self.titles.get(name).unwrap_or(&own).clone();
                    let shown = title.trim_start_matches("Each ");
                    let link = format!("{kind}: [{shown}](#{})", anchor(&title));
                    tables.push((title, name.to_owned()));
                    link
                }
                None => self.kind(schema),
            };
            let default = self.default_of(table, schema, &key);
            let mut what = description(schema);
            let choices = self.choices(item);
            for choice in &choices {
                if let Some(word) = choice.get("const") {
                    what += &format!(" {}: {}", code(word), description(choice));
                }
            }
            *rows += &format!("| `{key}` | {kind} | {default} | {what} |\n");
            for choice in choices {
                for (inner, schema) in keys(choice) {
                    let key = format!("{key}.{inner}");
                    *rows += &format!("| `{key}` | table | – | {} |\n", description(choice));
                    self.rows(&format!("{key}."), schema, rows, tables);
                }
            }
        }
    }

    /// What a key holds, in words.
    fn kind(&self, schema: &Value) -> String {
        let schema = self.resolved(schema);
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            return words.iter().map(code).collect::<Vec<_>>().join(", ");
        }
        if let Some(either) = schema.get("anyOf").and_then(Value::as_array) {
            let kinds: Vec<String> = either.iter().map(|s| self.kind(s)).collect();
            return kinds.join(" or ");
        }
        let choices = self.choices(schema);
        if !choices.is_empty() {
            let choices = choices.iter().map(|choice| match choice.get("const") {
                Some(word) => code(word),
                None => keys(choice)
                    .map(|(key, _)| format!("`{{ {key} = … }}`"))
                    .collect(),
            });
            return choices.collect::<Vec<_>>().join(", ");
        }
        match kind_in(schema) {
            "integer" => "integer".to_owned(),
            "boolean" => "`true`, `false`".to_owned(),
            "string" => "text".to_owned(),
            "array" => match self.kind(&schema["items"]) {
                words if words.starts_with('`') => format!("list of {words}"),
                kind => format!("list of {kind}s"),
            },
            other => other.to_owned(),
        }
    }

    /// What a key holds where it is absent.
    fn default_of(&self, table: &Value, schema: &Value, key: &str) -> String {
        let last = key.rsplit('.').next().unwrap_or(key);
        let required = table["required"].as_array();
        if required.is_some_and(|keys| keys.iter().any(|key| key == last)) {
            return "required".to_owned();
        }
        match self.default_in(schema) {
            Value::Null => "–".to_owned(),
            value => code(&value),
        }
    }

    /// A key's default. Of what is not written where it is empty or false, schemars knows none.
    fn default_in(&self, schema: &Value) -> Value {
        let known = schema.get("default").cloned();
        known.unwrap_or_else(|| match kind_in(self.resolved(schema)) {
            "array" if schema["type"] == "array" => Value::Array(Vec::new()),
            "boolean" => Value::Bool(false),
            _ => Value::Null,
        })
    }

    /// The alternatives of an enum.
    fn choices<'b>(&'b self, schema: &'b Value) -> Vec<&'b Value> {
        let choices = self.resolved(schema).get("oneOf").and_then(Value::as_array);
        choices.map_or_else(Vec::new, |choices| choices.iter().collect())
    }

    fn resolved<'b>(&'b self, schema: &'b Value) -> &'b Value {
        referred(schema).map_or(schema, |name| &self.types[name])
    }
}

fn referred(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// The type that a key names, itself or in an `Option`.
fn name_in(schema: &Value) -> Option<&str> {
    let either = schema.get("anyOf").and_then(Value::as_array);
    referred(schema).or_else(|| either?.iter().find_map(referred))
}

fn is_table(schema: &Value) -> bool {
    schema.get("properties").is_some()
}

fn keys(table: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let keys = table.get("properties").and_then(Value::as_object);
    keys.into_iter().flatten()
}

/// The type of a value, of an `Option` that of what is in it.
fn kind_in(schema: &Value) -> &str {
    let kind = &schema["type"];
    let first = kind.as_array().and_then(|kinds| kinds.first());
    first.unwrap_or(kind).as_str().unwrap_or_default()
}

/// A comment on one line; the links of rustdoc lead nowhere here.
fn description(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.replace('\n', " ")
        .replace("[`", "`")
        .replace("`]", "`")
        .replace('|', "\\|")
}

/// A value as TOML writes it.
fn code(value: &Value) -> String {
    match toml::Value::try_from(value) {
        Ok(value @ (toml::Value::Array(_) | toml::Value::Table(_))) => format!("`{value}`"),
        // Not 0.00000001.
        _ => format!("`{value}`"),
    }
}

/// The name by which a link finds a title.
fn anchor(title: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || " -_".contains(*c);
    let title = title.to_lowercase().replace(' ', "-");
    title.chars().filter(kept).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_page_is_the_committed_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/keys.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == page(),
            "docs/keys.md is not what the types say; write it again with `cargo xtask keys > docs/keys.md`"
        );
    }

    /// Leaves out every key that may be absent, or gives each that is absent its default.
    fn with_defaults(page: &Page<'_>, schema: &Value, table: &mut Value, filled: bool) {
        let schema = page.resolved(schema);
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (key, of) in keys(schema) {
            let is_required = required.iter().any(|k| k == key);
            if !is_required {
                if let Some(table) = table.as_object_mut() {
                    let lists_tables = of.get("items").and_then(referred);
                    if lists_tables.is_none_or(|name| !is_table(&page.types[name])) {
                        table.remove(key);
                    }
                }
                let default = page.default_in(of);
                if filled && !default.is_null() && table.get(key).is_none() {
                    table[key] = default;
                }
            }
            match (table.get_mut(key), of.get("items")) {
                (Some(Value::Array(values)), Some(items)) => {
                    for value in values {
                        with_defaults(page, items, value, filled);
                    }
                }
                (Some(value), _) => with_defaults(page, of, value, filled),
                (None, _) => {}
            }
        }
    }

    #[test]
    fn what_is_called_the_default_is_read_where_a_key_is_absent() {
        let (tops, types) = schemas();
        let page = Page {
            types: &types,
            text: String::new(),
            titles: BTreeMap::new(),
        };
        let of = |name: &str, value: &Value, filled| {
            let mut value = value.clone();
            with_defaults(&page, &types[name], &mut value, filled);
            value
        };
        let value = |text: &str| serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap());
        let smoke = value(include_str!("../profiles/smoke.toml")).unwrap();
        let [recipe, profile] = tops.map(|(_, name)| name);
        let [bare, full] = [false, true].map(|filled| of(&profile, &smoke, filled));
        assert_ne!(bare, full);
        let read = |value| serde_json::from_value::<Profile>(value).unwrap();
        assert_eq!(read(bare), read(full));
        let text = "name = \"r\"\nmodel = \"resnet20\"\n[train]\nepochs = 1\nlr = 0.1\n";
        let value = value(text).unwrap();
        let [bare, full] = [false, true].map(|filled| {
            let value = of(&recipe, &value, filled);
            serde_json::from_value::<Recipe>(value).unwrap()
        });
        assert_eq!(bare, full);
    }

    /// A key without a comment says nothing, and one that is not required has a default unless it may be left out.
    #[test]
    fn every_key_has_a_comment_and_a_default() {
        let (_, types) = schemas();
        let page = Page {
            types: &types,
            text: String::new(),
            titles: BTreeMap::new(),
        };
        for (name, schema) in types.iter().filter(|(_, s)| is_table(s)) {
            for (key, of) in keys(schema) {
                assert_ne!(description(of), "", "{name}: {key}");
                let optional = of["type"].is_array() || of.get("anyOf").is_some();
                let absent = page.default_of(schema, of, key) == "–";
                assert!(
                    optional || !absent,
                    "{name}: {key} has no default; name it with #[schemars(extend(\"default\" = …))]"
                );
            }
        }
    }
}
