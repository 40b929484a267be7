//! The rows of x, rounded to what the weights are multiplied with.

use crate::matrix::Operand;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, dispatch};
use half::bf16;

/// Rows of x `[m, k]` in every form that the next products need; the memory is used again from call to call.
///
/// As bytes: each 32 neighbours share a scale `max |x| / 127`, and `q = round(x / scale)`.
#[derive(Default)]
pub struct Inputs {
    m: usize,
    k: usize,
    f32: Vec<f32>,
    /// `[m][k rounded up to 2]`.
    bf16: Vec<u16>,
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
    pub fn prepare(
        &mut self,
        pool: &Pool,
        x: &[f32],
        [m, k]: [usize; 2],
        operands: impl Iterator<Item = Operand>,
    ) {
        assert_eq!(x.len(), m * k, "size of x for {m} rows of {k}");
        (self.m, self.k) = (m, k);
        let (mut wants_f32, mut wants_bf16, mut wants_i8) = (false, false, false);
        for operand in operands {
            match operand {
                Operand::F32 => wants_f32 = true,
                Operand::Bf16 => wants_bf16 = true,
                Operand::I8 => wants_i8 = true,
            }
        }
        // Few rows are not worth waking a thread for.
        let grain = (1usize << 14).div_ceil(k.max(1));
        if wants_f32 {
            self.f32.clear();
            self.f32.extend_from_slice(x);
        }
        if wants_bf16 {
            let width = k.next_multiple_of(2);
            self.bf16.resize(m * width, 0);
            let out = Shares::new(&mut self.bf16);
            pool.run_ranges(m, grain, |rows| {
                for row in rows {
                    // SAFETY: a task writes its own rows.
                    let out = unsafe { out.get(row * width..(row + 1) * width) };
                    for (to, x) in out.iter_mut().zip(&x[row * k..(row + 1) * k]) {
                        *to = bf16::from_f32(*x).to_bits();
                    }
                    if k < width {
                        out[k] = 0;
                    }
                }
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
    }

    /// Rows (m).
    pub fn rows(&self) -> usize {
        self.m
    }

    /// Width of a row (k).
    pub fn cols(&self) -> usize {
        self.k
    }

    pub(super) fn f32_row(&self, row: usize) -> &[f32] {
        &self.f32[row * self.k..(row + 1) * self.k]
    }

    pub(super) fn bf16_row(&self, row: usize) -> &[u16] {
        let width = self.k.next_multiple_of(2);
        &self.bf16[row * width..(row + 1) * width]
    }

    /// Bytes `[k]`, scales `[k/32]` and sums of 16 `[k/16]` of a row.
    pub(super) fn i8_row(&self, row: usize) -> (&[i8], &[f32], &[i32]) {
        let k = self.k;
        (
            &self.q[row * k..(row + 1) * k],
            &self.scale[row * k / 32..(row + 1) * k / 32],
            &self.sum[row * k / 16..(row + 1) * k / 16],
        )
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
