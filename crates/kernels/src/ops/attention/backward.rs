//! Backward, in the form of FlashAttention-2 (Dao 2023): the weights come again from the scores and what the forward
//! kept of them, so that nothing of size T x T is stored.
//!
//! ```text
//!   p[t]  = e^(scale · q · k[t] - lse)          the softmax, without its sum
//!   ds[t] = p[t] (dy · v[t] - dy · y)           of a row: y is the sum of p[t] v[t]
//!   dq    = scale · sum over t of ds[t] k[t]
//!   dk[t] = scale · sum over queries of ds[t] q
//!   dv[t] =         sum over queries of p[t] dy
//! ```
//!
//! A task has one key/value head of one sequence, with all query heads that share it: nobody else adds to its dk and
//! dv. It takes the queries in tiles and walks the blocks of keys for each, from the first that is visible upwards, so
//! bits depend on the sequence alone.

use super::product::{ByColumn, ByRow, Floats, PIECE, Product, Start, across, from_pieces, to_pieces};
use super::{Attention, BLOCK, hide, share_out, share_out_len};
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, IsaKind, Kernel, LANES, dispatch_to, math};
use std::ops::Range;

/// Query rows of a tile. Products over queries are this deep.
const TILE: usize = 128;

/// What the forward read and gave: T rows of sequences, one behind the other, each from position 0.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    /// Tokens of each sequence; T in sum.
    pub lengths: &'a [usize],
    /// `[T, H · D]`.
    pub q: &'a [f32],
    /// `[T, G · D]`.
    pub k: &'a [f32],
    /// `[T, G · D]`.
    pub v: &'a [f32],
    /// `[T, H · D]`.
    pub y: &'a [f32],
    /// `[T, H]`.
    pub lse: &'a [f32],
}

/// Where the gradients go; what was there is overwritten.
pub struct Gradients<'a> {
    /// `[T, H · D]`.
    pub dq: &'a mut [f32],
    /// `[T, G · D]`.
    pub dk: &'a mut [f32],
    /// `[T, G · D]`.
    pub dv: &'a mut [f32],
}

impl Attention {
    /// Values of scratch that [`Attention::backward`] needs on `threads` threads for G `kv_heads` of width `dim` and
    /// sequences of at most `longest` tokens.
    pub fn backward_scratch(&self, threads: usize, kv_heads: usize, dim: usize, longest: usize) -> usize {
        share_out_len(threads, Sizes::new(self.heads / kv_heads, dim, longest).floats())
    }

    /// The gradients from `dy` `[T, H · D]`. Nothing is allocated.
    ///
    /// Bits do not depend on threads, nor on a sequence's company. Panics when sizes differ, or when `scratch` is
    /// smaller than [`Attention::backward_scratch`] says.
    pub fn backward(
        &self,
        pool: &Pool,
        scratch: &mut [f32],
        saved: &Saved,
        dy: &[f32],
        gradients: Gradients,
    ) {
        self.backward_on(IsaKind::current(), pool, scratch, saved, dy, gradients);
    }

    pub(super) fn backward_on(
        &self,
        isa: IsaKind,
        pool: &Pool,
        scratch: &mut [f32],
        saved: &Saved,
        dy: &[f32],
        gradients: Gradients,
    ) {
        let Saved { lengths, q, k, v, y, lse } = *saved;
        let Gradients { dq, dk, dv } = gradients;
        let (tokens, heads) = (lengths.iter().sum::<usize>(), self.heads);
        if tokens == 0 {
            return;
        }
        let dim = q.len() / (tokens * heads);
        let kv_heads = k.len() / (tokens * dim).max(1);
        assert_eq!(q.len(), tokens * heads * dim, "q: {tokens} rows of {heads} heads");
        assert_eq!(k.len(), tokens * kv_heads * dim, "k: {tokens} rows of heads of {dim}");
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} query heads over {kv_heads}");
        assert!([y.len(), dy.len(), dq.len()] == [q.len(); 3], "sizes of q, y, dy and dq");
        assert!([v.len(), dk.len(), dv.len()] == [k.len(); 3], "sizes of k, v, dk and dv");
        assert_eq!(lse.len(), tokens * heads, "size of lse");
        let group = heads / kv_heads;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let (dq, dk, dv) = (Shares::new(dq), Shares::new(dk), Shares::new(dv));
        let floats = Sizes::new(group, dim, longest).floats();
        share_out(pool, scratch, floats, lengths.len() * kv_heads, |i, memory| {
            let (sequence, head) = (i / kv_heads, i % kv_heads);
            if lengths[sequence] == 0 {
                return;
            }
            let first = lengths[..sequence].iter().sum();
            let sizes = Sizes::new(group, dim, lengths[sequence]);
            let memory = Memory::new(memory, &sizes);
            let task = Task { attention: *self, sizes, first, head, kv_heads, saved, dy, dq, dk, dv, memory };
            dispatch_to(isa, task);
        });
    }
}

/// Of a task.
#[derive(Clone, Copy)]
struct Sizes {
    /// Query heads.
    group: usize,
    dim: usize,
    tokens: usize,
    /// Tokens of a tile; a row is a token and a query head.
    per_tile: usize,
}

