//! Q5_0: 32 values of 5 bits with one scale. 5.5 bits a weight.
//!
//! ```text
//! byte  0         2          6                                    22
//!       | d: f16  | qh: u32  | qs: 16 bytes                        |
//!
//! qs[j] = [ low 4 bits of value j + 16 | low 4 bits of value j ]      (high nibble, low nibble)
//! qh    = bit i is the fifth bit of value i
//! value[i] = d * (q[i] - 16)
//! ```

use half::f16;

use super::search::{Batch, Integers, Line, Starts, one_scale};
use super::{Block, Encode, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

const CODES: Integers = Integers { least: -16.0, greatest: 15.0 };

pub(super) struct Q5_0;

impl Block<22, 32, 1> for Q5_0 {
    const DTYPE: DType = DType::Q5_0;
    const HAS_MIN: bool = false;
    const Q_RANGE: (i8, i8) = (-16, 15);
    const REFERENCE: Option<Encode<22, 32>> = Some(reference);

    fn decode(block: &[u8; 22], out: &mut [f32; 32]) {
        let d = f16_at(block, 0);
        let qh = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
        let qs = &block[6..];
        for j in 0..16 {
            let low = (qs[j] & 0x0F) | fifth_bit(qh, j);
            let high = (qs[j] >> 4) | fifth_bit(qh, j + 16);
            out[j] = d * f32::from(low as i8 - 16);
            out[j + 16] = d * f32::from(high as i8 - 16);
        }
    }

    fn unpack(block: &[u8; 22], q: &mut [i8; 32], scale: &mut [f32; 1], _min: &mut [f32; 1]) {
        scale[0] = f16_at(block, 0);
        unpack_unsigned(block, q);
        for q in q {
            *q -= 16;
        }
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 22]]) {
        const STARTS: Starts = CODES.starts();
        let (d, scale) = one_scale(isa, CODES, batch, &STARTS, -16.0);
        for (b, block) in blocks.iter_mut().enumerate() {
            let mut q = [0; 32];
            CODES.round(batch.group(b), Line { scale: scale[b], min: 0.0 }, &mut q);
            block[..2].copy_from_slice(&d[b].to_le_bytes());
            pack_unsigned(&q.map(|q| (q + 16) as u8), block);
        }
    }
}

/// As in Q4_0: the value of greatest magnitude becomes -16.
fn reference(values: &[f32; 32], block: &mut [u8; 22]) {
    let extreme = values.iter().fold(0.0f32, |extreme, &v| if v.abs() > extreme.abs() { v } else { extreme });
    let d = extreme / -16.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let q = values.map(|v| ((v * inverse + 16.5) as u8).min(31));

    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    pack_unsigned(&q, block);
}

/// Undoes [`unpack_unsigned`].
#[inline(always)]
pub(super) fn pack_unsigned<const BYTES: usize>(q: &[u8; 32], block: &mut [u8; BYTES]) {
    let (qh, qs) = block[BYTES - 20..].split_at_mut(4);
    let (low, high) = q.split_at(16);
    for ((low, high), byte) in low.iter().zip(high).zip(qs) {
        *byte = low & 0x0F | (high & 0x0F) << 4;
    }
    for (eight, bits) in q.as_chunks::<8>().0.iter().zip(qh) {
        *bits = (0..8).fold(0, |bits, i| bits | eight[i] >> 4 << i);
    }
}

/// The fifth bit of value `i`, in its place.
pub(super) fn fifth_bit(qh: u32, i: usize) -> u8 {
    ((qh >> i & 1) << 4) as u8
}

/// The integers, `0..=31`, of a block that ends in `qh` and `qs`, as Q5_0 and Q5_1 do.
pub(super) fn unpack_unsigned<const BYTES: usize>(block: &[u8; BYTES], q: &mut [i8; 32]) {
    let (qh, qs) = block[BYTES - 20..].split_at(4);
    let (low, high) = q.split_at_mut(16);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(qs) {
        *low = (byte & 0x0F) as i8;
        *high = (byte >> 4) as i8;
    }
    for (eight, &bits) in q.as_chunks_mut::<8>().0.iter_mut().zip(qh) {
        for (i, q) in eight.iter_mut().enumerate() {
            *q |= (bits >> i & 1) as i8 * 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut block = [0; 22];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..6].copy_from_slice(&(1u32 << 3 | 1 << 20).to_le_bytes());
        block[6 + 3] = 0xF1;
        let mut out = [9.0; 32];
        Q5_0::decode(&block, &mut out);
        let mut expected = [-8.0; 32];
        expected[3] = 0.5 * (16.0 + 1.0 - 16.0);
        expected[19] = 0.5 * (15.0 - 16.0);
        expected[20] = 0.0;
        assert_eq!(out, expected);
    }
}
