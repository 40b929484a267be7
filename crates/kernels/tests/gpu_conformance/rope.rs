//! Rotary position embedding.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{from_f32, rope::Rope, to_f32};
use wootz_kernels::ops::rope;

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    match kernel {
        "rope" => Some(rope(gpu)),
        _ => None,
    }
}

fn shapes() -> Vec<Rope> {
    let shape = |rows, q_heads, k_heads, half| Rope { rows, q_heads, k_heads, half };
    let mut all: Vec<Rope> = sizes().into_iter().map(|half| shape(3, 4, 2, half)).collect();
    all.extend(sizes().into_iter().map(|rows| shape(rows, 3, 1, 5)));
    all.extend(sizes().into_iter().map(|heads| shape(2, heads, 3, 8)));
    all.extend([shape(7, 0, 2, 16), shape(7, 5, 0, 16), shape(1000, 1, 1, 32)]);
    all.push(shape(66_000, 63, 1, 4)); // more workgroups than a grid dimension holds
    all
}

/// The last `count` rows, or all if there are fewer.
fn last_rows<'a>(op: &Rope, values: &'a [f32], count: usize) -> &'a [f32] {
    let width = values.len() / op.rows;
    &values[values.len() - op.rows.min(count) * width..]
}

/// x `[rows, heads * D]`, turned or turned back.
fn expected(op: &Rope, heads: usize, x: &[f32], angles: [&[f32]; 2], back: bool) -> Vec<Near> {
    let width = heads * 2 * op.half;
    let mut all = Vec::new();
    for row in 0..angles[0].len() / op.half {
        let [cos, sin] = angles.map(|angles| wide(&angles[row * op.half..][..op.half]));
        let x = wide(&x[row * width..][..width]);
        let turned = match back {
            true => rope::reference_backward(&x, &cos, &sin),
            false => rope::reference(&x, &cos, &sin),
        };
        for (i, value) in turned.into_iter().enumerate() {
            // Two products and a sum, each rounded once.
            let partner = if i % (2 * op.half) < op.half { i + op.half } else { i - op.half };
            let size = (x[i] * cos[i % op.half]).abs() + (x[partner] * sin[i % op.half]).abs();
            all.push(Near(value, 2.0 * ULP * size));
        }
    }
    all
}

fn rope<G: Gpu>(gpu: &G) -> usize {
    let shapes = shapes();
    for op in &shapes {
        let [q, k] = [(op.q_heads, 1), (op.k_heads, 2)]
            .map(|(heads, seed)| numbers(op.rows * heads * 2 * op.half, seed));
        let angles = [3, 4].map(|seed| numbers(op.rows * op.half, seed));
        for back in [false, true] {
            let run = |op: &Rope, parts: [&[f32]; 4]| {
                let [q, k, cos, sin] = parts.map(|values| from_f32(gpu, values).unwrap());
                match back {
                    false => op.forward(gpu, &q, &k, &cos, &sin).unwrap(),
                    true => op.backward(gpu, &q, &k, &cos, &sin).unwrap(),
                }
                [q, k].map(|buffer| to_f32(gpu, &buffer).unwrap())
            };
            let found = run(op, [&q, &k, &angles[0], &angles[1]]);
            let what = format!("rope, back: {back}, {op:?}");
            for (heads, x, found) in [(op.q_heads, &q, &found[0]), (op.k_heads, &k, &found[1])] {
                let (x, found) = (last_rows(op, x, 1000), last_rows(op, found, 1000));
                let angles = angles.each_ref().map(|angles| last_rows(op, angles, 1000));
                check(&format!("{what}, {heads} heads"), found, &expected(op, heads, x, angles, back));
            }
            let last = [&q, &k, &angles[0], &angles[1]].map(|values| last_rows(op, values, 1));
            let alone = run(&Rope { rows: 1, ..*op }, last);
            assert!(
                found[0].ends_with(&alone[0]) && found[1].ends_with(&alone[1]),
                "{what}: the last row alone has other bits"
            );
        }
    }
    let none = [(); 4].map(|()| gpu.alloc(0).unwrap());
    let empty = Rope { rows: 0, q_heads: 2, k_heads: 1, half: 4 };
    empty.forward(gpu, &none[0], &none[1], &none[2], &none[3]).unwrap();
    shapes.len()
}
