//! RMSNorm on a GPU: kernels and launches. The formulas stand in `ops/rmsnorm.wgsl`.

use super::{check_size, elements, fold, grid, row_chunks};
use crate::device::gpu::{DeviceBuffer, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};
use crate::ops::Write;

const WGSL: Option<Wgsl> = Some(Wgsl {
    plain: &[include_str!("../../ops/sums.wgsl"), include_str!("../../ops/rmsnorm.wgsl")],
    subgroups: Some(&[include_str!("../../ops/sums_subgroups.wgsl"), include_str!("../../ops/rmsnorm.wgsl")]),
    matrices: None,
});
const CUDA: Option<&str> = Some(include_str!("../../ops/rmsnorm.cu"));
const SCALARS: &[ScalarKind] = &[ScalarKind::U32, ScalarKind::U32, ScalarKind::F32, ScalarKind::F32];

/// The widest rows that [`SMALL_FORWARD`] takes in place of [`FORWARD`], and so with addition: its 32 threads a row read 8 values
/// each.
const SMALL: usize = 256;

/// Rows of a workgroup of the kernels for short rows.
const SMALL_ROWS: usize = 8;

/// The kernels.
pub static KERNELS: &[&Kernel] = &[
    &FORWARD,
    &ADD_FORWARD,
    &SMALL_FORWARD,
    &SMALL_ADD_FORWARD,
    &BACKWARD,
    &BACKWARD_IN_PLACE,
    &BACKWARD_SCALES,
    &BACKWARD_WEIGHT,
    &BACKWARD_WEIGHT_TOTAL,
];

/// y from x.
pub static FORWARD: Kernel = Kernel {
    name: "rmsnorm_forward",
    entry: "rmsnorm_forward",
    wgsl: WGSL,
    cuda: CUDA,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), read(1, "weight"), write(2, "y")],
    scalars: SCALARS,
};

/// x from x and what is added to it, and y from x.
pub static ADD_FORWARD: Kernel = Kernel {
    name: "rmsnorm_add_forward",
    entry: "rmsnorm_add_forward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(8, "x_inout"), read(9, "addend"), read(1, "weight"), write(2, "y")],
    scalars: SCALARS,
};

/// y from x, for short rows.
pub static SMALL_FORWARD: Kernel = Kernel {
    name: "rmsnorm_small_forward",
    entry: "rmsnorm_small_forward",
    wgsl: WGSL,
    cuda: CUDA,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), read(1, "weight"), write(2, "y")],
    scalars: SCALARS,
};

/// x from x and what is added to it, and y from x, for short rows.
pub static SMALL_ADD_FORWARD: Kernel = Kernel {
    name: "rmsnorm_small_add_forward",
    entry: "rmsnorm_small_add_forward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(8, "x_inout"), read(9, "addend"), read(1, "weight"), write(2, "y")],
    scalars: SCALARS,
};

/// dx from dy, and 1 / rms of each row.
pub static BACKWARD: Kernel = Kernel {
    name: "rmsnorm_backward",
    entry: "rmsnorm_backward",
    wgsl: WGSL,
    cuda: CUDA,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), read(1, "weight"), read(3, "dy"), write(4, "dx"), write(5, "scratch")],
    scalars: &[ScalarKind::U32, ScalarKind::U32, ScalarKind::F32, ScalarKind::F32, ScalarKind::U32],
};

/// dx over dy.
pub static BACKWARD_IN_PLACE: Kernel = Kernel {
    name: "rmsnorm_backward_in_place",
    entry: "rmsnorm_backward_in_place",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), read(1, "weight"), write(10, "gradient_inout")],
    scalars: SCALARS,
};

/// 1 / rms of each row.
pub static BACKWARD_SCALES: Kernel = Kernel {
    name: "rmsnorm_backward_scales",
    entry: "rmsnorm_backward_scales",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), write(5, "scratch")],
    scalars: SCALARS,
};

/// The sums of dweight of each chunk of rows, from dy and 1 / rms of each row.
pub static BACKWARD_WEIGHT: Kernel = Kernel {
    name: "rmsnorm_backward_weight",
    entry: "rmsnorm_backward_weight",
    wgsl: WGSL,
    cuda: CUDA,
    workgroup: [32, 8, 1],
    buffers: &[read(0, "x"), read(3, "dy"), write(5, "scratch")],
    scalars: &[ScalarKind::U32; 4],
};

