//! LayerNorm over the last dimension, for R rows of C values:
//!
//! ```text
//!   y[r, c] = n[r, c] · w[c] + b[c],     n[r, c] = (x[r, c] - mean) · s,     s = 1 / sqrt(variance + eps)
//! ```
//!
//! with the mean and the (biased) variance of row r. (Ba, Kiros and Hinton 2016.)
//!
//! Backward, from dy, with dn = dy · w, means being over the row:
//!
//! ```text
//!   dw[c]   += sum over r of dy[r, c] · n[r, c]
//!   db[c]   += sum over r of dy[r, c]
//!   dx[r, c] = s · (dn[r, c] - mean of dn - n[r, c] · mean of dn · n)
//! ```
//!
//! The two means are there because mean and s depend on x too: with them, dx has no part along (1, ..., 1) and none
//! along n, for shifting or stretching a row does not change y. Mean and s are computed again from x, not kept.

use super::rows::{Write, for_rows, sum_over_rows};
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};

/// `x` and `y` `[R, C]`, `w` and `b` `[C]`. Panics when sizes differ.
pub fn forward(pool: &Pool, eps: f32, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32]) {
    assert!(x.len() == y.len() && w.len() == b.len(), "sizes of x and y, and of weight and bias");
    let y = Shares::new(y);
    for_rows(pool, x.len(), w.len(), |range| {
        // SAFETY: a task writes its own rows.
        let y = unsafe { y.get(range.clone()) };
        dispatch(Forward { eps, x: &x[range], w, b, y });
    });
}

/// What [`backward`] writes.
pub struct Gradients<'a> {
    /// `[R, C]`.
    pub dx: &'a mut [f32],
    /// Whether dx is set or added to.
    pub write: Write,
    /// dw and db, `[C]` each, added to; `None` where the parameters are frozen.
    pub dw_db: Option<[&'a mut [f32]; 2]>,
}

/// The gradients from `x` and `dy` `[R, C]` and `w` `[C]`. `scratch` grows to the partial sums of dw and db.
///
/// Bits do not depend on threads. Panics when sizes differ.
pub fn backward(
    pool: &Pool,
    eps: f32,
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    gradients: Gradients,
    scratch: &mut Vec<f32>,
) {
    let Gradients { dx, write, dw_db } = gradients;
    assert!(x.len() == dy.len() && x.len() == dx.len(), "sizes of x, dy and dx");
    let dx = Shares::new(dx);
    sum_over_rows(pool, [x.len(), w.len()], dw_db, scratch, |range, dw_db| {
        // SAFETY: a task writes its own rows.
        let dx = unsafe { dx.get(range.clone()) };
        dispatch(Backward { eps, x: &x[range.clone()], w, dy: &dy[range], dx, write, dw_db });
    });
}

/// Mean, and 1 / standard deviation.
#[inline(always)]
fn statistics<I: Isa>(isa: I, eps: f32, x: &[f32]) -> (f32, f32) {
    let width = x.len() as f32;
    let mut sum = isa.zero();
    for x in x.chunks(LANES) {
        sum = isa.add(sum, isa.load_slice(x, 0.0));
    }
    let mean = isa.sum(sum) / width;
    // Two passes: the squares of the differences lose nothing when the mean is large.
    let mut squares = isa.zero();
    for x in x.chunks(LANES) {
        // Lanes beyond the row differ from the mean by nothing.
        let difference = isa.sub(isa.load_slice(x, mean), isa.splat(mean));
        squares = isa.fma(difference, difference, squares);
    }
    (mean, 1.0 / (isa.sum(squares) / width + eps).sqrt())
}

struct Forward<'a> {
    eps: f32,
    x: &'a [f32],
    w: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let width = self.w.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let (mean, scale) = statistics(isa, self.eps, x);
            let (mean, scale) = (isa.splat(mean), isa.splat(scale));
            let weights = self.w.chunks(LANES).zip(self.b.chunks(LANES));
            for ((x, (w, b)), y) in x.chunks(LANES).zip(weights).zip(y.chunks_mut(LANES)) {
                let normal = isa.mul(isa.sub(isa.load_slice(x, 0.0), mean), scale);
                isa.store_slice(y, isa.fma(normal, isa.load_slice(w, 0.0), isa.load_slice(b, 0.0)));
            }
        }
    }
}

