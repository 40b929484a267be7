//! Q5_1: 32 values of 5 bits with one scale and one offset. 6 bits a weight.
//!
//! ```text
//! byte  0         2         4          8                                    24
//!       | d: f16  | m: f16  | qh: u32  | qs: 16 bytes                        |
//!
//! qs[j] = [ low 4 bits of value j + 16 | low 4 bits of value j ]      (high nibble, low nibble)
//! qh    = bit i is the fifth bit of value i
//! value[i] = d * q[i] + m
//! ```
//!
//! The file *adds* m: `min = -m`, as in [`q4_1`](super::q4_1).

use half::f16;

use super::q4_1::{ends, search_lines};
use super::q5_0::{fifth_bit, pack_unsigned, unpack_unsigned};
use super::search::{Batch, Integers};
use super::{Block, Encode, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

const CODES: Integers = Integers { least: 0.0, greatest: 31.0 };

pub(super) struct Q5_1;

impl Block<24, 32, 1> for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    const HAS_MIN: bool = true;
    const Q_RANGE: (i8, i8) = (0, 31);
    const REFERENCE: Option<Encode<24, 32>> = Some(reference);

    fn decode(block: &[u8; 24], out: &mut [f32; 32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        let qh = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
        let qs = &block[8..];
        for j in 0..16 {
            let low = (qs[j] & 0x0F) | fifth_bit(qh, j);
            let high = (qs[j] >> 4) | fifth_bit(qh, j + 16);
            out[j] = d * f32::from(low) + m;
            out[j + 16] = d * f32::from(high) + m;
        }
    }

    fn unpack(block: &[u8; 24], q: &mut [i8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
        scale[0] = f16_at(block, 0);
        min[0] = -f16_at(block, 2);
        unpack_unsigned(block, q);
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 24]]) {
        search_lines(isa, CODES, batch, blocks, |q, block| pack_unsigned(&q.map(|q| q as u8), block));
    }
}

/// The least and the greatest value become 0 and 31.
fn reference(values: &[f32; 32], block: &mut [u8; 24]) {
    let (low, high) = ends(values);
    let d = (high - low) / 31.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let q = values.map(|v| (((v - low) * inverse + 0.5) as u8).min(31));

    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(low).to_le_bytes());
    pack_unsigned(&q, block);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut block = [0; 24];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(-3.0).to_le_bytes());
        block[4..8].copy_from_slice(&(1u32 << 3 | 1 << 20).to_le_bytes());
        block[8 + 3] = 0xF1;
        let mut out = [9.0; 32];
        Q5_1::decode(&block, &mut out);
        let mut expected = [-3.0; 32];
        expected[3] = 0.5 * 17.0 - 3.0;
        expected[19] = 0.5 * 15.0 - 3.0;
        expected[20] = 0.5 * 16.0 - 3.0;
        assert_eq!(out, expected);
    }
}
