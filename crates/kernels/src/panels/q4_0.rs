//! Q4_0: 32 values of 4 bits share an f16 scale; `value = d (q - 8)`.
//!
//! ```text
//!   file   d f16 | 16 bytes: low half value i, high half value i + 16     18 bytes a row
//!   panel  d[32] f16 | [4 words][32 rows][4 bytes]                       576 bytes
//! ```

use super::{IntLayout, Layout, Pack, Rows, interleave};
use crate::simd::{Isa, LANES};

/// The layout.
pub struct Q4_0;

const INTS: usize = 2 * LANES;

impl Layout for Q4_0 {
    const SPAN: usize = 32;
    const BYTES: usize = INTS + 16 * LANES;
}

impl Pack for Q4_0 {
    fn pack(rows: &Rows, index: usize, out: &mut [u8]) {
        let at = 18 * index;
        interleave::<2>(rows, &mut out[..INTS], |row| &row[at..at + 2]);
        interleave::<4>(rows, &mut out[INTS..], |row| &row[at + 2..at + 18]);
    }
}

// SAFETY: words 0..4 of 128 bytes each follow the scales.
unsafe impl IntLayout for Q4_0 {
    const GROUP: usize = 32;
    const MIN: bool = false;
    const REPEATS: usize = 3;

    #[inline(always)]
    fn zero_point<I: Isa>() -> i32 {
        8
    }
    #[inline(always)]
    unsafe fn ints<I: Isa>(isa: I, block: *const u8, _step: usize, word: usize) -> I::B {
        // SAFETY: word % 4 < 4.
        let both = unsafe { isa.load_b(block.add(INTS + 4 * LANES * (word % 4))) };
        isa.shr_and(both, word / 4 * 4, 15)
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(isa: I, block: *const u8, _step: usize, _group: usize) -> I::F {
        // SAFETY: the block begins with 32 scales.
        unsafe { isa.load_f16(block.cast()) }
    }
}
