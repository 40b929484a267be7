//! `letters`: `count r in tarter=`, `2`. Words of 2 · (`level` + 2) letters from an alphabet of few, so that letters repeat;
//! the letter asked for is not always there.
//!
//! Worth: 0.7 if the answer is right, and 0.3 for a number that is near: a third less for each that it is off.

use super::Draw;
use super::random::Random;

pub(super) const SPEC: &str = "\
[[reward]]
kind = 'exact'
weight = 0.7
of = { line = 'first' }

[[reward]]
kind = 'numeric'
weight = 0.3
fall = 3
of = { line = 'first' }
";

/// Letters that a word is made of, at the most.
const ALPHABET: usize = 5;

pub(super) fn draw(random: &mut Random, level: usize) -> Draw {
    let letters: Vec<char> = ('a'..='z').collect();
    let few: Vec<char> = (0..ALPHABET).map(|_| random.choose(&letters)).collect();
    let word: String = (0..2 * (level + 2)).map(|_| random.choose(&few)).collect();
    let letter = random.choose(&few);
    let count = word.chars().filter(|c| *c == letter).count();
    Draw::unique(format!("count {letter} in {word}="), count.to_string())
}
