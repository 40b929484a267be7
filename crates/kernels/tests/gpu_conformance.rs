//! Every GPU kernel, on whatever device there is, against plain loops in f64; and those loops' gradients
//! against finite differences.
//!
//! The cases are generic over the driver. `WOOTZ_REQUIRE=vulkan` (or `cuda`) turns a missing device into a
//! failure.

#![cfg_attr(not(any(feature = "wgpu", feature = "cuda")), allow(dead_code, unused_imports))]

use wootz_kernels::device::launch::{from_f32, matmul::MatMul, rmsnorm::RmsNorm, to_f32};
use wootz_kernels::device::{Binding, Error, Gpu, KERNELS, Kernel, Scalar, gpu};

/// Half a unit in the last place of 1.0: the relative error of one f32 operation.
const ULP: f64 = 6.0e-8;

#[test]
fn every_kernel_on_vulkan_or_metal() {
    #[cfg(feature = "wgpu")]
    match wootz_kernels::device::wgpu::Wgpu::open(None) {
        Ok(gpu) => {
            every_kernel(&gpu);
            a_buffer_beyond_the_limit_is_an_error(&gpu);
        }
        Err(error) => skip("vulkan", &format!("no Vulkan adapter: {error}")),
    }
    #[cfg(not(feature = "wgpu"))]
    skip("vulkan", "built without the feature wgpu");
}

#[test]
fn every_kernel_on_cuda() {
    #[cfg(feature = "cuda")]
    match wootz_kernels::device::cuda::Cuda::open(0) {
        Ok(gpu) => every_kernel(&gpu),
        Err(error) => skip("cuda", &error.to_string()),
    }
    #[cfg(not(feature = "cuda"))]
    skip("cuda", "built without the feature cuda");
}

