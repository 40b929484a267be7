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

use super::{Block, f16_at};
use crate::dtype::DType;

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
