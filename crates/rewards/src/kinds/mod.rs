//! The kinds of reward: one a file, and the list of them.
//!
//! What a built-in kind says is between 0 and 1, and 1 is best; a negative weight turns it round. What a program or a
//! service says is any finite number.

mod check;
mod command;
mod contains;
mod edit;
mod exact;
mod format;
#[cfg(feature = "http")]
mod http;
mod json;
mod length;
mod numeric;
mod protocol;
mod regex;
mod repetition;

use toml::{Table, Value};

use crate::answer::{Answer, Fields, Reason};
use crate::error::Result;
use crate::options::Options;
use crate::spec::Setup;

/// Every kind, by name.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "exact",
        about: "equals a field of the record",
        short: Short::Text("field"),
        make: exact::make,
    },
    Kind { name: "contains", about: "has texts in it", short: Short::Text("text"), make: contains::make },
    Kind { name: "regex", about: "matches a pattern", short: Short::Text("pattern"), make: regex::make },
    Kind {
        name: "numeric",
        about: "its number is right",
        short: Short::Number("tolerance"),
        make: numeric::make,
    },
    Kind {
        name: "edit",
        about: "is nearly a field of the record",
        short: Short::Text("field"),
        make: edit::make,
    },
    Kind { name: "json", about: "is JSON, of a schema", short: Short::Text("schema"), make: json::make },
    Kind { name: "length", about: "is neither short nor long", short: Short::Range, make: length::make },
    Kind {
        name: "repetition",
        about: "does not repeat itself",
        short: Short::Number("n"),
        make: repetition::make,
    },
    Kind { name: "format", about: "has its tags in order", short: Short::List("tags"), make: format::make },
    Kind { name: "check", about: "keeps to simple conditions", short: Short::None, make: check::make },
    Kind {
        name: "command",
        about: "what a program says",
        short: Short::Text("command"),
        make: command::make,
    },
    #[cfg(feature = "http")]
    Kind { name: "http", about: "what a service says", short: Short::Text("url"), make: http::make },
];

/// A kind of reward.
pub struct Kind {
    /// What it is called in a spec.
    pub name: &'static str,
    /// What an answer gets it for.
    pub about: &'static str,
    /// What follows the name in a spec of one line.
    pub(crate) short: Short,
    /// Reads its options; the last argument tells whether only a part of the answer (`of`) will be seen.
    pub(crate) make: fn(&mut Options, &Setup, bool) -> Result<Made>,
}

/// The names of all kinds, for messages.
pub(crate) fn names() -> String {
    KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

/// An answer, and the part of it that is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub text: &'a str,
    pub answer: Answer<'a>,
}

/// What judges.
pub(crate) enum Judge {
    Each(Box<dyn Each>),
    Together(Box<dyn Together>),
}

/// A judge of one answer, here and now.
pub(crate) trait Each: Send + Sync {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason>;

    /// Whether a record has what it needs.
    fn check(&self, _fields: &Fields) -> Result<(), Reason> {
        Ok(())
    }
}

/// What is said of an answer: the reward, then its further parts.
pub(crate) type Values = Result<Vec<f64>, Reason>;

