//! Attention: against the op's reference in f64, and bits against bits.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::attention::{Attention, Cache, Chunk};
use wootz_kernels::device::launch::{from_f32, to_f32};
use wootz_kernels::ops::attention::{self as cpu, CacheType, reference, reference_backward};

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "attention_append" => append(gpu),
        "attention_forward" => forward(gpu),
        "attention_decode" => bits_do_not_depend_on_chunks_or_company(gpu),
        "attention_combine" => few_queries_over_many_keys(gpu),
        "attention_backward_delta" => delta(gpu),
        "attention_backward_queries" => backward(gpu, &[0]),
        "attention_backward_keys" => backward(gpu, &[1, 2]) + bits_of_gradients_do_not_depend_on_company(gpu),
        _ => return None,
    })
}

#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    tokens: usize,
    window: Option<usize>,
}

const CASES: [Case; 11] = [
    Case { heads: 1, kv_heads: 1, dim: 16, tokens: 1, window: None },
    Case { heads: 4, kv_heads: 2, dim: 16, tokens: 33, window: None },
    Case { heads: 2, kv_heads: 2, dim: 80, tokens: 70, window: None },
    Case { heads: 6, kv_heads: 2, dim: 32, tokens: 100, window: Some(16) },
    Case { heads: 4, kv_heads: 1, dim: 64, tokens: 65, window: Some(1) },
    Case { heads: 4, kv_heads: 4, dim: 8, tokens: 129, window: Some(64) },
    Case { heads: 8, kv_heads: 1, dim: 36, tokens: 40, window: Some(33) },
    Case { heads: 3, kv_heads: 3, dim: 128, tokens: 200, window: None },
    Case { heads: 64, kv_heads: 1, dim: 4, tokens: 9, window: None },
    Case { heads: 20, kv_heads: 1, dim: 96, tokens: 18, window: None },
    Case { heads: 4, kv_heads: 2, dim: 256, tokens: 140, window: Some(130) },
];

/// `CASES`, every length from 1 to 33, and lengths around the sizes of steps, stretches and tiles.
fn all_cases() -> Vec<Case> {
    let lengths = (1..=33).chain([47, 48, 49, 63, 64, 65, 96, 97, 127, 128, 129, 161]);
    let around = lengths.map(|tokens| Case {
        heads: 4,
        kv_heads: [1, 2, 4][tokens % 3],
        dim: [8, 40, 64, 128, 192][tokens % 5],
        tokens,
        window: [None, Some(1 + tokens / 2), None, Some(32)][tokens % 4],
    });
    CASES.into_iter().chain(around).collect()
}

impl Case {
    fn attention(&self) -> Attention {
        let Case { heads, kv_heads, dim, window, .. } = *self;
        Attention { heads, kv_heads, dim, scale: (dim as f32).powf(-0.5), window }
    }

    fn wide(&self) -> usize {
        self.heads * self.dim
    }

    fn narrow(&self) -> usize {
        self.kv_heads * self.dim
    }

    /// q, k, v and dy. The queries are so large that scores have a variance of about 1.
    fn inputs(&self, seed: u64) -> [Vec<f32>; 4] {
        let lines = [self.wide(), self.narrow(), self.narrow(), self.wide()];
        let mut inputs: [Vec<f32>; 4] =
            std::array::from_fn(|i| numbers(self.tokens * lines[i], 10 * seed + i as u64));
        inputs[0].iter_mut().for_each(|q| *q *= 3.0);
        inputs
    }

    /// q, k, v of a query head.
    fn head(&self, [q, k, v]: [&[f32]; 3], head: usize) -> [Vec<f64>; 3] {
        let kv = head / (self.heads / self.kv_heads);
        [
            pick(q, self.heads, self.dim, head),
            pick(k, self.kv_heads, self.dim, kv),
            pick(v, self.kv_heads, self.dim, kv),
        ]
    }

    fn reference(&self) -> cpu::Attention {
        let Attention { heads, scale, window, .. } = self.attention();
        cpu::Attention { heads, scale, window }
    }

