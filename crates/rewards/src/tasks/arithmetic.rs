//! `arithmetic`: `12+34=`, `46`. Sums, and differences that are not negative, of numbers with up to `level` digits, every
//! count of digits equally likely; from level 3 on also products of one with up to half as many.
//!
//! Worth: 0.7 if the answer is right, and 0.3 times the share of right digits (`edit`).

use super::Draw;
use super::random::Random;

pub(super) const SPEC: &str = "\
[[reward]]
kind = 'exact'
weight = 0.7
of = { line = 'first' }

[[reward]]
kind = 'edit'
weight = 0.3
of = { line = 'first' }
";

pub(super) fn draw(random: &mut Random, level: usize) -> Draw {
    let mut number = |digits: usize| {
        let digits = random.within(1, digits);
        random.below(10u64.pow(digits as u32))
    };
    let (a, b, small) = (number(level), number(level), number(level.div_ceil(2)));
    let signs: &[char] = if level < 3 { &['+', '-'] } else { &['+', '-', '*'] };
    let sign = random.choose(signs);
    let (a, b, result) = match sign {
        '+' => (a, b, a + b),
        '-' => (a.max(b), a.min(b), a.abs_diff(b)),
        _ => (a, small, a * small),
    };
    let content = match sign {
        '-' => format!("{a}-{b}"),
        _ => format!("{}{sign}{}", a.min(b), a.max(b)),
    };
    Draw { prompt: format!("{a}{sign}{b}="), answer: result.to_string(), content }
}
