//! Causal attention of H query heads over G key/value heads of width D, with the keys and values in a cache.
//!
//! ```text
//!   s[t] = scale · q · k[t]            for the keys t that the query may see
//!   y    = sum over t of softmax(s)[t] · v[t]
//! ```
//!
//! Keys are walked in blocks of 32 from position 0 (or the window's first block) upwards, with one running maximum,
//! sum and output a query (the online softmax of Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022), so
//! nothing of size T x T exists. A query's bits depend on the keys alone: whether it came alone (decoding), in a chunk
//! of prefill or in a batch, it meets the same blocks in the same order; keys that it may not see weigh exactly 0.
//!
//! Both products are the tile of [`super::matmul`], 32 lanes by several rows: rows are the queries that share a
//! key/value head, lanes are 32 keys for `q · k`, and 32 of the D values for `p · v`. The cache is stored for that:
//!
//! ```text
//!   a head's block of 32 positions    K [D][32 positions]  |  V [D/32][32 positions][32]      f16 or f32
//! ```

use crate::buffer::Buffer;
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch, math};
use std::ops::Range;

/// Positions in a block of the cache.
pub const BLOCK: usize = LANES;

/// Query rows that a task holds at once: their outputs and scores stay in the nearest cache.
const TILE: usize = 48;

/// Rows of a tile that counts as small: those of one decoded token.
const FEW: usize = 3;

/// The type of cached keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheType {
    /// Half precision: half the memory traffic of long contexts.
    #[default]
    F16,
    /// Exactly what the projections gave.
    F32,
}

impl CacheType {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            CacheType::F16 => 2,
            CacheType::F32 => 4,
        }
    }
}

/// Keys and values of one layer of one sequence. Memory is touched only where positions were written.
pub struct LayerCache {
    heads: usize,
    dim: usize,
    /// `dim` rounded up to whole vectors.
    padded: usize,
    blocks: usize,
    kind: CacheType,
    /// `[heads][blocks][K | V]`.
    data: Buffer<u8>,
}

impl LayerCache {
    /// Room for `positions` positions of `heads` heads of width `dim`.
    ///
    /// With a sliding window the cache may be smaller than the sequence: positions are stored modulo its size in
    /// blocks. It must then have room for the window, and the positions appended at a time, and two blocks more.
    pub fn new(heads: usize, dim: usize, positions: usize, kind: CacheType) -> LayerCache {
        let padded = dim.next_multiple_of(LANES);
        let blocks = positions.div_ceil(BLOCK).max(1);
        let data = Buffer::zeroed(heads * blocks * (dim + padded) * BLOCK * kind.bytes());
        LayerCache { heads, dim, padded, blocks, kind, data }
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Positions that it can hold at once.
    pub fn capacity(&self) -> usize {
        self.blocks * BLOCK
    }

    fn block_bytes(&self) -> usize {
        (self.dim + self.padded) * BLOCK * self.kind.bytes()
    }

    fn block(&self, head: usize, block: usize) -> *const u8 {
        let at = (head * self.blocks + block % self.blocks) * self.block_bytes();
        self.data[at..at + self.block_bytes()].as_ptr()
    }

    /// Forgets everything: what a sequence left behind must not reach the next one.
    pub fn clear(&mut self, positions: usize) {
        let (block_bytes, blocks) = (self.block_bytes(), self.blocks);
        let used = positions.div_ceil(BLOCK).min(blocks);
        for head in self.data.chunks_exact_mut(blocks * block_bytes) {
            head[..used * block_bytes].fill(0);
        }
    }

    /// Writes keys and values `[T, heads · dim]` of positions `first..first + T`. Panics when sizes differ.
    pub fn append(&mut self, pool: &Pool, first: usize, k: &[f32], v: &[f32]) {
        let width = self.heads * self.dim;
        assert!(k.len() == v.len() && k.len().is_multiple_of(width), "rows of {width} keys and values");
        let count = k.len() / width;
        let (dim, padded, blocks, kind) = (self.dim, self.padded, self.blocks, self.kind);
        let block_bytes = self.block_bytes();
        let data = Shares::new(&mut self.data);
        let head_task = |head: usize| {
            // SAFETY: a task writes its own head.
            let data = unsafe { data.get(head * blocks * block_bytes..(head + 1) * blocks * block_bytes) };
            let rows = |x| Rows { x, first: head * dim, width, dim };
            dispatch(Append { data, block_bytes, dim, padded, kind, first, count, k: rows(k), v: rows(v) });
        };
        if count * width < 1 << 13 {
            (0..self.heads).for_each(head_task);
        } else {
            pool.run(self.heads, head_task);
        }
    }
}

/// One head's columns of a matrix.
#[derive(Clone, Copy)]
struct Rows<'a> {
    x: &'a [f32],
    first: usize,
    width: usize,
    dim: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, row: usize) -> &'a [f32] {
        &self.x[row * self.width + self.first..][..self.dim]
    }
}

