//! Softmax and its logarithm over one row: for log-probabilities and losses of single rows.
//!
//! ```text
//!   log p[i] = x[i] - max - log(sum over j of e^(x[j] - max))
//! ```
//!
//! The gradient of a log-probability is in [`super::cross_entropy`], which is this with many rows.

use crate::simd::{Isa, Kernel, LANES, dispatch, math};

/// `max + log(sum of e^(x - max))` of a row, which makes `log p[i] = x[i] - log_sum_exp(x)`. -inf for an empty row;
/// NaN if any element is.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    dispatch(LogSumExp(x))
}

struct LogSumExp<'a>(&'a [f32]);

impl Kernel for LogSumExp<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f32 {
        Normaliser::of(isa, self.0).log_sum_exp()
    }
}

/// What makes weights of a row: `p[i] = e^(x[i] - largest) / sum`.
#[derive(Clone, Copy)]
pub(super) struct Normaliser {
    pub largest: f32,
    pub sum: f32,
}

impl Normaliser {
    /// Two passes over the row, in one order.
    #[inline(always)]
    pub fn of<I: Isa>(isa: I, x: &[f32]) -> Normaliser {
        let mut largest = isa.splat(f32::NEG_INFINITY);
        for x in x.chunks(LANES) {
            largest = isa.max(largest, isa.load_slice(x, f32::NEG_INFINITY));
        }
        let largest = isa.largest(largest);
        if largest == f32::NEG_INFINITY {
            // A maximum may pass over NaN.
            let sum = if x.iter().any(|x| x.is_nan()) { f32::NAN } else { 0.0 };
            return Normaliser { largest, sum };
        }
        let mut sum = isa.zero();
        for x in x.chunks(LANES) {
            let x = isa.sub(isa.load_slice(x, f32::NEG_INFINITY), isa.splat(largest));
            sum = isa.add(sum, math::exp(isa, x));
        }
        Normaliser { largest, sum: isa.sum(sum) }
    }

    #[inline(always)]
    pub fn log_sum_exp(self) -> f32 {
        self.largest + self.sum.ln()
    }
}

/// The formula, in f64.
pub fn reference(x: &[f64]) -> f64 {
    let largest = x.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(x));
    largest + x.iter().map(|&x| (x - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{lengths, normal, wide};
    use crate::simd::{IsaKind, dispatch_to};

    #[test]
    fn matches_the_reference() {
        for len in lengths().chain([50257]) {
            let x: Vec<f32> = normal(len, 1).iter().map(|x| x * 10.0).collect();
            let want = reference(&wide(&x));
            for kind in IsaKind::available() {
                let got = f64::from(dispatch_to(kind, LogSumExp(&x)));
                assert!(
                    (got - want).abs() < 4e-6 * want.abs().max(1.0),
                    "{} {len}: {got} {want}",
                    kind.name()
                );
            }
        }
    }

    #[test]
    fn edges() {
        const NONE: f32 = f32::NEG_INFINITY;
        for kind in IsaKind::available() {
            let of = |x: &[f32]| dispatch_to(kind, LogSumExp(x));
            assert_eq!(of(&[]), NONE);
            assert_eq!(of(&[NONE; 40]), NONE);
            assert_eq!(of(&[NONE, 3.0]), 3.0);
            assert_eq!(of(&[3e38, -3e38]), 3e38);
            let nan = f32::NAN;
            for x in [&[1.0, nan][..], &[nan, 1.0], &[nan], &[nan, NONE], &[nan; 50], &[f32::INFINITY, nan]] {
                assert!(of(x).is_nan(), "{} {x:?}: {}", kind.name(), of(x));
            }
        }
    }
}
