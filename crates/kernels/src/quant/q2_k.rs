//! Q2_K: 256 values of 2 bits in groups of 16, each group with a scale and a minimum of 4 bits.
//! 2.625 bits a weight.
//!
//! ```text
//! byte  0                16                               80        82          84
//!       | scales: 16 B   | qs: 64 bytes                   | d: f16  | dmin: f16 |
//!
//! scales[g] = [ minimum m of group g : 4 bits | scale s of group g : 4 bits ]
//! qs        = two halves of 32 bytes, one for each 128 values. A byte holds four values that lie
//!             32 apart: qs[32 * h + l] = [ 96 + l | 64 + l | 32 + l | l ], all of half h
//! value[i]  = (d * s[i / 16]) * q[i] - (dmin * m[i / 16])
//! ```

use super::search::{Batch, Integers};
use super::two_levels;
use super::{Block, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

const CODES: Integers = Integers { least: 0.0, greatest: 3.0 };

#[allow(non_camel_case_types)] // the format's name
pub(super) struct Q2_K;

impl Block<84, 256, 16> for Q2_K {
    const DTYPE: DType = DType::Q2_K;
    const HAS_MIN: bool = true;
    const Q_RANGE: (i8, i8) = (0, 3);

    fn decode(block: &[u8; 84], out: &mut [f32; 256]) {
        let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
        let (scales, qs) = (&block[..16], &block[16..80]);
        for (i, out) in out.iter_mut().enumerate() {
            let packed = scales[i / 16];
            let scale = d * f32::from(packed & 0x0F);
            let min = dmin * f32::from(packed >> 4);
            *out = scale * f32::from(two_bits(qs, i)) - min;
        }
    }

    fn unpack(block: &[u8; 84], q: &mut [i8; 256], scale: &mut [f32; 16], min: &mut [f32; 16]) {
        let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
        for ((scale, min), &packed) in scale.iter_mut().zip(min).zip(&block[..16]) {
            *scale = d * f32::from(packed & 0x0F);
            *min = dmin * f32::from(packed >> 4);
        }
        unpack_two_bits(&block[16..80], q);
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 84]]) {
        let scales = two_levels::lines::<I, 16>(isa, CODES, 15, batch);
        for (b, block) in blocks.iter_mut().enumerate() {
            let ([d, dmin], s, m) = scales.of::<16>(b);
            for (byte, (s, m)) in block[..16].iter_mut().zip(s.into_iter().zip(m)) {
                *byte = s | m << 4;
            }
            pack_two_bits(&scales.round::<16>(CODES, batch, b), &mut block[16..80]);
            block[80..82].copy_from_slice(&d.to_le_bytes());
            block[82..].copy_from_slice(&dmin.to_le_bytes());
        }
    }
}

/// The two bits of value `i` in the 64 bytes of a block (Q2_K and Q3_K share this order).
pub(super) fn two_bits(qs: &[u8], i: usize) -> u8 {
    let (half, quarter, lane) = (i / 128, i / 32 % 4, i % 32);
    qs[32 * half + lane] >> (2 * quarter) & 3
}

/// [`two_bits`] of every value, a byte column at a time.
pub(super) fn unpack_two_bits(qs: &[u8], q: &mut [i8; 256]) {
    for (q, qs) in q.as_chunks_mut::<128>().0.iter_mut().zip(qs.as_chunks::<32>().0) {
        for (quarter, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (q, &byte) in q.iter_mut().zip(qs) {
                *q = (byte >> (2 * quarter) & 3) as i8;
            }
        }
    }
}

/// Undoes [`unpack_two_bits`].
#[inline(always)]
pub(super) fn pack_two_bits(q: &[u8; 256], qs: &mut [u8]) {
    for (q, qs) in q.as_chunks::<128>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
        for (lane, byte) in qs.iter_mut().enumerate() {
            *byte = q[lane] | q[32 + lane] << 2 | q[64 + lane] << 4 | q[96 + lane] << 6;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn layout() {
        let mut block = [0; 84];
        block[80..82].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[82..].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        block[15] = 0x4F; // group 15: scale 15, minimum 4
        block[2] = 0x03; // group 2 (values 32 to 47): scale 3
        block[16 + 5] = 0b00_00_10_00; // value 37 = 2
        block[16 + 32 + 31] = 0b11_00_00_00; // value 255 = 3
        let mut out = [9.0; 256];
        Q2_K::decode(&block, &mut out);
        let mut expected = [0.0; 256];
        expected[37] = 0.5 * 3.0 * 2.0;
        expected[240..].fill(-0.25 * 4.0);
        expected[255] = 0.5 * 15.0 * 3.0 - 1.0;
        assert_eq!(out, expected);
    }
}