    /// y `[T, H · D]` and lse `[T, H]`. A weight's error is that of its score, a sum of D terms of size 3 / sqrt(D) at
    /// most, and of its exponential, 3 + 2 |x| ulp; y is a mean of values below 1.
    fn expected(&self, inputs: [&[f32]; 3]) -> [Vec<Near>; 2] {
        let mut y = vec![Near(0.0, 0.0); self.tokens * self.wide()];
        let mut lse = vec![Near(0.0, 0.0); self.tokens * self.heads];
        for head in 0..self.heads {
            let [q, k, v] = self.head(inputs, head);
            let (of_y, of_lse) = reference(&self.reference(), self.dim, [&q, &k, &v]);
            for (i, value) in of_y.into_iter().enumerate() {
                y[(i / self.dim * self.heads + head) * self.dim + i % self.dim] = Near(value, 3e-6);
            }
            for (token, value) in of_lse.into_iter().enumerate() {
                lse[token * self.heads + head] = Near(value, 3e-6);
            }
        }
        [y, lse]
    }

    /// dq, dk and dv.
    fn gradients(&self, [q, k, v, dy]: &[Vec<f32>; 4]) -> [Vec<f64>; 3] {
        let mut all = [self.wide(), self.narrow(), self.narrow()].map(|line| vec![0.0; self.tokens * line]);
        for head in 0..self.heads {
            let [q, k, v] = self.head([q, k, v], head);
            let dy = pick(dy, self.heads, self.dim, head);
            let gradients = reference_backward(&self.reference(), self.dim, [&q, &k, &v], &dy);
            let kv = head / (self.heads / self.kv_heads);
            let places = [(self.heads, head), (self.kv_heads, kv), (self.kv_heads, kv)];
            for ((all, (heads, head)), gradient) in all.iter_mut().zip(places).zip(gradients) {
                for (i, value) in gradient.into_iter().enumerate() {
                    all[(i / self.dim * heads + head) * self.dim + i % self.dim] += value;
                }
            }
        }
        all
    }
}

/// One of `heads` heads of a matrix.
fn pick(x: &[f32], heads: usize, dim: usize, head: usize) -> Vec<f64> {
    x.chunks(heads * dim).flat_map(|row| wide(&row[head * dim..(head + 1) * dim])).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Half precision in f32.
fn from_f16(half: u16) -> f32 {
    let sign = if half >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f32::from(half & 0x3ff) / 1024.0;
    match half >> 10 & 0x1f {
        0 => sign * fraction * 2f32.powi(-14),
        31 => f32::NAN, // or infinite: no test has such numbers
        exponent => sign * (1.0 + fraction) * 2f32.powi(i32::from(exponent) - 15),
    }
}

/// All values of a buffer of a cache.
fn cached<G: Gpu>(gpu: &G, kind: CacheType, buffer: &G::Buffer) -> Vec<f32> {
    let words = to_f32(gpu, buffer).unwrap();
    match kind {
        CacheType::F32 => words,
        CacheType::F16 => words
            .iter()
            .flat_map(|word| [word.to_bits() as u16, (word.to_bits() >> 16) as u16].map(from_f16))
            .collect(),
    }
}

/// Keys and values on a device.
struct Layer<B> {
    case: Case,
    cache: Cache,
    buffers: [B; 2],
}

impl<B: wootz_kernels::device::DeviceBuffer> Layer<B> {
    /// Filled with NaN: what was not written must not be read. (0xffff is a NaN in half precision as well.)
    fn new<G: Gpu<Buffer = B>>(
        gpu: &G,
        case: Case,
        slots: usize,
        capacity: usize,
        kind: CacheType,
    ) -> Layer<B> {
        let cache = Cache { slots, capacity, kind };
        let bytes = cache.bytes(&case.attention()).unwrap();
        let buffers = [(); 2].map(|()| from_f32(gpu, &vec![f32::from_bits(u32::MAX); bytes / 4]).unwrap());
        Layer { case, cache, buffers }
    }

    /// y and lse of chunks whose keys and values are appended first. Both are garbage before.
    fn attend<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        how: How,
        chunks: &[Chunk],
        [q, k, v]: [&[f32]; 3],
    ) -> [Vec<f32>; 2] {
        let chunks = self.case.attention().chunks(gpu, chunks).unwrap();
        let [q_, k_, v_] = [q, k, v].map(|x| from_f32(gpu, x).unwrap());
        let y = from_f32(gpu, &numbers(q.len(), 8)).unwrap();
        let lse = from_f32(gpu, &numbers(q.len() / self.case.dim, 9)).unwrap();
        let [keys, values] = &self.buffers;
        chunks.append(gpu, &self.cache, [&k_, &v_], [keys, values]).unwrap();
        match how {
            How::Forward => chunks.forward(gpu, &self.cache, &q_, [keys, values], [&y, &lse]).unwrap(),
            How::Decode => {
                let count = chunks.decode_scratch().unwrap() / 4;
                let scratch = from_f32(gpu, &vec![f32::NAN; count]).unwrap();
                chunks.decode(gpu, &self.cache, &q_, [keys, values], [&y, &lse], &scratch).unwrap();
            }
        }
        [to_f32(gpu, &y).unwrap(), to_f32(gpu, &lse).unwrap()]
    }
}

