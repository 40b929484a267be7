//! AdamW.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{adamw::AdamW, from_f32, to_f32};
use wootz_kernels::ops::adamw as op;

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "adamw_update" => updates(gpu),
        _ => return None,
    })
}

/// A step that uses every setting, with an eps that can be seen.
fn options(step: u64) -> op::AdamW {
    op::AdamW { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-3, weight_decay: 0.1, step, grad_scale: 0.5 }
}

fn updates<G: Gpu>(gpu: &G) -> usize {
    let mut cases = 0;
    for count in sizes().into_iter().chain([1000, 70_001]) {
        for step in [1, 2, 1000] {
            let op = AdamW { count, options: options(step) };
            // Gradients of all magnitudes, and one that is 0; more elements than the kernel may touch.
            let past = count + 7;
            let mut g: Vec<f32> = (numbers(past, 1).iter().enumerate())
                .map(|(i, g)| g * 10f32.powi(i as i32 % 9 - 6))
                .collect();
            g[count / 2] = 0.0;
            let (w, m) = (numbers(past, 2), numbers(past, 3));
            let v: Vec<f32> = numbers(past, 4).iter().map(|v| v * v).collect();
            let [w_, g_, m_, v_] = [&w, &g, &m, &v].map(|x| from_f32(gpu, x).unwrap());
            op.update(gpu, &w_, &g_, &m_, &v_).unwrap();
            let mut near = [Vec::new(), Vec::new(), Vec::new()];
            for i in 0..count {
                let [w, g, m, v] = [w[i], g[i], m[i], v[i]].map(f64::from);
                let [new_w, new_m, new_v] = op::reference(&op.options, [w, g, m, v]);
                // Four roundings, of operands and constants; m is a difference of what may be larger.
                let of_m = 6.0 * ULP * (m.abs() + g.abs());
                let step = (new_w - w * (1.0 - op.options.lr * op.options.weight_decay)).abs();
                let by_m = if new_m == 0.0 { 0.0 } else { step * of_m / new_m.abs() };
                // Root and quotient of a GPU are exact to 2.5 units in the last place, each unit two ULP.
                near[0].push(Near(new_w, 4.0 * ULP * w.abs() + 24.0 * ULP * step + by_m));
                near[1].push(Near(new_m, of_m));
                near[2].push(Near(new_v, 6.0 * ULP * new_v));
            }
            for (name, buffer, before, near) in
                [("w", &w_, &w, &near[0]), ("m", &m_, &m, &near[1]), ("v", &v_, &v, &near[2])]
            {
                let found = to_f32(gpu, buffer).unwrap();
                check(&format!("{name} of {op:?}"), &found, near);
                assert_eq!(found[count..], before[count..], "{name} of {op:?}: what is not its own");
            }
            cases += 1;
        }
    }
    let some = gpu.alloc(16).unwrap();
    let short = AdamW { count: 5, options: options(1) };
    assert!(short.update(gpu, &some, &some, &some, &some).is_err());
    AdamW { count: 0, ..short }.update(gpu, &some, &some, &some, &some).unwrap();
    cases
}
