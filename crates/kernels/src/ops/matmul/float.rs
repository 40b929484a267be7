//! Products in f32 and bf16, and f32 products with weights of any type.

use super::ahead::Ahead;
use super::{Out, Panels, Prepared, tile_rows};
use crate::dtype::DType;
use crate::matrix::{DecodePanel, Operand};
use crate::panels::float::{Bf16, F16, F32};
use crate::panels::{FloatLayout, Layout};
use crate::simd::{Isa, Kernel, LANES};
use std::marker::PhantomData;
use std::ops::Range;

/// Values of k that a tile walks before its sums wait in y: 512 KiB of f32 at most. Long stretches: a panel that comes
/// from the second cache, in sequence, costs less than to fetch the sums and put them away more often.
const STRETCH: usize = 4096;

/// Values of k that are unpacked at a time: 128 KiB of f32.
const UNPACKED: usize = 1024;

/// How far ahead the only tile of rows asks for memory, in bytes.
const DISTANCE: usize = 4096;

#[repr(align(128))]
struct Scratch([f32; UNPACKED * LANES]);

#[inline(always)]
pub(super) fn run<I: Isa>(isa: I, task: &Panels) {
    match (task.job.weight.operand(), task.job.weight.dtype()) {
        (Operand::Bf16, _) => as_they_are::<I, Pairs>(isa, task),
        (_, DType::F32) => as_they_are::<I, Singles<F32>>(isa, task),
        (_, DType::F16) if task.x.rows() <= 2 * I::ROWS => as_they_are::<I, Singles<F16>>(isa, task),
        _ => unpacked(isa, task),
    }
}

/// Straight from the panels.
#[inline(always)]
fn as_they_are<I: Isa, T: Terms>(isa: I, task: &Panels) {
    let (x, weight) = (task.x, task.job.weight);
    let k = weight.cols();
    for rows in x.row_blocks(I::ROWS, 4 * k) {
        for start in (0..k).step_by(STRETCH) {
            for panel in task.panels.clone() {
                let range = start..k.min(start + STRETCH);
                let data = &weight.panel(panel)[start / T::Layout::SPAN * T::Layout::BYTES..];
                let turns = rows.len().div_ceil(I::ROWS) * range.len().div_ceil(T::Layout::SPAN);
                let ahead = &mut match task.next(panel) {
                    _ if x.rows() <= I::ROWS => Ahead::follow(data, DISTANCE, T::Layout::BYTES),
                    Some(next) if rows.start == 0 && start == 0 => Ahead::spread(next, turns),
                    _ => Ahead::nothing(data),
                };
                let (operand, rows, out) = (weight.operand(), rows.clone(), &task.out(panel));
                isa.run(Tiles::<T> { x, operand, data, rows, range, out, ahead, terms: PhantomData });
            }
        }
    }
}

/// Through f32 in the second cache.
#[inline(always)]
fn unpacked<I: Isa>(isa: I, task: &Panels) {
    let (x, weight) = (task.x, task.job.weight);
    let k = weight.cols();
    let mut scratch = Scratch([0.0; UNPACKED * LANES]);
    let turns = k * x.rows().div_ceil(I::ROWS);
    for panel in task.panels.clone() {
        let mut ahead = match task.next(panel) {
            Some(next) => Ahead::spread(next, turns),
            None => Ahead::nothing(weight.panel(panel)),
        };
        for start in (0..k).step_by(UNPACKED) {
            let range = start..k.min(start + UNPACKED);
            let (dtype, data, len) = (weight.dtype(), weight.panel(panel), range.len());
            isa.run(DecodePanel { dtype, panel: data, start, len, out: &mut scratch.0 });
            // SAFETY: numbers, seen as their bytes.
            let data: &[u8] =
                unsafe { std::slice::from_raw_parts(scratch.0.as_ptr().cast(), size_of_val(&scratch.0)) };
            let (operand, rows, out, ahead) = (weight.operand(), 0..x.rows(), &task.out(panel), &mut ahead);
            isa.run(Tiles::<Singles<F32>> { x, operand, data, rows, range, out, ahead, terms: PhantomData });
        }
    }
}

