//! `copy`: `copy 4821=`, `4821`. Two digits more than `level`.
//!
//! Worth: 0.7 if the answer is right, and 0.3 times the share of right digits (`edit`).

use super::Draw;
use super::random::Random;

pub(super) const SPEC: &str = super::arithmetic::SPEC;

pub(super) fn draw(random: &mut Random, level: usize) -> Draw {
    let digits = random.digits(level + 2);
    Draw::unique(format!("copy {digits}="), digits)
}
