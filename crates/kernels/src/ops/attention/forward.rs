//! Forward: a tile of queries walks the keys once.

use super::cache::{CacheType, LayerCache};
use super::product::{Ahead, ByRow, Floats, Halves, PIECE, Product, Right, Start, to_pieces};
use super::{Attention, BLOCK, Scratch, Segment, hide, share_out, share_out_len};
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, IsaKind, Kernel, LANES, dispatch_to, math};
use std::ops::Range;

/// Blocks that a softmax takes at once. A power of several blocks costs fewer maxima and sums across lanes; the scores
/// of a tile must stay in the nearest cache.
const STEP: usize = 4;

/// Keys of a step.
const SPAN: usize = STEP * BLOCK;

/// Query rows that a task holds at once: their outputs and scores stay in the nearest cache.
const TILE: usize = 48;

/// Rows of a tile that counts as small, such as that of one decoded token: too few sums for the latency of a
/// multiply-add, so that several vectors go side by side.
const FEW: usize = 3;

/// The queries of some tokens and some heads that share key/value head `head` of a segment.
#[derive(Clone, Debug)]
pub(super) struct Task {
    segment: usize,
    head: usize,
    /// Which of the query heads of this key/value head.
    group: Range<usize>,
    /// Which tokens of the segment.
    tokens: Range<usize>,
}

impl Task {
    fn first_block(&self, attention: &Attention, segment: &Segment) -> usize {
        attention.first_seen(segment.first + self.tokens.start) / BLOCK
    }
}

impl Attention {
    /// `q` and `y` `[rows, H · D]`; `lse` `[rows, H]`, if it is wanted: the logarithm of the sum of e^score, which
    /// [`Attention::backward`] needs. Panics when sizes differ.
    pub fn forward(
        &self,
        pool: &Pool,
        scratch: &mut Scratch,
        q: &[f32],
        segments: &[Segment],
        y: &mut [f32],
        lse: Option<&mut [f32]>,
    ) {
        self.forward_on(IsaKind::current(), pool, scratch, q, segments, (y, lse));
    }

    pub(super) fn forward_on(
        &self,
        isa: IsaKind,
        pool: &Pool,
        scratch: &mut Scratch,
        q: &[f32],
        segments: &[Segment],
        (y, lse): (&mut [f32], Option<&mut [f32]>),
    ) {
        assert_eq!(q.len(), y.len(), "sizes of q and y");
        scratch.tiles.clear();
        let mut floats = 0;
        for (index, segment) in segments.iter().enumerate() {
            let (tokens, heads) = (segment.rows.len(), segment.cache.heads);
            assert!(self.heads.is_multiple_of(heads), "{} query heads over {heads}", self.heads);
            assert!(segment.rows.end * self.heads * segment.cache.dim <= q.len(), "rows of q");
            let group = self.heads / heads;
            // Few tokens and heads: a head's queries are shared out, though each then reads the keys again.
            let split = if tokens * heads < pool.threads() { group.min(pool.threads()) } else { 1 };
            let per_tile = (TILE / group).max(1);
            floats = floats.max(Memory::floats(per_tile.min(tokens) * group, segment));
            for head in 0..heads {
                for part in 0..split {
                    let group = group * part / split..group * (part + 1) / split;
                    for start in (0..tokens).step_by(per_tile) {
                        let tokens = start..tokens.min(start + per_tile);
                        scratch.tiles.push(Task { segment: index, head, group: group.clone(), tokens });
                    }
                }
            }
        }
        let rows = segments.iter().map(|s| s.rows.end).max().unwrap_or(0);
        assert!(lse.as_ref().is_none_or(|lse| lse.len() >= rows * self.heads), "rows of lse");
        let (y, lse) = (Shares::new(y), lse.map(Shares::new));
        let tasks = &scratch.tiles;
        let len = share_out_len(pool.threads(), floats).max(scratch.memory.len());
        scratch.memory.resize(len, 0.0);
        share_out(pool, &mut scratch.memory, floats, tasks.len(), |i, memory| {
            // The last tiles of a long prefill see the most keys: they go first, so that no thread ends alone.
            let of = |i: usize| {
                let task = &tasks[tasks.len() - 1 - i];
                (&segments[task.segment], task)
            };
            let (segment, task) = of(i);
            // Each thread has taken one when this one comes back.
            let next = Some(i + pool.threads()).filter(|next| *next < tasks.len()).map(|next| {
                let (segment, task) = of(next);
                segment.cache.place(task.head, task.first_block(self, segment))
            });
            dispatch_to(isa, Tile { attention: *self, segment, task, q, y, lse, memory, next });
        });
    }
}

