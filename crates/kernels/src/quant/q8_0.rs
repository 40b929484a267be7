//! Q8_0: 32 values of 8 bits with one scale. 8.5 bits a weight.
//!
//! ```text
//! byte  0         2                                    34
//!       | d: f16  | qs: 32 x i8                         |
//!
//! value[i] = d * qs[i]
//! ```

use half::f16;

use super::search::{Batch, Integers, Line, Starts, one_scale};
use super::{Block, Encode, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

/// Without -128, whose negative is no byte: what multiplies magnitudes would overflow.
const CODES: Integers = Integers { least: -127.0, greatest: 127.0 };

pub(super) struct Q8_0;

impl Block<34, 32, 1> for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    const HAS_MIN: bool = false;
    const Q_RANGE: (i8, i8) = (-128, 127);
    const REFERENCE: Option<Encode<34, 32>> = Some(reference);

    fn decode(block: &[u8; 34], out: &mut [f32; 32]) {
        let d = f16_at(block, 0);
        for (out, &byte) in out.iter_mut().zip(&block[2..]) {
            *out = d * f32::from(byte as i8);
        }
    }

    fn unpack(block: &[u8; 34], q: &mut [i8; 32], scale: &mut [f32; 1], _min: &mut [f32; 1]) {
        scale[0] = f16_at(block, 0);
        for (q, &byte) in q.iter_mut().zip(&block[2..]) {
            *q = byte as i8;
        }
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 34]]) {
        const STARTS: Starts = CODES.starts();
        let (d, scale) = one_scale(isa, CODES, batch, &STARTS, 127.0);
        for (b, block) in blocks.iter_mut().enumerate() {
            let mut q = [0; 32];
            CODES.round(batch.group(b), Line { scale: scale[b], min: 0.0 }, &mut q);
            block[..2].copy_from_slice(&d[b].to_le_bytes());
            for (byte, q) in block[2..].iter_mut().zip(q) {
                *byte = q as u8;
            }
        }
    }
}

/// The greatest magnitude becomes 127; -128 is not used.
fn reference(values: &[f32; 32], block: &mut [u8; 34]) {
    let greatest = values.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    let d = greatest / 127.0;
    // The integers come from the f32 scale, although the file keeps its f16: as ggml does.
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };

    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (byte, v) in block[2..].iter_mut().zip(values) {
        *byte = (v * inverse).round() as i8 as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut block = [0; 34];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2] = 0x80;
        block[33] = 3;
        let mut out = [9.0; 32];
        Q8_0::decode(&block, &mut out);
        let mut expected = [0.0; 32];
        expected[0] = -64.0;
        expected[31] = 1.5;
        assert_eq!(out, expected);
    }

    #[test]
    fn reference_is_within_half_a_step() {
        let values: [f32; 32] = std::array::from_fn(|i| (i as f32 * 0.7).sin());
        let (mut block, mut out) = ([0; 34], [0.0; 32]);
        reference(&values, &mut block);
        Q8_0::decode(&block, &mut out);
        for (v, o) in values.iter().zip(out) {
            // Half a step of 1/127, and the scale's own rounding to 11 bits.
            assert!((v - o).abs() <= 0.5 / 127.0 + 1.0 / 2048.0, "{v} became {o}");
        }
    }
}