/// dweight from those sums.
pub static BACKWARD_WEIGHT_TOTAL: Kernel = Kernel {
    name: "rmsnorm_backward_weight_total",
    entry: "rmsnorm_backward_weight_total",
    wgsl: WGSL,
    cuda: CUDA,
    workgroup: [32, 8, 1],
    buffers: &[read(6, "scratch_in"), write(7, "dweight")],
    scalars: &[ScalarKind::U32; 4],
};

/// The shape and constants of an RMSNorm.
///
/// The norm of each head of q or k is this one too, with tokens times heads for `rows` and the head's values
/// for `dim`.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Rows of x: tokens.
    pub rows: usize,
    /// Columns of x: the width that is normalised.
    pub dim: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight: 1 where the file stores weight - 1 (Gemma), else 0.
    pub offset: f32,
}

impl RmsNorm {
    /// `y = x / sqrt(mean(x^2) + eps) * (offset + weight)`, row by row.
    ///
    /// `x`, `y`: `[rows, dim]` f32; `weight`: `[dim]` f32. `y` is assigned and is another buffer than `x`.
    pub fn forward<G: Gpu>(&self, gpu: &G, x: &G::Buffer, weight: &G::Buffer, y: &G::Buffer) -> Result<()> {
        let place = FORWARD.name;
        let Some((count, scalars)) = self.scalars(place)? else { return Ok(()) };
        check_size(place, "x", x, count, 4)?;
        check_size(place, "weight", weight, self.dim, 4)?;
        check_size(place, "y", y, count, 4)?;
        let (kernel, groups) = match self.dim {
            ..=SMALL => (&SMALL_FORWARD, self.rows.div_ceil(SMALL_ROWS)),
            _ => (&FORWARD, self.rows),
        };
        // SAFETY: either kernel touches rows * dim elements of x and y and dim of weight: checked above.
        unsafe { gpu.launch(kernel, &[x, weight, y], &scalars, fold(place, groups)?) }
    }

