//! A table of which rows are looked up: tokens' embeddings, or learned positions.
//!
//! ```text
//!   forward    x[r, c] = scale · table[row[r], c]           or x[r, c] += that, for the positions
//!   backward   d_table[row[r], c] += scale · dx[r, c]
//! ```
//!
//! A row that was looked up several times gets the sum of its gradients. Rows that were not looked up get nothing.
//!
//! d_table lies in panels as the table itself does (see [`crate::panels`]), because a tied table is the head as well, and
//! both add to one gradient:
//!
//! ```text
//!   [V/32][C][32] f32:   element c of row v is lane v % 32 of [v/32][c]
//! ```
//!
//! Tasks own ranges of columns and walk the rows from first to last, so that two lookups of one row are added in one
//! order, whatever the number of threads. Each element touches a cache line of its own, and so nothing is gained by
//! vectors.

use super::rows::Write;
use crate::matrix::{DecodePanel, Matrix};
use crate::pool::{Pool, Shares};
use crate::simd::{Isa, Kernel, LANES, dispatch};

/// Columns of a task: 128 neighbouring bytes of dx.
const COLUMNS: usize = 32;

/// Values of a row that are decoded at a time.
const SPAN: usize = 256;

/// Looks up `rows` `[R]` of a table `[V, C]` of any type, for `x` `[R, C]`, which is set or added to.
///
/// Panics when sizes differ, or a row is not below V.
pub fn forward(pool: &Pool, table: &Matrix, rows: &[u32], scale: f32, x: &mut [f32], write: Write) {
    let (vocab, width) = (table.rows(), table.cols());
    assert_eq!(x.len(), rows.len() * width, "size of x for {} rows of {width}", rows.len());
    check_rows(rows, vocab);
    pool.for_each_row(x, width, 4, |r, x| {
        dispatch(LookUp { table, row: rows[r] as usize, scale, x, write });
    });
}

/// Adds the gradient of `dx` `[R, C]` to `d_table` `[V/32][C][32]`; `rows` `[R]` are the rows that were looked up.
///
/// Panics when sizes differ, or a row is not below V.
pub fn backward(
    pool: &Pool,
    [vocab, width]: [usize; 2],
    rows: &[u32],
    scale: f32,
    dx: &[f32],
    d_table: &mut [f32],
) {
    assert_eq!(dx.len(), rows.len() * width, "size of dx for {} rows of {width}", rows.len());
    assert_eq!(d_table.len(), vocab.next_multiple_of(LANES) * width, "size of the table's gradient");
    check_rows(rows, vocab);
    let d_table = Shares::new(d_table);
    pool.run_ranges(width, COLUMNS, |columns| {
        for (&row, dx) in rows.iter().zip(dx.chunks_exact(width)) {
            let (panel, lane) = (row as usize / LANES, row as usize % LANES);
            let first = (panel * width + columns.start) * LANES;
            // SAFETY: a task has its own columns of every panel, and one part at a time.
            let panel = unsafe { d_table.get(first..first + columns.len() * LANES) };
            for (to, dx) in panel.chunks_exact_mut(LANES).zip(&dx[columns.clone()]) {
                to[lane] += scale * dx;
            }
        }
    });
}

fn check_rows(rows: &[u32], vocab: usize) {
    let wrong = rows.iter().find(|&&row| row as usize >= vocab);
    assert!(wrong.is_none(), "row {wrong:?} of a table of {vocab}");
}

struct LookUp<'a> {
    table: &'a Matrix,
    row: usize,
    scale: f32,
    x: &'a mut [f32],
    write: Write,
}

impl Kernel for LookUp<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (dtype, panel, lane) = (self.table.dtype(), self.table.panel(self.row / LANES), self.row % LANES);
        let mut values = [0f32; SPAN * LANES];
        for (i, x) in self.x.chunks_mut(SPAN).enumerate() {
            isa.run(DecodePanel { dtype, panel, start: SPAN * i, len: x.len(), out: &mut values });
            for (x, values) in x.iter_mut().zip(values.chunks_exact(LANES)) {
                let value = self.scale * values[lane];
                match self.write {
                    Write::Set => *x = value,
                    Write::Add => *x += value,
                }
            }
        }
    }
}

/// The lookup, in f64: `table` `[V, C]`, row by row.
pub fn reference(table: &[f64], width: usize, rows: &[u32], scale: f64) -> Vec<f64> {
    rows.iter().flat_map(|&row| &table[row as usize * width..][..width]).map(|x| scale * x).collect()
}

