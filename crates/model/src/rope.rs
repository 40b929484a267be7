//! Frequencies of the rotary embedding, in the steps and roundings that transformers' `modeling_rope_utils.py` takes.

use std::f64::consts::TAU;

use crate::config::{Rope, RopeScaling};

/// The frequencies of a head's `head_dim / 2` pairs, in radians per position, and the factor of cos and sin (1 but for
/// YaRN).
///
/// Unscaled, pair `i` has `1 / theta^(2i / head_dim)`. Everything is rounded to f32 where PyTorch rounds; the power
/// itself is taken in f64 and rounded once, so that the bits do not depend on the machine's `powf`.
///
/// Formulas: linear <https://kaiokendev.github.io/til>, Llama 3 as in Meta's `apply_scaling`, YaRN
/// <https://arxiv.org/abs/2309.00071>.
pub fn frequencies(rope: &Rope, head_dim: usize) -> (Vec<f32>, f32) {
    // theta^(2i/D), the waves' relative lengths.
    let lengths = (0..head_dim / 2).map(|i| {
        let exponent = (2 * i) as f32 / head_dim as f32;
        f64::from(rope.theta).powf(f64::from(exponent)) as f32
    });
    let unscaled = lengths.clone().map(|length| 1.0 / length);
    match &rope.scaling {
        RopeScaling::None => (unscaled.collect(), 1.0),
        RopeScaling::Linear { factor } => (unscaled.map(|f| f / factor).collect(), 1.0),
        RopeScaling::Divisors(divisors) => {
            (unscaled.zip(divisors).map(|(f, divisor)| f / divisor).collect(), 1.0)
        }
        &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_seq } => {
            let scale = |f| llama3(f, factor, low_freq_factor, high_freq_factor, original_max_seq as f32);
            (unscaled.map(scale).collect(), 1.0)
        }
        &RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_seq, attention_factor, truncate } => {
            let bound = |rotations| yarn_dimension(rotations, head_dim, rope.theta, original_max_seq);
            let (mut low, mut high) = (bound(beta_fast), bound(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            low = low.max(0.0);
            high = high.min(head_dim as f64 - 1.0);
            if low == high {
                high += 0.001; // a ramp has a width
            }
            let ramp = |(i, length): (usize, f32)| {
                let divided = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let kept = 1.0 - divided;
                1.0 / (factor * length) * (1.0 - kept) + 1.0 / length * kept
            };
            (lengths.enumerate().map(ramp).collect(), attention_factor)
        }
    }
}

/// Llama 3.1: a wave longer than the low bound is stretched by `factor`, one shorter than the high bound is kept,
/// between them the two are mixed.
fn llama3(frequency: f32, factor: f32, low: f32, high: f32, original_max_seq: f32) -> f32 {
    let wavelength = 1.0 / frequency * TAU as f32;
    if wavelength > original_max_seq / low {
        frequency / factor
    } else if wavelength < original_max_seq / high {
        frequency
    } else {
        let kept = (1.0 / wavelength * original_max_seq - low) / (high - low);
        (1.0 - kept) * frequency / factor + kept * frequency
    }
}

/// The pair (as a fraction) that turns `rotations` times within the original context.
fn yarn_dimension(rotations: f32, head_dim: usize, theta: f32, original_max_seq: usize) -> f64 {
    let wavelength = original_max_seq as f64 / (f64::from(rotations) * TAU);
    head_dim as f64 * wavelength.ln() / (2.0 * f64::from(theta).ln())
}

/// YaRN's default factor of cos and sin: `0.1 · ln(factor) + 1`, its terms weighted by `mscale`.
pub fn yarn_attention_factor(factor: f32, mscale: f32) -> f32 {
    yarn_mscale(f64::from(factor), f64::from(mscale)) as f32
}

/// The same where a file gives `mscale` and `mscale_all_dim`: the quotient of the two.
pub fn yarn_attention_quotient(factor: f32, mscale: f32, mscale_all_dim: f32) -> f32 {
    let factor = f64::from(factor);
    (yarn_mscale(factor, f64::from(mscale)) / yarn_mscale(factor, f64::from(mscale_all_dim))) as f32
}

fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

