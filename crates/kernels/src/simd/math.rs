//! Elementary functions on vectors, out of [`Isa`]'s operations.

use super::Isa;

/// 2 sqrt(2/pi).
const TWICE_ROOT_2_OVER_PI: f32 = 1.595_769;

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
    let inner = isa.fma(isa.mul(isa.mul(x, x), x), isa.splat(0.044_715), x);
    isa.mul(x, sigmoid(isa, isa.mul(inner, isa.splat(TWICE_ROOT_2_OVER_PI))))
}

/// [`silu`] and its derivative: with `s = sigmoid(x)`, whose derivative is `s (1 - s)`, that is `s + x s (1 - s)`.
#[inline(always)]
pub fn silu_with_derivative<I: Isa>(isa: I, x: I::F) -> (I::F, I::F) {
    // Beyond it the derivative is 0 or 1 to the last place, and products with x could only overflow.
    let near = clamp(isa, x, 104.0);
    let (s, rest) = sigmoid_with_rest(isa, near);
    (isa.mul(x, s), isa.fma(isa.mul(near, s), rest, s))
}

/// [`gelu`] and its derivative: `x s` with `s = sigmoid(2u)` gives `s + x s (1 - s) 2u'`, where
/// `2u' = 2 sqrt(2/pi) (1 + 3 · 0.044715 x²)`.
#[inline(always)]
pub fn gelu_with_derivative<I: Isa>(isa: I, x: I::F) -> (I::F, I::F) {
    // As in `silu_with_derivative`: e^-2u is 1e-62 at 12.
    let near = clamp(isa, x, 12.0);
    let square = isa.mul(near, near);
    let inner = isa.fma(isa.mul(square, near), isa.splat(0.044_715), near);
    let (s, rest) = sigmoid_with_rest(isa, isa.mul(inner, isa.splat(TWICE_ROOT_2_OVER_PI)));
    let slope =
        isa.fma(square, isa.splat(3.0 * 0.044_715 * TWICE_ROOT_2_OVER_PI), isa.splat(TWICE_ROOT_2_OVER_PI));
    (isa.mul(x, s), isa.fma(isa.mul(isa.mul(near, s), rest), slope, s))
}

/// x within ±limit; NaN stays NaN.
#[inline(always)]
fn clamp<I: Isa>(isa: I, x: I::F, limit: f32) -> I::F {
    isa.min(isa.splat(limit), isa.max(isa.splat(-limit), x))
}

/// `s = sigmoid(x)`, and `1 - s` as `e^-x s`, which loses nothing where s is close to 1.
#[inline(always)]
fn sigmoid_with_rest<I: Isa>(isa: I, x: I::F) -> (I::F, I::F) {
    let one = isa.splat(1.0);
    let e = exp(isa, isa.sub(isa.zero(), x));
    let s = isa.div(one, isa.add(one, e));
    (s, isa.mul(e, s))
}

/// `cap · tanh(x / cap)`.
#[inline(always)]
pub fn soft_cap<I: Isa>(isa: I, cap: f32, x: I::F) -> I::F {
    isa.mul(tanh(isa, isa.mul(x, isa.splat(1.0 / cap))), isa.splat(cap))
}

/// The derivative of [`soft_cap`] from its *result* `y`, for tanh' = 1 - tanh²: `1 - (y / cap)²`.
#[inline(always)]
pub fn soft_cap_derivative<I: Isa>(isa: I, cap: f32, y: I::F) -> I::F {
    let t = isa.mul(y, isa.splat(1.0 / cap));
    isa.fnma(t, t, isa.splat(1.0))
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
                3 => tanh(isa, x),
                4 => silu_with_derivative(isa, x).1,
                5 => gelu_with_derivative(isa, x).1,
                6 => silu_with_derivative(isa, x).0,
                7 => gelu_with_derivative(isa, x).0,
                _ => soft_cap_derivative(isa, 30.0, soft_cap(isa, 30.0, x)),
            };
            let mut out = [0.0; LANES];
            isa.store_slice(&mut out, y);
            out
        }
    }

    #[test]
    fn functions_match_f64() {
        fn u(x: f64) -> f64 {
            (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))
        }
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gelu = |x: f64| 0.5 * x * (1.0 + u(x).tanh());
        let truth: [fn(f64) -> f64; 9] = [
            f64::exp,
            silu,
            gelu,
            f64::tanh,
            |x| (1.0 + x - x / (1.0 + (-x).exp())) / (1.0 + (-x).exp()),
            |x| {
                let slope = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
                0.5 * (1.0 + u(x).tanh()) + 0.5 * x * slope / u(x).cosh().powi(2)
            },
            silu,
            gelu,
            |x| (x / 30.0).cosh().powi(-2),
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
    fn derivatives_at_the_edges() {
        for kind in IsaKind::available() {
            for which in [4, 5] {
                let at = |x| dispatch_to(kind, Apply([x; LANES], which))[7];
                for large in [f32::INFINITY, 1e30, 1e4] {
                    assert_eq!(at(large), 1.0, "{} {which}", kind.name());
                    assert!(at(-large).abs() < 1e-35, "{} {which}: {}", kind.name(), at(-large));
                }
                assert_eq!(at(0.0), 0.5);
                assert!(at(f32::NAN).is_nan(), "{} {which}", kind.name());
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
