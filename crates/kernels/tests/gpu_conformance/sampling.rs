//! The likeliest tokens.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::from_f32;
use wootz_kernels::device::launch::sampling::{Likeliest, MAX_K, NO_TOKEN, Sampling};
use wootz_kernels::ops::softmax;

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "sampling_top_k" => {
            what_is_not_finite(gpu);
            hard_rows(gpu);
            the_likeliest(gpu) + top_k(gpu)
        }
        _ => return None,
    })
}

/// The finite tokens of a row, from the largest logit on and from the lowest token on.
fn in_order(row: &[f32]) -> Vec<(u32, f32)> {
    let mut order: Vec<(u32, f32)> =
        (0..).zip(row.iter().copied()).filter(|(_, value)| value.is_finite()).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1)); // a stable sort
    order
}

fn shapes() -> Vec<Sampling> {
    let shape = |rows, vocab, padding| Sampling { rows, vocab, width: vocab + padding };
    let mut all: Vec<Sampling> =
        sizes().into_iter().chain([1000, 5003]).enumerate().map(|(i, n)| shape(3, n, i % 3)).collect();
    all.extend([31, 257].map(|rows| shape(rows, 70, 2)));
    all.push(shape(70_000, 2, 1)); // more rows than a grid dimension holds
    all.push(shape(2, 262_144, 0));
    all
}

/// Logits of few values where `levels` is small, so that many are equal; the padding is larger than all.
fn logits(shape: &Sampling, levels: f32) -> Vec<f32> {
    let mut x: Vec<f32> = numbers(shape.rows * shape.width, 1);
    x.iter_mut().for_each(|x| *x = (*x * levels).floor() / levels * 12.0 + 0.5); // no -0
    x.chunks_exact_mut(shape.width).for_each(|row| row[shape.vocab..].fill(1e6));
    x
}

fn run<G: Gpu>(gpu: &G, shape: &Sampling, x: &[f32], k: usize) -> Vec<Likeliest> {
    let out = from_f32(gpu, &numbers(shape.words(k), 1)).unwrap();
    shape.top_k(gpu, &from_f32(gpu, x).unwrap(), k, &out).unwrap();
    shape.read(gpu, k, &out).unwrap()
}

fn the_likeliest<G: Gpu>(gpu: &G) -> usize {
    let mut cases = 0;
    for shape in shapes() {
        for levels in [1e6, 3.0] {
            let x = logits(&shape, levels);
            let found = run(gpu, &shape, &x, 1);
            for ((row, x), found) in x.chunks_exact(shape.width).enumerate().zip(&found) {
                let x = &x[..shape.vocab];
                let mut want = (0, x[0]);
                for (token, &value) in (0..).zip(x) {
                    if value > want.1 {
                        want = (token, value);
                    }
                }
                assert_eq!(found.tokens, [want], "{shape:?}, row {row}, {levels} levels");
                let want = softmax::reference(&wide(x));
                let size = 3e-6 + 2.0 * ULP * want.abs();
                check(&format!("{shape:?}, lse {row}"), &[found.lse], &[Near(want, size)]);
            }
            // A row has the same bits alone.
            let last = shape.rows - 1;
            let alone = run(gpu, &Sampling { rows: 1, ..shape }, &x[last * shape.width..], 1);
            assert_eq!(alone[0].tokens, found[last].tokens);
            assert_eq!(alone[0].lse.to_bits(), found[last].lse.to_bits(), "{shape:?}");
            cases += 1;
        }
    }
    cases
}

