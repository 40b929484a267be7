//! The gradients of a product's weight and bias:
//! `dw[n, k] += sum over m of dy[m, n] x[m, k]`, `db[n] += sum over m of dy[m, n]`.
//!
//! For `y[m, n] = sum over k of x[m, k] w[n, k] + b[n]`, so `∂y[m, n] / ∂w[n, k] = x[m, k]`, and every row adds its part.
//!
//! dw lies in panels, as the weight does: `[n/32][k][32]`, so that an optimiser walks both element by element. Lanes hold
//! 32 neighbouring n, and rows are walked from 0 upwards, whatever the number of threads. 32 columns of dy are copied
//! side by side, a stretch of rows at a time, and all columns of x use them; x is cut into groups of 12 columns beforehand, because
//! a tile takes that many from every row:
//!
//! ```text
//!   dy [m, n]  ->  [512 m][32 n]   \
//!                                    tiles of 12 k x 32 n
//!   x  [m, k]  ->  [k/12][m][12]   /
//! ```

use super::inputs::RoundToF16;
use crate::matrix::Operand;
use crate::ops::Write;
use crate::ops::rows::at_least;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};
use std::ops::Range;

/// Columns of x that lie side by side: whole tiles of every instruction set.
const GROUP: usize = 12;

/// Rows of dy that are copied at a time: 64 KiB of f32 a panel. That is more than the nearest cache has beside x, but a
/// tile reads them in sequence, and what counts is how seldom its sums come from dw and go back.
const STRETCH: usize = 512;

/// Panels of dw that use a group of columns of x while it is near.
const PANELS: usize = 4;

/// Rows of x whose columns are cut at a time.
const ROWS: usize = 16;

/// Room for the columns of x, used again from call to call.
#[derive(Default)]
pub struct Columns {
    /// `[k/12][m][12]` f32.
    f32: Vec<f32>,
    /// `[k/12][m/2][12]` pairs of bf16: an odd number of rows is filled up.
    bf16: Vec<u32>,
}

/// One weight out of several whose products share x.
pub struct WeightGradient<'a> {
    /// `[m, n]`: the gradient of the product's output.
    pub dy: &'a [f32],
    /// `[n/32][k][32]`.
    pub dw: &'a mut [f32],
    /// `[n]`.
    pub db: Option<&'a mut [f32]>,
}

/// The gradients of weights that were multiplied with the same x `[m, k]`. `operand` is what x and dy are rounded to.
///
/// Panics when sizes differ, or `operand` is bytes.
pub fn weight_gradient(
    pool: &Pool,
    columns: &mut Columns,
    x: &[f32],
    [m, k]: [usize; 2],
    operand: Operand,
    gradients: &mut [WeightGradient],
    write: Write,
) {
    assert_eq!(x.len(), m * k, "size of x for {m} rows of {k}");
    assert!(operand != Operand::I8, "gradients are not quantised");
    let mut jobs = Vec::with_capacity(gradients.len());
    let mut tasks = 0;
    for gradient in gradients {
        let panels = gradient.dw.len() / (k * LANES).max(1);
        let n = gradient.dy.len() / m.max(1);
        assert_eq!(gradient.dy.len(), m * n, "size of dy for {m} rows");
        assert_eq!(gradient.dw.len(), n.next_multiple_of(LANES) * k, "size of dw for {m} rows of {n}");
        assert!(gradient.db.as_ref().is_none_or(|db| db.len() == n), "size of db for {n} columns");
        let grain = panels.div_ceil(4 * pool.threads()).clamp(1, PANELS);
        jobs.push(Job {
            dy: gradient.dy,
            n,
            dw: Shares::new(gradient.dw),
            db: gradient.db.as_deref_mut().map(Shares::new),
            first_task: tasks,
            grain,
        });
        tasks += panels.div_ceil(grain);
    }
    if m == 0 || jobs.is_empty() {
        return;
    }
    pack_columns(pool, columns, x, [m, k], operand);
    let columns = &*columns;
    pool.run(tasks, |task| {
        let job = &jobs[jobs.partition_point(|job| job.first_task <= task) - 1];
        let (first, all) = ((task - job.first_task) * job.grain, job.n.div_ceil(LANES));
        let panels = first..all.min(first + job.grain);
        dispatch(Panels { columns, size: [m, k], operand, job, panels, write });
    });
}

