//! `contains`: whether texts stand in the answer. With `need = "any"` (the default) 1 if one of them does, with `"all"`
//! if every one does; with `"share"` the share of those that do.
//!
//! Options: `text` or `field` (default: `field = "answer"`), `need`, `ignore_case`.

use super::{Each, Made, Seen};
use crate::answer::{Fields, Reason};
use crate::error::Result;
use crate::options::Options;
use crate::reference::Reference;
use crate::spec::Setup;

struct Contains {
    reference: Reference,
    need: Need,
    ignore_case: bool,
}

#[derive(Clone, Copy)]
enum Need {
    Any,
    All,
    Share,
}

pub(super) fn make(options: &mut Options, _: &Setup, _: bool) -> Result<Made> {
    let reference = Reference::read(options)?;
    let need = options.choice("need", &[("any", Need::Any), ("all", Need::All), ("share", Need::Share)])?;
    Ok(Made::each(Contains { reference, need, ignore_case: options.flag("ignore_case")? }))
}

impl Each for Contains {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason> {
        let references = self.reference.texts(seen.answer.fields)?;
        let found = if self.ignore_case {
            let text = seen.text.to_lowercase();
            references.iter().filter(|reference| text.contains(&reference.to_lowercase())).count()
        } else {
            references.iter().filter(|reference| seen.text.contains(reference.as_ref())).count()
        };
        Ok(match self.need {
            Need::Any => f64::from(found > 0),
            Need::All => f64::from(found == references.len()),
            Need::Share => found as f64 / references.len() as f64,
        })
    }

    fn check(&self, fields: &Fields) -> Result<(), Reason> {
        self.reference.texts(fields).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::testing::{error, judge};

    #[test]
    fn one_or_all_or_a_share_must_be_there() {
        let texts = json!(["red", "green", "blue", "grey"]);
        let text = "Red, green and blue";
        assert_eq!(judge("kind = 'contains'", text, texts.clone()), 1.0);
        assert_eq!(judge("kind = 'contains'", "black", texts.clone()), 0.0);
        assert_eq!(judge("kind = 'contains'\nneed = 'all'", text, texts.clone()), 0.0);
        assert_eq!(judge("kind = 'contains'\nneed = 'all'", text, json!(["green", "blue"])), 1.0);
        assert_eq!(judge("kind = 'contains'\nneed = 'share'", text, texts.clone()), 0.5);
        assert_eq!(judge("kind = 'contains'\nneed = 'share'\nignore_case = true", text, texts), 0.75);
        assert_eq!(judge("kind = 'contains'\ntext = 'and'", text, ""), 1.0);
        assert!(
            error("kind = 'contains'\nneed = 'most'")
                .contains("`need`: expected \"any\" or \"all\" or \"share\"")
        );
    }
}
