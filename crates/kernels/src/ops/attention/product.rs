//! The one product that all of attention is made of: some rows by vectors of 32 lanes.
//!
//! ```text
//!   c[r, n] (+)= sum over j of a(r, j) b[n](j)         b[n](j) a vector, j from 0 upwards, one accumulator an element
//!
//!   scores    q kᵀ, dy vᵀ      rows are queries, lanes 32 keys,        j walks the D values of a head
//!   outputs   p v,  ds k       rows are queries, lanes 32 of D values, j walks 32 keys
//!   backward  pᵀ dy, dsᵀ q     rows are keys,    lanes 32 of D values, j walks the queries of a tile
//! ```
//!
//! Sums wait in c between calls in f32, which is what the accumulators hold: how rows and j are cut changes no bit.

use crate::simd::{Isa, Kernel, LANES};

/// Values of a row that lie together in copies `[D/64][rows][64]` of rows of width D: a constant, for a distance that is
/// known is part of the instruction that broadcasts, and a dozen pointers would not fit the registers.
pub(super) const PIECE: usize = 2 * LANES;

/// The operand whose single values are broadcast.
pub(super) trait Left: Copy {
    /// Whether every `(row, j)` below `(rows, depth)` exists.
    fn has(self, rows: usize, depth: usize) -> bool;
    /// Value `j` of a row.
    ///
    /// # Safety
    /// `has` was asked.
    unsafe fn at(self, row: usize, j: usize) -> f32;
}

/// `a(r, j) = values[r · S + j]`.
#[derive(Clone, Copy)]
pub(super) struct ByRow<'a, const S: usize>(pub &'a [f32]);

/// `a(r, j) = values[j · S + r]`.
#[derive(Clone, Copy)]
pub(super) struct ByColumn<'a, const S: usize>(pub &'a [f32]);

/// Whether `len` values have `outer` runs of `inner`, one every `stride`.
fn has(len: usize, outer: usize, stride: usize, inner: usize) -> bool {
    outer == 0 || inner == 0 || (outer - 1) * stride + inner <= len
}

impl<const S: usize> Left for ByRow<'_, S> {
    #[inline(always)]
    fn has(self, rows: usize, depth: usize) -> bool {
        has(self.0.len(), rows, S, depth)
    }
    #[inline(always)]
    unsafe fn at(self, row: usize, j: usize) -> f32 {
        // SAFETY: inside, by `has`.
        unsafe { *self.0.as_ptr().add(row * S + j) }
    }
}

impl<const S: usize> Left for ByColumn<'_, S> {
    #[inline(always)]
    fn has(self, rows: usize, depth: usize) -> bool {
        has(self.0.len(), depth, S, rows)
    }
    #[inline(always)]
    unsafe fn at(self, row: usize, j: usize) -> f32 {
        // SAFETY: inside, by `has`.
        unsafe { *self.0.as_ptr().add(j * S + row) }
    }
}

/// The operand that is read in vectors.
pub(super) trait Right: Copy {
    /// Whether the vectors below `depth` exist.
    fn has(self, depth: usize) -> bool;
    /// Without the first `j` vectors.
    fn skip(self, j: usize) -> Self;
    /// Vector `j`.
    ///
    /// # Safety
    /// `has` was asked.
    unsafe fn load<I: Isa>(self, isa: I, j: usize) -> I::F;
    /// Asks for vector `j`'s place `bytes` further on.
    fn ask<I: Isa>(self, isa: I, j: usize, bytes: isize);
}

/// Vectors of f32, `S` values from one to the next.
#[derive(Clone, Copy)]
pub(super) struct Floats<'a, const S: usize>(pub &'a [f32]);

/// Vectors of half precision, one behind the other.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a>(pub &'a [u16]);

