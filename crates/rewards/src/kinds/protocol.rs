//! What programs and services are asked, and what they say: JSON objects, the same for both.

use serde::Serialize;
use serde_json::Value;

use super::Seen;
use crate::answer::{Fields, head};
use crate::error::Result;
use crate::options::Options;

/// A question: an answer that is to be judged.
#[derive(Serialize)]
pub(super) struct Question<'a> {
    id: u64,
    prompt: &'a str,
    completion: &'a str,
    tokens: usize,
    truncated: bool,
    fields: &'a Fields,
}

impl<'a> Question<'a> {
    pub fn new(id: u64, seen: &Seen<'a>) -> Question<'a> {
        let answer = seen.answer;
        Question {
            id,
            prompt: answer.prompt,
            completion: seen.text,
            tokens: answer.tokens,
            truncated: answer.truncated,
            fields: answer.fields,
        }
    }
}

/// What was said of one answer.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    pub id: u64,
    /// The reward and the further parts, all finite; or why there is none.
    pub values: Result<Vec<f64>, String>,
}

/// The option `parts`: names of numbers that are reported beside the reward.
pub(super) fn parts(options: &mut Options) -> Result<Vec<String>> {
    let parts = options.texts("parts")?.unwrap_or_default();
    for (i, part) in parts.iter().enumerate() {
        if part.is_empty() || parts[..i].contains(part) {
            return Err(options.wrong("parts", "different names", format_args!("{parts:?}")));
        }
    }
    Ok(parts)
}

impl Verdict {
    /// Reads `{"id": …, "reward": …}`, with `"parts": {…}` where `parts` are expected, or `{"id": …, "error": "…"}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(value: &Value, parts: &[String]) -> Result<Verdict, String> {
        let Some(id) = value.get("id").and_then(Value::as_u64) else {
            return Err(format!(
                "expected an object with the `id` it was asked with, found {}",
                shown(value)
            ));
        };
        if let Some(error) = value.get("error").filter(|error| !error.is_null()) {
            let text = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
            return Ok(Verdict { id, values: Err(head(&text, 300)) });
        }
        let number = |found: Option<&Value>, name: &str| match found {
            Some(Value::Bool(flag)) => Ok(f64::from(*flag)),
            Some(found) => found
                .as_f64()
                .filter(|number| number.is_finite())
                .ok_or_else(|| format!("expected `{name}` to be a finite number, found {}", shown(found))),
            None => Err(format!("expected the number `{name}`, found {}", shown(value))),
        };
        let mut values = vec![number(value.get("reward"), "reward")?];
        for part in parts {
            values.push(number(value.get("parts").and_then(|parts| parts.get(part)), part)?);
        }
        Ok(Verdict { id, values: Ok(values) })
    }

    /// Reads a line or body of JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn json(text: &str) -> Result<Value, String> {
        serde_json::from_str(text).map_err(|error| {
            let hint = match ["NaN", "Infinity"].iter().any(|word| text.contains(word)) {
                true => "; JSON has no NaN and no Infinity, a reward is a finite number",
                false => "",
            };
            format!("expected JSON, found `{}` ({error}){hint}", head(text, 100))
        })
    }
}

fn shown(value: &Value) -> String {
    head(&value.to_string(), 100)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Verdict, String> {
        Verdict::read(&value, &[])
    }

    #[test]
    fn verdicts_are_numbers_or_errors() {
        let good = |id, values: &[f64]| Ok(Verdict { id, values: Ok(values.to_vec()) });
        assert_eq!(read(json!({ "id": 7, "reward": 0.5, "note": "x" })), good(7, &[0.5]));
        assert_eq!(read(json!({ "id": 0, "reward": -3, "error": null })), good(0, &[-3.0]));
        assert_eq!(read(json!({ "id": 1, "reward": true })), good(1, &[1.0]));
        let error = Verdict { id: 2, values: Err("no compiler".into()) };
        assert_eq!(read(json!({ "id": 2, "error": "no compiler", "reward": 1 })), Ok(error));
        let parts = ["style".to_owned(), "truth".to_owned()];
        let verdict = json!({ "id": 1, "reward": 1, "parts": { "truth": 0.25, "style": 2, "more": 3 } });
        assert_eq!(Verdict::read(&verdict, &parts), good(1, &[1.0, 2.0, 0.25]));
        let verdict = json!({ "id": 1, "reward": 1, "parts": { "style": 2 } });
        assert!(Verdict::read(&verdict, &parts).unwrap_err().contains("the number `truth`"));
    }

    #[test]
    fn garbage_is_named() {
        let cases = [
            (json!([]), "the `id` it was asked with, found []"),
            (json!({ "reward": 1 }), "the `id`"),
            (json!({ "id": "1", "reward": 1 }), "the `id`"),
            (json!({ "id": 1 }), "expected the number `reward`, found {\"id\":1}"),
            (json!({ "id": 1, "reward": "0.5" }), "`reward` to be a finite number, found \"0.5\""),
            (json!({ "id": 1, "reward": null }), "found null"),
        ];
        for (value, expected) in cases {
            let found = read(value).unwrap_err();
            assert!(found.contains(expected), "{found}");
        }
        assert!(Verdict::json("{\"id\": 1, \"reward\": NaN}").unwrap_err().contains("JSON has no NaN"));
        assert!(Verdict::json("{\"id\": 1, \"reward\": 1e999}").unwrap_err().contains("expected JSON"));
        assert!(Verdict::json("loading model…").unwrap_err().contains("found `loading model…`"));
    }
}
