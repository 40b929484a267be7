//! LayerNorm on a GPU: kernels and launches. The formulas stand in `ops/layernorm.wgsl`.

use super::{check_size, elements, fold, grid, row_chunks};
use crate::device::gpu::{Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};
use crate::ops::Write;

const WGSL: Option<Wgsl> = Some(Wgsl {
    plain: &[include_str!("../../ops/sums.wgsl"), include_str!("../../ops/layernorm.wgsl")],
    subgroups: Some(&[
        include_str!("../../ops/sums_subgroups.wgsl"),
        include_str!("../../ops/layernorm.wgsl"),
    ]),
    matrices: None,
});
const SCALARS: &[ScalarKind] = &[ScalarKind::U32, ScalarKind::U32, ScalarKind::F32];

/// The kernels.
pub static KERNELS: &[&Kernel] =
    &[&FORWARD, &ADD_FORWARD, &BACKWARD, &BACKWARD_WEIGHT, &BACKWARD_WEIGHT_TOTAL];

/// y from x.
pub static FORWARD: Kernel = Kernel {
    name: "layernorm_forward",
    entry: "layernorm_forward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), read(1, "weight"), read(2, "bias"), write(3, "y")],
    scalars: SCALARS,
};

/// x from x and what is added to it, and y from x.
pub static ADD_FORWARD: Kernel = Kernel {
    name: "layernorm_add_forward",
    entry: "layernorm_add_forward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(10, "x_inout"), read(11, "addend"), read(1, "weight"), read(2, "bias"), write(3, "y")],
    scalars: SCALARS,
};

/// dx from dy, and the mean and 1 / standard deviation of each row.
pub static BACKWARD: Kernel = Kernel {
    name: "layernorm_backward",
    entry: "layernorm_backward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), read(1, "weight"), read(4, "dy"), write(5, "dx"), write(6, "scratch")],
    scalars: &[ScalarKind::U32, ScalarKind::U32, ScalarKind::F32, ScalarKind::U32],
};

/// The sums of dweight and dbias of each chunk of rows, from dy and the statistics of each row.
pub static BACKWARD_WEIGHT: Kernel = Kernel {
    name: "layernorm_backward_weight",
    entry: "layernorm_backward_weight",
    wgsl: WGSL,
    cuda: None,
    workgroup: [32, 8, 1],
    buffers: &[read(0, "x"), read(4, "dy"), write(6, "scratch")],
    scalars: &[ScalarKind::U32; 4],
};

/// dweight and dbias from those sums.
pub static BACKWARD_WEIGHT_TOTAL: Kernel = Kernel {
    name: "layernorm_backward_weight_total",
    entry: "layernorm_backward_weight_total",
    wgsl: WGSL,
    cuda: None,
    workgroup: [32, 8, 1],
    buffers: &[read(7, "scratch_in"), write(8, "dweight"), write(9, "dbias")],
    scalars: &[ScalarKind::U32; 4],
};

