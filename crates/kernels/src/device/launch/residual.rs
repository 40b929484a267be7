//! The residual stream on a GPU: kernel and launch. The formula stands in `ops/residual.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&ADD];

/// x from x and y.
pub static ADD: Kernel = Kernel {
    name: "residual_add",
    entry: "residual_add",
    wgsl: Wgsl::plain(&[include_str!("../../ops/elements.wgsl"), include_str!("../../ops/residual.wgsl")]),
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(0, "x"), read(1, "y")],
    scalars: &[ScalarKind::U32],
};

/// The shape of a sum.
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// Elements of x.
    pub count: usize,
}

impl Residual {
    /// `x += y`: two buffers of `count` f32.
    pub fn add<G: Gpu>(&self, gpu: &G, x: &G::Buffer, y: &G::Buffer) -> Result<()> {
        let place = ADD.name;
        let count = elements(place, self.count, 1)?;
        check_size(place, "x", x, count, 4)?;
        check_size(place, "y", y, count, 4)?;
        if count == 0 {
            return Ok(());
        }
        let groups = fold(place, count.div_ceil(256))?;
        // SAFETY: the kernel touches `count` elements of x and y: checked above.
        unsafe { gpu.launch(&ADD, &[x, y], &[Scalar::U32(count as u32)], groups) }
    }
}
