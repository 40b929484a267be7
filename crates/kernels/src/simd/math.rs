//! Elementary functions on vectors, out of [`Isa`]'s operations.

use super::Isa;

/// `e^x`, to 2 units in the last place; exactly 0 below -87.7 (so a masked score of -inf weighs nothing), constant
/// above 88.3; NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, ln 2 in two parts so that `r` is exact (Cody and Waite);
/// `e^r` by its Taylor polynomial of degree 7, whose remainder there is below 1e-8; times `2^n`.
#[inline(always)]
pub fn exp<I: Isa>(isa: I, x: I::F) -> I::F {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // At the lower bound n = -127, for which `exp2i` is 0. The bounds come first, so that NaN passes.
    let x = isa.min(isa.splat(88.3), isa.max(isa.splat(-88.1), x));
    let n = isa.round(isa.mul(x, isa.splat(std::f32::consts::LOG2_E)));
    let r = isa.fnma(n, isa.splat(LN2_LOW), isa.fnma(n, isa.splat(LN2_HIGH), x));
    let mut p = isa.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = isa.fma(p, r, isa.splat(c));
    }
    isa.mul(p, isa.exp2i(n))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<I: Isa>(isa: I, x: I::F) -> I::F {
    let one = isa.splat(1.0);
    isa.div(one, isa.add(one, exp(isa, isa.sub(isa.zero(), x))))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub fn silu<I: Isa>(isa: I, x: I::F) -> I::F {
    isa.mul(x, sigmoid(isa, x))
}

/// GELU in the tanh form: `x/2 (1 + tanh(u))` with `u = sqrt(2/pi) (x + 0.044715 x³)`, which is `x sigmoid(2u)`.
#[inline(always)]
pub fn gelu<I: Isa>(isa: I, x: I::F) -> I::F {
    const TWICE_ROOT_2_OVER_PI: f32 = 1.595_769;
    let inner = isa.fma(isa.mul(isa.mul(x, x), x), isa.splat(0.044_715), x);
    isa.mul(x, sigmoid(isa, isa.mul(inner, isa.splat(TWICE_ROOT_2_OVER_PI))))
}

/// `tanh(x) = 2 sigmoid(2x) - 1`; absolute error below 2e-7.
#[inline(always)]
pub fn tanh<I: Isa>(isa: I, x: I::F) -> I::F {
    let two = isa.splat(2.0);
    isa.sub(isa.mul(two, sigmoid(isa, isa.mul(two, x))), isa.splat(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{IsaKind, Kernel, LANES, dispatch_to};

    struct Apply([f32; LANES], usize);
    impl Kernel for Apply {
        type Output = [f32; LANES];
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> [f32; LANES] {
            let x = isa.load_slice(&self.0, 0.0);
            let y = match self.1 {
                0 => exp(isa, x),
                1 => silu(isa, x),
                2 => gelu(isa, x),
                _ => tanh(isa, x),
            };
            let mut out = [0.0; LANES];
            isa.store_slice(&mut out, y);
            out
        }
    }

    #[test]
    fn functions_match_f64() {
        let truth: [fn(f64) -> f64; 4] = [
            f64::exp,
            |x| x / (1.0 + (-x).exp()),
            |x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
            f64::tanh,
        ];
        for kind in IsaKind::available() {
            for (which, f) in truth.iter().enumerate() {
                for step in 0..2000 {
                    let x: [f32; LANES] =
                        std::array::from_fn(|i| (step * 32 + i as i32) as f32 * 0.0027 - 86.0);
                    let y = dispatch_to(kind, Apply(x, which));
                    for (x, y) in x.iter().zip(y) {
                        let want = f(f64::from(*x));
                        let error = (f64::from(y) - want).abs() / want.abs().max(1.0);
                        let bound = if which == 0 { 3e-7 * want.max(1e-30) / want.max(1.0) } else { 6e-7 };
                        assert!(error <= bound, "{} {which}: f({x}) = {y}, expected {want}", kind.name());
                    }
                }
            }
        }
    }

    #[test]
    fn exp_at_the_edges() {
        for kind in IsaKind::available() {
            let at = |x| dispatch_to(kind, Apply([x; LANES], 0))[7];
            assert_eq!(at(f32::NEG_INFINITY).to_bits(), 0);
            assert_eq!(at(-1e30).to_bits(), 0);
            assert!(at(f32::INFINITY) > 2e38 && at(f32::INFINITY).is_finite());
            assert!(at(f32::NAN).is_nan(), "{}", kind.name());
            assert_eq!(at(0.0), 1.0);
        }
    }
}
