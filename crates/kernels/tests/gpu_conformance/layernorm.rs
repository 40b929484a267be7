//! LayerNorm.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{from_f32, layernorm::LayerNorm, to_f32};
use wootz_kernels::ops::{Write, layernorm};

use crate::numbers::*;
use crate::rmsnorm::add_before;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "layernorm_forward" => forward(gpu, false),
        "layernorm_add_forward" => forward(gpu, true),
        "layernorm_backward" => backward(gpu, Gradient::Input),
        "layernorm_backward_weight" => backward(gpu, Gradient::Parameters),
        "layernorm_backward_weight_total" => many_rows(gpu),
        _ => return None,
    })
}

fn shapes() -> Vec<LayerNorm> {
    let shape = |rows, dim, eps| LayerNorm { rows, dim, eps };
    let mut all: Vec<LayerNorm> = sizes().into_iter().map(|dim| shape(3, dim, 1e-5)).collect();
    all.extend(sizes().into_iter().map(|rows| shape(rows, 37, 1e-5)));
    all.extend([511, 512, 513, 1000, 3000].map(|dim| shape(5, dim, 1e-6)));
    all.push(shape(70_000, 3, 1e-3)); // more rows than a grid dimension holds
    all
}

/// x around `mean`: where the mean is large, a variance as the difference of two squares would be wrong.
fn inputs(op: &LayerNorm, mean: f32) -> [Vec<f32>; 3] {
    let x = numbers(op.rows * op.dim, 1).iter().map(|x| x + mean).collect();
    [x, numbers(op.dim, 2), numbers(op.dim, 3)]
}

/// What a row's n and s are, and how far f32 may be from them.
struct Row {
    n: Vec<f64>,
    s: f64,
    /// Of s.
    relative_error: f64,
    /// Of an element n that is `n` in truth.
    error: Box<dyn Fn(f64) -> f64>,
}

fn row(op: &LayerNorm, x: &[f64]) -> Row {
    let dim = x.len() as f64;
    let mean = x.iter().sum::<f64>() / dim;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / dim;
    let s = 1.0 / (variance + f64::from(op.eps)).sqrt();
    // A sum of so many numbers in a tree, divided by another, then subtracted: in units of the largest.
    let largest = x.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    let in_mean = largest * ULP * (dim / 256.0 + 16.0);
    // The differences' error comes back in their squares, and so in s; root and quotient have their own.
    let relative_error = s * in_mean * (1.0 + s * in_mean) + 1.2e-6 + dim / 256.0 * ULP;
    Row {
        n: x.iter().map(|x| (x - mean) * s).collect(),
        s,
        relative_error,
        error: Box::new(move |n| s * in_mean + n.abs() * (relative_error + 2.0 * ULP)),
    }
}

