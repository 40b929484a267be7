//! RMSNorm over the last dimension, for R rows of C values:
//!
//! ```text
//!   y[r, c] = x[r, c] · s[r] · (offset + w[c]),     s[r] = 1 / sqrt(mean over c of x[r, c]² + eps)
//! ```
//!
//! `offset` is 0, or 1 for Gemma, whose files hold w - 1. (Zhang and Sennrich 2019.) Also used for each head of q and
//! k, with R heads of D values.
//!
//! Backward, from dy, with the normalised row n = x s and its gradient dn = dy (offset + w):
//!
//! ```text
//!   dw[c]   += sum over r of dy[r, c] · n[r, c]
//!   dx[r, c] = s[r] · (dn[r, c] - n[r, c] · mean over c of dn · n)
//! ```
//!
//! For s changes with x too: `ds/dx[c] = -s³ x[c] / C = -s² n[c] / C`, which brings the second term. It takes away what
//! points along n: making x longer does not change y. `s` is computed again from x rather than kept.

use super::rows::{Write, for_rows, sum_over_rows};
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};

/// What a norm needs beside its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// Added to every weight.
    pub offset: f32,
}

/// What [`RmsNorm::backward`] writes.
pub struct Gradients<'a> {
    /// `[R, C]`.
    pub dx: &'a mut [f32],
    /// Whether dx is set or added to.
    pub write: Write,
    /// `[C]`, added to; `None` where the weights are frozen.
    pub dw: Option<&'a mut [f32]>,
}

impl RmsNorm {
    /// `x` and `y` `[R, C]`, `w` `[C]`. Panics when sizes differ.
    pub fn forward(&self, pool: &Pool, x: &[f32], w: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "size of y");
        let y = Shares::new(y);
        for_rows(pool, x.len(), w.len(), |range| {
            // SAFETY: a task writes its own rows.
            let y = unsafe { y.get(range.clone()) };
            dispatch(Forward { norm: *self, x: &x[range], w, y });
        });
    }

    /// The gradients from `x` and `dy` `[R, C]` and `w` `[C]`. `scratch` grows to the partial sums of dw.
    ///
    /// Bits do not depend on threads. Panics when sizes differ.
    pub fn backward(
        &self,
        pool: &Pool,
        x: &[f32],
        w: &[f32],
        dy: &[f32],
        gradients: Gradients,
        scratch: &mut Vec<f32>,
    ) {
        let Gradients { dx, write, dw } = gradients;
        assert!(x.len() == dy.len() && x.len() == dx.len(), "sizes of x, dy and dx");
        let dx = Shares::new(dx);
        sum_over_rows(pool, [x.len(), w.len()], dw.map(|dw| [dw]), scratch, |range, dw| {
            // SAFETY: a task writes its own rows.
            let dx = unsafe { dx.get(range.clone()) };
            let flow = Flow::Into { dy: &dy[range.clone()], dx, write };
            dispatch(Backward { norm: *self, x: &x[range], w, flow, dw: dw.map(|[dw]| dw) });
        });
    }

    /// As [`RmsNorm::backward`], with `dx` written over `dy`: both are `d`.
    ///
    /// `x` is what went into the norm.
    pub fn backward_in_place(
        &self,
        pool: &Pool,
        x: &[f32],
        w: &[f32],
        d: &mut [f32],
        dw: Option<&mut [f32]>,
        scratch: &mut Vec<f32>,
    ) {
        assert_eq!(x.len(), d.len(), "sizes of x and dy");
        let d = Shares::new(d);
        sum_over_rows(pool, [x.len(), w.len()], dw.map(|dw| [dw]), scratch, |range, dw| {
            // SAFETY: a task writes its own rows.
            let flow = Flow::Over(unsafe { d.get(range.clone()) });
            dispatch(Backward { norm: *self, x: &x[range], w, flow, dw: dw.map(|[dw]| dw) });
        });
    }
}

#[inline(always)]
fn row_scale<I: Isa>(isa: I, norm: RmsNorm, x: &[f32]) -> f32 {
    let mut squares = isa.zero();
    for x in x.chunks(LANES) {
        let x = isa.load_slice(x, 0.0);
        squares = isa.fma(x, x, squares);
    }
    1.0 / (isa.sum(squares) / x.len() as f32 + norm.eps).sqrt()
}

