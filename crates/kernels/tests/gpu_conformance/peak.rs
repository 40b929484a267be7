//! The yardstick.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{from_f32, peak::MultiplyAdd, to_f32};

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    match kernel {
        "peak_multiply_add" => Some(multiply_add(gpu)),
        _ => None,
    }
}

fn multiply_add<G: Gpu>(gpu: &G) -> usize {
    let counts = [1, 2, 255, 256, 257, 1000];
    for count in counts {
        for rounds in [0, 1, 7, 64] {
            let (a, b) = (0.75f32, 0.5f32);
            let x = numbers(count, 1);
            let y = gpu.alloc(4 * count).unwrap();
            let op = MultiplyAdd { count, rounds, a, b };
            op.run(gpu, &from_f32(gpu, &x).unwrap(), &y).unwrap();
            for (x, found) in x.iter().zip(to_f32(gpu, &y).unwrap()) {
                let chain = |c: usize| {
                    let start = f64::from(x + c as f32);
                    (0..rounds).fold(start, |v, _| v * f64::from(a) + f64::from(b))
                };
                let expected = 4.0 * (0..8).map(chain).sum::<f64>();
                assert!((f64::from(found) - expected).abs() < 1e-4, "{count} {rounds}: {found} {expected}");
            }
        }
    }
    counts.len()
}
