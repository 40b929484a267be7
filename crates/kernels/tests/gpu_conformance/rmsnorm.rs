//! RMSNorm.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{from_f32, rmsnorm::RmsNorm, to_f32};
use wootz_kernels::ops::Write;

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "rmsnorm_forward" => rmsnorm_forward(gpu, false) + many_wide_rows(gpu),
        "rmsnorm_small_forward" => rmsnorm_forward(gpu, true),
        "rmsnorm_add_forward" => rmsnorm_add_forward(gpu, false),
        "rmsnorm_small_add_forward" => rmsnorm_add_forward(gpu, true),
        "rmsnorm_backward" => rmsnorm_backward(gpu, Gradient::Input),
        "rmsnorm_backward_weight" => rmsnorm_backward(gpu, Gradient::Weight),
        "rmsnorm_backward_weight_total" => many_rows(gpu),
        "rmsnorm_backward_in_place" => backward_in_place(gpu, false),
        "rmsnorm_backward_scales" => backward_in_place(gpu, true),
        _ => return None,
    })
}

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
    all.extend([258, 300, 511, 512, 513, 1000, 1025].map(|dim| shape(9, dim, 1e-5, 0.0)));
    all.push(shape(2, 3000, 1e-6, 1.0));
    all.push(shape(70_000, 3, 1e-6, 0.0)); // more rows than a grid dimension holds
    all
}

/// The expected y, for numbers below 1 in x.
fn near_reference(op: &RmsNorm, x: &[f32], weight: &[f32]) -> Vec<Near> {
    let (expected, _) = rmsnorm_reference(op, &wide(x), &wide(weight));
    expected.into_iter().map(|v| Near(v, 3e-6 * v.abs())).collect()
}

/// That the first and the last row have the bits that they have when they are alone. `y` is what `run` made of
/// the rows `x`.
fn check_bits(what: &str, op: &RmsNorm, x: &[f32], y: &[f32], run: impl Fn(&RmsNorm, &[f32]) -> Vec<f32>) {
    let alone = RmsNorm { rows: 1, ..*op };
    for row in [0, op.rows - 1] {
        let at = row * op.dim..(row + 1) * op.dim;
        let found = run(&alone, &x[at.clone()]);
        let same = found.iter().zip(&y[at]).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{what} {op:?}: row {row} alone has other bits");
    }
}

/// Rows of at most 256 columns are taken by one kernel, longer ones by the other.
fn rmsnorm_forward<G: Gpu>(gpu: &G, small: bool) -> usize {
    let mut shapes: Vec<RmsNorm> =
        rmsnorm_shapes().into_iter().filter(|op| (op.dim <= 256) == small).collect();
    if small {
        // More groups of 8 rows than a grid dimension holds.
        shapes.push(RmsNorm { rows: 8 * 65_535 + 11, dim: 2, eps: 1e-6, offset: 0.0 });
    }
    for op in &shapes {
        let (x, weight) = (numbers(op.rows * op.dim, 1), numbers(op.dim, 2));
        let weight_ = from_f32(gpu, &weight).unwrap();
        let run = |op: &RmsNorm, x: &[f32]| {
            let y = from_f32(gpu, &numbers(x.len(), 3)).unwrap(); // assigned: what it held is gone
            op.forward(gpu, &from_f32(gpu, x).unwrap(), &weight_, &y).unwrap();
            to_f32(gpu, &y).unwrap()
        };
        let y = run(op, &x);
        check(&format!("rmsnorm_forward {op:?}"), &y, &near_reference(op, &x, &weight));
        check_bits("rmsnorm_forward", op, &x, &y, run);
    }
    shapes.len()
}

/// More wide rows than a grid dimension holds; only the last few are compared.
fn many_wide_rows<G: Gpu>(gpu: &G) -> usize {
    let op = RmsNorm { rows: 65_538, dim: 257, eps: 1e-6, offset: 0.0 };
    let (x, weight) = (numbers(op.rows * op.dim, 1), numbers(op.dim, 2));
    let y = gpu.alloc(4 * x.len()).unwrap();
    op.forward(gpu, &from_f32(gpu, &x).unwrap(), &from_f32(gpu, &weight).unwrap(), &y).unwrap();
    let last = (op.rows - 5) * op.dim;
    let expected = near_reference(&RmsNorm { rows: 5, ..op }, &x[last..], &weight);
    check(&format!("rmsnorm_forward {op:?}"), &to_f32(gpu, &y).unwrap()[last..], &expected);
    1
}

