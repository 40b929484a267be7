//! DoRA.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{dora::Dora, from_f32, to_f32};
use wootz_kernels::ops::Write;

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "dora_gains" => gains(gpu),
        "dora_forward" => forward(gpu),
        "dora_backward" => backward(gpu),
        "dora_magnitude_gradient" => magnitude_gradient(gpu),
        _ => return None,
    })
}

fn shapes() -> Vec<Dora> {
    let mut all: Vec<Dora> = sizes()
        .into_iter()
        .flat_map(|size| [Dora { rows: 3, n: size }, Dora { rows: size, n: 37 }])
        .collect();
    all.extend([Dora { rows: 70_000, n: 3 }, Dora { rows: 9, n: 5003 }]);
    all
}

/// Lengths: positive, and not small.
fn lengths(n: usize) -> Vec<f32> {
    numbers(n, 8).iter().map(|x| x.abs() + 0.5).collect()
}

fn gains<G: Gpu>(gpu: &G) -> usize {
    for op in shapes() {
        let (m, lengths, out) = (numbers(op.n, 1), lengths(op.n), from_f32(gpu, &numbers(op.n, 2)).unwrap());
        op.gains(gpu, &from_f32(gpu, &m).unwrap(), &from_f32(gpu, &lengths).unwrap(), &out).unwrap();
        let quotient = |(m, length): (&f32, &f32)| f64::from(*m) / f64::from(*length);
        let near: Vec<Near> =
            m.iter().zip(&lengths).map(quotient).map(|gain| Near(gain, 6.0 * ULP * gain.abs())).collect();
        check(&format!("gains {op:?}"), &to_f32(gpu, &out).unwrap(), &near);
    }
    shapes().len()
}

fn forward<G: Gpu>(gpu: &G) -> usize {
    for op in shapes() {
        let (y, gains, bias) = (numbers(op.rows * op.n, 1), numbers(op.n, 2), numbers(op.n, 3));
        let [gains_, bias_] = [&gains, &bias].map(|x| from_f32(gpu, x).unwrap());
        for with_bias in [false, true] {
            let y_ = from_f32(gpu, &y).unwrap();
            op.forward(gpu, &gains_, with_bias.then_some(&bias_), &y_).unwrap();
            let near: Vec<Near> = (y.iter().enumerate())
                .map(|(i, &y)| {
                    let (y, gain) = (f64::from(y), f64::from(gains[i % op.n]));
                    let bias = if with_bias { f64::from(bias[i % op.n]) } else { 0.0 };
                    let size = gain.abs() * (y - bias).abs();
                    Near(gain * (y - bias) + bias, 4.0 * ULP * (size + bias.abs()))
                })
                .collect();
            check(&format!("y {op:?}, bias: {with_bias}"), &to_f32(gpu, &y_).unwrap(), &near);
        }
    }
    let some = gpu.alloc(16).unwrap();
    assert!(Dora { rows: 2, n: 3 }.forward(gpu, &some, None, &some).is_err());
    Dora { rows: 0, n: 3 }.forward(gpu, &some, None, &some).unwrap();
    shapes().len()
}

fn backward<G: Gpu>(gpu: &G) -> usize {
    for op in shapes() {
        let (dy, gains) = (numbers(op.rows * op.n, 1), numbers(op.n, 2));
        let dv = from_f32(gpu, &numbers(op.rows * op.n, 3)).unwrap();
        op.backward(gpu, &from_f32(gpu, &gains).unwrap(), &from_f32(gpu, &dy).unwrap(), &dv).unwrap();
        let want: Vec<f32> = dy.iter().enumerate().map(|(i, dy)| dy * gains[i % op.n]).collect();
        assert_eq!(to_f32(gpu, &dv).unwrap(), want, "{op:?}"); // one rounding, as exact on every device
    }
    shapes().len()
}

fn magnitude_gradient<G: Gpu>(gpu: &G) -> usize {
    for op in shapes() {
        let (dy, v) = (numbers(op.rows * op.n, 1), numbers(op.rows * op.n, 2));
        let (lengths, before) = (lengths(op.n), numbers(op.n, 3));
        let [dy_, v_, lengths_] = [&dy, &v, &lengths].map(|x| from_f32(gpu, x).unwrap());
        for write in [Write::Set, Write::Add] {
            let dm = from_f32(gpu, &before).unwrap();
            op.magnitude_gradient(gpu, &lengths_, [&dy_, &v_], &dm, write).unwrap();
            let near: Vec<Near> = (0..op.n)
                .map(|c| {
                    let (mut sum, mut size) = (0.0, 0.0);
                    for row in 0..op.rows {
                        let i = row * op.n + c;
                        let term = f64::from(dy[i]) * f64::from(v[i]) / f64::from(lengths[c]);
                        sum += term;
                        size += term.abs();
                    }
                    // Each term has a product and a quotient; each of 8 threads adds up its share of the terms.
                    let rounding = (8.0 + (op.rows as f64 / 8.0).sqrt() * 2.0) * ULP * size;
                    match write {
                        Write::Set => Near(sum, rounding),
                        Write::Add => {
                            let before = f64::from(before[c]);
                            Near(before + sum, rounding + 2.0 * ULP * (before.abs() + sum.abs()))
                        }
                    }
                })
                .collect();
            check(&format!("dm {op:?}, {write:?}"), &to_f32(gpu, &dm).unwrap(), &near);
        }
    }
    let (dm, some) = (from_f32(gpu, &[3.0; 4]).unwrap(), gpu.alloc(16).unwrap());
    let none = Dora { rows: 0, n: 4 };
    none.magnitude_gradient(gpu, &some, [&some, &some], &dm, Write::Add).unwrap();
    assert_eq!(to_f32(gpu, &dm).unwrap(), [3.0; 4]);
    none.magnitude_gradient(gpu, &some, [&some, &some], &dm, Write::Set).unwrap();
    assert_eq!(to_f32(gpu, &dm).unwrap(), [0.0; 4]);
    shapes().len()
}