/// A judge of many answers, elsewhere. One result for each, in order.
pub(crate) trait Together: Send + Sync {
    fn judge(&self, seen: &[Seen<'_>]) -> Vec<Values>;
}

/// A judge, and the names of the further parts that it gives.
pub(crate) struct Made {
    pub judge: Judge,
    pub parts: Vec<String>,
}

impl Made {
    pub fn each(judge: impl Each + 'static) -> Made {
        Made { judge: Judge::Each(Box::new(judge)), parts: Vec::new() }
    }

    pub fn together(judge: impl Together + 'static, parts: Vec<String>) -> Made {
        Made { judge: Judge::Together(Box::new(judge)), parts }
    }
}

/// What follows the name of a kind in a spec of one line.
pub(crate) enum Short {
    /// This option.
    Text(&'static str),
    /// This option, a number.
    Number(&'static str),
    /// This option, words with commas between.
    List(&'static str),
    /// `min` and `max`, either of which may be left out, with two dots between.
    Range,
    /// Nothing.
    None,
}

impl Short {
    /// The options that it stands for.
    ///
    /// # Errors
    /// What was expected.
    pub fn table(&self, text: &str) -> Result<Table, &'static str> {
        let text = text.trim();
        let entry = |key: &str, value| Table::from_iter([(key.to_owned(), value)]);
        let number = |text: &str| {
            let whole = text.parse().map(Value::Integer);
            whole.or_else(|_| text.parse().map(Value::Float)).map_err(|_| "a number")
        };
        match self {
            Short::Text(_) if text.is_empty() => Err("something"),
            Short::Text(key) => Ok(entry(key, Value::String(text.to_owned()))),
            Short::Number(key) => Ok(entry(key, number(text)?)),
            Short::List(key) => {
                let words = text.split(',').map(|word| Value::String(word.trim().to_owned()));
                Ok(entry(key, Value::Array(words.collect())))
            }
            Short::Range => {
                let expected = "MIN..MAX, MIN.. or ..MAX";
                let (min, max) = text.split_once("..").ok_or(expected)?;
                let mut table = Table::new();
                for (key, text) in [("min", min), ("max", max)] {
                    if !text.is_empty() {
                        table.insert(key.to_owned(), number(text).map_err(|_| expected)?);
                    }
                }
                Ok(table)
            }
            Short::None => Err("nothing, for its options do not fit on a line; write a TOML file"),
        }
    }
}

/// Falls in a line from 1 at distance 0 to 0 at distance `fall`; where `fall` is 0, at once.
pub(crate) fn falling(distance: f64, fall: f64) -> f64 {
    if distance <= 0.0 {
        1.0
    } else if distance < fall {
        1.0 - distance / fall
    } else {
        0.0
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::path::Path;

    use serde_json::Value;

    use crate::{Answer, Rewards};

    /// What a single reward with these options says of a text, with this record.
    pub fn judge_with(options: &str, text: &str, record: &Value) -> Result<f64, String> {
        let rewards = read(options).unwrap();
        let tokens = text.split(' ').count();
        let fields = record.as_object().unwrap();
        let answer = Answer { prompt: "p", text, tokens, truncated: text.ends_with('…'), fields };
        let score = rewards.score(&[answer]).remove(0).map_err(|failure| failure.to_string())?;
        assert_eq!(score.parts, [score.total]);
        assert!(rewards.check(fields).is_ok());
        Ok(score.total)
    }

    /// As [`judge_with`], with the record `{"answer": answer}`.
    pub fn judge(options: &str, text: &str, answer: impl Into<Value>) -> f64 {
        judge_with(options, text, &serde_json::json!({ "answer": answer.into() })).unwrap()
    }

    pub fn read(options: &str) -> crate::Result<Rewards> {
        Rewards::from_toml(&format!("[[reward]]\n{options}"), Path::new("f.toml"))
    }

    pub fn error(options: &str) -> String {
        format!("{:#}", read(options).unwrap_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_not_twice() {
        for (i, kind) in KINDS.iter().enumerate() {
            assert!(kind.name.chars().all(|c| c.is_ascii_lowercase()), "{}", kind.name);
            assert!(!kind.about.is_empty() && !kind.about.ends_with('.'), "{}", kind.name);
            assert!(KINDS[..i].iter().all(|other| other.name != kind.name), "{}", kind.name);
        }
    }

    #[test]
    fn values_fall_in_a_line() {
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(|distance| falling(distance, 2.0)), [1.0, 0.5, 0.0, 0.0]);
        assert_eq!([0.0, 0.1].map(|distance| falling(distance, 0.0)), [1.0, 0.0]);
    }
}
