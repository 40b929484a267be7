//! Cross-entropy.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{cross_entropy::CrossEntropy, from_f32, to_f32};
use wootz_kernels::ops::cross_entropy as op;

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "cross_entropy_forward" => {
            edges(gpu);
            rows_do_not_depend_on_each_other(gpu);
            all(gpu, Part::Forward)
        }
        "cross_entropy_backward" => all(gpu, Part::Backward),
        _ => return None,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Forward,
    Backward,
}

fn upload<G: Gpu>(gpu: &G, words: &[u32]) -> G::Buffer {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let buffer = gpu.alloc(bytes.len()).unwrap();
    gpu.upload(&buffer, 0, &bytes).unwrap();
    buffer
}

fn upload_targets<G: Gpu>(gpu: &G, targets: &[i32]) -> G::Buffer {
    upload(gpu, &targets.iter().map(|&target| target as u32).collect::<Vec<_>>())
}

/// What a launch of each kernel leaves: losses, entropies and the gradient.
struct Found {
    loss: Vec<f32>,
    entropy: Vec<f32>,
    dx: Vec<f32>,
}

fn run<G: Gpu>(
    gpu: &G,
    shape: &CrossEntropy,
    x: &[f32],
    targets: &[i32],
    left_out: Option<&[u32]>,
    weights: &[f32],
) -> Found {
    let rows = shape.rows;
    let logits = from_f32(gpu, x).unwrap();
    let targets = upload_targets(gpu, targets);
    let left_out = left_out.map(|words| upload(gpu, words));
    let [loss, entropy, normaliser] =
        [(rows, 91), (rows, 92), (2 * rows, 93)].map(|(n, seed)| from_f32(gpu, &numbers(n, seed)).unwrap());
    shape.forward(gpu, &logits, &targets, left_out.as_ref(), &loss, &entropy, &normaliser).unwrap();
    assert_eq!(to_f32(gpu, &logits).unwrap().len(), x.len());
    let weights = from_f32(gpu, weights).unwrap();
    shape.backward(gpu, &logits, &targets, left_out.as_ref(), &weights, &normaliser).unwrap();
    let [loss, entropy, dx] = [&loss, &entropy, &logits].map(|buffer| to_f32(gpu, buffer).unwrap());
    Found { loss, entropy, dx }
}

/// How many shapes: each vocabulary with and without padding, soft cap and tokens that are left out.
fn all<G: Gpu>(gpu: &G, part: Part) -> usize {
    let plain = |rows, vocab, width| CrossEntropy { rows, vocab, width, scale: 1.0, soft_cap: None };
    let mut shapes = Vec::new();
    for (i, vocab) in sizes().into_iter().chain([1000, 5003]).enumerate() {
        let bent = CrossEntropy { soft_cap: Some(5.0), ..plain(4, vocab, vocab) };
        let hot = CrossEntropy { scale: 0.7, ..plain(4, vocab, vocab + 3) };
        let both = CrossEntropy { scale: 1.25, soft_cap: Some(9.0), ..plain(4, vocab, vocab + i % 2) };
        shapes.extend([(plain(4, vocab, vocab + i % 3), i % 2 == 0), (bent, i % 2 == 1), (hot, i % 2 == 0)]);
        shapes.push((both, i % 2 == 1));
    }
    shapes.extend([31, 257].map(|rows| (plain(rows, 37, 40), true)));
    shapes.push((plain(66_000, 3, 3), false)); // more rows than a grid dimension holds
    shapes.push((plain(2, 262_144, 262_144), false));
    shapes.push((CrossEntropy { soft_cap: Some(30.0), ..plain(2, 50_257, 50_304) }, true));
    for (shape, leaves_out) in &shapes {
        against_the_reference(gpu, shape, *leaves_out, part);
    }
    shapes.len()
}

