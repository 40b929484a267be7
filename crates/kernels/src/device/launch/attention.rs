//! Attention on a GPU: kernels and launches. The formulas stand in `ops/attention/forward.wgsl` and
//! `ops/attention/backward.wgsl`.
//!
//! What a launch needs beside its tensors is a table of tiles. It is the same for every layer of a step, so it is made
//! once: [`Attention::chunks`] for tokens that continue what is in a cache, [`Attention::sequences`] for whole
//! sequences, in training.

use std::ops::Range;

use super::{check_size, elements, fold, grid};
use crate::device::gpu::{
    Binding, DeviceBuffer, Error, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write,
};
use crate::ops::attention::CacheType;

const FORWARD_WGSL: Option<Wgsl> = Wgsl::plain(&[include_str!("../../ops/attention/forward.wgsl")]);
const BACKWARD_WGSL: Option<Wgsl> = Wgsl::plain(&[include_str!("../../ops/attention/backward.wgsl")]);

const U: ScalarKind = ScalarKind::U32;
const F: ScalarKind = ScalarKind::F32;
const FORWARD_SCALARS: &[ScalarKind] = &[U, U, U, U, U, U, U, F, U, U, U, U, U, U];
const BACKWARD_SCALARS: &[ScalarKind] = &[U, U, U, U, U, U, U, F, U];

/// The kernels.
pub static KERNELS: &[&Kernel] =
    &[&APPEND, &FORWARD, &DECODE, &COMBINE, &BACKWARD_DELTA, &BACKWARD_QUERIES, &BACKWARD_KEYS];

/// A kernel of this op.
const fn kernel(
    name: &'static str,
    wgsl: Option<Wgsl>,
    buffers: &'static [Binding],
    scalars: &'static [ScalarKind],
) -> Kernel {
    Kernel { name, entry: name, wgsl, cuda: None, workgroup: [256, 1, 1], buffers, scalars }
}

/// New keys and values into a cache.
pub static APPEND: Kernel = kernel(
    "attention_append",
    FORWARD_WGSL,
    &[read(7, "k"), read(8, "v"), read(3, "tiles"), write(9, "keys_out"), write(10, "values_out")],
    FORWARD_SCALARS,
);

/// y and lse, a workgroup a tile of queries.
pub static FORWARD: Kernel = kernel(
    "attention_forward",
    FORWARD_WGSL,
    &[read(0, "q"), read(1, "keys"), read(2, "values"), read(3, "tiles"), write(4, "y"), write(5, "lse")],
    FORWARD_SCALARS,
);

/// The parts of y and lse, a workgroup a tile of queries and a stretch of keys.
pub static DECODE: Kernel = kernel(
    "attention_decode",
    FORWARD_WGSL,
    &[read(0, "q"), read(1, "keys"), read(2, "values"), read(3, "tiles"), write(6, "scratch")],
    FORWARD_SCALARS,
);

/// y and lse from their parts.
pub static COMBINE: Kernel = kernel(
    "attention_combine",
    FORWARD_WGSL,
    &[read(3, "tiles"), write(4, "y"), write(5, "lse"), write(6, "scratch")],
    FORWARD_SCALARS,
);

/// lse and dy · y of each row and head.
pub static BACKWARD_DELTA: Kernel = kernel(
    "attention_backward_delta",
    BACKWARD_WGSL,
    &[read(3, "dy"), read(5, "y"), read(6, "lse"), write(8, "stats_out")],
    BACKWARD_SCALARS,
);

/// dq.
pub static BACKWARD_QUERIES: Kernel = kernel(
    "attention_backward_queries",
    BACKWARD_WGSL,
    &[
        read(0, "q"),
        read(1, "k"),
        read(2, "v"),
        read(3, "dy"),
        read(4, "tiles"),
        read(7, "stats"),
        write(9, "dq"),
    ],
    BACKWARD_SCALARS,
);

/// dk and dv.
pub static BACKWARD_KEYS: Kernel = kernel(
    "attention_backward_keys",
    BACKWARD_WGSL,
    &[
        read(0, "q"),
        read(1, "k"),
        read(2, "v"),
        read(3, "dy"),
        read(4, "tiles"),
        read(7, "stats"),
        write(10, "dk"),
        write(11, "dv"),
    ],
    BACKWARD_SCALARS,
);

/// Rows of a tile.
const TILE: usize = 16;

