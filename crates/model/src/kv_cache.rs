//! The keys and values that a sequence has left in each layer.

use crate::config::DecoderConfig;
use wootz_kernels::ops::attention::{BLOCK, CacheType, LayerCache};

/// Tokens of one sequence in one forward pass, at the most. Layers with a sliding window keep room for a chunk beside
/// the window.
pub const MAX_CHUNK: usize = 512;

/// One sequence's cache: its positions `0..len`.
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// Room for `positions` positions. Memory is touched as they are written; a layer with a sliding window keeps
    /// only what the window and one chunk need.
    pub fn new(config: &DecoderConfig, positions: usize, kind: CacheType) -> KvCache {
        let layers = config.layers.iter().map(|layer| {
            // The window of the chunk's first token, the chunk, and the blocks that both share with others.
            let ring = layer.window.map(|window| window.saturating_add(2 * MAX_CHUNK + 2 * BLOCK));
            let room = ring.map_or(positions, |ring| ring.min(positions));
            LayerCache::new(config.n_kv_heads, config.head_dim, room, kind)
        });
        KvCache { layers: layers.collect(), len: 0, capacity: positions }
    }

    /// Positions in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in the cache.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets the positions from `len` on. Layers with a window remember [`MAX_CHUNK`] positions beyond it, so no
    /// more than that may be taken back; returns whether it was possible.
    pub fn truncate(&mut self, len: usize) -> bool {
        let possible = self.remembers(len);
        if possible {
            self.len = self.len.min(len);
        }
        possible
    }

    /// Whether the window that position `len` looks back on is still there.
    fn remembers(&self, len: usize) -> bool {
        let back = self.len.saturating_sub(len);
        back <= MAX_CHUNK || self.layers.iter().all(|layer| layer.capacity() >= self.len)
    }

    /// Becomes the first `len` positions of another cache of the same model and type; it is empty, and has room for them.
    /// It stays empty where the other could not be cut back so far ([`KvCache::truncate`]).
    pub fn copy(&mut self, from: &KvCache, len: usize) {
        if !from.remembers(len) {
            return;
        }
        for (layer, from) in self.layers.iter_mut().zip(&from.layers) {
            layer.copy(from, len);
        }
        self.len = len;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for layer in &mut self.layers {
            layer.clear(self.len);
        }
        self.len = 0;
    }

    /// Bytes reserved; the system backs them with memory as they are written.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerCache::bytes).sum()
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