struct Backward<'a> {
    eps: f32,
    x: &'a [f32],
    w: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    write: Write,
    dw_db: Option<[&'a mut [f32]; 2]>,
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let width = self.w.len();
        let rows = self.x.chunks_exact(width).zip(self.dy.chunks_exact(width));
        for ((x, dy), dx) in rows.zip(self.dx.chunks_exact_mut(width)) {
            let (mean, scale) = statistics(isa, self.eps, x);
            let (m, s) = (isa.splat(mean), isa.splat(scale));
            let (mut sum, mut along) = (isa.zero(), isa.zero());
            let parts = x.chunks(LANES).zip(self.w.chunks(LANES)).zip(dy.chunks(LANES));
            for (i, ((x, w), dy)) in parts.clone().enumerate() {
                let columns = i * LANES..i * LANES + x.len();
                let n = isa.mul(isa.sub(isa.load_slice(x, mean), m), s);
                let dy = isa.load_slice(dy, 0.0);
                if let Some([dw, db]) = &mut self.dw_db {
                    Write::Add.store(isa, &mut dw[columns.clone()], isa.mul(dy, n));
                    Write::Add.store(isa, &mut db[columns], dy);
                }
                let dn = isa.mul(dy, isa.load_slice(w, 0.0));
                sum = isa.add(sum, dn);
                along = isa.fma(dn, n, along);
            }
            let sum = isa.splat(isa.sum(sum) / width as f32);
            let along = isa.splat(isa.sum(along) / width as f32);
            for (((x, w), dy), dx) in parts.zip(dx.chunks_mut(LANES)) {
                let n = isa.mul(isa.sub(isa.load_slice(x, mean), m), s);
                let dn = isa.mul(isa.load_slice(dy, 0.0), isa.load_slice(w, 0.0));
                self.write.store(isa, dx, isa.mul(s, isa.fnma(n, along, isa.sub(dn, sum))));
            }
        }
    }
}

/// Mean and 1 / standard deviation, in f64.
fn reference_statistics(eps: f32, x: &[f64]) -> (f64, f64) {
    let width = x.len() as f64;
    let mean = x.iter().sum::<f64>() / width;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width;
    (mean, 1.0 / (variance + f64::from(eps)).sqrt())
}

/// The formula, in f64.
pub fn reference(eps: f32, x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks_exact(w.len()) {
        let (mean, s) = reference_statistics(eps, x);
        y.extend(x.iter().zip(w.iter().zip(b)).map(|(x, (w, b))| (x - mean) * s * w + b));
    }
    y
}

