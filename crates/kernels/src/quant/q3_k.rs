//! Q3_K: 256 values of 3 bits in groups of 16, each group with a signed scale of 6 bits.
//! 3.4375 bits a weight.
//!
//! ```text
//! byte  0                32                               96              108       110
//!       | hmask: 32 B    | qs: 64 bytes                   | scales: 12 B  | d: f16  |
//!
//! qs        = the low 2 bits of each value, in the order of q2_k
//! hmask     = the third bit h: bit i / 32 of hmask[i % 32] belongs to value i. It is stored upside
//!             down: where it is 0, 4 is subtracted
//! scales    = the 16 scales s, 6 bits each: of the first eight bytes, byte j has the low 4 bits of
//!             s[j] (low nibble) and s[j + 8] (high nibble); of the last four, byte j has the
//!             high 2 bits of [ s[j + 12] | s[j + 8] | s[j + 4] | s[j] ]
//! value[i]  = (d * (s[i / 16] - 32)) * (q[i] - 4 * !h[i])
//! ```

use super::q2_k::{pack_two_bits, two_bits, unpack_two_bits};
use super::search::{Batch, Integers, Starts};
use super::two_levels;
use super::{Block, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

const CODES: Integers = Integers { least: -4.0, greatest: 3.0 };

#[allow(non_camel_case_types)] // the format's name
pub(super) struct Q3_K;

impl Block<110, 256, 16> for Q3_K {
    const DTYPE: DType = DType::Q3_K;
    const HAS_MIN: bool = false;
    const Q_RANGE: (i8, i8) = (-4, 3);

    fn decode(block: &[u8; 110], out: &mut [f32; 256]) {
        let d = f16_at(block, 108);
        let (hmask, qs, packed) = (&block[..32], &block[32..96], &block[96..108]);
        for (i, out) in out.iter_mut().enumerate() {
            let h = hmask[i % 32] >> (i / 32) & 1;
            let q = two_bits(qs, i) as i8 - if h == 0 { 4 } else { 0 };
            *out = d * f32::from(six_bits(packed, i / 16) - 32) * f32::from(q);
        }
    }

    fn unpack(block: &[u8; 110], q: &mut [i8; 256], scale: &mut [f32; 16], _min: &mut [f32; 16]) {
        let d = f16_at(block, 108);
        for (g, scale) in scale.iter_mut().enumerate() {
            *scale = d * f32::from(six_bits(&block[96..108], g) - 32);
        }
        unpack_two_bits(&block[32..96], q);
        for (bit, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (q, &mask) in q.iter_mut().zip(&block[..32]) {
                // With the third bit: 0..=7, and 4 less is -4..=3.
                *q += (mask >> bit & 1) as i8 * 4 - 4;
            }
        }
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 110]]) {
        const STARTS: Starts = CODES.starts();
        let scales = two_levels::scales::<I, _, 16>(isa, CODES, (-32, 31), batch, &STARTS);
        for (b, block) in blocks.iter_mut().enumerate() {
            let (d, s, _) = scales.of::<16>(b);
            let q = scales.round::<16>(CODES, batch, b).map(|q| (q + 4) as u8);
            pack_two_bits(&q.map(|q| q & 3), &mut block[32..96]);
            for (lane, mask) in block[..32].iter_mut().enumerate() {
                *mask = (0..8).fold(0, |mask, bit| mask | q[32 * bit + lane] >> 2 << bit);
            }
            pack_six_bits(&s.map(|s| (s + 32) as u8), &mut block[96..108]);
            block[108..].copy_from_slice(&d.to_le_bytes());
        }
    }
}

/// Undoes [`six_bits`] for all groups.
#[inline(always)]
fn pack_six_bits(s: &[u8; 16], packed: &mut [u8]) {
    for j in 0..8 {
        packed[j] = s[j] & 0x0F | (s[j + 8] & 0x0F) << 4;
    }
    for j in 0..4 {
        packed[8 + j] = (0..4).fold(0, |byte, k| byte | s[j + 4 * k] >> 4 << (2 * k));
    }
}

/// The scale of group `g`, `0..=63`, from the 12 bytes that hold all sixteen.
fn six_bits(packed: &[u8], g: usize) -> i8 {
    let low = packed[g % 8] >> (4 * (g / 8)) & 0x0F;
    let high = packed[8 + g % 4] >> (2 * (g / 4)) & 3;
    (low | high << 4) as i8
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn layout() {
        let mut block = [0; 110];
        block[108..].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[96 + 8..96 + 12].fill(0b10_10_10_10); // every scale is 32: a factor of 0
        block[96 + 5] = 0x71; // s[5] = 33, s[13] = 39
        block[32 + 20] = 0b00_00_10_00; // the low bits of value 52 (quarter 1, group 3)
        block[32 + 17] = 0b00_00_11_00; // of value 49, group 3: no effect, the factor is 0
        block[32 + 32 + 4] = 0b00_11_00_00; // of value 128 + 64 + 4 = 196, group 12: no effect
        block[32 + 32 + 20] = 0b00_11_00_00; // of value 212, group 13
        block[20] = 1 << 6; // the third bit of value 212
        let mut out = [9.0; 256];
        Q3_K::decode(&block, &mut out);
        for (i, out) in out.iter().enumerate() {
            let expected = match i / 16 {
                5 => 0.5 * 1.0 * -4.0,
                13 if i == 212 => 0.5 * 7.0 * 3.0,
                13 => 0.5 * 7.0 * -4.0,
                _ => 0.0,
            };
            assert_eq!(*out, expected, "value {i}");
        }
    }
}
