//! Embeddings on a GPU: kernels and launches. The formulas stand in `ops/embedding.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Error, Gpu, Kernel, Result, Scalar, ScalarKind, read, write};
use crate::dtype::DType;
use crate::ops::Write;
use crate::panels::LANES;

const WGSL: Option<&str> = Some(include_str!("../../ops/embedding.wgsl"));
const SCALARS: &[ScalarKind] =
    &[ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::F32];

/// Columns of a row that a workgroup takes.
const COLUMNS: usize = 256;

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&FORWARD_F32, &FORWARD_F16, &FORWARD_BF16, &BACKWARD];

/// x from an f32 table.
pub static FORWARD_F32: Kernel = Kernel {
    name: "embedding_forward_f32",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "table"), read(2, "ids"), write(3, "x")],
    scalars: SCALARS,
};

/// x from an f16 table.
pub static FORWARD_F16: Kernel = Kernel {
    name: "embedding_forward_f16",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(1, "table_words"), read(2, "ids"), write(3, "x")],
    scalars: SCALARS,
};

/// x from a bf16 table.
pub static FORWARD_BF16: Kernel = Kernel {
    name: "embedding_forward_bf16",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(1, "table_words"), read(2, "ids"), write(3, "x")],
    scalars: SCALARS,
};

/// The table's gradient from dx.
pub static BACKWARD: Kernel = Kernel {
    name: "embedding_backward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(4, "dx"), read(5, "order"), read(6, "runs"), write(7, "d_table")],
    scalars: &[ScalarKind::U32, ScalarKind::U32, ScalarKind::F32],
};

/// The shape and constant of a table's lookups.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// Rows of x: lookups.
    pub rows: usize,
    /// Rows of the table.
    pub vocab: usize,
    /// Columns of x and of the table.
    pub width: usize,
    /// What each value of the table is multiplied by.
    pub scale: f32,
}

/// Which rows of a table were looked up, sorted for [`Embedding::backward`]: see `ops/embedding.wgsl`.
pub struct Lookups<B> {
    order: B,
    runs: B,
    rows: usize,
    distinct: usize,
    /// All ids are below it.
    end: usize,
}

impl<B> Lookups<B> {
    /// Sorts `ids`, the row of the table for each row of x, and uploads the result.
    pub fn new<G: Gpu<Buffer = B>>(gpu: &G, ids: &[u32]) -> Result<Lookups<B>> {
        let rows = elements("lookups", ids.len(), 1)?;
        let mut order: Vec<u32> = (0..rows as u32).collect();
        order.sort_by_key(|&row| ids[row as usize]); // stable: equal ids stay in the order of the rows
        let mut runs = Vec::new();
        let mut first = 0;
        for run in order.chunk_by(|&a, &b| ids[a as usize] == ids[b as usize]) {
            runs.extend([ids[run[0] as usize], first, run.len() as u32]);
            first += run.len() as u32;
        }
        let end = ids.iter().max().map_or(0, |&id| id as usize + 1);
        let distinct = runs.len() / 3;
        Ok(Lookups { order: from_u32(gpu, &order)?, runs: from_u32(gpu, &runs)?, rows, distinct, end })
    }
}

