//! The contract of the numbers and of the driver.

use wootz_kernels::device::launch::{
    from_f32, layernorm::LayerNorm, matmul::MatMul, rmsnorm::RmsNorm, to_f32,
};
use wootz_kernels::device::{Binding, Error, Gpu, Kernel, Scalar, Wgsl, gpu};
use wootz_kernels::ops::Write;

use crate::numbers::*;

pub fn row_bits_do_not_depend_on_the_batch<G: Gpu>(gpu: &G) {
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

pub fn launches_run_in_order<G: Gpu>(gpu: &G) {
    let op = MatMul { m: 1, n: 1, k: 1 };
    let one = from_f32(gpu, &[1.0]).unwrap();
    let sum = from_f32(gpu, &[0.0]).unwrap();
    for _ in 0..200 {
        op.backward_bias(gpu, &one, &sum, Write::Add).unwrap();
    }
    gpu.upload(&one, 0, &2.0f32.to_ne_bytes()).unwrap(); // after those launches, before the next
    op.backward_bias(gpu, &one, &sum, Write::Add).unwrap();
    gpu.synchronize().unwrap();
    assert_eq!(to_f32(gpu, &sum).unwrap(), [202.0]);

    // y = 2 x, then back into x, and so on: each launch reads what the one before wrote.
    let (x, y) = (from_f32(gpu, &[1.0]).unwrap(), gpu.alloc(4).unwrap());
    for _ in 0..50 {
        op.forward(gpu, &x, &one, None, &y).unwrap();
        op.forward(gpu, &y, &one, None, &x).unwrap();
    }
    assert_eq!(to_f32(gpu, &x).unwrap(), [2.0f32.powi(100)]);

    let parts = from_f32(gpu, &[1.0, 2.0, 3.0]).unwrap();
    gpu.upload(&parts, 4, &9.0f32.to_ne_bytes()).unwrap();
    assert_eq!(to_f32(gpu, &parts).unwrap(), [1.0, 9.0, 3.0]);
    let mut last = [0; 4];
    gpu.download(&parts, 8, &mut last).unwrap();
    assert_eq!(f32::from_ne_bytes(last), 3.0);
}

/// A norm, forward and backward, by the kernels of both devices.
#[cfg(feature = "wgpu")]
pub fn subgroups_change_no_bit<G: Gpu>(with: &G, without: &G) {
    for dim in [1, 31, 255, 257, 1000] {
        let rows = 5;
        let (x, weight, dy) = (numbers(rows * dim, 1), numbers(dim, 2), numbers(rows * dim, 3));
        let run = |gpu: &G| {
            let [x_, weight_, dy_] = [&x, &weight, &dy].map(|values| from_f32(gpu, values).unwrap());
            let [y, dx] = [(); 2].map(|()| gpu.alloc(4 * rows * dim).unwrap());
            let rms = RmsNorm { rows, dim, eps: 1e-6, offset: 0.0 };
            rms.forward(gpu, &x_, &weight_, &y).unwrap();
            let scratch = gpu.alloc(rms.scratch_bytes()).unwrap();
            rms.backward(gpu, &x_, &weight_, &dy_, &dx, Write::Set, None, &scratch).unwrap();
            let mut all = [to_f32(gpu, &y).unwrap(), to_f32(gpu, &dx).unwrap()].concat();
            let layer = LayerNorm { rows, dim, eps: 1e-6 };
            layer.forward(gpu, &x_, &weight_, &weight_, &y).unwrap();
            all.extend(to_f32(gpu, &y).unwrap());
            all.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        assert!(run(with) == run(without), "rows of {dim}: subgroups change the bits");
    }
}

/// The second line of each source does not compile.
static BROKEN: Kernel = Kernel {
    name: "broken",
    entry: "broken",
    wgsl: Wgsl::plain(&["@compute @workgroup_size(1) fn broken() {\n  nonsense();\n}\n"]),
    cuda: Some("extern \"C\" __global__ void broken() {\n  nonsense();\n}\n"),
    workgroup: [1, 1, 1],
    buffers: &[],
    scalars: &[],
};

/// Has another name than its entry point.
static MISNAMED: Kernel = Kernel {
    name: "misnamed",
    entry: "misnamed",
    wgsl: Wgsl::plain(&[
        "@group(0) @binding(0) var<storage, read_write> x: array<f32>;\n@compute @workgroup_size(1) fn other() { x[0] = 1.0; }\n",
    ]),
    cuda: Some("extern \"C\" __global__ void other(float* x) { x[0] = 1.0f; }\n"),
    workgroup: [1, 1, 1],
    buffers: &[Binding { name: "x", index: 0, access: gpu::Access::Write }],
    scalars: &[],
};

pub fn wrong_use_is_an_error<G: Gpu>(gpu: &G) {
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
    let error = unsafe {
        gpu.launch(&wootz_kernels::device::launch::rmsnorm::FORWARD, &[&x], &[Scalar::U32(1)], [1, 1, 1])
    };
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
pub fn a_buffer_beyond_the_limit_is_an_error(gpu: &wootz_kernels::device::wgpu::Wgpu) {
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
