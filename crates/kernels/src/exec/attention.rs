//! Attention, over caches and over whole sequences: [`crate::ops::attention`].
//!
//! A GPU wants tables of what belongs together ([`Tables`]). They are made once for all layers of a pass, before its first
//! launch.

use super::slab::{Slab, Slot};
use super::{Exec, Floats};
use crate::device::launch::attention::{self as on_gpu, Chunks, Sequences};
use crate::device::{Accelerator, Memory, Result};
use crate::ops::attention::{self, Attention, Fresh, LayerCache, Saved, Segment};
use std::ops::Range;
use std::sync::Arc;

/// What attention works in.
#[derive(Default)]
pub struct AttentionScratch {
    host: attention::Scratch,
    device: Floats,
}

/// The rows of a pass, as a GPU's kernels look them up.
#[derive(Default)]
pub struct Tables {
    /// Sequences with slots, by slab.
    slabs: Vec<(Arc<Slab>, ByShape<Chunks<Memory>>)>,
    /// Whole sequences.
    sequences: ByShape<Sequences<Memory>>,
}

/// A table for each kind of attention: layers with a window see other keys than those without.
type ByShape<T> = Vec<(on_gpu::Attention, T)>;

/// Queries that are worth sharing a sequence's keys out among workgroups.
const FEW: usize = 32;

impl Tables {
    /// For chunks that continue sequences: a slot, its rows, and the position of the first. `shapes` are those of all
    /// layers. Slabs grow to hold what comes.
    ///
    /// # Errors
    /// What the device meets; so in all that follows.
    pub fn of_slots(
        gpu: &Accelerator,
        shapes: &[on_gpu::Attention],
        chunks: &[(&Slot, Range<usize>, usize)],
    ) -> Result<Tables> {
        let mut slabs: Vec<(Arc<Slab>, Vec<on_gpu::Chunk>)> = Vec::new();
        for (slot, rows, first) in chunks {
            let chunk = on_gpu::Chunk { rows: rows.clone(), first: *first, slot: slot.index() };
            match slabs.iter_mut().find(|(slab, _)| Arc::ptr_eq(slab, slot.slab())) {
                Some((_, chunks)) => chunks.push(chunk),
                None => slabs.push((Arc::clone(slot.slab()), vec![chunk])),
            }
        }
        let mut tables = Tables::default();
        for (slab, chunks) in slabs {
            slab.reserve(chunks.iter().map(|chunk| chunk.first + chunk.rows.len()).max().unwrap_or(0))?;
            let mut made: ByShape<Chunks<Memory>> = Vec::new();
            for shape in shapes {
                if made.iter().all(|(other, _)| other != shape) {
                    made.push((*shape, shape.chunks(gpu, &chunks)?));
                }
            }
            tables.slabs.push((slab, made));
        }
        Ok(tables)
    }

    /// For whole sequences of these lengths.
    pub fn of_sequences(
        gpu: &Accelerator,
        shapes: &[on_gpu::Attention],
        lengths: &[usize],
    ) -> Result<Tables> {
        let mut tables = Tables::default();
        for shape in shapes {
            if tables.sequences.iter().all(|(other, _)| other != shape) {
                tables.sequences.push((*shape, shape.sequences(gpu, lengths)?));
            }
        }
        Ok(tables)
    }

    fn sequences(&self, shape: &on_gpu::Attention) -> &Sequences<Memory> {
        find(&self.sequences, shape)
    }
}

/// Panics where none was made: a mistake of the caller.
fn find<'t, T>(tables: &'t ByShape<T>, shape: &on_gpu::Attention) -> &'t T {
    let found = tables.iter().find(|(other, _)| other == shape);
    &found.unwrap_or_else(|| panic!("no table of {shape:?}")).1
}

/// Whether the kernels take heads of this width.
fn takes(dim: usize) -> bool {
    dim > 0 && dim <= 256 && dim.is_multiple_of(4)
}

