//! Products of bytes: quantised weights times inputs rounded to 8 bits.

use super::{Out, Panels, Prepared, tile_rows};
use crate::dtype::DType;
use crate::matrix::with_int_layout;
use crate::panels::expanded::{self, Expanded, Unpacked, block_bytes};
use crate::panels::q4_0::Q4_0;
use crate::panels::q4_k::Q4K;
use crate::panels::q5_k::Q5K;
use crate::panels::q6_k::Q6K;
use crate::panels::q8_0::Q8_0;
use crate::panels::{IntLayout, Layout};
use crate::quant;
use crate::simd::{Isa, Kernel, LANES};
use std::array::from_fn;
use std::ops::Range;

/// Steps of 32 values of k that are unpacked at a time: 16 KiB of integers, half of the nearest cache.
const STRETCH: usize = 16;

/// Rows up to which memory, not multiplication, may be what a product waits for.
const FEW: usize = 32;

#[repr(align(128))]
struct Scratch([u8; STRETCH * block_bytes(16, true)]);

#[inline(always)]
pub(super) fn run<I: Isa>(isa: I, task: &Panels) {
    let format = quant::format(task.job.weight.dtype());
    let Some((group, min)) = format.map(|format| (format.group, format.has_min)) else { return };
    macro_rules! one_row {
        ($layout:ty) => {
            one_row::<I, $layout>(isa, task)
        };
    }
    match (task.x.rows(), group, min) {
        (1, _, _) => with_int_layout!(task.job.weight.dtype(), one_row, ()),
        (2..=FEW, 32, false) => many_rows::<I, 32, false, true>(isa, task),
        (2..=FEW, 32, true) => many_rows::<I, 32, true, true>(isa, task),
        (2..=FEW, _, false) => many_rows::<I, 16, false, true>(isa, task),
        (2..=FEW, _, true) => many_rows::<I, 16, true, true>(isa, task),
        (_, 32, false) => many_rows::<I, 32, false, false>(isa, task),
        (_, 32, true) => many_rows::<I, 32, true, false>(isa, task),
        (_, _, false) => many_rows::<I, 16, false, false>(isa, task),
        (_, _, true) => many_rows::<I, 16, true, false>(isa, task),
    }
}

/// Straight from the panels.
#[inline(always)]
fn one_row<I: Isa, L: IntLayout>(isa: I, task: &Panels) {
    let weight = task.job.weight;
    for panel in task.panels.clone() {
        let steps = 0..weight.cols() / 32;
        let (data, out) = (weight.panel(panel).as_ptr(), task.out(panel));
        // SAFETY: the panel has all steps of k.
        unsafe {
            let mut ahead = Ahead::nothing();
            tile::<I, L, 1, false>(isa, task.x, 0, steps, data, L::zero_point::<I>(), &out, true, &mut ahead);
        }
    }
}

/// Through the scratch. With `ASK`, for few rows, the tiles of one stretch ask for the packed bytes of the next:
/// unpacking alone would wait for memory, and multiplying leave it idle. Many rows do not gain by it.
#[inline(always)]
fn many_rows<I: Isa, const GROUP: usize, const MIN: bool, const ASK: bool>(isa: I, task: &Panels) {
    let (x, weight) = (task.x, task.job.weight);
    let steps = weight.cols() / 32;
    let mut scratch = Scratch([0; STRETCH * block_bytes(16, true)]);
    let tiles = x.rows().div_ceil(I::ROWS_I8);
    let mut walk =
        Walk { panel: task.panels.start, panels: task.panels.clone(), steps, by_panel: ASK, start: 0 };
    let mut next = walk.next();
    while let Some((panel, stretch)) = next {
        next = walk.next();
        let out = task.out(panel);
        let (dtype, data) = (weight.dtype(), weight.panel(panel));
        let zero_point =
            isa.run(UnpackPanel { dtype, panel: data, steps: stretch.clone(), out: &mut scratch.0 });
        let mut ahead = Ahead::nothing();
        if ASK && let Some((panel, stretch)) = &next {
            let data = weight.panel(*panel);
            let at = |step: usize| data.len() * step / steps;
            ahead = Ahead::new(&data[at(stretch.start)..at(stretch.end)], tiles * stretch.len());
        }
        let unpacked = scratch.0.as_ptr();
        macro_rules! tile {
            ($row:expr, $rows:literal) => {{
                let (stretch, complete) = (stretch.clone(), stretch.end == steps);
                // SAFETY: the scratch holds the steps of the stretch.
                unsafe {
                    tile::<I, Unpacked<GROUP, MIN>, $rows, ASK>(
                        isa, x, $row, stretch, unpacked, zero_point, &out, complete, &mut ahead,
                    )
                };
                $rows
            }};
        }
        tile_rows!(x.rows(), I::ROWS_I8, tile);
    }
}