fn what_is_not_finite<G: Gpu>(gpu: &G) {
    const NONE: f32 = f32::NEG_INFINITY;
    let of = |x: &[f32]| {
        let shape = Sampling { rows: 1, vocab: x.len(), width: x.len() };
        let Likeliest { lse, tokens } = run(gpu, &shape, x, 1).remove(0);
        (tokens[0].0, tokens[0].1, lse)
    };
    assert_eq!(of(&[NONE, 3.0]), (1, 3.0, 3.0));
    assert_eq!(of(&[3e38, -3e38]), (0, 3e38, 3e38));
    assert_eq!(of(&[NONE, f32::MIN, f32::MIN]).0, 1);
    assert_eq!(of(&[NONE; 300]), (NO_TOKEN, f32::MIN, NONE));
    for x in [[f32::NAN, 1.0, NONE], [1e9, 1.0, f32::INFINITY], [f32::NAN; 3], [1.0, NONE, -f32::NAN]] {
        assert!(of(&x).2.is_nan(), "{x:?}: {:?}", of(&x));
    }
    assert_eq!(of(&[f32::NAN, 2.0, f32::INFINITY, 2.0]).0, 1);

    let some = gpu.alloc(24).unwrap();
    let shape = Sampling { rows: 2, vocab: 3, width: 2 };
    assert!(shape.top_k(gpu, &some, 1, &some).is_err());
    Sampling { rows: 0, ..shape }.top_k(gpu, &some, 1, &some).unwrap();
}

fn check_top_k(what: &str, shape: &Sampling, x: &[f32], k: usize, found: &[Likeliest]) {
    for (row, (x, found)) in x.chunks_exact(shape.width).zip(found).enumerate() {
        let mut want = in_order(&x[..shape.vocab]);
        want.resize(want.len().max(k), (NO_TOKEN, f32::MIN));
        assert_eq!(found.tokens, want[..k], "{what}: {shape:?}, k {k}, row {row}");
    }
}

fn top_k<G: Gpu>(gpu: &G) -> usize {
    let mut cases = 0;
    for shape in shapes() {
        for (levels, k) in [(1e6, 1), (1e6, 5), (3.0, MAX_K), (1e6, MAX_K)] {
            let k = if shape.rows > 1000 { k.min(3) } else { k };
            let x = logits(&shape, levels);
            let found = run(gpu, &shape, &x, k);
            check_top_k(&format!("{levels} levels"), &shape, &x, k, &found);
            cases += 1;
        }
    }
    let shape = Sampling { rows: 4, vocab: 64, width: 64 };
    let (logits, out) = (gpu.alloc(4 * 4 * 64).unwrap(), gpu.alloc(4 * shape.words(MAX_K)).unwrap());
    shape.top_k(gpu, &logits, MAX_K, &out).unwrap();
    let small = gpu.alloc(4 * shape.words(MAX_K) - 4).unwrap();
    assert!(shape.top_k(gpu, &logits, MAX_K, &small).is_err());
    assert!(shape.top_k(gpu, &logits, MAX_K + 1, &out).is_err());
    assert!(shape.top_k(gpu, &logits, 0, &out).is_err());
    cases
}

/// Rows whose largest logits are all of one thread, all equal, or few.
fn hard_rows<G: Gpu>(gpu: &G) {
    let shape = Sampling { rows: 1, vocab: 256 * 80, width: 256 * 80 };
    let row = |value: &dyn Fn(usize) -> f32| (0..shape.vocab).map(value).collect::<Vec<f32>>();
    let rows = [
        ("one thread's", row(&|v| if v % 256 == 77 { (v * 31 % 1009) as f32 } else { -1.0 })),
        ("one thread's, ascending", row(&|v| if v % 256 == 0 { v as f32 } else { -1.0 })),
        ("one thread's, descending", row(&|v| if v % 256 == 255 { 1e6 - v as f32 } else { -1.0 })),
        ("all equal", row(&|_| 1.5)),
        ("two values of one thread", row(&|v| if v % 256 == 3 { (v / 256 % 2) as f32 } else { -1.0 })),
        ("few", row(&|v| if v % 3000 == 9 { -(v as f32) } else { f32::NEG_INFINITY })),
        ("none", row(&|_| f32::NEG_INFINITY)),
        ("the smallest", row(&|v| if v < 20 { f32::MIN } else { f32::NEG_INFINITY })),
        ("with others", row(&|v| [f32::NAN, f32::INFINITY, v as f32, f32::NEG_INFINITY][v % 4])),
    ];
    for (what, x) in rows {
        let found = run(gpu, &shape, &x, MAX_K);
        check_top_k(what, &shape, &x, MAX_K, &found);
    }
}