struct Append<'a> {
    /// The head's blocks.
    data: &'a mut [u8],
    block_bytes: usize,
    dim: usize,
    padded: usize,
    kind: CacheType,
    first: usize,
    count: usize,
    k: Rows<'a>,
    v: Rows<'a>,
}

impl Kernel for Append<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let size = self.kind.bytes();
        // 32 values in the cache's type.
        let convert = |x: &[f32]| -> [u8; 4 * LANES] {
            let mut bytes = [0; 4 * LANES];
            let x = isa.load_slice(x, 0.0);
            // SAFETY: the array has room for 32 values of either type.
            unsafe {
                match self.kind {
                    CacheType::F16 => isa.store_f16(bytes.as_mut_ptr().cast(), x),
                    CacheType::F32 => isa.store(bytes.as_mut_ptr().cast(), x),
                }
            }
            bytes
        };
        for row in 0..self.count {
            let (block, slot) = ((self.first + row) / BLOCK, (self.first + row) % BLOCK);
            let block = block % (self.data.len() / self.block_bytes) * self.block_bytes;
            let block = &mut self.data[block..block + self.block_bytes];
            let (keys, values) = block.split_at_mut(self.dim * BLOCK * size);
            for (vector, k) in self.k.row(row).chunks(LANES).enumerate() {
                let bytes = convert(k);
                // A column of K: one value in each vector.
                let column = keys[vector * LANES * BLOCK * size..].chunks_exact_mut(BLOCK * size);
                for (to, from) in column.zip(bytes.chunks_exact(size).take(k.len())) {
                    to[slot * size..(slot + 1) * size].copy_from_slice(from);
                }
            }
            let panels = values.chunks_exact_mut(BLOCK * LANES * size).take(self.padded / LANES);
            for (panel, v) in panels.zip(self.v.row(row).chunks(LANES)) {
                panel[slot * LANES * size..(slot + 1) * LANES * size]
                    .copy_from_slice(&convert(v)[..LANES * size]);
            }
        }
    }
}

/// What attention needs beside its inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads (H); a multiple of the cache's heads.
    pub heads: usize,
    /// Factor of q · k.
    pub scale: f32,
    /// A query sees itself and the `window - 1` positions before it; all before it if `None`.
    pub window: Option<usize>,
}

/// Neighbouring rows of q that belong to one sequence.
pub struct Segment<'a> {
    /// Rows of q and y.
    pub rows: Range<usize>,
    /// Position of the first row; the others follow.
    pub first: usize,
    /// Keys and values of all positions up to the last row's.
    pub cache: &'a LayerCache,
}

impl Attention {
    /// `q` and `y` `[rows, H · D]`. Panics when sizes differ.
    pub fn forward(&self, pool: &Pool, q: &[f32], segments: &[Segment], y: &mut [f32]) {
        assert_eq!(q.len(), y.len(), "sizes of q and y");
        let mut tasks = Vec::new();
        for segment in segments {
            let (tokens, heads) = (segment.rows.len(), segment.cache.heads);
            let group = self.heads / heads;
            // Few tokens and heads: a head's queries are shared out, though each then reads the keys again.
            let split = if tokens * heads < pool.threads() { group.min(pool.threads()) } else { 1 };
            let per_tile = (TILE / group).max(1);
            for head in 0..heads {
                for part in 0..split {
                    let members = group * part / split..group * (part + 1) / split;
                    for start in (0..tokens).step_by(per_tile) {
                        let tokens = start..tokens.min(start + per_tile);
                        tasks.push(Tile {
                            attention: self,
                            segment,
                            head,
                            group: members.clone(),
                            tokens,
                            q,
                            y: None,
                        });
                    }
                }
            }
        }
        let width = segments.first().map_or(0, |s| self.heads * s.cache.dim);
        assert!(segments.iter().all(|s| s.rows.end * width <= q.len()), "rows of q");
        let y = Shares::new(y);
        // The last tiles of a long prefill see the most keys: they go first, so that no thread ends alone.
        pool.run(tasks.len(), |i| {
            let task = &tasks[tasks.len() - 1 - i];
            dispatch(Tile { y: Some(y), tokens: task.tokens.clone(), group: task.group.clone(), ..*task });
        });
    }
}

