//! The rows of x, rounded to what the weights are multiplied with.

use crate::matrix::Operand;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};
use std::ops::Range;

/// Room for the rounded forms of x, used again from call to call.
///
/// As bytes: each 32 neighbours share a scale `max |x| / 127`, and `q = round(x / scale)`.
#[derive(Default)]
pub struct Inputs {
    /// `[m][k rounded up to 2]`.
    bf16: Vec<u16>,
    /// `[m][k]`: rounded to f16, and widened again.
    f16: Vec<f32>,
    /// `[m][k/32]`.
    bytes: Vec<Bytes>,
}

/// What is added to signed weights where instructions take unsigned ones ([`Isa::SIGNED_OFFSET`]).
pub(super) const OFFSET: i32 = 128;

/// 32 neighbours of a row of x as bytes, with all that a product wants to know of them: one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Bytes {
    /// `round(x / scale)`.
    pub q: [i8; 32],
    /// `max |x| / 127`.
    pub scale: f32,
    /// The sums of q: of all, of the first 16, of the last 16. Whole numbers.
    pub sums: [f32; 3],
    /// What sums of products begin with where weights are larger by [`OFFSET`]: the sums times that.
    pub starts: [i32; 3],
}

impl Inputs {
    /// Takes rows `[m, k]` and makes the forms that `operands` name.
    ///
    /// Panics if x has not `m * k` elements, or `k` is no multiple of 32 where bytes are asked for.
    pub fn prepare<'a>(
        &'a mut self,
        pool: &Pool,
        x: &'a [f32],
        [m, k]: [usize; 2],
        operands: impl Iterator<Item = Operand>,
    ) -> Prepared<'a> {
        assert_eq!(x.len(), m * k, "size of x for {m} rows of {k}");
        let (mut wants_bf16, mut wants_f16, mut wants_i8) = (false, false, false);
        for operand in operands {
            match operand {
                Operand::F32 => {}
                Operand::Bf16 => wants_bf16 = true,
                Operand::F16 => wants_f16 = true,
                Operand::I8 => wants_i8 = true,
            }
        }
        // Few values are not worth handing out.
        let grain = (1usize << 12).div_ceil(k.max(1));
        if wants_bf16 {
            let width = k.next_multiple_of(2);
            self.bf16.resize(m * width, 0);
            let out = Shares::new(&mut self.bf16);
            pool.run_ranges(m, grain, |rows| {
                // SAFETY: a task writes its own rows.
                let out = unsafe { out.get(rows.start * width..rows.end * width) };
                dispatch(Round { x: &x[rows.start * k..rows.end * k], k, out });
            });
        }
        if wants_f16 {
            self.f16.resize(m * k, 0.0);
            let out = Shares::new(&mut self.f16);
            pool.run_ranges(m, grain, |rows| {
                // SAFETY: a task writes its own rows.
                let out = unsafe { out.get(rows.start * k..rows.end * k) };
                out.copy_from_slice(&x[rows.start * k..rows.end * k]);
                dispatch(RoundToF16(out));
            });
        }
        if wants_i8 {
            assert!(k.is_multiple_of(32), "{k} values are no blocks of 32");
            let blocks = k / 32;
            self.bytes.resize(m * blocks, Bytes::default());
            let bytes = Shares::new(&mut self.bytes);
            pool.run_ranges(m, grain, |rows| {
                // SAFETY: a task writes its own rows.
                let bytes = unsafe { bytes.get(rows.start * blocks..rows.end * blocks) };
                dispatch(Quantise { x: &x[rows.start * k..rows.end * k], bytes });
            });
        }
        Prepared { x, m, k, rounded: self }
    }
}

/// For rows that nothing rounds.
static NOTHING: Inputs = Inputs { bf16: Vec::new(), f16: Vec::new(), bytes: Vec::new() };

/// Rows of x `[m, k]`, in every form that the next products need.
#[derive(Clone, Copy)]
pub struct Prepared<'a> {
    x: &'a [f32],
    m: usize,
    k: usize,
    rounded: &'a Inputs,
}

