//! `numeric`: 1 if the answer's last number `x` is the reference `y`:
//!
//! ```text
//! |x − y| ≤ t = max(tolerance, relative · |y|);   beyond it 1 − (|x − y| − t) / fall, and never less than 0
//! ```
//!
//! An answer without a number is worth 0. Options: `field` or `text` (default: `field = "answer"`; its last number),
//! `tolerance`, `relative`, `fall` (all 0), `which` (`"last"` or `"first"`).
//!
//! A number has digits, perhaps thousands with commas (`1,234,567`), a decimal point, an exponent, a sign that stands at
//! once before it (or before `$`, `€`, `£`) and not behind another number, a letter or a bracket: `3-5` ends with 5. Two whole numbers
//! with a slash are a fraction (`3/4`); three are a date, and so three numbers. Digits right behind a letter or `_` belong to a
//! name (`x2`). What follows a number (`%`, `km`) does not count.

use super::{Each, Made, Seen, falling};
use crate::answer::{Fields, Reason, head};
use crate::error::Result;
use crate::options::Options;
use crate::reference::Reference;
use crate::spec::Setup;

struct Numeric {
    reference: Reference,
    tolerance: f64,
    relative: f64,
    fall: f64,
    which: Which,
}

#[derive(Clone, Copy)]
enum Which {
    Last,
    First,
}

pub(super) fn make(options: &mut Options, _: &Setup, _: bool) -> Result<Made> {
    Ok(Made::each(Numeric {
        reference: Reference::read(options)?,
        tolerance: options.number("tolerance")?.unwrap_or(0.0),
        relative: options.number("relative")?.unwrap_or(0.0),
        fall: options.number("fall")?.unwrap_or(0.0),
        which: options.choice("which", &[("last", Which::Last), ("first", Which::First)])?,
    }))
}

impl Numeric {
    fn references(&self, fields: &Fields) -> Result<Vec<f64>, Reason> {
        let number = |text: &str| {
            numbers(text).last().ok_or_else(|| {
                Reason::from(format!("the reference: expected a number, found `{}`", head(text, 100)))
            })
        };
        self.reference.texts(fields)?.iter().map(|text| number(text)).collect()
    }
}

impl Each for Numeric {
    fn judge(&self, seen: &Seen<'_>) -> Result<f64, Reason> {
        let references = self.references(seen.answer.fields)?;
        let found = match self.which {
            Which::Last => numbers(seen.text).last(),
            Which::First => numbers(seen.text).next(),
        };
        let Some(x) = found else { return Ok(0.0) };
        let worth = |y: f64| falling((x - y).abs() - self.tolerance.max(self.relative * y.abs()), self.fall);
        Ok(references.into_iter().map(worth).fold(0.0, f64::max))
    }

    fn check(&self, fields: &Fields) -> Result<(), Reason> {
        self.references(fields).map(|_| ())
    }
}

/// The finite numbers in a text, in order.
fn numbers(text: &str) -> impl Iterator<Item = f64> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < text.len() {
            let (number, end) = number_at(text.as_bytes(), at);
            at = end;
            if let Some(number) = number {
                let number = if is_negative(&text[..end], number.1) { -number.0 } else { number.0 };
                if number.is_finite() {
                    return Some(number);
                }
            }
        }
        None
    })
}