struct Forward<'a> {
    norm: RmsNorm,
    x: &'a [f32],
    w: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let offset = isa.splat(self.norm.offset);
        let rows = self.x.chunks_exact(self.w.len()).zip(self.y.chunks_exact_mut(self.w.len()));
        for (x, y) in rows {
            let scale = isa.splat(row_scale(isa, self.norm, x));
            for ((x, w), y) in x.chunks(LANES).zip(self.w.chunks(LANES)).zip(y.chunks_mut(LANES)) {
                let w = isa.add(isa.load_slice(w, 0.0), offset);
                isa.store_slice(y, isa.mul(isa.mul(isa.load_slice(x, 0.0), scale), w));
            }
        }
    }
}

/// Where dy comes from and dx goes to.
enum Flow<'a> {
    /// One buffer, for both.
    Over(&'a mut [f32]),
    /// Two.
    Into { dy: &'a [f32], dx: &'a mut [f32], write: Write },
}

impl Flow<'_> {
    /// Up to 32 values of dy, from number `at` on.
    #[inline(always)]
    fn load<I: Isa>(&self, isa: I, at: usize, len: usize) -> I::F {
        let dy = match self {
            Flow::Over(d) => &**d,
            Flow::Into { dy, .. } => dy,
        };
        isa.load_slice(&dy[at..at + len], 0.0)
    }

    /// Writes up to 32 values of dx, from number `at` on.
    #[inline(always)]
    fn store<I: Isa>(&mut self, isa: I, at: usize, len: usize, value: I::F) {
        match self {
            Flow::Over(d) => isa.store_slice(&mut d[at..at + len], value),
            Flow::Into { dx, write, .. } => write.store(isa, &mut dx[at..at + len], value),
        }
    }
}

struct Backward<'a> {
    norm: RmsNorm,
    x: &'a [f32],
    w: &'a [f32],
    flow: Flow<'a>,
    dw: Option<&'a mut [f32]>,
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let offset = isa.splat(self.norm.offset);
        let width = self.w.len();
        for (row, x) in self.x.chunks_exact(width).enumerate() {
            let first = row * width;
            let s = isa.splat(row_scale(isa, self.norm, x));
            let mut along = isa.zero();
            for (i, (x, w)) in x.chunks(LANES).zip(self.w.chunks(LANES)).enumerate() {
                let (at, len) = (i * LANES, x.len());
                let n = isa.mul(isa.load_slice(x, 0.0), s);
                let dy = self.flow.load(isa, first + at, len);
                if let Some(dw) = &mut self.dw {
                    Write::Add.store(isa, &mut dw[at..at + len], isa.mul(dy, n));
                }
                let dn = isa.mul(dy, isa.add(isa.load_slice(w, 0.0), offset));
                along = isa.fma(dn, n, along);
            }
            let along = isa.splat(isa.sum(along) / width as f32);
            for (i, (x, w)) in x.chunks(LANES).zip(self.w.chunks(LANES)).enumerate() {
                let (at, len) = (first + i * LANES, x.len());
                let n = isa.mul(isa.load_slice(x, 0.0), s);
                let dy = self.flow.load(isa, at, len);
                let dn = isa.mul(dy, isa.add(isa.load_slice(w, 0.0), offset));
                self.flow.store(isa, at, len, isa.mul(s, isa.fnma(n, along, dn)));
            }
        }
    }
}

/// The formula, in f64.
pub fn reference(norm: RmsNorm, x: &[f64], w: &[f64]) -> Vec<f64> {
    let offset = f64::from(norm.offset);
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks_exact(w.len()) {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / w.len() as f64;
        let s = 1.0 / (mean + f64::from(norm.eps)).sqrt();
        y.extend(x.iter().zip(w).map(|(x, w)| x * s * (offset + w)));
    }
    y
}