impl Sizes {
    fn new(group: usize, dim: usize, tokens: usize) -> Sizes {
        Sizes { group, dim, tokens, per_tile: (TILE / group).clamp(1, tokens.max(1)) }
    }

    /// Tokens in whole blocks.
    fn keys(&self) -> usize {
        self.tokens.next_multiple_of(BLOCK)
    }

    /// Of the largest tile.
    fn rows(&self) -> usize {
        self.per_tile * self.group
    }

    /// D in whole pieces.
    fn wide(&self) -> usize {
        self.dim.next_multiple_of(PIECE)
    }

    fn floats(&self) -> usize {
        self.keys() * (2 * self.dim + 3 * self.wide()) + self.rows() * (3 * self.wide() + 2 * BLOCK + 2)
    }
}

/// What a task works in. The first five are of the whole sequence, the others of a tile.
struct Memory<'a> {
    /// `[blocks][D][32 keys]`.
    keys_across: &'a mut [f32],
    /// The same of values.
    values_across: &'a mut [f32],
    /// `[D/64][keys][64]`; what stands behind D is left over, here and below.
    keys: &'a mut [f32],
    /// `[D/64][keys][64]`.
    dk: &'a mut [f32],
    /// `[D/64][keys][64]`.
    dv: &'a mut [f32],
    /// `[D/64][rows][64]`: scaled.
    queries: &'a mut [f32],
    /// `[D/64][rows][64]`.
    dy: &'a mut [f32],
    /// `[D/64][rows][64]`: yet to be scaled.
    dq: &'a mut [f32],
    /// `[rows][32]`: scores, then weights, of a block.
    weights: &'a mut [f32],
    /// `[rows][32]`: dy · v, then the gradient of the scores.
    dscores: &'a mut [f32],
    lse: &'a mut [f32],
    /// dy · y.
    dy_y: &'a mut [f32],
}

impl<'a> Memory<'a> {
    fn new(memory: &'a mut [f32], sizes: &Sizes) -> Memory<'a> {
        let (keys, rows, wide) = (sizes.keys(), sizes.rows(), sizes.wide());
        let mut rest = memory;
        let mut take = |len: usize| rest.split_off_mut(..len).unwrap_or_default();
        Memory {
            keys_across: take(keys * sizes.dim),
            values_across: take(keys * sizes.dim),
            keys: take(keys * wide),
            dk: take(keys * wide),
            dv: take(keys * wide),
            queries: take(rows * wide),
            dy: take(rows * wide),
            dq: take(rows * wide),
            weights: take(rows * BLOCK),
            dscores: take(rows * BLOCK),
            lse: take(rows),
            dy_y: take(rows),
        }
    }
}

struct Task<'a> {
    attention: Attention,
    sizes: Sizes,
    /// The sequence's first row.
    first: usize,
    head: usize,
    kv_heads: usize,
    saved: &'a Saved<'a>,
    dy: &'a [f32],
    dq: Shares<'a, f32>,
    dk: Shares<'a, f32>,
    dv: Shares<'a, f32>,
    memory: Memory<'a>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let Sizes { dim, tokens, per_tile, .. } = self.sizes;
        let (keys, first, head, kv_heads) = (self.sizes.keys(), self.first, self.head, self.kv_heads);
        let place = |token: usize| ((first + token) * kv_heads + head) * dim;
        let m = &mut self.memory;
        for token in 0..tokens {
            to_pieces(isa, &self.saved.k[place(token)..][..dim], 1.0, m.keys, keys, token);
        }
        // What a key that is not there weighs is 0, and 0 times something left over might not be.
        for piece in m.keys.chunks_exact_mut(keys * PIECE) {
            piece[tokens * PIECE..].fill(0.0);
        }
        across(isa, |token| &self.saved.k[place(token)..][..dim], tokens, dim, m.keys_across);
        across(isa, |token| &self.saved.v[place(token)..][..dim], tokens, dim, m.values_across);
        m.dk.fill(0.0);
        m.dv.fill(0.0);
        for start in (0..tokens).step_by(per_tile) {
            self.tile(isa, start..tokens.min(start + per_tile));
        }
        for token in 0..tokens {
            let range = place(token)..place(token) + dim;
            // SAFETY: this head of these rows belongs to this task alone.
            let (dk, dv) = unsafe { (self.dk.get(range.clone()), self.dv.get(range)) };
            // The queries were scaled, and dk is already.
            from_pieces(isa, self.memory.dk, keys, token, 1.0, dk);
            from_pieces(isa, self.memory.dv, keys, token, 1.0, dv);
        }
    }
}

