//! `sort`: `sort 4821=`, `1248`. Two digits more than `level`, smallest first.
//!
//! Worth: 0.7 if the answer is right, and 0.3 times the share of right digits (`edit`).

use super::Draw;
use super::random::Random;

pub(super) const SPEC: &str = super::arithmetic::SPEC;

pub(super) fn draw(random: &mut Random, level: usize) -> Draw {
    let digits = random.digits(level + 2);
    let mut sorted: Vec<char> = digits.chars().collect();
    sorted.sort_unstable();
    Draw::unique(format!("sort {digits}="), sorted.into_iter().collect::<String>())
}
