//! Weights as the kernels read them: panels of 32 output channels.
//!
//! A matrix `[n, k]` in a file lies row by row. Here 32 rows are interleaved word by word, so that one vector load
//! brings the same k of 32 output channels:
//!
//! ```text
//!   file     row 0: a0 a1 a2 ...      panel   a0 b0 c0 ... (32 rows)
//!            row 1: b0 b1 b2 ...              a1 b1 c1 ...
//!            row 2: c0 c1 c2 ...              a2 b2 c2 ...
//! ```
//!
//! A kernel then walks k in sequence and keeps 32 sums in lanes; no sum is ever added up across lanes, so an output
//! element has the same bits whatever the number of rows of x. A word is an f32, an f16, a pair of bf16, or four
//! bytes of a quantised block: the blocks' own bits stay as they are in the file, only the words' order changes, and
//! the size with them (6-bit scales become bytes).
//!
//! One file a layout. Block formats without one of their own are unpacked, losslessly, into [`expanded`].

pub mod expanded;
pub mod float;
pub mod q4_0;
pub mod q4_k;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;

use crate::simd::Isa;

/// Output channels of a panel.
pub use crate::simd::LANES;

/// Elements of the f32 panels of a matrix `[rows, cols]`: the last panel is filled up.
pub fn len([rows, cols]: [usize; 2]) -> usize {
    rows.next_multiple_of(LANES) * cols
}

/// Where element `[row, col]` of a matrix of `cols` columns is in its f32 panels `[rows/32][cols][32]`.
pub fn index(cols: usize, row: usize, col: usize) -> usize {
    (row / LANES * cols + col) * LANES + row % LANES
}

/// The source rows of a panel: up to 32, each the bytes of one row of the file. Missing rows count as zeros.
pub type Rows<'a> = [&'a [u8]];

/// How large the pieces of a panel are.
pub trait Layout {
    /// Values of k in a block of the panel.
    const SPAN: usize;
    /// Bytes of a block: `SPAN` values of 32 rows.
    const BYTES: usize;
}

/// A layout that takes over the words of the file.
pub trait Pack: Layout {
    /// Packs block `index` of k of up to 32 rows. `out` has [`Layout::BYTES`] bytes and is zeroed.
    fn pack(rows: &Rows, index: usize, out: &mut [u8]);
}

/// A layout of quantised weights: `weight = scale * (int - zero_point) - min`, with small integers that are
/// multiplied as integers.
///
/// # Safety
/// The loads of every function stay inside the `BYTES` bytes of a block.
pub unsafe trait IntLayout: Layout {
    /// Neighbouring values of k that share a scale: 16 or 32.
    const GROUP: usize;
    /// Whether a minimum is subtracted.
    const MIN: bool;
    /// How many tiles of rows may unpack the integers anew, in registers, before it is cheaper to put them into the
    /// nearest cache once.
    const REPEATS: usize;

    /// What the integers that [`IntLayout::ints`] returns are too large by.
    fn zero_point<I: Isa>() -> i32;

    /// The integers of k = `32 step + 4 word ..+ 4` of the block, ready for [`Isa::dot_i8`].
    ///
    /// # Safety
    /// `block` points to a packed block; `step < SPAN / 32`, `word < 8`.
    unsafe fn ints<I: Isa>(isa: I, block: *const u8, step: usize, word: usize) -> I::B;

    /// The scales of group `group` of step `step`.
    ///
    /// # Safety
    /// `block` points to a packed block; `step < SPAN / 32`, `group < 32 / GROUP`.
    unsafe fn scale<I: Isa>(isa: I, block: *const u8, step: usize, group: usize) -> I::F;

    /// The minima of group `group` of step `step`; zeros if the layout has none.
    ///
    /// # Safety
    /// As [`IntLayout::scale`].
    #[inline(always)]
    unsafe fn min<I: Isa>(isa: I, _block: *const u8, _step: usize, _group: usize) -> I::F {
        isa.zero()
    }
}

/// A layout of floating-point weights.
///
/// # Safety
/// `load` stays inside the `BYTES` bytes of a block.
pub unsafe trait FloatLayout: Layout {
    /// The weights of k = `index` of a whole panel.
    ///
    /// # Safety
    /// `panel` points to a packed panel of more than `index` values of k.
    unsafe fn load<I: Isa>(isa: I, panel: *const u8, index: usize) -> I::F;
}

/// Interleaves words of `W` bytes: word `w` of row `r` goes to `out[(w * 32 + r) * W ..]`.
/// `words(row)` is the part of a row to take.
#[inline]
pub(crate) fn interleave<const W: usize>(rows: &Rows, out: &mut [u8], words: impl Fn(&[u8]) -> &[u8]) {
    for (r, row) in rows.iter().enumerate() {
        for (word, to) in words(row).chunks_exact(W).zip(out.chunks_exact_mut(LANES * W)) {
            to[r * W..(r + 1) * W].copy_from_slice(word);
        }
    }
}