#[cfg(test)]
#[allow(clippy::excessive_precision)] // the reference's digits
mod tests {
    use super::*;

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let tolerance = 2.0 * f32::EPSILON * expected.abs();
            assert!((found - expected).abs() <= tolerance, "{i}: expected {expected:e}, found {found:e}");
        }
    }

    fn of(theta: f32, scaling: RopeScaling, head_dim: usize) -> (Vec<f32>, f32) {
        frequencies(&Rope { theta, scaling }, head_dim)
    }

    #[test]
    fn unscaled_and_linear() {
        let (found, factor) = of(10_000.0, RopeScaling::None, 16);
        assert_eq!(factor, 1.0);
        close(
            &found,
            &[
                1.0,
                3.162_277_6e-1,
                1.000_000_015e-1,
                3.162_277_862e-2,
                9.999_999_776e-3,
                3.162_277_862e-3,
                1.000_000_047e-3,
                3.162_277_862e-4,
            ],
        );
        let (found, factor) = of(1e6, RopeScaling::Linear { factor: 8.0 }, 16);
        assert_eq!(factor, 1.0);
        close(
            &found,
            &[
                1.25e-1,
                2.222_849_242e-2,
                3.952_847_328e-3,
                7.029_266_562e-4,
                1.250_000_059e-4,
                2.222_849_253e-5,
                3.952_846_782e-6,
                7.029_266_84e-7,
            ],
        );
    }

    #[test]
    fn llama3_keeps_mixes_and_divides() {
        let llama3 = |factor, original_max_seq| RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_seq,
        };
        let (found, factor) = of(500_000.0, llama3(32.0, 32), 16);
        assert_eq!(factor, 1.0);
        close(
            &found,
            &[
                1.0,
                6.060_086_191e-3,
                1.175_188_459e-3,
                2.278_957_836e-4,
                4.419_417_019e-5,
                8.570_255_886e-6,
                1.661_967_417e-6,
                3.222_932_889e-7,
            ],
        );
        // Llama 3.1 8B: kept up to pair 28, mixed from 29 to 35.
        let (found, _) = of(500_000.0, llama3(8.0, 8192), 128);
        let some: Vec<_> = [0, 20, 28, 30, 32, 34, 36, 40, 63].map(|i| found[i]).to_vec();
        close(
            &some,
            &[
                1.0,
                1.656_044_088e-2,
                3.211_446_106e-3,
                1.371_893_683e-3,
                5.248_460_22e-4,
                1.785_077_911e-4,
                7.784_655_463e-5,
                3.428_102_355e-5,
                3.068_925_878e-7,
            ],
        );
    }

    #[test]
    fn yarn_ramps_between_the_bounds() {
        let yarn = |original_max_seq, truncate| RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_seq,
            attention_factor: yarn_attention_factor(4.0, 1.0),
            truncate,
        };
        let (found, factor) = of(1e6, yarn(32, true), 32);
        assert_eq!(factor, 1.138_629_4);
        close(
            &found[..8],
            &[
                1.0,
                2.635_603_249e-1,
                4.445_698_485e-2,
                1.874_735_393e-2,
                7.905_694_656e-3,
                3.333_803_732e-3,
                1.405_853_312e-3,
                5.928_434_548e-4,
            ],
        );
        // Qwen3 with its documented scaling: the ramp goes from pair 23 to 40.
        let pairs = [0, 20, 24, 28, 32, 36, 39, 40, 41, 63];
        let (found, _) = of(1e6, yarn(32768, true), 128);
        close(
            &pairs.map(|i| found[i]),
            &[
                1.0,
                1.333_521_493e-2,
                5.375_321_489e-3,
                1.848_276_588e-3,
                6.029_411_452e-4,
                1.798_411_54e-4,
                6.490_394_298e-5,
                4.445_698_505e-5,
                3.582_531_644e-5,
                3.102_344_408e-7,
            ],
        );
        let (found, _) = of(1e6, yarn(32768, false), 128);
        close(
            &[found[24], found[32], found[36], found[39]],
            &[5.517_270_416e-3, 6.074_080_011e-4, 1.773_442_345e-4, 6.187_807_594e-5],
        );
    }

    #[test]
    fn yarn_factors() {
        assert_eq!(yarn_attention_factor(1.0, 1.0), 1.0);
        assert_eq!(yarn_attention_quotient(40.0, 0.707, 1.0), 0.921_042_36);
        assert_eq!(yarn_attention_quotient(40.0, 1.0, 1.0), 1.0);
    }

    #[test]
    fn divisors_divide() {
        let (plain, _) = of(10_000.0, RopeScaling::None, 8);
        let (found, factor) = of(10_000.0, RopeScaling::Divisors(vec![1.0, 2.0, 4.0, 8.0]), 8);
        assert_eq!(factor, 1.0);
        assert_eq!(found, [plain[0], plain[1] / 2.0, plain[2] / 4.0, plain[3] / 8.0]);
    }
}