/// Prints that a test did not run, or fails where `WOOTZ_REQUIRE` names what is missing.
fn skip(what: &str, why: &str) {
    let required = std::env::var("WOOTZ_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == what), "{what} is required: {why}");
    println!("skipped: {why}");
}

fn every_kernel<G: Gpu>(gpu: &G) {
    let info = gpu.info();
    println!("adapter: {} ({}, {})", info.name, info.api, info.driver);
    for kernel in KERNELS {
        if (info.api == "CUDA" && kernel.cuda.is_none()) || (info.api != "CUDA" && kernel.wgsl.is_none()) {
            let refused = gpu.compile(kernel);
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{}: {refused:?}", kernel.name);
            println!("{}: not written for {}", kernel.name, info.api);
            continue;
        }
        gpu.compile(kernel).unwrap();
        let cases = match kernel.name {
            "rmsnorm_forward" => rmsnorm_forward(gpu),
            "rmsnorm_backward" => rmsnorm_backward(gpu, Gradient::Input),
            "rmsnorm_backward_weight" => rmsnorm_backward(gpu, Gradient::Weight),
            "matmul" => matmul(gpu),
            "matmul_backward_bias" => matmul_backward_bias(gpu),
            "matmul_bf16" => matmul_bf16(gpu),
            name => panic!("kernel {name} has no conformance case here"),
        };
        println!("{}: {cases} cases", kernel.name);
    }
    row_bits_do_not_depend_on_the_batch(gpu);
    launches_run_in_order(gpu);
    wrong_use_is_an_error(gpu);
}

// ---- sizes and numbers ----

/// Every length to 33, and the neighbours of the tile and workgroup sizes.
fn sizes() -> Vec<usize> {
    (1..=33).chain([63, 64, 65, 127, 128, 129, 255, 256, 257]).collect()
}

/// Numbers in [-1, 1), the same in each run (SplitMix64).
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ count as u64;
    let next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// A value and how far from it a correct f32 kernel may end.
#[derive(Clone, Copy)]
struct Near(f64, f64);

fn check(what: &str, found: &[f32], expected: &[Near]) {
    assert!(found.len() >= expected.len(), "{what}: {} values, expected {}", found.len(), expected.len());
    for (i, (&found, &Near(value, tolerance))) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(found) - value).abs();
        // Written so that NaN fails.
        assert!(
            difference <= tolerance + 1e-30,
            "{what}: [{i}] is {found}, expected {value} within {tolerance:e}"
        );
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

// ---- RMSNorm ----

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

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// That `gradient` is the slope of `loss` at `at`, by central differences.
fn check_differences(what: &str, at: &[f64], gradient: &[Near], loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(at.len(), gradient.len());
    let step = 1e-5;
    for (i, Near(slope, _)) in gradient.iter().enumerate() {
        let mut moved = at.to_vec();
        moved[i] = at[i] + step;
        let above = loss(&moved);
        moved[i] = at[i] - step;
        let difference = (above - loss(&moved)) / (2.0 * step);
        assert!((difference - slope).abs() < 1e-8, "{what}[{i}]: {slope}, by differences {difference}");
    }
}

// ---- matmul ----

/// `out[i,j] = sum over p of a(i,p) b(j,p)`, with the bound of a sum in any order of f32 operations.
fn product(
    (rows, cols, depth): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<Near> {
    let mut out = Vec::with_capacity(rows * cols);
    for i in 0..rows {
        for j in 0..cols {
            let (mut sum, mut size) = (0.0, 0.0);
            for p in 0..depth {
                let term = a(i, p) * b(j, p);
                sum += term;
                size += term.abs();
            }
            out.push(Near(sum, size * ULP * (depth + 4) as f64));
        }
    }
    out
}

/// `start[j]` or `start[i,j]` added: a bias, or what a gradient held before.
fn plus(mut sums: Vec<Near>, start: &[f32]) -> Vec<Near> {
    for (near, &start) in sums.iter_mut().zip(start.iter().cycle()) {
        near.1 += (near.0.abs() + f64::from(start.abs())) * ULP * 2.0;
        near.0 += f64::from(start);
    }
    sums
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
    for (m, n) in sizes().into_iter().flat_map(|size| [(size, 35), (11, size)]) {
        let op = MatMul { m, n, k: 1 };
        let (dy, before) = (numbers(m * n, 1), numbers(n, 2));
        let dbias = from_f32(gpu, &before).unwrap();
        op.backward_bias(gpu, &from_f32(gpu, &dy).unwrap(), &dbias).unwrap();
        let expected = product((1, n, m), |_, _| 1.0, |j, p| f64::from(dy[p * n + j]));
        check(&format!("dbias {op:?}"), &to_f32(gpu, &dbias).unwrap(), &plus(expected, &before));
        cases += 1;
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

// ---- the contract of the numbers and of the driver ----

fn row_bits_do_not_depend_on_the_batch<G: Gpu>(gpu: &G) {
    let (n, k) = (70, 133);
    let (x, w) = (numbers(129 * k, 1), numbers(n * k, 2));
    let w_ = from_f32(gpu, &w).unwrap();
    let rows = |m: usize, x: &[f32]| {
        let y = gpu.alloc(4 * m * n).unwrap();
        MatMul { m, n, k }.forward(gpu, &from_f32(gpu, x).unwrap(), &w_, None, &y).unwrap();
        to_f32(gpu, &y).unwrap().into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    };
    let all = rows(129, &x);
    for row in [0, 1, 63, 64, 100, 128] {
        assert_eq!(
            rows(1, &x[row * k..][..k]),
            all[row * n..][..n],
            "row {row} alone differs from row {row} of 129"
        );
    }
}

fn launches_run_in_order<G: Gpu>(gpu: &G) {
    let op = MatMul { m: 1, n: 1, k: 1 };
    let one = from_f32(gpu, &[1.0]).unwrap();
    let sum = gpu.alloc(4).unwrap();
    for _ in 0..200 {
        op.backward_bias(gpu, &one, &sum).unwrap();
    }
    gpu.upload(&one, 0, &2.0f32.to_ne_bytes()).unwrap(); // after those launches, before the next
    op.backward_bias(gpu, &one, &sum).unwrap();
    gpu.synchronize().unwrap();
    assert_eq!(to_f32(gpu, &sum).unwrap(), [202.0]);

    // y = 2 x, then back into x, and so on: each launch reads what the one before wrote.
    let (x, y) = (from_f32(gpu, &[1.0]).unwrap(), gpu.alloc(4).unwrap());
    for _ in 0..50 {
        op.forward(gpu, &x, &one, None, &y).unwrap();
        op.forward(gpu, &y, &one, None, &x).unwrap();
    }
    assert_eq!(to_f32(gpu, &x).unwrap(), [2.0f32.powi(100)]);

    assert_eq!(to_f32(gpu, &gpu.alloc(12).unwrap()).unwrap(), [0.0; 3], "memory is not zero at first");
    let parts = from_f32(gpu, &[1.0, 2.0, 3.0]).unwrap();
    gpu.upload(&parts, 4, &9.0f32.to_ne_bytes()).unwrap();
    assert_eq!(to_f32(gpu, &parts).unwrap(), [1.0, 9.0, 3.0]);
    let mut last = [0; 4];
    gpu.download(&parts, 8, &mut last).unwrap();
    assert_eq!(f32::from_ne_bytes(last), 3.0);
}

/// The second line of each source does not compile.
static BROKEN: Kernel = Kernel {
    name: "broken",
    wgsl: Some("@compute @workgroup_size(1) fn broken() {\n  nonsense();\n}\n"),
    cuda: Some("extern \"C\" __global__ void broken() {\n  nonsense();\n}\n"),
    workgroup: [1, 1, 1],
    buffers: &[],
    scalars: &[],
};

/// Has another name than its entry point.
static MISNAMED: Kernel = Kernel {
    name: "misnamed",
    wgsl: Some(
        "@group(0) @binding(0) var<storage, read_write> x: array<f32>;\n@compute @workgroup_size(1) fn other() { x[0] = 1.0; }\n",
    ),
    cuda: Some("extern \"C\" __global__ void other(float* x) { x[0] = 1.0f; }\n"),
    workgroup: [1, 1, 1],
    buffers: &[Binding { name: "x", index: 0, access: gpu::Access::Write }],
    scalars: &[],
};

fn wrong_use_is_an_error<G: Gpu>(gpu: &G) {
    match gpu.compile(&BROKEN) {
        Err(Error::Compile { kernel: "broken", line: Some(2), message }) => {
            assert!(message.contains("nonsense"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(gpu.compile(&MISNAMED).is_err());

    let op = RmsNorm { rows: 2, dim: 8, eps: 1e-6, offset: 0.0 };
    let [x, weight, small] = [16, 8, 15].map(|count| gpu.alloc(4 * count).unwrap());
    let error = op.forward(gpu, &x, &weight, &small).unwrap_err().to_string();
    assert_eq!(error, "rmsnorm_forward: y: expected 16 elements of 4 bytes, found a buffer of 60 bytes");
    let huge = MatMul { m: usize::MAX, n: 2, k: 2 };
    assert!(matches!(huge.forward(gpu, &x, &x, None, &weight), Err(Error::Argument { .. })));
    // SAFETY: refused before it reaches the device, for want of buffers and scalars.
    let error = unsafe { gpu.launch(KERNELS[0], &[&x], &[Scalar::U32(1)], [1, 1, 1]) };
    assert!(matches!(error, Err(Error::Argument { .. })));

    assert!(gpu.alloc(6).is_err());
    assert!(gpu.upload(&x, 60, &[0; 8]).is_err());
    assert!(gpu.upload(&x, 2, &[0; 4]).is_err());
    assert!(gpu.download(&x, usize::MAX - 3, &mut [0; 8]).is_err());

    // Nothing to do is no error.
    let none = gpu.alloc(0).unwrap();
    RmsNorm { rows: 0, dim: 8, eps: 1e-6, offset: 0.0 }.forward(gpu, &none, &weight, &none).unwrap();
    let empty_sum = MatMul { m: 2, n: 4, k: 0 };
    empty_sum.forward(gpu, &none, &none, None, &weight).unwrap();
    assert_eq!(to_f32(gpu, &weight).unwrap(), [0.0; 8]);
    gpu.synchronize().unwrap();
}

#[cfg(feature = "wgpu")]
fn a_buffer_beyond_the_limit_is_an_error(gpu: &wootz_kernels::device::wgpu::Wgpu) {
    let limit = usize::try_from(gpu.info().max_buffer_bytes).unwrap();
    let error = gpu.alloc(limit / 4 * 4 + 4).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");

    // One buffer read and written by the same launch: the driver refuses, and goes on working.
    let op = MatMul { m: 1, n: 1, k: 1 };
    let [one, out] = [1.0, 0.0].map(|v| from_f32(gpu, &[v]).unwrap());
    let refused = op.forward(gpu, &one, &one, None, &one).and_then(|()| gpu.synchronize());
    assert!(matches!(refused, Err(Error::Driver { .. })), "{refused:?}");
    op.forward(gpu, &one, &one, None, &out).unwrap();
    assert_eq!(to_f32(gpu, &out).unwrap(), [1.0]);

    let unknown =
        wootz_kernels::device::wgpu::Wgpu::open(Some("no such device")).err().map(|e| e.to_string());
    assert!(unknown.is_some_and(|e| e.contains("no such device") && e.contains(&gpu.info().name)));
}