/// Keys of a part: `STRETCH` of `forward.wgsl`.
const STRETCH: usize = 128;

/// The shape and constants of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads (H); a multiple of `kv_heads`.
    pub heads: usize,
    /// Key/value heads (G).
    pub kv_heads: usize,
    /// Width of a head (D): a multiple of 4, at most 256.
    pub dim: usize,
    /// Factor of q · k.
    pub scale: f32,
    /// A query sees itself and the `window - 1` positions before it; all before it if `None`.
    pub window: Option<usize>,
}

/// The shape of a layer's keys and values: two buffers, each `[slots, capacity, G, D]`.
///
/// A slot holds one sequence; position p is at p modulo the capacity, so that a sequence's first positions are one stretch of
/// memory. With a window the capacity may be smaller than the sequence: it must have room for the window and what a chunk
/// adds, less one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Sequences.
    pub slots: usize,
    /// Positions of a sequence.
    pub capacity: usize,
    /// The type of the values. Halves are stored in pairs.
    pub kind: CacheType,
}

/// Neighbouring rows of q that belong to one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Rows of q, k, v and y.
    pub rows: Range<usize>,
    /// Position of the first row; the others follow.
    pub first: usize,
    /// Where the cache has the sequence.
    pub slot: usize,
}

/// Chunks on a device: made by [`Attention::chunks`].
pub struct Chunks<B> {
    attention: Attention,
    tiles: B,
    count: usize,
    /// Behind the last row.
    rows: usize,
    /// Behind the last slot.
    slots: usize,
    /// Positions that a slot must have room for.
    positions: usize,
    /// The most stretches of keys that a tile sees.
    stretches: usize,
}

/// Whole sequences on a device: made by [`Attention::sequences`].
pub struct Sequences<B> {
    queries: Chunks<B>,
    key_tiles: B,
    key_count: usize,
}

impl Cache {
    /// Bytes of the buffer of keys; that of values is as large.
    ///
    /// # Errors
    /// [`Error::Argument`] when it has more values than the kernels can count.
    pub fn bytes(&self, attention: &Attention) -> Result<usize> {
        Ok(self.values(APPEND.name, attention)? * self.kind.bytes())
    }

    fn values(&self, place: &'static str, attention: &Attention) -> Result<usize> {
        let heads = elements(place, self.slots, attention.kv_heads)?;
        elements(place, elements(place, heads, self.capacity)?, attention.dim)
    }
}

/// How keys and values lie in their buffers.
#[derive(Clone, Copy)]
struct Layout {
    kind: CacheType,
    capacity: usize,
    /// Values from one slot, head and position to the next.
    strides: [usize; 3],
}

impl Attention {
    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Query heads of a tile.
    fn heads_per_tile(&self) -> usize {
        self.group().min(TILE)
    }

    /// Tiles that share the query heads of a key/value head.
    fn parts(&self) -> usize {
        self.group().div_ceil(TILE)
    }

    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    fn check(&self) -> Result<()> {
        let Attention { heads, kv_heads, dim, window, .. } = *self;
        let place = FORWARD.name;
        let fail = |what: &str, expected: &str, found: String| {
            Err(Error::Argument { place, what: what.into(), expected: expected.into(), found })
        };
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return fail("heads", "a multiple of the key/value heads", format!("{heads} over {kv_heads}"));
        }
        if dim == 0 || dim > 256 || !dim.is_multiple_of(4) {
            return fail("width of a head", "a multiple of 4, at most 256", dim.to_string());
        }
        if window == Some(0) {
            return fail("window", "at least 1", "0".into());
        }
        Ok(())
    }

    /// The table for tokens whose keys and values go to, and are read from, a cache.
    ///
    /// No two chunks may have a row in common, nor a slot if they are appended to it.
    pub fn chunks<G: Gpu>(&self, gpu: &G, chunks: &[Chunk]) -> Result<Chunks<G::Buffer>> {
        self.check()?;
        let per_tile = TILE / self.heads_per_tile();
        let (mut rows, mut slots, mut positions, mut stretches) = (0, 0, 0, 0);
        let mut tiles: Vec<[usize; 4]> = Vec::new();
        for Chunk { rows: of_chunk, first, slot } in chunks.iter().filter(|chunk| !chunk.rows.is_empty()) {
            let count = of_chunk.len();
            let end = first.saturating_add(count);
            elements(FORWARD.name, end, 2)?; // so that the kernels may look a step beyond
            rows = rows.max(of_chunk.end);
            slots = slots.max(slot.saturating_add(1));
            positions = positions.max(end - self.first_seen(*first));
            for token in (0..count).step_by(per_tile) {
                let tokens = per_tile.min(count - token);
                tiles.push([*slot, first + token, of_chunk.start + token, tokens]);
                let seen =
                    self.first_seen(first + token) / STRETCH..(first + token + tokens).div_ceil(STRETCH);
                stretches = stretches.max(seen.len());
            }
        }
        let count = tiles.len();
        Ok(Chunks { attention: *self, tiles: table(gpu, &tiles)?, count, rows, slots, positions, stretches })
    }

    /// The table for whole sequences of these lengths, one behind the other.
    pub fn sequences<G: Gpu>(&self, gpu: &G, lengths: &[usize]) -> Result<Sequences<G::Buffer>> {
        let (mut chunks, mut key_tiles, mut start) = (Vec::new(), Vec::new(), 0usize);
        for &length in lengths {
            let end = start.saturating_add(length);
            chunks.push(Chunk { rows: start..end, first: 0, slot: start });
            elements(FORWARD.name, end, 1)?;
            let tile = |first| [start, first, length, TILE.min(length - first)];
            key_tiles.extend((0..length).step_by(TILE).map(tile));
            start = end;
        }
        let key_count = key_tiles.len();
        Ok(Sequences { queries: self.chunks(gpu, &chunks)?, key_tiles: table(gpu, &key_tiles)?, key_count })
    }
}

