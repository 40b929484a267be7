//! Cached keys and values of several sequences in a GPU's memory: a slot each, so that one launch serves them all.
//!
//! A slab grows as its longest sequence does, up to what was asked for. A layer with a sliding window stops where its window
//! and one chunk fit, and is a ring from there on.

use crate::device::launch::attention::Cache;
use crate::device::launch::moves;
use crate::device::{Accelerator, Gpu, Memory, Result};
use crate::ops::attention::CacheType;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A layer's keys (or values).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// Key/value heads (G).
    pub kv_heads: usize,
    /// Width of a head (D).
    pub dim: usize,
    /// Positions of a sequence that it keeps, at the most.
    pub most: usize,
}

impl LayerShape {
    /// Values of a position.
    fn width(&self) -> usize {
        self.kv_heads * self.dim
    }
}

/// Positions that a slab begins with.
const FIRST: usize = 256;

/// The caches of some sequences, in all layers that are on a device.
pub struct Slab {
    gpu: Accelerator,
    kind: CacheType,
    slots: usize,
    shapes: Vec<LayerShape>,
    layers: Vec<Mutex<Store>>,
    free: Mutex<Vec<usize>>,
}

/// One layer's keys and values: `[slots, capacity, G, D]` each.
pub(super) struct Store {
    capacity: usize,
    pub memory: [Arc<Memory>; 2],
}

/// A sequence's place in a slab.
pub struct Slot {
    slab: Arc<Slab>,
    index: usize,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slab.free).push(self.index);
    }
}

impl Slab {
    /// Room for so many sequences.
    ///
    /// # Errors
    /// A device without memory.
    pub fn new(
        gpu: &Accelerator,
        kind: CacheType,
        shapes: Vec<LayerShape>,
        slots: usize,
    ) -> Result<Arc<Slab>> {
        let slots = slots.max(1);
        let mut layers = Vec::with_capacity(shapes.len());
        for shape in &shapes {
            layers.push(Mutex::new(Store::new(gpu, kind, shape, slots, shape.most.min(FIRST))?));
        }
        let free = Mutex::new((0..slots).rev().collect());
        Ok(Arc::new(Slab { gpu: gpu.clone(), kind, slots, shapes, layers, free }))
    }

    /// A free slot, if there is one. What a former sequence left there is behind the end of the new one, and never read.
    pub fn slot(self: &Arc<Slab>) -> Option<Slot> {
        let index = lock(&self.free).pop()?;
        Some(Slot { slab: Arc::clone(self), index })
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> usize {
        let of = |(shape, layer): (&LayerShape, &Mutex<Store>)| {
            2 * self.slots * lock(layer).capacity * shape.width() * self.kind.bytes()
        };
        self.shapes.iter().zip(&self.layers).map(of).sum()
    }

    /// Makes room for `positions` positions of every sequence, or for as many as the layer keeps.
    pub(super) fn reserve(&self, positions: usize) -> Result<()> {
        for (shape, layer) in self.shapes.iter().zip(&self.layers) {
            let mut store = lock(layer);
            if positions <= store.capacity || store.capacity == shape.most {
                continue;
            }
            let capacity = positions.max(2 * store.capacity).next_multiple_of(FIRST).min(shape.most);
            let grown = Store::new(&self.gpu, self.kind, shape, self.slots, capacity)?;
            // Nothing has gone round yet: positions lie from the first on.
            let [old, new] = [store.capacity, capacity].map(|n| n * shape.width() * self.kind.bytes() / 4);
            for (from, to) in store.memory.iter().zip(&grown.memory) {
                for slot in 0..self.slots {
                    moves::copy(&self.gpu, &**from, slot * old, &**to, slot * new, old)?;
                }
            }
            *store = grown;
        }
        Ok(())
    }

    /// A layer's shape for the kernels, and its keys and values.
    pub(super) fn layer(&self, index: usize) -> (Cache, [Arc<Memory>; 2]) {
        let store = lock(&self.layers[index]);
        let cache = Cache { slots: self.slots, capacity: store.capacity, kind: self.kind };
        (cache, store.memory.clone())
    }
}

impl Store {
    fn new(
        gpu: &Accelerator,
        kind: CacheType,
        shape: &LayerShape,
        slots: usize,
        capacity: usize,
    ) -> Result<Store> {
        let bytes = (slots * capacity * shape.width() * kind.bytes()).next_multiple_of(4);
        let memory = [Arc::new(gpu.alloc(bytes)?), Arc::new(gpu.alloc(bytes)?)];
        Ok(Store { capacity, memory })
    }
}

impl Slot {
    /// The slab.
    pub fn slab(&self) -> &Arc<Slab> {
        &self.slab
    }

    /// Its number there.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Takes the first `positions` positions of another sequence, or as many of the last of them as its layers keep. `false`
    /// where the two do not fit together; nothing is certain of this one then.
    ///
    /// # Errors
    /// What the device meets.
    pub fn copy(&mut self, from: &Slot, positions: usize) -> Result<bool> {
        if self.slab.shapes.len() != from.slab.shapes.len() || self.slab.kind != from.slab.kind {
            return Ok(false);
        }
        self.slab.reserve(positions)?;
        for layer in 0..self.slab.shapes.len() {
            let width = self.slab.shapes[layer].width() * self.slab.kind.bytes() / 4;
            let [(to_cache, to), (from_cache, from_memory)] =
                [self.slab.layer(layer), from.slab.layer(layer)];
            let has_gone_round = positions > from_cache.capacity;
            if positions > to_cache.capacity && to_cache.capacity != from_cache.capacity {
                return Ok(false);
            }
            if has_gone_round && to_cache.capacity != from_cache.capacity {
                return Ok(false);
            }
            let count = positions.min(from_cache.capacity) * width;
            let [to_first, from_first] =
                [self.index * to_cache.capacity * width, from.index * from_cache.capacity * width];
            for (from, to) in from_memory.iter().zip(&to) {
                if Arc::ptr_eq(from, to) {
                    // A kernel does not read and write one buffer by two names: by way of another.
                    let between = self.slab.gpu.alloc(4 * count)?;
                    moves::copy(&self.slab.gpu, &**from, from_first, &between, 0, count)?;
                    moves::copy(&self.slab.gpu, &between, 0, &**to, to_first, count)?;
                } else {
                    moves::copy(&self.slab.gpu, &**from, from_first, &**to, to_first, count)?;
                }
            }
        }
        Ok(true)
    }
}

/// A panic of another thread leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
