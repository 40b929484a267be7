//! AdamW: Adam (Kingma and Ba 2014) with decoupled weight decay (Loshchilov and Hutter 2017).
//!
//! ```text
//!   g  = grad_scale · gradient
//!   m ← beta1 m + (1 - beta1) g           the mean of recent gradients
//!   v ← beta2 v + (1 - beta2) g²          the mean of their squares
//!   w ← w - lr · weight_decay · w - lr · (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
//! ```
//!
//! The powers of beta make up for m and v having begun as zeros: after t steps the weights of all gradients in m add up
//! to 1 - beta1^t. A step moves a weight by about lr, however large its gradient is. It is PyTorch's formula, with eps
//! outside of the root.
//!
//! A pass reads w, g, m and v and writes w, m and v: 28 bytes an element, and memory is what it waits for. The loop is
//! plain Rust, which the compiler makes vectors of; every operation is rounded once, in every instruction set, so that
//! all of them, and any split of the slices, give the same bits.

use super::rows::for_rows;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, dispatch};

/// The settings of one step. In f64, because 1 - 0.999 loses half of its digits in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Share of the old mean in the new one.
    pub beta1: f64,
    /// Share of the old mean square in the new one.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Share of the weight that is taken off, times lr. 0 for norms and biases.
    pub weight_decay: f64,
    /// Number of this step (t), from 1.
    pub step: u64,
    /// Multiplies gradients: for clipping, and for accumulated batches.
    pub grad_scale: f32,
}

impl AdamW {
    /// Moves `w` by gradients `g` with moments `m` and `v`: all of one length, in the same order whatever that is.
    ///
    /// Panics when sizes differ, or in step 0.
    pub fn update(&self, pool: &Pool, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        assert_eq!([w.len(), m.len(), v.len()], [g.len(); 3], "sizes of w, m and v, and of g");
        assert!(self.step > 0, "steps are counted from 1");
        let terms = self.terms();
        let (w, m, v) = (Shares::new(w), Shares::new(m), Shares::new(v));
        for_rows(pool, g.len(), 1, |range| {
            // SAFETY: a task has its own range.
            let (w, m, v) = unsafe { (w.get(range.clone()), m.get(range.clone()), v.get(range.clone())) };
            dispatch(Update { terms, w, g: &g[range], m, v });
        });
    }

    pub(crate) fn terms(&self) -> Terms {
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        Terms {
            grad_scale: self.grad_scale,
            fresh1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            fresh2: (1.0 - self.beta2) as f32,
            root: correction(self.beta2).sqrt().recip() as f32,
            eps: self.eps as f32,
            lr: (self.lr / correction(self.beta1)) as f32,
            keep: (1.0 - self.lr * self.weight_decay) as f32,
        }
    }
}

/// What the formula needs of the settings, rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub grad_scale: f32,
    /// 1 - beta1.
    pub fresh1: f32,
    pub beta2: f32,
    /// 1 - beta2.
    pub fresh2: f32,
    /// 1 / sqrt(1 - beta2^t).
    pub root: f32,
    pub eps: f32,
    /// lr / (1 - beta1^t).
    pub lr: f32,
    /// 1 - lr · weight_decay.
    pub keep: f32,
}

struct Update<'a> {
    terms: Terms,
    w: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, _: I) {
        let t = self.terms;
        let moments = self.m.iter_mut().zip(self.v.iter_mut());
        for ((w, g), (m, v)) in self.w.iter_mut().zip(self.g).zip(moments) {
            let g = g * t.grad_scale;
            *m += t.fresh1 * (g - *m);
            *v = t.beta2 * *v + t.fresh2 * (g * g);
            *w = t.keep * *w - t.lr * *m / (v.sqrt() * t.root + t.eps);
        }
    }
}

/// One element's new w, m and v, in f64.
pub fn reference(options: &AdamW, [w, g, m, v]: [f64; 4]) -> [f64; 3] {
    let AdamW { lr, beta1, beta2, eps, weight_decay, step, grad_scale } = *options;
    let g = g * f64::from(grad_scale);
    let m = beta1 * m + (1.0 - beta1) * g;
    let v = beta2 * v + (1.0 - beta2) * g * g;
    let corrected = |moment: f64, beta: f64| moment / (1.0 - beta.powf(step as f64));
    let w = w - lr * weight_decay * w - lr * corrected(m, beta1) / (corrected(v, beta2).sqrt() + eps);
    [w, m, v]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_near, lengths, normal};
    use crate::simd::{IsaKind, dispatch_to};

    fn options(step: u64) -> AdamW {
        AdamW { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step, grad_scale: 0.5 }
    }

    /// w, m and v, and gradients of all magnitudes, one of them 0.
    fn inputs(len: usize) -> ([Vec<f32>; 3], Vec<f32>) {
        let mut g: Vec<f32> =
            (normal(len, 2).iter().enumerate()).map(|(i, g)| g * 10f32.powi(i as i32 % 9 - 6)).collect();
        g[len / 2] = 0.0;
        ([normal(len, 1), vec![0.0; len], vec![0.0; len]], g)
    }

    #[test]
    fn ten_steps_match_the_reference_with_equal_bits_on_every_instruction_set() {
        for len in lengths() {
            let (start, g) = inputs(len);
            let mut want: Vec<[f64; 3]> = (0..len).map(|i| [0, 1, 2].map(|j| start[j][i].into())).collect();
            for step in 1..=10 {
                for (i, [w, m, v]) in want.iter_mut().enumerate() {
                    [*w, *m, *v] = reference(&options(step), [*w, g[i].into(), *m, *v]);
                }
            }
            let run = |kind| {
                let mut state = start.clone();
                for step in 1..=10 {
                    let [w, m, v] = &mut state;
                    dispatch_to(kind, Update { terms: options(step).terms(), w, g: &g, m, v });
                }
                state
            };
            let plain = run(IsaKind::Scalar);
            for kind in IsaKind::available() {
                let state = run(kind);
                assert_eq!(state, plain, "{}", kind.name());
                for (j, found) in state.iter().enumerate() {
                    let want: Vec<f64> = want.iter().map(|w| w[j]).collect();
                    assert_near(&format!("{} {len}, {j}", kind.name()), found, &want, 1e-6);
                }
            }
        }
    }

    #[test]
    fn threads_and_splits_do_not_change_bits() {
        let (start, g) = inputs(30_001);
        let run = |threads, split: usize| {
            let pool = Pool::new(threads);
            let mut state = start.clone();
            for step in 1..3 {
                let [w, m, v] = &mut state;
                let parts = w.chunks_mut(split).zip(m.chunks_mut(split)).zip(v.chunks_mut(split));
                for (((w, m), v), g) in parts.zip(g.chunks(split)) {
                    options(step).update(&pool, w, g, m, v);
                }
            }
            state
        };
        let whole = run(1, g.len());
        assert_eq!(whole, run(3, g.len()));
        assert_eq!(whole, run(2, 1007));
    }

    #[test]
    fn a_first_step_moves_by_the_learning_rate() {
        let options = AdamW { weight_decay: 0.0, ..options(1) };
        let (mut w, mut m, mut v) = ([1.0f32; 3], [0.0; 3], [0.0; 3]);
        options.update(&Pool::new(1), &mut w, &[1e3, -1e-3, 0.0], &mut m, &mut v);
        assert_near("w", &w, &[0.99, 1.01, 1.0], 1e-5);
        assert_eq!(w[2], 1.0);
    }
}