struct Tile<'a> {
    attention: Attention,
    segment: &'a Segment<'a>,
    task: &'a Task,
    q: &'a [f32],
    y: Shares<'a, f32>,
    lse: Option<Shares<'a, f32>>,
    memory: &'a mut [f32],
    /// Where the keys are with which this thread probably goes on.
    next: Option<*const u8>,
}

/// What a tile works in. Row r is token `r / group.len()`, query head `r % group.len()` of the group.
struct Memory<'a> {
    /// `[padded/32][rows][32]`: sums of weights times values.
    outputs: &'a mut [f32],
    /// `[rows][SPAN]`: scores, then weights, of a step.
    scores: &'a mut [f32],
    /// A block's keys or values in f32.
    widened: &'a mut [f32],
    /// `[D/64][rows][64]`: scaled; what stands behind D is left over.
    queries: &'a mut [f32],
    /// Of the scores so far.
    largest: &'a mut [f32],
    /// The same, with those of a step.
    largest_now: &'a mut [f32],
    /// Of the weights so far.
    sums: &'a mut [f32],
}

impl<'a> Memory<'a> {
    fn floats(rows: usize, segment: &Segment) -> usize {
        let (dim, padded) = (segment.cache.dim, segment.cache.padded);
        rows * (padded + SPAN + dim.next_multiple_of(PIECE) + 3) + padded * BLOCK
    }

    fn new(memory: &'a mut [f32], rows: usize, segment: &Segment) -> Memory<'a> {
        let (dim, padded) = (segment.cache.dim, segment.cache.padded);
        let (outputs, rest) = memory.split_at_mut(rows * padded);
        let (scores, rest) = rest.split_at_mut(rows * SPAN);
        let (widened, rest) = rest.split_at_mut(padded * BLOCK);
        let (queries, rest) = rest.split_at_mut(rows * dim.next_multiple_of(PIECE));
        let (largest, rest) = rest.split_at_mut(rows);
        let (largest_now, rest) = rest.split_at_mut(rows);
        Memory { outputs, scores, widened, queries, largest, largest_now, sums: &mut rest[..rows] }
    }
}

impl Kernel for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Tile { attention, segment, task, q, y, lse, memory, next } = self;
        let cache = segment.cache;
        let (dim, padded, per_head) = (cache.dim, cache.padded, attention.heads / cache.heads);
        let group = task.group.len();
        let rows = task.tokens.len() * group;
        let position = |r: usize| segment.first + task.tokens.start + r / group;
        // The query head of a row, in all rows of q.
        let place = |r: usize| {
            let row = segment.rows.start + task.tokens.start + r / group;
            row * attention.heads + task.head * per_head + task.group.start + r % group
        };
        let mut m = Memory::new(memory, rows, segment);
        m.outputs.fill(0.0);
        // Not -inf, which less itself is no number.
        m.largest.fill(f32::MIN);
        m.sums.fill(0.0);
        for r in 0..rows {
            to_pieces(isa, &q[place(r) * dim..][..dim], attention.scale, m.queries, rows, r);
        }

        let positions = position(0)..position(rows - 1) + 1;
        let blocks = task.first_block(&attention, segment)..(positions.end - 1) / BLOCK + 1;
        let walk = Walk { attention, cache, head: task.head, rows, group, positions };
        for step in blocks.start / STEP..blocks.end.div_ceil(STEP) {
            let end = blocks.end;
            let blocks = blocks.start.max(step * STEP)..end.min((step + 1) * STEP);
            walk.score(isa, &blocks, &mut m);
            weigh(isa, |r| attention.seen(position(r)), &blocks, padded, &mut m);
            let next = if blocks.end < end { Some(cache.place(task.head, blocks.end)) } else { next };
            walk.gather(isa, &blocks, next, &mut m);
        }
        for r in 0..rows {
            let at = place(r);
            // SAFETY: these heads of these rows belong to this task alone.
            let y = unsafe { y.get(at * dim..(at + 1) * dim) };
            let inverse = isa.splat(1.0 / m.sums[r]);
            for (panel, y) in y.chunks_mut(LANES).enumerate() {
                let sums = &m.outputs[(panel * rows + r) * LANES..];
                isa.store_slice(y, isa.mul(isa.load_slice(sums, 0.0), inverse));
            }
            if let Some(lse) = lse {
                // SAFETY: as above.
                unsafe { lse.get(at..at + 1)[0] = m.largest[r] + m.sums[r].ln() };
            }
        }
    }
}