/// Cuts x into groups of columns, some rows at a time: a row of x and the next lie pages apart.
fn pack_columns(pool: &Pool, columns: &mut Columns, x: &[f32], [m, k]: [usize; 2], operand: Operand) {
    let groups = k.div_ceil(GROUP);
    if operand == Operand::Bf16 {
        let pairs = m.div_ceil(2);
        let out = Shares::new(at_least(&mut columns.bf16, groups * pairs * GROUP));
        pool.run_ranges(pairs, ROWS / 2, |pairs| dispatch(PackPairs { x, m, k, pairs, out }));
    } else {
        let out = Shares::new(at_least(&mut columns.f32, groups * m * GROUP));
        pool.run_ranges(m, ROWS, |rows| {
            for group in 0..groups {
                let from = group * GROUP..k.min((group + 1) * GROUP);
                let at = |row: usize| (group * m + row) * GROUP;
                // SAFETY: a task has its own rows of every group.
                let out = unsafe { out.get(at(rows.start)..at(rows.end)) };
                for (row, out) in rows.clone().zip(out.chunks_exact_mut(GROUP)) {
                    out[..from.len()].copy_from_slice(&x[row * k..][from.clone()]);
                    out[from.len()..].fill(0.0);
                }
                if operand == Operand::F16 {
                    dispatch(RoundToF16(out));
                }
            }
        });
    }
}

/// Some pairs of rows, of all groups of columns.
struct PackPairs<'a> {
    x: &'a [f32],
    m: usize,
    k: usize,
    pairs: Range<usize>,
    out: Shares<'a, u32>,
}

impl Kernel for PackPairs<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for group in 0..self.k.div_ceil(GROUP) {
            let columns = group * GROUP..self.k.min((group + 1) * GROUP);
            let row = |r: usize| match r < self.m {
                true => isa.load_slice(&self.x[r * self.k..][columns.clone()], 0.0),
                false => isa.zero(),
            };
            let at = |pair: usize| (group * self.m.div_ceil(2) + pair) * GROUP;
            // SAFETY: a task has its own pairs of every group.
            let out = unsafe { self.out.get(at(self.pairs.start)..at(self.pairs.end)) };
            for (pair, out) in self.pairs.clone().zip(out.chunks_exact_mut(GROUP)) {
                let mut words = [0u32; LANES];
                // SAFETY: 32 words are 128 bytes.
                unsafe {
                    let pair = isa.pair_bf16(row(2 * pair), row(2 * pair + 1));
                    isa.store_b(words.as_mut_ptr().cast(), pair);
                }
                out.copy_from_slice(&words[..GROUP]);
            }
        }
    }
}

struct Job<'a> {
    dy: &'a [f32],
    n: usize,
    dw: Shares<'a, f32>,
    db: Option<Shares<'a, f32>>,
    first_task: usize,
    /// Panels of a task.
    grain: usize,
}

/// Some panels of one dw.
struct Panels<'a> {
    columns: &'a Columns,
    size: [usize; 2],
    operand: Operand,
    job: &'a Job<'a>,
    panels: Range<usize>,
    write: Write,
}

/// 32 columns of dy: `[m][32]` f32, or `[m/2][32][2]` bf16.
#[derive(Clone, Copy)]
#[repr(align(128))]
struct Stretch([f32; STRETCH * LANES]);

impl Kernel for Panels<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let [m, k] = self.size;
        let panel_len = k * LANES;
        // SAFETY: a task has its own panels.
        let dw = unsafe { self.job.dw.get(self.panels.start * panel_len..self.panels.end * panel_len) };
        let mut stretches = [Stretch([0.0; STRETCH * LANES]); PANELS];
        let mut bias = [isa.zero(); PANELS];
        let mut fresh = self.write == Write::Set;
        for start in (0..m).step_by(STRETCH) {
            let rows = start..m.min(start + STRETCH);
            for ((panel, stretch), bias) in self.panels.clone().zip(&mut stretches).zip(&mut bias) {
                *bias = isa.add(*bias, self.copy_rows(isa, panel, rows.clone(), stretch));
            }
            // Heights that the instruction set never uses are not compiled.
            if const { I::ROWS >= 12 } {
                self.tiles::<I, 12>(isa, &stretches, rows, dw, fresh);
            } else if const { I::ROWS >= 3 } {
                self.tiles::<I, 3>(isa, &stretches, rows, dw, fresh);
            } else {
                self.tiles::<I, 2>(isa, &stretches, rows, dw, fresh);
            }
            fresh = false;
        }
        if let Some(db) = self.job.db {
            for (panel, bias) in self.panels.clone().zip(bias) {
                let first = panel * LANES;
                // SAFETY: a task has its own part of db.
                let db = unsafe { db.get(first..self.job.n.min(first + LANES)) };
                self.write.store(isa, db, bias);
            }
        }
    }
}

