//! The gradient of an embedding on a GPU. The formulas stand in `ops/embedding.wgsl`; forward is
//! [`super::packed::PackedMatrix::lookup`].

use super::packed::{PackedMatrix, check_kind};
use super::{check_size, elements, fold, from_u32};
use crate::DType;
use crate::device::gpu::{Error, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};
use crate::panels::LANES;

const WGSL: Option<Wgsl> = Wgsl::plain(&[include_str!("../../ops/embedding.wgsl")]);
/// Columns of a row that a workgroup takes.
const COLUMNS: usize = 256;

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&BACKWARD];

/// The table's gradient from dx.
pub static BACKWARD: Kernel = Kernel {
    name: "embedding_backward",
    entry: "embedding_backward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "dx"), read(1, "order"), read(2, "runs"), write(3, "d_table")],
    scalars: &[ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::F32],
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
    /// Each row of the table that occurs, ascending.
    distinct: Vec<u32>,
}

impl<B> Lookups<B> {
    /// Sorts `ids`, the row of the table for each row of x, and uploads the result.
    pub fn new<G: Gpu<Buffer = B>>(gpu: &G, ids: &[u32]) -> Result<Lookups<B>> {
        let rows = elements("lookups", ids.len(), 1)?;
        let mut order: Vec<u32> = (0..rows as u32).collect();
        order.sort_by_key(|&row| ids[row as usize]); // stable: equal ids stay in the order of the rows
        let (mut runs, mut distinct) = (Vec::new(), Vec::new());
        let mut first = 0;
        for run in order.chunk_by(|&a, &b| ids[a as usize] == ids[b as usize]) {
            let id = ids[run[0] as usize];
            distinct.push(id);
            runs.extend([id, first, run.len() as u32]);
            first += run.len() as u32;
        }
        Ok(Lookups { order: from_u32(gpu, &order)?, runs: from_u32(gpu, &runs)?, rows, distinct })
    }
}

impl Embedding {
    /// The gradient of [`super::packed::PackedMatrix::lookup`]: `d_table[ids[r], c] += scale * dx[r, c]`, in the order of the
    /// rows.
    ///
    /// `lookups` has the ids; `dx`: `[rows, width]` f32. `d_table`, `[vocab, width]` in f32, is added to. Rows of the table
    /// that do not occur are not touched.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id that is not below vocab, among others.
    pub fn backward<G: Gpu>(
        &self,
        gpu: &G,
        lookups: &Lookups<G::Buffer>,
        dx: &G::Buffer,
        d_table: &PackedMatrix<G::Buffer>,
    ) -> Result<()> {
        let place = BACKWARD.name;
        let largest = lookups.distinct.last();
        if lookups.rows != self.rows || largest.is_some_and(|&id| id as usize >= self.vocab) {
            return Err(Error::Argument {
                place,
                what: "lookups".into(),
                expected: format!("{} ids below {}", self.rows, self.vocab),
                found: format!("{} ids, the largest {:?}", lookups.rows, largest),
            });
        }
        let count = elements(place, self.rows, self.width)?;
        check_size(place, "dx", dx, count, 4)?;
        check_kind(place, "d_table", (DType::F32, [self.vocab, self.width]), d_table.kind())?;
        if count == 0 {
            return Ok(());
        }
        for (panels, part) in d_table.parts() {
            let [first_run, end] = [panels.start, panels.end]
                .map(|panel| lookups.distinct.partition_point(|&id| (id as usize) < panel * LANES));
            if first_run == end {
                continue;
            }
            let distinct = end - first_run;
            // At most rows, or rows of the table, whose elements fit 32 bits.
            let [distinct_, first_run, first_row, width] =
                [distinct, first_run, panels.start * LANES, self.width]
                    .map(|value| Scalar::U32(value as u32));
            let scalars = [distinct_, first_run, first_row, width, Scalar::F32(self.scale)];
            let groups = fold(place, elements(place, distinct, self.width.div_ceil(COLUMNS))?)?;
            // SAFETY: the kernel touches these runs; order, which was sorted out of as many ids, and names rows below
            // `rows`; rows * width elements of dx; and rows of this part of d_table, for that is where the runs' ids are.
            unsafe { gpu.launch(&BACKWARD, &[dx, &lookups.order, &lookups.runs, part], &scalars, groups)? }
        }
        Ok(())
    }
}
