//! A length of its own for each output's weights, beside a low-rank change of their direction ("DoRA": Liu et al., 2024).
//!
//! ```text
//!   v = x (w + s b a)ᵀ                what LoRA gives, without a bias
//!   y = g ⊙ v + bias                  g = m / ‖w + s b a‖, one for each output
//!
//!   dv = g ⊙ dy      dm = Σ over rows of dy ⊙ v / ‖w + s b a‖
//! ```
//!
//! To backward the lengths `‖w + s b a‖` are constants (section 4.3 of the paper).

use super::rows::{Write, for_rows, sum_over_rows};
use crate::DType;
use crate::matrix::{DecodePanel, Matrix};
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, IsaKind, Kernel, LANES, dispatch, dispatch_to};

/// A length below which a row is nothing: what divides by it stays finite.
const TINY: f32 = 1e-30;

/// The lengths of the rows of `w + s b a`, one for each row of w `[n, k]`. a is `[r, k]` and b `[n, r]`, in f32.
///
/// Panics when sizes or types differ.
pub fn lengths(pool: &Pool, w: &Matrix, change: [&Matrix; 2], scale: f32, out: &mut [f32]) {
    lengths_on(IsaKind::current(), pool, w, change, scale, out);
}

fn lengths_on(kind: IsaKind, pool: &Pool, w: &Matrix, [a, b]: [&Matrix; 2], scale: f32, out: &mut [f32]) {
    let (n, k, rank) = (w.rows(), w.cols(), a.rows());
    assert_eq!([a.cols(), b.rows(), b.cols(), out.len()], [k, n, rank, n], "sizes of a, b and the lengths");
    assert!(a.dtype() == DType::F32 && b.dtype() == DType::F32, "a and b in f32");
    let mut rows_of_a = vec![0.0; rank * k];
    for (row, out) in rows_of_a.chunks_exact_mut(k.max(1)).enumerate() {
        a.decode_row(row, out);
    }
    let out = Shares::new(out);
    pool.run(w.panels(), |panel| {
        let decode = |matrix: &Matrix| {
            let mut values = vec![0.0; matrix.cols() * LANES];
            let (dtype, len) = (matrix.dtype(), matrix.cols());
            dispatch(DecodePanel { dtype, panel: matrix.panel(panel), start: 0, len, out: &mut values });
            values
        };
        let (w, b) = (decode(w), decode(b));
        let range = panel * LANES..n.min((panel + 1) * LANES);
        // SAFETY: a task writes the lengths of its own panel.
        let out = unsafe { out.get(range) };
        dispatch_to(kind, Lengths { w: &w, a: &rows_of_a, b: &b, scale, out });
    });
}

/// The lengths of 32 rows, one a lane.
struct Lengths<'a> {
    /// `[k][32]`.
    w: &'a [f32],
    /// `[r][k]`.
    a: &'a [f32],
    /// `[r][32]`.
    b: &'a [f32],
    scale: f32,
    out: &'a mut [f32],
}

impl Kernel for Lengths<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let k = self.w.len() / LANES;
        let mut sum = isa.zero();
        for (at, w) in self.w.chunks_exact(LANES).enumerate() {
            let mut change = isa.zero();
            for (i, b) in self.b.chunks_exact(LANES).enumerate() {
                change = isa.fma(isa.load_slice(b, 0.0), isa.splat(self.a[i * k + at]), change);
            }
            let value = isa.fma(isa.splat(self.scale), change, isa.load_slice(w, 0.0));
            sum = isa.fma(value, value, sum);
        }
        let mut lanes = [0.0; LANES];
        isa.store_slice(&mut lanes, sum);
        for (out, square) in self.out.iter_mut().zip(lanes) {
            *out = square.sqrt().max(TINY);
        }
    }
}

/// `g = m / length`.
pub fn gains(m: &[f32], lengths: &[f32], gains: &mut Vec<f32>) {
    gains.clear();
    gains.extend(m.iter().zip(lengths).map(|(m, length)| m / length));
}

/// `y = g ⊙ (y - bias) + bias`, in place: y is what the product with LoRA has given, `[rows, n]`.
///
/// Panics when sizes differ.
pub fn forward(pool: &Pool, gains: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let len = y.len();
    let y = Shares::new(y);
    for_rows(pool, len, gains.len(), |range| {
        // SAFETY: a task writes its own rows.
        for y in unsafe { y.get(range) }.chunks_exact_mut(gains.len()) {
            match bias {
                None => y.iter_mut().zip(gains).for_each(|(y, gain)| *y *= gain),
                Some(bias) => (y.iter_mut().zip(gains).zip(bias))
                    .for_each(|((y, gain), bias)| *y = gain * (*y - bias) + bias),
            }
        }
    });
}

/// `dv = g ⊙ dy`, `[rows, n]`. Panics when sizes differ.
pub fn backward(pool: &Pool, gains: &[f32], dy: &[f32], dv: &mut [f32]) {
    assert_eq!(dy.len(), dv.len(), "sizes of dy and dv");
    let dv = Shares::new(dv);
    for_rows(pool, dy.len(), gains.len(), |range| {
        // SAFETY: a task writes its own rows.
        let dv = unsafe { dv.get(range.clone()) };
        for (dv, dy) in dv.chunks_exact_mut(gains.len()).zip(dy[range].chunks_exact(gains.len())) {
            dv.iter_mut().zip(dy).zip(gains).for_each(|((dv, dy), gain)| *dv = dy * gain);
        }
    });
}

