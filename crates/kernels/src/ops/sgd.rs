//! Stochastic gradient descent, with momentum (Polyak 1964; Nesterov 1983).
//!
//! ```text
//!   g  = grad_scale · gradient + weight_decay · w
//!   m ← momentum · m + g
//!   w ← w - lr · g                          without momentum, and without m
//!   w ← w - lr · m                          heavy ball
//!   w ← w - lr · (g + momentum · m)         Nesterov: as if the next step's momentum were there already
//! ```
//!
//! PyTorch's formulas, with m zero at first. As in [`super::adamw`] the loop is plain Rust, with equal bits in every
//! instruction set and any split.

use super::rows::for_rows;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, dispatch};

/// What of the last steps goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Momentum {
    /// The mean of past gradients, with this share of it from step to step.
    HeavyBall(f64),
    /// The same, looking a step ahead.
    Nesterov(f64),
}

/// The settings of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Momentum, if any.
    pub momentum: Option<Momentum>,
    /// Share of the weight that is added to its gradient.
    pub weight_decay: f64,
    /// Multiplies gradients: for clipping, and for accumulated batches.
    pub grad_scale: f32,
}

impl Sgd {
    /// Moves `w` by gradients `g`, with `m` of the same length; without momentum `m` is empty.
    ///
    /// Panics when sizes differ.
    pub fn update(&self, pool: &Pool, w: &mut [f32], g: &[f32], m: &mut [f32]) {
        assert_eq!(w.len(), g.len(), "sizes of w and g");
        assert_eq!(m.len(), if self.momentum.is_some() { g.len() } else { 0 }, "size of m");
        let (w, m) = (Shares::new(w), Shares::new(m));
        for_rows(pool, g.len(), 1, |range| {
            let of_m = if m.is_empty() { 0..0 } else { range.clone() };
            // SAFETY: a task has its own range.
            let (w, m) = unsafe { (w.get(range.clone()), m.get(of_m)) };
            dispatch(Update { options: self, w, g: &g[range], m });
        });
    }
}

struct Update<'a> {
    options: &'a Sgd,
    w: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, _: I) {
        let Sgd { lr, momentum, weight_decay, grad_scale } = *self.options;
        let (lr, weight_decay) = (lr as f32, weight_decay as f32);
        let parts = self.w.iter_mut().zip(self.g);
        match momentum {
            None => {
                for (w, g) in parts {
                    *w -= lr * (g * grad_scale + weight_decay * *w);
                }
            }
            Some(Momentum::HeavyBall(keep)) => {
                for ((w, g), m) in parts.zip(self.m) {
                    *m = keep as f32 * *m + (g * grad_scale + weight_decay * *w);
                    *w -= lr * *m;
                }
            }
            Some(Momentum::Nesterov(keep)) => {
                for ((w, g), m) in parts.zip(self.m) {
                    let g = g * grad_scale + weight_decay * *w;
                    *m = keep as f32 * *m + g;
                    *w -= lr * (g + keep as f32 * *m);
                }
            }
        }
    }
}

/// One element's new w and m, in f64.
pub fn reference(options: &Sgd, [w, g, m]: [f64; 3]) -> [f64; 2] {
    let g = f64::from(options.grad_scale) * g + options.weight_decay * w;
    match options.momentum {
        None => [w - options.lr * g, m],
        Some(Momentum::HeavyBall(keep)) => {
            let m = keep * m + g;
            [w - options.lr * m, m]
        }
        Some(Momentum::Nesterov(keep)) => {
            let m = keep * m + g;
            [w - options.lr * (g + keep * m), m]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_near, lengths, normal};
    use crate::simd::{IsaKind, dispatch_to};

    const ALL: [Option<Momentum>; 3] = [None, Some(Momentum::HeavyBall(0.9)), Some(Momentum::Nesterov(0.8))];

    fn options(momentum: Option<Momentum>) -> Sgd {
        Sgd { lr: 0.1, momentum, weight_decay: 0.05, grad_scale: 0.5 }
    }

    #[test]
    fn five_steps_match_the_reference_with_equal_bits_on_every_instruction_set() {
        for len in lengths() {
            let (w, g) = (normal(len, 1), normal(len, 2));
            for options in ALL.map(options) {
                let mut want: Vec<[f64; 2]> = w.iter().map(|&w| [w.into(), 0.0]).collect();
                for _ in 0..5 {
                    for ([w, m], &g) in want.iter_mut().zip(&g) {
                        [*w, *m] = reference(&options, [*w, g.into(), *m]);
                    }
                }
                let want: Vec<f64> = want.iter().map(|w| w[0]).collect();
                let run = |kind| {
                    let (mut w, mut m) = (w.clone(), vec![0.0; len]);
                    for _ in 0..5 {
                        dispatch_to(kind, Update { options: &options, w: &mut w, g: &g, m: &mut m });
                    }
                    w
                };
                for kind in IsaKind::available() {
                    assert_eq!(run(kind), run(IsaKind::Scalar), "{}", kind.name());
                    assert_near(kind.name(), &run(kind), &want, 1e-6);
                }
            }
        }
    }

    #[test]
    fn threads_and_splits_do_not_change_bits() {
        let len = 30_001;
        let g = normal(len, 2);
        for options in ALL.map(options) {
            let run = |threads, split: usize| {
                let pool = Pool::new(threads);
                let (mut w, mut m) = (normal(len, 1), vec![0.0; len]);
                for _ in 0..2 {
                    let parts = w.chunks_mut(split).zip(m.chunks_mut(split)).zip(g.chunks(split));
                    for ((w, m), g) in parts {
                        let m = if options.momentum.is_some() { m } else { &mut [] };
                        options.update(&pool, w, g, m);
                    }
                }
                w
            };
            let whole = run(1, len);
            assert_eq!(whole, run(3, len));
            assert_eq!(whole, run(2, 1007));
        }
    }
}
