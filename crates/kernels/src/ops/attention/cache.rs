//! Keys and values of the positions so far, in the layout that both products read.
//!
//! ```text
//!   a head's block of 32 positions    K [D][32 positions]  |  V [D/32][32 positions][32]      f16 or f32
//! ```

use super::BLOCK;
use crate::buffer::{Buffer, Plain};
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};

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
        let at = (head * self.blocks + block % self.blocks) * self.block_bytes();
        let block = &self.data[at..at + self.block_bytes()];
        // SAFETY: every bit pattern is a `T`. Nothing is left over before and after: the buffer is aligned to 128
        // bytes, and a block is vectors of 32 values.
        unsafe { block.align_to().1 }.split_at(self.dim * BLOCK).into()
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
