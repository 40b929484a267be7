//! Dropout.

use wootz_kernels::Pool;
use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{dropout::Dropout, from_f32, to_f32};
use wootz_kernels::ops::dropout as op;
use wootz_kernels::rng::Rng;

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "dropout_forward" => forward(gpu),
        "dropout_backward" => backward(gpu),
        _ => return None,
    })
}

fn draws() -> Vec<Dropout> {
    let mut all = Vec::new();
    for (i, count) in sizes().into_iter().chain([1000, 100_003]).enumerate() {
        for (j, probability) in [0.0, 0.1, 0.5, 0.9, 0.999_999_9].into_iter().enumerate() {
            all.push(Dropout { count, draw: op::Dropout::new(probability, Rng::new(i as u64, j as u64)) });
        }
    }
    all
}

/// The bits of the CPU.
fn forward<G: Gpu>(gpu: &G) -> usize {
    let pool = Pool::new(1);
    for op in draws() {
        let past = op.count + 3; // more elements than the kernel may touch
        let (x, before) = (numbers(past, 1), numbers(past, 2));
        let out = from_f32(gpu, &before).unwrap();
        op.forward(gpu, &from_f32(gpu, &x).unwrap(), &out).unwrap();
        let mut want = before;
        op.draw.forward(&pool, &x[..op.count], &mut want[..op.count]);
        assert_eq!(to_f32(gpu, &out).unwrap(), want, "{op:?}");
    }
    let some = gpu.alloc(16).unwrap();
    let draw = op::Dropout::new(0.5, Rng::new(1, 2));
    assert!(Dropout { count: 5, draw: draw.clone() }.forward(gpu, &some, &some).is_err());
    Dropout { count: 0, draw }.forward(gpu, &some, &some).unwrap();
    draws().len()
}

fn backward<G: Gpu>(gpu: &G) -> usize {
    let pool = Pool::new(1);
    for op in draws() {
        let past = op.count + 3;
        let (dy, before) = (numbers(past, 1), numbers(past, 2));
        let dx = from_f32(gpu, &before).unwrap();
        op.backward(gpu, &from_f32(gpu, &dy).unwrap(), &dx).unwrap();
        let mut change = vec![0.0; op.count];
        op.draw.forward(&pool, &dy[..op.count], &mut change);
        change.resize(past, 0.0);
        // Two roundings, or one where the device fuses product and sum. Without a change there is none.
        let near: Vec<Near> = (before.iter().zip(&change))
            .map(|(before, change)| {
                let (before, change) = (f64::from(*before), f64::from(*change));
                Near(
                    before + change,
                    3.0 * ULP * change.abs() + if change == 0.0 { 0.0 } else { ULP * before.abs() },
                )
            })
            .collect();
        check(&format!("{op:?}"), &to_f32(gpu, &dx).unwrap(), &near);
    }
    draws().len()
}
