//! Dropout: each element is left out with probability p, and what stays is divided by 1 - p, so that the mean is the
//! same (Srivastava et al., 2014).
//!
//! Whether an element stays is a function of the key and its position. So backward needs no mask in memory, and neither
//! threads nor recomputation change anything.

use super::rows::for_rows;
use crate::pool::{Pool, Shares};
use crate::rng::Rng;

/// One draw of what stays.
#[derive(Clone, Debug)]
pub struct Dropout {
    probability: f32,
    key: Rng,
}

impl Dropout {
    /// Leaves elements out with this probability, at least 0 and less than 1. Each `key` is another draw.
    pub fn new(probability: f32, key: Rng) -> Dropout {
        assert!((0.0..1.0).contains(&probability), "a probability of {probability}");
        Dropout { probability, key }
    }

    /// For a GPU: the key of the numbers, the least drawn number (of 32 bits) that stays, and what then multiplies.
    pub(crate) fn terms(&self) -> (u64, u32, f32) {
        let least = (f64::from(self.probability) * 4_294_967_296.0).ceil();
        (self.key.key(), least as u32, 1.0 / (1.0 - self.probability))
    }

    /// What element `at` is multiplied with.
    fn factor(&self, at: usize) -> f32 {
        // Two elements share a number: its upper and its lower 32 bits.
        let drawn = self.key.at(at as u64 / 2) >> (32 * (at % 2)) & 0xffff_ffff;
        let stays = drawn as f64 >= f64::from(self.probability) * 4_294_967_296.0;
        if stays { 1.0 / (1.0 - self.probability) } else { 0.0 }
    }

    /// `out = factor · x`. Panics when sizes differ.
    pub fn forward(&self, pool: &Pool, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "sizes of x and out");
        let out = Shares::new(out);
        for_rows(pool, x.len(), 1, |range| {
            // SAFETY: a task writes its own range.
            let out = unsafe { out.get(range.clone()) };
            for ((at, x), out) in range.clone().zip(&x[range]).zip(out) {
                *out = self.factor(at) * x;
            }
        });
    }

    /// `dx += factor · dy`: the gradient of a copy of x that went through dropout. Panics when sizes differ.
    pub fn backward(&self, pool: &Pool, dy: &[f32], dx: &mut [f32]) {
        assert_eq!(dy.len(), dx.len(), "sizes of dy and dx");
        let dx = Shares::new(dx);
        for_rows(pool, dy.len(), 1, |range| {
            // SAFETY: a task writes its own range.
            let dx = unsafe { dx.get(range.clone()) };
            for ((at, dy), dx) in range.clone().zip(&dy[range]).zip(dx) {
                *dx += self.factor(at) * dy;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_and_the_mean_are_right_and_threads_change_nothing() {
        let x = vec![1.0; 100_000];
        for probability in [0.0, 0.1, 0.5, 0.9] {
            let dropout = Dropout::new(probability, Rng::new(1, 2));
            let mut out = vec![f32::NAN; x.len()];
            dropout.forward(&Pool::new(2), &x, &mut out);
            let left_out = out.iter().filter(|&&x| x == 0.0).count() as f32 / x.len() as f32;
            let mean = out.iter().sum::<f32>() / x.len() as f32;
            assert!((left_out - probability).abs() < 0.01, "{left_out} of {probability}");
            assert!((mean - 1.0).abs() < 0.03, "{mean} with {probability}");
            let mut again = vec![f32::NAN; x.len()];
            dropout.forward(&Pool::new(1), &x, &mut again);
            assert_eq!(out, again);
            // Its own derivative: what stays is passed on with the same factor.
            let mut dx = vec![2.0; x.len()];
            dropout.backward(&Pool::new(2), &x, &mut dx);
            assert!(dx.iter().zip(&out).all(|(dx, factor)| *dx == 2.0 + factor));
        }
    }

    #[test]
    fn another_key_is_another_draw() {
        let x = vec![1.0; 1000];
        let [mut a, mut b] = [vec![0.0; 1000], vec![0.0; 1000]];
        Dropout::new(0.5, Rng::new(1, 2)).forward(&Pool::new(1), &x, &mut a);
        Dropout::new(0.5, Rng::new(1, 3)).forward(&Pool::new(1), &x, &mut b);
        let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        assert!((400..600).contains(&same), "{same}");
    }
}
