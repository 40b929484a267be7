//! The formulas, in f64: plain loops over one head of one sequence.

use super::Attention;

/// `(y [T, D], lse [T])` of `q`, `k` and `v` `[T, D]`.
pub fn reference(attention: &Attention, dim: usize, [q, k, v]: [&[f64]; 3]) -> (Vec<f64>, Vec<f64>) {
    let mut y = vec![0.0; q.len()];
    let mut lse = Vec::new();
    for (position, (q, y)) in q.chunks(dim).zip(y.chunks_mut(dim)).enumerate() {
        let seen = attention.seen(position);
        let scores: Vec<f64> = seen.clone().map(|t| score(attention, q, row(k, dim, t))).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
        lse.push(largest + total.ln());
        for (t, score) in seen.zip(scores) {
            let p = (score - largest).exp() / total;
            y.iter_mut().zip(row(v, dim, t)).for_each(|(y, v)| *y += p * v);
        }
    }
    (y, lse)
}

/// `[dq, dk, dv]` of the same, from `dy` `[T, D]`.
pub fn reference_backward(
    attention: &Attention,
    dim: usize,
    [q, k, v]: [&[f64]; 3],
    dy: &[f64],
) -> [Vec<f64>; 3] {
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![0.0; x.len()]);
    for (position, (query, dy)) in q.chunks(dim).zip(dy.chunks(dim)).enumerate() {
        let seen = attention.seen(position);
        let weights: Vec<f64> = seen.clone().map(|t| score(attention, query, row(k, dim, t)).exp()).collect();
        let total: f64 = weights.iter().sum();
        let weights: Vec<f64> = weights.iter().map(|w| w / total).collect();
        let dweights: Vec<f64> = seen.clone().map(|t| dot(dy, row(v, dim, t))).collect();
        let mean = dot(&weights, &dweights);
        for (t, (p, dp)) in seen.zip(weights.iter().zip(&dweights)) {
            let ds = p * (dp - mean) * f64::from(attention.scale);
            for i in 0..dim {
                dv[t * dim + i] += p * dy[i];
                dk[t * dim + i] += ds * query[i];
                dq[position * dim + i] += ds * k[t * dim + i];
            }
        }
    }
    [dq, dk, dv]
}

fn row(x: &[f64], dim: usize, row: usize) -> &[f64] {
    &x[row * dim..(row + 1) * dim]
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn score(attention: &Attention, q: &[f64], k: &[f64]) -> f64 {
    dot(q, k) * f64::from(attention.scale)
}
