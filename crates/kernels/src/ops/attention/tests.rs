//! Forward and backward against their references, and bits against bits.

use super::*;
use crate::rng::Rng;
use crate::simd::IsaKind;

#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    tokens: usize,
    window: Option<usize>,
}

const CASES: [Case; 9] = [
    Case { heads: 1, kv_heads: 1, dim: 16, tokens: 1, window: None },
    Case { heads: 4, kv_heads: 2, dim: 16, tokens: 33, window: None },
    Case { heads: 2, kv_heads: 2, dim: 80, tokens: 70, window: None },
    Case { heads: 6, kv_heads: 2, dim: 32, tokens: 100, window: Some(16) },
    Case { heads: 4, kv_heads: 1, dim: 64, tokens: 65, window: Some(1) },
    Case { heads: 4, kv_heads: 4, dim: 8, tokens: 129, window: Some(64) },
    Case { heads: 8, kv_heads: 1, dim: 36, tokens: 40, window: Some(33) },
    Case { heads: 3, kv_heads: 3, dim: 128, tokens: 200, window: None },
    Case { heads: 64, kv_heads: 1, dim: 4, tokens: 9, window: None },
];

/// `CASES`, every length from 1 to 33, and lengths around the sizes of blocks, steps and tiles.
fn cases() -> Vec<Case> {
    let lengths = (1..=33).chain([47, 48, 49, 63, 64, 65, 96, 97, 127, 128, 129, 161]);
    let around = lengths.map(|tokens| Case {
        heads: 4,
        kv_heads: [1, 2, 4][tokens % 3],
        dim: [8, 40, 64, 128][tokens % 4],
        tokens,
        window: [None, Some(1 + tokens / 2), None, Some(32), None][tokens % 5],
    });
    CASES.into_iter().chain(around).collect()
}

impl Case {
    fn attention(&self) -> Attention {
        let scale = (self.dim as f32).powf(-0.5);
        Attention { heads: self.heads, scale, window: self.window }
    }

    /// q, k, v and dy.
    fn random(&self, rng: &mut Rng) -> [Vec<f32>; 4] {
        [self.heads, self.kv_heads, self.kv_heads, self.heads]
            .map(|heads| (0..self.tokens * heads * self.dim).map(|_| rng.normal()).collect())
    }

    /// The key/value head of a head.
    fn kv(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    /// One of `heads` heads of a matrix.
    fn pick(&self, x: &[f32], heads: usize, head: usize) -> Vec<f64> {
        let rows = x.chunks(heads * self.dim);
        rows.flat_map(|row| &row[head * self.dim..(head + 1) * self.dim]).map(|x| f64::from(*x)).collect()
    }

    /// q, k and v of a query head.
    fn head(&self, [q, k, v, _]: &[Vec<f32>; 4], head: usize) -> [Vec<f64>; 3] {
        let kv = self.kv(head);
        [self.pick(q, self.heads, head), self.pick(k, self.kv_heads, kv), self.pick(v, self.kv_heads, kv)]
    }

    /// y and lse, with a cache of its own.
    fn forward(&self, isa: IsaKind, inputs: &[Vec<f32>; 4]) -> [Vec<f32>; 2] {
        let [q, k, v, _] = inputs;
        let pool = Pool::new(1);
        let mut cache = LayerCache::new(self.kv_heads, self.dim, self.tokens, CacheType::F32);
        cache.append(&pool, 0, k, v);
        let segment = Segment { rows: 0..self.tokens, first: 0, cache: &cache };
        let (mut y, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; self.tokens * self.heads]);
        let out = (&mut y[..], Some(&mut lse[..]));
        self.attention().forward_on(isa, &pool, &mut Scratch::default(), q, &[segment], out);
        [y, lse]
    }
}