#[derive(Clone, Copy, Debug)]
enum How {
    Forward,
    Decode,
}

fn append<G: Gpu>(gpu: &G) -> usize {
    let mut count = 0;
    for (dim, kv_heads, kind) in [
        (4, 1, CacheType::F32),
        (4, 3, CacheType::F16),
        (80, 2, CacheType::F32),
        (80, 2, CacheType::F16),
        (256, 1, CacheType::F16),
    ] {
        // A ring: positions 5.. of slot 2 wrap around at 40; slot 0 stays as it is.
        let case = Case { heads: 4 * kv_heads, kv_heads, dim, tokens: 40, window: Some(3) };
        let layer = Layer::new(gpu, case, 3, 40, kind);
        let chunks = [Chunk { rows: 1..38, first: 5, slot: 2 }, Chunk { rows: 38..39, first: 0, slot: 1 }];
        let [_, k, v, _] = case.inputs(1);
        let [k_, v_] = [&k, &v].map(|x| from_f32(gpu, x).unwrap());
        let [keys, values] = &layer.buffers;
        case.attention()
            .chunks(gpu, &chunks)
            .unwrap()
            .append(gpu, &layer.cache, [&k_, &v_], [keys, values])
            .unwrap();
        for (buffer, x) in [(keys, &k), (values, &v)] {
            let found = cached(gpu, kind, buffer);
            let mut expected: Vec<Option<f32>> = vec![None; found.len()];
            for Chunk { rows, first, slot } in &chunks {
                for (row, position) in rows.clone().zip(*first..) {
                    for i in 0..kv_heads * dim {
                        let line = (slot * 40 + position % 40) * kv_heads * dim;
                        expected[line + i] = Some(x[row * kv_heads * dim + i]);
                    }
                }
            }
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                match (expected, kind) {
                    (None, _) => assert!(found.is_nan(), "{case:?} {kind:?}: [{i}] is {found}"),
                    (Some(x), CacheType::F32) => assert_eq!(found.to_bits(), x.to_bits(), "{case:?}: [{i}]"),
                    // Half a unit in the last place, or of the smallest number.
                    (Some(x), CacheType::F16) => {
                        assert!(
                            (found - x).abs() <= (x.abs() / 2048.0).max(3e-8),
                            "{case:?}: [{i}] is {found}, not {x}"
                        );
                    }
                }
            }
            count += 1;
        }
        let small = Cache { capacity: 38, ..layer.cache };
        let refused =
            case.attention().chunks(gpu, &chunks).unwrap().append(gpu, &small, [&k_, &v_], [keys, values]);
        assert!(refused.is_err(), "37 rows and a window of 3 need 39 positions");
    }
    append_many(gpu);
    wrong_use_is_an_error(gpu);
    count + 1
}

