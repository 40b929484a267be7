//! Muon: momentum whose matrix is made orthogonal before it is a step (Jordan et al. 2024).
//!
//! ```text
//!   g  = grad_scale · gradient
//!   m ← momentum · m + (1 - momentum) g
//!   u  = m                                      heavy ball
//!   u  = momentum · m + (1 - momentum) g        Nesterov
//!   w ← w - lr · weight_decay · w - lr · scale · orthogonal(u)
//! ```
//!
//! With the singular value decomposition u = P S Qᵀ, the orthogonal matrix next to u is P Qᵀ: all directions get the
//! same length, also those that gradients hardly ever have. It need not be exact, and there is a way with products
//! alone, Newton and Schulz's: for X = u / |u| (Frobenius norm), 5 times
//!
//! ```text
//!   A = X Xᵀ        X ← a X + (b A + c A²) X,        a, b, c = 3.4445, -4.7750, 2.0315
//! ```
//!
//! X keeps P and Q, and every singular value s becomes a s + b s³ + c s⁵: those coefficients lift small ones fastest, and
//! leave all between about 0.7 and 1.2.
//!
//! Weights, gradients and momenta `[n, k]` lie in panels `[n/32][k][32]` as everywhere ([`crate::panels`]). For the
//! products X is row-major, with the shorter side first, so that A is as small as it can be; one factor is packed into
//! panels of 32 columns, and 32 columns by several rows are summed up in registers. A task owns 32 columns of a result:
//! threads do not change bits.

use super::grad_norm::sum_of_squares;
use super::rows::{at_least, for_rows};
use super::sgd::Momentum;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};
use std::array::from_fn;

const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
const ROUNDS: usize = 5;
/// Added to the norm that X is divided by.
const EPS: f64 = 1e-7;

/// What an orthogonal matrix `[n, k]` is multiplied with: its elements are smaller the larger it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// `sqrt(max(1, n / k))`: a step changes outputs by about the same for all shapes (Jordan et al. 2024).
    Spectral,
    /// `0.2 sqrt(max(n, k))`: steps as large as AdamW's, so that lr and weight decay can be the same (Moonlight, Liu et
    /// al. 2025).
    LikeAdam,
}

impl Scale {
    /// The factor for a matrix `[n, k]`.
    pub fn factor(self, [n, k]: [usize; 2]) -> f64 {
        match self {
            Scale::Spectral => (n as f64 / k as f64).max(1.0).sqrt(),
            Scale::LikeAdam => 0.2 * (n.max(k) as f64).sqrt(),
        }
    }
}

/// The settings of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Learning rate.
    pub lr: f64,
    /// Usually `Nesterov(0.95)`.
    pub momentum: Momentum,
    /// Share of the weight that is taken off, times lr.
    pub weight_decay: f64,
    /// What makes up for the shape.
    pub scale: Scale,
    /// Multiplies gradients: for clipping, and for accumulated batches.
    pub grad_scale: f32,
}

/// Room for X, its successor, A, the polynomial of A and packed factors: it grows to the largest matrix.
#[derive(Default)]
pub struct Scratch {
    x: Vec<f32>,
    next: Vec<f32>,
    gram: Vec<f32>,
    polynomial: Vec<f32>,
    packed: Vec<f32>,
    sums: Vec<f64>,
}

impl Muon {
    /// Moves a matrix `w` `[n, k]` by its gradient `g`, with momentum `m`: all in panels `[n/32][k][32]`. Lanes beyond n
    /// of w are left alone.
    ///
    /// Panics when sizes differ.
    pub fn update(
        &self,
        pool: &Pool,
        [n, k]: [usize; 2],
        w: &mut [f32],
        g: &[f32],
        m: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let len = n.next_multiple_of(LANES) * k;
        assert_eq!([w.len(), g.len(), m.len()], [len; 3], "sizes of w, g and m for {n} rows of {k}");
        if len == 0 {
            return;
        }
        let (keep, ahead) = match self.momentum {
            Momentum::HeavyBall(keep) => (keep, 0.0),
            Momentum::Nesterov(keep) => (keep, 1.0 - keep),
        };
        let (fresh, ahead) = ((1.0 - keep) as f32, ahead as f32);
        let shares = Shares::new(m);
        for_rows(pool, len, 1, |range| {
            // SAFETY: a task has its own range.
            let m = unsafe { shares.get(range.clone()) };
            dispatch(Mix { m, g: &g[range], grad_scale: self.grad_scale, fresh });
        });

        let m = &*m;
        let shape = [n.min(k), n.max(k)];
        // Where row i and column j of X are in panels.
        let place = |i: usize, j: usize| {
            let (row, column) = if n <= k { (i, j) } else { (j, i) };
            (row / LANES * k + column) * LANES + row % LANES
        };
        let long = shape[1];
        pool.for_each_row(at_least(&mut scratch.x, n * k), long, 8, |i, x| {
            for (j, x) in x.iter_mut().enumerate() {
                let at = place(i, j);
                *x = m[at] + ahead * (self.grad_scale * g[at] - m[at]);
            }
        });
        orthogonalise(pool, shape, scratch);

        let x = &scratch.x;
        let keep = (1.0 - self.lr * self.weight_decay) as f32;
        let lr = (self.lr * self.scale.factor([n, k])) as f32;
        pool.for_each_row(w, k * LANES, 1, |panel, w| {
            let rows = panel * LANES..n.min((panel + 1) * LANES);
            for (column, w) in w.chunks_exact_mut(LANES).enumerate() {
                for (w, row) in w.iter_mut().zip(rows.clone()) {
                    let at = if n <= k { row * long + column } else { column * long + row };
                    *w = keep * *w - lr * x[at];
                }
            }
        });
    }
}

