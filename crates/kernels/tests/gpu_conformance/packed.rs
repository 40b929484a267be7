//! The products with packed weights, of every layout.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{from_f32, from_u32, packed::PackedMatrix, to_f32};
use wootz_kernels::ops::Write;
use wootz_kernels::{DType, Matrix, Pool, Precision, panels, quant};

use crate::numbers::*;

/// The layouts, and a type that has each.
const LAYOUTS: [(&str, DType); 12] = [
    ("f32", DType::F32),
    ("f16", DType::F16),
    ("bf16", DType::BF16),
    ("q8_0", DType::Q8_0),
    ("q4_0", DType::Q4_0),
    ("q4_k", DType::Q4_K),
    ("q5_k", DType::Q5_K),
    ("q6_k", DType::Q6_K),
    ("group_32", DType::IQ4_NL),
    ("group_32_min", DType::Q5_1),
    ("group_16", DType::Q3_K),
    ("group_16_min", DType::Q2_K),
];

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    if kernel == "packed_weight" {
        return Some(weight_gradients(gpu));
    }
    let of = |prefix: &str| {
        let name = kernel.strip_prefix(prefix)?;
        LAYOUTS.iter().find(|(layout, _)| *layout == name).map(|(_, dtype)| *dtype)
    };
    if let Some(dtype) = of("packed_matvec_") {
        contents(gpu, dtype);
        return Some(forward(gpu, dtype, &[1, 2, 7, 8, 9, 16]));
    }
    if let Some(dtype) = of("packed_backward_") {
        return Some(input_gradients(gpu, dtype));
    }
    if let Some(dtype) = of("packed_rows_") {
        return Some(lookups(gpu, dtype));
    }
    if let Some(dtype) = of("dora_lengths_") {
        return Some(lengths(gpu, dtype));
    }
    let dtype = of("packed_matmul_")?;
    row_bits_do_not_depend_on_other_rows(gpu, dtype);
    Some(forward(gpu, dtype, &[17, 64, 65, 130]))
}

/// The seed of matrices of very small values.
const SMALL: u64 = 77;

/// A matrix of random values of this type, and what they are.
fn matrix(dtype: DType, [n, k]: [usize; 2], seed: u64) -> (Matrix, Vec<f64>) {
    let mut values = numbers(n * k, seed);
    if seed == SMALL {
        values.iter_mut().for_each(|x| *x *= 3e-5); // below the smallest normal f16, and so are the blocks' scales
    }
    let mut bytes = vec![0; dtype.bytes(&[n * k]).unwrap()];
    quant::encode(dtype, &values, &mut bytes).unwrap();
    let mut exact = vec![0.0; n * k];
    quant::decode(dtype, &bytes, &mut exact).unwrap();
    let row_bytes = bytes.len() / n;
    let row = |i: usize| &bytes[i * row_bytes..(i + 1) * row_bytes];
    (Matrix::pack(&Pool::new(1), dtype, [n, k], Precision::F32, row), wide(&exact))
}

/// Channels and values of k: around the borders of panels, tiles, steps and stretches.
fn shapes(dtype: DType) -> Vec<[usize; 2]> {
    let ks: &[usize] = match dtype.block_len() {
        1 => &[1, 2, 3, 4, 5, 31, 33, 64, 127, 128, 129, 300, 1100],
        32 => &[32, 64, 96, 128, 160, 1120],
        _ => &[256, 512, 1280],
    };
    let mut all: Vec<[usize; 2]> = ks.iter().map(|&k| [35, k]).collect();
    all.extend([1, 5, 31, 32, 33, 63, 64, 65, 97, 130].map(|n| [n, ks[ks.len() / 2]]));
    all
}

/// Tolerances of sums are those of [`product`], where a weight too may have been rounded twice.
fn loosened(sums: Vec<Near>) -> Vec<Near> {
    sums.into_iter().map(|Near(value, tolerance)| Near(value, 1.5 * tolerance)).collect()
}

