//! Dropout on a GPU: kernels and launches. The formulas stand in `ops/dropout.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};
use crate::ops::dropout;

const WGSL: Option<Wgsl> =
    Wgsl::plain(&[include_str!("../../ops/elements.wgsl"), include_str!("../../ops/dropout.wgsl")]);
const SCALARS: &[ScalarKind] =
    &[ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::F32];

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

/// out from x.
pub static FORWARD: Kernel = Kernel {
    name: "dropout_forward",
    entry: "dropout_forward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), write(1, "out")],
    scalars: SCALARS,
};

/// dx from dy.
pub static BACKWARD: Kernel = Kernel {
    name: "dropout_backward",
    entry: "dropout_backward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(2, "dy"), write(3, "dx")],
    scalars: SCALARS,
};

/// Dropout of a flat buffer. The same elements stay as on the CPU.
#[derive(Clone, Debug)]
pub struct Dropout {
    /// Elements.
    pub count: usize,
    /// What stays.
    pub draw: dropout::Dropout,
}

impl Dropout {
    /// `out = factor · x`. Both `[count]` f32; `out` is assigned and is another buffer than `x`.
    pub fn forward<G: Gpu>(&self, gpu: &G, x: &G::Buffer, out: &G::Buffer) -> Result<()> {
        self.launch(gpu, &FORWARD, [x, out])
    }

    /// `dx += factor · dy`. Both `[count]` f32, in buffers of their own.
    pub fn backward<G: Gpu>(&self, gpu: &G, dy: &G::Buffer, dx: &G::Buffer) -> Result<()> {
        self.launch(gpu, &BACKWARD, [dy, dx])
    }

    fn launch<G: Gpu>(&self, gpu: &G, kernel: &'static Kernel, buffers: [&G::Buffer; 2]) -> Result<()> {
        let place = kernel.name;
        if self.count == 0 {
            return Ok(());
        }
        let count = elements(place, self.count, 1)?;
        for (binding, buffer) in kernel.buffers.iter().zip(buffers) {
            check_size(place, binding.name, buffer, count, 4)?;
        }
        let (key, least, factor) = self.draw.terms();
        let scalars = [
            Scalar::U32(count as u32),
            Scalar::U32(key as u32),
            Scalar::U32((key >> 32) as u32),
            Scalar::U32(least),
            Scalar::F32(factor),
        ];
        let groups = fold(place, count.div_ceil(2).div_ceil(256))?;
        // SAFETY: the kernel touches count elements of each buffer: checked above.
        unsafe { gpu.launch(kernel, &buffers, &scalars, groups) }
    }
}