    /// `x += addend`, then `y` from `x` as in [`RmsNorm::forward`], with the bits that these two have one after the other.
    ///
    /// `x`, `addend`, `y`: `[rows, dim]` f32; `weight`: `[dim]` f32. `x` is added to, `y` is assigned; both are
    /// buffers of their own.
    pub fn add_forward<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        addend: &G::Buffer,
        weight: &G::Buffer,
        y: &G::Buffer,
    ) -> Result<()> {
        let place = ADD_FORWARD.name;
        let Some((count, scalars)) = self.scalars(place)? else { return Ok(()) };
        check_size(place, "x", x, count, 4)?;
        check_size(place, "addend", addend, count, 4)?;
        check_size(place, "weight", weight, self.dim, 4)?;
        check_size(place, "y", y, count, 4)?;
        let (kernel, groups) = match self.dim {
            ..=SMALL => (&SMALL_ADD_FORWARD, self.rows.div_ceil(SMALL_ROWS)),
            _ => (&ADD_FORWARD, self.rows),
        };
        // SAFETY: either kernel touches rows * dim elements of x, addend and y and dim of weight: checked above.
        unsafe { gpu.launch(kernel, &[x, addend, weight, y], &scalars, fold(place, groups)?) }
    }

    /// Bytes of `scratch` for the gradients: 1 / rms of each row, and the sums of at most 256 chunks of rows, `[dim]` each.
    pub fn scratch_bytes(&self) -> usize {
        let [_, chunks] = row_chunks(self.rows);
        chunks.saturating_mul(self.dim).saturating_add(self.rows).saturating_mul(4)
    }

    /// The gradients of [`RmsNorm::forward`]: `dx` is assigned or added to, as `write` says, and `dweight` is
    /// added to; `None` where the weights are frozen.
    ///
    /// `x`, `dy`, `dx`: `[rows, dim]` f32; `weight`, `dweight`: `[dim]` f32; `scratch`: [`RmsNorm::scratch_bytes`],
    /// overwritten. The three outputs are buffers of their own.
    #[allow(clippy::too_many_arguments)] // forward's arguments, then their gradients
    pub fn backward<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        weight: &G::Buffer,
        dy: &G::Buffer,
        dx: &G::Buffer,
        write: Write,
        dweight: Option<&G::Buffer>,
        scratch: &G::Buffer,
    ) -> Result<()> {
        let place = BACKWARD.name;
        let Some((count, scalars)) = self.scalars(place)? else { return Ok(()) };
        check_size(place, "dx", dx, count, 4)?;
        self.check_gradients(place, [x, weight, dy, scratch], dweight)?;
        let [rows, dim, eps, offset] = scalars;
        let with_write = [rows, dim, eps, offset, Scalar::U32(u32::from(write == Write::Add))];
        // SAFETY: the kernel touches rows * dim elements of x, dy and dx, dim of weight and rows of scratch: checked above.
        unsafe { gpu.launch(&BACKWARD, &[x, weight, dy, dx, scratch], &with_write, fold(place, self.rows)?)? }
        match dweight {
            Some(dweight) => self.sum_weight_gradient(gpu, x, dy, dweight, scratch),
            None => Ok(()),
        }
    }

    /// As [`RmsNorm::backward`], to the same bits, with dx written over dy: both are `gradient`.
    ///
    /// `x`, `gradient`: `[rows, dim]` f32; `weight`, `dweight`: `[dim]` f32; `scratch`: [`RmsNorm::scratch_bytes`],
    /// overwritten.
    pub fn backward_in_place<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        weight: &G::Buffer,
        gradient: &G::Buffer,
        dweight: Option<&G::Buffer>,
        scratch: &G::Buffer,
    ) -> Result<()> {
        let place = BACKWARD_IN_PLACE.name;
        let Some((_, scalars)) = self.scalars(place)? else { return Ok(()) };
        self.check_gradients(place, [x, weight, gradient, scratch], dweight)?;
        let groups = fold(place, self.rows)?;
        if let Some(dweight) = dweight {
            // SAFETY: the kernel touches rows * dim elements of x and rows of scratch: checked above.
            unsafe { gpu.launch(&BACKWARD_SCALES, &[x, scratch], &scalars, groups)? }
            self.sum_weight_gradient(gpu, x, gradient, dweight, scratch)?;
        }
        // SAFETY: the kernel touches rows * dim elements of x and gradient, and dim of weight: checked above.
        unsafe { gpu.launch(&BACKWARD_IN_PLACE, &[x, weight, gradient], &scalars, groups) }
    }

    /// Checks the sizes of what both ways backward take.
    fn check_gradients<B: DeviceBuffer>(
        &self,
        place: &'static str,
        [x, weight, dy, scratch]: [&B; 4],
        dweight: Option<&B>,
    ) -> Result<()> {
        let count = elements(place, self.rows, self.dim)?;
        for (name, buffer, count) in [("x", x, count), ("weight", weight, self.dim), ("dy", dy, count)] {
            check_size(place, name, buffer, count, 4)?;
        }
        check_size(place, "scratch", scratch, elements(place, self.scratch_bytes() / 4, 1)?, 4)?;
        dweight.map_or(Ok(()), |dweight| check_size(place, "dweight", dweight, self.dim, 4))
    }

    /// Adds to `dweight`, once 1 / rms of each row is in `scratch`. All sizes have been checked.
    fn sum_weight_gradient<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        dy: &G::Buffer,
        dweight: &G::Buffer,
        scratch: &G::Buffer,
    ) -> Result<()> {
        let place = BACKWARD_WEIGHT.name;
        let [chunk_rows, chunks] = row_chunks(self.rows);
        let scalars = [self.rows, self.dim, chunk_rows, chunks].map(|value| Scalar::U32(value as u32));
        let columns = self.dim.div_ceil(32);
        // SAFETY: the kernels touch rows * dim elements of x and dy, rows + chunks * dim of scratch and dim of dweight:
        // the callers checked them.
        unsafe {
            gpu.launch(&BACKWARD_WEIGHT, &[x, dy, scratch], &scalars, grid(place, columns, chunks)?)?;
            gpu.launch(&BACKWARD_WEIGHT_TOTAL, &[scratch, dweight], &scalars, grid(place, columns, 1)?)
        }
    }

    /// Elements of x, and the kernels' scalars; `None` when there is nothing to do.
    fn scalars(&self, place: &'static str) -> Result<Option<(usize, [Scalar; 4])>> {
        if self.rows == 0 || self.dim == 0 {
            return Ok(None);
        }
        let count = elements(place, self.rows, self.dim)?; // so rows and dim fit 32 bits too
        let scalars = [
            Scalar::U32(self.rows as u32),
            Scalar::U32(self.dim as u32),
            Scalar::F32(self.eps),
            Scalar::F32(self.offset),
        ];
        Ok(Some((count, scalars)))
    }
}
