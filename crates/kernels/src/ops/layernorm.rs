//! LayerNorm over the last dimension, for R rows of C values:
//!
//! ```text
//!   y[r, c] = (x[r, c] - mean) / sqrt(variance + eps) · w[c] + b[c]
//! ```
//!
//! with the mean and the (biased) variance of row r. (Ba, Kiros and Hinton 2016.)

use super::rmsnorm::for_rows;
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
            let mut sum = isa.zero();
            for x in x.chunks(LANES) {
                sum = isa.add(sum, isa.load_slice(x, 0.0));
            }
            let mean = isa.sum(sum) / width as f32;
            // Two passes: the squares of the differences lose nothing when the mean is large.
            let mut squares = isa.zero();
            for x in x.chunks(LANES) {
                // Lanes beyond the row differ from the mean by nothing.
                let difference = isa.sub(isa.load_slice(x, mean), isa.splat(mean));
                squares = isa.fma(difference, difference, squares);
            }
            let scale = 1.0 / (isa.sum(squares) / width as f32 + self.eps).sqrt();
            let (mean, scale) = (isa.splat(mean), isa.splat(scale));
            let weights = self.w.chunks(LANES).zip(self.b.chunks(LANES));
            for ((x, (w, b)), y) in x.chunks(LANES).zip(weights).zip(y.chunks_mut(LANES)) {
                let normal = isa.mul(isa.sub(isa.load_slice(x, 0.0), mean), scale);
                isa.store_slice(y, isa.fma(normal, isa.load_slice(w, 0.0), isa.load_slice(b, 0.0)));
            }
        }
    }
}

/// The formula, in f64.
pub fn reference(eps: f32, x: &[f32], w: &[f32], b: &[f32]) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks_exact(w.len()) {
        let n = x.len() as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        let weights = w.iter().zip(b);
        y.extend(
            x.iter()
                .zip(weights)
                .map(|(&x, (&w, &b))| (f64::from(x) - mean) * scale * f64::from(w) + f64::from(b)),
        );
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::simd::{IsaKind, dispatch_to};

    #[test]
    fn matches_the_reference() {
        let mut rng = Rng::new(1, 0);
        for width in (1..34).chain([63, 64, 65, 128, 1000]) {
            // A mean far from 0: where a one-pass variance would fail.
            let x: Vec<f32> = (0..3 * width).map(|_| rng.normal() + 50.0).collect();
            let w: Vec<f32> = (0..width).map(|_| rng.normal()).collect();
            let b: Vec<f32> = (0..width).map(|_| rng.normal()).collect();
            let want = reference(1e-5, &x, &w, &b);
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
}
