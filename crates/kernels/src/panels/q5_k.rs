//! Q5_K: Q4_K with a fifth bit a value.
//!
//! ```text
//!   file   d f16 | dmin f16 | 12 bytes: 8 sc, 8 m | qh[32]: bit g of byte i is the high bit of value i of group g
//!          | 4 x 32 bytes: low half group 2i, high half group 2i + 1
//!   panel  the head of Q4_K | [8 words][32 rows][4] of qh | [4][8 words][32 rows][4 bytes]
//! ```

use super::q4_k::{HEAD, load_min, load_scale, pack_scales};
use super::{IntLayout, Layout, Pack, Rows, interleave};
use crate::simd::{Isa, LANES};

/// The layout.
pub struct Q5K;

const INTS: usize = HEAD + 32 * LANES;

impl Layout for Q5K {
    const SPAN: usize = 256;
    const BYTES: usize = INTS + 128 * LANES;
}

impl Pack for Q5K {
    fn pack(rows: &Rows, index: usize, out: &mut [u8]) {
        let at = 176 * index;
        pack_scales(rows, at, out);
        interleave::<4>(rows, &mut out[HEAD..INTS], |row| &row[at + 16..at + 48]);
        interleave::<4>(rows, &mut out[INTS..], |row| &row[at + 48..at + 176]);
    }
}

// SAFETY: 8 words of high bits and 32 of low ones, 128 bytes each, follow the head.
unsafe impl IntLayout for Q5K {
    const GROUP: usize = 32;
    const MIN: bool = true;
    const REPEATS: usize = 1;

    #[inline(always)]
    fn zero_point<I: Isa>() -> i32 {
        0
    }
    #[inline(always)]
    unsafe fn ints<I: Isa>(isa: I, block: *const u8, step: usize, word: usize) -> I::B {
        // SAFETY: step < 8 and word < 8, says the caller.
        let (high, both) = unsafe {
            (
                isa.load_b(block.add(HEAD + 4 * LANES * word)),
                isa.load_b(block.add(INTS + 4 * LANES * (step / 2 * 8 + word))),
            )
        };
        let low = isa.shr_and(both, step % 2 * 4, 15);
        let high = isa.shl_4(isa.shr_and(high, step, 1));
        isa.or(low, high)
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(isa: I, block: *const u8, step: usize, _group: usize) -> I::F {
        // SAFETY: step < 8, says the caller.
        unsafe { load_scale(isa, block, step) }
    }
    #[inline(always)]
    unsafe fn min<I: Isa>(isa: I, block: *const u8, step: usize, _group: usize) -> I::F {
        // SAFETY: step < 8, says the caller.
        unsafe { load_min(isa, block, step) }
    }
}
