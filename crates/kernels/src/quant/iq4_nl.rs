//! IQ4_NL: 32 values of 4 bits with one scale, on a scale that is not linear. 4.5 bits a weight.
//!
//! ```text
//! byte  0         2                                    18
//!       | d: f16  | qs: 16 bytes                        |
//!
//! qs[j] = [ index of value j + 16 : 4 bits | index of value j : 4 bits ]      (high, low nibble)
//! value[i] = d * LEVELS[index[i]]
//! ```
//!
//! The levels stand closer together near zero, where most weights are.

use super::search::{Batch, Codes, Starts, one_scale};
use super::{Block, f16_at};
use crate::dtype::DType;
use crate::simd::{Isa, LANES};

/// The sixteen levels, which IQ4_XS shares: they are the format, as `kvalues_iq4nl` in ggml.
pub(super) const LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

#[allow(non_camel_case_types)] // the format's name
pub(super) struct IQ4_NL;

impl Block<18, 32, 1> for IQ4_NL {
    const DTYPE: DType = DType::IQ4_NL;
    const HAS_MIN: bool = false;
    const Q_RANGE: (i8, i8) = (-127, 113);

    fn decode(block: &[u8; 18], out: &mut [f32; 32]) {
        let d = f16_at(block, 0);
        let qs = &block[2..];
        for j in 0..16 {
            out[j] = d * f32::from(LEVELS[usize::from(qs[j] & 0x0F)]);
            out[j + 16] = d * f32::from(LEVELS[usize::from(qs[j] >> 4)]);
        }
    }

    fn unpack(block: &[u8; 18], q: &mut [i8; 32], scale: &mut [f32; 1], _min: &mut [f32; 1]) {
        scale[0] = f16_at(block, 0);
        unpack_levels(&block[2..], q);
    }

    #[inline(always)]
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; 18]]) {
        let (d, scale) = one_scale(isa, Levels, batch, &STARTS, -127.0);
        for (b, block) in blocks.iter_mut().enumerate() {
            block[..2].copy_from_slice(&d[b].to_le_bytes());
            Levels.pack(batch.group(b), scale[b], &mut block[2..]);
        }
    }
}

/// The search's view of the levels.
#[derive(Clone, Copy)]
pub(super) struct Levels;

/// Half way between a level and the next.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        middles[i] = (LEVELS[i] as f32 + LEVELS[i + 1] as f32) / 2.0;
        i += 1;
    }
    middles
};

/// The extreme value becomes one of the outer levels, or lies between or beyond them.
pub(super) const STARTS: Starts = {
    let ends = [80.0, 88.0, 96.0, 104.0, 112.0, 120.0, 128.0, 138.0];
    let mut starts = [[0.0; 8], ends];
    let mut i = 0;
    while i < ends.len() {
        starts[0][i] = -ends[i];
        i += 1;
    }
    starts
};

impl Codes for Levels {
    #[inline(always)]
    fn nearest<I: Isa>(self, isa: I, v: I::F) -> I::F {
        let (mut v_lanes, mut level) = ([0.0; LANES], [f32::from(LEVELS[0]); LANES]);
        isa.store_slice(&mut v_lanes, v);
        for (i, middle) in MIDDLES.into_iter().enumerate() {
            let step = f32::from(LEVELS[i + 1]) - f32::from(LEVELS[i]);
            for (level, v) in level.iter_mut().zip(v_lanes) {
                *level += if v > middle { step } else { 0.0 };
            }
        }
        isa.load_slice(&level, 0.0)
    }
}

impl Levels {
    /// The indices of 32 values, in their 16 bytes.
    #[inline(always)]
    pub fn pack(self, group: &[f32], scale: f32, qs: &mut [u8]) {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let mut index = [0u8; 32];
        for middle in MIDDLES {
            for (index, x) in index.iter_mut().zip(group) {
                *index += u8::from(x * inverse > middle);
            }
        }
        for (j, byte) in qs.iter_mut().enumerate() {
            *byte = index[j] | index[j + 16] << 4;
        }
    }
}

/// The levels of 32 values from their 16 bytes.
pub(super) fn unpack_levels(qs: &[u8], q: &mut [i8; 32]) {
    let (low, high) = q.split_at_mut(16);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(qs) {
        *low = LEVELS[usize::from(byte & 0x0F)];
        *high = LEVELS[usize::from(byte >> 4)];
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn layout() {
        let mut block = [0x88; 18];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2 + 3] = 0xF1;
        let mut out = [9.0; 32];
        IQ4_NL::decode(&block, &mut out);
        let mut expected = [0.5; 32];
        expected[3] = 0.5 * -104.0;
        expected[19] = 0.5 * 113.0;
        assert_eq!(out, expected);
    }
}
