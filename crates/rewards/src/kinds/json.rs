//! `json`: 1 if the answer is JSON and nothing else, and of the schema if there is one; `valid` (default 0) if it is JSON
//! that the schema refuses; else 0.
//!
//! Options: `schema` (a table, or the path of a JSON file) or `field` (of the record, with the schema as an object or as
//! text), `valid`. JSON in a block of Markdown is found with `of = { fence = "json" }`.
//!
//! Schemas are of any draft, and name no other file or address: nothing is fetched.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use serde_json::Value;

use super::{Each, Made, Seen};
use crate::answer::{Fields, Reason, head};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::reference::field;
use crate::spec::Setup;

struct Json {
    schema: Schema,
    valid: f64,
}

enum Schema {
    /// Any JSON will do.
    None,
    /// One for all records.
    One(Arc<Validator>),
    /// Each record has its own. The last one is kept, for a prompt's answers come together.
    Field(String, Mutex<Option<(Value, Arc<Validator>)>>),
}

pub(super) fn make(options: &mut Options, _: &Setup, _: bool) -> Result<Made> {
    let schema = match (options.take("schema"), options.text("field")?) {
        (None, None) => Schema::None,
        (Some(_), Some(_)) => {
            return Err(options.error("`schema` and `field`: expected one of them, found both"));
        }
        (None, Some(field)) => Schema::Field(field, Mutex::default()),
        (Some(toml::Value::String(path)), None) => {
            let path = options.path(&path);
            let wrong = |what: &str| format!("{}: `schema`: {}: {what}", options.place, path.display());
            let text = fs::read_to_string(&path).map_err(|e| Error::caused_by(wrong("cannot be read"), e))?;
            let value = serde_json::from_str(&text).map_err(|e| Error::caused_by(wrong("is not JSON"), e))?;
            Schema::One(validator(&value).map_err(|e| Error::new(wrong(&e)))?)
        }
        (Some(toml::Value::Table(table)), None) => {
            let value =
                serde_json::to_value(table).map_err(|e| options.error(format_args!("`schema`: {e}")))?;
            Schema::One(validator(&value).map_err(|e| options.error(format_args!("`schema`: {e}")))?)
        }
        (Some(other), None) => return Err(options.wrong("schema", "a table or the path of a file", other)),
    };
    Ok(Made::each(Json { schema, valid: options.share("valid")?.unwrap_or(0.0) }))
}

/// A schema, ready for use.
fn validator(schema: &Value) -> Result<Arc<Validator>, String> {
    let built = jsonschema::options().offline().build(schema);
    built.map(Arc::new).map_err(|error| format!("expected a JSON schema: {}", head(&error.to_string(), 300)))
}

impl Json {
    fn validator(&self, fields: &Fields) -> Result<Option<Arc<Validator>>, Reason> {
        let (name, kept) = match &self.schema {
            Schema::None => return Ok(None),
            Schema::One(validator) => return Ok(Some(validator.clone())),
            Schema::Field(name, kept) => (name, kept),
        };
        let value = field(fields, name)?;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, validator)) = &*kept
            && known == value
        {
            return Ok(Some(validator.clone()));
        }
        let wrong = |error: String| Reason::from(format!("the record's `{name}`: {error}"));
        let made = match value {
            Value::String(text) => {
                let schema =
                    serde_json::from_str(text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
                validator(&schema)
            }
            value => validator(value),
        };
        let made = made.map_err(wrong)?;
        *kept = Some((value.clone(), made.clone()));
        Ok(Some(made))
    }
}

impl Each for Json {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason> {
        let validator = self.validator(seen.answer.fields)?;
        let Ok(value) = serde_json::from_str::<Value>(seen.text) else { return Ok(0.0) };
        let Some(validator) = validator else { return Ok(1.0) };
        match validator.validate(&value) {
            Ok(()) => Ok(1.0),
            Err(error) => match error.kind() {
                ValidationErrorKind::BacktrackLimitExceeded { .. } => {
                    Err(Reason::from(format!("a pattern of the schema was given up: {error}")))
                }
                _ => Ok(self.valid),
            },
        }
    }