/// Makes `scratch.x` `[short, long]` nearly orthogonal.
fn orthogonalise(pool: &Pool, [short, long]: [usize; 2], scratch: &mut Scratch) {
    let Scratch { x, next, gram, polynomial, packed, sums } = scratch;
    let [a, b, c] = COEFFICIENTS;
    let inverse = (sum_of_squares(pool, at_least(x, short * long), sums).sqrt() + EPS).recip() as f32;
    at_least(x, short * long).iter_mut().for_each(|x| *x *= inverse);
    at_least(next, short * long);
    for _ in 0..ROUNDS {
        let rows = &x[..short * long];
        let gram = at_least(gram, short * short);
        let columns = pack(pool, [long, short], packed, |l, j| rows[j * long + l]);
        multiply(pool, [short, short, long], 1.0, rows, columns, None, gram);
        let gram = &*gram;
        let columns = pack(pool, [short, short], packed, |l, j| gram[l * short + j]);
        let polynomial = at_least(polynomial, short * short);
        multiply(pool, [short, short, short], c, gram, columns, Some((b, gram)), polynomial);
        let columns = pack(pool, [short, long], packed, |l, j| rows[l * long + j]);
        let out = &mut next[..short * long];
        multiply(pool, [short, long, short], 1.0, polynomial, columns, Some((a, rows)), out);
        std::mem::swap(x, next);
    }
}

/// A matrix `[inner, n]` in panels `[n/32][inner][32]`; lanes beyond n are zeros.
fn pack<'a>(
    pool: &Pool,
    [inner, n]: [usize; 2],
    packed: &'a mut Vec<f32>,
    element: impl Fn(usize, usize) -> f32 + Sync,
) -> &'a [f32] {
    let packed = at_least(packed, n.next_multiple_of(LANES) * inner);
    pool.for_each_row(packed, inner * LANES, 1, |panel, packed| {
        for (l, lanes) in packed.chunks_exact_mut(LANES).enumerate() {
            for (lane, x) in lanes.iter_mut().enumerate() {
                let j = panel * LANES + lane;
                *x = if j < n { element(l, j) } else { 0.0 };
            }
        }
    });
    packed
}

/// `out = factor · left · right + add.0 · add.1`: left `[m, inner]`, right packed, add and out `[m, n]`.
fn multiply(
    pool: &Pool,
    [m, n, inner]: [usize; 3],
    factor: f32,
    left: &[f32],
    right: &[f32],
    add: Option<(f32, &[f32])>,
    out: &mut [f32],
) {
    assert!(left.len() == m * inner && right.len() == n.next_multiple_of(LANES) * inner);
    assert!(out.len() == m * n && add.is_none_or(|(_, add)| add.len() == m * n));
    let out = Shares::new(out);
    pool.run(n.div_ceil(LANES), |panel| {
        let right = &right[panel * inner * LANES..][..inner * LANES];
        let columns = panel * LANES..n.min((panel + 1) * LANES);
        dispatch(Multiply { m, n, factor, left, right, add, columns, out });
    });
}

/// 32 columns of a product.
struct Multiply<'a> {
    m: usize,
    n: usize,
    factor: f32,
    left: &'a [f32],
    /// `[inner][32]`.
    right: &'a [f32],
    add: Option<(f32, &'a [f32])>,
    columns: std::ops::Range<usize>,
    out: Shares<'a, f32>,
}

