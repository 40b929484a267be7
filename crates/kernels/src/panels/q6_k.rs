//! Q6_K: 256 values of 6 bits in 16 groups of 16; `value = d sc (q - 32)`, `sc` a signed byte a group.
//!
//! ```text
//!   file   ql[2][64] | qh[2][32] | sc[16] i8 | d f16
//!          in each half of 128 values, value 32 s + i (s < 4, i < 32) has its low 4 bits in ql[32 (s % 2) + i]
//!          (upper half of the byte for s >= 2) and its high 2 bits in bits 2s..2s+2 of qh[i]
//!   panel  d[32] f16 | sc[16][32] i8 | [2][16 words][32 rows][4] of ql | [2][8 words][32 rows][4] of qh
//! ```

use super::{IntLayout, Layout, Pack, Rows, interleave};
use crate::simd::{Isa, LANES};

/// The layout.
pub struct Q6K;

const SCALES: usize = 2 * LANES;
const LOW: usize = SCALES + 16 * LANES;
const HIGH: usize = LOW + 128 * LANES;

impl Layout for Q6K {
    const SPAN: usize = 256;
    const BYTES: usize = HIGH + 64 * LANES;
}

impl Pack for Q6K {
    fn pack(rows: &Rows, index: usize, out: &mut [u8]) {
        let at = 210 * index;
        interleave::<2>(rows, &mut out[..SCALES], |row| &row[at + 208..at + 210]);
        interleave::<1>(rows, &mut out[SCALES..LOW], |row| &row[at + 192..at + 208]);
        interleave::<4>(rows, &mut out[LOW..HIGH], |row| &row[at..at + 128]);
        interleave::<4>(rows, &mut out[HIGH..], |row| &row[at + 128..at + 192]);
    }
}

// SAFETY: 32 words of low bits and 16 of high ones, 128 bytes each, follow the scales.
unsafe impl IntLayout for Q6K {
    const GROUP: usize = 16;
    const MIN: bool = false;
    const REPEATS: usize = 1;

    #[inline(always)]
    fn zero_point<I: Isa>() -> i32 {
        32
    }
    #[inline(always)]
    unsafe fn ints<I: Isa>(isa: I, block: *const u8, step: usize, word: usize) -> I::B {
        let (half, s) = (step / 4, step % 4);
        // SAFETY: step < 8 and word < 8, says the caller.
        let (low, high) = unsafe {
            (
                isa.load_b(block.add(LOW + 4 * LANES * (half * 16 + s % 2 * 8 + word))),
                isa.load_b(block.add(HIGH + 4 * LANES * (half * 8 + word))),
            )
        };
        let low = isa.shr_and(low, s / 2 * 4, 15);
        let high = isa.shl_4(isa.shr_and(high, 2 * s, 3));
        isa.or(low, high)
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(isa: I, block: *const u8, step: usize, group: usize) -> I::F {
        // SAFETY: step < 8 and group < 2, says the caller.
        unsafe {
            let scale = isa.load_i8(block.add(SCALES + LANES * (2 * step + group)).cast());
            isa.mul(isa.load_f16(block.cast()), scale)
        }
    }
}
