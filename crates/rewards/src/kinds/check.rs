//! `check`: 1 if the answer keeps to all the conditions that are given; with `partial = true` the share of them.
//! Nothing is run; texts are looked at as they are.
//!
//! | condition | holds if |
//! |---|---|
//! | `starts_with`, `ends_with` | it begins (ends) with one of these texts, space around it left out |
//! | `without` | none of these words is in it, whatever their case |
//! | `matches`, `no_match` | each of these patterns matches somewhere; none does |
//! | `balanced` | brackets of these pairs, such as `"()[]{}"`, close what was opened; quotes and comments are not known |
//! | `min_lines`, `max_lines` | so many lines, empty ones at the ends left out |
//! | `ascii = true` | every character is ASCII |
//! | `complete = true` | the model ended it; it was not cut off |

use super::{Each, Made, Seen};
use crate::answer::Reason;
use crate::error::Result;
use crate::options::Options;
use crate::pattern::Pattern;
use crate::spec::Setup;

struct Check {
    conditions: Vec<Condition>,
    partial: bool,
}

enum Condition {
    StartsWith(Vec<String>),
    EndsWith(Vec<String>),
    /// In small letters.
    Without(Vec<String>),
    Matches(Vec<Pattern>),
    NoMatch(Vec<Pattern>),
    /// Pairs.
    Balanced(Vec<(char, char)>),
    MinLines(usize),
    MaxLines(usize),
    Ascii,
    Complete,
}

pub(super) fn make(options: &mut Options, _: &Setup, _: bool) -> Result<Made> {
    let lowered = |words: Vec<String>| words.into_iter().map(|word| word.to_lowercase()).collect();
    let conditions: Vec<_> = [
        options.texts("starts_with")?.map(Condition::StartsWith),
        options.texts("ends_with")?.map(Condition::EndsWith),
        options.texts("without")?.map(lowered).map(Condition::Without),
        patterns(options, "matches")?.map(Condition::Matches),
        patterns(options, "no_match")?.map(Condition::NoMatch),
        pairs(options)?.map(Condition::Balanced),
        options.count("min_lines", 1)?.map(Condition::MinLines),
        options.count("max_lines", 1)?.map(Condition::MaxLines),
        options.flag("ascii")?.then_some(Condition::Ascii),
        options.flag("complete")?.then_some(Condition::Complete),
    ]
    .into_iter()
    .flatten()
    .collect();
    let partial = options.flag("partial")?;
    if conditions.is_empty() {
        return Err(options.error(
            "expected a condition (starts_with, ends_with, without, matches, no_match, balanced, min_lines, max_lines, \
             ascii, complete), found none",
        ));
    }
    Ok(Made::each(Check { conditions, partial }))
}

fn patterns(options: &mut Options, key: &'static str) -> Result<Option<Vec<Pattern>>> {
    let Some(texts) = options.texts(key)? else { return Ok(None) };
    texts.iter().map(|text| Pattern::new(text, false, options, key)).collect::<Result<_>>().map(Some)
}

fn pairs(options: &mut Options) -> Result<Option<Vec<(char, char)>>> {
    let Some(text) = options.text("balanced")? else { return Ok(None) };
    let brackets: Vec<char> = text.chars().collect();
    let is_twice = |(i, c): (usize, &char)| brackets[..i].contains(c);
    if brackets.is_empty() || brackets.len() % 2 == 1 || brackets.iter().enumerate().any(is_twice) {
        let expected = "pairs of different brackets, such as \"()[]{}\"";
        return Err(options.wrong("balanced", expected, format_args!("{text:?}")));
    }
    Ok(Some(brackets.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()))
}

impl Each for Check {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason> {
        let mut held = 0;
        for condition in &self.conditions {
            held += usize::from(condition.holds(seen)?);
        }
        let all = self.conditions.len();
        Ok(if self.partial { held as f64 / all as f64 } else { f64::from(held == all) })
    }
}