/// More tiles than a grid dimension holds: 16 query heads share a key, so a tile has one token. (The other kernels take
/// minutes for so many on a software device; they find their tile in the same way.)
fn append_many<G: Gpu>(gpu: &G) {
    let case = Case { heads: 16, kv_heads: 1, dim: 4, tokens: 66_000, window: None };
    let layer = Layer::new(gpu, case, 1, case.tokens, CacheType::F32);
    let [_, k, v, _] = case.inputs(1);
    let [k_, v_] = [&k, &v].map(|x| from_f32(gpu, x).unwrap());
    let chunks = case.attention().chunks(gpu, &[Chunk { rows: 0..case.tokens, first: 0, slot: 0 }]).unwrap();
    let [keys, values] = &layer.buffers;
    chunks.append(gpu, &layer.cache, [&k_, &v_], [keys, values]).unwrap();
    assert_eq!([keys, values].map(|x| bits(&to_f32(gpu, x).unwrap())), [bits(&k), bits(&v)]);
}

/// What does not fit is refused; nothing to do is no error.
fn wrong_use_is_an_error<G: Gpu>(gpu: &G) {
    let good = Attention { heads: 4, kv_heads: 2, dim: 8, scale: 1.0, window: None };
    for wrong in [
        Attention { heads: 3, ..good },
        Attention { kv_heads: 0, ..good },
        Attention { dim: 6, ..good },
        Attention { dim: 260, ..good },
        Attention { window: Some(0), ..good },
    ] {
        assert!(wrong.chunks(gpu, &[]).is_err() && wrong.sequences(gpu, &[]).is_err(), "{wrong:?}");
    }

    let cache = Cache { slots: 2, capacity: 9, kind: CacheType::F32 };
    let [keys, q, row, small] =
        [2 * 2 * 9 * 8, 3 * 4 * 8, 3 * 4, 5].map(|count| gpu.alloc(4 * count).unwrap());
    let three = |first, slot| good.chunks(gpu, &[Chunk { rows: 0..3, first, slot }]).unwrap();
    let outputs = [&gpu.alloc(4 * 3 * 4 * 8).unwrap(), &row];
    three(6, 1).forward(gpu, &cache, &q, [&keys, &keys], outputs).unwrap();
    let refused = three(7, 1).forward(gpu, &cache, &q, [&keys, &keys], outputs).unwrap_err().to_string();
    assert_eq!(
        refused,
        "attention_forward: cache: expected room for 2 sequences of 10 positions, found 2 of 9"
    );
    assert!(three(6, 2).forward(gpu, &cache, &q, [&keys, &keys], outputs).is_err(), "slot");
    assert!(three(6, 1).forward(gpu, &cache, &small, [&keys, &keys], outputs).is_err(), "q");
    assert!(three(6, 1).forward(gpu, &cache, &q, [&keys, &small], outputs).is_err(), "values");
    assert!(three(6, 1).forward(gpu, &cache, &q, [&keys, &keys], [outputs[0], &small]).is_err(), "lse");
    assert!(three(6, 1).append(gpu, &cache, [&q, &small], [&keys, &row]).is_err(), "v");
    assert!(three(6, 1).decode(gpu, &cache, &q, [&keys, &keys], outputs, &small).is_err(), "scratch");
    assert!(good.chunks(gpu, &[Chunk { rows: 0..3, first: usize::MAX - 1, slot: 0 }]).is_err(), "positions");

    let none = gpu.alloc(0).unwrap();
    let chunks = good.chunks(gpu, &[Chunk { rows: 2..2, first: 0, slot: 0 }]).unwrap();
    chunks.append(gpu, &cache, [&none; 2], [&none; 2]).unwrap();
    chunks.forward(gpu, &cache, &none, [&none; 2], [&none; 2]).unwrap();
    chunks.decode(gpu, &cache, &none, [&none; 2], [&none; 2], &none).unwrap();
    let sequences = good.sequences(gpu, &[0, 0]).unwrap();
    sequences.forward(gpu, [&none; 3], [&none; 2]).unwrap();
    sequences.backward(gpu, [&none; 3], [&none; 2], &none, [&none; 3], &none).unwrap();
}

