//! Q8_0: 32 values share an f16 scale.
//!
//! ```text
//!   file   d f16 | q[32] i8                        34 bytes a row
//!   panel  d[32] f16 | [8 words][32 rows][4] i8  1088 bytes
//! ```

use super::{IntLayout, Layout, Pack, Rows, interleave};
use crate::simd::{Isa, LANES};

/// The layout.
pub struct Q8_0;

const INTS: usize = 2 * LANES;

impl Layout for Q8_0 {
    const SPAN: usize = 32;
    const BYTES: usize = INTS + 32 * LANES;
}

impl Pack for Q8_0 {
    fn pack(rows: &Rows, index: usize, out: &mut [u8]) {
        let at = 34 * index;
        interleave::<2>(rows, &mut out[..INTS], |row| &row[at..at + 2]);
        interleave::<4>(rows, &mut out[INTS..], |row| &row[at + 2..at + 34]);
    }
}

// SAFETY: words 0..8 of 128 bytes each follow the scales.
unsafe impl IntLayout for Q8_0 {
    const GROUP: usize = 32;
    const MIN: bool = false;
    const REPEATS: usize = usize::MAX;

    #[inline(always)]
    fn zero_point<I: Isa>() -> i32 {
        I::SIGNED_OFFSET
    }
    #[inline(always)]
    unsafe fn ints<I: Isa>(isa: I, block: *const u8, _step: usize, word: usize) -> I::B {
        // SAFETY: word < 8, says the caller.
        isa.signed(unsafe { isa.load_b(block.add(INTS + 4 * LANES * word)) })
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(isa: I, block: *const u8, _step: usize, _group: usize) -> I::F {
        // SAFETY: the block begins with 32 scales.
        unsafe { isa.load_f16(block.cast()) }
    }
}
