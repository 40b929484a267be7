//! Products of bytes: quantised weights times inputs rounded to 8 bits.

use super::ahead::Ahead;
use super::inputs::{Bytes, OFFSET};
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
use std::marker::PhantomData;
use std::ops::Range;

/// Steps of 32 values of k that are unpacked at a time: 32 KiB of integers. Fewer would stay in the nearest cache, but
/// sums would wait in y more often, which counts where there are many rows.
const STRETCH: usize = 32;

/// How far ahead a single tile of rows asks for memory, in bytes. A block of 256 values is not read front to back, so that
/// the hardware does not see the sequence.
const DISTANCE: usize = 8192;

/// One unpacked stretch.
#[repr(align(128))]
struct Scratch([u8; STRETCH * block_bytes(16, true)]);

#[inline(always)]
pub(super) fn run<I: Isa>(isa: I, task: &Panels) {
    let dtype = task.job.weight.dtype();
    let Some((group, min)) = quant::format(dtype).map(|format| (format.group, format.has_min)) else {
        return;
    };
    let tiles = task.x.rows().div_ceil(height::<I>(group));
    macro_rules! repeats {
        ($layout:ty) => {
            <$layout>::REPEATS
        };
    }
    macro_rules! as_they_are {
        ($layout:ty) => {
            isa.run(AsTheyAre::<$layout> { task, layout: PhantomData })
        };
    }
    match (group, min) {
        _ if tiles <= with_int_layout!(dtype, repeats, 0) => with_int_layout!(dtype, as_they_are, ()),
        (32, false) => unpacked::<I, 32, false>(isa, task),
        (32, true) => unpacked::<I, 32, true>(isa, task),
        (_, false) => unpacked::<I, 16, false>(isa, task),
        (_, true) => unpacked::<I, 16, true>(isa, task),
    }
}

/// Rows of a tile: two groups a step need a second f32 sum a row.
#[inline(always)]
const fn height<I: Isa>(group: usize) -> usize {
    if group == 32 { I::ROWS_I8 } else { I::ROWS_I8.div_ceil(3) * 2 }
}

/// Straight from the panels: every tile of rows unpacks them anew, in registers. A kernel of its own, so that it is
/// compiled once.
struct AsTheyAre<'a, L> {
    task: &'a Panels<'a>,
    layout: PhantomData<L>,
}

impl<L: IntLayout> Kernel for AsTheyAre<'_, L> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (x, weight) = (self.task.x, self.task.job.weight);
        let steps = weight.cols() / 32;
        for rows in x.row_blocks(height::<I>(L::GROUP), size_of::<Bytes>() * steps) {
            for panel in self.task.panels.clone() {
                let (data, out) = (weight.panel(panel), self.task.out(panel));
                let tiles = rows.len().div_ceil(height::<I>(L::GROUP));
                let mut ahead = match self.task.next(panel) {
                    _ if tiles == 1 => Ahead::follow(data, DISTANCE, data.len() / steps),
                    Some(next) if rows.start == 0 => Ahead::spread(next, tiles * steps),
                    _ => Ahead::nothing(data),
                };
                macro_rules! tile {
                    ($row:expr, $height:literal) => {{
                        // SAFETY: the panel has all steps of k.
                        unsafe {
                            tile::<I, L, $height>(isa, x, $row, 0..steps, data.as_ptr(), &out, &mut ahead)
                        }
                    }};
                }
                tile_rows!(rows, const { height::<I>(L::GROUP) }, tile);
            }
        }
    }
}

/// Through the scratch, a stretch of k at a time. While one is multiplied, the packed bytes of the next are asked for:
/// unpacking alone would wait for memory, and multiplying leave it idle.
#[inline(always)]
fn unpacked<I: Isa, const GROUP: usize, const MIN: bool>(isa: I, task: &Panels) {
    let (x, weight) = (task.x, task.job.weight);
    let steps = weight.cols() / 32;
    let length = if x.rows() < 64 { STRETCH / 2 } else { STRETCH };
    let mut scratch = Scratch([0; STRETCH * block_bytes(16, true)]);
    for rows in x.row_blocks(height::<I>(GROUP), size_of::<Bytes>() * steps) {
        for panel in task.panels.clone() {
            let (dtype, data, out) = (weight.dtype(), weight.panel(panel), task.out(panel));
            for start in (0..steps).step_by(length) {
                let stretch = start..steps.min(start + length);
                isa.run(UnpackPanel { dtype, panel: data, steps: stretch.clone(), out: &mut scratch.0 });
                let next = match stretch.end < steps {
                    true => Some((data, stretch.end)),
                    false => task.next(panel).map(|next| (next, 0)),
                };
                let ahead = match next {
                    Some((data, start)) if rows.start == 0 => {
                        let at = |step| data.len() / steps * step;
                        let calls = stretch.len() * rows.len().div_ceil(height::<I>(GROUP));
                        Ahead::spread(&data[at(start)..at(steps.min(start + length))], calls)
                    }
                    _ => Ahead::nothing(data),
                };
                let (rows, panel) = (rows.clone(), scratch.0.as_ptr());
                isa.run(Tiles::<GROUP, MIN> { x, rows, stretch, panel, out: &out, ahead });
            }
        }
    }
}