fn forward<G: Gpu>(gpu: &G, dtype: DType, all_rows: &[usize]) -> usize {
    let mut cases = 0;
    for (i, [n, k]) in shapes(dtype).into_iter().enumerate() {
        let (matrix, w) = matrix(dtype, [n, k], if i % 3 == 2 { SMALL } else { 1 });
        let whole = PackedMatrix::upload(gpu, &matrix).unwrap();
        // Cut into buffers of at most two panels.
        let parts = PackedMatrix::upload_in_parts(gpu, &matrix, 2 * matrix.bytes() / n.div_ceil(32)).unwrap();
        assert_eq!((whole.bytes(), parts.bytes()), (matrix.bytes(), matrix.bytes()));
        assert_eq!(whole.download(gpu).unwrap(), parts.download(gpu).unwrap());
        for &m in all_rows {
            let (x, bias) = (numbers(m * k, 2), numbers(n, 3));
            let (x_, bias_) = (from_f32(gpu, &x).unwrap(), from_f32(gpu, &bias).unwrap());
            let x = wide(&x);
            let mut expected = loosened(product((m, n, k), |i, p| x[i * k + p], |j, p| w[j * k + p]));
            let with_bias = (i + m) % 2 == 0;
            if with_bias {
                expected = plus(expected, &bias);
            }
            let before = numbers(m * n, 4);
            let [set, in_parts, added] = [(&whole, Write::Set), (&parts, Write::Set), (&parts, Write::Add)]
                .map(|(w, write)| {
                    let y = from_f32(gpu, &before).unwrap();
                    w.forward(gpu, m, &x_, with_bias.then_some(&bias_), &y, write).unwrap();
                    to_f32(gpu, &y).unwrap()
                });
            check(&format!("{dtype} y {m} x {n} x {k}"), &set, &expected);
            assert!(set == in_parts, "{dtype} {m} x {n} x {k}: in parts it is another result");
            let sums: Vec<f32> = before.iter().zip(&set).map(|(before, y)| before + y).collect();
            assert!(added == sums, "{dtype} {m} x {n} x {k}: not what was there and the rounded sum");
            cases += 1;
        }
    }
    cases
}

/// What goes to a device comes back, and can be replaced there.
fn contents<G: Gpu>(gpu: &G, dtype: DType) {
    for [n, k] in shapes(dtype) {
        let ([before, after], panels) = ([1, 2].map(|seed| matrix(dtype, [n, k], seed).0), n.div_ceil(32));
        let most = before.bytes() / panels * 2;
        let device = PackedMatrix::upload_in_parts(gpu, &before, most).unwrap();
        assert_eq!((device.dtype(), device.rows(), device.cols()), (dtype, n, k));
        assert_eq!(device.operand(), before.operand());
        assert!(device.parts().iter().flat_map(|(panels, _)| panels.clone()).eq(0..panels));
        let bytes = |matrix: &Matrix| PackedMatrix::upload(gpu, matrix).unwrap().download(gpu).unwrap();
        let back = device.to_matrix(gpu).unwrap();
        assert_eq!((back.dtype(), back.rows(), back.cols()), (dtype, n, k));
        assert_eq!(back.operand(), before.operand());
        assert!(bytes(&back) == bytes(&before), "{dtype} {n} x {k}: another matrix comes back");
        device.set(gpu, &after).unwrap();
        assert!(device.download(gpu).unwrap() == bytes(&after), "{dtype} {n} x {k}: set");
        device.set_panels(gpu, &bytes(&before)).unwrap();
        assert!(device.download(gpu).unwrap() == bytes(&before), "{dtype} {n} x {k}: set_panels");
        device.fill_zeros(gpu).unwrap();
        assert!(device.download(gpu).unwrap().iter().all(|&byte| byte == 0), "{dtype} {n} x {k}: zeros");
        assert!(device.set_panels(gpu, &[0; 4]).is_err());
        assert!(device.set(gpu, &Matrix::zeroed(DType::F32, [n, k + 1])).is_err());
    }
    let zeros = PackedMatrix::zeroed(gpu, [33, 5]).unwrap();
    assert_eq!((zeros.dtype(), zeros.bytes()), (DType::F32, 4 * panels::len([33, 5])));
    assert!(zeros.download(gpu).unwrap().iter().all(|&byte| byte == 0));
    assert!(PackedMatrix::zeroed(gpu, [1 << 31, 32]).is_err());
    let none = PackedMatrix::zeroed(gpu, [0, 5]).unwrap();
    assert_eq!((none.bytes(), none.to_matrix(gpu).unwrap().rows()), (0, 0));
}

fn row_bits_do_not_depend_on_other_rows<G: Gpu>(gpu: &G, dtype: DType) {
    let [m, n, k] = [70, 70, 1280];
    let (matrix, _) = matrix(dtype, [n, k], 1);
    let w = PackedMatrix::upload(gpu, &matrix).unwrap();
    let x = numbers(m * k, 2);
    let run = |x: &[f32]| {
        let y = gpu.alloc(4 * x.len() / k * n).unwrap();
        w.forward(gpu, x.len() / k, &from_f32(gpu, x).unwrap(), None, &y, Write::Set).unwrap();
        to_f32(gpu, &y).unwrap().into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    };
    let all = run(&x);
    for (first, count) in [(0, 1), (5, 3), (63, 7), (50, 20), (69, 1)] {
        let some = run(&x[first * k..(first + count) * k]);
        assert!(some == all[first * n..(first + count) * n], "{dtype}: {count} rows from {first}");
    }
}

