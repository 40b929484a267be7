//! RMSNorm.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{from_f32, rmsnorm::RmsNorm, to_f32};

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "rmsnorm_forward" => rmsnorm_forward(gpu),
        "rmsnorm_backward" => rmsnorm_backward(gpu, Gradient::Input),
        "rmsnorm_backward_weight" => rmsnorm_backward(gpu, Gradient::Weight),
        _ => return None,
    })
}

/// y and 1 / rms of each row.
fn rmsnorm_reference(op: &RmsNorm, x: &[f64], weight: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (mut y, mut r) = (Vec::new(), Vec::new());
    for row in x.chunks(op.dim) {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / op.dim as f64;
        let scale = 1.0 / (mean + f64::from(op.eps)).sqrt();
        y.extend(row.iter().zip(weight).map(|(v, w)| v * scale * (f64::from(op.offset) + w)));
        r.push(scale);
    }
    (y, r)
}

/// dx, and what dweight grows by.
fn rmsnorm_gradients(op: &RmsNorm, x: &[f64], weight: &[f64], dy: &[f64]) -> (Vec<Near>, Vec<Near>) {
    let dim = op.dim;
    let (_, r) = rmsnorm_reference(op, x, weight);
    let mut dx = Vec::new();
    let mut dweight = vec![Near(0.0, 0.0); dim];
    for (row, &r) in r.iter().enumerate() {
        let (x, dy) = (&x[row * dim..][..dim], &dy[row * dim..][..dim]);
        let g = |c: usize| f64::from(op.offset) + weight[c];
        let along: f64 = (0..dim).map(|c| x[c] * g(c) * dy[c]).sum::<f64>() * r.powi(3) / dim as f64;
        let along_size: f64 =
            (0..dim).map(|c| (x[c] * g(c) * dy[c]).abs()).sum::<f64>() * r.powi(3) / dim as f64;
        for c in 0..dim {
            let size = (r * g(c) * dy[c]).abs() + x[c].abs() * along_size;
            dx.push(Near(r * g(c) * dy[c] - x[c] * along, 5e-6 * size));
            let term = dy[c] * x[c] * r;
            dweight[c].0 += term;
            dweight[c].1 += term.abs();
        }
    }
    let count = r.len() as f64;
    (dx, dweight.into_iter().map(|Near(sum, size)| Near(sum, size * (3e-6 + count * ULP))).collect())
}

fn rmsnorm_shapes() -> Vec<RmsNorm> {
    let shape = |rows, dim, eps, offset| RmsNorm { rows, dim, eps, offset };
    let mut all: Vec<RmsNorm> = sizes().into_iter().map(|dim| shape(3, dim, 1e-6, 0.0)).collect();
    all.extend(sizes().into_iter().map(|rows| shape(rows, 37, 1e-5, 1.0)));
    all.push(shape(2, 3000, 1e-6, 1.0));
    all.push(shape(70_000, 3, 1e-6, 0.0)); // more rows than a grid dimension holds
    all
}

fn rmsnorm_forward<G: Gpu>(gpu: &G) -> usize {
    let shapes = rmsnorm_shapes();
    for op in &shapes {
        let (x, weight) = (numbers(op.rows * op.dim, 1), numbers(op.dim, 2));
        let y = gpu.alloc(4 * x.len()).unwrap();
        op.forward(gpu, &from_f32(gpu, &x).unwrap(), &from_f32(gpu, &weight).unwrap(), &y).unwrap();
        let (expected, _) = rmsnorm_reference(op, &wide(&x), &wide(&weight));
        let expected: Vec<Near> = expected.into_iter().map(|v| Near(v, 3e-6 * v.abs())).collect();
        check(&format!("rmsnorm_forward {op:?}"), &to_f32(gpu, &y).unwrap(), &expected);
    }
    shapes.len()
}

enum Gradient {
    Input,
    Weight,
}

fn rmsnorm_backward<G: Gpu>(gpu: &G, gradient: Gradient) -> usize {
    let shapes = rmsnorm_shapes();
    for op in &shapes {
        let count = op.rows * op.dim;
        let (x, weight, dy) = (numbers(count, 1), numbers(op.dim, 2), numbers(count, 3));
        // Both outputs hold something before: dx must be assigned, dweight added to.
        let before = numbers(op.dim, 4);
        let (dx, dweight) = (from_f32(gpu, &numbers(count, 5)).unwrap(), from_f32(gpu, &before).unwrap());
        let scratch = gpu.alloc(4 * op.rows).unwrap();
        let [x_, weight_, dy_] = [&x, &weight, &dy].map(|v| from_f32(gpu, v).unwrap());
        op.backward(gpu, &x_, &weight_, &dy_, &dx, &dweight, &scratch).unwrap();
        let (for_dx, mut for_dweight) = rmsnorm_gradients(op, &wide(&x), &wide(&weight), &wide(&dy));
        match gradient {
            Gradient::Input => check(&format!("rmsnorm dx {op:?}"), &to_f32(gpu, &dx).unwrap(), &for_dx),
            Gradient::Weight => {
                for (near, &start) in for_dweight.iter_mut().zip(&before) {
                    near.0 += f64::from(start);
                    near.1 += f64::from(start.abs()) * ULP;
                }
                check(&format!("rmsnorm dweight {op:?}"), &to_f32(gpu, &dweight).unwrap(), &for_dweight);
            }
        }
    }
    shapes.len()
}

#[test]
fn rmsnorm_reference_matches_finite_differences() {
    let op = RmsNorm { rows: 2, dim: 5, eps: 1e-5, offset: 1.0 };
    let [x, weight, dy] = [(10, 1), (5, 2), (10, 3)].map(|(n, seed)| wide(&numbers(n, seed)));
    let loss = |x: &[f64], weight: &[f64]| dot(&rmsnorm_reference(&op, x, weight).0, &dy);
    let (dx, dweight) = rmsnorm_gradients(&op, &x, &weight, &dy);
    check_differences("dx", &x, &dx, |x| loss(x, &weight));
    check_differences("dweight", &weight, &dweight, |weight| loss(&x, weight));
}