/// The formulas of the gradients, in f64: dx `[R, C]`, dw and db `[C]`.
pub fn reference_backward(eps: f32, x: &[f64], w: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
    let width = w.len();
    let [mut dx, mut dw, mut db] = [Vec::with_capacity(x.len()), vec![0.0; width], vec![0.0; width]];
    for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
        let (mean, s) = reference_statistics(eps, x);
        let n = |c: usize| (x[c] - mean) * s;
        let dn = |c: usize| dy[c] * w[c];
        let sum = (0..width).map(dn).sum::<f64>() / width as f64;
        let along = (0..width).map(|c| dn(c) * n(c)).sum::<f64>() / width as f64;
        for c in 0..width {
            dw[c] += dy[c] * n(c);
            db[c] += dy[c];
            dx.push(s * (dn(c) - sum - n(c) * along));
        }
    }
    [dx, dw, db]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_derivative, assert_near, differences, dot, lengths, normal, wide};
    use crate::simd::{IsaKind, dispatch_to};

    #[test]
    fn matches_the_reference() {
        for width in lengths() {
            // A mean far from 0: where a one-pass variance would fail.
            let x: Vec<f32> = normal(3 * width, 1).iter().map(|x| x + 50.0).collect();
            let (w, b) = (normal(width, 2), normal(width, 3));
            let want = reference(1e-5, &wide(&x), &wide(&w), &wide(&b));
            for kind in IsaKind::available() {
                let mut y = vec![f32::NAN; x.len()];
                dispatch_to(kind, Forward { eps: 1e-5, x: &x, w: &w, b: &b, y: &mut y });
                for (y, want) in y.iter().zip(&want) {
                    let error = (f64::from(*y) - want).abs();
                    assert!(error < 3e-5 * want.abs().max(1.0), "{} {width}: {y} {want}", kind.name());
                }
            }
        }
    }

    #[test]
    fn reference_gradients_are_the_derivatives() {
        for width in [1, 2, 7, 33] {
            let eps = 1e-1;
            let [x, dy] = [1, 3].map(|seed| wide(&normal(2 * width, seed)));
            let [w, b] = [2, 4].map(|seed| wide(&normal(width, seed)));
            let [dx, dw, db] = reference_backward(eps, &x, &w, &dy);
            assert_derivative("dx", &dx, &differences(&x, |x| dot(&reference(eps, x, &w, &b), &dy)));
            assert_derivative("dw", &dw, &differences(&w, |w| dot(&reference(eps, &x, w, &b), &dy)));
            assert_derivative("db", &db, &differences(&b, |b| dot(&reference(eps, &x, &w, b), &dy)));
        }
    }

    #[test]
    fn gradients_match_the_reference() {
        for width in lengths() {
            let x: Vec<f32> = normal(3 * width, 1).iter().map(|x| x * 3.0 + 5.0).collect();
            let (w, dy) = (normal(width, 2), normal(3 * width, 3));
            let [want_dx, want_dw, want_db] = reference_backward(1e-1, &wide(&x), &wide(&w), &wide(&dy));
            let want_sum: Vec<f64> = want_dx.iter().map(|d| d + 2.0).collect();
            for kind in IsaKind::available() {
                for (write, before, want) in [(Write::Set, f32::NAN, &want_dx), (Write::Add, 2.0, &want_sum)]
                {
                    let mut dx = vec![before; x.len()];
                    let (mut dw, mut db) = (vec![0.0; width], vec![0.0; width]);
                    let backward = Backward {
                        eps: 1e-1,
                        x: &x,
                        w: &w,
                        dy: &dy,
                        dx: &mut dx,
                        write,
                        dw_db: Some([&mut dw, &mut db]),
                    };
                    dispatch_to(kind, backward);
                    let what = format!("{} {width} {write:?}", kind.name());
                    assert_near(&what, &dx, want, 5e-6);
                    assert_near(&what, &dw, &want_dw, 5e-6);
                    assert_near(&what, &db, &want_db, 5e-6);
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        for width in [5, 64, 770] {
            let (x, w, dy) = (normal(300 * width, 1), normal(width, 2), normal(300 * width, 3));
            let run = |threads| {
                let pool = Pool::new(threads);
                let mut scratch = Vec::new();
                let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.5; width], vec![0.5; width]);
                for _ in 0..2 {
                    let dw_db: Option<[&mut [f32]; 2]> = Some([&mut dw, &mut db]);
                    let gradients = Gradients { dx: &mut dx, write: Write::Set, dw_db };
                    backward(&pool, 1e-5, &x, &w, &dy, gradients, &mut scratch);
                }
                let mut frozen = vec![0.0; x.len()];
                let gradients = Gradients { dx: &mut frozen, write: Write::Set, dw_db: None };
                backward(&pool, 1e-5, &x, &w, &dy, gradients, &mut scratch);
                assert_eq!(dx, frozen);
                [dx, dw, db]
            };
            let got = run(1);
            assert_eq!(got, run(3));
            let [_, dw, db] = reference_backward(1e-5, &wide(&x), &wide(&w), &wide(&dy));
            let twice = |d: &[f64]| d.iter().map(|d| 0.5 + 2.0 * d).collect::<Vec<f64>>();
            assert_near("dw of many rows", &got[1], &twice(&dw), 3e-6);
            assert_near("db of many rows", &got[2], &twice(&db), 3e-6);
        }
    }
}