impl Condition {
    fn holds(&self, seen: &Seen<'_>) -> Result<bool, Reason> {
        let text = seen.text.trim();
        let any = |patterns: &[Pattern], wanted: bool| -> Result<bool, Reason> {
            for pattern in patterns {
                if pattern.is_in(seen.text)? == wanted {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        Ok(match self {
            Condition::StartsWith(starts) => starts.iter().any(|start| text.starts_with(start)),
            Condition::EndsWith(ends) => ends.iter().any(|end| text.ends_with(end)),
            Condition::Without(words) => {
                let text = text.to_lowercase();
                !words.iter().any(|word| has_word(&text, word))
            }
            Condition::Matches(patterns) => !any(patterns, false)?,
            Condition::NoMatch(patterns) => !any(patterns, true)?,
            Condition::Balanced(pairs) => is_balanced(text, pairs),
            Condition::MinLines(least) => text.lines().count() >= *least,
            Condition::MaxLines(most) => text.lines().count() <= *most,
            Condition::Ascii => seen.text.is_ascii(),
            Condition::Complete => !seen.answer.truncated,
        })
    }
}

/// Whether a word is in a text, not as a part of a longer word.
fn has_word(text: &str, word: &str) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(word).any(|(at, found)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + found.len()..].chars().next());
        // A word that itself begins or ends with a sign, such as `c++`, needs no border there.
        let is_joined_before = is_letter(before) && is_letter(word.chars().next());
        let is_joined_after = is_letter(after) && is_letter(word.chars().next_back());
        !is_joined_before && !is_joined_after
    })
}

fn is_balanced(text: &str, pairs: &[(char, char)]) -> bool {
    let mut open = Vec::new();
    for c in text.chars() {
        if let Some((_, close)) = pairs.iter().find(|(open, _)| *open == c) {
            open.push(*close);
        } else if pairs.iter().any(|(_, close)| *close == c) && open.pop() != Some(c) {
            return false;
        }
    }
    open.is_empty()
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{error, judge};

    #[test]
    fn each_condition_holds_or_not() {
        let cases = [
            ("starts_with = ['Yes', 'No']", " No, never", "Maybe"),
            ("ends_with = '.'", "Done. \n", "Done"),
            ("without = ['as an ai', 'damn', 'c++']", "The dam is damned.", "Damn, no"),
            ("without = 'c++'", "c and ++", "I like C++11"),
            ("matches = ['a', 'b']", "ab", "a"),
            ("no_match = ['a', 'b']", "c", "b"),
            ("balanced = '()[]{}'", "f(a[0]) { x }", "f(a[0)]"),
            ("balanced = '()'", "[", "(()"),
            ("balanced = '()'", "", ")("),
            ("min_lines = 2", "a\nb", "\na\n"),
            ("max_lines = 1", "\na\n", "a\nb"),
            ("ascii = true", "plain", "naïve"),
            ("complete = true", "whole", "cut o…"),
        ];
        for (condition, good, bad) in cases {
            let options = format!("kind = 'check'\n{condition}");
            assert_eq!(judge(&options, good, ""), 1.0, "{condition}: {good}");
            assert_eq!(judge(&options, bad, ""), 0.0, "{condition}: {bad}");
        }
    }

    #[test]
    fn several_conditions_are_all_or_a_share() {
        let options = "kind = 'check'\nstarts_with = 'a'\nends_with = 'z'\nmax_lines = 1\nascii = true";
        assert_eq!(judge(options, "a-z", ""), 1.0);
        assert_eq!(judge(options, "a-y", ""), 0.0);
        assert_eq!(judge(&format!("{options}\npartial = true"), "a-y", ""), 0.75);
    }

    #[test]
    fn odd_conditions_are_refused() {
        assert!(error("kind = 'check'").contains("expected a condition (starts_with"));
        assert!(error("kind = 'check'\nascii = false").contains("found none"));
        for pairs in ["", "(", "((", "()("] {
            assert!(
                error(&format!("kind = 'check'\nbalanced = '{pairs}'"))
                    .contains("pairs of different brackets")
            );
        }
        assert!(error("kind = 'check'\nmatches = '('").contains("`matches`: expected a regular expression"));
        assert!(error("kind = 'check'\nascii = true\nnever = 'x'").contains("unknown key `never`"));
    }
}
