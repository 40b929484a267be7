//! The activations of the MLP.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{
    from_f32,
    mlp::{Mlp, SoftCap},
    to_f32,
};
use wootz_kernels::ops::mlp::{Activation, reference, reference_backward};

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "mlp_activate" => activate(gpu),
        "mlp_activate_backward" => activate_backward(gpu),
        "mlp_gated" => gated(gpu),
        "mlp_gated_backward" => gated_backward(gpu),
        "mlp_soft_cap" => soft_cap(gpu),
        _ => return None,
    })
}

/// Where an exponential or a power could overflow.
const EDGES: [f32; 18] = [
    0.0, -0.0, 1e-20, 1.0, -1.0, 11.9, -11.9, 12.1, -12.1, 30.0, -30.0, 87.0, -89.0, 104.5, -1e4, 1e4, 1e30,
    -1e30,
];

/// Counts with x: numbers in [-9, 9), and the edges.
fn inputs() -> Vec<Vec<f32>> {
    let mut counts = sizes();
    counts.extend([1000, 65_537]);
    let mut all: Vec<Vec<f32>> =
        counts.into_iter().map(|count| numbers(count, 1).iter().map(|x| 9.0 * x).collect()).collect();
    all.push(EDGES.to_vec());
    all
}

/// More elements than a grid dimension has groups for.
const MANY: usize = 256 * 65_535 + 300;

fn each(test: impl Fn(Activation, &[f32])) -> usize {
    let inputs = inputs();
    for x in &inputs {
        test(Activation::Gelu, x);
        test(Activation::Silu, x);
    }
    2 * inputs.len()
}

/// a(x) and a'(x), with the error that f32 may make: WGSL allows e^-|z| an error of 3 + 2 |z| units in the last
/// place, and z of GELU is rounded five times before. A relative error of the exponential is one of the sigmoid
/// s times 1 - s.
fn truth(activation: Activation, x: f32) -> [Near; 2] {
    let x = f64::from(x);
    let (z, slope, rounded) = match activation {
        Activation::Gelu => {
            let (near, root) = (x.clamp(-12.0, 12.0), 2.0 * (2.0 / std::f64::consts::PI).sqrt());
            let slope = root * (1.0 + 3.0 * 0.044715 * near * near);
            (root * (near + 0.044715 * near.powi(3)), slope, 6.0)
        }
        Activation::Silu => (x.clamp(-104.0, 104.0), 1.0, 0.0),
    };
    let (s, rest) = (1.0 / (1.0 + (-z).exp()), 1.0 / (1.0 + z.exp()));
    let exponential = (2.0 * (3.0 + 2.0 * z.abs()) + rounded * z.abs()) * ULP;
    let (value, derivative) = (reference(activation, x), reference_backward(activation, x));
    let curved = if s * rest == 0.0 { 0.0 } else { (x * s * rest * slope).abs() };
    // The reference takes 1 + tanh of GELU, which has its own rounding, in f64.
    let of_reference = 1e-15 * (1.0 + x.abs().min(12.0) * slope);
    [
        Near(value, value.abs() * (rest * exponential + 10.0 * ULP) + of_reference),
        Near(
            derivative,
            s * (rest * exponential + 10.0 * ULP) + curved * (exponential + 26.0 * ULP) + of_reference,
        ),
    ]
}

/// Times `factor`: one or two roundings.
fn times(Near(value, tolerance): Near, factor: f64) -> Near {
    Near(value * factor, (tolerance + value.abs() * 3.0 * ULP) * factor.abs())
}

/// A buffer of garbage, to be assigned.
fn garbage<G: Gpu>(gpu: &G, count: usize) -> G::Buffer {
    from_f32(gpu, &numbers(count, 9)).unwrap()
}

fn activate<G: Gpu>(gpu: &G) -> usize {
    let run = |op: Mlp, x: &[f32]| {
        let h = garbage(gpu, op.count);
        op.activate(gpu, &from_f32(gpu, x).unwrap(), &h).unwrap();
        to_f32(gpu, &h).unwrap()
    };
    let cases = each(|activation, x| {
        let op = Mlp { count: x.len(), activation };
        let h = run(op, x);
        let expected: Vec<Near> = x.iter().map(|&x| truth(activation, x)[0]).collect();
        check(&format!("mlp_activate {op:?}"), &h, &expected);
        let last = x.len() - 1;
        let alone = run(Mlp { count: 1, activation }, &x[last..]);
        assert_eq!(alone[0].to_bits(), h[last].to_bits(), "{op:?}: the last element alone has other bits");
    });

    let none = gpu.alloc(0).unwrap();
    Mlp { count: 0, activation: Activation::Silu }.activate(gpu, &none, &none).unwrap();
    // The same few numbers again and again, so that little is to be computed here.
    let few: Vec<f32> = numbers(1000, 1).iter().map(|x| 9.0 * x).collect();
    let x: Vec<f32> = few.iter().copied().cycle().take(MANY).collect();
    let op = Mlp { count: MANY, activation: Activation::Gelu };
    let (h, first) = (run(op, &x), run(Mlp { count: 1000, ..op }, &few));
    assert!(h.iter().zip(first.iter().cycle()).all(|(a, b)| a.to_bits() == b.to_bits()), "{op:?}");
    cases + 1
}

