//! The keys and values that a sequence has left in each layer.

use crate::config::DecoderConfig;
use crate::error::Result;
use std::sync::Arc;
use wootz_kernels::device::Accelerator;
use wootz_kernels::exec::{LayerShape, Slab, Slot};
use wootz_kernels::ops::attention::{BLOCK, CacheType, LayerCache};

/// Tokens of one sequence in one forward pass, at the most. Layers with a sliding window keep room for a chunk beside
/// the window.
pub const MAX_CHUNK: usize = 512;

/// One sequence's cache: its positions `0..len`.
pub struct KvCache {
    /// Of the layers that are computed on the CPU: the first ones.
    pub(crate) layers: Vec<LayerCache>,
    /// Of the others, in a device's memory.
    pub(crate) slot: Option<Slot>,
    /// Positions that the layer with the fewest keeps.
    ring: usize,
    len: usize,
    capacity: usize,
}

/// Positions of a layer that a sequence of `positions` needs: with a sliding window only what the window and one chunk need.
fn room(window: Option<usize>, positions: usize) -> usize {
    // The window of the chunk's first token, the chunk, and the blocks that both share with others.
    let ring = window.map(|window| window.saturating_add(2 * MAX_CHUNK + 2 * BLOCK));
    ring.map_or(positions, |ring| ring.min(positions))
}

impl KvCache {
    /// Room for `positions` positions, in the host's memory. Memory is touched as they are written; a layer with a sliding
    /// window keeps only what the window and one chunk need.
    pub fn new(config: &DecoderConfig, positions: usize, kind: CacheType) -> KvCache {
        KvCache::split(config, config.n_layers(), None, positions, kind)
    }

    /// As many caches as a slab has slots, of which the layers from number `first` on are in a device's memory. That grows as
    /// positions are written.
    ///
    /// # Errors
    /// A device without memory.
    pub(crate) fn on_device(
        config: &DecoderConfig,
        gpu: &Accelerator,
        first: usize,
        slots: usize,
        positions: usize,
        kind: CacheType,
    ) -> Result<Vec<KvCache>> {
        let shape = |layer: &crate::config::LayerConfig| LayerShape {
            kv_heads: config.n_kv_heads,
            dim: config.head_dim,
            most: room(layer.window, positions).max(1),
        };
        let shapes = config.layers[first..].iter().map(shape).collect();
        let slab: Arc<Slab> = Slab::new(gpu, kind, shapes, slots)?;
        let cache = |slot| KvCache::split(config, first, Some(slot), positions, kind);
        Ok((0..slots).filter_map(|_| slab.slot()).map(cache).collect())
    }

    fn split(
        config: &DecoderConfig,
        first: usize,
        slot: Option<Slot>,
        positions: usize,
        kind: CacheType,
    ) -> KvCache {
        let layers = config.layers[..first].iter().map(|layer| {
            LayerCache::new(config.n_kv_heads, config.head_dim, room(layer.window, positions), kind)
        });
        let rings = config.layers.iter().map(|layer| room(layer.window, positions));
        let ring = rings.min().unwrap_or(positions);
        KvCache { layers: layers.collect(), slot, ring, len: 0, capacity: positions }
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
        back <= MAX_CHUNK || self.ring >= self.len
    }

    /// Becomes the first `len` positions of another cache of the same model and type; it is empty, and has room for them.
    /// It stays empty where the other could not be cut back so far ([`KvCache::truncate`]).
    ///
    /// # Errors
    /// What a device meets.
    pub fn copy(&mut self, from: &KvCache, len: usize) -> Result<()> {
        if !from.remembers(len) {
            return Ok(());
        }
        match (&mut self.slot, &from.slot) {
            (None, None) => {}
            (Some(to), Some(from)) => {
                if !to.copy(from, len)? {
                    return Ok(());
                }
            }
            (None, Some(_)) | (Some(_), None) => return Ok(()),
        }
        for (layer, from) in self.layers.iter_mut().zip(&from.layers) {
            layer.copy(from, len);
        }
        self.len = len;
        Ok(())
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for layer in &mut self.layers {
            layer.clear(self.len);
        }
        self.len = 0;
    }

    /// Bytes reserved on the host, which the system backs with memory as they are written, and on a device, for all sequences
    /// that share a slab with this one.
    pub fn bytes(&self) -> usize {
        let on_device = self.slot.as_ref().map_or(0, |slot| slot.slab().bytes());
        self.layers.iter().map(LayerCache::bytes).sum::<usize>() + on_device
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
