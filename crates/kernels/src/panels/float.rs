//! f32, f16 and bf16.

use super::{FloatLayout, Layout, Pack, Rows, interleave};
use crate::simd::{Isa, LANES};

/// `[k][32]` f32.
pub struct F32;

impl Layout for F32 {
    const SPAN: usize = 1;
    const BYTES: usize = 4 * LANES;
}

impl Pack for F32 {
    fn pack(rows: &Rows, index: usize, out: &mut [u8]) {
        interleave::<4>(rows, out, |row| &row[4 * index..4 * index + 4]);
    }
}

// SAFETY: `load` reads one block.
unsafe impl FloatLayout for F32 {
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, panel: *const u8, index: usize) -> I::F {
        // SAFETY: block `index` is inside the panel.
        unsafe { isa.load(panel.add(index * Self::BYTES).cast()) }
    }
}

/// `[k][32]` f16; widened to f32 as it is loaded.
pub struct F16;

impl Layout for F16 {
    const SPAN: usize = 1;
    const BYTES: usize = 2 * LANES;
}

impl Pack for F16 {
    fn pack(rows: &Rows, index: usize, out: &mut [u8]) {
        interleave::<2>(rows, out, |row| &row[2 * index..2 * index + 2]);
    }
}

// SAFETY: `load` reads one block.
unsafe impl FloatLayout for F16 {
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, panel: *const u8, index: usize) -> I::F {
        // SAFETY: block `index` is inside the panel.
        unsafe { isa.load_f16(panel.add(index * Self::BYTES).cast()) }
    }
}

/// `[k/2][32][2]` bf16: pairs of neighbours in k, as the dot product takes them. An odd k is filled up with a zero.
pub struct Bf16;

impl Layout for Bf16 {
    const SPAN: usize = 2;
    const BYTES: usize = 4 * LANES;
}

impl Pack for Bf16 {
    fn pack(rows: &Rows, index: usize, out: &mut [u8]) {
        for (r, row) in rows.iter().enumerate() {
            let pair = &row[4 * index..row.len().min(4 * index + 4)];
            out[4 * r..4 * r + pair.len()].copy_from_slice(pair);
        }
    }
}

// SAFETY: `load` reads one block.
unsafe impl FloatLayout for Bf16 {
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, panel: *const u8, index: usize) -> I::F {
        // SAFETY: block `index / 2` is inside the panel.
        let pair = unsafe { isa.load_b(panel.add(index / 2 * Self::BYTES)) };
        if index.is_multiple_of(2) { isa.bf16_low(pair) } else { isa.bf16_high(pair) }
    }
}
