//! `exact`: 1 if the answer equals the reference, space around both left out; else 0. Of several references, one is
//! enough.
//!
//! Options: `field` or `text` (default: `field = "answer"`), `ignore_case`.

use super::{Each, Made, Seen};
use crate::answer::{Fields, Reason};
use crate::error::Result;
use crate::options::Options;
use crate::reference::Reference;
use crate::spec::Setup;

struct Exact {
    reference: Reference,
    ignore_case: bool,
}

pub(super) fn make(options: &mut Options, _: &Setup, _: bool) -> Result<Made> {
    let reference = Reference::read(options)?;
    Ok(Made::each(Exact { reference, ignore_case: options.flag("ignore_case")? }))
}

impl Each for Exact {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason> {
        let text = seen.text.trim();
        let is_it = |reference: &str| {
            let reference = reference.trim();
            text == reference || self.ignore_case && text.to_lowercase() == reference.to_lowercase()
        };
        let references = self.reference.texts(seen.answer.fields)?;
        Ok(f64::from(references.iter().any(|reference| is_it(reference))))
    }

    fn check(&self, fields: &Fields) -> Result<(), Reason> {
        self.reference.texts(fields).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::testing::{error, judge, judge_with};

    #[test]
    fn equal_texts_are_worth_one() {
        let plain = "kind = 'exact'";
        assert_eq!(judge(plain, " 4\n", "4"), 1.0);
        assert_eq!(judge(plain, "4.", "4"), 0.0);
        assert_eq!(judge(plain, "", ""), 1.0);
        assert_eq!(judge(plain, "4", 4), 1.0);
        assert_eq!(judge(plain, "Paris", json!(["Lyon", " Paris"])), 1.0);
        assert_eq!(judge(plain, "paris", "Paris"), 0.0);
        assert_eq!(judge("kind = 'exact'\nignore_case = true", "ÉTÉ", "été"), 1.0);
        assert_eq!(judge("kind = 'exact'\ntext = ['yes', 'no']", "no", "yes"), 1.0);
    }

    #[test]
    fn a_field_that_is_not_there_is_a_failure() {
        let failure = judge_with("kind = 'exact'\nfield = '/meta/label'", "4", &json!({ "answer": "4" }));
        assert_eq!(
            failure.unwrap_err(),
            "reward `exact`: the record has no field `/meta/label`; it has `answer`"
        );
        assert!(
            error("kind = 'exact'\nfield = 'a'\ntext = 'b'").contains("expected one of them, found both")
        );
    }
}
