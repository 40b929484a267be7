//! The activations of the MLP.
//!
//! ```text
//!   gelu    h = a(x)           a(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x³)))   GPT-2 (Hendrycks and Gimpel 2016)
//!   swiglu  h = a(gate) · up   a(x) = silu(x) = x / (1 + e^-x)                       Llama (Shazeer 2020)
//!   geglu   h = a(gate) · up   a = gelu                                              Gemma
//! ```
//!
//! While generating, h is written over x or gate. Training keeps them, for backward needs them:
//!
//! ```text
//!   dx    = dh · a'(x)
//!   dgate = dh · up · a'(gate)       dup = dh · a(gate)
//! ```
//!
//! Both activations are x times a sigmoid σ, whose derivative is σ (1 - σ); with that, and the product rule:
//!
//! ```text
//!   silu   x σ(x)                a' = σ + x σ (1 - σ)
//!   gelu   x σ(2u), u as above   a' = σ + x σ (1 - σ) 2u',   u' = sqrt(2/pi) (1 + 3 · 0.044715 x²)
//! ```

use super::rows::for_rows;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch, math};

/// Which activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU, in its tanh form.
    Gelu,
    /// `x · sigmoid(x)`.
    Silu,
}

impl Activation {
    #[inline(always)]
    fn apply<I: Isa>(self, isa: I, x: I::F) -> I::F {
        match self {
            Activation::Gelu => math::gelu(isa, x),
            Activation::Silu => math::silu(isa, x),
        }
    }

    /// The value, and the derivative.
    #[inline(always)]
    fn apply_with_derivative<I: Isa>(self, isa: I, x: I::F) -> (I::F, I::F) {
        match self {
            Activation::Gelu => math::gelu_with_derivative(isa, x),
            Activation::Silu => math::silu_with_derivative(isa, x),
        }
    }
}

/// `x ← activation(x)`.
pub fn activate(pool: &Pool, activation: Activation, x: &mut [f32]) {
    let len = x.len();
    let x = Shares::new(x);
    for_rows(pool, len, 1, |range| {
        // SAFETY: a task writes its own range.
        dispatch(Forward { activation, x: None, up: None, h: unsafe { x.get(range) } });
    });
}

/// `h = activation(x)`, with the bits of [`activate`]. Panics when sizes differ.
pub fn activate_into(pool: &Pool, activation: Activation, x: &[f32], h: &mut [f32]) {
    assert_eq!(x.len(), h.len(), "sizes of x and h");
    let h = Shares::new(h);
    for_rows(pool, x.len(), 1, |range| {
        // SAFETY: a task writes its own range.
        let h = unsafe { h.get(range.clone()) };
        dispatch(Forward { activation, x: Some(&x[range]), up: None, h });
    });
}

/// `gate ← activation(gate) · up`. Panics when sizes differ.
pub fn gated(pool: &Pool, activation: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "sizes of gate and up");
    let gate = Shares::new(gate);
    for_rows(pool, up.len(), 1, |range| {
        // SAFETY: a task writes its own range.
        let h = unsafe { gate.get(range.clone()) };
        dispatch(Forward { activation, x: None, up: Some(&up[range]), h });
    });
}

/// `h = activation(gate) · up`, with the bits of [`gated`]. Panics when sizes differ.
pub fn gated_into(pool: &Pool, activation: Activation, gate: &[f32], up: &[f32], h: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == h.len(), "sizes of gate, up and h");
    let h = Shares::new(h);
    for_rows(pool, up.len(), 1, |range| {
        // SAFETY: a task writes its own range.
        let h = unsafe { h.get(range.clone()) };
        dispatch(Forward { activation, x: Some(&gate[range.clone()]), up: Some(&up[range]), h });
    });
}

/// `dx = dh · activation'(x)`: dx is set. Panics when sizes differ.
pub fn activate_backward(pool: &Pool, activation: Activation, x: &[f32], dh: &[f32], dx: &mut [f32]) {
    assert!(x.len() == dh.len() && x.len() == dx.len(), "sizes of x, dh and dx");
    let dx = Shares::new(dx);
    for_rows(pool, x.len(), 1, |range| {
        // SAFETY: a task writes its own range.
        let dx = unsafe { dx.get(range.clone()) };
        dispatch(Backward { activation, x: &x[range.clone()], dh: &dh[range], dx, gated: None });
    });
}