/// The order of panels and stretches of k. Many rows: all panels for one stretch, whose part of x is then used again
/// from the second cache. Few rows, which stay in the nearest cache anyway: panel by panel, as memory is read best.
struct Walk {
    panels: Range<usize>,
    steps: usize,
    by_panel: bool,
    panel: usize,
    start: usize,
}

impl Walk {
    fn next(&mut self) -> Option<(usize, Range<usize>)> {
        if self.panel >= self.panels.end || self.start >= self.steps {
            return None;
        }
        let now = (self.panel, self.start..self.steps.min(self.start + STRETCH));
        if self.by_panel {
            self.start = now.1.end;
            if self.start == self.steps {
                (self.panel, self.start) = (self.panel + 1, 0);
            }
        } else {
            self.panel += 1;
            if self.panel == self.panels.end {
                (self.panel, self.start) = (self.panels.start, now.1.end);
            }
        }
        Some(now)
    }
}

/// Memory to ask for bit by bit while something else is computed.
struct Ahead {
    at: *const u8,
    lines: usize,
    /// Cache lines at a time.
    pace: usize,
}

impl Ahead {
    fn nothing() -> Ahead {
        Ahead { at: std::ptr::null(), lines: 0, pace: 0 }
    }

    /// Spreads `bytes` over `turns` calls.
    fn new(bytes: &[u8], turns: usize) -> Ahead {
        let lines = bytes.len().div_ceil(64);
        Ahead { at: bytes.as_ptr(), lines, pace: lines.div_ceil(turns) }
    }

    #[inline(always)]
    fn ask<I: Isa>(&mut self, isa: I) {
        let now = self.pace.min(self.lines);
        for line in 0..now {
            isa.prefetch(self.at.wrapping_add(64 * line));
        }
        self.at = self.at.wrapping_add(64 * now);
        self.lines -= now;
    }
}

/// Unpacks steps of a panel into blocks of [`Unpacked`]; returns their zero point.
struct UnpackPanel<'a> {
    dtype: DType,
    panel: &'a [u8],
    steps: Range<usize>,
    out: &'a mut [u8],
}

impl Kernel for UnpackPanel<'_> {
    type Output = i32;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> i32 {
        let UnpackPanel { dtype, panel, steps, out } = self;
        macro_rules! unpack {
            ($layout:ty) => {{
                unpack::<I, $layout>(isa, panel, steps, out);
                <$layout>::zero_point::<I>()
            }};
        }
        with_int_layout!(dtype, unpack, 0)
    }
}

#[inline(always)]
fn unpack<I: Isa, L: IntLayout>(isa: I, panel: &[u8], steps: Range<usize>, out: &mut [u8]) {
    let per_block = L::SPAN / 32;
    for (step, out) in steps.zip(out.chunks_exact_mut(block_bytes(L::GROUP, L::MIN))) {
        let block = &panel[step / per_block * L::BYTES..][..L::BYTES];
        prefetch_ahead(isa, block.as_ptr(), L::BYTES / per_block, step % per_block);
        // SAFETY: `block` is one whole block, and `out` has room for a step.
        unsafe { expanded::unpack::<I, L>(isa, block.as_ptr(), step % per_block, out.as_mut_ptr()) }
    }
}

/// What a row of x has at some step of k.
#[derive(Clone, Copy)]
struct Row {
    q: *const i8,
    scale: *const f32,
    sum: *const i32,
}