/// The formulas of the gradients, in f64: dx `[R, C]` and dw `[C]`.
pub fn reference_backward(norm: RmsNorm, x: &[f64], w: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (width, offset) = (w.len(), f64::from(norm.offset));
    let (mut dx, mut dw) = (Vec::with_capacity(x.len()), vec![0.0; width]);
    for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
        let s = 1.0 / (mean + f64::from(norm.eps)).sqrt();
        let n = |c: usize| x[c] * s;
        let dn = |c: usize| dy[c] * (offset + w[c]);
        let along = (0..width).map(|c| dn(c) * n(c)).sum::<f64>() / width as f64;
        for c in 0..width {
            dw[c] += dy[c] * n(c);
            dx.push(s * (dn(c) - n(c) * along));
        }
    }
    (dx, dw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_derivative, assert_near, differences, dot, lengths, normal, wide};
    use crate::simd::{IsaKind, dispatch_to};

    #[test]
    fn matches_the_reference() {
        let norm = RmsNorm { eps: 1e-5, offset: 1.0 };
        for width in lengths() {
            let x: Vec<f32> = normal(3 * width, 1).iter().map(|x| 3.0 * x).collect();
            let w = normal(width, 2);
            let want = reference(norm, &wide(&x), &wide(&w));
            for kind in IsaKind::available() {
                let mut y = vec![f32::NAN; x.len()];
                dispatch_to(kind, Forward { norm, x: &x, w: &w, y: &mut y });
                for (y, want) in y.iter().zip(&want) {
                    assert!(
                        (f64::from(*y) - want).abs() < 2e-6 * want.abs().max(1.0),
                        "{} {width}",
                        kind.name()
                    );
                }
            }
        }
    }

    #[test]
    fn reference_gradients_are_the_derivatives() {
        for (width, offset) in [(1, 0.0), (2, 1.0), (7, 0.0), (33, 1.0)] {
            let norm = RmsNorm { eps: 1e-1, offset };
            let [x, dy] = [1, 3].map(|seed| wide(&normal(2 * width, seed)));
            let w = wide(&normal(width, 2));
            let (dx, dw) = reference_backward(norm, &x, &w, &dy);
            assert_derivative("dx", &dx, &differences(&x, |x| dot(&reference(norm, x, &w), &dy)));
            assert_derivative("dw", &dw, &differences(&w, |w| dot(&reference(norm, &x, w), &dy)));
        }
    }

    #[test]
    fn gradients_match_the_reference() {
        let norm = RmsNorm { eps: 1e-1, offset: 1.0 };
        for width in lengths() {
            let x: Vec<f32> = normal(3 * width, 1).iter().map(|x| 3.0 * x).collect();
            let (w, dy) = (normal(width, 2), normal(3 * width, 3));
            let (want_dx, want_dw) = reference_backward(norm, &wide(&x), &wide(&w), &wide(&dy));
            let want_sum: Vec<f64> = want_dx.iter().map(|d| d + 2.0).collect();
            for kind in IsaKind::available() {
                let run = |flow: Flow| {
                    let mut dw = vec![0.0; width];
                    dispatch_to(kind, Backward { norm, x: &x, w: &w, flow, dw: Some(&mut dw) });
                    assert_near(kind.name(), &dw, &want_dw, 2e-6);
                };
                let mut dx = vec![f32::NAN; x.len()];
                run(Flow::Into { dy: &dy, dx: &mut dx, write: Write::Set });
                assert_near(kind.name(), &dx, &want_dx, 2e-6);
                let mut sum = vec![2.0; x.len()];
                run(Flow::Into { dy: &dy, dx: &mut sum, write: Write::Add });
                assert_near(kind.name(), &sum, &want_sum, 2e-6);
                let mut over = dy.clone();
                run(Flow::Over(&mut over));
                assert_eq!(dx, over, "{} {width}", kind.name());
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        let norm = RmsNorm { eps: 1e-6, offset: 0.0 };
        for width in [5, 64, 770] {
            let (x, w, dy) = (normal(300 * width, 1), normal(width, 2), normal(300 * width, 3));
            let run = |threads| {
                let pool = Pool::new(threads);
                let mut scratch = Vec::new();
                let mut y = vec![0.0; x.len()];
                norm.forward(&pool, &x, &w, &mut y);
                let (mut dx, mut dw) = (vec![0.5; x.len()], vec![0.5; width]);
                let gradients = Gradients { dx: &mut dx, write: Write::Add, dw: Some(&mut dw) };
                norm.backward(&pool, &x, &w, &dy, gradients, &mut scratch);
                let mut over = dy.clone();
                norm.backward_in_place(&pool, &x, &w, &mut over, Some(&mut dw), &mut scratch);
                let mut frozen = dy.clone();
                norm.backward_in_place(&pool, &x, &w, &mut frozen, None, &mut scratch);
                assert_eq!(over, frozen);
                [y, dx, dw, over]
            };
            let got = run(1);
            assert_eq!(got, run(3));
            let (_, want) = reference_backward(norm, &wide(&x), &wide(&w), &wide(&dy));
            let want: Vec<f64> = want.iter().map(|dw| 0.5 + 2.0 * dw).collect();
            assert_near("dw of many rows", &got[2], &want, 2e-6);
        }
    }
}