/// Scores become weights; what a row has so far is scaled to its new maximum.
#[inline(always)]
fn weigh<I: Isa>(
    isa: I,
    seen: impl Fn(usize) -> Range<usize>,
    blocks: &Range<usize>,
    padded: usize,
    m: &mut Memory,
) {
    let rows = m.sums.len();
    let first = blocks.start * BLOCK;
    let seen = |r: usize| {
        let seen = seen(r);
        seen.start.max(first) - first..seen.end.min(blocks.end * BLOCK).max(first) - first
    };
    // Whole vectors of them.
    let vectors = |seen: &Range<usize>| seen.start / LANES * LANES..seen.end.next_multiple_of(LANES);
    for r in 0..rows {
        let scores = &mut m.scores[r * SPAN..(r + 1) * SPAN];
        let seen = seen(r);
        let mut largest = isa.splat(m.largest[r]);
        if !seen.is_empty() {
            let vectors = vectors(&seen);
            for first in vectors.step_by(LANES) {
                let s = hide(isa, &mut scores[first..first + LANES], first, &seen);
                largest = isa.max(largest, s);
            }
        }
        m.largest_now[r] = isa.largest(largest);
    }
    for (before, now) in m.largest.chunks_mut(LANES).zip(m.largest_now.chunks(LANES)) {
        let x = isa.sub(isa.load_slice(before, 0.0), isa.load_slice(now, 0.0));
        isa.store_slice(before, math::exp(isa, x));
    }
    std::mem::swap(&mut m.largest, &mut m.largest_now);
    let shrink = &m.largest_now;
    for r in 0..rows {
        let seen = seen(r);
        if seen.is_empty() {
            continue;
        }
        if shrink[r] < 1.0 {
            let factor = isa.splat(shrink[r]);
            for panel in 0..padded / LANES {
                let sums = &mut m.outputs[(panel * rows + r) * LANES..];
                isa.store_slice(sums, isa.mul(isa.load_slice(sums, 0.0), factor));
            }
        }
        let largest = isa.splat(m.largest[r]);
        let mut sum = isa.zero();
        for s in m.scores[r * SPAN..(r + 1) * SPAN][vectors(&seen)].chunks_exact_mut(LANES) {
            let p = math::exp(isa, isa.sub(isa.load_slice(s, 0.0), largest));
            sum = isa.add(sum, p);
            isa.store_slice(s, p);
        }
        m.sums[r] = m.sums[r] * shrink[r] + isa.sum(sum);
    }
}

/// The two products of a tile, over the blocks of a step.
struct Walk<'a> {
    attention: Attention,
    cache: &'a LayerCache,
    head: usize,
    rows: usize,
    /// Rows of a token.
    group: usize,
    /// Of the tokens.
    positions: Range<usize>,
}