impl Kernel for Multiply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut row = 0;
        if const { I::ROWS >= 12 } {
            while self.m - row >= 12 {
                self.rows::<I, 12>(isa, row);
                row += 12;
            }
        }
        while self.m - row >= 3 {
            self.rows::<I, 3>(isa, row);
            row += 3;
        }
        while self.m > row {
            self.rows::<I, 1>(isa, row);
            row += 1;
        }
    }
}

impl Multiply<'_> {
    /// ROWS rows, from number `first` on.
    #[inline(always)]
    fn rows<I: Isa, const ROWS: usize>(&self, isa: I, first: usize) {
        let inner = self.right.len() / LANES;
        let left: [&[f32]; ROWS] = from_fn(|r| &self.left[(first + r) * inner..][..inner]);
        let mut sums = [isa.zero(); ROWS];
        for (l, right) in self.right.chunks_exact(LANES).enumerate() {
            let right = isa.load_slice(right, 0.0);
            for r in 0..ROWS {
                // SAFETY: l is below `inner`, the length of every row.
                let left = unsafe { *left[r].get_unchecked(l) };
                sums[r] = isa.fma(isa.splat(left), right, sums[r]);
            }
        }
        for r in 0..ROWS {
            let at = (first + r) * self.n;
            let at = at + self.columns.start..at + self.columns.end;
            let mut y = isa.mul(sums[r], isa.splat(self.factor));
            if let Some((factor, add)) = self.add {
                y = isa.fma(isa.splat(factor), isa.load_slice(&add[at.clone()], 0.0), y);
            }
            // SAFETY: a task has its own columns of every row.
            isa.store_slice(unsafe { self.out.get(at) }, y);
        }
    }
}

/// `m ← m + fresh (g - m)`.
struct Mix<'a> {
    m: &'a mut [f32],
    g: &'a [f32],
    grad_scale: f32,
    fresh: f32,
}

impl Kernel for Mix<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, _: I) {
        for (m, g) in self.m.iter_mut().zip(self.g) {
            *m += self.fresh * (g * self.grad_scale - *m);
        }
    }
}

