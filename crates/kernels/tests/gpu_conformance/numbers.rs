//! Sizes and numbers of the cases, and how results are compared.

use wootz_kernels::device::{Gpu, launch::to_f32};

/// Half a unit in the last place of 1.0: the relative error of one f32 operation.
pub const ULP: f64 = 6.0e-8;

/// Every length to 33, and the neighbours of the tile and workgroup sizes.
pub fn sizes() -> Vec<usize> {
    (1..=33).chain([63, 64, 65, 127, 128, 129, 255, 256, 257]).collect()
}

/// Numbers in [-1, 1), the same in each run (SplitMix64).
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ count as u64;
    let next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// A value and how far from it a correct f32 kernel may end.
#[derive(Clone, Copy)]
pub struct Near(pub f64, pub f64);

pub fn check(what: &str, found: &[f32], expected: &[Near]) {
    assert!(found.len() >= expected.len(), "{what}: {} values, expected {}", found.len(), expected.len());
    for (i, (&found, &Near(value, tolerance))) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(found) - value).abs();
        // Written so that NaN fails.
        assert!(
            difference <= tolerance + 1e-30,
            "{what}: [{i}] is {found}, expected {value} within {tolerance:e}"
        );
    }
}

/// All words of a buffer.
pub fn bits<G: Gpu>(gpu: &G, buffer: &G::Buffer) -> Vec<u32> {
    to_f32(gpu, buffer).unwrap().into_iter().map(f32::to_bits).collect()
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// That `gradient` is the slope of `loss` at `at`, by central differences.
pub fn check_differences(what: &str, at: &[f64], gradient: &[Near], loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(at.len(), gradient.len());
    let step = 1e-5;
    for (i, Near(slope, _)) in gradient.iter().enumerate() {
        let mut moved = at.to_vec();
        moved[i] = at[i] + step;
        let above = loss(&moved);
        moved[i] = at[i] - step;
        let difference = (above - loss(&moved)) / (2.0 * step);
        assert!((difference - slope).abs() < 1e-8, "{what}[{i}]: {slope}, by differences {difference}");
    }
}

/// `out[i,j] = sum over p of a(i,p) b(j,p)`, with the bound of a sum in any order of f32 operations.
pub fn product(
    (rows, cols, depth): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<Near> {
    let mut out = Vec::with_capacity(rows * cols);
    for i in 0..rows {
        for j in 0..cols {
            let (mut sum, mut size) = (0.0, 0.0);
            for p in 0..depth {
                let term = a(i, p) * b(j, p);
                sum += term;
                size += term.abs();
            }
            out.push(Near(sum, size * ULP * (depth + 4) as f64));
        }
    }
    out
}

/// `start[j]` or `start[i,j]` added: a bias, or what a gradient held before.
pub fn plus(mut sums: Vec<Near>, start: &[f32]) -> Vec<Near> {
    for (near, &start) in sums.iter_mut().zip(start.iter().cycle()) {
        near.1 += (near.0.abs() + f64::from(start.abs())) * ULP * 2.0;
        near.0 += f64::from(start);
    }
    sums
}