fn input_gradients<G: Gpu>(gpu: &G, dtype: DType) -> usize {
    let mut cases = 0;
    for [n, k] in shapes(dtype) {
        let (matrix, w) = matrix(dtype, [n, k], 1);
        let whole = PackedMatrix::upload(gpu, &matrix).unwrap();
        let parts = PackedMatrix::upload_in_parts(gpu, &matrix, 2 * matrix.bytes() / n.div_ceil(32)).unwrap();
        for (m, write) in [(1, Write::Set), (3, Write::Add), (64, Write::Set), (65, Write::Add)] {
            let (dy, before) = (numbers(m * n, 2), numbers(m * k, 3));
            let dy_ = from_f32(gpu, &dy).unwrap();
            let dy = wide(&dy);
            let mut expected = loosened(product((m, k, n), |i, p| dy[i * n + p], |j, p| w[p * k + j]));
            if write == Write::Add {
                expected = plus(expected, &before);
            }
            for w in [&whole, &parts] {
                let dx = from_f32(gpu, &before).unwrap();
                w.backward_input(gpu, m, &dy_, &dx, write).unwrap();
                check(&format!("{dtype} dx {m} x {n} x {k}"), &to_f32(gpu, &dx).unwrap(), &expected);
            }
            cases += 1;
        }
    }
    cases
}

fn weight_gradients<G: Gpu>(gpu: &G) -> usize {
    let mut cases = 0;
    for [n, k] in shapes(DType::F32) {
        let (before, before64) = matrix(DType::F32, [n, k], 1);
        for m in [0, 1, 15, 16, 17, 65] {
            let write = if m % 2 == 0 { Write::Add } else { Write::Set };
            let (x, dy) = (numbers(m * k, 2), numbers(m * n, 3));
            let [x_, dy_] = [&x, &dy].map(|v| from_f32(gpu, v).unwrap());
            let (x, dy) = (wide(&x), wide(&dy));
            let mut expected = product((n, k, m), |i, p| dy[p * n + i], |j, p| x[p * k + j]);
            if write == Write::Add {
                let before: Vec<f32> = before64.iter().map(|&v| v as f32).collect();
                expected = plus(expected, &before);
            }
            for most in [usize::MAX, 64 * 4 * k] {
                let dw = PackedMatrix::upload_in_parts(gpu, &before, most).unwrap();
                dw.backward_weight(gpu, m, &x_, &dy_, write).unwrap();
                let bytes = dw.download(gpu).unwrap();
                let found: Vec<f32> =
                    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                let rows: Vec<f32> = (0..n * k).map(|i| found[panels::index(k, i / k, i % k)]).collect();
                check(&format!("dw {m} x {n} x {k}"), &rows, &expected);
                let filling = (n..n.next_multiple_of(32)).flat_map(|row| (0..k).map(move |col| [row, col]));
                assert!(filling.into_iter().all(|[row, col]| found[panels::index(k, row, col)] == 0.0));
            }
            cases += 1;
        }
    }
    let (quantised, _) = matrix(DType::Q8_0, [32, 32], 1);
    let quantised = PackedMatrix::upload(gpu, &quantised).unwrap();
    let x = gpu.alloc(4 * 32).unwrap();
    assert!(quantised.backward_weight(gpu, 1, &x, &x, Write::Set).is_err());
    cases
}

fn lookups<G: Gpu>(gpu: &G, dtype: DType) -> usize {
    let mut cases = 0;
    for (i, [n, k]) in shapes(dtype).into_iter().enumerate() {
        let (matrix, w) = matrix(dtype, [n, k], if i % 2 == 0 { SMALL } else { 1 });
        let whole = PackedMatrix::upload(gpu, &matrix).unwrap();
        let parts = PackedMatrix::upload_in_parts(gpu, &matrix, 2 * matrix.bytes() / n.div_ceil(32)).unwrap();
        for m in [1, 33, 100] {
            // Some more than once, the last, and two that are not in the table: its panels may have rows there.
            let mut ids: Vec<u32> =
                numbers(m, 2).iter().map(|x| ((x + 1.0) / 2.0 * n as f32) as u32).collect();
            ids[0] = n as u32 - 1;
            ids.extend([n as u32, u32::MAX]);
            let before = numbers(ids.len() * k, 3);
            let most = w.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
            for (write, scale) in [(Write::Set, 1.0f32), (Write::Add, 1.7)] {
                let expected: Vec<Near> = (0..ids.len() * k)
                    .map(|i| {
                        let id = ids[i / k] as usize;
                        let value = if id < n { w[id * k + i % k] * f64::from(scale) } else { 0.0 };
                        let start = if write == Write::Add { f64::from(before[i]) } else { 0.0 };
                        // A weight may have been rounded twice on its way, from terms of the size of its block.
                        Near(value + start, 4.0 * ULP * (value.abs() + start.abs() + most))
                    })
                    .collect();
                for w in [&whole, &parts] {
                    let x = from_f32(gpu, &before).unwrap();
                    w.lookup(gpu, ids.len(), &from_u32(gpu, &ids).unwrap(), scale, &x, write).unwrap();
                    check(&format!("{dtype} rows {m} of {n} x {k}"), &to_f32(gpu, &x).unwrap(), &expected);
                }
                cases += 1;
            }
        }
    }
    cases
}