fn activate_backward<G: Gpu>(gpu: &G) -> usize {
    each(|activation, x| {
        let op = Mlp { count: x.len(), activation };
        let dh = numbers(op.count, 2);
        let dx = garbage(gpu, op.count);
        let [x_, dh_] = [x, &dh].map(|v| from_f32(gpu, v).unwrap());
        op.activate_backward(gpu, &x_, &dh_, &dx).unwrap();
        let expected: Vec<Near> =
            x.iter().zip(wide(&dh)).map(|(&x, dh)| times(truth(activation, x)[1], dh)).collect();
        check(&format!("mlp_activate_backward {op:?}"), &to_f32(gpu, &dx).unwrap(), &expected);
    })
}

fn gated<G: Gpu>(gpu: &G) -> usize {
    each(|activation, gate| {
        let op = Mlp { count: gate.len(), activation };
        let up = numbers(op.count, 3);
        let h = garbage(gpu, op.count);
        let [gate_, up_] = [gate, &up].map(|v| from_f32(gpu, v).unwrap());
        op.gated(gpu, &gate_, &up_, &h).unwrap();
        let expected: Vec<Near> =
            gate.iter().zip(wide(&up)).map(|(&gate, up)| times(truth(activation, gate)[0], up)).collect();
        check(&format!("mlp_gated {op:?}"), &to_f32(gpu, &h).unwrap(), &expected);
    })
}

fn gated_backward<G: Gpu>(gpu: &G) -> usize {
    each(|activation, gate| {
        let op = Mlp { count: gate.len(), activation };
        let (dh, up) = (numbers(op.count, 2), numbers(op.count, 3));
        let [gate_, up_, dh_] = [gate, &up, &dh].map(|v| from_f32(gpu, v).unwrap());
        let (dgate, dup) = (garbage(gpu, op.count), garbage(gpu, op.count));
        op.gated_backward(gpu, &gate_, &up_, &dh_, &dgate, &dup).unwrap();
        let (mut for_gate, mut for_up) = (Vec::new(), Vec::new());
        for ((&gate, up), dh) in gate.iter().zip(wide(&up)).zip(wide(&dh)) {
            let [value, derivative] = truth(activation, gate);
            for_gate.push(times(derivative, up * dh));
            for_up.push(times(value, dh));
        }
        check(&format!("mlp_gated_backward dgate {op:?}"), &to_f32(gpu, &dgate).unwrap(), &for_gate);
        check(&format!("mlp_gated_backward dup {op:?}"), &to_f32(gpu, &dup).unwrap(), &for_up);
    })
}

fn soft_cap<G: Gpu>(gpu: &G) -> usize {
    let inputs = inputs();
    for (case, x) in inputs.iter().enumerate() {
        let cap = [30.0, 50.0, 2.5][case % 3];
        let logits = from_f32(gpu, x).unwrap();
        SoftCap { count: x.len(), cap }.forward(gpu, &logits).unwrap();
        let cap_ = f64::from(cap);
        let expected: Vec<Near> = wide(x)
            .iter()
            .map(|x| {
                // The quotient is rounded to 2.5 units, e^-2t to 3 + 2 |2t|; 1 - e has one rounding of 1.
                let t = (x / cap_).abs();
                let e = (-2.0 * t).exp();
                let of_e = if e == 0.0 { 0.0 } else { e * (2.0 * (3.0 + 4.0 * t) + 10.0 * t) };
                let tolerance = (2.0 * of_e + 1.0 + 10.0 * t.tanh()) * ULP;
                Near(cap_ * (x / cap_).tanh(), cap_ * tolerance)
            })
            .collect();
        check(&format!("mlp_soft_cap {cap} of {}", x.len()), &to_f32(gpu, &logits).unwrap(), &expected);
    }
    inputs.len()
}