/// The number without sign that begins at `at`, with its beginning, if one does, and where to go on.
fn number_at(text: &[u8], at: usize) -> (Option<(f64, usize)>, usize) {
    let digits = |from: usize| text[from.min(text.len())..].iter().take_while(|b| b.is_ascii_digit()).count();
    let is_digit = |i: usize| text.get(i).is_some_and(u8::is_ascii_digit);
    let before = at.checked_sub(1).map(|i| text[i]);
    let begins =
        is_digit(at) || text[at] == b'.' && is_digit(at + 1) && !before.is_some_and(|b| b.is_ascii_digit());
    if !begins {
        return (None, at + 1);
    }
    let mut end = at + digits(at);
    // A name such as `x2`, with all of its digits. A byte of a longer character is a letter or might be one.
    let is_name = before.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let first = end - at;
    if (1..=3).contains(&first) {
        while text.get(end) == Some(&b',') && digits(end + 1) == 3 {
            end += 4;
        }
    }
    let is_whole = text.get(end) != Some(&b'.') || !is_digit(end + 1);
    if !is_whole {
        end += 1 + digits(end + 1);
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    let Some(number) = parse(&text[at..end]) else { return (None, end) };
    let is_slash = |i: usize| text.get(i) == Some(&b'/');
    let divisor = digits(end + 1);
    let is_date = is_slash(end + 1 + divisor) || before == Some(b'/');
    if is_whole && is_slash(end) && divisor > 0 && !is_date {
        let divisor_end = end + 1 + divisor;
        match parse(&text[end + 1..divisor_end]) {
            Some(by) if by != 0.0 => return ((!is_name).then_some((number / by, at)), divisor_end),
            _ => {}
        }
    }
    ((!is_name).then_some((number, at)), end)
}

fn parse(digits: &[u8]) -> Option<f64> {
    let plain: String = digits.iter().filter(|b| **b != b',').map(|b| char::from(*b)).collect();
    plain.parse().ok()
}

/// Whether a number that begins at `at` has a minus before it that is a sign.
fn is_negative(text: &str, at: usize) -> bool {
    let mut before = text[..at].chars().rev().peekable();
    before.next_if(|c| "$€£".contains(*c));
    let is_minus = matches!(before.next(), Some('-' | '−'));
    is_minus && !before.next().is_some_and(|c| c.is_alphanumeric() || ")]}_".contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::testing::{judge, judge_with};

    #[test]
    fn numbers_are_found() {
        let cases: &[(&str, &[f64])] = &[
            ("", &[]),
            ("none.", &[]),
            ("7", &[7.0]),
            ("it is 12.", &[12.0]),
            ("-3.5 and +2 and −4", &[-3.5, 2.0, -4.0]),
            ("3-5=-2", &[3.0, 5.0, -2.0]),
            ("(2)-1, x-1", &[2.0, 1.0, 1.0]),
            ("5 - 3", &[5.0, 3.0]),
            ("$1,234,567.89 and -$5", &[1_234_567.89, -5.0]),
            ("1,2,3", &[1.0, 2.0, 3.0]),
            ("1234,567", &[1234.0, 567.0]),
            ("1,2345", &[1.0, 2345.0]),
            ("3/4 of -1/2", &[0.75, -0.5]),
            ("1/0", &[1.0, 0.0]),
            ("01/02/2024", &[1.0, 2.0, 2024.0]),
            ("2024-01-02", &[2024.0, 1.0, 2.0]),
            (".5 0.50 5.", &[0.5, 0.5, 5.0]),
            ("1e3 2E-2 3e", &[1000.0, 0.02, 3.0]),
            ("x2 _3 R2D2 4km 5%", &[4.0, 5.0]),
            (r"\boxed{42}", &[42.0]),
            ("é6", &[6.0]),
            ("1e999 2", &[2.0]),
            ("1.2.3", &[1.2, 3.0]),
        ];
        for (text, expected) in cases {
            assert_eq!(numbers(text).collect::<Vec<_>>(), *expected, "{text}");
        }
    }

    #[test]
    fn near_numbers_count_as_far_as_they_may() {
        let plain = "kind = 'numeric'";
        assert_eq!(judge(plain, "so 2 + 2 = 4.0", "4"), 1.0);
        assert_eq!(judge(plain, "4, I think, or 5", 4), 0.0);
        assert_eq!(judge("kind = 'numeric'\nwhich = 'first'", "4, I think, or 5", 4), 1.0);
        assert_eq!(judge(plain, "who knows", 4), 0.0);
        assert_eq!(judge(plain, "0.3333", "1/3"), 0.0);
        assert_eq!(judge("kind = 'numeric'\ntolerance = 0.001", "0.3333", "1/3"), 1.0);
        assert_eq!(judge("kind = 'numeric'\nrelative = 0.01", "-99", "-100"), 1.0);
        assert_eq!(judge("kind = 'numeric'\nrelative = 0.01", "-98.5", "-100"), 0.0);
        assert_eq!(judge("kind = 'numeric'\ntolerance = 1\nfall = 4", "13", 10), 0.5);
        assert_eq!(judge("kind = 'numeric'\nfall = 4", "13", json!([0, 10, 12])), 0.75);
        assert_eq!(judge(plain, "reason 1, result 72", "Natalia sold 48/2 = 24, 48+24 = 72\n#### 72"), 1.0);
    }

    #[test]
    fn a_reference_without_a_number_is_a_failure() {
        let failure = judge_with("kind = 'numeric'", "4", &json!({ "answer": "four" })).unwrap_err();
        assert_eq!(failure, "reward `numeric`: the reference: expected a number, found `four`");
    }
}