/// Whole prompts, over a cache and without one.
fn forward<G: Gpu>(gpu: &G) -> usize {
    let cases = all_cases();
    for (i, &case) in cases.iter().enumerate() {
        let [q, k, v, _] = case.inputs(2);
        let kind = if i % 3 == 2 { CacheType::F16 } else { CacheType::F32 };
        let layer = Layer::new(gpu, case, 2, case.tokens, kind);
        let chunk = Chunk { rows: 0..case.tokens, first: 0, slot: 1 };
        let [y, lse] = layer.attend(gpu, How::Forward, &[chunk], [&q, &k, &v]);
        // The reference reads what the cache holds: half precision is not an error of this kernel.
        let [keys, values] = [0, 1].map(|which| rows_of_slot(gpu, &layer, which, 1));
        let [for_y, for_lse] = case.expected([&q, &keys, &values]);
        check(&format!("y {case:?} {kind:?}"), &y, &for_y);
        check(&format!("lse {case:?} {kind:?}"), &lse, &for_lse);

        if kind == CacheType::F32 {
            let sequences = case.attention().sequences(gpu, &[case.tokens]).unwrap();
            let [q, k, v] = [&q, &k, &v].map(|x| from_f32(gpu, x).unwrap());
            let [y_, lse_] = [y.len(), lse.len()].map(|count| from_f32(gpu, &numbers(count, 5)).unwrap());
            sequences.forward(gpu, [&q, &k, &v], [&y_, &lse_]).unwrap();
            let without = [&y_, &lse_].map(|x| bits(&to_f32(gpu, x).unwrap()));
            assert_eq!(without, [bits(&y), bits(&lse)], "without a cache {case:?}");
        }
    }
    large_scores(gpu);
    cases.len()
}

/// The keys or values of a slot as rows `[T, G · D]`.
fn rows_of_slot<G: Gpu>(gpu: &G, layer: &Layer<G::Buffer>, which: usize, slot: usize) -> Vec<f32> {
    let Case { kv_heads, dim, tokens, .. } = layer.case;
    let capacity = layer.cache.capacity;
    let all = cached(gpu, layer.cache.kind, &layer.buffers[which]);
    let mut rows = Vec::new();
    for position in 0..tokens {
        let at = (slot * capacity + position % capacity) * kv_heads * dim;
        rows.extend_from_slice(&all[at..at + kv_heads * dim]);
    }
    rows
}

/// Scores of thousands: no exponential overflows, and the largest score takes all.
fn large_scores<G: Gpu>(gpu: &G) {
    let case = Case { heads: 2, kv_heads: 1, dim: 8, tokens: 150, window: None };
    for sign in [1.0, -1.0] {
        let q = vec![100.0 * sign; 150 * 16];
        let k: Vec<f32> = (0..150 * 8).map(|i| (i / 8 * 7 % 150) as f32).collect(); // each another one
        let v = numbers(150 * 8, 3);
        let layer = Layer::new(gpu, case, 1, 150, CacheType::F32);
        let [y, lse] =
            layer.attend(gpu, How::Forward, &[Chunk { rows: 0..150, first: 0, slot: 0 }], [&q, &k, &v]);
        for token in 0..150 {
            let best = (0..=token).max_by_key(|&t| (t * 7 % 150) as i32 * sign as i32).unwrap();
            for head in 0..2 {
                assert_eq!(y[(token * 2 + head) * 8..][..8], v[best * 8..][..8], "token {token}");
            }
            assert!(lse[2 * token].is_finite());
        }
    }
}