fn forward<G: Gpu>(gpu: &G, adds: bool) -> usize {
    let shapes = shapes();
    for (case, op) in shapes.iter().enumerate() {
        let [x, weight, bias] = inputs(op, if case % 3 == 2 { 50.0 } else { 0.0 });
        let addend = numbers(x.len(), 4);
        let [weight_, bias_] = [&weight, &bias].map(|v| from_f32(gpu, v).unwrap());
        let run = |op: &LayerNorm, x: &[f32], addend: &[f32]| {
            // y is assigned: what it held is gone.
            let [x, addend, y] =
                [x, addend, &numbers(x.len(), 5)].map(|values| from_f32(gpu, values).unwrap());
            match adds {
                true => op.add_forward(gpu, &x, &addend, &weight_, &bias_, &y).unwrap(),
                false => op.forward(gpu, &x, &weight_, &bias_, &y).unwrap(),
            }
            [x, y].map(|buffer| to_f32(gpu, &buffer).unwrap())
        };
        let [sum, y] = run(op, &x, &addend);
        if adds {
            // A sum of two is rounded once: it has one right result.
            let expected: Vec<f32> = x.iter().zip(&addend).map(|(x, addend)| x + addend).collect();
            assert_eq!(sum, expected, "layernorm_add_forward {op:?}: x");
            let apart = gpu.alloc(4 * sum.len()).unwrap();
            op.forward(gpu, &from_f32(gpu, &sum).unwrap(), &weight_, &bias_, &apart).unwrap();
            assert_eq!(to_f32(gpu, &apart).unwrap(), y, "{op:?}: first added, then normed");
        }
        let want = layernorm::reference(op.eps, &wide(&sum), &wide(&weight), &wide(&bias));
        let mut expected = Vec::new();
        for (x, want) in wide(&sum).chunks(op.dim).zip(want.chunks(op.dim)) {
            let row = row(op, x);
            expected.extend((0..op.dim).map(|c| {
                let scaled =
                    f64::from(weight[c].abs()) * ((row.error)(row.n[c]) + 2.0 * ULP * row.n[c].abs());
                Near(want[c], scaled + 2.0 * ULP * (want[c].abs() + f64::from(bias[c].abs())))
            }));
        }
        let what = format!("layernorm forward, adds: {adds}, {op:?}");
        check(&what, &y, &expected);
        let last = x.len() - op.dim..x.len();
        let alone = run(&LayerNorm { rows: 1, ..*op }, &x[last.clone()], &addend[last.clone()]);
        assert_eq!(alone[1], y[last], "{what}: the last row alone has other bits");
    }
    shapes.len()
}

/// So many rows that each chunk of them is larger than the smallest: dweight and dbias, and that a second run gives their
/// bits.
fn many_rows<G: Gpu>(gpu: &G) -> usize {
    let shapes = [(16_384, 1), (16_385, 33), (50_000, 3)];
    for (rows, dim) in shapes {
        let op = LayerNorm { rows, dim, eps: 1e-5 };
        let ([x, weight, _], dy) = (inputs(&op, 0.0), numbers(rows * dim, 4));
        let before = [numbers(dim, 6), numbers(dim, 7)];
        let [x_, dy_, weight_] = [&x, &dy, &weight].map(|values| from_f32(gpu, values).unwrap());
        let run = || {
            let dx = gpu.alloc(4 * x.len()).unwrap();
            let [dweight, dbias] = before.each_ref().map(|values| from_f32(gpu, values).unwrap());
            let scratch = from_f32(gpu, &vec![f32::NAN; op.scratch_bytes() / 4]).unwrap();
            let parameters = Some([&dweight, &dbias]);
            op.backward(gpu, &x_, &weight_, &dy_, &dx, Write::Set, parameters, &scratch).unwrap();
            [dweight, dbias].map(|buffer| to_f32(gpu, &buffer).unwrap())
        };
        let found = run();
        let [_, expected @ ..] = gradients(&op, &x, &weight, &dy);
        for ((name, found), (mut expected, before)) in
            ["dweight", "dbias"].into_iter().zip(&found).zip(expected.into_iter().zip(&before))
        {
            add_before(&mut expected, before);
            check(&format!("layernorm {name} {op:?}"), found, &expected);
        }
        assert_eq!(found, run(), "layernorm {op:?}: a second run has other bits");
    }
    shapes.len()
}

enum Gradient {
    Input,
    Parameters,
}