impl Exec<'_> {
    /// Whether attention with heads of this width is computed here; else caches are the host's, and values travel.
    pub fn has_attention(&self, dim: usize) -> bool {
        self.gpu.is_none() || takes(dim)
    }

    /// Appends keys and values `[rows, G · D]` to caches of the host, and sets `y` `[rows, H · D]`, and `lse` `[rows, H]`
    /// where it is asked for. `spans` are each cache's rows, and the position of the first.
    #[allow(clippy::too_many_arguments)] // what is read, then what is written
    pub fn attend_caches(
        &self,
        op: &Attention,
        caches: &mut [&mut LayerCache],
        spans: &[(Range<usize>, usize)],
        [q, k, v]: [&Floats; 3],
        y: &mut Floats,
        lse: Option<&mut Floats>,
        scratch: &mut AttentionScratch,
    ) -> Result<()> {
        let rows = spans.last().map_or(0, |(rows, _)| rows.end);
        if let Some(gpu) = self.gpu {
            gpu.fall_back("attention", "heads of this width have no kernel")?;
        }
        let (q, k, v) = (q.read()?, k.read()?, v.read()?);
        let width = k.len() / rows.max(1);
        let mut all: Vec<Fresh> = Vec::with_capacity(caches.len());
        for (cache, (rows, first)) in caches.iter_mut().zip(spans) {
            let range = rows.start * width..rows.end * width;
            all.push(Fresh { cache, first: *first, k: &k[range.clone()], v: &v[range] });
        }
        attention::append(self.pool, &mut all);
        let segments: Vec<Segment> = (caches.iter().zip(spans))
            .map(|(cache, (rows, first))| Segment { rows: rows.clone(), first: *first, cache })
            .collect();
        if self.gpu.is_none() {
            self.resize(y, q.len())?;
            let lse = match lse {
                Some(lse) => {
                    self.resize(lse, rows * op.heads)?;
                    Some(lse.host_mut())
                }
                None => None,
            };
            op.forward(self.pool, &mut scratch.host, &q, &segments, y.host_mut(), lse);
            return Ok(());
        }
        let mut host_y = vec![0.0; q.len()];
        let mut host_lse = vec![0.0; rows * op.heads];
        op.forward(self.pool, &mut scratch.host, &q, &segments, &mut host_y, Some(&mut host_lse));
        self.set(y, &host_y)?;
        if let Some(lse) = lse {
            self.set(lse, &host_lse)?;
        }
        Ok(())
    }

    /// As [`Exec::attend_caches`], with caches on the device: layer number `layer` of the slabs.
    #[allow(clippy::too_many_arguments)] // as above
    pub fn attend_slots(
        &self,
        shape: &on_gpu::Attention,
        tables: &Tables,
        layer: usize,
        [q, k, v]: [&Floats; 3],
        y: &mut Floats,
        lse: &mut Floats,
        scratch: &mut AttentionScratch,
    ) -> Result<()> {
        let Some(gpu) = self.gpu else { panic!("slots without a device") };
        let rows = q.len() / (shape.heads * shape.dim);
        self.resize(y, q.len())?;
        self.resize(lse, rows * shape.heads)?;
        for (slab, made) in &tables.slabs {
            let chunks = find(made, shape);
            let (cache, memory) = slab.layer(layer);
            let both = [&*memory[0], &*memory[1]];
            chunks.append(gpu, &cache, [k.memory(), v.memory()], both)?;
            let out = [y.memory(), lse.memory()];
            if chunks.rows() <= FEW {
                self.resize(&mut scratch.device, chunks.decode_scratch()?.div_ceil(4))?;
                chunks.decode(gpu, &cache, q.memory(), both, out, scratch.device.memory())?;
            } else {
                chunks.forward(gpu, &cache, q.memory(), both, out)?;
            }
        }
        Ok(())
    }

    /// Attention of whole sequences, on a device.
    pub fn attend_sequences(
        &self,
        shape: &on_gpu::Attention,
        tables: &Tables,
        [q, k, v]: [&Floats; 3],
        y: &mut Floats,
        lse: &mut Floats,
    ) -> Result<()> {
        let Some(gpu) = self.gpu else { panic!("tables without a device") };
        let rows = q.len() / (shape.heads * shape.dim);
        self.resize(y, q.len())?;
        self.resize(lse, rows * shape.heads)?;
        let inputs = [q.memory(), k.memory(), v.memory()];
        tables.sequences(shape).forward(gpu, inputs, [y.memory(), lse.memory()])
    }

    /// Gradients of attention over whole sequences, which are set. `tables` are those of a device that has the kernels.
    #[allow(clippy::too_many_arguments)] // what forward read and gave, then gradients
    pub fn attend_backward(
        &self,
        shape: &on_gpu::Attention,
        tables: Option<&Tables>,
        lengths: &[usize],
        [q, k, v]: [&Floats; 3],
        [y, lse]: [&Floats; 2],
        dy: &Floats,
        [dq, dk, dv]: [&mut Floats; 3],
        scratch: &mut Floats,
    ) -> Result<()> {
        self.resize(dq, q.len())?;
        self.resize(dk, k.len())?;
        self.resize(dv, v.len())?;
        if let (Some(gpu), Some(tables)) = (self.gpu, tables) {
            self.resize(scratch, 2 * lse.len())?;
            let inputs = [q.memory(), k.memory(), v.memory()];
            let outputs = [dq.memory(), dk.memory(), dv.memory()];
            let saved = [y.memory(), lse.memory()];
            let sequences = tables.sequences(shape);
            return sequences.backward(gpu, inputs, saved, dy.memory(), outputs, scratch.memory());
        }
        let op = Attention { heads: shape.heads, scale: shape.scale, window: shape.window };
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let needed = op.backward_scratch(self.pool.threads(), shape.kv_heads, shape.dim, longest);
        let Some(gpu) = self.gpu else {
            if scratch.len() < needed {
                self.resize(scratch, needed)?;
            }
            let saved =
                Saved { lengths, q: q.host(), k: k.host(), v: v.host(), y: y.host(), lse: lse.host() };
            let gradients = attention::Gradients { dq: dq.host_mut(), dk: dk.host_mut(), dv: dv.host_mut() };
            op.backward(self.pool, scratch.host_mut(), &saved, dy.host(), gradients);
            return Ok(());
        };
        gpu.fall_back("attention", "heads of this width have no kernel")?;
        let (q, k, v, y, lse) = (q.read()?, k.read()?, v.read()?, y.read()?, lse.read()?);
        let saved = Saved { lengths, q: &q, k: &k, v: &v, y: &y, lse: &lse };
        let mut own = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
        let [q, k, v] = &mut own;
        let gradients = attention::Gradients { dq: q, dk: k, dv: v };
        op.backward(self.pool, &mut vec![0.0; needed], &saved, &dy.read()?, gradients);
        for (d, own) in [dq, dk, dv].into_iter().zip(&own) {
            d.write(own)?;
        }
        Ok(())
    }
}
