//! Regular expressions, with a limit to how long they search.

use fancy_regex::{Regex, RegexBuilder};

use crate::answer::Reason;
use crate::error::{Error, Result};
use crate::options::Options;

/// Steps back of one search, at the most. Beyond it there is a failure.
const STEPS: usize = 1_000_000;

/// A regular expression, with look-around and back-references.
#[derive(Debug)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    pub fn new(pattern: &str, ignore_case: bool, options: &Options, key: &str) -> Result<Pattern> {
        let made = RegexBuilder::new(pattern).case_insensitive(ignore_case).backtrack_limit(STEPS).build();
        made.map(Pattern).map_err(|error| {
            Error::new(format!(
                "{}: `{key}`: expected a regular expression, found `{pattern}`: {error}",
                options.place
            ))
        })
    }

    /// Whether it matches anywhere.
    pub fn is_in(&self, text: &str) -> Result<bool, Reason> {
        self.0.is_match(text).map_err(|error| self.reason(error))
    }

    /// The last match: its first group, or all of it if there is none.
    pub fn last<'t>(&self, text: &'t str) -> Result<Option<&'t str>, Reason> {
        let mut last = None;
        for captures in self.0.captures_iter(text) {
            let captures = captures.map_err(|error| self.reason(error))?;
            let group = if self.0.captures_len() > 1 { captures.get(1) } else { captures.get(0) };
            last = group.map(|found| found.as_str()).or(last);
        }
        Ok(last)
    }

    fn reason(&self, error: fancy_regex::Error) -> Reason {
        Reason::from(format!("the pattern `{}` was given up: {error}", self.0.as_str()))
    }
}
