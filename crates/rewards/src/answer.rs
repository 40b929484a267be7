//! What is judged, and what comes of it.

use std::error::Error as StdError;
use std::fmt;

use serde_json::{Map, Value};

/// A record of a prompt file: a prompt and what belongs to it.
pub type Fields = Map<String, Value>;

/// An answer to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// What was asked, as the model read it.
    pub prompt: &'a str,
    /// What the model wrote.
    pub text: &'a str,
    /// Its length in tokens.
    pub tokens: usize,
    /// Whether it was cut off at the longest length allowed.
    pub truncated: bool,
    /// The record that the prompt is from: `answer`, `schema`, and whatever else stands there.
    pub fields: &'a Fields,
}

/// What an answer is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The weighted sum; a finite number.
    pub total: f64,
    /// What each reward said, unweighted, in the order of [`Rewards::names`](crate::Rewards::names).
    pub parts: Vec<f64>,
}

/// Why an answer has no score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reward that could not judge it.
    pub reward: String,
    /// What went wrong.
    pub reason: String,
    /// How often it was tried; more than 1 if it was retried, 0 if it was not tried at all.
    pub tries: u32,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reward `{}`: {}", self.reward, self.reason)?;
        match self.tries {
            0 | 1 => Ok(()),
            tries => write!(f, "; tried {tries} times"),
        }
    }
}

impl StdError for Failure {}

/// A failure before it is known which reward it is of.
#[derive(Clone, Debug)]
pub(crate) struct Reason {
    pub text: String,
    pub tries: u32,
}

impl From<String> for Reason {
    fn from(text: String) -> Reason {
        Reason { text, tries: 1 }
    }
}

/// What somebody else wrote, for a message: one line without control characters, the `chars` characters at its end.
pub(crate) fn tail(text: &str, chars: usize) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line: Vec<char> = lines.join(" / ").chars().filter(|c| !c.is_control()).collect();
    match line.len().checked_sub(chars) {
        Some(cut) if cut > 0 => format!("…{}", line[cut..].iter().collect::<String>()),
        _ => line.into_iter().collect(),
    }
}

/// As [`tail`], the characters at its beginning.
pub(crate) fn head(text: &str, chars: usize) -> String {
    let mut line: String = text.chars().filter(|c| !c.is_control()).take(chars + 1).collect();
    if let Some((cut, _)) = line.char_indices().nth(chars) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_how_often_it_was_tried() {
        let failure =
            |tries| Failure { reward: "judge".into(), reason: "it ended".into(), tries }.to_string();
        assert_eq!(failure(1), "reward `judge`: it ended");
        assert_eq!(failure(2), "reward `judge`: it ended; tried 2 times");
    }

    #[test]
    fn foreign_text_is_short_and_on_one_line() {
        assert_eq!(tail("a\n\n b\u{1b}[1m\r\nc\n", 100), "a / b[1m / c");
        assert_eq!(tail("äbcdef", 3), "…def");
        assert_eq!(tail("äbc", 4), "äbc");
        assert_eq!(head("a\nbäcd", 3), "abä…");
        assert_eq!(head("abc", 3), "abc");
    }
}
