//! Signed bytes with f32 scales: what every block format can be unpacked into without loss.
//!
//! ```text
//!   panel  [8 words][32 rows][4] i8 | scale[32 / GROUP][32] f32 | min[32 / GROUP][32] f32, if there are any
//! ```
//!
//! The block formats without a layout of their own are kept in memory like this (`Expanded`). While many rows are
//! multiplied, every other layout is unpacked into the same shape, a few hundred values of k at a time, in the
//! nearest cache (`Unpacked`: its integers are operands already).

use super::{IntLayout, Layout, Rows};
use crate::quant::{Format, Ints};
use crate::simd::{Isa, LANES};

/// The layout in memory.
pub struct Expanded<const GROUP: usize, const MIN: bool>;

/// The layout of unpacked blocks: as [`Expanded`], with integers that went through [`IntLayout::ints`].
pub struct Unpacked<const GROUP: usize, const MIN: bool>;

const INTS: usize = 32 * LANES;

/// Bytes of a block of 32 values of k.
pub const fn block_bytes(group: usize, min: bool) -> usize {
    INTS + (32 / group) * LANES * 4 * (1 + min as usize)
}

/// Packs a whole panel from rows of any block format. (Not block by block: the largest formats have 256 values in
/// one, which become eight blocks here.)
pub fn pack(format: &Format, rows: &Rows, panel: &mut [u8]) {
    let (block_len, groups) = (format.block_len, format.block_len / format.group);
    let (per_step, bytes) = (32 / format.group, block_bytes(format.group, format.has_min));
    let (mut q, mut scale, mut min) = ([0i8; 256], [0f32; 16], [0f32; 16]);
    for (r, row) in rows.iter().enumerate() {
        let blocks = row.chunks_exact(format.block_bytes);
        for (block, out) in blocks.zip(panel.chunks_exact_mut(block_len / 32 * bytes)) {
            let (q, scale, min) = (&mut q[..block_len], &mut scale[..groups], &mut min[..groups]);
            format.unpack(block, Ints { q: &mut *q, scale: &mut *scale, min: &mut *min });
            for (step, out) in out.chunks_exact_mut(bytes).enumerate() {
                for (i, q) in q[32 * step..32 * step + 32].iter().enumerate() {
                    out[4 * LANES * (i / 4) + 4 * r + i % 4] = *q as u8;
                }
                let mut put = |vector: usize, value: f32| {
                    let at = INTS + 4 * (LANES * vector + r);
                    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
                };
                for g in 0..per_step {
                    put(g, scale[step * per_step + g]);
                    if format.has_min {
                        put(per_step + g, min[step * per_step + g]);
                    }
                }
            }
        }
    }
}

/// # Safety
/// `block` has [`block_bytes`]; `word < 8`.
#[inline(always)]
unsafe fn load_ints<I: Isa>(isa: I, block: *const u8, word: usize) -> I::B {
    // SAFETY: the block begins with 8 words of 128 bytes.
    unsafe { isa.load_b(block.add(4 * LANES * word)) }
}

/// Vector `index` of the scales, then the minima.
///
/// # Safety
/// `block` has [`block_bytes`]; `index` is below the number of groups, or twice that with minima.
#[inline(always)]
unsafe fn load_floats<I: Isa>(isa: I, block: *const u8, index: usize) -> I::F {
    // SAFETY: the vectors follow the integers.
    unsafe { isa.load(block.add(INTS + 4 * LANES * index).cast()) }
}

/// The two layouts differ in whether integers are operands already.
macro_rules! layout {
    ($name:ident, $zero_point:expr, |$isa:ident, $ints:ident| $operand:expr) => {
        impl<const GROUP: usize, const MIN: bool> Layout for $name<GROUP, MIN> {
            const SPAN: usize = 32;
            const BYTES: usize = block_bytes(GROUP, MIN);
        }

        // SAFETY: a block has `block_bytes`.
        unsafe impl<const GROUP: usize, const MIN: bool> IntLayout for $name<GROUP, MIN> {
            const GROUP: usize = GROUP;
            const MIN: bool = MIN;
            const REPEATS: usize = usize::MAX;

            #[inline(always)]
            fn zero_point<I: Isa>() -> i32 {
                $zero_point
            }
            #[inline(always)]
            unsafe fn ints<I: Isa>($isa: I, block: *const u8, _step: usize, word: usize) -> I::B {
                // SAFETY: word < 8, says the caller.
                let $ints = unsafe { load_ints($isa, block, word) };
                $operand
            }
            #[inline(always)]
            unsafe fn scale<I: Isa>(isa: I, block: *const u8, _step: usize, group: usize) -> I::F {
                // SAFETY: group < 32 / GROUP, says the caller.
                unsafe { load_floats(isa, block, group) }
            }
            #[inline(always)]
            unsafe fn min<I: Isa>(isa: I, block: *const u8, _step: usize, group: usize) -> I::F {
                if !MIN {
                    return isa.zero();
                }
                // SAFETY: group < 32 / GROUP, says the caller; the minima follow the scales.
                unsafe { load_floats(isa, block, 32 / GROUP + group) }
            }
        }
    };
}

layout!(Expanded, I::SIGNED_OFFSET, |isa, ints| isa.signed(ints));
// Without minima, the zero point that inputs are prepared for. With them, no integer is negative, and none is needed.
layout!(Unpacked, if MIN { 0 } else { I::SIGNED_OFFSET }, |isa, ints| ints);

/// Unpacks 32 values of k, step `step` of a block of layout `L`.
///
/// # Safety
/// `block` points to a packed block of `L`, `step < L::SPAN / 32`; `out` has `block_bytes(L::GROUP, L::MIN)` bytes.
#[inline(always)]
pub unsafe fn unpack<I: Isa, L: IntLayout>(isa: I, block: *const u8, step: usize, out: *mut u8) {
    let zero_point = if L::MIN { 0 } else { I::SIGNED_OFFSET };
    let shift = (zero_point - L::zero_point::<I>()) as u8;
    // SAFETY: words and groups are in range; the stores are inside `out`.
    unsafe {
        for word in 0..8 {
            isa.store_b(out.add(4 * LANES * word), isa.add_bytes(L::ints(isa, block, step, word), shift));
        }
        let floats = out.add(INTS).cast::<f32>();
        for group in 0..32 / L::GROUP {
            isa.store(floats.add(LANES * group), L::scale(isa, block, step, group));
            if L::MIN {
                isa.store(floats.add(LANES * (32 / L::GROUP + group)), L::min(isa, block, step, group));
            }
        }
    }
}

/// Unpacks 32 values of k, step `step` of a block of layout `L`, to f32 `[32][32]`:
/// `scale * (int - zero_point) - min`, the bits of the format's decode.
///
/// # Safety
/// `block` points to a packed block of `L`, `step < L::SPAN / 32`; `out` has room for 32 x 32 floats.
#[inline(always)]
pub unsafe fn decode<I: Isa, L: IntLayout>(isa: I, block: *const u8, step: usize, out: *mut f32) {
    let zero_point = isa.splat(L::zero_point::<I>() as f32);
    // SAFETY: words and groups are in range; the stores are inside `out`.
    unsafe {
        for word in 0..8 {
            let ints = L::ints(isa, block, step, word);
            let group = 4 * word / L::GROUP;
            let scale = L::scale(isa, block, step, group);
            for j in 0..4 {
                let mut value = isa.mul(scale, isa.sub(isa.byte(ints, j), zero_point));
                if L::MIN {
                    value = isa.sub(value, L::min(isa, block, step, group));
                }
                isa.store(out.add(LANES * (4 * word + j)), value);
            }
        }
    }
}