impl Task<'_> {
    /// Everything that the queries of some tokens add.
    #[inline(always)]
    fn tile<I: Isa>(&mut self, isa: I, tokens: Range<usize>) {
        let Sizes { group, dim, .. } = self.sizes;
        let rows = tokens.len() * group;
        // The query head of a row, in all rows of q.
        let (first, head, heads) = (self.first + tokens.start, self.head, self.attention.heads);
        let place = |r: usize| (first + r / group) * heads + head * group + r % group;
        let m = &mut self.memory;
        m.dq.fill(0.0);
        for r in 0..rows {
            let at = place(r) * dim..(place(r) + 1) * dim;
            let (y, dy) = (&self.saved.y[at.clone()], &self.dy[at.clone()]);
            to_pieces(isa, &self.saved.q[at], self.attention.scale, m.queries, rows, r);
            to_pieces(isa, dy, 1.0, m.dy, rows, r);
            let mut sum = isa.zero();
            for (y, dy) in y.chunks(LANES).zip(dy.chunks(LANES)) {
                sum = isa.fma(isa.load_slice(y, 0.0), isa.load_slice(dy, 0.0), sum);
            }
            m.dy_y[r] = isa.sum(sum);
            m.lse[r] = self.saved.lse[place(r)];
        }
        let blocks = self.attention.first_seen(tokens.start) / BLOCK..(tokens.end - 1) / BLOCK + 1;
        for block in blocks {
            let seeing = self.attention.seeing(block, &tokens);
            let seeing = (seeing.start - tokens.start) * group..(seeing.end - tokens.start) * group;
            self.scores(isa, block, rows, &seeing);
            self.weigh(isa, block, tokens.start, &seeing);
            self.gather(isa, block, rows, &seeing);
        }
        for r in 0..rows {
            let at = place(r) * dim..(place(r) + 1) * dim;
            // SAFETY: these heads of these rows belong to this task alone.
            let dq = unsafe { self.dq.get(at) };
            from_pieces(isa, self.memory.dq, rows, r, self.attention.scale, dq);
        }
    }

    /// weights = q · k, dscores = dy · v.
    #[inline(always)]
    fn scores<I: Isa>(&mut self, isa: I, block: usize, rows: usize, seeing: &Range<usize>) {
        let (dim, m) = (self.sizes.dim, &mut self.memory);
        let products =
            [(&*m.queries, &*m.keys_across, &mut *m.weights), (&*m.dy, &*m.values_across, &mut *m.dscores)];
        for (a, b, c) in products {
            for first in (0..dim).step_by(PIECE) {
                isa.run(Product::<_, _, 1, BLOCK> {
                    rows: seeing.len(),
                    depth: PIECE.min(dim - first),
                    a: ByRow::<PIECE>(&a[first * rows + seeing.start * PIECE..]),
                    b: [Floats::<LANES>(&b[(block * dim + first) * BLOCK..])],
                    c: &mut c[seeing.start * BLOCK..],
                    apart: 0,
                    start: if first == 0 { Start::Zero } else { Start::Sums },
                });
            }
        }
    }

    /// Scores become weights, and the gradients of the weights those of the scores.
    #[inline(always)]
    fn weigh<I: Isa>(&mut self, isa: I, block: usize, token: usize, seeing: &Range<usize>) {
        let m = &mut self.memory;
        for r in seeing.clone() {
            let weights = &mut m.weights[r * BLOCK..(r + 1) * BLOCK];
            let dscores = &mut m.dscores[r * BLOCK..(r + 1) * BLOCK];
            let seen = self.attention.seen(token + r / self.sizes.group);
            let scores = hide(isa, weights, block * BLOCK, &seen);
            let p = math::exp(isa, isa.sub(scores, isa.splat(m.lse[r])));
            let ds = isa.mul(p, isa.sub(isa.load_slice(dscores, 0.0), isa.splat(m.dy_y[r])));
            isa.store_slice(weights, p);
            isa.store_slice(dscores, ds);
        }
    }

    /// dv += p · dy, dk += ds · q, dq += ds · k.
    #[inline(always)]
    fn gather<I: Isa>(&mut self, isa: I, block: usize, rows: usize, seeing: &Range<usize>) {
        let (dim, keys, m) = (self.sizes.dim, self.sizes.keys(), &mut self.memory);
        for first in (0..dim).step_by(LANES) {
            // Of vectors of D, in pieces.
            let at = |rows: usize, row: usize| first / PIECE * PIECE * rows + row * PIECE + first % PIECE;
            let (of_rows, of_keys) = (at(rows, seeing.start), at(keys, block * BLOCK));
            let sums = [(&*m.weights, &*m.dy, &mut *m.dv), (&*m.dscores, &*m.queries, &mut *m.dk)];
            for (a, b, c) in sums {
                isa.run(Product::<_, _, 1, PIECE> {
                    rows: BLOCK,
                    depth: seeing.len(),
                    a: ByColumn::<BLOCK>(&a[seeing.start * BLOCK..]),
                    b: [Floats::<PIECE>(&b[of_rows..])],
                    c: &mut c[of_keys..],
                    apart: 0,
                    start: Start::Sums,
                });
            }
            isa.run(Product::<_, _, 1, PIECE> {
                rows: seeing.len(),
                depth: BLOCK,
                a: ByRow::<BLOCK>(&m.dscores[seeing.start * BLOCK..]),
                b: [Floats::<PIECE>(&m.keys[of_keys..])],
                c: &mut m.dq[of_rows..],
                apart: 0,
                start: Start::Sums,
            });
        }
    }
}