/// `dm = Σ over rows of dy ⊙ v / length`, set or added; `scratch` is as that of the norms.
///
/// Panics when sizes differ.
pub fn magnitude_gradient(
    pool: &Pool,
    lengths: &[f32],
    [dy, v]: [&[f32]; 2],
    (dm, write): (&mut [f32], Write),
    scratch: &mut Vec<f32>,
) {
    assert_eq!(dy.len(), v.len(), "sizes of dy and v");
    if write == Write::Set {
        dm.fill(0.0);
    }
    let n = lengths.len();
    sum_over_rows(pool, [dy.len(), n], Some([dm]), scratch, |range, sums| {
        let Some([sum]) = sums else { return };
        for (dy, v) in dy[range.clone()].chunks_exact(n).zip(v[range].chunks_exact(n)) {
            for (((sum, dy), v), length) in sum.iter_mut().zip(dy).zip(v).zip(lengths) {
                *sum += dy * v / length;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_derivative, assert_near, differences, dot, normal, wide};

    /// Lengths and the outputs, in f64.
    struct Reference {
        w: Vec<f64>,
        a: Vec<f64>,
        b: Vec<f64>,
        n: usize,
        k: usize,
        rank: usize,
        scale: f64,
    }

    impl Reference {
        fn weight(&self, row: usize, col: usize) -> f64 {
            let change: f64 =
                (0..self.rank).map(|i| self.b[row * self.rank + i] * self.a[i * self.k + col]).sum();
            self.w[row * self.k + col] + self.scale * change
        }

        fn lengths(&self) -> Vec<f64> {
            let square = |row| (0..self.k).map(|col| self.weight(row, col).powi(2)).sum::<f64>();
            (0..self.n).map(|row| square(row).sqrt()).collect()
        }
    }

    fn reference([n, k, rank]: [usize; 3]) -> Reference {
        let values = |len: usize, seed: u64| wide(&normal(len, seed));
        Reference {
            w: values(n * k, 1),
            a: values(rank * k, 2),
            b: values(n * rank, 3),
            n,
            k,
            rank,
            scale: 0.5,
        }
    }

    #[test]
    fn lengths_are_those_of_the_rows() {
        let pool = Pool::new(2);
        for [n, k, rank] in [[1, 1, 1], [31, 7, 2], [33, 64, 1], [100, 65, 5], [64, 33, 16]] {
            let of = reference([n, k, rank]);
            let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
            let matrix = |rows, cols, x: &[f64]| Matrix::from_f32(&pool, [rows, cols], &narrow(x));
            let (w, a, b) = (matrix(n, k, &of.w), matrix(rank, k, &of.a), matrix(n, rank, &of.b));
            for kind in IsaKind::available() {
                let mut found = vec![0.0; n];
                lengths_on(kind, &pool, &w, [&a, &b], of.scale as f32, &mut found);
                assert_near(kind.name(), &found, &of.lengths(), 1e-5);
            }
        }
        // A row of zeros has no direction, and divides nothing by 0.
        let zero = |rows, cols| Matrix::from_f32(&pool, [rows, cols], &vec![0.0; rows * cols]);
        let mut found = [1.0; 3];
        lengths(&pool, &zero(3, 4), [&zero(2, 4), &zero(3, 2)], 1.0, &mut found);
        assert!(found.iter().all(|&length| length > 0.0 && (0.0 / length) == 0.0), "{found:?}");
    }

    #[test]
    fn gradients_are_those_of_the_formula() {
        let (rows, n) = (37, 11);
        let (v, m, bias) = (wide(&normal(rows * n, 1)), wide(&normal(n, 2)), wide(&normal(n, 3)));
        let (lengths, dy) =
            (normal(n, 4).iter().map(|x| x.abs() + 0.5).collect::<Vec<f32>>(), normal(rows * n, 5));
        let y = |v: &[f64], m: &[f64]| -> Vec<f64> {
            (0..rows * n).map(|i| m[i % n] / f64::from(lengths[i % n]) * v[i] + bias[i % n]).collect()
        };
        let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let pool = Pool::new(2);
        let mut gain = Vec::new();
        gains(&narrow(&m), &lengths, &mut gain);
        let mut found: Vec<f32> = (0..rows * n).map(|i| (v[i] + bias[i % n]) as f32).collect();
        forward(&pool, &gain, Some(&narrow(&bias)), &mut found);
        assert_near("y", &found, &y(&v, &m), 1e-5);
        let mut without = narrow(&v);
        forward(&pool, &gain, None, &mut without);
        let plain: Vec<f64> = y(&v, &m).iter().enumerate().map(|(i, y)| y - bias[i % n]).collect();
        assert_near("y without a bias", &without, &plain, 1e-5);

        let wide_dy = wide(&dy);
        let mut dv = vec![0.0; rows * n];
        backward(&pool, &gain, &dy, &mut dv);
        let by_differences = differences(&v, |v| dot(&y(v, &m), &wide_dy));
        assert_near("dv", &dv, &by_differences, 1e-5);
        let by_differences = differences(&m, |m| dot(&y(&v, m), &wide_dy));
        let mut scratch = Vec::new();
        let mut dm = vec![1.0; n];
        let v32 = narrow(&v);
        magnitude_gradient(&pool, &lengths, [&dy, &v32], (&mut dm, Write::Set), &mut scratch);
        assert_near("dm", &dm, &by_differences, 1e-5);
        let once = dm.clone();
        magnitude_gradient(&pool, &lengths, [&dy, &v32], (&mut dm, Write::Add), &mut scratch);
        assert!(dm.iter().zip(&once).all(|(twice, once)| *twice == 2.0 * once));
        let formula: Vec<f64> = (0..n)
            .map(|j| {
                (0..rows).map(|r| wide_dy[r * n + j] * v[r * n + j]).sum::<f64>() / f64::from(lengths[j])
            })
            .collect();
        assert_derivative("dm", &formula, &by_differences);
    }
}
