//! Q6_K: 256 values of 6 bits in groups of 16, each group with a signed scale of 8 bits.
//! 6.5625 bits a weight.
//!
//! ```text
//! byte  0                              128             192              208       210
//!       | ql: 128 bytes                | qh: 64 bytes  | scales: 16 x i8 | d: f16  |
//!
//! Two halves of 128 values; in half h, with 64 bytes of ql and 32 bytes of qh of its own:
//! ql[64 * h + l] = [ low 4 bits of value 64 + l | low 4 bits of value l ]                   l < 64
//! qh[32 * h + l] = high 2 bits of [ value 96 + l | value 64 + l | value 32 + l | value l ]  l < 32
//! value[i]       = (d * scales[i / 16]) * (q[i] - 32)
//! ```

use super::search::{Batch, Integers, Starts};
use super::two_levels;
use super::{Block, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

const CODES: Integers = Integers { least: -32.0, greatest: 31.0 };

#[allow(non_camel_case_types)] // the format's name
pub(super) struct Q6_K;

impl Block<210, 256, 16> for Q6_K {
    const DTYPE: DType = DType::Q6_K;
    const HAS_MIN: bool = false;
    const Q_RANGE: (i8, i8) = (-32, 31);

    fn decode(block: &[u8; 210], out: &mut [f32; 256]) {
        let d = f16_at(block, 208);
        let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
        for (i, out) in out.iter_mut().enumerate() {
            let (half, r) = (i / 128, i % 128);
            let low = ql[64 * half + r % 64] >> (4 * (r / 64)) & 0x0F;
            let high = qh[32 * half + r % 32] >> (2 * (r / 32)) & 3;
            let scale = d * f32::from(scales[i / 16] as i8);
            *out = scale * f32::from((low | high << 4) as i8 - 32);
        }
    }

    fn unpack(block: &[u8; 210], q: &mut [i8; 256], scale: &mut [f32; 16], _min: &mut [f32; 16]) {
        let d = f16_at(block, 208);
        for (scale, &s) in scale.iter_mut().zip(&block[192..208]) {
            *scale = d * f32::from(s as i8);
        }
        let ql = block[..128].as_chunks::<64>().0;
        let qh = block[128..192].as_chunks::<32>().0;
        for ((q, ql), qh) in q.as_chunks_mut::<128>().0.iter_mut().zip(ql).zip(qh) {
            let (low, high) = q.split_at_mut(64);
            for ((low, high), &byte) in low.iter_mut().zip(high).zip(ql) {
                *low = (byte & 0x0F) as i8;
                *high = (byte >> 4) as i8;
            }
            for (quarter, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                for (q, &byte) in q.iter_mut().zip(qh) {
                    *q += (byte >> (2 * quarter) & 3) as i8 * 16 - 32;
                }
            }
        }
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 210]]) {
        const STARTS: Starts = CODES.starts();
        let scales = two_levels::scales::<I, _, 16>(isa, CODES, (-128, 127), batch, &STARTS);
        for (b, block) in blocks.iter_mut().enumerate() {
            let (d, s, _) = scales.of::<16>(b);
            let q = scales.round::<16>(CODES, batch, b).map(|q| (q + 32) as u8);
            let (ql, rest) = block.split_at_mut(128);
            let halves = ql.as_chunks_mut::<64>().0.iter_mut().zip(rest.as_chunks_mut::<32>().0);
            for (q, (ql, qh)) in q.as_chunks::<128>().0.iter().zip(halves) {
                for (l, byte) in ql.iter_mut().enumerate() {
                    *byte = q[l] & 0x0F | (q[64 + l] & 0x0F) << 4;
                }
                for (l, byte) in qh.iter_mut().enumerate() {
                    *byte = q[l] >> 4 | q[32 + l] >> 4 << 2 | q[64 + l] >> 4 << 4 | q[96 + l] >> 4 << 6;
                }
            }
            for (byte, s) in block[192..208].iter_mut().zip(s) {
                *byte = s as u8;
            }
            block[208..].copy_from_slice(&d.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn layout() {
        let mut block = [0; 210];
        block[208..].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[192 + 3] = 3; // values 48 to 63
        block[192 + 13] = -2i8 as u8; // values 208 to 223
        block[50] = 0xA7; // value 50: 7, and value 114: 10, whose scale is 0
        block[128 + 18] = 0b00_00_11_00; // value 50: + 48
        block[64 + 20] = 0xB4; // value 148: 4, whose scale is 0, and value 212: 11
        block[128 + 32 + 20] = 0b00_01_00_00; // value 128 + 64 + 20 = 212: + 16
        let mut out = [9.0; 256];
        Q6_K::decode(&block, &mut out);
        for (i, out) in out.iter().enumerate() {
            let expected = match (i, i / 16) {
                (50, _) => 0.5 * 3.0 * (55.0 - 32.0),
                (212, _) => 0.5 * -2.0 * (27.0 - 32.0),
                (_, 3) => 0.5 * 3.0 * -32.0,
                (_, 13) => 0.5 * -2.0 * -32.0,
                _ => 0.0,
            };
            assert_eq!(*out, expected, "value {i}");
        }
    }
}