/// dx, and what dweight and dbias grow by, in f64, with the errors that f32 may make.
fn gradients(op: &LayerNorm, x: &[f32], weight: &[f32], dy: &[f32]) -> [Vec<Near>; 3] {
    let (x, weight, dy) = (wide(x), wide(weight), wide(dy));
    let [dx, dweight, dbias] = layernorm::reference_backward(op.eps, &x, &weight, &dy);
    let dim = op.dim;
    let sums = 3e-6 + (op.rows as f64 / 2048.0 + 64.0) * ULP; // 8 threads walk the rows of a chunk, 8 the chunks
    let mut near_dx = Vec::new();
    let (mut for_weight, mut for_bias) = (vec![0.0; dim], vec![0.0; dim]);
    for (r, x) in x.chunks(dim).enumerate() {
        let (row, dy, dx) = (row(op, x), &dy[r * dim..][..dim], &dx[r * dim..][..dim]);
        let mean = |f: &dyn Fn(usize) -> f64| (0..dim).map(f).sum::<f64>() / dim as f64;
        let dn = |c: usize| (dy[c] * weight[c]).abs();
        let (n, error) = (|c: usize| row.n[c].abs(), |c: usize| (row.error)(row.n[c]));
        let all = mean(&dn);
        let along = mean(&|c| dn(c) * n(c));
        let along_error = mean(&|c| dn(c) * error(c));
        for c in 0..dim {
            let size = dn(c) + all + n(c) * along;
            let relative = 3e-6 + row.relative_error + dim as f64 / 256.0 * ULP;
            let tolerance = size * relative + error(c) * along + n(c) * along_error;
            near_dx.push(Near(dx[c], row.s * tolerance));
            for_weight[c] += dy[c].abs() * (error(c) + n(c) * sums);
            for_bias[c] += dy[c].abs() * sums;
        }
    }
    let near =
        |sums: Vec<f64>, errors: Vec<f64>| sums.into_iter().zip(errors).map(|(s, e)| Near(s, e)).collect();
    [near_dx, near(dweight, for_weight), near(dbias, for_bias)]
}

fn backward<G: Gpu>(gpu: &G, gradient: Gradient) -> usize {
    let shapes = shapes();
    for (case, op) in shapes.iter().enumerate() {
        let [x, weight, _] = inputs(op, if case % 3 == 2 { 50.0 } else { 0.0 });
        let dy = numbers(x.len(), 4);
        // The outputs hold something before: dx is assigned or added to, the others added to.
        let write = if case % 2 == 0 { Write::Set } else { Write::Add };
        let (before_dx, before) = (numbers(x.len(), 5), [numbers(op.dim, 6), numbers(op.dim, 7)]);
        let weight_ = from_f32(gpu, &weight).unwrap();
        let [dweight, dbias] = before.each_ref().map(|values| from_f32(gpu, values).unwrap());
        let run = |op: &LayerNorm, parts: [&[f32]; 3], parameters: Option<[&G::Buffer; 2]>| {
            let [x, dy, dx] = parts.map(|values| from_f32(gpu, values).unwrap());
            let scratch = gpu.alloc(op.scratch_bytes()).unwrap();
            op.backward(gpu, &x, &weight_, &dy, &dx, write, parameters, &scratch).unwrap();
            to_f32(gpu, &dx).unwrap()
        };
        let dx = run(op, [&x, &dy, &before_dx], Some([&dweight, &dbias]));
        let [mut for_dx, mut for_dweight, mut for_dbias] = gradients(op, &x, &weight, &dy);
        match gradient {
            Gradient::Input => {
                if write == Write::Add {
                    add_before(&mut for_dx, &before_dx);
                }
                check(&format!("layernorm dx {write:?} {op:?}"), &dx, &for_dx);
                let last = x.len() - op.dim..x.len();
                let parts = [&x, &dy, &before_dx].map(|values| &values[last.clone()]);
                let alone = run(&LayerNorm { rows: 1, ..*op }, parts, None);
                assert_eq!(alone, dx[last], "layernorm dx {op:?}: the last row alone has other bits");
            }
            Gradient::Parameters => {
                add_before(&mut for_dweight, &before[0]);
                add_before(&mut for_dbias, &before[1]);
                check(&format!("layernorm dweight {op:?}"), &to_f32(gpu, &dweight).unwrap(), &for_dweight);
                check(&format!("layernorm dbias {op:?}"), &to_f32(gpu, &dbias).unwrap(), &for_dbias);
            }
        }
    }
    shapes.len()
}
