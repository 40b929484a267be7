//! The activations of the MLP.
//!
//! ```text
//!   gelu    x ← x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x³)))      GPT-2 (Hendrycks and Gimpel 2016, tanh form)
//!   swiglu  gate ← silu(gate) · up,  silu(x) = x / (1 + e^-x)      Llama (Shazeer 2020)
//!   geglu   gate ← gelu(gate) · up                                 Gemma
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

/// `x ← activation(x)`.
pub fn activate(pool: &Pool, activation: Activation, x: &mut [f32]) {
    let len = x.len();
    let x = Shares::new(x);
    for_rows(pool, len, 1, |range| {
        // SAFETY: a task writes its own range.
        dispatch(Gated { activation, gate: unsafe { x.get(range) }, up: None });
    });
}

/// `gate ← activation(gate) · up`. Panics when sizes differ.
pub fn gated(pool: &Pool, activation: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "sizes of gate and up");
    let len = up.len();
    let gate = Shares::new(gate);
    for_rows(pool, len, 1, |range| {
        // SAFETY: a task writes its own range.
        let part = unsafe { gate.get(range.clone()) };
        dispatch(Gated { activation, gate: part, up: Some(&up[range]) });
    });
}

/// `x ← cap · tanh(x / cap)`: keeps logits within ±cap (Gemma 2).
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
            let scaled = isa.mul(isa.load_slice(x, 0.0), isa.splat(1.0 / self.cap));
            isa.store_slice(x, isa.mul(math::tanh(isa, scaled), isa.splat(self.cap)));
        }
    }
}

struct Gated<'a> {
    activation: Activation,
    gate: &'a mut [f32],
    up: Option<&'a [f32]>,
}

impl Kernel for Gated<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (i, gate) in self.gate.chunks_mut(LANES).enumerate() {
            let x = isa.load_slice(gate, 0.0);
            let mut y = match self.activation {
                Activation::Gelu => math::gelu(isa, x),
                Activation::Silu => math::silu(isa, x),
            };
            if let Some(up) = self.up {
                y = isa.mul(y, isa.load_slice(&up[i * LANES..up.len().min((i + 1) * LANES)], 0.0));
            }
            isa.store_slice(gate, y);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::simd::{IsaKind, dispatch_to};

    #[test]
    fn matches_the_reference() {
        let mut rng = Rng::new(1, 0);
        for len in (1..34).chain([64, 1000]) {
            let x: Vec<f32> = (0..len).map(|_| rng.normal() * 4.0).collect();
            let up: Vec<f32> = (0..len).map(|_| rng.normal()).collect();
            for activation in [Activation::Gelu, Activation::Silu] {
                for kind in IsaKind::available() {
                    for gate in [None, Some(&up[..])] {
                        let mut y = x.clone();
                        dispatch_to(kind, Gated { activation, gate: &mut y, up: gate });
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
    fn large_inputs_stay_finite() {
        for activation in [Activation::Gelu, Activation::Silu] {
            let mut x = vec![-1e4, -100.0, 100.0, 1e4];
            activate(&Pool::new(1), activation, &mut x);
            assert!(x[0].abs() < 1e-30 && x[1].abs() < 1e-30 && x[2..] == [100.0, 1e4], "{x:?}");
        }
    }
}
