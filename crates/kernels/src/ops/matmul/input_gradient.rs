//! The gradient of a product's input: `dx[m, k] = sum over n of dy[m, n] w[n, k]`.
//!
//! For `y[m, n] = sum over k of x[m, k] w[n, k]`, so `∂y[m, n] / ∂x[m, k] = w[n, k]`, and the chain rule sums up over
//! every y that x went into. Where x went into several products (q, k and v), so does the sum.
//!
//! Lanes hold 32 neighbouring k, and n is walked from 0 upwards: as in the forward, the bits of an element do not
//! depend on the number of rows. The panels lie the other way round, with n in the lanes. So a stretch of n of 32 k is
//! transposed into the second cache, where all rows of dy use it:
//!
//! ```text
//!   panels [n/32][k][32 n]   ->   stretch [2048 n][32 k]   ->   tiles of Isa::ROWS rows x 32 k
//! ```
//!
//! Quantised weights are unpacked on the way, and multiply dy in f32.

use super::{Prepared, tile_rows};
use crate::dtype::DType;
use crate::matrix::{DecodePanel, Matrix, Operand};
use crate::ops::Write;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};
use std::ops::Range;

/// One product that x went into.
pub struct Term<'a> {
    /// `[m, n]`: the gradient of its output, prepared for [`Matrix::gradient_operand`].
    pub dy: Prepared<'a>,
    /// `[n, k]`.
    pub weight: &'a Matrix,
}

/// Panels whose weights are transposed at a time: 256 KiB of f32, or 128 KiB of bf16. That is more than the nearest cache
/// has, but a tile reads them in sequence, and what counts is how seldom its sums come from dx and go back.
const PANELS: usize = 64;

/// `dx[m, k]` of the products that x went into.
///
/// Panics when shapes differ, or there is no term.
pub fn input_gradient(pool: &Pool, terms: &[Term], dx: &mut [f32], write: Write) {
    let (m, k) = (terms[0].dy.rows(), terms[0].weight.cols());
    for Term { dy, weight } in terms {
        assert_eq!([dy.rows(), weight.cols()], [m, k], "rows and width of every term");
        assert_eq!(dy.cols(), weight.rows(), "width of dy and rows of the weight");
    }
    assert_eq!(dx.len(), m * k, "size of dx for {m} rows of {k}");
    if m == 0 {
        return;
    }
    let stripes = k.div_ceil(LANES);
    // Many stripes, so that a stretch of dy is used again from the second cache.
    let grain = stripes.div_ceil(2 * pool.threads()).clamp(1, 16);
    let dx = Shares::new(dx);
    pool.run_ranges(stripes, grain, |stripes| dispatch(Stripes { terms, dx, write, k, stripes }));
}

/// Columns `32 stripes` of dx.
struct Stripes<'a> {
    terms: &'a [Term<'a>],
    dx: Shares<'a, f32>,
    write: Write,
    k: usize,
    stripes: Range<usize>,
}

/// A stretch of weights, transposed: `[n][32]` f32, or `[n/2][32][2]` bf16.
#[repr(align(128))]
struct Stretch([f32; PANELS * LANES * LANES]);

/// A square of weights as it lies in a panel, unpacked: `[32 k][32 n]`.
#[repr(align(128))]
struct Square([f32; LANES * LANES]);

impl Kernel for Stripes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut stretch = Stretch([0.0; PANELS * LANES * LANES]);
        let mut fresh = self.write == Write::Set;
        for term in self.terms {
            let n = term.weight.rows();
            for first in (0..term.weight.panels()).step_by(PANELS) {
                let panels = first..term.weight.panels().min(first + PANELS);
                let range = first * LANES..n.min(panels.end * LANES);
                for stripe in self.stripes.clone() {
                    let out = Out { dx: self.dx, k: self.k, stripe, fresh };
                    match term.weight.gradient_operand() {
                        Operand::Bf16 => {
                            transpose_pairs(isa, term.weight, panels.clone(), stripe, &mut stretch);
                            bf16_tiles(isa, &term.dy, &stretch, range.clone(), &out);
                        }
                        operand @ (Operand::F32 | Operand::F16 | Operand::I8) => {
                            transpose(isa, term.weight, panels.clone(), stripe, &mut stretch);
                            f32_tiles(isa, (&term.dy, operand), &stretch, range.clone(), &out);
                        }
                    }
                }
                fresh = false;
            }
        }
    }
}

/// Fills `to` with `[n][32]` f32: the values of k of one stripe, of all n of some panels.
#[inline(always)]
fn transpose<I: Isa>(isa: I, weight: &Matrix, panels: Range<usize>, stripe: usize, to: &mut Stretch) {
    let start = stripe * LANES;
    let len = LANES.min(weight.cols() - start);
    for (panel, to) in panels.zip(to.0.chunks_exact_mut(LANES * LANES)) {
        let panel = weight.panel(panel);
        if weight.dtype() == DType::F32 && len == LANES {
            let square = &panel[4 * LANES * start..4 * LANES * (start + LANES)];
            // SAFETY: both are squares of 32 x 32.
            unsafe { isa.transpose(square.as_ptr().cast(), to.as_mut_ptr()) }
        } else {
            let mut square = Square([0.0; LANES * LANES]);
            isa.run(DecodePanel { dtype: weight.dtype(), panel, start, len, out: &mut square.0 });
            // SAFETY: both are squares of 32 x 32.
            unsafe { isa.transpose(square.0.as_ptr(), to.as_mut_ptr()) }
        }
    }
}

