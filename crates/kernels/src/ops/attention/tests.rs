//! Forward against its reference, and bits against bits.

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