impl<const S: usize> Right for Floats<'_, S> {
    #[inline(always)]
    fn skip(self, j: usize) -> Self {
        Floats(&self.0[j * S..])
    }
    #[inline(always)]
    fn has(self, depth: usize) -> bool {
        has(self.0.len(), depth, S, LANES)
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(self, isa: I, j: usize) -> I::F {
        // SAFETY: inside, by `has`.
        unsafe { isa.load(self.0.as_ptr().add(j * S)) }
    }
    #[inline(always)]
    fn ask<I: Isa>(self, isa: I, j: usize, bytes: isize) {
        let at = self.0.as_ptr().wrapping_add(j * S).cast::<u8>().wrapping_offset(bytes);
        isa.prefetch(at);
        isa.prefetch(at.wrapping_add(64));
    }
}

impl Right for Halves<'_> {
    #[inline(always)]
    fn skip(self, j: usize) -> Self {
        Halves(&self.0[j * LANES..])
    }
    #[inline(always)]
    fn has(self, depth: usize) -> bool {
        has(self.0.len(), depth, LANES, LANES)
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(self, isa: I, j: usize) -> I::F {
        // SAFETY: inside, by `has`.
        unsafe { isa.load_f16(self.0.as_ptr().add(j * LANES)) }
    }
    #[inline(always)]
    fn ask<I: Isa>(self, isa: I, j: usize, bytes: isize) {
        isa.prefetch(self.0.as_ptr().wrapping_add(j * LANES).cast::<u8>().wrapping_offset(bytes));
    }
}

/// A right operand that comes from memory, and is read once: each load asks for what will be needed later.
#[derive(Clone, Copy)]
pub(super) struct Ahead<B> {
    pub now: B,
    /// How far on.
    pub bytes: isize,
}

impl<B: Right> Right for Ahead<B> {
    #[inline(always)]
    fn skip(self, j: usize) -> Self {
        Ahead { now: self.now.skip(j), bytes: self.bytes }
    }
    #[inline(always)]
    fn has(self, depth: usize) -> bool {
        self.now.has(depth)
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(self, isa: I, j: usize) -> I::F {
        self.now.ask(isa, j, self.bytes);
        // SAFETY: the caller's contract.
        unsafe { self.now.load(isa, j) }
    }
    #[inline(always)]
    fn ask<I: Isa>(self, isa: I, j: usize, bytes: isize) {
        self.now.ask(isa, j, bytes);
    }
}

/// Where the sums begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At 0: c is overwritten.
    Zero,
    /// At what c holds.
    Sums,
}

/// The product; `N` vectors of c side by side, whose rows are `S` values apart. Panics when an operand is too small.
pub(super) struct Product<'a, A, B, const N: usize, const S: usize> {
    pub rows: usize,
    /// How many `j`.
    pub depth: usize,
    pub a: A,
    pub b: [B; N],
    /// Row r of vector n begins at `n · apart + r · S`.
    pub c: &'a mut [f32],
    pub apart: usize,
    pub start: Start,
}

/// Whether the accumulators of a tile fit the registers.
const fn fits<I: Isa>(rows: usize, vectors: usize) -> bool {
    rows * vectors <= I::ROWS || rows == 1
}

