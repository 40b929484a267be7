//! RMSNorm over the last dimension, for R rows of C values:
//!
//! ```text
//!   y[r, c] = x[r, c] / sqrt(mean over c of x[r, c]² + eps) · (offset + w[c])
//! ```
//!
//! `offset` is 0, or 1 for Gemma, whose files hold w - 1. (Zhang and Sennrich 2019.) Also used for each head of q and
//! k, with R heads of D values.

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

    /// As [`RmsNorm::forward`], in place.
    pub fn forward_in_place(&self, pool: &Pool, x: &mut [f32], w: &[f32]) {
        let len = x.len();
        let x = Shares::new(x);
        for_rows(pool, len, w.len(), |range| {
            // SAFETY: a task writes its own rows.
            dispatch(InPlace { norm: *self, x: unsafe { x.get(range) }, w });
        });
    }
}

/// Calls `task` with ranges of elements that are whole rows of `width`, each enough work for a thread.
pub(super) fn for_rows(pool: &Pool, len: usize, width: usize, task: impl Fn(std::ops::Range<usize>) + Sync) {
    assert!(width > 0 && len.is_multiple_of(width), "{len} elements are no rows of {width}");
    let grain = (1usize << 13).div_ceil(width);
    pool.run_ranges(len / width, grain, |rows| task(rows.start * width..rows.end * width));
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

struct InPlace<'a> {
    norm: RmsNorm,
    x: &'a mut [f32],
    w: &'a [f32],
}

impl Kernel for InPlace<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let offset = isa.splat(self.norm.offset);
        for row in self.x.chunks_exact_mut(self.w.len()) {
            let scale = isa.splat(row_scale(isa, self.norm, row));
            for (x, w) in row.chunks_mut(LANES).zip(self.w.chunks(LANES)) {
                let w = isa.add(isa.load_slice(w, 0.0), offset);
                let y = isa.mul(isa.mul(isa.load_slice(x, 0.0), scale), w);
                isa.store_slice(x, y);
            }
        }
    }
}

/// The formula, in f64.
pub fn reference(norm: RmsNorm, x: &[f32], w: &[f32]) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks_exact(w.len()) {
        let mean: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / w.len() as f64;
        let scale = 1.0 / (mean + f64::from(norm.eps)).sqrt();
        y.extend(x.iter().zip(w).map(|(&x, &w)| f64::from(x) * scale * f64::from(norm.offset + w)));
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
        let norm = RmsNorm { eps: 1e-5, offset: 1.0 };
        for width in (1..34).chain([63, 64, 65, 128, 1000]) {
            let x: Vec<f32> = (0..3 * width).map(|_| rng.normal() * 3.0).collect();
            let w: Vec<f32> = (0..width).map(|_| rng.normal()).collect();
            let want = reference(norm, &x, &w);
            for kind in IsaKind::available() {
                let mut y = vec![f32::NAN; x.len()];
                dispatch_to(kind, Forward { norm, x: &x, w: &w, y: &mut y });
                let mut in_place = x.clone();
                dispatch_to(kind, InPlace { norm, x: &mut in_place, w: &w });
                assert_eq!(y, in_place);
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
    fn threads_do_not_change_bits() {
        let mut rng = Rng::new(2, 0);
        let x: Vec<f32> = (0..300 * 64).map(|_| rng.normal()).collect();
        let w = vec![1.5; 64];
        let norm = RmsNorm { eps: 1e-6, offset: 0.0 };
        let run = |threads| {
            let mut y = vec![0.0; x.len()];
            norm.forward(&Pool::new(threads), &x, &w, &mut y);
            y
        };
        assert_eq!(run(1), run(3));
    }
}
