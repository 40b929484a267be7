//! IQ4_XS: 256 values of 4 bits in groups of 32, each group with a signed scale of 6 bits, on the
//! levels of IQ4_NL. 4.25 bits a weight.
//!
//! ```text
//! byte  0         2               4               8                                136
//!       | d: f16  | scales_h: u16 | scales_l: 4 B | qs: 128 bytes                   |
//!
//! scales_l  = the low 4 bits of the eight scales s: byte j has [ s[2 * j + 1] | s[2 * j] ]
//! scales_h  = their high 2 bits: bits 2 * g and 2 * g + 1 belong to s[g]
//! qs        = 16 bytes a group, in the order of iq4_nl
//! value[i]  = (d * (s[i / 32] - 32)) * LEVELS[index[i]]
//! ```

use super::iq4_nl::{LEVELS, Levels, STARTS, unpack_levels};
use super::search::Batch;
use super::two_levels;
use super::{Block, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

#[allow(non_camel_case_types)] // the format's name
pub(super) struct IQ4_XS;

impl Block<136, 256, 8> for IQ4_XS {
    const DTYPE: DType = DType::IQ4_XS;
    const HAS_MIN: bool = false;
    const Q_RANGE: (i8, i8) = (-127, 113);

    fn decode(block: &[u8; 136], out: &mut [f32; 256]) {
        let d = f16_at(block, 0);
        let qs = &block[8..];
        for (i, out) in out.iter_mut().enumerate() {
            let (g, half, lane) = (i / 32, i / 16 % 2, i % 16);
            let scale = d * f32::from(six_bits(block, g) - 32);
            let index = qs[16 * g + lane] >> (4 * half) & 0x0F;
            *out = scale * f32::from(LEVELS[usize::from(index)]);
        }
    }

    fn unpack(block: &[u8; 136], q: &mut [i8; 256], scale: &mut [f32; 8], _min: &mut [f32; 8]) {
        let d = f16_at(block, 0);
        for (g, scale) in scale.iter_mut().enumerate() {
            *scale = d * f32::from(six_bits(block, g) - 32);
        }
        for (q, qs) in q.as_chunks_mut().0.iter_mut().zip(block[8..].chunks_exact(16)) {
            unpack_levels(qs, q);
        }
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 136]]) {
        let scales = two_levels::scales::<I, _, 8>(isa, Levels, (-32, 31), batch, &STARTS);
        for (b, block) in blocks.iter_mut().enumerate() {
            let (d, s, scale) = scales.of::<8>(b);
            let s = s.map(|s| (s + 32) as u8);
            let high = (0..8).fold(0, |high, g| high | u16::from(s[g] >> 4) << (2 * g));
            block[..2].copy_from_slice(&d.to_le_bytes());
            block[2..4].copy_from_slice(&high.to_le_bytes());
            for j in 0..4 {
                block[4 + j] = s[2 * j] & 0x0F | (s[2 * j + 1] & 0x0F) << 4;
            }
            for (g, qs) in block[8..].chunks_exact_mut(16).enumerate() {
                Levels.pack(batch.group(8 * b + g), scale[g], qs);
            }
        }
    }
}

/// The scale of group `g`, `0..=63`.
fn six_bits(block: &[u8; 136], g: usize) -> i8 {
    let scales_h = u16::from_le_bytes([block[2], block[3]]);
    let low = block[4 + g / 2] >> (4 * (g % 2)) & 0x0F;
    let high = (scales_h >> (2 * g) & 3) as u8;
    (low | high << 4) as i8
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn layout() {
        let mut block = [0x88; 136];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&0b10_10_11_10_10_10_10_10u16.to_le_bytes()); // s[5] has 3, others 2
        block[4..8].fill(0); // all scales 32, a factor of 0; s[5] = 48
        block[4 + 1] = 0x05; // s[2] = 37
        block[8 + 5 * 16 + 3] = 0xF1; // values 163 and 179
        let mut out = [9.0; 256];
        IQ4_XS::decode(&block, &mut out);
        for (i, out) in out.iter().enumerate() {
            let expected = match (i, i / 32) {
                (163, _) => 0.5 * 16.0 * -104.0,
                (179, _) => 0.5 * 16.0 * 113.0,
                (_, 5) => 0.5 * 16.0,
                (_, 2) => 0.5 * 5.0,
                _ => 0.0,
            };
            assert_eq!(*out, expected, "value {i}");
        }
    }
}