impl<A: Left, B: Right, const N: usize, const S: usize> Kernel for Product<'_, A, B, N, S> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Product { rows, depth, a, b, c, apart, start } = self;
        let c_len = c.len().saturating_sub((N - 1) * apart);
        assert!(
            a.has(rows, depth) && b.iter().all(|b| b.has(depth)) && has(c_len, rows, S, LANES),
            "operands of a product of {rows} rows over {depth}"
        );
        let c = c.as_mut_ptr();
        let mut row = 0;
        macro_rules! tiles_of {
            ($($height:literal)*) => {$(
                if const { fits::<I>($height, N) } {
                    while rows - row >= $height {
                        let mut sums = [[isa.zero(); N]; $height];
                        if start == Start::Sums {
                            for r in 0..$height {
                                for n in 0..N {
                                    // SAFETY: c has these rows.
                                    sums[r][n] = unsafe { isa.load(c.add(n * apart + (row + r) * S)) };
                                }
                            }
                        }
                        for j in 0..depth {
                            let mut vectors = [isa.zero(); N];
                            for n in 0..N {
                                // SAFETY: b has these vectors.
                                vectors[n] = unsafe { b[n].load(isa, j) };
                            }
                            for r in 0..$height {
                                // SAFETY: a has these values.
                                let value = isa.splat(unsafe { a.at(row + r, j) });
                                for n in 0..N {
                                    sums[r][n] = isa.fma(value, vectors[n], sums[r][n]);
                                }
                            }
                        }
                        for r in 0..$height {
                            for n in 0..N {
                                // SAFETY: c has these rows.
                                unsafe { isa.store(c.add(n * apart + (row + r) * S), sums[r][n]) };
                            }
                        }
                        row += $height;
                    }
                }
            )*};
        }
        tiles_of!(12 8 4 3 2 1);
    }
}

/// Copies a row, times `factor`, to row `r` of `[D/64][rows][64]`. What stands behind D stays.
#[inline(always)]
pub(super) fn to_pieces<I: Isa>(isa: I, from: &[f32], factor: f32, to: &mut [f32], rows: usize, r: usize) {
    for (piece, from) in from.chunks(PIECE).enumerate() {
        let to = &mut to[(piece * rows + r) * PIECE..][..from.len()];
        scale(isa, from, factor, to);
    }
}

/// Copies row `r` of `[D/64][rows][64]`, times `factor`.
#[inline(always)]
pub(super) fn from_pieces<I: Isa>(isa: I, from: &[f32], rows: usize, r: usize, factor: f32, to: &mut [f32]) {
    for (piece, to) in to.chunks_mut(PIECE).enumerate() {
        scale(isa, &from[(piece * rows + r) * PIECE..][..to.len()], factor, to);
    }
}

#[inline(always)]
fn scale<I: Isa>(isa: I, from: &[f32], factor: f32, to: &mut [f32]) {
    for (from, to) in from.chunks(LANES).zip(to.chunks_mut(LANES)) {
        isa.store_slice(to, isa.mul(isa.load_slice(from, 0.0), isa.splat(factor)));
    }
}

/// 32 x 32 values, where vectors like them.
#[repr(align(128))]
pub(super) struct Square(pub [f32; LANES * LANES]);

impl Square {
    pub const ZERO: Square = Square([0.0; LANES * LANES]);

    /// Lays up to 32 values of each of up to 32 rows across: value i of row r becomes value r of row i. `self` is left
    /// with the rows; of those that are missing, `to` gets what was there.
    #[inline(always)]
    pub fn across<'a, I: Isa>(&mut self, isa: I, rows: impl Iterator<Item = &'a [f32]>, to: &mut Square) {
        for (to, from) in self.0.chunks_exact_mut(LANES).zip(rows) {
            isa.store_slice(to, isa.load_slice(from, 0.0));
        }
        // SAFETY: two squares of 32 x 32.
        unsafe { isa.transpose(self.0.as_ptr(), to.0.as_mut_ptr()) }
    }
}

/// Writes `count` rows of width `dim` as `[blocks][D][32 rows]`; rows that are missing in the last block are 0.
#[inline(always)]
pub(super) fn across<'a, I: Isa>(
    isa: I,
    row: impl Fn(usize) -> &'a [f32],
    count: usize,
    dim: usize,
    to: &mut [f32],
) {
    let mut columns = Square::ZERO;
    for (block, to) in to.chunks_exact_mut(dim * LANES).enumerate() {
        let rows = block * LANES..count.min((block + 1) * LANES);
        let mut square = Square::ZERO;
        for (i, to) in to.chunks_mut(LANES * LANES).enumerate() {
            square.across(isa, rows.clone().map(|r| &row(r)[i * LANES..]), &mut columns);
            to.copy_from_slice(&columns.0[..to.len()]);
        }
    }
}
