//! Keys and values of the positions so far, in the layout that both products read.
//!
//! ```text
//!   a head's block of 32 positions    K [D][32 positions]  |  V [D/32][32 positions][32]      f16 or f32
//! ```

use super::BLOCK;
use super::product::Square;
use crate::buffer::{Buffer, Plain};
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};
use std::ops::Range;

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
    pub(super) heads: usize,
    pub(super) dim: usize,
    /// `dim` rounded up to whole vectors.
    pub(super) padded: usize,
    blocks: usize,
    pub(super) kind: CacheType,
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

    /// Bytes of a head's block.
    pub(super) fn block_bytes(&self) -> usize {
        (self.dim + self.padded) * BLOCK * self.kind.bytes()
    }

    /// Keys `[D][32]` and values `[D/32][32][32]` of block `block` of the sequence, as bits of half precision.
    pub(super) fn halves(&self, head: usize, block: usize) -> [&[u16]; 2] {
        assert_eq!(self.kind, CacheType::F16, "type of the cache");
        self.parts(head, block)
    }

    /// The same of a cache in f32.
    pub(super) fn floats(&self, head: usize, block: usize) -> [&[f32]; 2] {
        assert_eq!(self.kind, CacheType::F32, "type of the cache");
        self.parts(head, block)
    }

    fn parts<T: Plain>(&self, head: usize, block: usize) -> [&[T]; 2] {
        let block = &self.data[self.range(head, block)];
        // SAFETY: every bit pattern is a `T`. Nothing is left over before and after: the buffer is aligned to 128
        // bytes, and a block is vectors of 32 values.
        unsafe { block.align_to().1 }.split_at(self.dim * BLOCK).into()
    }

    /// Where the block's keys are.
    pub(super) fn place(&self, head: usize, block: usize) -> *const u8 {
        self.data[self.range(head, block)].as_ptr()
    }

    fn range(&self, head: usize, block: usize) -> Range<usize> {
        let at = (head * self.blocks + block % self.blocks) * self.block_bytes();
        at..at + self.block_bytes()
    }

    /// Forgets everything: what a sequence left behind must not reach the next one.
    pub fn clear(&mut self, positions: usize) {
        let (block_bytes, blocks) = (self.block_bytes(), self.blocks);
        let used = positions.div_ceil(BLOCK).min(blocks);
        for head in self.data.chunks_exact_mut(blocks * block_bytes) {
            head[..used * block_bytes].fill(0);
        }
    }

    /// Copies the blocks of the first `positions` positions of another cache of this shape and type, or as many of the last
    /// of them as both have room for. Panics when shapes differ.
    pub fn copy(&mut self, from: &LayerCache, positions: usize) {
        let shape = |cache: &LayerCache| (cache.heads, cache.dim, cache.kind);
        assert_eq!(shape(self), shape(from), "heads, width and type of two caches");
        let used = positions.div_ceil(BLOCK);
        let count = used.min(self.blocks).min(from.blocks);
        for head in 0..self.heads {
            for block in used - count..used {
                let to = self.range(head, block);
                self.data[to].copy_from_slice(&from.data[from.range(head, block)]);
            }
        }
    }

    /// [`append`] to one cache alone.
    pub fn append(&mut self, pool: &Pool, first: usize, k: &[f32], v: &[f32]) {
        append(pool, &mut [Fresh { cache: self, first, k, v }]);
    }
}

/// Keys and values `[T, heads · dim]` of positions `first..first + T` of a sequence, on their way into its cache.
pub struct Fresh<'a> {
    /// Where they go.
    pub cache: &'a mut LayerCache,
    /// The position of the first.
    pub first: usize,
    /// The keys.
    pub k: &'a [f32],
    /// The values.
    pub v: &'a [f32],
}

/// Values that are worth handing out.
const GRAIN: usize = 1 << 12;

/// Writes keys and values of several sequences into their caches. Panics when sizes differ.
pub fn append(pool: &Pool, fresh: &mut [Fresh]) {
    // One task a sequence, or one a head where some sequence has many.
    let keys = fresh.iter().map(|fresh| fresh.k.len());
    let (all, most) = (keys.clone().sum::<usize>(), keys.max().unwrap_or(0));
    let parts =
        if most < 2 * GRAIN { 1 } else { fresh.iter().map(|fresh| fresh.cache.heads).max().unwrap_or(1) };
    let tasks = fresh.len() * parts;
    let heads: Vec<Heads> = fresh.iter_mut().map(Heads::of).collect();
    let task = |task: usize| {
        let (heads, part) = (&heads[task / parts], task % parts);
        (part * heads.count / parts..(part + 1) * heads.count / parts).for_each(|head| heads.write(head));
    };
    if all < GRAIN { (0..tasks).for_each(task) } else { pool.run(tasks, task) }
}