/// The shape and constant of a LayerNorm.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Rows of x: tokens.
    pub rows: usize,
    /// Columns of x: the width that is normalised.
    pub dim: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    /// `y = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`, row by row.
    ///
    /// `x`, `y`: `[rows, dim]` f32; `weight`, `bias`: `[dim]` f32. `y` is assigned and is another buffer than
    /// `x`.
    pub fn forward<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        weight: &G::Buffer,
        bias: &G::Buffer,
        y: &G::Buffer,
    ) -> Result<()> {
        let place = FORWARD.name;
        let Some((count, scalars)) = self.scalars(place)? else { return Ok(()) };
        let sizes =
            [("x", x, count), ("weight", weight, self.dim), ("bias", bias, self.dim), ("y", y, count)];
        for (name, buffer, count) in sizes {
            check_size(place, name, buffer, count, 4)?;
        }
        // SAFETY: the kernel touches rows * dim elements of x and y and dim of weight and bias: checked above.
        unsafe { gpu.launch(&FORWARD, &[x, weight, bias, y], &scalars, fold(place, self.rows)?) }
    }

    /// `x += addend`, then `y` from `x` as in [`LayerNorm::forward`], with the bits that these two have one after the other.
    ///
    /// `x`, `addend`, `y`: `[rows, dim]` f32; `weight`, `bias`: `[dim]` f32. `x` is added to, `y` is assigned;
    /// both are buffers of their own.
    pub fn add_forward<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        addend: &G::Buffer,
        weight: &G::Buffer,
        bias: &G::Buffer,
        y: &G::Buffer,
    ) -> Result<()> {
        let place = ADD_FORWARD.name;
        let Some((count, scalars)) = self.scalars(place)? else { return Ok(()) };
        for (name, buffer, count) in [
            ("x", x, count),
            ("addend", addend, count),
            ("weight", weight, self.dim),
            ("bias", bias, self.dim),
            ("y", y, count),
        ] {
            check_size(place, name, buffer, count, 4)?;
        }
        // SAFETY: the kernel touches rows * dim elements of x, addend and y, and dim of weight and bias:
        // checked above.
        unsafe { gpu.launch(&ADD_FORWARD, &[x, addend, weight, bias, y], &scalars, fold(place, self.rows)?) }
    }

    /// Bytes of `scratch` for the gradients: the mean and 1 / standard deviation of each row, and the sums of at most 256
    /// chunks of rows, `[2, dim]` each.
    pub fn scratch_bytes(&self) -> usize {
        let [_, chunks] = row_chunks(self.rows);
        chunks.saturating_mul(self.dim).saturating_add(self.rows).saturating_mul(8)
    }

    /// The gradients of [`LayerNorm::forward`]: `dx` is assigned or added to, as `write` says; those of weight
    /// and bias, in this order, are added to; `None` where the parameters are frozen.
    ///
    /// `x`, `dy`, `dx`: `[rows, dim]` f32; `weight` and the parameters' gradients: `[dim]` f32; `scratch`:
    /// [`LayerNorm::scratch_bytes`], overwritten. The outputs are buffers of their own.
    #[allow(clippy::too_many_arguments)] // forward's arguments, then their gradients
    pub fn backward<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        weight: &G::Buffer,
        dy: &G::Buffer,
        dx: &G::Buffer,
        write: Write,
        dweight_dbias: Option<[&G::Buffer; 2]>,
        scratch: &G::Buffer,
    ) -> Result<()> {
        let place = BACKWARD.name;
        let Some((count, scalars)) = self.scalars(place)? else { return Ok(()) };
        let scratch_len = elements(place, self.scratch_bytes() / 4, 1)?;
        for (name, buffer, count) in [
            ("x", x, count),
            ("weight", weight, self.dim),
            ("dy", dy, count),
            ("dx", dx, count),
            ("scratch", scratch, scratch_len),
        ] {
            check_size(place, name, buffer, count, 4)?;
        }
        if let Some([dweight, dbias]) = dweight_dbias {
            check_size(place, "dweight", dweight, self.dim, 4)?;
            check_size(place, "dbias", dbias, self.dim, 4)?;
        }
        let [rows, dim, eps] = scalars;
        let with_write = [rows, dim, eps, Scalar::U32(u32::from(write == Write::Add))];
        // SAFETY: the kernel touches rows * dim elements of x, dy and dx, dim of weight and 2 * rows of scratch: checked
        // above.
        unsafe { gpu.launch(&BACKWARD, &[x, weight, dy, dx, scratch], &with_write, fold(place, self.rows)?)? }
        let Some([dweight, dbias]) = dweight_dbias else { return Ok(()) };
        let place = BACKWARD_WEIGHT.name;
        let [chunk_rows, chunks] = row_chunks(self.rows);
        let scalars = [self.rows, self.dim, chunk_rows, chunks].map(|value| Scalar::U32(value as u32));
        let columns = self.dim.div_ceil(32);
        // SAFETY: the kernels touch rows * dim elements of x and dy, 2 * (rows + chunks * dim) of scratch, and dim of
        // dweight and dbias: checked above.
        unsafe {
            gpu.launch(&BACKWARD_WEIGHT, &[x, dy, scratch], &scalars, grid(place, columns, chunks)?)?;
            gpu.launch(&BACKWARD_WEIGHT_TOTAL, &[scratch, dweight, dbias], &scalars, grid(place, columns, 1)?)
        }
    }

    /// Elements of x, and the kernels' scalars; `None` when there is nothing to do.
    fn scalars(&self, place: &'static str) -> Result<Option<(usize, [Scalar; 3])>> {
        if self.rows == 0 || self.dim == 0 {
            return Ok(None);
        }
        let count = elements(place, self.rows, self.dim)?; // so rows and dim fit 32 bits too
        let scalars = [Scalar::U32(self.rows as u32), Scalar::U32(self.dim as u32), Scalar::F32(self.eps)];
        Ok(Some((count, scalars)))
    }
}