/// The output in chunks of tokens, over a cache of `room` positions.
fn attend(
    case: &Case,
    threads: usize,
    kind: CacheType,
    chunks: &[usize],
    room: usize,
    [q, k, v, _]: &[Vec<f32>; 4],
) -> Vec<f32> {
    let pool = Pool::new(threads);
    let attention = case.attention();
    let mut cache = LayerCache::new(case.kv_heads, case.dim, room, kind);
    let (wide, narrow) = (case.heads * case.dim, case.kv_heads * case.dim);
    let mut y = vec![f32::NAN; q.len()];
    let mut scratch = Scratch::default();
    let (mut first, mut chunk) = (0, chunks.iter().cycle());
    while first < case.tokens {
        let end = case.tokens.min(first + chunk.next().unwrap());
        cache.append(&pool, first, &k[first * narrow..end * narrow], &v[first * narrow..end * narrow]);
        let segment = Segment { rows: 0..end - first, first, cache: &cache };
        let range = first * wide..end * wide;
        attention.forward(&pool, &mut scratch, &q[range.clone()], &[segment], &mut y[range], None);
        first = end;
    }
    y
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn forward_matches_the_reference() {
    let mut rng = Rng::new(1, 0);
    for case in cases() {
        let inputs = case.random(&mut rng);
        for isa in IsaKind::available() {
            let [y, lse] = case.forward(isa, &inputs);
            for head in 0..case.heads {
                let [q, k, v] = case.head(&inputs, head);
                let (want_y, want_lse) = reference(&case.attention(), case.dim, [&q, &k, &v]);
                let got = case.pick(&y, case.heads, head);
                let lse: Vec<f64> = lse.chunks(case.heads).map(|row| f64::from(row[head])).collect();
                for (got, want) in got.iter().zip(&want_y).chain(lse.iter().zip(&want_lse)) {
                    assert!((got - want).abs() < 3e-6, "{} {case:?}: {got} {want}", isa.name());
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_chunks_or_room() {
    let mut rng = Rng::new(1, 0);
    for case in &CASES {
        let inputs = case.random(&mut rng);
        let exact = attend(case, 1, CacheType::F32, &[case.tokens], case.tokens, &inputs);
        let [with_lse, _] = case.forward(IsaKind::current(), &inputs);
        assert!(same_bits(&exact, &with_lse), "{case:?}: lse changes bits");
        // A ring no larger than the window needs.
        let ring = case.window.map_or(case.tokens, |w| w + 7 + 2 * BLOCK);
        for kind in [CacheType::F32, CacheType::F16] {
            let whole = attend(case, 1, kind, &[case.tokens], case.tokens, &inputs);
            for (threads, chunks, room) in
                [(2, &[case.tokens][..], case.tokens), (2, &[1][..], ring), (1, &[7, 1, 3][..], ring)]
            {
                let other = attend(case, threads, kind, chunks, room, &inputs);
                assert!(same_bits(&whole, &other), "{case:?} {chunks:?} {kind:?}");
            }
            let error = whole.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error < 4e-3, "half precision is off by {error}");
        }
    }
}

#[test]
fn what_a_sequence_left_behind_is_cleared() {
    let pool = Pool::new(1);
    let mut cache = LayerCache::new(1, 4, 40, CacheType::F32);
    cache.append(&pool, 0, &[f32::NAN; 160], &[f32::NAN; 160]);
    cache.clear(40);
    cache.append(&pool, 0, &[1.0; 4], &[2.0; 4]);
    let mut y = [0.0; 4];
    let segment = Segment { rows: 0..1, first: 0, cache: &cache };
    let attention = Attention { heads: 1, scale: 1.0, window: None };
    attention.forward(&pool, &mut Scratch::default(), &[1.0; 4], &[segment], &mut y, None);
    assert_eq!(y, [2.0; 4]);
}

#[test]
fn reference_backward_matches_finite_differences() {
    let (dim, tokens, step) = (3, 6, 1e-5);
    let mut rng = Rng::new(2, 0);
    for window in [None, Some(1), Some(3)] {
        let attention = Attention { heads: 1, scale: 0.7, window };
        let mut random = || -> Vec<f64> { (0..tokens * dim).map(|_| f64::from(rng.normal())).collect() };
        let inputs = [random(), random(), random()];
        let dy = random();
        let loss = |inputs: &[Vec<f64>; 3]| -> f64 {
            let (y, _) = reference(&attention, dim, inputs.each_ref().map(|x| &x[..]));
            y.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
        };
        let gradients = reference_backward(&attention, dim, inputs.each_ref().map(|x| &x[..]), &dy);
        for (which, gradient) in gradients.iter().enumerate() {
            for (i, got) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut inputs = inputs.clone();
                    inputs[which][i] += by;
                    loss(&inputs)
                };
                let want = (moved(step) - moved(-step)) / (2.0 * step);
                assert!((got - want).abs() < 1e-8, "input {which}, {i}: {got}, by differences {want}");
            }
        }
    }
}

/// Sequences, one behind the other.
struct Batch {
    lengths: Vec<usize>,
    /// q, k, v and dy.
    inputs: [Vec<f32>; 4],
    y: Vec<f32>,
    lse: Vec<f32>,
}

impl Batch {
    fn new(isa: IsaKind, cases: &[Case], inputs: &[[Vec<f32>; 4]]) -> Batch {
        let outputs: Vec<_> =
            cases.iter().zip(inputs).map(|(case, inputs)| case.forward(isa, inputs)).collect();
        Batch {
            lengths: cases.iter().map(|case| case.tokens).collect(),
            inputs: std::array::from_fn(|i| inputs.iter().flat_map(|x| &x[i]).copied().collect()),
            y: outputs.iter().flat_map(|[y, _]| y).copied().collect(),
            lse: outputs.iter().flat_map(|[_, lse]| lse).copied().collect(),
        }
    }

    /// dq, dk and dv. Whatever was in the scratch and in the gradients must not matter.
    fn backward(&self, isa: IsaKind, threads: usize, case: &Case) -> [Vec<f32>; 3] {
        let [q, k, v, dy] = &self.inputs;
        let (attention, lengths) = (case.attention(), &self.lengths[..]);
        let longest = lengths.iter().copied().max().unwrap();
        let len = attention.backward_scratch(threads, case.kv_heads, case.dim, longest);
        let mut scratch = vec![f32::NAN; len];
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![f32::NAN; x.len()]);
        let saved = Saved { lengths, q, k, v, y: &self.y, lse: &self.lse };
        let gradients = Gradients { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        attention.backward_on(isa, &Pool::new(threads), &mut scratch, &saved, dy, gradients);
        [dq, dk, dv]
    }
}

#[test]
fn backward_matches_the_reference() {
    let mut rng = Rng::new(3, 0);
    for case in cases() {
        let inputs = case.random(&mut rng);
        let mut want = [case.heads, case.kv_heads, case.kv_heads]
            .map(|heads| vec![vec![0.0; case.tokens * case.dim]; heads]);
        for head in 0..case.heads {
            let [q, k, v] = case.head(&inputs, head);
            let dy = case.pick(&inputs[3], case.heads, head);
            let gradients = reference_backward(&case.attention(), case.dim, [&q, &k, &v], &dy);
            let kv = case.kv(head);
            for ((want, head), gradient) in want.iter_mut().zip([head, kv, kv]).zip(gradients) {
                want[head].iter_mut().zip(gradient).for_each(|(sum, x)| *sum += x);
            }
        }
        for isa in IsaKind::available() {
            let got = Batch::new(isa, &[case], std::slice::from_ref(&inputs)).backward(isa, 1, &case);
            for ((name, got), want) in ["dq", "dk", "dv"].iter().zip(&got).zip(&want) {
                let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
                let differences = want.iter().enumerate().flat_map(|(head, want)| {
                    case.pick(got, got.len() / want.len(), head).into_iter().zip(want).map(|(a, b)| a - b)
                });
                let error = norm(&mut { differences });
                // A query that sees itself alone has gradients of 0, out of terms that are about 1.
                let bound =
                    1e-6 * norm(&mut want.iter().flatten().copied()) + 1e-6 * (got.len() as f64).sqrt();
                assert!(error <= bound, "{} {case:?}: {name} is off by {error}", isa.name());
            }
        }
    }
}

#[test]
fn bits_of_gradients_do_not_depend_on_threads_or_company() {
    let mut rng = Rng::new(4, 0);
    for isa in IsaKind::available() {
        for case in &CASES {
            let cases =
                [case.tokens, 0, 1, 64, case.tokens.div_ceil(2)].map(|tokens| Case { tokens, ..*case });
            let inputs = cases.each_ref().map(|case| case.random(&mut rng));
            let batch = Batch::new(isa, &cases, &inputs);
            let together = batch.backward(isa, 1, case);
            for threads in [2, 3] {
                let other = batch.backward(isa, threads, case);
                assert!(
                    together.iter().zip(&other).all(|(a, b)| same_bits(a, b)),
                    "{threads} threads {case:?}"
                );
            }
            let mut alone = [const { Vec::new() }; 3];
            for (case, inputs) in cases.iter().zip(&inputs).filter(|(case, _)| case.tokens > 0) {
                let batch = Batch::new(isa, &[*case], std::slice::from_ref(inputs));
                for (alone, gradient) in alone.iter_mut().zip(batch.backward(isa, 1, case)) {
                    alone.extend(gradient);
                }
            }
            assert!(together.iter().zip(&alone).all(|(a, b)| same_bits(a, b)), "company of {case:?}");
        }
    }
}