/// The queries of some tokens and some heads that share key/value head `head`.
struct Tile<'a> {
    attention: &'a Attention,
    segment: &'a Segment<'a>,
    head: usize,
    /// Which of the query heads of this key/value head.
    group: Range<usize>,
    /// Which tokens of the segment.
    tokens: Range<usize>,
    q: &'a [f32],
    y: Option<Shares<'a, f32>>,
}

impl Kernel for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let rows = self.tokens.len() * self.group.len();
        match self.segment.cache.kind {
            // Many rows: a block is widened once for all of them.
            CacheType::F16 if rows > I::ROWS => self.blocks(isa, Widened(isa)),
            CacheType::F16 => self.blocks(isa, Half),
            CacheType::F32 => self.blocks(isa, Full),
        }
    }
}

/// How a block of the cache is read.
trait Source<I: Isa>: Copy {
    /// Called once a block; returns what `load` reads from.
    fn enter(self, block: *const u8, len: usize, scratch: &mut Vec<f32>) -> *const u8;
    /// 32 values, number `vector` of the block.
    ///
    /// # Safety
    /// `block` came from `enter` and has that many vectors.
    unsafe fn load(self, isa: I, block: *const u8, vector: usize) -> I::F;
}

#[derive(Clone, Copy)]
struct Half;
#[derive(Clone, Copy)]
struct Full;
#[derive(Clone, Copy)]
struct Widened<I>(I);

impl<I: Isa> Source<I> for Half {
    #[inline(always)]
    fn enter(self, block: *const u8, _: usize, _: &mut Vec<f32>) -> *const u8 {
        block
    }
    #[inline(always)]
    unsafe fn load(self, isa: I, block: *const u8, vector: usize) -> I::F {
        // SAFETY: the caller's contract.
        unsafe { isa.load_f16(block.cast::<u16>().add(LANES * vector)) }
    }
}

impl<I: Isa> Source<I> for Full {
    #[inline(always)]
    fn enter(self, block: *const u8, _: usize, _: &mut Vec<f32>) -> *const u8 {
        block
    }
    #[inline(always)]
    unsafe fn load(self, isa: I, block: *const u8, vector: usize) -> I::F {
        // SAFETY: the caller's contract.
        unsafe { isa.load(block.cast::<f32>().add(LANES * vector)) }
    }
}

impl<I: Isa> Source<I> for Widened<I> {
    #[inline(always)]
    fn enter(self, block: *const u8, len: usize, scratch: &mut Vec<f32>) -> *const u8 {
        scratch.resize(len, 0.0);
        for (i, out) in scratch.chunks_exact_mut(LANES).enumerate() {
            // SAFETY: a block has `len` values.
            self.0.store_slice(out, unsafe { self.0.load_f16(block.cast::<u16>().add(LANES * i)) });
        }
        scratch.as_ptr().cast()
    }
    #[inline(always)]
    unsafe fn load(self, isa: I, block: *const u8, vector: usize) -> I::F {
        // SAFETY: the caller's contract.
        unsafe { isa.load(block.cast::<f32>().add(LANES * vector)) }
    }
}

