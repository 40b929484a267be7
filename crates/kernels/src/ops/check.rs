//! For the tests of gradients: the derivative by differences, in f64, and comparisons.

use crate::rng::Rng;

/// Lengths that hurt: all below a vector's, and the neighbours of tiles.
pub fn lengths() -> impl Iterator<Item = usize> {
    (1..34).chain([63, 64, 65, 127, 128, 129, 1000])
}

/// Normal numbers, the same in every run.
pub fn normal(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, len as u64);
    (0..len).map(|_| rng.normal()).collect()
}

/// The same numbers in f64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// `sum of x · y`: a loss whose gradient with respect to x is y.
pub fn dot(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The gradient of `loss` at `x` by central differences: `(f(x + h) - f(x - h)) / 2h`, which is off by terms of h².
pub fn differences(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const H: f64 = 1e-5;
    let mut at = x.to_vec();
    let mut slope = |i: usize| {
        at[i] = x[i] + H;
        let above = loss(&at);
        at[i] = x[i] - H;
        let below = loss(&at);
        at[i] = x[i];
        (above - below) / (2.0 * H)
    };
    (0..x.len()).map(&mut slope).collect()
}

/// Fails where a derivative by formula is not the one by differences.
#[track_caller]
pub fn assert_derivative(what: &str, formula: &[f64], differences: &[f64]) {
    assert_eq!(formula.len(), differences.len(), "{what}");
    let size = differences.iter().fold(1.0f64, |a, b| a.max(b.abs()));
    for (i, (f, d)) in formula.iter().zip(differences).enumerate() {
        assert!((f - d).abs() < 1e-7 * size, "{what}, element {i}: {f} by formula, {d} by differences");
    }
}

/// Fails where a number is off by more than `tolerance` of the largest magnitude, or of 1.
#[track_caller]
pub fn assert_near(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1.0f64, |a, b| a.max(b.abs()));
    for (i, (&f, e)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(f) - e).abs();
        assert!(error <= tolerance * size, "{what}, element {i}: {f}, expected {e}");
    }
}
