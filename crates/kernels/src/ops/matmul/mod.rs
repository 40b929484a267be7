//! `y[m, n] = sum over k of x[m, k] w[n, k] + b[n]`, for every type of w.
//!
//! **One accumulation order.** 32 neighbouring n sit in the lanes of a vector and k is walked from 0 upwards, with one
//! accumulator an output element. So the bits of y[m, n] depend on row m of x and row n of w alone: not on how many
//! rows there are, nor on threads, nor on the blocking below. (They do depend on the instruction set where it rounds
//! differently: bf16 products.) Where w is quantised, the products of 32 values of k (Q6_K: twice 16) are summed up
//! exactly, in integers, and added with one f32 multiply-add:
//!
//! ```text
//!   y += sx · ( sw · (sum of xq wq)  -  min_w · (sum of xq) )        every 32 values of k
//! ```
//!
//! A tile is some rows (up to [`Isa::ROWS`]) x 32 columns, and walks one panel of w. **Few rows** (decoding): each panel is
//! read from memory once, in sequence, and unpacked in registers; the tiles of one panel ask for the next. **Many rows**
//! (prefill, training): quantised weights are unpacked to operands once, a stretch of k at a time, and all rows of x go over
//! them; sums wait in y between stretches, in f32, which is what the accumulators hold. Both run the same multiply-adds in
//! the same order.
//!
//! **Backward** is two products more, of the same cost each, with other sums: [`input_gradient()`] over n,
//! [`weight_gradient()`] over m.

mod ahead;
mod float;
pub mod input_gradient;
mod inputs;
mod int8;
pub mod weight_gradient;

pub use input_gradient::{Term, input_gradient};
pub use inputs::{Inputs, Prepared};
pub use weight_gradient::{Columns, WeightGradient, weight_gradient};

use crate::matrix::{Matrix, Operand};
use crate::ops::Write;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};

/// One product out of several that share x.
pub struct Product<'a> {
    /// `[n, k]`.
    pub weight: &'a Matrix,
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    /// `[m, n]`.
    pub y: &'a mut [f32],
    /// Whether y is overwritten, or the product added to it.
    pub write: Write,
}

/// Multiplies the rows of `x` with each weight.
///
/// `x` must have been prepared for the operand of every weight ([`Inputs::prepare`]). Panics when shapes differ.
pub fn matmul(pool: &Pool, x: &Prepared, products: &mut [Product]) {
    let m = x.rows();
    let mut jobs = Vec::with_capacity(products.len());
    let mut tasks = 0;
    for product in products.iter_mut() {
        let (n, k) = (product.weight.rows(), product.weight.cols());
        assert_eq!(x.cols(), k, "width of x and of the weight");
        assert_eq!(product.y.len(), m * n, "size of y for {m} rows of {n}");
        assert!(product.bias.is_none_or(|bias| bias.len() == n), "size of the bias for {n} rows");
        let grain = grain(pool, m, product.weight);
        let count = product.weight.panels().div_ceil(grain);
        jobs.push(Job {
            weight: product.weight,
            bias: product.bias,
            y: Shares::new(product.y),
            write: product.write,
            first_task: tasks,
            grain,
        });
        tasks += count;
    }
    if m == 0 {
        return;
    }
    pool.run(tasks, |task| {
        let job = &jobs[jobs.partition_point(|job| job.first_task <= task) - 1];
        let first = (task - job.first_task) * job.grain;
        let panels = first..job.weight.panels().min(first + job.grain);
        dispatch(Panels { x, job, panels });
    });
}

/// Panels that a task takes. Few rows: long stretches of memory, because what is asked for ahead of time is lost where
/// another thread goes on. Many rows: enough panels that a stretch of x is used again from the second cache.
fn grain(pool: &Pool, m: usize, weight: &Matrix) -> usize {
    let fair = weight.panels().div_ceil(4 * pool.threads()).max(1);
    if m < 64 { fair } else { fair.min(4) }
}

struct Job<'a> {
    weight: &'a Matrix,
    bias: Option<&'a [f32]>,
    y: Shares<'a, f32>,
    write: Write,
    first_task: usize,
    grain: usize,
}

