//! `length`: 1 if the answer's length is from `min` to `max`; outside it falls in a line and is 0 after `fall` more.
//!
//! Options: `min` (0), `max` (none), `fall` (0: at once), `unit`: `"tokens"` (the default; of the whole answer, so not
//! together with `of`), `"characters"`, `"words"` or `"lines"`.

use super::{Each, Made, Seen, falling};
use crate::answer::Reason;
use crate::error::Result;
use crate::options::Options;
use crate::spec::Setup;

struct Length {
    min: f64,
    max: f64,
    fall: f64,
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Tokens,
    Characters,
    Words,
    Lines,
}

const UNITS: &[(&str, Unit)] = &[
    ("tokens", Unit::Tokens),
    ("characters", Unit::Characters),
    ("words", Unit::Words),
    ("lines", Unit::Lines),
];

pub(super) fn make(options: &mut Options, _: &Setup, is_part: bool) -> Result<Made> {
    let (min, max) = (options.number("min")?, options.number("max")?);
    if min.is_none() && max.is_none() {
        return Err(options.error("expected `min` or `max`, found neither"));
    }
    let (min, max) = (min.unwrap_or(0.0), max.unwrap_or(f64::INFINITY));
    if min > max {
        return Err(options.error(format_args!("`min`: expected at most `max`, {max}, found {min}")));
    }
    let unit = options.choice("unit", UNITS)?;
    if unit == Unit::Tokens && is_part {
        return Err(options.error(
            "`unit`: only a whole answer is counted in tokens; with `of`, expected \"characters\", \"words\" or \"lines\"",
        ));
    }
    Ok(Made::each(Length { min, max, fall: options.number("fall")?.unwrap_or(0.0), unit }))
}

impl Each for Length {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason> {
        let length = match self.unit {
            Unit::Tokens => seen.answer.tokens,
            Unit::Characters => seen.text.chars().count(),
            Unit::Words => seen.text.split_whitespace().count(),
            Unit::Lines => seen.text.trim().lines().count(),
        } as f64;
        Ok(falling((self.min - length).max(length - self.max), self.fall))
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{error, judge};

    #[test]
    fn lengths_in_the_window_are_worth_one() {
        let words = |text| judge("kind = 'length'\nunit = 'words'\nmin = 2\nmax = 3\nfall = 2", text, "");
        assert_eq!(
            ["", "a", "a b", "a  b\nc", "a b c d", "a b c d e", "a b c d e f"].map(words),
            [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
        );
        assert_eq!(judge("kind = 'length'\nunit = 'characters'\nmax = 3", "äöü", ""), 1.0);
        assert_eq!(judge("kind = 'length'\nunit = 'characters'\nmax = 3", "äöüß", ""), 0.0);
        assert_eq!(judge("kind = 'length'\nunit = 'lines'\nmin = 2\nmax = 2", "a\nb\n", ""), 1.0);
        assert_eq!(judge("kind = 'length'\nmin = 3", "two tokens", ""), 0.0);
        assert_eq!(judge("kind = 'length'\nmin = 3", "and three tokens", ""), 1.0);
        assert_eq!(
            judge(
                "kind = 'length'\nunit = 'words'\nmax = 2\nof = { tag = 'answer' }",
                "a b c <answer>d</answer>",
                ""
            ),
            1.0
        );
    }

    #[test]
    fn a_window_must_be_one() {
        assert!(error("kind = 'length'").contains("expected `min` or `max`, found neither"));
        assert!(
            error("kind = 'length'\nmin = 3\nmax = 2").contains("`min`: expected at most `max`, 2, found 3")
        );
        assert!(
            error("kind = 'length'\nmin = 3\nof = { line = 'last' }")
                .contains("only a whole answer is counted in tokens")
        );
    }
}
