//! `regex`: 1 if the pattern matches anywhere in the answer. With `field` or `text`, 1 if the last match equals the
//! reference: its first group if there is one, else all of it, without space around. A search that takes too many steps
//! is a failure.
//!
//! Options: `pattern`, `ignore_case`, `field` or `text`.

use super::{Each, Made, Seen};
use crate::answer::{Fields, Reason};
use crate::error::Result;
use crate::options::Options;
use crate::pattern::Pattern;
use crate::reference::Reference;
use crate::spec::Setup;

struct Matches {
    pattern: Pattern,
    reference: Option<Reference>,
}

pub(super) fn make(options: &mut Options, _: &Setup, _: bool) -> Result<Made> {
    let pattern = options.required("pattern")?;
    let ignore_case = options.flag("ignore_case")?;
    let pattern = Pattern::new(&pattern, ignore_case, options, "pattern")?;
    Ok(Made::each(Matches { pattern, reference: Reference::read_optional(options)? }))
}

impl Each for Matches {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason> {
        let Some(reference) = &self.reference else { return Ok(f64::from(self.pattern.is_in(seen.text)?)) };
        let references = reference.texts(seen.answer.fields)?;
        let found = self.pattern.last(seen.text)?.map(str::trim);
        Ok(f64::from(found.is_some_and(|found| references.iter().any(|reference| reference.trim() == found))))
    }

    fn check(&self, fields: &Fields) -> Result<(), Reason> {
        self.reference.as_ref().map_or(Ok(()), |reference| reference.texts(fields).map(|_| ()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::testing::{error, judge, judge_with};

    #[test]
    fn patterns_match_or_capture() {
        assert_eq!(
            judge(
                r"kind = 'regex'
            pattern = '^\d+$'",
                "42",
                ""
            ),
            1.0
        );
        assert_eq!(judge("kind = 'regex'\npattern = '^[a-z]+$'", "ABC", ""), 0.0);
        assert_eq!(judge("kind = 'regex'\npattern = '^[a-z]+$'\nignore_case = true", "ABC", ""), 1.0);
        let captured = "kind = 'regex'\npattern = 'answer is (\\w+)'\nfield = 'answer'";
        assert_eq!(judge(captured, "the answer is A, no, the answer is B.", "B"), 1.0);
        assert_eq!(judge(captured, "the answer is A, no, the answer is B.", "A"), 0.0);
        assert_eq!(judge(captured, "B", "B"), 0.0);
        assert_eq!(judge(captured, "the answer is 7", 7), 1.0);
    }

    #[test]
    fn a_search_without_end_is_a_failure_and_not_zero() {
        let text = "a".repeat(60) + "!";
        let failure =
            judge_with("kind = 'regex'\npattern = '^(?:a|aa)+(?!a)$'", &text, &json!({})).unwrap_err();
        assert!(failure.contains("was given up"), "{failure}");
        assert!(error("kind = 'regex'").contains("`pattern` is missing"));
        assert!(error("kind = 'regex'\npattern = '('").contains("expected a regular expression, found `(`"));
    }
}
