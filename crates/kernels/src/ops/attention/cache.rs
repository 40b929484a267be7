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

/// Rows of a block that are written value by value: a square takes the time of about eight.
const FEW: usize = 8;

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
        let Append { data, block_bytes, dim, padded, kind, first, count, k, v } = self;
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
                        for (key, value) in keys.chunks_exact_mut(BLOCK * size).zip(values.chunks_exact(size))
                        {
                            key[slot * size..(slot + 1) * size].copy_from_slice(value);
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
            for (panel, values) in
                values.chunks_exact_mut(BLOCK * LANES * size).take(padded / LANES).enumerate()
            {
                let values = values.chunks_exact_mut(LANES * size).skip(slot);
                for (value, row) in values.zip(rows.clone()) {
                    put(isa, kind, value, &v.row(row)[panel * LANES..]);
                }
            }
        }
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
