//! Q5_K: 256 values of 5 bits in groups of 32, each group with a scale and a minimum of 6 bits.
//! 5.5 bits a weight.
//!
//! ```text
//! byte  0         2           4               16             48                               176
//!       | d: f16  | dmin: f16 | scales: 12 B  | qh: 32 B     | qs: 128 bytes                   |
//!
//! qs, scales = the low 4 bits of each value, the scales and the minimums, all as in q4_k
//! qh         = the fifth bit: bit i / 32 of qh[i % 32] belongs to value i
//! value[i]   = (d * s[i / 32]) * q[i] - (dmin * m[i / 32])
//! ```

use super::q4_k::{nibble, pack_nibbles, pack_scales_and_mins, scales_and_mins, unpack_nibbles};
use super::search::{Batch, Integers};
use super::two_levels;
use super::{Block, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

const CODES: Integers = Integers { least: 0.0, greatest: 31.0 };

#[allow(non_camel_case_types)] // the format's name
pub(super) struct Q5_K;

impl Block<176, 256, 8> for Q5_K {
    const DTYPE: DType = DType::Q5_K;
    const HAS_MIN: bool = true;
    const Q_RANGE: (i8, i8) = (0, 31);

    fn decode(block: &[u8; 176], out: &mut [f32; 256]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let (s, m) = scales_and_mins(&block[4..16]);
        let (qh, qs) = (&block[16..48], &block[48..]);
        for (i, out) in out.iter_mut().enumerate() {
            let g = i / 32;
            let scale = d * f32::from(s[g]);
            let min = dmin * f32::from(m[g]);
            let q = nibble(qs, i) | (qh[i % 32] >> g & 1) << 4;
            *out = scale * f32::from(q) - min;
        }
    }

    fn unpack(block: &[u8; 176], q: &mut [i8; 256], scale: &mut [f32; 8], min: &mut [f32; 8]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let (s, m) = scales_and_mins(&block[4..16]);
        *scale = s.map(|s| d * f32::from(s));
        *min = m.map(|m| dmin * f32::from(m));
        unpack_nibbles(&block[48..], q);
        for (bit, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (q, &high) in q.iter_mut().zip(&block[16..48]) {
                *q |= (high >> bit & 1) as i8 * 16;
            }
        }
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 176]]) {
        let scales = two_levels::lines::<I, 8>(isa, CODES, 63, batch);
        for (b, block) in blocks.iter_mut().enumerate() {
            let ([d, dmin], s, m) = scales.of::<8>(b);
            let q = scales.round::<8>(CODES, batch, b);
            block[..2].copy_from_slice(&d.to_le_bytes());
            block[2..4].copy_from_slice(&dmin.to_le_bytes());
            pack_scales_and_mins(&s, &m, &mut block[4..16]);
            for (lane, high) in block[16..48].iter_mut().enumerate() {
                *high = (0..8).fold(0, |high, bit| high | q[32 * bit + lane] >> 4 << bit);
            }
            pack_nibbles(&q, &mut block[48..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn layout() {
        let mut block = [0; 176];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        block[4 + 1] = 0b10_000011; // s[1] = 3, high bits of s[5] = 2
        block[4 + 5] = 0b01_000111; // m[1] = 7, high bits of m[5] = 1
        block[4 + 9] = 0x52; // low bits: s[5] = 2, m[5] = 5
        block[48 + 8] = 0xB0; // value 40 = 11, and its fifth bit:
        block[16 + 8] = 1 << 1;
        block[16 + 9] = 1 << 5; // value 169 = 16
        let mut out = [9.0; 256];
        Q5_K::decode(&block, &mut out);
        for (i, out) in out.iter().enumerate() {
            let expected = match (i, i / 32) {
                (40, _) => 0.5 * 3.0 * 27.0 - 0.25 * 7.0,
                (169, _) => 0.5 * 34.0 * 16.0 - 0.25 * 21.0,
                (_, 1) => -0.25 * 7.0,
                (_, 5) => -0.25 * 21.0,
                _ => 0.0,
            };
            assert_eq!(*out, expected, "value {i}");
        }
    }
}