/// The iteration, in f64: `u` `[n, k]`, row by row.
pub fn reference([n, k]: [usize; 2], u: &[f64]) -> Vec<f64> {
    let product =
        |[m, n, inner]: [usize; 3], x: &dyn Fn(usize, usize) -> f64, y: &dyn Fn(usize, usize) -> f64| {
            let element = |at: usize| (0..inner).map(|l| x(at / n, l) * y(l, at % n)).sum::<f64>();
            (0..m * n).map(element).collect::<Vec<f64>>()
        };
    let [a, b, c] = COEFFICIENTS.map(f64::from);
    let norm = u.iter().map(|u| u * u).sum::<f64>().sqrt() + EPS;
    let mut x: Vec<f64> = u.iter().map(|u| u / norm).collect();
    for _ in 0..ROUNDS {
        let gram = product([n, n, k], &|i, l| x[i * k + l], &|l, j| x[j * k + l]);
        let square = product([n, n, n], &|i, l| gram[i * n + l], &|l, j| gram[l * n + j]);
        let polynomial = |i: usize, l: usize| b * gram[i * n + l] + c * square[i * n + l];
        let step = product([n, k, n], &polynomial, &|l, j| x[l * k + j]);
        x.iter_mut().zip(&step).for_each(|(x, step)| *x = a * *x + step);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_near, normal, wide};
    use crate::simd::{IsaKind, dispatch_to};

    /// A row-major matrix in panels.
    fn panels([n, k]: [usize; 2], x: &[f32]) -> Vec<f32> {
        let mut panels = vec![0.0; n.next_multiple_of(LANES) * k];
        for (at, x) in x.iter().enumerate() {
            let (row, column) = (at / k, at % k);
            panels[(row / LANES * k + column) * LANES + row % LANES] = *x;
        }
        panels
    }

    #[test]
    fn products_match_f64_on_every_instruction_set() {
        for [m, n, inner] in [[1, 1, 1], [2, 31, 5], [13, 32, 7], [29, 33, 64], [12, 70, 33], [15, 1, 3]] {
            let (left, right) = (normal(m * inner, 1), normal(inner * n, 2));
            let add = normal(m * n, 3);
            let want: Vec<f64> = (0..m * n)
                .map(|at| {
                    let term = |l| f64::from(left[at / n * inner + l]) * f64::from(right[l * n + at % n]);
                    0.5 * (0..inner).map(term).sum::<f64>() - 2.0 * f64::from(add[at])
                })
                .collect();
            let mut packed = Vec::new();
            let packed = pack(&Pool::new(1), [inner, n], &mut packed, |l, j| right[l * n + j]);
            for kind in IsaKind::available() {
                let mut out = vec![f32::NAN; m * n];
                let shares = Shares::new(&mut out);
                for (panel, right) in packed.chunks_exact(inner * LANES).enumerate() {
                    let columns = panel * LANES..n.min((panel + 1) * LANES);
                    let (left, add) = (&left[..], Some((-2.0, &add[..])));
                    let multiply = Multiply { m, n, factor: 0.5, left, right, add, columns, out: shares };
                    dispatch_to(kind, multiply);
                }
                assert_near(&format!("{} {m} {n} {inner}", kind.name()), &out, &want, 1e-6);
            }
        }
    }

    #[test]
    fn steps_match_the_reference_for_any_number_of_threads() {
        let mut scratch = Scratch::default();
        for shape in [[1, 1], [1, 40], [40, 1], [3, 5], [32, 32], [33, 70], [70, 33], [100, 13]] {
            let [n, k] = shape;
            let (w, g) = (normal(n * k, 1), [normal(n * k, 2), normal(n * k, 3)]);
            for (momentum, scale) in
                [(Momentum::HeavyBall(0.9), Scale::Spectral), (Momentum::Nesterov(0.95), Scale::LikeAdam)]
            {
                let options = Muon { lr: 0.1, momentum, weight_decay: 0.5, scale, grad_scale: 0.5 };
                let (mut want, mut mean) = (wide(&w), vec![0.0; n * k]);
                for g in &g {
                    let g: Vec<f64> = g.iter().map(|&g| 0.5 * f64::from(g)).collect();
                    let (keep, ahead) = match momentum {
                        Momentum::HeavyBall(keep) => (keep, 0.0),
                        Momentum::Nesterov(keep) => (keep, 1.0 - keep),
                    };
                    mean = mean.iter().zip(&g).map(|(m, g)| keep * m + (1.0 - keep) * g).collect();
                    let u: Vec<f64> = mean.iter().zip(&g).map(|(m, g)| m + ahead * (g - m)).collect();
                    let step = reference(shape, &u);
                    for (w, step) in want.iter_mut().zip(step) {
                        *w -= 0.1 * 0.5 * *w + 0.1 * scale.factor(shape) * step;
                    }
                }
                let mut run = |threads| {
                    let (mut w, mut m) = (panels(shape, &w), vec![0.0; n.next_multiple_of(LANES) * k]);
                    for g in &g {
                        let g = panels(shape, g);
                        options.update(&Pool::new(threads), shape, &mut w, &g, &mut m, &mut scratch);
                    }
                    w
                };
                let found = run(1);
                assert_eq!(found, run(3), "{shape:?}");
                let want: Vec<f32> = want.iter().map(|&w| w as f32).collect();
                assert_near(&format!("{shape:?}"), &found, &wide(&panels(shape, &want)), 2e-5);
            }
        }
    }

    /// A diagonal matrix has its singular values on the diagonal, and keeps its shape.
    #[test]
    fn singular_values_come_close_to_1() {
        let (n, k) = (4, 6);
        let mut scratch = Scratch { x: vec![0.0; n * k], ..Scratch::default() };
        for i in 0..n {
            scratch.x[i * k + i] = 10f32.powi(i as i32 - 2);
        }
        orthogonalise(&Pool::new(2), [n, k], &mut scratch);
        for (at, &x) in scratch.x.iter().enumerate() {
            let (i, j) = (at / k, at % k);
            // Of the smallest, a thousandth of the largest, 5 rounds make only 3.4445^5 thousandths.
            let least = if i == 0 { 0.3 } else { 0.65 };
            assert!(if i == j { least < x && x < 1.25 } else { x == 0.0 }, "{i} {j}: {x}");
        }
    }

    #[test]
    fn nothing_comes_of_nothing_and_nan_of_nan() {
        let shape = [3, 2];
        let (momentum, scale) = (Momentum::Nesterov(0.95), Scale::LikeAdam);
        let options = Muon { lr: 0.1, momentum, weight_decay: 0.0, scale, grad_scale: 1.0 };
        let run = |g: f32| {
            let (mut w, mut m) = (vec![1.0; 64], vec![0.0; 64]);
            options.update(&Pool::new(1), shape, &mut w, &[g; 64], &mut m, &mut Scratch::default());
            w
        };
        assert_eq!(run(0.0), [1.0; 64]);
        for (at, w) in run(f32::NAN).iter().enumerate() {
            assert!(if at % LANES < 3 { w.is_nan() } else { *w == 1.0 }, "lanes beyond the rows");
        }
    }
}