/// A table on the device.
fn table<G: Gpu>(gpu: &G, entries: &[[usize; 4]]) -> Result<G::Buffer> {
    let mut bytes = Vec::with_capacity(16 * entries.len());
    for &value in entries.as_flattened() {
        let value = elements(FORWARD.name, value, 1)?;
        bytes.extend((value as u32).to_ne_bytes());
    }
    let buffer = gpu.alloc(bytes.len())?;
    gpu.upload(&buffer, 0, &bytes)?;
    Ok(buffer)
}

impl<B: DeviceBuffer> Chunks<B> {
    /// Rows of q, k, v and y: one more than the last of any chunk.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of q, and of y.
    fn q_len(&self, place: &'static str) -> Result<usize> {
        elements(place, elements(place, self.rows, self.attention.heads)?, self.attention.dim)
    }

    /// Values of k, and of v.
    fn k_len(&self, place: &'static str) -> Result<usize> {
        elements(place, elements(place, self.rows, self.attention.kv_heads)?, self.attention.dim)
    }

    /// Workgroups, one a tile and a key/value head.
    fn groups(&self, place: &'static str) -> Result<[u32; 3]> {
        let per_entry = self.attention.kv_heads * self.attention.parts();
        fold(place, elements(place, self.count, per_entry)?)
    }

    /// The layout of a cache that has room for these chunks, and the values of its buffers.
    fn cached(&self, place: &'static str, cache: &Cache) -> Result<(Layout, usize)> {
        let count = cache.values(place, &self.attention)?;
        if self.slots > cache.slots || self.positions > cache.capacity {
            return Err(Error::Argument {
                place,
                what: "cache".into(),
                expected: format!("room for {} sequences of {} positions", self.slots, self.positions),
                found: format!("{} of {}", cache.slots, cache.capacity),
            });
        }
        let Attention { kv_heads, dim, .. } = self.attention;
        let strides = [cache.capacity * kv_heads * dim, dim, kv_heads * dim];
        Ok((Layout { kind: cache.kind, capacity: cache.capacity, strides }, count))
    }

    /// The kernels' scalars; all were checked to fit 32 bits.
    fn scalars(&self, layout: Layout) -> [Scalar; 14] {
        let attention = &self.attention;
        let [slot, head, position] = layout.strides;
        let number = |value: usize| Scalar::U32(value as u32);
        [
            number(attention.heads),
            number(attention.kv_heads),
            number(attention.dim / 4),
            number(attention.heads_per_tile()),
            number(attention.parts()),
            number(self.count),
            window(attention),
            Scalar::F32(attention.scale),
            number(usize::from(layout.kind == CacheType::F16)),
            number(layout.capacity),
            number(slot / 4),
            number(head / 4),
            number(position / 4),
            number(self.stretches),
        ]
    }

