//! DoRA on a GPU: kernels and launches. The formulas stand in `ops/dora.wgsl`.

use super::{check_size, elements, fold, grid};
use crate::device::gpu::{Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};
use crate::ops::Write;

const WGSL: Option<Wgsl> =
    Wgsl::plain(&[include_str!("../../ops/elements.wgsl"), include_str!("../../ops/dora.wgsl")]);
const SCALARS: &[ScalarKind] = &[ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::U32];

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&GAINS, &FORWARD, &BACKWARD, &MAGNITUDE_GRADIENT];

/// Gains from magnitudes and lengths.
pub static GAINS: Kernel = Kernel {
    name: "dora_gains",
    entry: "dora_gains",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "m"), read(1, "lengths"), write(2, "gains_out")],
    scalars: SCALARS,
};

/// y with its gains.
pub static FORWARD: Kernel = Kernel {
    name: "dora_forward",
    entry: "dora_forward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(3, "gains"), read(4, "bias"), write(5, "y")],
    scalars: SCALARS,
};

/// dv from dy.
pub static BACKWARD: Kernel = Kernel {
    name: "dora_backward",
    entry: "dora_backward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(3, "gains"), read(6, "dy"), write(7, "dv")],
    scalars: SCALARS,
};

/// dm from dy.
pub static MAGNITUDE_GRADIENT: Kernel = Kernel {
    name: "dora_magnitude_gradient",
    entry: "dora_magnitude_gradient",
    wgsl: WGSL,
    cuda: None,
    workgroup: [32, 8, 1],
    buffers: &[read(1, "lengths"), read(6, "dy"), read(8, "v"), write(9, "dm")],
    scalars: SCALARS,
};

/// The shape of what a linear layer gives.
#[derive(Clone, Copy, Debug)]
pub struct Dora {
    /// Rows: tokens.
    pub rows: usize,
    /// Outputs.
    pub n: usize,
}

impl Dora {
    /// `gains = m / lengths`, each `[n]` f32. `gains` is assigned, and is a buffer of its own.
    pub fn gains<G: Gpu>(
        &self,
        gpu: &G,
        m: &G::Buffer,
        lengths: &G::Buffer,
        gains: &G::Buffer,
    ) -> Result<()> {
        let place = GAINS.name;
        if self.n == 0 {
            return Ok(());
        }
        elements(place, self.n, 1)?;
        for (name, buffer) in [("m", m), ("lengths", lengths), ("gains", gains)] {
            check_size(place, name, buffer, self.n, 4)?;
        }
        let scalars = [Scalar::U32(1), Scalar::U32(self.n as u32), Scalar::U32(0), Scalar::U32(0)];
        let groups = fold(place, self.n.div_ceil(256))?;
        // SAFETY: the kernel touches n elements of each buffer: checked above.
        unsafe { gpu.launch(&GAINS, &[m, lengths, gains], &scalars, groups) }
    }

    /// `y = gains · (y - bias) + bias`, in place: y is what the product with LoRA has given.
    ///
    /// `y`: `[rows, n]` f32; `gains`, `bias`: `[n]` f32.
    pub fn forward<G: Gpu>(
        &self,
        gpu: &G,
        gains: &G::Buffer,
        bias: Option<&G::Buffer>,
        y: &G::Buffer,
    ) -> Result<()> {
        let place = FORWARD.name;
        let Some((count, scalars)) = self.scalars(place, bias.is_some(), Write::Set)? else { return Ok(()) };
        check_size(place, "gains", gains, self.n, 4)?;
        if let Some(bias) = bias {
            check_size(place, "bias", bias, self.n, 4)?;
        }
        check_size(place, "y", y, count, 4)?;
        let groups = fold(place, count.div_ceil(256))?;
        // Without a bias the kernel reads none, and something must stand there.
        // SAFETY: the kernel touches rows * n elements of y and n of gains and bias: checked above.
        unsafe { gpu.launch(&FORWARD, &[gains, bias.unwrap_or(gains), y], &scalars, groups) }
    }

    /// `dv = gains · dy`.
    ///
    /// `dy`, `dv`: `[rows, n]` f32; `gains`: `[n]` f32. `dv` is assigned and is another buffer than `dy`.
    pub fn backward<G: Gpu>(&self, gpu: &G, gains: &G::Buffer, dy: &G::Buffer, dv: &G::Buffer) -> Result<()> {
        let place = BACKWARD.name;
        let Some((count, scalars)) = self.scalars(place, false, Write::Set)? else { return Ok(()) };
        check_size(place, "gains", gains, self.n, 4)?;
        check_size(place, "dy", dy, count, 4)?;
        check_size(place, "dv", dv, count, 4)?;
        let groups = fold(place, count.div_ceil(256))?;
        // SAFETY: the kernel touches rows * n elements of dy and dv and n of gains: checked above.
        unsafe { gpu.launch(&BACKWARD, &[gains, dy, dv], &scalars, groups) }
    }

    /// `dm = sum over rows of dy · v / lengths`, assigned or added to as `write` says.
    ///
    /// `dy`, `v`: `[rows, n]` f32, v without the bias and before its gain; `lengths`, `dm`: `[n]` f32. `dm` is a buffer
    /// of its own. Without rows a `dm` that is assigned becomes zeros.
    pub fn magnitude_gradient<G: Gpu>(
        &self,
        gpu: &G,
        lengths: &G::Buffer,
        [dy, v]: [&G::Buffer; 2],
        dm: &G::Buffer,
        write: Write,
    ) -> Result<()> {
        let place = MAGNITUDE_GRADIENT.name;
        check_size(place, "lengths", lengths, self.n, 4)?;
        check_size(place, "dm", dm, self.n, 4)?;
        let Some((count, scalars)) = self.scalars(place, false, write)? else {
            return match write {
                Write::Set => gpu.upload(dm, 0, &vec![0; 4 * self.n]),
                Write::Add => Ok(()),
            };
        };
        check_size(place, "dy", dy, count, 4)?;
        check_size(place, "v", v, count, 4)?;
        let columns = grid(place, self.n.div_ceil(32), 1)?;
        // SAFETY: the kernel touches rows * n elements of dy and v and n of lengths and dm: checked above.
        unsafe { gpu.launch(&MAGNITUDE_GRADIENT, &[lengths, dy, v, dm], &scalars, columns) }
    }

    /// Elements of y, and the kernels' scalars; `None` when there are none.
    fn scalars(
        &self,
        place: &'static str,
        has_bias: bool,
        write: Write,
    ) -> Result<Option<(usize, [Scalar; 4])>> {
        if self.rows == 0 || self.n == 0 {
            return Ok(None);
        }
        let count = elements(place, self.rows, self.n)?;
        let adds = match write {
            Write::Set => 0,
            Write::Add => 1,
        };
        let scalars = [
            Scalar::U32(self.rows as u32),
            Scalar::U32(self.n as u32),
            Scalar::U32(u32::from(has_bias)),
            Scalar::U32(adds),
        ];
        Ok(Some((count, scalars)))
    }
}