/// `dgate = dh · up · activation'(gate)` and `dup = dh · activation(gate)`: both are set. Panics when sizes differ.
pub fn gated_backward(
    pool: &Pool,
    activation: Activation,
    gate: &[f32],
    up: &[f32],
    dh: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    let len = gate.len();
    let others = [up.len(), dh.len(), dgate.len(), dup.len()];
    assert_eq!(others, [len; 4], "sizes of up, dh, dgate and dup, and of gate");
    let (dgate, dup) = (Shares::new(dgate), Shares::new(dup));
    for_rows(pool, len, 1, |range| {
        // SAFETY: a task writes its own range.
        let (dx, dup) = unsafe { (dgate.get(range.clone()), dup.get(range.clone())) };
        let gated = Some((&up[range.clone()], dup));
        dispatch(Backward { activation, x: &gate[range.clone()], dh: &dh[range], dx, gated });
    });
}

/// `x ← cap · tanh(x / cap)`: keeps logits within ±cap (Gemma 2). Its gradient is part of [`super::cross_entropy`].
pub fn soft_cap(pool: &Pool, cap: f32, x: &mut [f32]) {
    let len = x.len();
    let x = Shares::new(x);
    for_rows(pool, len, 1, |range| {
        // SAFETY: a task writes its own range.
        dispatch(SoftCap { cap, x: unsafe { x.get(range) } });
    });
}

struct SoftCap<'a> {
    cap: f32,
    x: &'a mut [f32],
}

impl Kernel for SoftCap<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for x in self.x.chunks_mut(LANES) {
            isa.store_slice(x, math::soft_cap(isa, self.cap, isa.load_slice(x, 0.0)));
        }
    }
}

struct Forward<'a> {
    activation: Activation,
    /// If `None`, what h holds.
    x: Option<&'a [f32]>,
    up: Option<&'a [f32]>,
    h: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (i, h) in self.h.chunks_mut(LANES).enumerate() {
            let range = i * LANES..i * LANES + h.len();
            let x = self.x.map_or(&*h, |x| &x[range.clone()]);
            let mut y = self.activation.apply(isa, isa.load_slice(x, 0.0));
            if let Some(up) = self.up {
                y = isa.mul(y, isa.load_slice(&up[range], 0.0));
            }
            isa.store_slice(h, y);
        }
    }
}

struct Backward<'a> {
    activation: Activation,
    x: &'a [f32],
    dh: &'a [f32],
    dx: &'a mut [f32],
    /// up and dup, where x is a gate.
    gated: Option<(&'a [f32], &'a mut [f32])>,
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let parts = self.x.chunks(LANES).zip(self.dh.chunks(LANES)).zip(self.dx.chunks_mut(LANES));
        for (i, ((x, dh), dx)) in parts.enumerate() {
            let range = i * LANES..i * LANES + x.len();
            let (a, derivative) = self.activation.apply_with_derivative(isa, isa.load_slice(x, 0.0));
            let mut d = isa.load_slice(dh, 0.0);
            if let Some((up, dup)) = &mut self.gated {
                isa.store_slice(&mut dup[range.clone()], isa.mul(d, a));
                d = isa.mul(d, isa.load_slice(&up[range], 0.0));
            }
            isa.store_slice(dx, isa.mul(d, derivative));
        }
    }
}