    /// Writes the keys and values of the chunks into their caches.
    ///
    /// `k`, `v`: `[rows, G · D]` f32; `keys`, `values`: the buffers of `cache`, of which those positions are assigned.
    pub fn append<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        cache: &Cache,
        [k, v]: [&B; 2],
        [keys, values]: [&B; 2],
    ) -> Result<()> {
        let place = APPEND.name;
        if self.count == 0 {
            return Ok(());
        }
        let (layout, cached) = self.cached(place, cache)?;
        let count = self.k_len(place)?;
        for (name, buffer, count, bytes) in [
            ("k", k, count, 4),
            ("v", v, count, 4),
            ("keys", keys, cached, cache.kind.bytes()),
            ("values", values, cached, cache.kind.bytes()),
        ] {
            check_size(place, name, buffer, count, bytes)?;
        }
        let buffers = [k, v, &self.tiles, keys, values];
        // SAFETY: the table's rows are within k and v, its slots within the cache, and positions are taken modulo the
        // capacity: checked above.
        unsafe { gpu.launch(&APPEND, &buffers, &self.scalars(layout), fold(place, self.count)?) }
    }

    /// `y` and `lse` of the chunks, whose own keys and values are in the cache already.
    ///
    /// `q`, `y`: `[rows, H · D]` f32; `lse`: `[rows, H]` f32; `keys`, `values`: the buffers of `cache`. The rows of the
    /// chunks are assigned.
    pub fn forward<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        cache: &Cache,
        q: &B,
        [keys, values]: [&B; 2],
        [y, lse]: [&B; 2],
    ) -> Result<()> {
        let place = FORWARD.name;
        if self.count == 0 {
            return Ok(());
        }
        let (layout, cached) = self.cached(place, cache)?;
        self.launch_forward(gpu, layout, cached, q, [keys, values], [y, lse])
    }

    fn launch_forward<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        layout: Layout,
        cached: usize,
        q: &B,
        [keys, values]: [&B; 2],
        [y, lse]: [&B; 2],
    ) -> Result<()> {
        let place = FORWARD.name;
        self.check_queries(place, q, [y, lse])?;
        check_size(place, "keys", keys, cached, layout.kind.bytes())?;
        check_size(place, "values", values, cached, layout.kind.bytes())?;
        let buffers = [q, keys, values, &self.tiles, y, lse];
        // SAFETY: the table's rows are within q, y and lse, and its slots and positions within keys and values: checked
        // above and, for the latter two, by the caller.
        unsafe { gpu.launch(&FORWARD, &buffers, &self.scalars(layout), self.groups(place)?) }
    }

    /// What [`Chunks::forward`] gives, to the same bits, with more workgroups: for few queries that see many keys.
    ///
    /// `scratch`: [`Chunks::decode_scratch`] bytes, overwritten.
    pub fn decode<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        cache: &Cache,
        q: &B,
        [keys, values]: [&B; 2],
        [y, lse]: [&B; 2],
        scratch: &B,
    ) -> Result<()> {
        let place = DECODE.name;
        if self.count == 0 {
            return Ok(());
        }
        let (layout, cached) = self.cached(place, cache)?;
        self.check_queries(place, q, [y, lse])?;
        check_size(place, "keys", keys, cached, layout.kind.bytes())?;
        check_size(place, "values", values, cached, layout.kind.bytes())?;
        check_size(place, "scratch", scratch, self.decode_scratch()?, 1)?;
        let scalars = self.scalars(layout);
        let [x, y_groups, _] = self.groups(place)?;
        let [z, ..] = grid(place, self.stretches, 1)?;
        // SAFETY: as in `launch_forward`; scratch has a part for each row, head and stretch: checked above.
        unsafe {
            gpu.launch(&DECODE, &[q, keys, values, &self.tiles, scratch], &scalars, [x, y_groups, z])?;
            gpu.launch(&COMBINE, &[&self.tiles, y, lse, scratch], &scalars, [x, y_groups, 1])
        }
    }

    /// Bytes of scratch that [`Chunks::decode`] needs.
    ///
    /// # Errors
    /// [`Error::Argument`] when that is more than the kernels can count.
    pub fn decode_scratch(&self) -> Result<usize> {
        let place = DECODE.name;
        let parts = elements(place, elements(place, self.rows, self.attention.heads)?, self.stretches)?;
        Ok(elements(place, parts, self.attention.dim + 4)? * 4)
    }

    fn check_queries(&self, place: &'static str, q: &B, [y, lse]: [&B; 2]) -> Result<()> {
        let count = self.q_len(place)?;
        check_size(place, "q", q, count, 4)?;
        check_size(place, "y", y, count, 4)?;
        check_size(place, "lse", lse, self.rows * self.attention.heads, 4)
    }
}