/// A tile of `MR` rows x 32 columns over `steps` of k; the sums of earlier steps are taken from y.
///
/// # Safety
/// `panel` holds blocks of `L`, the first of which is that of `steps.start`; x has rows `row..row + MR`.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // a kernel's
unsafe fn tile<I: Isa, L: IntLayout, const MR: usize, const ASK: bool>(
    isa: I,
    x: &Prepared,
    row: usize,
    steps: Range<usize>,
    panel: *const u8,
    zero_point: i32,
    out: &Out,
    complete: bool,
    ahead: &mut Ahead,
) {
    let mut rows: [Row; MR] = from_fn(|r| {
        let (q, scale, sum) = x.i8_row(row + r);
        // SAFETY: the row has all steps of k.
        unsafe {
            Row {
                q: q.as_ptr().add(32 * steps.start),
                scale: scale.as_ptr().add(steps.start),
                sum: sum.as_ptr().add(2 * steps.start),
            }
        }
    });
    let mut acc = [isa.zero(); MR];
    if out.has_sums(steps.start) {
        for r in 0..MR {
            acc[r] = out.load(isa, row + r);
        }
    }
    let mut block = panel;
    let mut rest = steps.len();
    while rest > 0 {
        // SAFETY: a block holds `SPAN / 32` steps, and rows are whole blocks.
        unsafe {
            for step in 0..L::SPAN / 32 {
                if MR == 1 {
                    prefetch_ahead(isa, block, L::BYTES / (L::SPAN / 32), step);
                }
                if ASK {
                    ahead.ask(isa);
                }
                add_step::<I, L, MR>(isa, block, step, &mut rows, zero_point, &mut acc);
            }
            block = block.add(L::BYTES);
        }
        rest = rest.saturating_sub(L::SPAN / 32);
    }
    for r in 0..MR {
        out.store(isa, row + r, acc[r], complete);
    }
}

/// Asks for the bytes that a step will need some kilobytes later. A block of 256 values is not read front to back, so
/// the hardware does not see the sequence; without this a single row waits for memory at each block.
#[inline(always)]
fn prefetch_ahead<I: Isa>(isa: I, block: *const u8, step_bytes: usize, step: usize) {
    const AHEAD: usize = 8192;
    for line in 0..step_bytes.div_ceil(64) {
        isa.prefetch(block.wrapping_add(AHEAD + step * step_bytes + 64 * line));
    }
}

/// 32 values of k: integer sums for each group, then one multiply-add each.
///
/// # Safety
/// `block` is a packed block of `L`, `step < SPAN / 32`; the rows have 32 more values.
#[inline(always)]
unsafe fn add_step<I: Isa, L: IntLayout, const MR: usize>(
    isa: I,
    block: *const u8,
    step: usize,
    rows: &mut [Row; MR],
    zero_point: i32,
    acc: &mut [I::F; MR],
) {
    // SAFETY: words and groups are in range; the caller vouches for block and rows.
    unsafe {
        for group in 0..32 / L::GROUP {
            let mut sums: [I::I; MR] =
                from_fn(|r| isa.splat_i(group_sum::<L>(rows[r], group).wrapping_mul(-zero_point)));
            for word in group * L::GROUP / 4..(group + 1) * L::GROUP / 4 {
                let w = L::ints(isa, block, step, word);
                for r in 0..MR {
                    sums[r] = isa.dot_i8(sums[r], w, rows[r].q.add(4 * word).cast::<i32>().read_unaligned());
                }
            }
            let scale = L::scale(isa, block, step, group);
            for r in 0..MR {
                let both = isa.mul(scale, isa.splat(*rows[r].scale));
                acc[r] = isa.fma(isa.to_f(sums[r]), both, acc[r]);
            }
            if L::MIN {
                let min = L::min(isa, block, step, group);
                for r in 0..MR {
                    let total = *rows[r].scale * group_sum::<L>(rows[r], group) as f32;
                    acc[r] = isa.fnma(min, isa.splat(total), acc[r]);
                }
            }
        }
        for row in rows {
            *row = Row { q: row.q.add(32), scale: row.scale.add(1), sum: row.sum.add(2) };
        }
    }
}

/// The sum of a row's bytes over one group of weights.
///
/// # Safety
/// The row has 32 more values; `group < 32 / GROUP`.
#[inline(always)]
unsafe fn group_sum<L: IntLayout>(row: Row, group: usize) -> i32 {
    // SAFETY: 32 values have two sums.
    unsafe { if L::GROUP == 32 { *row.sum + *row.sum.add(1) } else { *row.sum.add(group) } }
}

const _: () = assert!(<Unpacked<16, true> as Layout>::BYTES == block_bytes(16, true) && LANES == 32);