/// What a tile multiplies at a time: [`Layout::SPAN`] values of k of 32 rows of w with those of a row of x.
trait Terms {
    /// How the weights lie.
    type Layout: Layout;
    /// Of w.
    type Weights<I: Isa>: Copy;
    /// Of x.
    type Input: Copy;

    /// A row of x.
    fn row(x: &Prepared, operand: Operand, row: usize) -> *const Self::Input;

    /// # Safety
    /// `data` has more than `index` blocks.
    unsafe fn load<I: Isa>(isa: I, data: *const u8, index: usize) -> Self::Weights<I>;

    /// `sum + w x`.
    fn add<I: Isa>(isa: I, sum: I::F, w: Self::Weights<I>, x: Self::Input) -> I::F;
}

/// One value of k, in f32.
struct Singles<L>(PhantomData<L>);

impl<L: FloatLayout> Terms for Singles<L> {
    type Layout = L;
    type Weights<I: Isa> = I::F;
    type Input = f32;

    #[inline(always)]
    fn row(x: &Prepared, operand: Operand, row: usize) -> *const f32 {
        x.f32_row(operand, row).as_ptr()
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, data: *const u8, index: usize) -> I::F {
        // SAFETY: as the caller says.
        unsafe { L::load(isa, data, index) }
    }
    #[inline(always)]
    fn add<I: Isa>(isa: I, sum: I::F, w: I::F, x: f32) -> I::F {
        isa.fma(isa.splat(x), w, sum)
    }
}

/// Two values of k, in bf16; an odd k is filled up with a zero.
struct Pairs;

impl Terms for Pairs {
    type Layout = Bf16;
    type Weights<I: Isa> = I::B;
    type Input = u32;

    #[inline(always)]
    fn row(x: &Prepared, _: Operand, row: usize) -> *const u32 {
        x.bf16_row(row).as_ptr().cast()
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, data: *const u8, index: usize) -> I::B {
        // SAFETY: as the caller says.
        unsafe { isa.load_b(data.add(index * Bf16::BYTES)) }
    }
    #[inline(always)]
    fn add<I: Isa>(isa: I, sum: I::F, w: I::B, x: u32) -> I::F {
        isa.dot_bf16(sum, w, x)
    }
}

/// Some rows over a stretch of k of one panel. A kernel of its own, so that it is compiled once.
struct Tiles<'a, T> {
    x: &'a Prepared<'a>,
    /// What x is rounded to.
    operand: Operand,
    /// The panel, from the start of the stretch on.
    data: &'a [u8],
    rows: Range<usize>,
    range: Range<usize>,
    out: &'a Out<'a>,
    ahead: &'a mut Ahead,
    terms: PhantomData<T>,
}

impl<T: Terms> Kernel for Tiles<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Tiles { x, operand, data, rows, range, out, ahead, .. } = self;
        let (first, turns) = (range.start / T::Layout::SPAN, range.len().div_ceil(T::Layout::SPAN));
        let complete = range.end == x.cols();
        assert!(data.len() >= turns * T::Layout::BYTES);
        macro_rules! tile {
            ($row:expr, $height:literal) => {{
                let from: [*const T::Input; $height] =
                    // SAFETY: the row has this value of k.
                    std::array::from_fn(|r| unsafe { T::row(x, operand, $row + r).add(first) });
                // Loops: a closure would be compiled without the instruction set, and keep the sums in memory.
                let mut acc = [isa.zero(); $height];
                if out.has_sums(range.start) {
                    for r in 0..$height {
                        acc[r] = out.load(isa, $row + r);
                    }
                }
                for i in 0..turns {
                    ahead.ask(isa);
                    // SAFETY: the panel (asserted above) and the rows have these values of k.
                    unsafe {
                        let w = T::load(isa, data.as_ptr(), i);
                        for r in 0..$height {
                            acc[r] = T::add(isa, acc[r], w, from[r].add(i).read_unaligned());
                        }
                    }
                }
                for r in 0..$height {
                    out.store(isa, $row + r, acc[r], complete);
                }
            }};
        }
        tile_rows!(rows, I::ROWS, tile);
    }
}

const _: () =
    assert!(STRETCH.is_multiple_of(32) && UNPACKED.is_multiple_of(32), "whole steps of every layout");