fn rmsnorm_add_forward<G: Gpu>(gpu: &G, small: bool) -> usize {
    let shapes: Vec<RmsNorm> = rmsnorm_shapes().into_iter().filter(|op| (op.dim <= 256) == small).collect();
    for op in &shapes {
        let count = op.rows * op.dim;
        let (x, addend, weight) = (numbers(count, 1), numbers(count, 4), numbers(op.dim, 2));
        let (addend_, weight_) = (from_f32(gpu, &addend).unwrap(), from_f32(gpu, &weight).unwrap());
        let run = |op: &RmsNorm, x: &[f32], addend: &G::Buffer| {
            let (x, y) = (from_f32(gpu, x).unwrap(), from_f32(gpu, &numbers(x.len(), 3)).unwrap());
            op.add_forward(gpu, &x, addend, &weight_, &y).unwrap();
            [x, y].map(|buffer| to_f32(gpu, &buffer).unwrap())
        };
        let [sum, y] = run(op, &x, &addend_);
        // A sum of two is rounded once: it has one right result.
        let expected: Vec<f32> = x.iter().zip(&addend).map(|(x, addend)| x + addend).collect();
        assert_eq!(sum, expected, "rmsnorm_add_forward {op:?}: x");
        check(&format!("rmsnorm_add_forward {op:?}"), &y, &near_reference(op, &sum, &weight));
        let last = count - op.dim..count;
        let alone = run(
            &RmsNorm { rows: 1, ..*op },
            &x[last.clone()],
            &from_f32(gpu, &addend[last.clone()]).unwrap(),
        );
        assert_eq!(alone[1], y[last], "rmsnorm_add_forward {op:?}: the last row alone has other bits");
        let apart = gpu.alloc(4 * count).unwrap();
        op.forward(gpu, &from_f32(gpu, &sum).unwrap(), &weight_, &apart).unwrap();
        assert_eq!(to_f32(gpu, &apart).unwrap(), y, "{op:?}: first added, then normed");
    }
    shapes.len()
}

enum Gradient {
    Input,
    Weight,
}

fn rmsnorm_backward<G: Gpu>(gpu: &G, gradient: Gradient) -> usize {
    let shapes = rmsnorm_shapes();
    for (case, op) in shapes.iter().enumerate() {
        let count = op.rows * op.dim;
        let (x, weight, dy) = (numbers(count, 1), numbers(op.dim, 2), numbers(count, 3));
        // Both outputs hold something before: dx is assigned or added to, dweight added to.
        let write = if case % 2 == 0 { Write::Set } else { Write::Add };
        let (before_dx, before) = (numbers(count, 5), numbers(op.dim, 4));
        let weight_ = from_f32(gpu, &weight).unwrap();
        let dweight = from_f32(gpu, &before).unwrap();
        let run = |op: &RmsNorm, parts: [&[f32]; 3], dweight: Option<&G::Buffer>| {
            let [x, dy, dx] = parts.map(|values| from_f32(gpu, values).unwrap());
            let scratch = gpu.alloc(op.scratch_bytes()).unwrap();
            op.backward(gpu, &x, &weight_, &dy, &dx, write, dweight, &scratch).unwrap();
            to_f32(gpu, &dx).unwrap()
        };
        let dx = run(op, [&x, &dy, &before_dx], Some(&dweight));
        let (mut for_dx, mut for_dweight) = rmsnorm_gradients(op, &wide(&x), &wide(&weight), &wide(&dy));
        match gradient {
            Gradient::Input => {
                if write == Write::Add {
                    add_before(&mut for_dx, &before_dx);
                }
                check(&format!("rmsnorm dx {write:?} {op:?}"), &dx, &for_dx);
                let last = count - op.dim..count;
                let parts = [&x, &dy, &before_dx].map(|values| &values[last.clone()]);
                let alone = run(&RmsNorm { rows: 1, ..*op }, parts, None);
                assert_eq!(alone, dx[last], "rmsnorm dx {op:?}: the last row alone has other bits");
            }
            Gradient::Weight => {
                add_before(&mut for_dweight, &before);
                check(&format!("rmsnorm dweight {op:?}"), &to_f32(gpu, &dweight).unwrap(), &for_dweight);
            }
        }
    }
    shapes.len()
}

