//! Q4_1: 32 values of 4 bits with one scale and one offset. 5 bits a weight.
//!
//! ```text
//! byte  0         2         4                                    20
//!       | d: f16  | m: f16  | qs: 16 bytes                        |
//!
//! qs[j] = [ q of value j + 16 : 4 bits | q of value j : 4 bits ]      (high nibble, low nibble)
//! value[i] = d * q[i] + m
//! ```
//!
//! The file *adds* m, where [`Ints`](super::Ints) subtracts a minimum: `min = -m`, and `a - (-m)` is
//! `a + m` in every bit.

use half::f16;

use super::search::{Batch, Integers, Line, one_line};
use super::{Block, Encode, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

const CODES: Integers = Integers { least: 0.0, greatest: 15.0 };

pub(super) struct Q4_1;

impl Block<20, 32, 1> for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    const HAS_MIN: bool = true;
    const Q_RANGE: (i8, i8) = (0, 15);
    const REFERENCE: Option<Encode<20, 32>> = Some(reference);

    fn decode(block: &[u8; 20], out: &mut [f32; 32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        let qs = &block[4..];
        for j in 0..16 {
            out[j] = d * f32::from(qs[j] & 0x0F) + m;
            out[j + 16] = d * f32::from(qs[j] >> 4) + m;
        }
    }

    fn unpack(block: &[u8; 20], q: &mut [i8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
        scale[0] = f16_at(block, 0);
        min[0] = -f16_at(block, 2);
        let (low, high) = q.split_at_mut(16);
        for ((low, high), &byte) in low.iter_mut().zip(high).zip(&block[4..]) {
            *low = (byte & 0x0F) as i8;
            *high = (byte >> 4) as i8;
        }
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 20]]) {
        search_lines(isa, CODES, batch, blocks, |q, block| {
            for (j, byte) in block[4..].iter_mut().enumerate() {
                *byte = q[j] as u8 | (q[j + 16] as u8) << 4;
            }
        });
    }
}

/// Blocks that begin with a scale and an offset; `pack` writes the integers.
#[inline(always)]
pub(super) fn search_lines<I: Isa, const BYTES: usize>(
    isa: I,
    codes: Integers,
    batch: &Batch,
    blocks: &mut [[u8; BYTES]],
    pack: impl Fn(&[i8; 32], &mut [u8; BYTES]),
) {
    let Line { scale: (d, scale), min: (dmin, min) } = one_line(isa, codes, batch);
    for (b, block) in blocks.iter_mut().enumerate() {
        let mut q = [0; 32];
        codes.round(batch.group(b), Line { scale: scale[b], min: min[b] }, &mut q);
        block[..2].copy_from_slice(&d[b].to_le_bytes());
        block[2..4].copy_from_slice(&(-dmin[b]).to_le_bytes());
        pack(&q, block);
    }
}

/// The least and the greatest value become 0 and 15.
fn reference(values: &[f32; 32], block: &mut [u8; 20]) {
    let (low, high) = ends(values);
    let d = (high - low) / 15.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let round = |v: f32| (((v - low) * inverse + 0.5) as u8).min(15);

    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(low).to_le_bytes());
    for (j, byte) in block[4..].iter_mut().enumerate() {
        *byte = round(values[j]) | round(values[j + 16]) << 4;
    }
}

/// The least and the greatest value.
pub(super) fn ends(values: &[f32; 32]) -> (f32, f32) {
    let (mut low, mut high) = (f32::MAX, -f32::MAX);
    for &v in values {
        low = if v < low { v } else { low };
        high = if v > high { v } else { high };
    }
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut block = [0; 20];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(-3.0).to_le_bytes());
        block[4 + 3] = 0xF1;
        let mut out = [9.0; 32];
        Q4_1::decode(&block, &mut out);
        let mut expected = [-3.0; 32];
        expected[3] = 0.5 - 3.0;
        expected[19] = 0.5 * 15.0 - 3.0;
        assert_eq!(out, expected);
    }
}