/// Fills `to` with `[n/2][32][2]` bf16: as [`transpose`], in pairs of n.
#[inline(always)]
fn transpose_pairs<I: Isa>(isa: I, weight: &Matrix, panels: Range<usize>, stripe: usize, to: &mut Stretch) {
    const SQUARE: usize = 2 * LANES * LANES;
    for (i, panel) in panels.enumerate() {
        let rest = &weight.panel(panel)[stripe * SQUARE..];
        // SAFETY: square `i` of the stretch, which has room for twice as many.
        let to = unsafe { to.0.as_mut_ptr().cast::<u16>().add(i * LANES * LANES) };
        if rest.len() >= SQUARE {
            // SAFETY: both are squares of 32 x 32.
            unsafe { isa.transpose_bf16(rest.as_ptr().cast(), to) }
        } else {
            let mut square = Square([0.0; LANES * LANES]);
            // SAFETY: the rest is less than a square; both are squares then.
            unsafe {
                let padded = square.0.as_mut_ptr().cast::<u8>();
                padded.copy_from_nonoverlapping(rest.as_ptr(), rest.len());
                isa.transpose_bf16(padded.cast(), to);
            }
        }
    }
}

/// 32 columns of dx, or as many as are left.
struct Out<'a> {
    dx: Shares<'a, f32>,
    k: usize,
    stripe: usize,
    /// Nothing is there yet.
    fresh: bool,
}

impl Out<'_> {
    #[inline(always)]
    fn columns(&self, row: usize) -> Range<usize> {
        let at = row * self.k;
        at + self.stripe * LANES..at + self.k.min((self.stripe + 1) * LANES)
    }

    /// The sums of a tile's rows so far.
    #[inline(always)]
    fn load<I: Isa, const ROWS: usize>(&self, isa: I, row: usize) -> [I::F; ROWS] {
        let mut sums = [isa.zero(); ROWS];
        if !self.fresh {
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: these columns of dx belong to this task alone.
                *sums = isa.load_slice(unsafe { self.dx.get(self.columns(row + r)) }, 0.0);
            }
        }
        sums
    }

    #[inline(always)]
    fn store<I: Isa, const ROWS: usize>(&self, isa: I, row: usize, sums: [I::F; ROWS]) {
        for (r, sums) in sums.into_iter().enumerate() {
            // SAFETY: these columns of dx belong to this task alone.
            isa.store_slice(unsafe { self.dx.get(self.columns(row + r)) }, sums);
        }
    }
}

/// All rows of dy over one stretch of n.
#[inline(always)]
fn f32_tiles<I: Isa>(
    isa: I,
    (dy, operand): (&Prepared, Operand),
    stretch: &Stretch,
    range: Range<usize>,
    out: &Out,
) {
    macro_rules! tile {
        ($row:expr, $rows:literal) => {{
            let rows: [*const f32; $rows] =
                std::array::from_fn(|r| dy.f32_row(operand, $row + r)[range.start..].as_ptr());
            let mut acc = out.load::<I, $rows>(isa, $row);
            for i in 0..range.len() {
                // SAFETY: the stretch and every row have these values of n.
                unsafe {
                    let w = isa.load(stretch.0.as_ptr().add(i * LANES));
                    for r in 0..$rows {
                        acc[r] = isa.fma(isa.splat(*rows[r].add(i)), w, acc[r]);
                    }
                }
            }
            out.store(isa, $row, acc);
        }};
    }
    tile_rows!(0..dy.rows(), I::ROWS, tile);
}

/// As [`f32_tiles`], in pairs of bf16.
#[inline(always)]
fn bf16_tiles<I: Isa>(isa: I, dy: &Prepared, stretch: &Stretch, range: Range<usize>, out: &Out) {
    let stretch = stretch.0.as_ptr().cast::<u8>();
    macro_rules! tile {
        ($row:expr, $rows:literal) => {{
            let rows: [*const u32; $rows] =
                std::array::from_fn(|r| dy.bf16_row($row + r)[range.start..].as_ptr().cast());
            let mut acc = out.load::<I, $rows>(isa, $row);
            for pair in 0..range.len().div_ceil(2) {
                // SAFETY: the stretch and every row have these pairs of n, an odd n being filled up.
                unsafe {
                    let w = isa.load_b(stretch.add(pair * 4 * LANES));
                    for r in 0..$rows {
                        acc[r] = isa.dot_bf16(acc[r], w, rows[r].add(pair).read_unaligned());
                    }
                }
            }
            out.store(isa, $row, acc);
        }};
    }
    tile_rows!(0..dy.rows(), I::ROWS, tile);
}

/// The formula, in f64, for one term: w is `[n, k]`.
pub fn reference(dy: &[f32], w: &[f32], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let mut dx = vec![0.0; m * k];
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                dx[i * k + l] += f64::from(dy[i * n + j]) * f64::from(w[j * k + l]);
            }
        }
    }
    dx
}