fn lengths<G: Gpu>(gpu: &G, dtype: DType) -> usize {
    let mut cases = 0;
    let most_k = if dtype.block_len() == 1 { 9001 } else { 9216 };
    for (i, [n, k]) in shapes(dtype).into_iter().chain([[3, most_k]]).enumerate() {
        let (matrix, w) = matrix(dtype, [n, k], if i % 3 == 2 { SMALL } else { 1 });
        let whole = PackedMatrix::upload(gpu, &matrix).unwrap();
        let parts = PackedMatrix::upload_in_parts(gpu, &matrix, 2 * matrix.bytes() / n.div_ceil(32)).unwrap();
        let all: &[(usize, f32)] = if n == 3 { &[(33, -0.25)] } else { &[(1, 0.5), (5, 1.7)] };
        for &(rank, scale) in all {
            // As small as the weights, so that both count.
            let size = w.iter().fold(0.0, |most: f64, w| most.max(w.abs())) as f32;
            let a = numbers(rank * k, 2);
            let b: Vec<f32> = numbers(n * rank, 3).iter().map(|b| b * size).collect();
            let pool = Pool::new(1);
            let [a_, b_] = [([rank, k], &a), ([n, rank], &b)].map(|(shape, values)| {
                PackedMatrix::upload(gpu, &Matrix::from_f32(&pool, shape, values)).unwrap()
            });
            let (a, b) = (wide(&a), wide(&b));
            let expected: Vec<Near> = (0..n)
                .map(|row| {
                    let (mut squares, mut sizes) = (0.0, 0.0);
                    for col in 0..k {
                        let change = |r: usize| f64::from(scale) * b[row * rank + r] * a[r * k + col];
                        let w = w[row * k + col];
                        squares += (w + (0..rank).map(change).sum::<f64>()).powi(2);
                        sizes += (w.abs() + (0..rank).map(|r| change(r).abs()).sum::<f64>()).powi(2);
                    }
                    // In short rows what was rounded does not average out, and all terms may cancel.
                    let length = squares.sqrt();
                    Near(length, if k < 64 { 1e-6 * sizes.sqrt() } else { 1e-6 * length })
                })
                .collect();
            for w in [&whole, &parts] {
                let out = from_f32(gpu, &numbers(n, 4)).unwrap();
                w.lengths(gpu, &a_, &b_, scale, &out).unwrap();
                check(
                    &format!("{dtype} lengths {n} x {k}, rank {rank}"),
                    &to_f32(gpu, &out).unwrap(),
                    &expected,
                );
            }
            cases += 1;
        }
    }
    let of = |dtype, shape| PackedMatrix::upload(gpu, &Matrix::zeroed(dtype, shape)).unwrap();
    let (w, out) = (of(DType::F32, [70, 4]), from_f32(gpu, &[0.0; 70]).unwrap());
    let (a, b) = (of(DType::F32, [2, 4]), of(DType::F32, [70, 2]));
    // Rows of zeros have no direction, and divide nothing by 0.
    w.lengths(gpu, &a, &b, 1.0, &out).unwrap();
    assert!(to_f32(gpu, &out).unwrap().iter().all(|&length| length > 0.0 && 0.0 / length == 0.0));
    assert!(w.lengths(gpu, &of(DType::F32, [2, 5]), &b, 1.0, &out).is_err(), "shape of a");
    assert!(w.lengths(gpu, &a, &of(DType::F32, [70, 3]), 1.0, &out).is_err(), "shape of b");
    assert!(w.lengths(gpu, &of(DType::BF16, [2, 4]), &b, 1.0, &out).is_err(), "type of a");
    assert!(w.lengths(gpu, &a, &b, 1.0, &from_f32(gpu, &[0.0; 69]).unwrap()).is_err(), "lengths");
    let cut = PackedMatrix::upload_in_parts(gpu, &Matrix::zeroed(DType::F32, [70, 2]), 4).unwrap();
    assert!(w.lengths(gpu, &a, &cut, 1.0, &out).is_err(), "parts of b");
    cases
}
