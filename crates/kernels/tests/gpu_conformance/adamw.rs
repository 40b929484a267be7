//! AdamW.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{adamw::AdamW, from_f32, to_f32};
use wootz_kernels::ops::adamw as op;

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "adamw_update" => updates(gpu, false),
        "adamw_update_bf16" => {
            ties(gpu);
            updates(gpu, true)
        }
        _ => return None,
    })
}

/// A step that uses every setting, with an eps that can be seen.
fn options(step: u64) -> op::AdamW {
    op::AdamW { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-3, weight_decay: 0.1, step, grad_scale: 0.5 }
}

/// The pairs of bf16 that these weights become.
pub fn in_pairs(w: &[f32]) -> Vec<u32> {
    let half = |w: &f32| u32::from(half::bf16::from_f32(*w).to_bits());
    w.chunks(2).map(|pair| half(&pair[0]) | pair.get(1).map_or(0, half) << 16).collect()
}

pub fn bits<G: Gpu>(gpu: &G, buffer: &G::Buffer) -> Vec<u32> {
    to_f32(gpu, buffer).unwrap().into_iter().map(f32::to_bits).collect()
}

fn updates<G: Gpu>(gpu: &G, in_bf16: bool) -> usize {
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
            if in_bf16 {
                let rounded = from_f32(gpu, &numbers(count.div_ceil(2) + 1, 5)).unwrap();
                let before = bits(gpu, &rounded);
                op.update_bf16(gpu, &w_, &g_, &m_, &v_, &rounded).unwrap();
                let found = bits(gpu, &rounded);
                let want = in_pairs(&to_f32(gpu, &w_).unwrap()[..count]);
                assert!(found[..want.len()] == want, "{op:?}: not the rounded weights");
                assert_eq!(found[want.len()..], before[want.len()..]);
            } else {
                op.update(gpu, &w_, &g_, &m_, &v_).unwrap();
            }
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

/// Weights between two of bf16, exactly halfway and beside it; with a learning rate of 0 they stay.
fn ties<G: Gpu>(gpu: &G) {
    let mut w = Vec::new();
    for upper in [0x3f80u32, 0x3f81, 0xbfff, 0x4049, 0x7f7f, 0x0080, 0xc2c8] {
        w.extend([0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|lower| f32::from_bits(upper << 16 | lower)));
    }
    w.extend([0.0, f32::MAX, f32::MIN]);
    let still = op::AdamW { lr: 0.0, ..options(1) };
    let op = AdamW { count: w.len(), options: still };
    let [g, m, v, rounded] = [1, 2, 3, 4].map(|seed| from_f32(gpu, &numbers(w.len(), seed)).unwrap());
    gpu.upload(&v, 0, &vec![0; 4 * w.len()]).unwrap();
    let w_ = from_f32(gpu, &w).unwrap();
    op.update_bf16(gpu, &w_, &g, &m, &v, &rounded).unwrap();
    assert_eq!(to_f32(gpu, &w_).unwrap(), w);
    assert_eq!(bits(gpu, &rounded)[..w.len().div_ceil(2)], in_pairs(&w));
}