    fn check(&self, fields: &Fields) -> Result<(), Reason> {
        self.validator(fields).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::testing::{error, judge, judge_with, read};

    const PERSON: &str = "kind = 'json'\nvalid = 0.25\n[reward.schema]\ntype = 'object'\nrequired = ['name']\n\
                          properties.name.type = 'string'\nproperties.age = { type = 'integer', minimum = 0 }";

    #[test]
    fn json_is_told_from_text() {
        for (text, worth) in
            [("{}", 1.0), (" [1, 2]\n", 1.0), ("4", 1.0), ("{} so", 0.0), ("{'a': 1}", 0.0), ("", 0.0)]
        {
            assert_eq!(judge("kind = 'json'", text, ""), worth, "{text}");
        }
        // Deeper than any reader goes.
        assert_eq!(judge("kind = 'json'", &"[".repeat(1_000_000), ""), 0.0);
        assert_eq!(judge("kind = 'json'\nof = { fence = 'json' }", "Here:\n```json\n{}\n```", ""), 1.0);
    }

    #[test]
    fn schemas_of_the_spec_decide() {
        assert_eq!(judge(PERSON, r#"{"name": "Ann", "age": 3}"#, ""), 1.0);
        assert_eq!(judge(PERSON, r#"{"name": "Ann", "age": -3}"#, ""), 0.25);
        assert_eq!(judge(PERSON, r#"{"age": 3}"#, ""), 0.25);
        assert_eq!(judge(PERSON, r#"{"name": "Ann""#, ""), 0.0);
        let path = std::env::temp_dir().join(format!("wootz-rewards-schema-{}.json", std::process::id()));
        std::fs::write(&path, r#"{"type": "array", "maxItems": 2}"#).unwrap();
        let options = format!("kind = 'json'\nschema = {:?}", path.display().to_string());
        assert_eq!(judge(&options, "[1, 2]", ""), 1.0);
        assert_eq!(judge(&options, "[1, 2, 3]", ""), 0.0);
        std::fs::write(&path, "[").unwrap();
        assert!(error(&options).contains("is not JSON"), "{}", error(&options));
        std::fs::remove_file(&path).unwrap();
        assert!(error(&options).contains("cannot be read"), "{}", error(&options));
    }

    #[test]
    fn schemas_of_records_decide() {
        let options = "kind = 'json'\nfield = 'schema'";
        for schema in [json!({ "type": "integer" }), json!("{\"type\": \"integer\"}")] {
            let record = json!({ "schema": schema });
            assert_eq!(judge_with(options, "3", &record), Ok(1.0));
            assert_eq!(judge_with(options, "\"3\"", &record), Ok(0.0));
        }
        for schema in [json!({ "type": "nothing" }), json!("{"), json!(3)] {
            let failure = judge_with(options, "3", &json!({ "schema": schema })).unwrap_err();
            assert!(failure.starts_with("reward `json`: the record's `schema`: "), "{failure}");
        }
        // One record's schema is not the next one's.
        let rewards = read(options).unwrap();
        let records = ["integer", "string", "integer"].map(|name| json!({ "schema": { "type": name } }));
        let answer =
            |record| crate::Answer { prompt: "", text: "3", tokens: 1, truncated: false, fields: record };
        let answers: Vec<_> = records.iter().map(|record| answer(record.as_object().unwrap())).collect();
        let totals: Vec<_> = rewards.score(&answers).into_iter().map(|score| score.unwrap().total).collect();
        assert_eq!(totals, [1.0, 0.0, 1.0]);
    }

    #[test]
    fn schemas_fetch_nothing_and_end() {
        for reference in ["http://127.0.0.1:9/schema.json", "file:///etc/hostname", "other.json"] {
            let found = error(&format!("kind = 'json'\nschema = {{ \"$ref\" = '{reference}' }}"));
            assert!(found.contains("expected a JSON schema"), "{found}");
        }
        let tree = "kind = 'json'\n[reward.schema]\ntype = 'array'\nitems.\"$ref\" = '#'";
        assert_eq!(judge(tree, "[[], [[]]]", ""), 1.0);
        assert_eq!(judge(tree, "[[], [3]]", ""), 0.0);
        // Schemas that refer to themselves without end.
        for schema in
            ["\"$ref\" = '#'", "allOf = [{ \"$ref\" = '#' }]", "anyOf = [{ not = { \"$ref\" = '#' } }]"]
        {
            if let Ok(rewards) = read(&format!("kind = 'json'\nschema = {{ {schema} }}")) {
                let fields = crate::Fields::new();
                let answer =
                    crate::Answer { prompt: "", text: "3", tokens: 1, truncated: false, fields: &fields };
                assert_eq!(rewards.score(&[answer]).len(), 1, "{schema}");
            }
        }
        let slow = json!({ "schema": { "pattern": "^(?:a|aa)+(?!a)$" } });
        let text = format!("\"{}!\"", "a".repeat(60));
        let failure = judge_with("kind = 'json'\nfield = 'schema'", &text, &slow).unwrap_err();
        assert!(failure.contains("a pattern of the schema was given up"), "{failure}");
    }

    #[test]
    fn odd_options_are_refused() {
        assert!(
            error("kind = 'json'\nschema = 3").contains("`schema`: expected a table or the path of a file")
        );
        assert!(error("kind = 'json'\nfield = 'x'\nschema = {}").contains("expected one of them"));
        assert!(error("kind = 'json'\nschema = { type = 'nothing' }").contains("expected a JSON schema"));
    }
}