impl Walk<'_> {
    /// The rows that see a key of a block.
    fn seeing(&self, block: usize) -> Range<usize> {
        let positions = self.attention.seeing(block, &self.positions);
        let row = |position: usize| (position - self.positions.start) * self.group;
        row(positions.start)..row(positions.end)
    }

    /// scores = q · k.
    #[inline(always)]
    fn score<I: Isa>(&self, isa: I, blocks: &Range<usize>, m: &mut Memory) {
        let (cache, head) = (self.cache, self.head);
        if self.rows > I::ROWS {
            for block in blocks.clone() {
                let keys = match cache.kind {
                    CacheType::F16 => widen(isa, cache.halves(head, block)[0], m.widened),
                    CacheType::F32 => cache.floats(head, block)[0],
                };
                self.score_block(isa, blocks, block, Floats::<LANES>(keys), m.queries, m.scores);
            }
            return;
        }
        // The values of the block are next.
        let bytes = (cache.dim * BLOCK * cache.kind.bytes()) as isize;
        match cache.kind {
            CacheType::F16 => {
                let keys = |block| Ahead { now: Halves(cache.halves(head, block)[0]), bytes };
                self.score_few(isa, blocks, keys, m);
            }
            CacheType::F32 => {
                let keys = |block| Ahead { now: Floats::<LANES>(cache.floats(head, block)[0]), bytes };
                self.score_few(isa, blocks, keys, m);
            }
        }
    }

    /// The same for few rows.
    #[inline(always)]
    fn score_few<I: Isa, B: Right>(
        &self,
        isa: I,
        blocks: &Range<usize>,
        keys: impl Fn(usize) -> B,
        m: &mut Memory,
    ) {
        if const { I::ROWS >= FEW * STEP } && self.rows <= FEW && blocks.len() == STEP {
            let keys: [B; STEP] = std::array::from_fn(|i| keys(blocks.start + i));
            return self.score_blocks(isa, 0..self.rows, keys, m.queries, m.scores);
        }
        for block in blocks.clone() {
            self.score_block(isa, blocks, block, keys(block), m.queries, m.scores);
        }
    }

    /// The same of one of the blocks.
    #[inline(always)]
    fn score_block<I: Isa, B: Right>(
        &self,
        isa: I,
        blocks: &Range<usize>,
        block: usize,
        keys: B,
        queries: &[f32],
        scores: &mut [f32],
    ) {
        let seeing = self.seeing(block);
        let scores = &mut scores[seeing.start * SPAN + (block - blocks.start) * BLOCK..];
        self.score_blocks(isa, seeing, [keys], queries, scores);
    }

    /// The same, of `N` blocks, whose first scores are `scores`.
    #[inline(always)]
    fn score_blocks<I: Isa, B: Right, const N: usize>(
        &self,
        isa: I,
        rows: Range<usize>,
        keys: [B; N],
        queries: &[f32],
        scores: &mut [f32],
    ) {
        for first in (0..self.cache.dim).step_by(PIECE) {
            isa.run(Product::<_, _, N, SPAN> {
                rows: rows.len(),
                depth: PIECE.min(self.cache.dim - first),
                a: ByRow::<PIECE>(&queries[first * self.rows + rows.start * PIECE..]),
                b: keys.map(|keys| keys.skip(first)),
                c: scores,
                apart: BLOCK,
                start: if first == 0 { Start::Zero } else { Start::Sums },
            });
        }
    }

    /// outputs += p · v. Few rows ask for the keys at `next` on the way.
    #[inline(always)]
    fn gather<I: Isa>(&self, isa: I, blocks: &Range<usize>, next: Option<*const u8>, m: &mut Memory) {
        let (cache, head, few) = (self.cache, self.head, self.rows <= I::ROWS);
        let here = cache.place(head, blocks.start);
        // From the values on; to the keys behind us, which cost nothing, where there is no next.
        let next = (next.unwrap_or(here) as isize).wrapping_sub(here as isize);
        let bytes = next - (cache.dim * BLOCK * cache.kind.bytes()) as isize;
        for block in blocks.clone() {
            let weights = &m.scores[(block - blocks.start) * BLOCK..];
            match cache.kind {
                CacheType::F16 if few => {
                    let values = Ahead { now: Halves(cache.halves(head, block)[1]), bytes };
                    self.gather_block(isa, self.seeing(block), values, weights, m.outputs);
                }
                CacheType::F32 if few => {
                    let values = Ahead { now: Floats::<LANES>(cache.floats(head, block)[1]), bytes };
                    self.gather_block(isa, self.seeing(block), values, weights, m.outputs);
                }
                CacheType::F16 => {
                    let values = Floats::<LANES>(widen(isa, cache.halves(head, block)[1], m.widened));
                    self.gather_block(isa, self.seeing(block), values, weights, m.outputs);
                }
                CacheType::F32 => {
                    let values = Floats::<LANES>(cache.floats(head, block)[1]);
                    self.gather_block(isa, self.seeing(block), values, weights, m.outputs);
                }
            }
        }
    }

    /// The same of one block.
    #[inline(always)]
    fn gather_block<I: Isa, B: Right>(
        &self,
        isa: I,
        rows: Range<usize>,
        values: B,
        weights: &[f32],
        outputs: &mut [f32],
    ) {
        let panels = self.cache.padded / LANES;
        let mut panel = 0;
        if const { I::ROWS >= FEW * 4 } && self.rows <= FEW {
            while panel + 4 <= panels {
                self.gather_panels::<I, B, 4>(isa, &rows, panel, values, weights, outputs);
                panel += 4;
            }
            while panel + 2 <= panels {
                self.gather_panels::<I, B, 2>(isa, &rows, panel, values, weights, outputs);
                panel += 2;
            }
        }
        for panel in panel..panels {
            self.gather_panels::<I, B, 1>(isa, &rows, panel, values, weights, outputs);
        }
    }

    /// The same of one block, and `N` times 32 of the D values.
    #[inline(always)]
    fn gather_panels<I: Isa, B: Right, const N: usize>(
        &self,
        isa: I,
        rows: &Range<usize>,
        panel: usize,
        values: B,
        weights: &[f32],
        outputs: &mut [f32],
    ) {
        isa.run(Product::<_, _, N, LANES> {
            rows: rows.len(),
            depth: BLOCK,
            a: ByRow::<SPAN>(&weights[rows.start * SPAN..]),
            b: std::array::from_fn(|n| values.skip((panel + n) * BLOCK)),
            c: &mut outputs[(panel * self.rows + rows.start) * LANES..],
            apart: self.rows * LANES,
            start: Start::Sums,
        });
    }
}

/// Half precision in f32: once for all rows that read it.
#[inline(always)]
fn widen<'a, I: Isa>(isa: I, halves: &[u16], to: &'a mut [f32]) -> &'a [f32] {
    for (to, from) in to.chunks_exact_mut(LANES).zip(halves.chunks_exact(LANES)) {
        // SAFETY: the chunk has 32 halves.
        isa.store_slice(to, unsafe { isa.load_f16(from.as_ptr()) });
    }
    to
}
