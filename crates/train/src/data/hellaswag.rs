//! HellaSwag: which of four endings goes on from a beginning? (Zellers and others, 2019.)
//!
//! The public files (`hellaswag_val.jsonl`) hold an object a line with `ctx`, `endings`, `label` and `ind`.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use wootz_text::{Special, Tokenizer};

use crate::error::{Context as _, Error, Result};

/// A question, as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The file's own number of it.
    pub ind: u64,
    /// The beginning.
    pub context: Vec<u32>,
    /// Four ways to go on, each with the space before it.
    pub endings: [Vec<u32>; 4],
    /// Which is right, from 0.
    pub label: usize,
}

#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    ind: u64,
    ctx: String,
    endings: [String; 4],
    /// A number, or its digits.
    label: Value,
}

/// Reads all questions of a file. An ending is encoded with a space before it, apart from its beginning, as llm.c does.
///
/// # Errors
/// The file cannot be read, or a line is no question; the message names it.
pub fn read(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<Question>> {
    let file = File::open(path).context(|| format!("{}: cannot open", path.display()))?;
    let mut questions = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let place = || format!("{}:{number}", path.display());
        let line = line.context(place)?;
        if !line.trim().is_empty() {
            questions.push(question(&line, tokenizer).context(place)?);
        }
    }
    Ok(questions)
}

fn question(line: &str, tokenizer: &Tokenizer) -> Result<Question> {
    let row: Row =
        serde_json::from_str(line).context(|| "expected `ctx`, four `endings`, a `label` and `ind`")?;
    let label = match &row.label {
        Value::Number(number) => number.as_u64(),
        Value::String(digits) => digits.parse().ok(),
        _ => None,
    };
    let label = label.and_then(|label| usize::try_from(label).ok()).filter(|&label| label < 4);
    let label = label.ok_or_else(|| Error::new(format!("`label` is {}, expected 0 to 3", row.label)))?;
    let encode = |text: &str| tokenizer.encode(text, Special::default()).context(|| "cannot be encoded");
    let mut endings = [const { Vec::new() }; 4];
    for (ids, text) in endings.iter_mut().zip(&row.endings) {
        *ids = encode(&format!(" {text}"))?;
    }
    Ok(Question { ind: row.ind, context: encode(&row.ctx)?, endings, label })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_and_bad_lines_named() {
        let tokenizer = wootz_text::train::bytes().unwrap().tokenizer;
        let path = std::env::temp_dir().join(format!("wootz-hellaswag-{}.jsonl", std::process::id()));
        let good = r#"{"ind": 24, "activity_label": "x", "ctx": "A man", "endings": ["a", "b", "c", "de"], "label": 3}"#;
        std::fs::write(&path, format!("{good}\n\n{}\n", good.replace("3}", "\"0\"}"))).unwrap();
        let questions = read(&path, &tokenizer).unwrap();
        assert_eq!(questions.iter().map(|q| (q.ind, q.label)).collect::<Vec<_>>(), [(24, 3), (24, 0)]);
        assert_eq!(tokenizer.decode(&questions[0].context, false), "A man");
        assert_eq!(tokenizer.decode(&questions[0].endings[3], false), " de");
        for (bad, expected) in [
            (good.replace("3}", "4}"), "`label` is 4"),
            (good.replace(", \"de\"", ""), "four `endings`"),
            ("{".to_owned(), "expected `ctx`"),
        ] {
            std::fs::write(&path, format!("{good}\n{bad}\n")).unwrap();
            let error = format!("{:#}", read(&path, &tokenizer).unwrap_err());
            assert!(error.contains(".jsonl:2: ") && error.contains(expected), "{error}");
        }
        std::fs::remove_file(path).unwrap();
    }
}
