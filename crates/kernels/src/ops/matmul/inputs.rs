//! The rows of x, rounded to what the weights are multiplied with.

use crate::matrix::Operand;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};

/// Room for the rounded forms of x, used again from call to call.
///
/// As bytes: each 32 neighbours share a scale `max |x| / 127`, and `q = round(x / scale)`.
#[derive(Default)]
pub struct Inputs {
    /// `[m][k rounded up to 2]`.
    bf16: Vec<u16>,
    /// `[m][k]`: rounded to f16, and widened again.
    f16: Vec<f32>,
    /// `[m][k]`.
    q: Vec<i8>,
    /// `[m][k/32]`.
    scale: Vec<f32>,
    /// `[m][k/16]`: sums of 16 bytes.
    sum: Vec<i32>,
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
        // Few rows are not worth waking a thread for.
        let grain = (1usize << 14).div_ceil(k.max(1));
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
            self.q.resize(m * k, 0);
            self.scale.resize(m * k / 32, 0.0);
            self.sum.resize(m * k / 16, 0);
            let q = Shares::new(&mut self.q);
            let scale = Shares::new(&mut self.scale);
            let sum = Shares::new(&mut self.sum);
            pool.run_ranges(m, grain, |rows| {
                // SAFETY: a task writes its own rows.
                let (q, scale, sum) = unsafe {
                    (
                        q.get(rows.start * k..rows.end * k),
                        scale.get(rows.start * k / 32..rows.end * k / 32),
                        sum.get(rows.start * k / 16..rows.end * k / 16),
                    )
                };
                dispatch(Quantise { x: &x[rows.start * k..rows.end * k], q, scale, sum });
            });
        }
        Prepared { x, m, k, rounded: self }
    }
}

/// For rows that nothing rounds.
static NOTHING: Inputs =
    Inputs { bf16: Vec::new(), f16: Vec::new(), q: Vec::new(), scale: Vec::new(), sum: Vec::new() };

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

    /// Bytes `[k]`, scales `[k/32]` and sums of 16 `[k/16]` of a row.
    pub(super) fn i8_row(&self, row: usize) -> (&'a [i8], &'a [f32], &'a [i32]) {
        let k = self.k;
        (
            &self.rounded.q[row * k..(row + 1) * k],
            &self.rounded.scale[row * k / 32..(row + 1) * k / 32],
            &self.rounded.sum[row * k / 16..(row + 1) * k / 16],
        )
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

struct Quantise<'a> {
    x: &'a [f32],
    q: &'a mut [i8],
    scale: &'a mut [f32],
    sum: &'a mut [i32],
}

impl Kernel for Quantise<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let blocks = self.x.chunks_exact(32).zip(self.q.chunks_exact_mut(32));
        for ((x, q), (scale, sums)) in blocks.zip(self.scale.iter_mut().zip(self.sum.chunks_exact_mut(2))) {
            let x = isa.load_slice(x, 0.0);
            let largest = isa.largest(isa.max(x, isa.sub(isa.zero(), x)));
            // A block of zeros, and one whose scale is too small to be inverted, has scale 0.
            let inverse = 127.0 / largest;
            let (inverse, s) = if inverse.is_finite() { (inverse, largest / 127.0) } else { (0.0, 0.0) };
            let mut rounded = [0f32; 32];
            isa.store_slice(&mut rounded, isa.round(isa.mul(x, isa.splat(inverse))));
            for (to, x) in q.iter_mut().zip(rounded) {
                *to = x as i8;
            }
            // NaN and infinity must not vanish: they make the whole block NaN, as they would its products.
            *scale = s + isa.sum(isa.mul(x, isa.zero()));
            for (sum, q) in sums.iter_mut().zip(q.chunks_exact(16)) {
                *sum = q.iter().map(|&q| i32::from(q)).sum();
            }
        }
    }
}
