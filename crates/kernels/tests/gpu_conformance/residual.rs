//! The residual stream.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{from_f32, residual::Residual, to_f32};

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    match kernel {
        "residual_add" => Some(residual_add(gpu)),
        _ => None,
    }
}

fn residual_add<G: Gpu>(gpu: &G) -> usize {
    let mut counts = sizes();
    counts.extend([1000, 65_535, 65_537]);
    counts.push(256 * 65_535 + 300); // more workgroups than a grid dimension holds
    for &count in &counts {
        // The buffers are larger than the shape: what is beyond it stays.
        let (x, y) = (numbers(count + 3, 1), numbers(count + 3, 2));
        let x_ = from_f32(gpu, &x).unwrap();
        Residual { count }.add(gpu, &x_, &from_f32(gpu, &y).unwrap()).unwrap();
        let found = to_f32(gpu, &x_).unwrap();
        // A sum of two is rounded once: it has one right result.
        let same = (0..count).all(|i| found[i] == x[i] + y[i]) && found[count..] == x[count..];
        assert!(same, "residual_add of {count} elements");
    }
    let none = gpu.alloc(0).unwrap();
    Residual { count: 0 }.add(gpu, &none, &none).unwrap();
    counts.len()
}
