//! Softmax and its logarithm over one row: for log-probabilities and losses of single rows.
//!
//! ```text
//!   log p[i] = x[i] - max - log(sum over j of e^(x[j] - max))
//! ```

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
        let mut largest = isa.splat(f32::NEG_INFINITY);
        for x in self.0.chunks(LANES) {
            largest = isa.max(largest, isa.load_slice(x, f32::NEG_INFINITY));
        }
        let largest = isa.largest(largest);
        if largest == f32::NEG_INFINITY {
            return largest;
        }
        let mut sum = isa.zero();
        for x in self.0.chunks(LANES) {
            let x = isa.sub(isa.load_slice(x, f32::NEG_INFINITY), isa.splat(largest));
            sum = isa.add(sum, math::exp(isa, x));
        }
        largest + isa.sum(sum).ln()
    }
}

/// The formula, in f64.
pub fn reference(x: &[f32]) -> f64 {
    let largest = x.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(f64::from(x)));
    largest + x.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::simd::{IsaKind, dispatch_to};

    #[test]
    fn matches_the_reference() {
        let mut rng = Rng::new(1, 0);
        for len in (1..34).chain([64, 1000, 50257]) {
            let x: Vec<f32> = (0..len).map(|_| rng.normal() * 10.0).collect();
            let want = reference(&x);
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
        assert_eq!(log_sum_exp(&[]), f32::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY, 3.0]), 3.0);
        assert!(log_sum_exp(&[1.0, f32::NAN]).is_nan());
    }
}