fn against_the_reference<G: Gpu>(gpu: &G, shape: &CrossEntropy, leaves_out: bool, part: Part) {
    let &CrossEntropy { rows, vocab, width, scale, soft_cap } = shape;
    let mut x: Vec<f32> = numbers(rows * width, 1).iter().map(|x| 9.0 * x).collect();
    // What stands in the padding must not matter.
    x.chunks_exact_mut(width).for_each(|row| row[vocab..].fill(1e3));
    let targets: Vec<i32> = (0..rows)
        .map(|row| match row % 4 {
            0 => 0,
            1 => (vocab / 2) as i32,
            2 => -100 - row as i32,
            _ => vocab as i32 - 1,
        })
        .collect();
    let is_kept =
        |row: usize, v: usize| !leaves_out || targets[row] == v as i32 || !(row + v).is_multiple_of(3);
    let words = shape.left_out_words();
    let mut bits = vec![0u32; rows * words];
    for row in 0..rows {
        // The bits after the last token mean nothing.
        (0..32 * words)
            .filter(|&v| v >= vocab || !is_kept(row, v))
            .for_each(|v| bits[row * words + v / 32] |= 1 << (v % 32));
    }
    let weights: Vec<f32> = numbers(rows, 2).iter().map(|w| 3.0 * w).collect();
    let found = run(gpu, shape, &x, &targets, leaves_out.then_some(&bits[..]), &weights);

    let options = op::CrossEntropy { vocab, soft_cap, scale, left_out: None };
    let what = format!("{shape:?}, left out: {leaves_out}");
    for row in 0..rows {
        let dx = &found.dx[row * width..][..width];
        let Ok(target) = usize::try_from(targets[row]) else {
            assert!(found.loss[row] == 0.0 && found.entropy[row] == 0.0, "{what}: row {row}");
            assert!(dx.iter().all(|&d| d == 0.0), "{what}: gradient of row {row}");
            continue;
        };
        let kept: Vec<usize> = (0..vocab).filter(|&v| is_kept(row, v)).collect();
        let few: Vec<f64> = kept.iter().map(|&v| f64::from(x[row * width + v])).collect();
        let at = kept.iter().position(|&v| v == target).unwrap();
        // A logit's own rounding: of the product with the scale, and of tanh, which is exact to 4 units of 1.
        let bent = soft_cap.map_or(0.0, |cap| 8.0 * ULP * f64::from(cap * scale));
        let rounding = 9.0 * f64::from(scale) * 2.0 * ULP + bent;
        let (loss, entropy) = op::reference(&options, &few, at);
        match part {
            Part::Forward => {
                // Of log and largest, and of the sum's terms.
                let size = 3e-6 + loss.abs() * 4.0 * ULP + 2.0 * rounding;
                check(&format!("{what}: loss {row}"), &[found.loss[row]], &[Near(loss, size)]);
                check(&format!("{what}: entropy {row}"), &[found.entropy[row]], &[Near(entropy, 2.0 * size)]);
            }
            Part::Backward => {
                let expected = op::reference_backward(&options, &few, at, f64::from(weights[row]));
                // log p of each, for the exponential's error grows with the distance from the largest.
                let z: Vec<f64> = match soft_cap.map(f64::from) {
                    Some(cap) => few.iter().map(|x| f64::from(scale) * cap * (x / cap).tanh()).collect(),
                    None => few.iter().map(|x| f64::from(scale) * x).collect(),
                };
                let largest = z.iter().fold(f64::NEG_INFINITY, |a, &z| a.max(z));
                let log_sum = z.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
                let unit = f64::from(weights[row].abs() * scale);
                let mut near = vec![Near(0.0, 0.0); width];
                for (i, &v) in kept.iter().enumerate() {
                    let p = (z[i] - largest - log_sum).exp();
                    let relative = 3e-6 + 4.0 * ULP * (largest - z[i]) + 2.0 * rounding;
                    let of_target = if i == at { 1.0 } else { 0.0 };
                    let tanh = if soft_cap.is_some() { 16.0 * ULP } else { 4.0 * ULP };
                    near[v] = Near(expected[i], unit * (p * relative + (p + of_target) * tanh));
                }
                check(&format!("{what}: dx {row}"), dx, &near);
            }
        }
    }
}

