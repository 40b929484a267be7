//! What an answer is compared with: texts of the spec, or a field of the record.

use std::borrow::Cow;

use serde_json::Value;

use crate::answer::{Fields, Reason, head};
use crate::error::Result;
use crate::options::Options;

/// What an answer is compared with.
#[derive(Debug)]
pub(crate) enum Reference {
    /// These texts, for every record: the option `text`.
    Texts(Vec<String>),
    /// What a field of the record holds, a text, a number or a list of them: the option `field`.
    Field(String),
}

impl Reference {
    /// Reads `text` and `field`; the field `answer` if neither is there.
    pub fn read(options: &mut Options) -> Result<Reference> {
        Ok(Reference::read_optional(options)?.unwrap_or_else(|| Reference::Field("answer".to_owned())))
    }

    /// Reads `text` and `field`.
    pub fn read_optional(options: &mut Options) -> Result<Option<Reference>> {
        match (options.texts("text")?, options.text("field")?) {
            (None, None) => Ok(None),
            (Some(texts), None) => Ok(Some(Reference::Texts(texts))),
            (None, Some(field)) => Ok(Some(Reference::Field(field))),
            (Some(_), Some(_)) => Err(options.error("`text` and `field`: expected one of them, found both")),
        }
    }

    /// The texts, at least one.
    pub fn texts<'a>(&'a self, fields: &'a Fields) -> Result<Vec<Cow<'a, str>>, Reason> {
        match self {
            Reference::Texts(texts) => Ok(texts.iter().map(|text| Cow::Borrowed(text.as_str())).collect()),
            Reference::Field(name) => {
                let value = field(fields, name)?;
                let texts: Option<Vec<_>> = match value {
                    Value::Array(values) if !values.is_empty() => values.iter().map(text).collect(),
                    value => text(value).map(|text| vec![text]),
                };
                texts.ok_or_else(|| {
                    let found = head(&value.to_string(), 100);
                    Reason::from(format!(
                        "the record's `{name}`: expected a text, a number or a list of them, found {found}"
                    ))
                })
            }
        }
    }
}

/// A field of a record: its name, or a JSON pointer (`/meta/answer`) into it.
pub(crate) fn field<'a>(fields: &'a Fields, name: &str) -> Result<&'a Value, Reason> {
    let found = match name.strip_prefix('/') {
        None => fields.get(name),
        Some(path) => {
            let (first, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
            let first = first.replace("~1", "/").replace("~0", "~");
            fields.get(&first).and_then(|value| value.pointer(rest))
        }
    };
    found.ok_or_else(|| {
        let names: Vec<_> = fields.keys().map(|key| format!("`{key}`")).collect();
        let names = if names.is_empty() { "no fields".to_owned() } else { head(&names.join(", "), 200) };
        Reason::from(format!("the record has no field `{name}`; it has {names}"))
    })
}

/// A single value as text.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(_) | Value::Bool(_) => Some(Cow::Owned(value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_field(name: &str, record: &Value) -> Result<Vec<String>, String> {
        let reference = Reference::Field(name.to_owned());
        let texts = reference.texts(record.as_object().unwrap()).map_err(|reason| reason.text)?;
        Ok(texts.into_iter().map(Cow::into_owned).collect())
    }

    #[test]
    fn a_field_is_one_text_or_several() {
        let record =
            json!({ "answer": "4", "n": 4.5, "yes": true, "all": ["a", 2], "meta": { "a/b": [7, 8] } });
        assert_eq!(of_field("answer", &record).unwrap(), ["4"]);
        assert_eq!(of_field("n", &record).unwrap(), ["4.5"]);
        assert_eq!(of_field("yes", &record).unwrap(), ["true"]);
        assert_eq!(of_field("all", &record).unwrap(), ["a", "2"]);
        assert_eq!(of_field("/answer", &record).unwrap(), ["4"]);
        assert_eq!(of_field("/meta/a~1b/1", &record).unwrap(), ["8"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let record = json!({ "prompt": "x", "answer": null, "none": [], "deep": [["x"]] });
        let error = |name| of_field(name, &record).unwrap_err();
        assert_eq!(
            error("label"),
            "the record has no field `label`; it has `prompt`, `answer`, `none`, `deep`"
        );
        assert!(error("/answer/0").contains("no field `/answer/0`"));
        for name in ["answer", "none", "deep"] {
            assert!(error(name).contains("expected a text, a number or a list of them"), "{}", error(name));
        }
        assert!(of_field("a", &json!({})).unwrap_err().ends_with("it has no fields"));
    }
}
