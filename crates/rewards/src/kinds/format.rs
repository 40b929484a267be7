//! `format`: 1 if the answer is `<think>…</think> <answer>…</answer>` and nothing else: each tag opened once and closed
//! once, in this order, and only space outside. With `partial = true` the share of these conditions that hold: two for each
//! tag (there once; where it should be), and one for the outside, which counts only where all tags are in order.
//!
//! Options: `tags` (`["think", "answer"]`), `partial`, `outside` (`"nothing"` or `"anything"`), `before`: what the prompt
//! already wrote of the answer, such as `"<think>"` where a chat template does so.

use super::{Each, Made, Seen};
use crate::answer::Reason;
use crate::error::Result;
use crate::options::Options;
use crate::spec::Setup;

struct Format {
    /// `<a>`, `</a>`, `<b>`, `</b>`, …
    marks: Vec<String>,
    partial: bool,
    outside: Outside,
    before: String,
}

#[derive(Clone, Copy)]
enum Outside {
    Nothing,
    Anything,
}

pub(super) fn make(options: &mut Options, _: &Setup, _: bool) -> Result<Made> {
    let tags = options.texts("tags")?.unwrap_or_else(|| vec!["think".to_owned(), "answer".to_owned()]);
    for (i, tag) in tags.iter().enumerate() {
        if tag.is_empty() || tag.contains(['<', '>', '/']) || tags[..i].contains(tag) {
            let expected = "different names of tags, without brackets";
            return Err(options.wrong("tags", expected, format_args!("{tags:?}")));
        }
    }
    Ok(Made::each(Format {
        marks: tags.iter().flat_map(|tag| [format!("<{tag}>"), format!("</{tag}>")]).collect(),
        partial: options.flag("partial")?,
        outside: options
            .choice("outside", &[("nothing", Outside::Nothing), ("anything", Outside::Anything)])?,
        before: options.text("before")?.unwrap_or_default(),
    }))
}

impl Each for Format {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason> {
        let text = format!("{}{}", self.before, seen.text);
        // Where each mark is, if it is there once.
        let places: Vec<_> = self.marks.iter().map(|mark| only(&text, mark)).collect();
        let mut held = 0;
        let mut last_end = 0;
        let mut is_bare = true;
        for (pair, marks) in places.chunks(2).zip(self.marks.chunks(2)) {
            let &[Some(open), Some(close)] = pair else { continue };
            held += 1;
            if last_end <= open && open < close {
                held += 1;
                is_bare &= text[last_end..open].trim().is_empty();
                last_end = close + marks.last().map_or(0, String::len);
            }
        }
        let tags = self.marks.len();
        is_bare &= text[last_end..].trim().is_empty();
        let (held, all) = match self.outside {
            Outside::Anything => (held, tags),
            Outside::Nothing => (held + usize::from(held == tags && is_bare), tags + 1),
        };
        Ok(if self.partial { held as f64 / all as f64 } else { f64::from(held == all) })
    }
}

/// Where a mark is that is there once.
fn only(text: &str, mark: &str) -> Option<usize> {
    let mut found = text.match_indices(mark);
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Some(at),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{error, judge};

    #[test]
    fn tags_stand_once_and_in_order() {
        let cases = [
            ("<think>a</think><answer>b</answer>", 1.0, 1.0),
            ("\n<think>\na\n</think>\n\n<answer></answer> ", 1.0, 1.0),
            ("<think>a</think> so <answer>b</answer>", 0.0, 0.8),
            ("so <think>a</think><answer>b</answer>", 0.0, 0.8),
            ("<think>a</think><answer>b</answer> done", 0.0, 0.8),
            ("<answer>b</answer><think>a</think>", 0.0, 0.6),
            ("<think>a<answer>b</answer></think>", 0.0, 0.6),
            ("<think>a</think><think></think><answer>b</answer>", 0.0, 0.4),
            ("<think>a</think>b", 0.0, 0.4),
            ("</think><think>", 0.0, 0.2),
            ("<think><answer>", 0.0, 0.0),
            ("", 0.0, 0.0),
        ];
        for (text, whole, partial) in cases {
            assert_eq!(judge("kind = 'format'", text, ""), whole, "{text}");
            assert_eq!(judge("kind = 'format'\npartial = true", text, ""), partial, "{text}, in parts");
        }
    }

    #[test]
    fn tags_and_what_is_outside_can_be_chosen() {
        let one = "kind = 'format'\ntags = 'result'\noutside = 'anything'";
        assert_eq!(judge(one, "so <result>4</result>.", ""), 1.0);
        assert_eq!(judge(one, "so 4", ""), 0.0);
        let begun = "kind = 'format'\nbefore = '<think>'";
        assert_eq!(judge(begun, "a</think><answer>b</answer>", ""), 1.0);
        assert_eq!(judge(begun, "<think>a</think><answer>b</answer>", ""), 0.0);
        for tags in ["['a', 'a']", "['<a>']", "''"] {
            assert!(error(&format!("kind = 'format'\ntags = {tags}")).contains("different names of tags"));
        }
    }
}
