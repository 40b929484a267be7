//! `repetition`: 1 if no run of `n` words occurs twice, less the more do:
//!
//! ```text
//! share = 1 − different n-grams / all n-grams;   worth = 1 − max(0, share − allowed) / (1 − allowed)
//! ```
//!
//! An answer shorter than `n` is worth 1. Words are what has space between, in small letters. Options: `n` (3), `allowed`
//! (0), `unit` (`"words"` or `"characters"`).

use std::collections::HashSet;

use super::{Each, Made, Seen};
use crate::answer::Reason;
use crate::error::Result;
use crate::options::Options;
use crate::spec::Setup;

struct Repetition {
    n: usize,
    allowed: f64,
    unit: Unit,
}

#[derive(Clone, Copy)]
enum Unit {
    Words,
    Characters,
}

pub(super) fn make(options: &mut Options, _: &Setup, _: bool) -> Result<Made> {
    let allowed = options.share("allowed")?.unwrap_or(0.0);
    if allowed == 1.0 {
        return Err(options.wrong("allowed", "less than 1", allowed));
    }
    Ok(Made::each(Repetition {
        n: options.count("n", 1)?.unwrap_or(3),
        allowed,
        unit: options.choice("unit", &[("words", Unit::Words), ("characters", Unit::Characters)])?,
    }))
}

impl Each for Repetition {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason> {
        let text = seen.text.to_lowercase();
        let share = match self.unit {
            Unit::Words => repeated(&text.split_whitespace().collect::<Vec<_>>(), self.n),
            Unit::Characters => repeated(&text.chars().collect::<Vec<_>>(), self.n),
        };
        Ok(1.0 - (share - self.allowed).max(0.0) / (1.0 - self.allowed))
    }
}

/// The share of n-grams that occurred before.
fn repeated<T: Eq + std::hash::Hash>(items: &[T], n: usize) -> f64 {
    let all = (items.len() + 1).saturating_sub(n);
    if all == 0 {
        return 0.0;
    }
    let different = items.windows(n).collect::<HashSet<_>>().len();
    1.0 - different as f64 / all as f64
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{error, judge};

    #[test]
    fn what_occurs_again_costs() {
        let plain = "kind = 'repetition'";
        assert_eq!(judge(plain, "", ""), 1.0);
        assert_eq!(judge(plain, "a a", ""), 1.0);
        assert_eq!(judge(plain, "a b c d", ""), 1.0);
        assert_eq!(judge(plain, "a b c A  b\nc", ""), 0.75); // abc bca cab abc
        assert_eq!(judge(plain, "x x x x x x", ""), 0.25);
        assert_eq!(judge("kind = 'repetition'\nn = 1", "x y x y", ""), 0.5);
        assert_eq!(judge("kind = 'repetition'\nn = 2\nunit = 'characters'", "aaaaa", ""), 0.25);
        assert_eq!(judge("kind = 'repetition'\nallowed = 0.5", "x x x x x x", ""), 0.5);
        assert_eq!(judge("kind = 'repetition'\nallowed = 0.75", "x x x x x x", ""), 1.0);
    }

    #[test]
    fn odd_options_are_refused() {
        assert!(
            error("kind = 'repetition'\nn = 0").contains("`n`: expected a whole number, 1 or more, found 0")
        );
        assert!(error("kind = 'repetition'\nallowed = 1").contains("`allowed`: expected less than 1"));
    }
}