impl Panels<'_> {
    /// Copies a stretch of rows of a panel's columns of dy, and returns their sum.
    #[inline(always)]
    fn copy_rows<I: Isa>(&self, isa: I, panel: usize, rows: Range<usize>, to: &mut Stretch) -> I::F {
        let n = self.job.n;
        let columns = panel * LANES..n.min((panel + 1) * LANES);
        let load = |row: usize| isa.load_slice(&self.job.dy[row * n..][columns.clone()], 0.0);
        let mut sum = isa.zero();
        let to = to.0.as_mut_ptr();
        match self.operand {
            Operand::Bf16 => {
                for (pair, row) in rows.clone().step_by(2).enumerate() {
                    let low = load(row);
                    let high = if row + 1 < rows.end { load(row + 1) } else { isa.zero() };
                    sum = isa.add(isa.add(sum, low), high);
                    // SAFETY: the stretch has room for twice as many pairs.
                    unsafe { isa.store_b(to.cast::<u8>().add(pair * 4 * LANES), isa.pair_bf16(low, high)) };
                }
            }
            Operand::F32 | Operand::F16 | Operand::I8 => {
                for (i, row) in rows.enumerate() {
                    let mut x = load(row);
                    sum = isa.add(sum, x);
                    if self.operand == Operand::F16 {
                        x = isa.round_to_f16(x);
                    }
                    // SAFETY: the stretch has room for these rows.
                    unsafe { isa.store(to.add(i * LANES), x) };
                }
            }
        }
        sum
    }

    /// What a stretch of rows adds to the panels, in tiles of `N` columns of x.
    #[inline(always)]
    fn tiles<I: Isa, const N: usize>(
        &self,
        isa: I,
        stretches: &[Stretch; PANELS],
        rows: Range<usize>,
        dw: &mut [f32],
        fresh: bool,
    ) {
        let [_, k] = self.size;
        for col in (0..k).step_by(N) {
            for (stretch, dw) in stretches.iter().zip(dw.chunks_exact_mut(k * LANES)) {
                // The last tile may have fewer columns.
                let tile = &mut dw[col * LANES..k.min(col + N) * LANES];
                let mut acc = [isa.zero(); N];
                if !fresh {
                    for (acc, dw) in acc.iter_mut().zip(tile.chunks_exact(LANES)) {
                        *acc = isa.load_slice(dw, 0.0);
                    }
                }
                match self.operand {
                    Operand::Bf16 => self.bf16_tile(isa, stretch, rows.clone(), col, &mut acc),
                    Operand::F32 | Operand::F16 | Operand::I8 => {
                        self.f32_tile(isa, stretch, rows.clone(), col, &mut acc)
                    }
                }
                for (acc, dw) in acc.iter().zip(tile.chunks_exact_mut(LANES)) {
                    isa.store_slice(dw, *acc);
                }
            }
        }
    }

    #[inline(always)]
    fn f32_tile<I: Isa, const N: usize>(
        &self,
        isa: I,
        stretch: &Stretch,
        rows: Range<usize>,
        col: usize,
        acc: &mut [I::F; N],
    ) {
        const { assert!(GROUP.is_multiple_of(N)) };
        let [m, _] = self.size;
        let x = &self.columns.f32[(col / GROUP * m + rows.start) * GROUP + col % GROUP..];
        assert!(x.len() >= (rows.len() - 1) * GROUP + N);
        let mut sums = *acc;
        for i in 0..rows.len() {
            // SAFETY: the stretch has these rows, and the group too (asserted above).
            unsafe {
                let dy = isa.load(stretch.0.as_ptr().add(i * LANES));
                for c in 0..N {
                    sums[c] = isa.fma(isa.splat(*x.as_ptr().add(i * GROUP + c)), dy, sums[c]);
                }
            }
        }
        *acc = sums;
    }

    /// As [`Panels::f32_tile`], in pairs of rows of bf16.
    #[inline(always)]
    fn bf16_tile<I: Isa, const N: usize>(
        &self,
        isa: I,
        stretch: &Stretch,
        rows: Range<usize>,
        col: usize,
        acc: &mut [I::F; N],
    ) {
        let (pairs, all) = (rows.len().div_ceil(2), self.size[0].div_ceil(2));
        let x = &self.columns.bf16[(col / GROUP * all + rows.start / 2) * GROUP + col % GROUP..];
        assert!(x.len() >= (pairs - 1) * GROUP + N);
        let mut sums = *acc;
        for i in 0..pairs {
            // SAFETY: the stretch has these pairs, and the group too (asserted above).
            unsafe {
                let dy = isa.load_b(stretch.0.as_ptr().cast::<u8>().add(i * 4 * LANES));
                for c in 0..N {
                    sums[c] = isa.dot_bf16(sums[c], dy, *x.as_ptr().add(i * GROUP + c));
                }
            }
        }
        *acc = sums;
    }
}

/// The formula, in f64: dw is `[n, k]`, row by row.
pub fn reference(dy: &[f32], x: &[f32], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let mut dw = vec![0.0; n * k];
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                dw[j * k + l] += f64::from(dy[i * n + j]) * f64::from(x[i * k + l]);
            }
        }
    }
    dw
}
