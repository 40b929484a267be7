//! `edit`: how much of the answer is right, in characters:
//!
//! ```text
//! 1 − d / max(length of the answer, length of the reference)
//! ```
//!
//! where `d` is the fewest insertions, deletions and replacements of characters that make one of the other (Levenshtein's
//! distance), space around both left out. Of several references, the nearest. It pays for every right digit, so that there is
//! something to learn from before a whole answer is right.
//!
//! Options: `field` or `text` (default: `field = "answer"`). Only the first 2000 characters are compared; what is beyond
//! counts as wrong.

use super::{Each, Made, Seen};
use crate::answer::{Fields, Reason};
use crate::error::Result;
use crate::options::Options;
use crate::reference::Reference;
use crate::spec::Setup;

/// Characters that are compared; time grows with their square.
const LONGEST: usize = 2000;

struct Edit {
    reference: Reference,
}

pub(super) fn make(options: &mut Options, _: &Setup, _: bool) -> Result<Made> {
    Ok(Made::each(Edit { reference: Reference::read(options)? }))
}

impl Each for Edit {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason> {
        let references = self.reference.texts(seen.answer.fields)?;
        Ok(references
            .iter()
            .map(|reference| likeness(seen.text.trim(), reference.trim()))
            .fold(0.0, f64::max))
    }

    fn check(&self, fields: &Fields) -> Result<(), Reason> {
        self.reference.texts(fields).map(|_| ())
    }
}

fn likeness(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let longer = a.len().max(b.len());
    if longer == 0 {
        return 1.0;
    }
    let beyond = longer.saturating_sub(LONGEST);
    let distance = distance(&a[..a.len().min(LONGEST)], &b[..b.len().min(LONGEST)]) + beyond;
    (longer - distance.min(longer)) as f64 / longer as f64
}

/// Levenshtein's distance, a row of the table at a time.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        // Of the row above: the entry to the left of the one that is overwritten.
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::testing::judge;

    #[test]
    fn every_right_character_counts() {
        let plain = "kind = 'edit'";
        assert_eq!(judge(plain, " 1234 ", "1234"), 1.0);
        assert_eq!(judge(plain, "1235", "1234"), 0.75);
        assert_eq!(judge(plain, "234", "1234"), 0.75);
        assert_eq!(judge(plain, "12345678", "1234"), 0.5);
        assert_eq!(judge(plain, "", "1234"), 0.0);
        assert_eq!(judge(plain, "x", ""), 0.0);
        assert_eq!(judge(plain, "", ""), 1.0);
        assert_eq!(judge(plain, "sitting", json!(["x", "kitten"])), 4.0 / 7.0);
        assert_eq!(judge(plain, "größe", "grösse"), 4.0 / 6.0);
    }

    #[test]
    fn long_texts_take_no_longer() {
        let long = "a".repeat(1_000_000);
        assert_eq!(judge("kind = 'edit'", &long, "a".repeat(1_000_000)), 0.002);
        assert_eq!(judge("kind = 'edit'", &long, "b"), 0.0);
    }
}