impl<'a> Prepared<'a> {
    /// Rows `[m, k]` for weights of f32 alone. Panics if x has not `m * k` elements.
    pub fn exact(x: &'a [f32], [m, k]: [usize; 2]) -> Prepared<'a> {
        assert_eq!(x.len(), m * k, "size of x for {m} rows of {k}");
        Prepared { x, m, k, rounded: &NOTHING }
    }

    /// Rows (m).
    pub fn rows(&self) -> usize {
        self.m
    }

    /// Width of a row (k).
    pub fn cols(&self) -> usize {
        self.k
    }

    /// Blocks of rows, each of whole tiles of `height`, that stay in the second cache while several panels use them.
    pub(super) fn row_blocks(&self, height: usize, row_bytes: usize) -> impl Iterator<Item = Range<usize>> {
        const BYTES: usize = 256 << 10;
        let (m, tiles) = (self.m, BYTES / (row_bytes * height).max(1));
        let rows = tiles.max(1) * height;
        (0..m).step_by(rows).map(move |first| first..m.min(first + rows))
    }

    /// A row of f32, as it is or rounded to f16.
    pub(super) fn f32_row(&self, operand: Operand, row: usize) -> &'a [f32] {
        let x = match operand {
            Operand::F16 => &self.rounded.f16,
            Operand::F32 | Operand::Bf16 | Operand::I8 => self.x,
        };
        &x[row * self.k..(row + 1) * self.k]
    }

    pub(super) fn bf16_row(&self, row: usize) -> &'a [u16] {
        let width = self.k.next_multiple_of(2);
        &self.rounded.bf16[row * width..(row + 1) * width]
    }

    /// `[k/32]`.
    pub(super) fn bytes_row(&self, row: usize) -> &'a [Bytes] {
        let blocks = self.k / 32;
        &self.rounded.bytes[row * blocks..(row + 1) * blocks]
    }
}

/// Rows of k values to rows of bf16, filled up to an even number.
struct Round<'a> {
    x: &'a [f32],
    k: usize,
    out: &'a mut [u16],
}

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let width = self.k.next_multiple_of(2);
        for (x, out) in self.x.chunks_exact(self.k.max(1)).zip(self.out.chunks_exact_mut(width.max(1))) {
            for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
                let mut rounded = [0; LANES];
                // SAFETY: there is room for 32 numbers.
                unsafe { isa.store_bf16(rounded.as_mut_ptr(), isa.load_slice(x, 0.0)) };
                out.copy_from_slice(&rounded[..out.len()]);
            }
        }
    }
}

/// Values rounded to f16, in place.
pub(super) struct RoundToF16<'a>(pub &'a mut [f32]);

impl Kernel for RoundToF16<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for x in self.0.chunks_mut(LANES) {
            isa.store_slice(x, isa.round_to_f16(isa.load_slice(x, 0.0)));
        }
    }
}

/// Added to a small number, it leaves no room for a fraction: what is kept is the nearest integer (ties to even), in the
/// lowest bits.
const SHIFT: f32 = (3 << 22) as f32;

struct Quantise<'a> {
    x: &'a [f32],
    bytes: &'a mut [Bytes],
}

impl Kernel for Quantise<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (x, bytes) in self.x.chunks_exact(32).zip(self.bytes) {
            // As bits, which are in the order of the magnitudes, with infinity and NaN at the end.
            let largest = x.iter().fold(0, |largest, x| largest.max(x.to_bits() & i32::MAX as u32));
            let largest = f32::from_bits(largest);
            let inverse = 127.0 / largest;
            // A block of zeros, and one whose scale is too small to be inverted, has scale 0. NaN and infinity must not
            // vanish: they are the scale of the whole block then, and no product of it is finite.
            let vanishes = inverse.is_infinite();
            bytes.scale = if vanishes { 0.0 } else { largest / 127.0 };
            let inverse = isa.splat(if vanishes { 0.0 } else { inverse });
            let shifted = isa.add(isa.mul(isa.load_slice(x, 0.0), inverse), isa.splat(SHIFT));
            let mut q = [0f32; 32];
            isa.store_slice(&mut q, shifted);
            bytes.q = q.map(|q| q.to_bits() as i8);
            let sum = |q: &[i8]| q.iter().map(|&q| i32::from(q)).sum::<i32>();
            let (first, last) = (sum(&bytes.q[..16]), sum(&bytes.q[16..]));
            let sums = [first + last, first, last];
            bytes.sums = sums.map(|sum| sum as f32);
            bytes.starts = sums.map(|sum| -OFFSET * sum);
        }
    }
}

const _: () = assert!(size_of::<Bytes>() == 64);