/// The window as the kernels take it.
fn window(attention: &Attention) -> Scalar {
    Scalar::U32(attention.window.and_then(|window| u32::try_from(window).ok()).unwrap_or(u32::MAX))
}

impl<B: DeviceBuffer> Sequences<B> {
    /// `y` and `lse` without a cache.
    ///
    /// `q`, `y`: `[rows, H · D]` f32; `k`, `v`: `[rows, G · D]` f32; `lse`: `[rows, H]` f32. `y` and `lse` are assigned;
    /// their bits are those of [`Chunks::forward`] over a cache in f32.
    pub fn forward<G: Gpu<Buffer = B>>(&self, gpu: &G, [q, k, v]: [&B; 3], [y, lse]: [&B; 2]) -> Result<()> {
        let chunks = &self.queries;
        if chunks.count == 0 {
            return Ok(());
        }
        // A row is a slot: a sequence's is its first row, and its positions are the rows from there on.
        let Attention { kv_heads, dim, .. } = chunks.attention;
        let row = kv_heads * dim;
        let layout = Layout { kind: CacheType::F32, capacity: u32::MAX as usize, strides: [row, dim, row] };
        chunks.launch_forward(gpu, layout, chunks.k_len(FORWARD.name)?, q, [k, v], [y, lse])
    }

    /// The gradients of [`Sequences::forward`], from what it read and gave: `dq`, `dk` and `dv` are assigned.
    ///
    /// `q`, `y`, `dy`, `dq`: `[rows, H · D]` f32; `k`, `v`, `dk`, `dv`: `[rows, G · D]` f32; `lse`: `[rows, H]` f32;
    /// `scratch`: `[rows, H, 2]` f32, overwritten.
    pub fn backward<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        [q, k, v]: [&B; 3],
        [y, lse]: [&B; 2],
        dy: &B,
        [dq, dk, dv]: [&B; 3],
        scratch: &B,
    ) -> Result<()> {
        let place = BACKWARD_QUERIES.name;
        let chunks = &self.queries;
        if chunks.count == 0 {
            return Ok(());
        }
        let (attention, rows) = (&chunks.attention, chunks.rows);
        let (wide, narrow) = (chunks.q_len(place)?, chunks.k_len(place)?);
        let lines = rows * attention.heads;
        for (name, buffer, count) in [
            ("q", q, wide),
            ("k", k, narrow),
            ("v", v, narrow),
            ("y", y, wide),
            ("lse", lse, lines),
            ("dy", dy, wide),
            ("dq", dq, wide),
            ("dk", dk, narrow),
            ("dv", dv, narrow),
            ("scratch", scratch, elements(place, lines, 2)?),
        ] {
            check_size(place, name, buffer, count, 4)?;
        }
        let scalars = |tiles: usize| {
            let number = |value: usize| Scalar::U32(value as u32);
            [
                number(attention.heads),
                number(attention.kv_heads),
                number(attention.dim / 4),
                number(attention.heads_per_tile()),
                number(attention.parts()),
                number(tiles),
                window(attention),
                Scalar::F32(attention.scale),
                number(rows),
            ]
        };
        let for_keys = fold(place, elements(place, self.key_count, attention.kv_heads)?)?;
        let (tiles, key_tiles) = (&chunks.tiles, &self.key_tiles);
        // SAFETY: the tables' sequences are within `rows` rows, which every buffer has: checked above.
        unsafe {
            let of_queries = scalars(chunks.count);
            gpu.launch(
                &BACKWARD_DELTA,
                &[dy, y, lse, scratch],
                &of_queries,
                fold(place, lines.div_ceil(TILE))?,
            )?;
            let buffers = [q, k, v, dy, tiles, scratch, dq];
            gpu.launch(&BACKWARD_QUERIES, &buffers, &of_queries, chunks.groups(place)?)?;
            let buffers = [q, k, v, dy, key_tiles, scratch, dk, dv];
            gpu.launch(&BACKWARD_KEYS, &buffers, &scalars(self.key_count), for_keys)
        }
    }
}
