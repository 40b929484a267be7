//! What Python writes where a template prints a value: `json.dumps` and the `repr` of a float.

use std::fmt::Write;

use serde_json::Value;

/// Options of Python's `json.dumps`, with transformers' defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dumps {
    /// Spaces a level; none means one line.
    pub indent: Option<usize>,
    pub sort_keys: bool,
    pub ensure_ascii: bool,
    /// Between items, and between a key and its value.
    pub separators: Option<(String, String)>,
}

impl Dumps {
    /// `value` as JSON text, character for character what Python writes.
    pub fn write(&self, value: &Value) -> String {
        let mut text = String::new();
        self.value(&mut text, value, 0);
        text
    }

    fn value(&self, out: &mut String, value: &Value, depth: usize) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(true) => out.push_str("true"),
            Value::Bool(false) => out.push_str("false"),
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => out.push_str(&float_repr(float)),
                None => out.push_str(&number.to_string()),
            },
            Value::String(string) => self.string(out, string),
            Value::Array(items) => {
                self.list(out, ('[', ']'), depth, items.iter(), |out, item| self.value(out, item, depth + 1));
            }
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|&(key, _)| key);
                }
                self.list(out, ('{', '}'), depth, entries.into_iter(), |out, (key, item)| {
                    self.string(out, key);
                    out.push_str(self.separators.as_ref().map_or(": ", |(_, colon)| colon));
                    self.value(out, item, depth + 1);
                });
            }
        }
    }

    fn list<T>(
        &self,
        out: &mut String,
        (open, close): (char, char),
        depth: usize,
        items: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut String, T),
    ) {
        out.push(open);
        let comma = match &self.separators {
            Some((comma, _)) => comma.as_str(),
            None if self.indent.is_some() => ",",
            None => ", ",
        };
        let filled = items.len() > 0;
        for (at, item) in items.enumerate() {
            if at > 0 {
                out.push_str(comma);
            }
            self.line(out, depth + 1);
            write(out, item);
        }
        if filled {
            self.line(out, depth);
        }
        out.push(close);
    }

    fn line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&self, out: &mut String, string: &str) {
        out.push('"');
        for c in string.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}"); // writing to a string cannot fail
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// The shortest digits that give the number back, as Python writes them: `1e+16`, `1e-05`.
fn float_repr(float: f64) -> String {
    let digits = format!("{float:?}");
    match digits.split_once('e') {
        None => digits,
        Some((mantissa, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{mantissa}e{sign}{exponent:0>2}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_line_and_indented_as_python_writes_them() {
        let value = json!({"b": [1, 2.0, "é\n\u{1}<&'"], "a": {}, "c": [], "d": null, "e": true});
        let line = r#"{"b": [1, 2.0, "é\n\u0001<&'"], "a": {}, "c": [], "d": null, "e": true}"#;
        assert_eq!(Dumps::default().write(&value), line);
        let indented = "{\n  \"b\": [\n    1,\n    {\n      \"x\": []\n    }\n  ]\n}";
        assert_eq!(
            Dumps { indent: Some(2), ..Dumps::default() }.write(&json!({"b": [1, {"x": []}]})),
            indented
        );
        let options = Dumps {
            sort_keys: true,
            ensure_ascii: true,
            separators: Some((",".into(), ":".into())),
            ..Dumps::default()
        };
        assert_eq!(options.write(&json!({"z": "é😀", "a": 1})), r#"{"a":1,"z":"\u00e9\ud83d\ude00"}"#);
    }

    #[test]
    fn floats_as_python_writes_them() {
        let cases = [
            (1e16, "1e+16"),
            (1e-5, "1e-05"),
            (1.5e300, "1.5e+300"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
        ];
        for (float, text) in cases {
            assert_eq!(float_repr(float), text);
        }
    }
}