impl Tile<'_> {
    #[inline(always)]
    fn blocks<I: Isa, S: Source<I>>(self, isa: I, source: S) {
        let Tile { attention, segment, head, group, tokens, q, y } = self;
        let Some(y) = y else { return };
        let cache = segment.cache;
        let (dim, padded) = (cache.dim, cache.padded);
        let per_head = attention.heads / cache.heads;
        let rows = tokens.len() * group.len();
        // Row r is token `r / group.len()`, query head `r % group.len()` of the group.
        let place = |r: usize| {
            let (token, member) = (tokens.start + r / group.len(), group.start + r % group.len());
            let row = segment.rows.start + token;
            ((row * attention.heads + head * per_head + member) * dim, segment.first + token)
        };
        let mut queries = vec![0f32; rows * dim];
        for r in 0..rows {
            let (at, _) = place(r);
            for (to, q) in queries[r * dim..(r + 1) * dim].iter_mut().zip(&q[at..at + dim]) {
                *to = q * attention.scale;
            }
        }
        let mut scores = vec![0f32; rows * BLOCK];
        let mut outputs = vec![0f32; rows * padded];
        let mut largest = vec![f32::NEG_INFINITY; rows];
        let mut sums = vec![0f32; rows];
        let mut scratch = Vec::new();

        let first_seen = |position: usize| attention.window.map_or(0, |w| (position + 1).saturating_sub(w));
        let first_block = first_seen(segment.first + tokens.start) / BLOCK;
        let last_block = (segment.first + tokens.end - 1) / BLOCK;
        for block in first_block..=last_block {
            let values = (dim + padded) * BLOCK;
            let data = source.enter(cache.block(head, block), values, &mut scratch);
            let few = rows <= FEW;
            if few {
                // A row or two cannot keep the multipliers busy, and so not the memory either: ask early.
                for line in 0..values * cache.kind.bytes() / 64 {
                    isa.prefetch(data.wrapping_add(values * cache.kind.bytes() + 64 * line));
                }
            }
            // s = q · k, 32 keys in the lanes.
            macro_rules! score {
                ($row:expr, $rows:literal) => {{
                    let mut acc = [isa.zero(); $rows];
                    for i in 0..dim {
                        // SAFETY: K has `dim` vectors.
                        let k = unsafe { source.load(isa, data, i) };
                        for r in 0..$rows {
                            acc[r] = isa.fma(isa.splat(queries[($row + r) * dim + i]), k, acc[r]);
                        }
                    }
                    for r in 0..$rows {
                        isa.store_slice(&mut scores[($row + r) * BLOCK..($row + r + 1) * BLOCK], acc[r]);
                    }
                    $rows
                }};
            }
            super::matmul::tile_rows!(rows, I::ROWS, score);
            // Scores become weights; what a row has so far is scaled to the new maximum.
            for r in 0..rows {
                let (_, position) = place(r);
                let scores = &mut scores[r * BLOCK..(r + 1) * BLOCK];
                let seen = first_seen(position).max(block * BLOCK)..(position + 1).min((block + 1) * BLOCK);
                if seen.len() < BLOCK {
                    for (i, score) in scores.iter_mut().enumerate() {
                        if !seen.contains(&(block * BLOCK + i)) {
                            *score = f32::NEG_INFINITY;
                        }
                    }
                }
                if seen.is_empty() {
                    scores.fill(0.0);
                    continue;
                }
                let s = isa.load_slice(scores, 0.0);
                let new = largest[r].max(isa.largest(s));
                if new > largest[r] {
                    let shrink = (largest[r] - new).exp();
                    largest[r] = new;
                    sums[r] *= shrink;
                    for out in outputs[r * padded..(r + 1) * padded].chunks_exact_mut(LANES) {
                        let scaled = isa.mul(isa.load_slice(out, 0.0), isa.splat(shrink));
                        isa.store_slice(out, scaled);
                    }
                }
                let p = math::exp(isa, isa.sub(s, isa.splat(new)));
                sums[r] += isa.sum(p);
                isa.store_slice(scores, p);
            }
            // y += p · v, 32 of the D values in the lanes, `$panels` of them at once.
            macro_rules! weigh_panels {
                ($first:expr, $panels:literal, $row:expr, $rows:literal) => {{
                    let at = |r: usize, panel: usize| ($row + r) * padded + ($first + panel) * LANES;
                    let mut acc = [[isa.zero(); $panels]; $rows];
                    for r in 0..$rows {
                        for panel in 0..$panels {
                            acc[r][panel] = isa.load_slice(&outputs[at(r, panel)..at(r, panel) + LANES], 0.0);
                        }
                    }
                    for t in 0..BLOCK {
                        for panel in 0..$panels {
                            // SAFETY: V follows K, 32 vectors for each 32 of the D values.
                            let v = unsafe { source.load(isa, data, dim + ($first + panel) * BLOCK + t) };
                            for r in 0..$rows {
                                let p = isa.splat(scores[($row + r) * BLOCK + t]);
                                acc[r][panel] = isa.fma(p, v, acc[r][panel]);
                            }
                        }
                    }
                    for r in 0..$rows {
                        for panel in 0..$panels {
                            isa.store_slice(&mut outputs[at(r, panel)..at(r, panel) + LANES], acc[r][panel]);
                        }
                    }
                    $rows
                }};
            }
            let mut panel = 0;
            // Few rows have too few sums for the latency of a multiply-add: four panels have four times as many.
            if const { I::ROWS >= 8 } && few {
                while panel + 4 <= padded / LANES {
                    macro_rules! weigh {
                        ($row:expr, $rows:literal) => {
                            weigh_panels!(panel, 4, $row, $rows)
                        };
                    }
                    super::matmul::tile_rows!(rows, FEW, weigh);
                    panel += 4;
                }
            }
            while panel < padded / LANES {
                macro_rules! weigh {
                    ($row:expr, $rows:literal) => {
                        weigh_panels!(panel, 1, $row, $rows)
                    };
                }
                super::matmul::tile_rows!(rows, I::ROWS, weigh);
                panel += 1;
            }
        }
        for r in 0..rows {
            let (at, _) = place(r);
            // SAFETY: these heads of these rows belong to this task alone.
            let y = unsafe { y.get(at..at + dim) };
            for (y, out) in y.iter_mut().zip(&outputs[r * padded..]) {
                *y = out / sums[r];
            }
        }
    }
}