/// The heads of one sequence, for tasks that take some of them.
struct Heads<'a> {
    data: Shares<'a, u8>,
    count: usize,
    /// Bytes of all blocks of a head, and of one.
    bytes: [usize; 2],
    dim: usize,
    kind: CacheType,
    first: usize,
    k: &'a [f32],
    v: &'a [f32],
}

impl<'a> Heads<'a> {
    fn of(fresh: &'a mut Fresh) -> Heads<'a> {
        let Fresh { cache, first, k, v } = fresh;
        let width = cache.heads * cache.dim;
        assert!(k.len() == v.len() && k.len().is_multiple_of(width), "rows of {width} keys and values");
        let (count, dim, kind, block) = (cache.heads, cache.dim, cache.kind, cache.block_bytes());
        let bytes = [cache.blocks * block, block];
        Heads { data: Shares::new(&mut cache.data), count, bytes, dim, kind, first: *first, k, v }
    }

    fn write(&self, head: usize) {
        let &Heads { ref data, count, bytes: [all, block_bytes], dim, kind, first, k, v } = self;
        // SAFETY: a task writes its own heads.
        let data = unsafe { data.get(head * all..(head + 1) * all) };
        let width = count * dim;
        let rows = |x| Rows { x, first: head * dim, width, dim };
        dispatch(Append {
            data,
            block_bytes,
            dim,
            kind,
            first,
            count: k.len() / width,
            k: rows(k),
            v: rows(v),
        });
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

/// Rows of a block that are written value by value: a square takes the time of about eight.
const FEW: usize = 8;

struct Append<'a> {
    /// The head's blocks.
    data: &'a mut [u8],
    block_bytes: usize,
    dim: usize,
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
        let Append { data, block_bytes, dim, kind, first, count, k, v } = self;
        let (blocks, size) = (data.len() / block_bytes, kind.bytes());
        let (mut square, mut columns) = (Square::ZERO, Square::ZERO);
        let mut start = 0;
        while start < count {
            // Rows of one block, and their places in it.
            let slot = (first + start) % BLOCK;
            let rows = start..count.min(start + BLOCK - slot);
            start = rows.end;
            let block = (first + rows.start) / BLOCK % blocks * block_bytes;
            let (keys, values) = data[block..block + block_bytes].split_at_mut(dim * BLOCK * size);
            if rows.len() < FEW {
                for (slot, row) in (slot..).zip(rows.clone()) {
                    for (keys, k) in keys.chunks_mut(LANES * BLOCK * size).zip(k.row(row).chunks(LANES)) {
                        let mut values = [0; 4 * LANES];
                        put(isa, kind, &mut values[..LANES * size], k);
                        // Bytes of constant number: no call for each value.
                        match kind {
                            CacheType::F16 => spread::<2>(keys, slot, &values),
                            CacheType::F32 => spread::<4>(keys, slot, &values),
                        }
                    }
                }
            } else {
                for (i, keys) in keys.chunks_mut(LANES * BLOCK * size).enumerate() {
                    square.across(isa, rows.clone().map(|row| &k.row(row)[i * LANES..]), &mut columns);
                    for (key, column) in
                        keys.chunks_exact_mut(BLOCK * size).zip(columns.0.chunks_exact(LANES))
                    {
                        put(isa, kind, &mut key[slot * size..][..rows.len() * size], column);
                    }
                }
            }
            for (panel, values) in values.chunks_exact_mut(BLOCK * LANES * size).enumerate() {
                let values = values.chunks_exact_mut(LANES * size).skip(slot);
                for (value, row) in values.zip(rows.clone()) {
                    put(isa, kind, value, &v.row(row)[panel * LANES..]);
                }
            }
        }
    }
}

/// Writes values of `SIZE` bytes to place `slot` of neighbouring rows of a block.
#[inline(always)]
fn spread<const SIZE: usize>(keys: &mut [u8], slot: usize, values: &[u8]) {
    for (key, value) in keys.chunks_exact_mut(BLOCK * SIZE).zip(values.as_chunks::<SIZE>().0) {
        key.as_chunks_mut::<SIZE>().0[slot] = *value;
    }
}

/// Writes as many of 32 values as there is room for, in the cache's type.
#[inline(always)]
fn put<I: Isa>(isa: I, kind: CacheType, to: &mut [u8], x: &[f32]) {
    let x = isa.load_slice(x, 0.0);
    let mut bytes = [0; 4 * LANES];
    let whole = if to.len() == LANES * kind.bytes() { to.as_mut_ptr() } else { bytes.as_mut_ptr() };
    // SAFETY: either has room for 32 values of the type.
    unsafe {
        match kind {
            CacheType::F16 => isa.store_f16(whole.cast(), x),
            CacheType::F32 => isa.store(whole.cast(), x),
        }
    }
    if to.len() < LANES * kind.bytes() {
        to.copy_from_slice(&bytes[..to.len()]);
    }
}
