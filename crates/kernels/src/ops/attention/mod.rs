//! Causal attention of H query heads over G key/value heads of width D, with the keys and values in a cache.
//!
//! ```text
//!   s[t] = scale · q · k[t]            for the keys t that the query may see
//!   y    = sum over t of softmax(s)[t] · v[t]
//! ```
//!
//! Keys are walked in steps of 128, of four blocks of 32, from position 0 (or the step in which the window begins)
//! upwards, with one running maximum, sum and output a query (the online softmax of Milakov and Gimelshein 2018;
//! FlashAttention, Dao et al. 2022), so nothing of size T x T exists. A query's bits depend on the keys alone: whether
//! it came alone (decoding), in a chunk of prefill or in a batch, it meets the same steps in the same order; keys that
//! it may not see weigh exactly 0.
//!
//! Every product is the tile of [`super::matmul`], 32 lanes by several rows (`product.rs`), and the cache is stored for
//! that (`cache.rs`).

mod backward;
mod cache;
mod forward;
mod product;
mod reference;

pub use backward::{Gradients, Saved};
pub use cache::{CacheType, Fresh, LayerCache, append};
pub use reference::{reference, reference_backward};

use crate::pool::{Pool, Shares};
use crate::simd::{Isa, LANES};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Positions in a block of the cache.
pub const BLOCK: usize = LANES;

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
    /// The first position that a query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The positions that a query at `position` sees.
    fn seen(&self, position: usize) -> Range<usize> {
        self.first_seen(position)..position + 1
    }

    /// Those of the queries at `positions` that see a key of block `block`: the later ones see what is before them,
    /// and the last of them are beyond the window.
    fn seeing(&self, block: usize, positions: &Range<usize>) -> Range<usize> {
        let end =
            self.window.map_or(positions.end, |window| ((block + 1) * BLOCK + window).saturating_sub(1));
        let end = end.clamp(positions.start, positions.end);
        (block * BLOCK).clamp(positions.start, end)..end
    }
}

/// The 32 scores of the keys from `first` on; those that are not `seen` become -inf.
#[inline(always)]
fn hide<I: Isa>(isa: I, scores: &mut [f32], first: usize, seen: &Range<usize>) -> I::F {
    // Where it rises, and where it falls: what is less than either is left.
    static EDGES: [f32; 3 * LANES] = {
        let mut edges = [f32::NEG_INFINITY; 3 * LANES];
        let mut lane = LANES;
        while lane < 2 * LANES {
            edges[lane] = f32::INFINITY;
            lane += 1;
        }
        edges
    };
    let s = isa.load_slice(scores, 0.0);
    if seen.start <= first && first + LANES <= seen.end {
        return s;
    }
    let rise = seen.start.saturating_sub(first).min(LANES);
    let fall = seen.end.saturating_sub(first).min(LANES);
    let rise = isa.load_slice(&EDGES[LANES - rise..], 0.0);
    let fall = isa.load_slice(&EDGES[2 * LANES - fall..], 0.0);
    let s = isa.min(s, isa.min(rise, fall));
    isa.store_slice(scores, s);
    s
}

/// What [`Attention::forward`] works in: it grows to what the largest call needs, and is used again; after that nothing
/// is allocated.
#[derive(Default)]
pub struct Scratch {
    memory: Vec<f32>,
    tiles: Vec<forward::Task>,
}

/// Values that [`share_out`] needs for `floats` of a thread's own.
fn share_out_len(threads: usize, floats: usize) -> usize {
    threads * floats.next_multiple_of(LANES) + LANES
}

/// Calls `task(i, memory)` for every `i` below `tasks`, on all threads, with `floats` values that are the task's alone
/// while it runs, from an address that vectors like. What they hold is left over from others. Panics when `memory` is
/// smaller than [`share_out_len`] says.
fn share_out(
    pool: &Pool,
    memory: &mut [f32],
    floats: usize,
    tasks: usize,
    task: impl Fn(usize, &mut [f32]) + Sync,
) {
    let workers = pool.threads().min(tasks);
    let (found, expected) = (memory.len(), share_out_len(workers, floats));
    assert!(found >= expected, "{found} values of scratch for {workers} threads, expected {expected}");
    let skip = memory.as_ptr().align_offset(size_of::<[f32; LANES]>());
    let memory = Shares::new(&mut memory[skip..]);
    let next = AtomicUsize::new(0);
    pool.run(workers, |worker| {
        let start = worker * floats.next_multiple_of(LANES);
        // SAFETY: each worker's number is handed out once.
        let memory = unsafe { memory.get(start..start + floats) };
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                return;
            }
            task(i, memory);
        }
    });
}

#[cfg(test)]
mod tests;
