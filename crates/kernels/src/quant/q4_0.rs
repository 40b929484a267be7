//! Q4_0: 32 values of 4 bits with one scale. 4.5 bits a weight.
//!
//! ```text
//! byte  0         2                                    18
//!       | d: f16  | qs: 16 bytes                        |
//!
//! qs[j] = [ q of value j + 16 : 4 bits | q of value j : 4 bits ]      (high nibble, low nibble)
//! value[i] = d * (q[i] - 8)
//! ```

use half::f16;

use super::search::{Batch, Integers, Line, Starts, one_scale};
use super::{Block, Encode, f16_at};
use crate::dtype::DType;
use crate::simd::Isa;

const CODES: Integers = Integers { least: -8.0, greatest: 7.0 };

pub(super) struct Q4_0;

impl Block<18, 32, 1> for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    const HAS_MIN: bool = false;
    const Q_RANGE: (i8, i8) = (-8, 7);
    const REFERENCE: Option<Encode<18, 32>> = Some(reference);

    fn decode(block: &[u8; 18], out: &mut [f32; 32]) {
        let d = f16_at(block, 0);
        let qs = &block[2..];
        for j in 0..16 {
            out[j] = d * f32::from((qs[j] & 0x0F) as i8 - 8);
            out[j + 16] = d * f32::from((qs[j] >> 4) as i8 - 8);
        }
    }

    fn unpack(block: &[u8; 18], q: &mut [i8; 32], scale: &mut [f32; 1], _min: &mut [f32; 1]) {
        scale[0] = f16_at(block, 0);
        let (low, high) = q.split_at_mut(16);
        for ((low, high), &byte) in low.iter_mut().zip(high).zip(&block[2..]) {
            *low = (byte & 0x0F) as i8 - 8;
            *high = (byte >> 4) as i8 - 8;
        }
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 18]]) {
        const STARTS: Starts = CODES.starts();
        let (d, scale) = one_scale(isa, CODES, batch, &STARTS, -8.0);
        for (b, block) in blocks.iter_mut().enumerate() {
            let mut q = [0; 32];
            CODES.round(batch.group(b), Line { scale: scale[b], min: 0.0 }, &mut q);
            block[..2].copy_from_slice(&d[b].to_le_bytes());
            for (j, byte) in block[2..].iter_mut().enumerate() {
                *byte = (q[j] + 8) as u8 | ((q[j + 16] + 8) as u8) << 4;
            }
        }
    }
}

/// The value of greatest magnitude becomes -8, the one end that has no opposite; the others are
/// rounded to the nearest step.
fn reference(values: &[f32; 32], block: &mut [u8; 18]) {
    let mut extreme = 0.0f32;
    for &v in values {
        // Of equal magnitudes the first one counts, as in ggml: it decides the scale's sign.
        if v.abs() > extreme.abs() {
            extreme = v;
        }
    }
    let d = extreme / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    // The products lie in -8.0..=8.0: adding 8.5 and cutting off rounds to 0..=16, and 16 is cut to 15.
    let round = |v: f32| ((v * inverse + 8.5) as u8).min(15);

    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (j, byte) in block[2..].iter_mut().enumerate() {
        *byte = round(values[j]) | round(values[j + 16]) << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut block = [0x88; 18];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2 + 3] = 0xF1;
        let mut out = [9.0; 32];
        Q4_0::decode(&block, &mut out);
        let mut expected = [0.0; 32];
        expected[3] = 0.5 * (1.0 - 8.0);
        expected[19] = 0.5 * (15.0 - 8.0);
        assert_eq!(out, expected);
    }

    #[test]
    fn reference_hits_the_extreme_exactly_and_others_within_half_a_step() {
        let mut values: [f32; 32] = std::array::from_fn(|i| (i as f32 * 0.7).sin());
        values[5] = 2.0;
        let (mut block, mut out) = ([0; 18], [0.0; 32]);
        reference(&values, &mut block);
        Q4_0::decode(&block, &mut out);
        assert_eq!(out[5], 2.0);
        for (v, o) in values.iter().zip(out) {
            assert!((v - o).abs() <= 0.125, "{v} became {o}");
        }
    }
}
