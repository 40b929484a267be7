//! Q4_K: 256 values in 8 groups of 32; `value = d sc q - dmin m`, `sc` and `m` of 6 bits a group.
//!
//! ```text
//!   file   d f16 | dmin f16 | 12 bytes: 8 sc, 8 m | 4 x 32 bytes: low half group 2i, high half group 2i + 1
//!   panel  d[32] f16 | dmin[32] f16 | sc[8][32] u8 | m[8][32] u8 | [4][8 words][32 rows][4 bytes]
//! ```

use super::{IntLayout, Layout, Pack, Rows, interleave};
use crate::simd::{Isa, LANES};

/// The layout.
pub struct Q4K;

const DMIN: usize = 2 * LANES;
const SCALES: usize = 4 * LANES;
const MINS: usize = SCALES + 8 * LANES;
const INTS: usize = MINS + 8 * LANES;

/// The 6-bit scale and minimum of a group out of the 12 bytes that Q4_K and Q5_K pack them into: the first four
/// groups in the low 6 bits of bytes 0..8, the others in the halves of bytes 8..12 with two high bits from those.
pub(super) fn scale_and_min(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        ((low & 15) | (packed[group - 4] >> 6) << 4, (low >> 4) | (packed[group] >> 6) << 4)
    }
}

/// Packs what Q4_K and Q5_K begin with: d, dmin, scales and minima. `at` is where the block of each row starts.
pub(super) fn pack_scales(rows: &Rows, at: usize, out: &mut [u8]) {
    interleave::<2>(rows, &mut out[..SCALES], |row| &row[at..at + 4]);
    for (r, row) in rows.iter().enumerate() {
        for group in 0..8 {
            let (scale, min) = scale_and_min(&row[at + 4..at + 16], group);
            out[SCALES + LANES * group + r] = scale;
            out[MINS + LANES * group + r] = min;
        }
    }
}

/// `d * sc` of a group.
///
/// # Safety
/// `block` begins as [`pack_scales`] writes it; `group < 8`.
#[inline(always)]
pub(super) unsafe fn load_scale<I: Isa>(isa: I, block: *const u8, group: usize) -> I::F {
    // SAFETY: both loads are inside the head of the block.
    unsafe { isa.mul(isa.load_f16(block.cast()), isa.load_u8(block.add(SCALES + LANES * group))) }
}

/// `dmin * m` of a group.
///
/// # Safety
/// As [`load_scale`].
#[inline(always)]
pub(super) unsafe fn load_min<I: Isa>(isa: I, block: *const u8, group: usize) -> I::F {
    // SAFETY: both loads are inside the head of the block.
    unsafe { isa.mul(isa.load_f16(block.add(DMIN).cast()), isa.load_u8(block.add(MINS + LANES * group))) }
}

/// Bytes before the integers, in Q4_K and Q5_K.
pub(super) const HEAD: usize = INTS;

impl Layout for Q4K {
    const SPAN: usize = 256;
    const BYTES: usize = INTS + 128 * LANES;
}

impl Pack for Q4K {
    fn pack(rows: &Rows, index: usize, out: &mut [u8]) {
        let at = 144 * index;
        pack_scales(rows, at, out);
        interleave::<4>(rows, &mut out[INTS..], |row| &row[at + 16..at + 144]);
    }
}

// SAFETY: 32 words of 128 bytes each follow the scales: 4 pairs of groups of 8 words.
unsafe impl IntLayout for Q4K {
    const GROUP: usize = 32;
    const MIN: bool = true;
    const REPEATS: usize = 2;

    #[inline(always)]
    fn zero_point<I: Isa>() -> i32 {
        0
    }
    #[inline(always)]
    unsafe fn ints<I: Isa>(isa: I, block: *const u8, step: usize, word: usize) -> I::B {
        // SAFETY: step < 8 and word < 8, says the caller.
        let both = unsafe { isa.load_b(block.add(INTS + 4 * LANES * (step / 2 * 8 + word))) };
        isa.shr_and(both, step % 2 * 4, 15)
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
