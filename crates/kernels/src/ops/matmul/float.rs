//! Products in f32 and bf16, and f32 products with weights of any type.

use super::{Out, Panels, tile_rows};
use crate::dtype::DType;
use crate::matrix::{DecodePanel, Operand};
use crate::panels::FloatLayout;
use crate::panels::float::{F16, F32};
use crate::simd::{Isa, LANES};
use std::ops::Range;

/// Values of k that are unpacked at a time: 16 KiB of f32, so that the nearest cache has room for rows of x too.
const STRETCH: usize = 128;

/// How far ahead the first tile of rows asks for memory, in bytes: the hardware alone reads less than memory gives.
const AHEAD: usize = 4096;

#[repr(align(128))]
struct Scratch([f32; STRETCH * LANES]);

#[inline(always)]
pub(super) fn run<I: Isa>(isa: I, task: &Panels) {
    let (x, weight) = (task.x, task.job.weight);
    let (m, k) = (x.rows(), weight.cols());
    match (weight.operand(), weight.dtype()) {
        (Operand::Bf16, _) => stretches(isa, task, bf16_tiles),
        (_, DType::F32) => stretches(isa, task, f32_tiles::<I, F32>),
        (_, DType::F16) if m <= 2 * I::ROWS => stretches(isa, task, f32_tiles::<I, F16>),
        (_, dtype) => {
            let mut scratch = Scratch([0.0; STRETCH * LANES]);
            for start in (0..k).step_by(STRETCH) {
                let range = start..k.min(start + STRETCH);
                for panel in task.panels.clone() {
                    let (data, len) = (weight.panel(panel), range.len());
                    isa.run(DecodePanel { dtype, panel: data, start, len, out: &mut scratch.0 });
                    let unpacked = scratch.0.as_ptr().cast();
                    f32_tiles::<I, F32>(isa, task, unpacked, 0, range.clone(), &task.out(panel));
                }
            }
        }
    }
}

/// Walks the stretches of k, and in each the panels, so that a stretch of x is used again while it is near.
#[inline(always)]
fn stretches<I: Isa>(
    isa: I,
    task: &Panels,
    tiles: impl Fn(I, &Panels, *const u8, usize, Range<usize>, &Out),
) {
    let (m, k) = (task.x.rows(), task.job.weight.cols());
    // A few rows are in the nearest cache as a whole.
    let stretch = if m <= I::ROWS { k } else { 4 * STRETCH };
    for start in (0..k).step_by(stretch.max(1)) {
        for panel in task.panels.clone() {
            let data = task.job.weight.panel(panel).as_ptr();
            tiles(isa, task, data, start, start..k.min(start + stretch), &task.out(panel));
        }
    }
}

/// All rows over one stretch of k of one panel, whose first value is number `offset` of `panel`.
#[inline(always)]
fn f32_tiles<I: Isa, L: FloatLayout>(
    isa: I,
    task: &Panels,
    panel: *const u8,
    offset: usize,
    range: Range<usize>,
    out: &Out,
) {
    let (x, k, operand) = (task.x, task.job.weight.cols(), task.job.weight.operand());
    macro_rules! tile {
        ($row:expr, $rows:literal) => {{
            let rows: [*const f32; $rows] = std::array::from_fn(|r| x.f32_row(operand, $row + r).as_ptr());
            // A loop: a closure would be compiled without the instruction set, and so keep the sums in memory.
            let mut acc = [isa.zero(); $rows];
            if out.has_sums(range.start) {
                for r in 0..$rows {
                    acc[r] = out.load(isa, $row + r);
                }
            }
            for i in 0..range.len() {
                if $row == 0 {
                    isa.prefetch(panel.wrapping_add((offset + i) * L::BYTES / L::SPAN + AHEAD));
                }
                // SAFETY: panel and rows have these values of k.
                unsafe {
                    let w = L::load(isa, panel, offset + i);
                    for r in 0..$rows {
                        acc[r] = isa.fma(isa.splat(*rows[r].add(range.start + i)), w, acc[r]);
                    }
                }
            }
            for r in 0..$rows {
                out.store(isa, $row + r, acc[r], range.end == k);
            }
            $rows
        }};
    }
    tile_rows!(x.rows(), I::ROWS, tile);
}

/// As [`f32_tiles`], in pairs of bf16.
#[inline(always)]
fn bf16_tiles<I: Isa>(
    isa: I,
    task: &Panels,
    panel: *const u8,
    offset: usize,
    range: Range<usize>,
    out: &Out,
) {
    let (x, k) = (task.x, task.job.weight.cols());
    let pairs = range.start / 2..range.end.div_ceil(2);
    macro_rules! tile {
        ($row:expr, $rows:literal) => {{
            let rows: [*const u32; $rows] = std::array::from_fn(|r| x.bf16_row($row + r).as_ptr().cast());
            // A loop: a closure would be compiled without the instruction set, and so keep the sums in memory.
            let mut acc = [isa.zero(); $rows];
            if out.has_sums(range.start) {
                for r in 0..$rows {
                    acc[r] = out.load(isa, $row + r);
                }
            }
            for pair in pairs.clone() {
                if $row == 0 {
                    let at = panel.wrapping_add((pair - pairs.start + offset / 2) * 4 * LANES + AHEAD);
                    isa.prefetch(at);
                    isa.prefetch(at.wrapping_add(64));
                }
                // SAFETY: panel and rows have these pairs of k, an odd k being filled up.
                unsafe {
                    let w = isa.load_b(panel.add((pair - pairs.start + offset / 2) * 4 * LANES));
                    for r in 0..$rows {
                        acc[r] = isa.dot_bf16(acc[r], w, rows[r].add(pair).read_unaligned());
                    }
                }
            }
            for r in 0..$rows {
                out.store(isa, $row + r, acc[r], range.end == k);
            }
            $rows
        }};
    }
    tile_rows!(x.rows(), I::ROWS, tile);
}

const _: () = assert!(STRETCH.is_multiple_of(32), "a stretch is whole steps of every layout");
