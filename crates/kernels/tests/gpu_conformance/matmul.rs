//! The products of a linear layer.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{from_f32, matmul::MatMul, to_f32};
use wootz_kernels::ops::Write;

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "matmul" => matmul(gpu),
        "matmul_backward_bias" => matmul_backward_bias(gpu),
        "matmul_bf16" => matmul_bf16(gpu),
        _ => return None,
    })
}

fn matmul_shapes() -> Vec<MatMul> {
    let mut all = Vec::new();
    for size in sizes() {
        all.extend([
            MatMul { m: size, n: 5, k: 7 },
            MatMul { m: 3, n: size, k: 18 },
            MatMul { m: 6, n: 9, k: size },
            MatMul { m: 1, n: 66, k: size },
        ]);
    }
    for m in [1, 63, 64, 65, 127, 128, 129] {
        for n in [63, 64, 65, 129] {
            all.extend([15, 16, 17, 65].map(|k| MatMul { m, n, k }));
        }
    }
    all
}

fn matmul<G: Gpu>(gpu: &G) -> usize {
    let shapes = matmul_shapes();
    for (case, &op) in shapes.iter().enumerate() {
        let MatMul { m, n, k } = op;
        let [x, w, dy, bias] =
            [(m * k, 1), (n * k, 2), (m * n, 3), (n, 4)].map(|(len, seed)| numbers(len, seed));
        let [x_, w_, dy_, bias_] = [&x, &w, &dy, &bias].map(|v| from_f32(gpu, v).unwrap());
        let [x64, w64, dy64] = [&x, &w, &dy].map(|v| wide(v));

        // The outputs hold something before: y and dx must be assigned, dw added to.
        let y = from_f32(gpu, &numbers(m * n, 5)).unwrap();
        let expected = product((m, n, k), |i, p| x64[i * k + p], |j, p| w64[j * k + p]);
        if case % 2 == 0 {
            op.forward(gpu, &x_, &w_, Some(&bias_), &y).unwrap();
            check(&format!("y with bias {op:?}"), &to_f32(gpu, &y).unwrap(), &plus(expected, &bias));
        } else {
            op.forward(gpu, &x_, &w_, None, &y).unwrap();
            check(&format!("y {op:?}"), &to_f32(gpu, &y).unwrap(), &expected);
        }

        let dx = from_f32(gpu, &numbers(m * k, 6)).unwrap();
        op.backward_input(gpu, &dy_, &w_, &dx).unwrap();
        let expected = product((m, k, n), |i, p| dy64[i * n + p], |j, p| w64[p * k + j]);
        check(&format!("dx {op:?}"), &to_f32(gpu, &dx).unwrap(), &expected);

        let before = numbers(n * k, 7);
        let dw = from_f32(gpu, &before).unwrap();
        op.backward_weight(gpu, &x_, &dy_, &dw).unwrap();
        let expected = product((n, k, m), |i, p| dy64[p * n + i], |j, p| x64[p * k + j]);
        check(&format!("dw {op:?}"), &to_f32(gpu, &dw).unwrap(), &plus(expected, &before));
    }
    shapes.len()
}

fn matmul_backward_bias<G: Gpu>(gpu: &G) -> usize {
    let mut cases = 0;
    for (m, n) in sizes().into_iter().chain([0]).flat_map(|size| [(size, 35), (11, size)]) {
        let op = MatMul { m, n, k: 1 };
        let (dy, before) = (numbers(m * n, 1), numbers(n, 2));
        for write in [Write::Set, Write::Add] {
            let dbias = from_f32(gpu, &before).unwrap();
            op.backward_bias(gpu, &from_f32(gpu, &dy).unwrap(), &dbias, write).unwrap();
            let mut expected = product((1, n, m), |_, _| 1.0, |j, p| f64::from(dy[p * n + j]));
            if write == Write::Add {
                expected = plus(expected, &before);
            }
            check(&format!("dbias {op:?} {write:?}"), &to_f32(gpu, &dbias).unwrap(), &expected);
            cases += 1;
        }
    }
    cases
}

#[test]
fn matmul_reference_matches_finite_differences() {
    let (m, n, k) = (2, 3, 4);
    let [x, w, dy] = [(m * k, 1), (n * k, 2), (m * n, 3)].map(|(len, seed)| wide(&numbers(len, seed)));
    let loss = |x: &[f64], w: &[f64]| {
        let y: Vec<f64> =
            product((m, n, k), |i, p| x[i * k + p], |j, p| w[j * k + p]).iter().map(|y| y.0).collect();
        dot(&y, &dy)
    };
    let dx = product((m, k, n), |i, p| dy[i * n + p], |j, p| w[p * k + j]);
    let dw = product((n, k, m), |i, p| dy[p * n + i], |j, p| x[p * k + j]);
    check_differences("dx", &x, &dx, |x| loss(x, &w));
    check_differences("dw", &w, &dw, |w| loss(&x, w));
}

fn matmul_bf16<G: Gpu>(gpu: &G) -> usize {
    let shapes = matmul_shapes();
    for op in &shapes {
        let MatMul { m, n, k } = *op;
        let [x, w] = [(m * k, 1), (n * k, 2)].map(|(len, seed)| to_bf16(&numbers(len, seed)));
        let bias = numbers(n, 3);
        let [x_, w_] = [&x, &w].map(|v| upload_bf16(gpu, v));
        let y = gpu.alloc(4 * m * n).unwrap();
        op.forward_bf16(gpu, &x_, &w_, Some(&from_f32(gpu, &bias).unwrap()), &y).unwrap();
        let value = |v: u16| f64::from(f32::from_bits(u32::from(v) << 16));
        let expected = product((m, n, k), |i, p| value(x[i * k + p]), |j, p| value(w[j * k + p]));
        // Tensor cores may cut off the bits below the f32 sum instead of rounding.
        let expected: Vec<Near> =
            plus(expected, &bias).into_iter().map(|Near(v, t)| Near(v, 4.0 * t)).collect();
        check(&format!("bf16 y {op:?}"), &to_f32(gpu, &y).unwrap(), &expected);
    }
    shapes.len()
}

/// The upper halves: rounded towards zero, which is good enough for inputs.
fn to_bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| (v.to_bits() >> 16) as u16).collect()
}

fn upload_bf16<G: Gpu>(gpu: &G, values: &[u16]) -> G::Buffer {
    let mut bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let buffer = gpu.alloc(bytes.len()).unwrap();
    gpu.upload(&buffer, 0, &bytes).unwrap();
    buffer
}