/// However the tokens come, in whatever company, by either way: the same bits.
fn bits_do_not_depend_on_chunks_or_company<G: Gpu>(gpu: &G) -> usize {
    for case in CASES {
        let inputs = case.inputs(4);
        let [q, k, v, _] = &inputs;
        for kind in [CacheType::F32, CacheType::F16] {
            let whole = Layer::new(gpu, case, 1, case.tokens, kind).attend(
                gpu,
                How::Forward,
                &[Chunk { rows: 0..case.tokens, first: 0, slot: 0 }],
                [q, k, v],
            );
            let mut ways = vec![(How::Decode, vec![case.tokens]), (How::Forward, vec![7, 1, 3])];
            if kind == CacheType::F32 {
                ways.push((How::Decode, vec![1, 29, 1, 5]));
            }
            for (how, sizes) in ways {
                // A ring no larger than the window needs.
                let most = sizes.iter().copied().max().unwrap().min(case.tokens);
                let capacity = case.window.map_or(case.tokens, |w| (w - 1 + most).min(case.tokens));
                let layer = Layer::new(gpu, case, 2, capacity, kind);
                let mut sizes = sizes.iter().cycle();
                let mut first = 0;
                while first < case.tokens {
                    let count = (*sizes.next().unwrap()).min(case.tokens - first);
                    // Beside it, another sequence's first token, in another slot.
                    let rows = |x: &[f32], line: usize| {
                        [&x[..line], &x[line * first..line * (first + count)]].concat()
                    };
                    let [q, k, v] = [rows(q, case.wide()), rows(k, case.narrow()), rows(v, case.narrow())];
                    let chunks = [
                        Chunk { rows: 0..1, first: 0, slot: 0 },
                        Chunk { rows: 1..1 + count, first, slot: 1 },
                    ];
                    let parts = layer.attend(gpu, how, &chunks, [&q, &k, &v]);
                    for ((whole, part), line) in whole.iter().zip(&parts).zip([case.wide(), case.heads]) {
                        let what = format!("{case:?} {kind:?} {how:?}: {count} from {first}");
                        assert_eq!(bits(&whole[..line]), bits(&part[..line]), "first token, {what}");
                        assert_eq!(
                            bits(&whole[line * first..line * (first + count)]),
                            bits(&part[line..]),
                            "{what}"
                        );
                    }
                    first += count;
                }
            }
        }
    }
    CASES.len()
}

/// Sequences of mixed lengths with a few last tokens each.
fn few_queries_over_many_keys<G: Gpu>(gpu: &G) -> usize {
    let mut count = 0;
    for (heads, kv_heads, dim, window, kind) in [
        (4, 2, 64, None, CacheType::F32),
        (8, 1, 128, None, CacheType::F16),
        (3, 3, 20, Some(300), CacheType::F32),
        (4, 4, 256, Some(255), CacheType::F16),
    ] {
        let lengths = [1000, 3, 129, 257, 512];
        let case = |tokens| Case { heads, kv_heads, dim, tokens, window };
        let layer = Layer::new(gpu, case(1000), lengths.len(), 1000, kind);
        let last = |tokens: usize| tokens.min(3);
        let (mut chunks, mut row) = (Vec::new(), 0);
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, &tokens) in lengths.iter().enumerate() {
            let [of_q, of_k, of_v, _] = case(tokens).inputs(slot as u64);
            let first = tokens - last(tokens);
            // All but the last tokens go ahead, without queries; what is behind the window stays NaN.
            let start = window.map_or(0, |window| (first + 1usize).saturating_sub(window));
            let [k_, v_] = [&of_k, &of_v].map(|x| from_f32(gpu, x).unwrap());
            let [keys, values] = &layer.buffers;
            let ahead =
                case(tokens).attention().chunks(gpu, &[Chunk { rows: start..first, first: start, slot }]);
            ahead.unwrap().append(gpu, &layer.cache, [&k_, &v_], [keys, values]).unwrap();
            q.extend_from_slice(&of_q[first * heads * dim..]);
            k.extend_from_slice(&of_k[first * kv_heads * dim..]);
            v.extend_from_slice(&of_v[first * kv_heads * dim..]);
            chunks.push(Chunk { rows: row..row + last(tokens), first, slot });
            row += last(tokens);
        }
        let [y, lse] = layer.attend(gpu, How::Decode, &chunks, [&q, &k, &v]);
        let same = layer.attend(gpu, How::Forward, &chunks, [&q, &k, &v]);
        assert_eq!([bits(&y), bits(&lse)], same.map(|x| bits(&x)), "decode and forward");
        for (chunk, tokens) in chunks.iter().zip(lengths) {
            let case = case(tokens);
            let slot = |which: usize| {
                let all = rows_of_slot(gpu, &layer, which, chunk.slot);
                all[..tokens * case.narrow()].to_vec()
            };
            let [of_q, ..] = case.inputs(chunk.slot as u64);
            let [for_y, for_lse] = case.expected([&of_q, &slot(0), &slot(1)]);
            let found = |x: &[f32], line: usize| x[chunk.rows.start * line..chunk.rows.end * line].to_vec();
            let what = format!("{case:?} {kind:?}");
            check(&format!("y {what}"), &found(&y, case.wide()), &for_y[chunk.first * case.wide()..]);
            check(&format!("lse {what}"), &found(&lse, heads), &for_lse[chunk.first * heads..]);
            count += 1;
        }
    }
    count
}