impl Embedding {
    /// `x[r, c] = scale * table[ids[r], c]`, or that is added to `x`, as `write` says.
    ///
    /// `ids`: `[rows]` u32; `x`: `[rows, width]` f32. `table`: `[vocab, width]` of type `dtype`, which is f32,
    /// f16 or bf16, in the panels that [`crate::Matrix`] holds. An id that is not below vocab counts as a row
    /// of zeros: who makes the ids has checked them.
    pub fn forward<G: Gpu>(
        &self,
        gpu: &G,
        dtype: DType,
        table: &G::Buffer,
        ids: &G::Buffer,
        x: &G::Buffer,
        write: Write,
    ) -> Result<()> {
        // Columns of the panels, and bytes of their elements: a bf16 panel has pairs of columns.
        let (kernel, columns, bytes) = match dtype {
            DType::F32 => (&FORWARD_F32, self.width, 4),
            DType::F16 => (&FORWARD_F16, self.width, 2),
            DType::BF16 => (&FORWARD_BF16, self.width.div_ceil(2), 4),
            other => {
                return Err(Error::Argument {
                    place: "embedding forward",
                    what: "type of the table".into(),
                    expected: "f32, f16 or bf16".into(),
                    found: other.to_string(),
                });
            }
        };
        let place = kernel.name;
        check_size(place, "table", table, elements(place, self.padded_vocab(place)?, columns)?, bytes)?;
        check_size(place, "ids", ids, self.rows, 4)?;
        let count = elements(place, self.rows, self.width)?;
        check_size(place, "x", x, count, 4)?;
        if count == 0 {
            return Ok(());
        }
        let scalars = [
            // Both are factors of what fits 32 bits, and neither is 0.
            Scalar::U32(self.rows as u32),
            Scalar::U32(self.width as u32),
            Scalar::U32(self.vocab as u32),
            Scalar::U32(u32::from(write == Write::Add)),
            Scalar::F32(self.scale),
        ];
        let groups = fold(place, elements(place, self.rows, self.width.div_ceil(COLUMNS))?)?;
        // SAFETY: the kernel touches rows elements of ids, rows * width of x, and rows below vocab of the
        // table, whose panels are filled up to 32 rows: checked above.
        unsafe { gpu.launch(kernel, &[table, ids, x], &scalars, groups) }
    }

    /// The gradient of [`Embedding::forward`]: `d_table[ids[r], c] += scale * dx[r, c]`, in the order of the
    /// rows.
    ///
    /// `lookups` has the ids; `dx`: `[rows, width]` f32. `d_table` is added to: f32 panels of `[vocab, width]`,
    /// see [`crate::panels::len`]. Rows of the table that do not occur are not touched.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id that is not below vocab, among others.
    pub fn backward<G: Gpu>(
        &self,
        gpu: &G,
        lookups: &Lookups<G::Buffer>,
        dx: &G::Buffer,
        d_table: &G::Buffer,
    ) -> Result<()> {
        let place = BACKWARD.name;
        if lookups.rows != self.rows || lookups.end > self.vocab {
            return Err(Error::Argument {
                place,
                what: "lookups".into(),
                expected: format!("{} ids below {}", self.rows, self.vocab),
                found: format!("{} ids, the largest {:?}", lookups.rows, lookups.end.checked_sub(1)),
            });
        }
        let count = elements(place, self.rows, self.width)?;
        check_size(place, "dx", dx, count, 4)?;
        let table = elements(place, self.padded_vocab(place)?, self.width)?;
        check_size(place, "d_table", d_table, table, 4)?;
        if count == 0 {
            return Ok(());
        }
        let scalars = [
            Scalar::U32(lookups.distinct as u32), // at most rows
            Scalar::U32(self.width as u32),
            Scalar::F32(self.scale),
        ];
        let groups = fold(place, elements(place, lookups.distinct, self.width.div_ceil(COLUMNS))?)?;
        // SAFETY: the kernel touches the `distinct` parts of runs; order, which was sorted out of as many ids,
        // and names rows below `rows`; rows * width elements of dx; and rows below vocab of d_table.
        unsafe { gpu.launch(&BACKWARD, &[dx, &lookups.order, &lookups.runs, d_table], &scalars, groups) }
    }

    /// Rows of the table with those that fill up the last panel.
    fn padded_vocab(&self, place: &'static str) -> Result<usize> {
        elements(place, self.vocab.div_ceil(LANES), LANES)
    }
}

/// A buffer with these values: ids of rows.
pub fn from_u32<G: Gpu>(gpu: &G, values: &[u32]) -> Result<G::Buffer> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let buffer = gpu.alloc(bytes.len())?;
    gpu.upload(&buffer, 0, &bytes)?;
    Ok(buffer)
}