/// One value, in f64.
pub fn reference(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// The derivative at one value, in f64.
pub fn reference_backward(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let t = (root * (x + 0.044715 * x.powi(3))).tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x)
        }
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            s + x * s * (1.0 - s)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{assert_derivative, assert_near, differences, lengths, normal};
    use crate::simd::{IsaKind, dispatch_to};

    const ALL: [Activation; 2] = [Activation::Gelu, Activation::Silu];

    /// x or gate, up, and dh.
    fn inputs(len: usize) -> [Vec<f32>; 3] {
        [normal(len, 1).iter().map(|x| 4.0 * x).collect(), normal(len, 2), normal(len, 3)]
    }

    #[test]
    fn matches_the_reference() {
        for len in lengths() {
            let [x, up, _] = inputs(len);
            for activation in ALL {
                for kind in IsaKind::available() {
                    for gate in [None, Some(&up[..])] {
                        let mut y = x.clone();
                        dispatch_to(kind, Forward { activation, x: None, up: gate, h: &mut y });
                        let mut into = vec![f32::NAN; len];
                        dispatch_to(kind, Forward { activation, x: Some(&x), up: gate, h: &mut into });
                        assert_eq!(y, into, "in place and not");
                        for i in 0..len {
                            let factor = gate.map_or(1.0, |up| f64::from(up[i]));
                            let want = reference(activation, f64::from(x[i])) * factor;
                            let error = (f64::from(y[i]) - want).abs();
                            assert!(
                                error < 1e-6 * want.abs().max(1.0),
                                "{activation:?} {} {len}",
                                kind.name()
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn reference_derivatives_are_the_derivatives() {
        for activation in ALL {
            for x in (-60..60).map(|i| f64::from(i) * 0.1) {
                let by_differences = differences(&[x], |x| reference(activation, x[0]));
                assert_derivative("activation", &[reference_backward(activation, x)], &by_differences);
            }
        }
    }

    #[test]
    fn gradients_match_the_reference() {
        for len in lengths() {
            let [x, up, dh] = inputs(len);
            let wide = |i: usize| [x[i], up[i], dh[i]].map(f64::from);
            for activation in ALL {
                let derivative = |i: usize| reference_backward(activation, wide(i)[0]);
                let dx: Vec<f64> = (0..len).map(|i| wide(i)[2] * derivative(i)).collect();
                let dgate: Vec<f64> = (0..len).map(|i| wide(i)[2] * wide(i)[1] * derivative(i)).collect();
                let dup: Vec<f64> =
                    (0..len).map(|i| wide(i)[2] * reference(activation, wide(i)[0])).collect();
                for kind in IsaKind::available() {
                    let what = format!("{activation:?} {} {len}", kind.name());
                    let [mut plain, mut gate, mut other] = [(); 3].map(|()| vec![f32::NAN; len]);
                    let backward = Backward { activation, x: &x, dh: &dh, dx: &mut plain, gated: None };
                    dispatch_to(kind, backward);
                    assert_near(&what, &plain, &dx, 1e-6);
                    let gated = Some((&up[..], &mut other[..]));
                    dispatch_to(kind, Backward { activation, x: &x, dh: &dh, dx: &mut gate, gated });
                    assert_near(&what, &gate, &dgate, 1e-6);
                    assert_near(&what, &other, &dup, 1e-6);
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        let [x, up, dh] = inputs(30_001);
        for activation in ALL {
            let run = |threads| {
                let pool = Pool::new(threads);
                let mut out = [(); 5].map(|()| vec![0.0; x.len()]);
                let [h, gated_h, dx, dgate, dup] = &mut out;
                activate_into(&pool, activation, &x, h);
                gated_into(&pool, activation, &x, &up, gated_h);
                activate_backward(&pool, activation, &x, &dh, dx);
                gated_backward(&pool, activation, &x, &up, &dh, dgate, dup);
                out
            };
            let out = run(1);
            assert_eq!(out, run(3));
            let (mut h, mut gated_h) = (x.clone(), x.clone());
            activate(&Pool::new(2), activation, &mut h);
            gated(&Pool::new(2), activation, &mut gated_h, &up);
            assert_eq!([&h, &gated_h], [&out[0], &out[1]], "in place and not");
        }
    }

    #[test]
    fn large_inputs_stay_finite() {
        for activation in ALL {
            let mut x = vec![-1e4, -100.0, 100.0, 1e4];
            activate(&Pool::new(1), activation, &mut x);
            assert!(x[0].abs() < 1e-30 && x[1].abs() < 1e-30 && x[2..] == [100.0, 1e4], "{x:?}");
        }
    }
}