/// So many rows that each chunk of them is larger than the smallest: dweight, and that a second run gives its bits.
fn many_rows<G: Gpu>(gpu: &G) -> usize {
    let shapes = [(16_384, 1), (16_385, 33), (50_000, 3)];
    for (rows, dim) in shapes {
        let op = RmsNorm { rows, dim, eps: 1e-6, offset: 0.0 };
        let [x, dy, weight, before] =
            [(rows * dim, 1), (rows * dim, 2), (dim, 3), (dim, 4)].map(|(len, seed)| numbers(len, seed));
        let [x_, dy_, weight_] = [&x, &dy, &weight].map(|values| from_f32(gpu, values).unwrap());
        let run = || {
            let (dx, dweight) = (gpu.alloc(4 * x.len()).unwrap(), from_f32(gpu, &before).unwrap());
            let scratch = from_f32(gpu, &vec![f32::NAN; op.scratch_bytes() / 4]).unwrap();
            op.backward(gpu, &x_, &weight_, &dy_, &dx, Write::Set, Some(&dweight), &scratch).unwrap();
            to_f32(gpu, &dweight).unwrap()
        };
        let found = run();
        let (_, mut expected) = rmsnorm_gradients(&op, &wide(&x), &wide(&weight), &wide(&dy));
        // 8 threads walk at most 196 rows of a chunk, then 8 threads 32 chunks.
        let relative = (3e-6 + 64.0 * ULP) / (3e-6 + rows as f64 * ULP);
        expected.iter_mut().for_each(|near| near.1 *= relative);
        add_before(&mut expected, &before);
        check(&format!("rmsnorm dweight {op:?}"), &found, &expected);
        assert_eq!(found, run(), "rmsnorm dweight {op:?}: a second run has other bits");
    }
    shapes.len()
}

/// The bits of backward, with dx over dy.
fn backward_in_place<G: Gpu>(gpu: &G, with_weight: bool) -> usize {
    let shapes: Vec<RmsNorm> =
        rmsnorm_shapes().into_iter().step_by(if with_weight { 1 } else { 4 }).collect();
    for op in &shapes {
        let count = op.rows * op.dim;
        let (x, weight, dy, before) =
            (numbers(count, 1), numbers(op.dim, 2), numbers(count, 3), numbers(op.dim, 4));
        let [x, weight] = [&x, &weight].map(|values| from_f32(gpu, values).unwrap());
        let both = [false, true].map(|in_place| {
            let [dy, dx, dweight] = [&dy, &dy, &before].map(|values| from_f32(gpu, values).unwrap());
            let scratch = from_f32(gpu, &vec![f32::NAN; op.scratch_bytes() / 4]).unwrap();
            let for_weight = with_weight.then_some(&dweight);
            match in_place {
                true => op.backward_in_place(gpu, &x, &weight, &dx, for_weight, &scratch).unwrap(),
                false => {
                    op.backward(gpu, &x, &weight, &dy, &dx, Write::Set, for_weight, &scratch).unwrap();
                }
            }
            [bits(gpu, &dx), bits(gpu, &dweight)]
        });
        assert!(both[0] == both[1], "rmsnorm backward {op:?}: in place it has other bits");
    }
    let op = RmsNorm { rows: 3, dim: 4, eps: 1e-6, offset: 0.0 };
    let [all, one] = [12, 4].map(|count| from_f32(gpu, &numbers(count, 1)).unwrap());
    let small = gpu.alloc(op.scratch_bytes() - 4).unwrap();
    assert!(op.backward_in_place(gpu, &all, &one, &all, None, &small).is_err());
    shapes.len()
}

/// What is added to something: one more rounding.
pub fn add_before(sums: &mut [Near], before: &[f32]) {
    for (near, &start) in sums.iter_mut().zip(before) {
        near.0 += f64::from(start);
        near.1 += (near.0.abs() + f64::from(start.abs())) * ULP;
    }
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