/// A row has the same bits alone as among others.
fn rows_do_not_depend_on_each_other<G: Gpu>(gpu: &G) {
    let (rows, vocab) = (65, 333);
    let shape = CrossEntropy { rows, vocab, width: vocab + 1, scale: 0.9, soft_cap: Some(20.0) };
    let x: Vec<f32> = numbers(rows * shape.width, 3).iter().map(|x| 20.0 * x).collect();
    let targets: Vec<i32> = (0..rows as i32).map(|row| 5 * row).collect();
    let weights = numbers(rows, 4);
    let all = run(gpu, &shape, &x, &targets, None, &weights);
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for row in [0, 1, 31, 64] {
        let x = &x[row * shape.width..][..shape.width];
        let one = CrossEntropy { rows: 1, ..shape };
        let alone = run(gpu, &one, x, &targets[row..][..1], None, &weights[row..][..1]);
        assert_eq!(bits(&alone.loss), bits(&all.loss[row..][..1]));
        assert_eq!(bits(&alone.entropy), bits(&all.entropy[row..][..1]));
        assert_eq!(bits(&alone.dx), bits(&all.dx[row * shape.width..][..shape.width]));
    }
}

/// As on the CPU: nothing overflows, the impossible takes no part, and what is not a number stays so.
fn edges<G: Gpu>(gpu: &G) {
    let of = |x: &[f32], target: i32| {
        let shape = CrossEntropy { rows: 1, vocab: x.len(), width: x.len(), scale: 1.0, soft_cap: None };
        let found = run(gpu, &shape, x, &[target], None, &[1.0]);
        (found.dx, found.loss[0], found.entropy[0])
    };
    assert_eq!(of(&[1e30, -1e30, 0.0], 0), (vec![0.0; 3], 0.0, 0.0));
    assert_eq!(of(&[1e4, 0.0], 1), (vec![1.0, -1.0], 1e4, 0.0));
    assert_eq!(of(&[-3e38, -1e38], 1), (vec![0.0; 2], 0.0, 0.0));
    let (dx, loss, entropy) = of(&[2.0, f32::NEG_INFINITY, 2.0], 2);
    check("dx beside -infinity", &dx, &[0.5, 0.0, -0.5].map(|d| Near(d, 1e-6)));
    check("loss and entropy", &[loss, entropy], &[Near(2f64.ln(), 2e-6); 2]);
    assert_eq!(of(&[2.0, f32::NEG_INFINITY], 1).1, f32::INFINITY);
    for x in [[f32::NAN, 1.0, 2.0], [f32::NAN; 3], [f32::INFINITY, 1.0, 2.0]] {
        let (_, loss, entropy) = of(&x, 1);
        assert!(loss.is_nan() && entropy.is_nan(), "{x:?}: {loss} {entropy}");
    }
    assert!(of(&[1.0, 2.0], 2).1.is_nan(), "a target beyond the vocabulary");

    // Ever larger and ever smaller logits, where each thread's largest changes at every step, or never.
    for slope in [1e-3f32, -1e-3] {
        let x: Vec<f32> = (0..20_000).map(|v| slope * v as f32).collect();
        let (loss, entropy) = op::reference(&op::CrossEntropy::plain(x.len()), &wide(&x), 7);
        let (_, found_loss, found_entropy) = of(&x, 7);
        check("slope", &[found_loss, found_entropy], &[Near(loss, 1e-5), Near(entropy, 2e-5)]);
    }

    let narrow = CrossEntropy { rows: 1, vocab: 5, width: 4, scale: 1.0, soft_cap: None };
    let some = gpu.alloc(64).unwrap();
    assert!(narrow.backward(gpu, &some, &some, None, &some, &some).is_err());
    let none = CrossEntropy { rows: 0, ..narrow };
    none.backward(gpu, &some, &some, None, &some, &some).unwrap();
}
