//! The part of an answer that a reward looks at: the option `of`, common to all kinds.

use toml::Value;

use crate::answer::Reason;
use crate::error::Result;
use crate::options::Options;
use crate::pattern::Pattern;

/// A part of an answer. An answer without it is worth 0.
#[derive(Debug)]
pub(crate) enum Of {
    /// `{ tag = "answer" }`: what stands between the last `</answer>` and the `<answer>` before it.
    Tag(String),
    /// `{ after = "####" }`: what follows the last of these.
    After(String),
    /// `{ fence = "json" }`: the last block between lines of three backticks, of this language; of any, if it is "".
    Fence(String),
    /// `{ line = "last" }`: the first or last line with anything on it.
    Line(Line),
    /// `{ pattern = '…' }`: the last match, or its first group.
    Pattern(Pattern),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Line {
    First,
    Last,
}

impl Of {
    /// Reads `of`.
    pub fn read(options: &mut Options) -> Result<Option<Of>> {
        const EXPECTED: &str =
            "a table with one of tag, after, fence, line, pattern, such as { tag = \"answer\" }";
        let Some(value) = options.take("of") else { return Ok(None) };
        let wrong = |found: &Value| options.wrong("of", EXPECTED, found);
        let Value::Table(table) = &value else { return Err(wrong(&value)) };
        let mut entries = table.iter();
        let (Some((key, Value::String(text))), None) = (entries.next(), entries.next()) else {
            return Err(wrong(&value));
        };
        let of = match (key.as_str(), text.as_str()) {
            ("tag" | "after", "") => return Err(wrong(&value)),
            ("tag", tag) => Of::Tag(tag.to_owned()),
            ("after", mark) => Of::After(mark.to_owned()),
            ("fence", language) => Of::Fence(language.to_owned()),
            ("line", "first") => Of::Line(Line::First),
            ("line", "last") => Of::Line(Line::Last),
            ("line", _) => return Err(options.wrong("of", "line = \"first\" or \"last\"", &value)),
            ("pattern", pattern) => Of::Pattern(Pattern::new(pattern, false, options, "of")?),
            _ => return Err(wrong(&value)),
        };
        Ok(Some(of))
    }

    /// The part, without space around it.
    pub fn find<'t>(&self, text: &'t str) -> Result<Option<&'t str>, Reason> {
        let found = match self {
            Of::Tag(tag) => between(text, &format!("<{tag}>"), &format!("</{tag}>")),
            Of::After(mark) => text.rsplit_once(mark.as_str()).map(|(_, after)| after),
            Of::Fence(language) => fenced(text, language),
            Of::Line(line) => {
                let mut lines = text.lines().filter(|line| !line.trim().is_empty());
                match line {
                    Line::First => lines.next(),
                    Line::Last => lines.next_back(),
                }
            }
            Of::Pattern(pattern) => pattern.last(text)?,
        };
        Ok(found.map(str::trim))
    }
}

/// What is between the last `close` and the `open` before it.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Option<&'t str> {
    let (before, _) = text.rsplit_once(close)?;
    before.rsplit_once(open).map(|(_, inside)| inside)
}

/// The last closed block between fences.
fn fenced<'t>(text: &'t str, language: &str) -> Option<&'t str> {
    let (mut found, mut open) = (None, None);
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let Some(rest) = line.trim().strip_prefix("```") else { continue };
        open = match open {
            None => Some((rest.trim(), at)),
            Some((name, begin)) => {
                if language.is_empty() || name.eq_ignore_ascii_case(language) {
                    found = text.get(begin..start);
                }
                None
            }
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<Option<Of>> {
        Of::read(&mut Options::new(text.parse().unwrap(), "f".into(), Path::new("")))
    }

    #[test]
    fn parts_are_found() {
        let cases = [
            ("{ tag = 'answer' }", "<think>no</think> <answer> 4 </answer>", Some("4")),
            ("{ tag = 'answer' }", "<answer>1</answer> wait <answer>2</answer> so", Some("2")),
            ("{ tag = 'answer' }", "<answer>1<answer>2</answer>", Some("2")),
            ("{ tag = 'answer' }", "</answer>1<answer>", None),
            ("{ tag = 'answer' }", "<answer>1", None),
            ("{ after = '####' }", "2 + 2 = 4\n#### 4\n", Some("4")),
            ("{ after = '####' }", "4", None),
            ("{ fence = 'json' }", "so:\n```json\n{}\n```\nor\n```py\n1\n```", Some("{}")),
            ("{ fence = '' }", "```json\n{}\n```\nor\n```py\n1\n2\n```", Some("1\n2")),
            ("{ fence = '' }", "```\n```", Some("")),
            ("{ fence = '' }", "```\nnever closed", None),
            ("{ line = 'last' }", "a\n b \n\n", Some("b")),
            ("{ line = 'first' }", "\n\n a \nb", Some("a")),
            ("{ line = 'first' }", " \n", None),
            (r"{ pattern = '\\boxed\{([^}]*)\}' }", r"\boxed{1} then \boxed{ 2 }", Some("2")),
            (r"{ pattern = '\d+' }", "1 and 23", Some("23")),
            (r"{ pattern = 'a(b)?' }", "ab a", Some("b")),
            (r"{ pattern = '\d+' }", "none", None),
        ];
        for (of, text, expected) in cases {
            let of = read(&format!("of = {of}")).unwrap().unwrap();
            assert_eq!(of.find(text).unwrap(), expected, "{of:?} of {text:?}");
        }
        assert!(read("").unwrap().is_none());
    }

    #[test]
    fn what_is_none_is_refused() {
        let texts = ["3", "{}", "{ tag = '' }", "{ tag = 1 }", "{ tga = 'x' }", "{ tag = 'x', after = 'y' }"];
        for text in texts {
            let error = read(&format!("of = {text}")).unwrap_err().to_string();
            assert!(error.contains("`of`: expected a table with one of tag, after"), "{error}");
        }
        assert!(read("of = { line = 'middle' }").unwrap_err().to_string().contains("\"first\" or \"last\""));
        assert!(
            read("of = { pattern = '(' }").unwrap_err().to_string().contains("expected a regular expression")
        );
    }
}