/// Whole sequences of these lengths with the case's heads: dq, dk, dv and the scratch. All are garbage before.
fn gradients<G: Gpu>(gpu: &G, case: &Case, lengths: &[usize], inputs: &[Vec<f32>; 4]) -> [Vec<f32>; 4] {
    let sequences = case.attention().sequences(gpu, lengths).unwrap();
    let [q, k, v, dy] = inputs.each_ref().map(|x| from_f32(gpu, x).unwrap());
    let lines = lengths.iter().sum::<usize>() * case.heads;
    let garbage = |count: usize| from_f32(gpu, &numbers(count, 7)).unwrap();
    let [y, lse] = [lines * case.dim, lines].map(garbage);
    let [dq, dk, dv] = [0, 1, 2].map(|i| garbage(inputs[i].len()));
    let scratch = garbage(2 * lines);
    sequences.forward(gpu, [&q, &k, &v], [&y, &lse]).unwrap();
    sequences.backward(gpu, [&q, &k, &v], [&y, &lse], &dy, [&dq, &dk, &dv], &scratch).unwrap();
    [&dq, &dk, &dv, &scratch].map(|x| to_f32(gpu, x).unwrap())
}

fn delta<G: Gpu>(gpu: &G) -> usize {
    for case in CASES {
        let inputs = case.inputs(5);
        let [.., scratch] = gradients(gpu, &case, &[case.tokens], &inputs);
        let [q, k, v, dy] = &inputs;
        let [y, lse] = case.expected([q, k, v]);
        let mut expected = Vec::new();
        for ((y, dy), lse) in y.chunks(case.dim).zip(dy.chunks(case.dim)).zip(lse) {
            let terms = y.iter().zip(dy).map(|(y, dy)| y.0 * f64::from(*dy));
            let size: f64 = dy.iter().map(|dy| f64::from(dy.abs())).sum(); // times the error of y
            expected.extend([lse, Near(terms.sum(), 3e-6 * size)]);
        }
        check(&format!("lse and delta {case:?}"), &scratch, &expected);
    }
    CASES.len()
}

fn backward<G: Gpu>(gpu: &G, which: &[usize]) -> usize {
    let cases = all_cases();
    for case in &cases {
        let inputs = case.inputs(6);
        let found = gradients(gpu, case, &[case.tokens], &inputs);
        let expected = case.gradients(&inputs);
        for &i in which {
            // The terms are about 1; there may be as many as there are queries of a key, or a few large ones.
            let size = expected[i].iter().fold(1.0, |size: f64, x| size.max(x.abs()));
            let near: Vec<Near> = expected[i].iter().map(|&x| Near(x, 3e-6 * size)).collect();
            check(&format!("{} {case:?}", ["dq", "dk", "dv"][i]), &found[i], &near);
        }
    }
    cases.len()
}

fn bits_of_gradients_do_not_depend_on_company<G: Gpu>(gpu: &G) -> usize {
    for case in CASES {
        let lengths = [3, case.tokens, 0, 1, 20, case.tokens.div_ceil(2)];
        let all: Vec<[Vec<f32>; 4]> =
            (1..).zip(lengths).map(|(i, tokens)| Case { tokens, ..case }.inputs(i)).collect();
        let together: [Vec<f32>; 4] =
            std::array::from_fn(|i| all.iter().flat_map(|x| &x[i]).copied().collect());
        let together = gradients(gpu, &case, &lengths, &together);
        let mut alone = [const { Vec::new() }; 4];
        for (inputs, &length) in all.iter().zip(&lengths).filter(|(_, length)| **length > 0) {
            for (alone, gradient) in alone.iter_mut().zip(gradients(gpu, &case, &[length], inputs)) {
                alone.extend(gradient);
            }
        }
        assert_eq!(together.map(|x| bits(&x)), alone.map(|x| bits(&x)), "company of {case:?}");
    }
    CASES.len()
}
