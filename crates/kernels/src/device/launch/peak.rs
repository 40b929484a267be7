//! Multiply-adds on registers alone, on a GPU: kernel and launch. What it computes stands in `ops/peak.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&MULTIPLY_ADD];

/// y from x.
pub static MULTIPLY_ADD: Kernel = Kernel {
    name: "peak_multiply_add",
    entry: "peak_multiply_add",
    wgsl: Wgsl::plain(&[include_str!("../../ops/peak.wgsl")]),
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), write(1, "y")],
    scalars: &[ScalarKind::U32, ScalarKind::U32, ScalarKind::F32, ScalarKind::F32, ScalarKind::U32],
};

/// How much is computed.
#[derive(Clone, Copy, Debug)]
pub struct MultiplyAdd {
    /// Threads, each with 32 values.
    pub count: usize,
    /// Multiply-adds of each value.
    pub rounds: u32,
    /// Factor.
    pub a: f32,
    /// Addend.
    pub b: f32,
}

impl MultiplyAdd {
    /// Operations of [`MultiplyAdd::run`]: a multiply-add is two.
    pub fn operations(&self) -> f64 {
        self.count as f64 * f64::from(self.rounds) * 64.0
    }

    /// `x`, `y`: `[count]` f32; `y` is assigned.
    ///
    /// # Errors
    /// Buffers that are too small; what the device meets.
    pub fn run<G: Gpu>(&self, gpu: &G, x: &G::Buffer, y: &G::Buffer) -> Result<()> {
        let place = MULTIPLY_ADD.name;
        let count = elements(place, self.count, 1)?;
        check_size(place, "x", x, count, 4)?;
        check_size(place, "y", y, count, 4)?;
        let groups = fold(place, count.div_ceil(256))?;
        let scalars = [
            Scalar::U32(count as u32),
            Scalar::U32(self.rounds),
            Scalar::F32(self.a),
            Scalar::F32(self.b),
            Scalar::U32(groups[0]),
        ];
        // SAFETY: the kernel touches count elements of x and y: checked above.
        unsafe { gpu.launch(&MULTIPLY_ADD, &[x, y], &scalars, groups) }
    }
}