/// Its gradient, in f64: `[V, C]`, row by row.
pub fn reference_backward(vocab: usize, width: usize, rows: &[u32], scale: f64, dx: &[f64]) -> Vec<f64> {
    let mut d_table = vec![0.0; vocab * width];
    for (r, &row) in rows.iter().enumerate() {
        for c in 0..width {
            d_table[row as usize * width + c] += scale * dx[r * width + c];
        }
    }
    d_table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::matrix::Precision;
    use crate::ops::check::{assert_derivative, assert_near, differences, dot, lengths, normal, wide};
    use crate::rng::Rng;
    use crate::simd::{IsaKind, dispatch_to};

    #[test]
    fn lookups_match_the_reference() {
        let rows = [32u32, 0, 7, 32, 34];
        for width in lengths() {
            let values = normal(35 * width, 1);
            let table = Matrix::from_f32(&Pool::new(1), [35, width], &values);
            let want = reference(&wide(&values), width, &rows, 1.7);
            let sum: Vec<f64> = want.iter().map(|x| x + 3.0).collect();
            for (write, before, want) in [(Write::Set, f32::NAN, &want), (Write::Add, 3.0, &sum)] {
                let run = |threads| {
                    let mut x = vec![before; rows.len() * width];
                    forward(&Pool::new(threads), &table, &rows, 1.7, &mut x, write);
                    x
                };
                assert_eq!(run(1), run(3), "threads");
                for kind in IsaKind::available() {
                    let mut x = vec![before; rows.len() * width];
                    for (&row, x) in rows.iter().zip(x.chunks_exact_mut(width)) {
                        let row = row as usize;
                        dispatch_to(kind, LookUp { table: &table, row, scale: 1.7, x, write });
                    }
                    assert_near(&format!("{} {width} {write:?}", kind.name()), &x, want, 2e-7);
                }
            }
        }
    }

    #[test]
    fn tables_of_other_types_give_their_rows() {
        let (vocab, width) = (40, 544);
        let mut rng = Rng::new(3, 0);
        for dtype in [DType::F16, DType::BF16, DType::Q8_0] {
            let row_bytes = dtype.bytes(&[width]).unwrap();
            // The high byte of an f16 or bf16 stays below that of infinity.
            let bytes: Vec<u8> = (0..vocab * row_bytes).map(|_| (rng.next() % 0x70) as u8).collect();
            let row = |r: usize| &bytes[r * row_bytes..(r + 1) * row_bytes];
            let table = Matrix::pack(&Pool::new(1), dtype, [vocab, width], Precision::Native, row);
            let rows = [39, 3, 39];
            let mut x = vec![f32::NAN; rows.len() * width];
            forward(&Pool::new(2), &table, &rows, 1.0, &mut x, Write::Set);
            for (&row, x) in rows.iter().zip(x.chunks_exact(width)) {
                let mut want = vec![0.0; width];
                table.decode_row(row as usize, &mut want);
                assert_eq!(x, want, "{dtype}");
            }
        }
    }

    #[test]
    fn reference_gradient_is_the_derivative() {
        let (vocab, width, rows) = (5, 3, [4, 0, 4, 2]);
        let [table, dx] = [vocab * width, rows.len() * width].map(|len| wide(&normal(len, 1)));
        let d = reference_backward(vocab, width, &rows, 1.5, &dx);
        let loss = |table: &[f64]| dot(&reference(table, width, &rows, 1.5), &dx);
        assert_derivative("d_table", &d, &differences(&table, loss));
    }

    #[test]
    fn gradients_lie_in_the_panels_of_a_matrix() {
        let mut rng = Rng::new(1, 0);
        for width in lengths() {
            for vocab in [1usize, 31, 32, 33, 100] {
                let rows: Vec<u32> = (0..70).map(|_| (rng.next() % vocab as u64) as u32).collect();
                let dx = normal(rows.len() * width, 2);
                let run = |threads| {
                    let mut d_table = vec![0.0; vocab.next_multiple_of(LANES) * width];
                    for _ in 0..2 {
                        backward(&Pool::new(threads), [vocab, width], &rows, 0.5, &dx, &mut d_table);
                    }
                    d_table
                };
                let found = run(1);
                assert_eq!(found, run(3), "threads");
                // Twice the half: exactly what one lookup with scale 1 gives.
                let want = reference_backward(vocab, width, &rows, 1.0, &wide(&dx));
                let narrow: Vec<f32> = want.iter().map(|&d| d as f32).collect();
                let matrix = Matrix::from_f32(&Pool::new(1), [vocab, width], &narrow);
                for panel in 0..matrix.panels() {
                    let want: Vec<f64> = matrix
                        .panel(panel)
                        .chunks_exact(4)
                        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into())
                        .collect();
                    let found = &found[panel * width * LANES..][..width * LANES];
                    assert_near(&format!("{vocab} rows of {width}"), found, &want, 2e-6);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "row Some(32) of a table of 32")]
    fn a_row_beyond_the_table_is_refused() {
        backward(&Pool::new(1), [32, 1], &[32], 1.0, &[1.0], &mut [0.0; 32]);
    }
}
