//! Q4_K: 256 values of 4 bits in groups of 32, each group with a scale and a minimum of 6 bits.
//! 4.5 bits a weight.
//!
//! ```text
//! byte  0         2           4               16                               144
//!       | d: f16  | dmin: f16 | scales: 12 B  | qs: 128 bytes                   |
//!
//! qs        = four quarters of 32 bytes, one for each 64 values:
//!             qs[32 * h + l] = [ q of value 64 * h + 32 + l | q of value 64 * h + l ]
//! scales    = eight scales s and eight minimums m of 6 bits, see `scales_and_mins`
//! value[i]  = (d * s[i / 32]) * q[i] - (dmin * m[i / 32])
//! ```

use super::search::{Batch, Integers};
use super::two_levels;
use super::{Block, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

const CODES: Integers = Integers { least: 0.0, greatest: 15.0 };

#[allow(non_camel_case_types)] // the format's name
pub(super) struct Q4_K;

impl Block<144, 256, 8> for Q4_K {
    const DTYPE: DType = DType::Q4_K;
    const HAS_MIN: bool = true;
    const Q_RANGE: (i8, i8) = (0, 15);

    fn decode(block: &[u8; 144], out: &mut [f32; 256]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let (s, m) = scales_and_mins(&block[4..16]);
        let qs = &block[16..];
        for (i, out) in out.iter_mut().enumerate() {
            let g = i / 32;
            let scale = d * f32::from(s[g]);
            let min = dmin * f32::from(m[g]);
            *out = scale * f32::from(nibble(qs, i)) - min;
        }
    }

    fn unpack(block: &[u8; 144], q: &mut [i8; 256], scale: &mut [f32; 8], min: &mut [f32; 8]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let (s, m) = scales_and_mins(&block[4..16]);
        *scale = s.map(|s| d * f32::from(s));
        *min = m.map(|m| dmin * f32::from(m));
        unpack_nibbles(&block[16..], q);
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 144]]) {
        let scales = two_levels::lines::<I, 8>(isa, CODES, 63, batch);
        for (b, block) in blocks.iter_mut().enumerate() {
            let ([d, dmin], s, m) = scales.of::<8>(b);
            block[..2].copy_from_slice(&d.to_le_bytes());
            block[2..4].copy_from_slice(&dmin.to_le_bytes());
            pack_scales_and_mins(&s, &m, &mut block[4..16]);
            pack_nibbles(&scales.round::<8>(CODES, batch, b), &mut block[16..]);
        }
    }
}

/// The eight scales and eight minimums, 6 bits each, of the 12 bytes that Q4_K and Q5_K keep them in:
///
/// ```text
/// byte j      [ high 2 bits of s[j + 4] | all 6 bits of s[j] ]            j = 0..4
/// byte j + 4  [ high 2 bits of m[j + 4] | all 6 bits of m[j] ]
/// byte j + 8  [ low 4 bits of m[j + 4]  | low 4 bits of s[j + 4] ]
/// ```
pub(super) fn scales_and_mins(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut s, mut m) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let (scales, mins, low) = (packed[j], packed[j + 4], packed[j + 8]);
        s[j] = scales & 0x3F;
        m[j] = mins & 0x3F;
        s[j + 4] = (low & 0x0F) | (scales >> 6) << 4;
        m[j + 4] = (low >> 4) | (mins >> 6) << 4;
    }
    (s, m)
}

/// The four bits of value `i` in the 128 bytes of a block (Q4_K and Q5_K share this order).
pub(super) fn nibble(qs: &[u8], i: usize) -> u8 {
    let (quarter, half, lane) = (i / 64, i / 32 % 2, i % 32);
    qs[32 * quarter + lane] >> (4 * half) & 0x0F
}

/// [`nibble`] of every value, a byte column at a time.
pub(super) fn unpack_nibbles(qs: &[u8], q: &mut [i8; 256]) {
    for (q, qs) in q.as_chunks_mut::<64>().0.iter_mut().zip(qs.as_chunks::<32>().0) {
        let (low, high) = q.split_at_mut(32);
        for ((low, high), &byte) in low.iter_mut().zip(high).zip(qs) {
            *low = (byte & 0x0F) as i8;
            *high = (byte >> 4) as i8;
        }
    }
}

/// Undoes [`scales_and_mins`].
#[inline(always)]
pub(super) fn pack_scales_and_mins(s: &[u8; 8], m: &[u8; 8], packed: &mut [u8]) {
    for j in 0..4 {
        packed[j] = s[j] | s[j + 4] >> 4 << 6;
        packed[j + 4] = m[j] | m[j + 4] >> 4 << 6;
        packed[j + 8] = s[j + 4] & 0x0F | (m[j + 4] & 0x0F) << 4;
    }
}

/// Undoes [`unpack_nibbles`].
#[inline(always)]
pub(super) fn pack_nibbles(q: &[u8; 256], qs: &mut [u8]) {
    for (q, qs) in q.as_chunks::<64>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
        for (lane, byte) in qs.iter_mut().enumerate() {
            *byte = q[lane] & 0x0F | (q[32 + lane] & 0x0F) << 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn layout() {
        let mut block = [0; 144];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        block[4 + 1] = 0b10_000011; // s[1] = 3, high bits of s[5] = 2
        block[4 + 5] = 0b01_000111; // m[1] = 7, high bits of m[5] = 1
        block[4 + 9] = 0x52; // low bits: s[5] = 2, m[5] = 5
        block[16 + 8] = 0xB0; // value 40 = 11
        block[16 + 64 + 8] = 0x90; // value 168 = 9
        let mut out = [9.0; 256];
        Q4_K::decode(&block, &mut out);
        for (i, out) in out.iter().enumerate() {
            let expected = match (i, i / 32) {
                (40, _) => 0.5 * 3.0 * 11.0 - 0.25 * 7.0,
                (168, _) => 0.5 * 34.0 * 9.0 - 0.25 * 21.0,
                (_, 1) => -0.25 * 7.0,
                (_, 5) => -0.25 * 21.0,
                _ => 0.0,
            };
            assert_eq!(*out, expected, "value {i}");
        }
    }
}