/// Some rows over one unpacked stretch. A kernel of its own, so that it is compiled once.
struct Tiles<'a, const GROUP: usize, const MIN: bool> {
    x: &'a Prepared<'a>,
    rows: Range<usize>,
    stretch: Range<usize>,
    /// Holds the steps of the stretch.
    panel: *const u8,
    out: &'a Out<'a>,
    ahead: Ahead,
}

impl<const GROUP: usize, const MIN: bool> Kernel for Tiles<'_, GROUP, MIN> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Tiles { x, rows, stretch, panel, out, mut ahead } = self;
        macro_rules! tile {
            ($row:expr, $height:literal) => {{
                let steps = stretch.clone();
                // SAFETY: the panel holds the steps of the stretch.
                unsafe {
                    tile::<I, Unpacked<GROUP, MIN>, $height>(isa, x, $row, steps, panel, out, &mut ahead)
                }
            }};
        }
        tile_rows!(rows, const { height::<I>(GROUP) }, tile);
    }
}

/// Unpacks steps of a panel into blocks of [`Unpacked`]. A kernel of its own, so that it is compiled once.
struct UnpackPanel<'a> {
    dtype: DType,
    panel: &'a [u8],
    steps: Range<usize>,
    out: &'a mut [u8],
}

impl Kernel for UnpackPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let UnpackPanel { dtype, panel, steps, out } = self;
        macro_rules! unpack {
            ($layout:ty) => {
                unpack::<I, $layout>(isa, panel, steps, out)
            };
        }
        with_int_layout!(dtype, unpack, ())
    }
}

#[inline(always)]
fn unpack<I: Isa, L: IntLayout>(isa: I, panel: &[u8], steps: Range<usize>, out: &mut [u8]) {
    let per_block = L::SPAN / 32;
    for (step, out) in steps.zip(out.chunks_exact_mut(block_bytes(L::GROUP, L::MIN))) {
        let block = &panel[step / per_block * L::BYTES..][..L::BYTES];
        // SAFETY: `block` is one whole block, and `out` has room for a step.
        unsafe { expanded::unpack::<I, L>(isa, block.as_ptr(), step % per_block, out.as_mut_ptr()) }
    }
}

/// A tile of `MR` rows x 32 columns over `steps` of k; the sums of earlier steps are taken from y.
///
/// # Safety
/// `panel` holds blocks of `L`, the first of which is that of `steps.start`; x has rows `row..row + MR`.
#[inline(always)]
unsafe fn tile<I: Isa, L: IntLayout, const MR: usize>(
    isa: I,
    x: &Prepared,
    row: usize,
    steps: Range<usize>,
    panel: *const u8,
    out: &Out,
    ahead: &mut Ahead,
) {
    let mut rows: [*const Bytes; MR] = std::array::from_fn(|r| x.bytes_row(row + r)[steps.start..].as_ptr());
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
                ahead.ask_all(isa);
                add_step::<I, L, MR>(isa, block, step, &rows, &mut acc);
                for row in &mut rows {
                    *row = row.add(1);
                }
            }
            block = block.add(L::BYTES);
        }
        rest = rest.saturating_sub(L::SPAN / 32);
    }
    let complete = 32 * steps.end == x.cols();
    for r in 0..MR {
        out.store(isa, row + r, acc[r], complete);
    }
}

/// 32 values of k: integer sums for each group, times its scale; and their sum times the scale of x.
///
/// # Safety
/// `block` is a packed block of `L`, `step < SPAN / 32`; the rows have 32 more values.
#[inline(always)]
unsafe fn add_step<I: Isa, L: IntLayout, const MR: usize>(
    isa: I,
    block: *const u8,
    step: usize,
    rows: &[*const Bytes; MR],
    acc: &mut [I::F; MR],
) {
    let mut parts = [isa.zero(); MR];
    // SAFETY: words and groups are in range; the caller vouches for block and rows.
    unsafe {
        for group in 0..32 / L::GROUP {
            // Among the sums of a row: that of all, or of this half.
            let which = if L::GROUP == 32 { 0 } else { 1 + group };
            let mut sums = [isa.splat_i(0); MR];
            for r in 0..MR {
                let zero_point = L::zero_point::<I>();
                if zero_point == OFFSET {
                    sums[r] = isa.splat_i((*rows[r]).starts[which]);
                } else if zero_point != 0 {
                    sums[r] = isa.splat_i(-zero_point * (*rows[r]).sums[which] as i32);
                }
            }
            for word in group * L::GROUP / 4..(group + 1) * L::GROUP / 4 {
                let w = L::ints(isa, block, step, word);
                for r in 0..MR {
                    sums[r] = isa.dot_i8(sums[r], w, rows[r].cast::<i32>().add(word).read());
                }
            }
            let scale = L::scale(isa, block, step, group);
            for r in 0..MR {
                let sum = isa.to_f(sums[r]);
                parts[r] = if group == 0 { isa.mul(sum, scale) } else { isa.fma(sum, scale, parts[r]) };
            }
            if L::MIN {
                let min = L::min(isa, block, step, group);
                for r in 0..MR {
                    parts[r] = isa.fnma(min, isa.splat((*rows[r]).sums[which]), parts[r]);
                }
            }
        }
        for r in 0..MR {
            acc[r] = isa.fma(parts[r], isa.splat((*rows[r]).scale), acc[r]);
        }
    }
}

const _: () = assert!(<Unpacked<16, true> as Layout>::BYTES == block_bytes(16, true) && LANES == 32);