/// The formula, in f64, for one head: `q` `[D]` at `position`, `k` and `v` `[T][D]`.
pub fn reference(attention: Attention, q: &[f32], k: &[f32], v: &[f32], position: usize) -> Vec<f64> {
    let dim = q.len();
    let first = attention.window.map_or(0, |w| (position + 1).saturating_sub(w));
    let score = |t: usize| -> f64 {
        let dot: f64 = q.iter().zip(&k[t * dim..]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
        dot * f64::from(attention.scale)
    };
    let largest = (first..=position).map(score).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = (first..=position).map(|t| (score(t) - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut y = vec![0.0; dim];
    for (t, weight) in (first..=position).zip(weights) {
        for (y, v) in y.iter_mut().zip(&v[t * dim..]) {
            *y += weight / total * f64::from(*v);
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    struct Case {
        heads: usize,
        kv_heads: usize,
        dim: usize,
        tokens: usize,
        window: Option<usize>,
    }

    impl Case {
        fn attention(&self) -> Attention {
            let scale = (self.dim as f32).powf(-0.5);
            Attention { heads: self.heads, scale, window: self.window }
        }
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

    fn attend(
        case: &Case,
        threads: usize,
        kind: CacheType,
        chunks: &[usize],
        room: usize,
        [q, k, v]: [&[f32]; 3],
    ) -> Vec<f32> {
        let pool = Pool::new(threads);
        let attention = case.attention();
        let mut cache = LayerCache::new(case.kv_heads, case.dim, room, kind);
        let (wide, narrow) = (case.heads * case.dim, case.kv_heads * case.dim);
        let mut y = vec![f32::NAN; q.len()];
        let (mut first, mut chunk) = (0, chunks.iter().cycle());
        while first < case.tokens {
            let end = case.tokens.min(first + chunk.next().unwrap());
            cache.append(&pool, first, &k[first * narrow..end * narrow], &v[first * narrow..end * narrow]);
            let segment = Segment { rows: 0..end - first, first, cache: &cache };
            let range = first * wide..end * wide;
            attention.forward(&pool, &q[range.clone()], &[segment], &mut y[range]);
            first = end;
        }
        y
    }

    #[test]
    fn matches_the_reference_and_itself() {
        let mut rng = Rng::new(1, 0);
        for case in &CASES {
            let mut random = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.normal()).collect() };
            let q = random(case.tokens * case.heads * case.dim);
            let k = random(case.tokens * case.kv_heads * case.dim);
            let v = random(case.tokens * case.kv_heads * case.dim);
            let inputs = [&q[..], &k, &v];
            let all = attend(case, 1, CacheType::F32, &[case.tokens], case.tokens, inputs);
            let attention = case.attention();
            for head in 0..case.heads {
                let kv = head / (case.heads / case.kv_heads);
                let pick = |x: &[f32], h: usize, heads: usize| -> Vec<f32> {
                    x.chunks(heads * case.dim)
                        .flat_map(|row| row[h * case.dim..(h + 1) * case.dim].to_vec())
                        .collect()
                };
                let (k, v) = (pick(&k, kv, case.kv_heads), pick(&v, kv, case.kv_heads));
                for t in 0..case.tokens {
                    let at = (t * case.heads + head) * case.dim;
                    let want = reference(attention, &q[at..at + case.dim], &k, &v, t);
                    for (got, want) in all[at..].iter().zip(want) {
                        assert!(
                            (f64::from(*got) - want).abs() < 3e-6,
                            "{} tokens: {got} {want}",
                            case.tokens
                        );
                    }
                }
            }
            // Bits: threads, chunks, and a ring no larger than the window needs.
            for kind in [CacheType::F32, CacheType::F16] {
                let whole = attend(case, 1, kind, &[case.tokens], case.tokens, inputs);
                let ring = case.window.map_or(case.tokens, |w| w + 7 + 2 * BLOCK);
                for (threads, chunks, room) in
                    [(2, &[case.tokens][..], case.tokens), (2, &[1][..], ring), (1, &[7, 1, 3][..], ring)]
                {
                    let other = attend(case, threads, kind, chunks, room, inputs);
                    assert!(
                        whole.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{chunks:?} {kind:?}"
                    );
                }
                let error = whole.iter().zip(&all).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
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
        Attention { heads: 1, scale: 1.0, window: None }.forward(&pool, &[1.0; 4], &[segment], &mut y);
        assert_eq!(y, [2.0; 4]);
    }
}