/// Some panels of one product, over all rows of x.
struct Panels<'a> {
    x: &'a Prepared<'a>,
    job: &'a Job<'a>,
    panels: std::ops::Range<usize>,
}

impl Kernel for Panels<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match self.job.weight.operand() {
            Operand::I8 => int8::run(isa, &self),
            Operand::F32 | Operand::F16 | Operand::Bf16 => float::run(isa, &self),
        }
    }
}

impl<'a> Panels<'a> {
    /// The panel that the task takes after this one.
    #[inline(always)]
    fn next(&self, panel: usize) -> Option<&'a [u8]> {
        (panel + 1 < self.panels.end).then(|| self.job.weight.panel(panel + 1))
    }

    /// The columns of y that a panel computes, as a tile writer.
    #[inline(always)]
    fn out(&self, panel: usize) -> Out<'a> {
        let n = self.job.weight.rows();
        let first = panel * LANES;
        let lanes = LANES.min(n - first);
        Out { y: self.job.y, n, first, lanes, bias: self.job.bias, write: self.job.write }
    }
}

/// 32 columns of y.
#[derive(Clone, Copy)]
struct Out<'a> {
    y: Shares<'a, f32>,
    n: usize,
    first: usize,
    lanes: usize,
    bias: Option<&'a [f32]>,
    write: Write,
}

impl Out<'_> {
    /// Whether sums that go on with value `start` of k are in y already.
    #[inline(always)]
    fn has_sums(&self, start: usize) -> bool {
        start > 0 || self.write == Write::Add
    }

    /// The sums of row `row` so far.
    #[inline(always)]
    fn load<I: Isa>(&self, isa: I, row: usize) -> I::F {
        let at = row * self.n + self.first;
        // SAFETY: these columns of y belong to this task alone.
        isa.load_slice(unsafe { self.y.get(at..at + self.lanes) }, 0.0)
    }

    /// Stores sums; with the bias added, if they are complete.
    #[inline(always)]
    fn store<I: Isa>(&self, isa: I, row: usize, mut sums: I::F, complete: bool) {
        if let (true, Some(bias)) = (complete, self.bias) {
            sums = isa.add(sums, isa.load_slice(&bias[self.first..self.first + self.lanes], 0.0));
        }
        let at = row * self.n + self.first;
        // SAFETY: these columns of y belong to this task alone.
        isa.store_slice(unsafe { self.y.get(at..at + self.lanes) }, sums);
    }
}

/// Calls `$f!(row, HEIGHT)` for tiles that cover the rows `$rows`. None is higher than `$max`, a constant, and all are as
/// equal as can be: a low tile beside full ones would leave the multipliers waiting for its few sums. Heights that the
/// instruction set never uses are not compiled.
macro_rules! tile_rows {
    ($rows:expr, $max:expr, $f:ident) => {{
        let (first, m) = ($rows.start, $rows.len());
        let tiles = m.div_ceil($max);
        for tile in 0..tiles {
            let row = first + m * tile / tiles;
            let height = first + m * (tile + 1) / tiles - row;
            $crate::ops::matmul::tile_rows!(@ $f, $max, row, height, 1 2 3 4 5 6 7 8 9 10 11 12);
        }
    }};
    (@ $f:ident, $max:expr, $row:ident, $height:ident, $($rows:literal)*) => {
        match $height {
            $($rows if const { $rows <= $max } => $f!($row, $rows),)*
            _ => {}
        }
    };
}
pub(super) use tile_rows;

/// The formula, in f64, from decoded weights `w` `[n, k]`.
pub fn reference(x: &[f32], w: &[f32], bias: Option<&[f32]>, [m, n, k]: [usize; 3]) -> Vec<f64> {
    let mut y = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let mut sum = bias.map_or(0.0, |b| f64::from(b[j]));
            for l in 0..k {
                sum += f64::from(x[i * k + l]) * f64::from(w[j * k + l]);
            }
            y[i * n + j] = sum;
        }
    }
    y
}

#[cfg(test)]
mod tests;
