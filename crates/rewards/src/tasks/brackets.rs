//! `brackets`: `balanced ([)]=` with `yes` or `no`, equally likely, and `close ([{}=`, `])`. `level` + 1 or + 2 pairs.
//!
//! Worth: 1 if the answer is right. Half right would pay for guessing.

use super::Draw;
use super::random::Random;

pub(super) const SPEC: &str = "\
[[reward]]
kind = 'exact'
of = { line = 'first' }
";

const PAIRS: &[(char, char)] = &[('(', ')'), ('[', ']'), ('{', '}')];

pub(super) fn draw(random: &mut Random, level: usize) -> Draw {
    let mut text = balanced(random, level + 1, level + 2);
    match random.below(4) {
        0 => Draw::unique(format!("balanced {}=", text.iter().collect::<String>()), "yes"),
        1 => {
            // A bracket becomes another one, which nothing can mend: the string stays as long as it was, and of each pair
            // only one end is left.
            let at = random.within(0, text.len() - 1);
            let others: Vec<char> =
                PAIRS.iter().flat_map(|(open, close)| [*open, *close]).filter(|c| *c != text[at]).collect();
            text[at] = random.choose(&others);
            Draw::unique(format!("balanced {}=", text.iter().collect::<String>()), "no")
        }
        _ => {
            // The beginning, with something open.
            let cuts: Vec<usize> = (1..text.len()).filter(|cut| !open(&text[..*cut]).is_empty()).collect();
            text.truncate(random.choose(&cuts));
            let answer: String = open(&text).into_iter().rev().collect();
            Draw::unique(format!("close {}=", text.iter().collect::<String>()), answer)
        }
    }
}

/// A balanced string with so many pairs.
fn balanced(random: &mut Random, least: usize, most: usize) -> Vec<char> {
    let mut left = random.within(least, most);
    let (mut text, mut expected) = (Vec::new(), Vec::new());
    while left > 0 || !expected.is_empty() {
        if left > 0 && (expected.is_empty() || random.below(2) == 0) {
            let (open, close) = random.choose(PAIRS);
            text.push(open);
            expected.push(close);
            left -= 1;
        } else {
            text.extend(expected.pop());
        }
    }
    text
}

/// What would close the beginning of a balanced string, the outermost first.
fn open(text: &[char]) -> Vec<char> {
    let mut expected = Vec::new();
    for c in text {
        match PAIRS.iter().find(|(open, _)| open == c) {
            Some((_, close)) => expected.push(*close),
            None => {
                expected.pop();
            }
        }
    }
    expected
}
