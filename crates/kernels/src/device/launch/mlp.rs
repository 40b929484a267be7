//! The activations of the MLP on a GPU: kernels and launches. The formulas stand in `ops/mlp.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};
use crate::ops::mlp::Activation;

const WGSL: Option<Wgsl> =
    Wgsl::plain(&[include_str!("../../ops/elements.wgsl"), include_str!("../../ops/mlp.wgsl")]);
const SCALARS: &[ScalarKind] = &[ScalarKind::U32, ScalarKind::U32];

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&ACTIVATE, &ACTIVATE_BACKWARD, &GATED, &GATED_BACKWARD, &SOFT_CAP];

/// h from x.
pub static ACTIVATE: Kernel = Kernel {
    name: "mlp_activate",
    entry: "mlp_activate",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), write(1, "h")],
    scalars: SCALARS,
};

/// dx from dh.
pub static ACTIVATE_BACKWARD: Kernel = Kernel {
    name: "mlp_activate_backward",
    entry: "mlp_activate_backward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "x"), read(2, "dh"), write(3, "dx")],
    scalars: SCALARS,
};

/// h from gate and up.
pub static GATED: Kernel = Kernel {
    name: "mlp_gated",
    entry: "mlp_gated",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(4, "gate"), read(5, "up"), write(1, "h")],
    scalars: SCALARS,
};

/// dgate and dup from dh.
pub static GATED_BACKWARD: Kernel = Kernel {
    name: "mlp_gated_backward",
    entry: "mlp_gated_backward",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(4, "gate"), read(5, "up"), read(2, "dh"), write(6, "dgate"), write(7, "dup")],
    scalars: SCALARS,
};

/// Logits within ±cap, in place.
pub static SOFT_CAP: Kernel = Kernel {
    name: "mlp_soft_cap",
    entry: "mlp_soft_cap",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(8, "logits")],
    scalars: &[ScalarKind::U32, ScalarKind::F32],
};

/// The activation of an MLP, and how many values it is applied to. Every buffer holds `count` f32.
#[derive(Clone, Copy, Debug)]
pub struct Mlp {
    /// Rows times the width of the MLP.
    pub count: usize,
    /// Which one.
    pub activation: Activation,
}

impl Mlp {
    /// `h = activation(x)`: h is assigned and is another buffer than x.
    pub fn activate<G: Gpu>(&self, gpu: &G, x: &G::Buffer, h: &G::Buffer) -> Result<()> {
        self.launch(gpu, &ACTIVATE, &[x, h])
    }

    /// `dx = dh * activation'(x)`: dx is assigned and is a buffer of its own.
    pub fn activate_backward<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        dh: &G::Buffer,
        dx: &G::Buffer,
    ) -> Result<()> {
        self.launch(gpu, &ACTIVATE_BACKWARD, &[x, dh, dx])
    }

    /// `h = activation(gate) * up`: h is assigned and is a buffer of its own.
    pub fn gated<G: Gpu>(&self, gpu: &G, gate: &G::Buffer, up: &G::Buffer, h: &G::Buffer) -> Result<()> {
        self.launch(gpu, &GATED, &[gate, up, h])
    }

    /// `dgate = dh * up * activation'(gate)` and `dup = dh * activation(gate)`: both are assigned and are
    /// buffers of their own.
    pub fn gated_backward<G: Gpu>(
        &self,
        gpu: &G,
        gate: &G::Buffer,
        up: &G::Buffer,
        dh: &G::Buffer,
        dgate: &G::Buffer,
        dup: &G::Buffer,
    ) -> Result<()> {
        self.launch(gpu, &GATED_BACKWARD, &[gate, up, dh, dgate, dup])
    }

    fn launch<G: Gpu>(&self, gpu: &G, kernel: &'static Kernel, buffers: &[&G::Buffer]) -> Result<()> {
        let activation = match self.activation {
            Activation::Gelu => 0,
            Activation::Silu => 1,
        };
        // SAFETY: every kernel of an activation takes these scalars and touches `count` elements of each
        // buffer.
        unsafe { launch(gpu, kernel, buffers, self.count, Scalar::U32(activation)) }
    }
}

/// The cap of logits (Gemma 2).
#[derive(Clone, Copy, Debug)]
pub struct SoftCap {
    /// Logits.
    pub count: usize,
    /// What they stay below, above 0.
    pub cap: f32,
}

impl SoftCap {
    /// `logits = cap * tanh(logits / cap)`, in place: `count` f32.
    pub fn forward<G: Gpu>(&self, gpu: &G, logits: &G::Buffer) -> Result<()> {
        // SAFETY: the kernel takes these scalars and touches `count` elements of the buffer.
        unsafe { launch(gpu, &SOFT_CAP, &[logits], self.count, Scalar::F32(self.cap)) }
    }
}

/// Checks that each buffer holds `count` f32, and launches.
///
/// # Safety
/// The kernel takes `count` and `scalar`, and touches no more than `count` elements of each buffer.
unsafe fn launch<G: Gpu>(
    gpu: &G,
    kernel: &'static Kernel,
    buffers: &[&G::Buffer],
    count: usize,
    scalar: Scalar,
) -> Result<()> {
    let place = kernel.name;
    let count = elements(place, count, 1)?;
    for (binding, &buffer) in kernel.buffers.iter().zip(buffers) {
        check_size(place, binding.name, buffer, count, 4)?;
    }
    if count == 0 {
        return Ok(());
    }
    let groups = fold(place, count.div_ceil(256))?;
    // SAFETY: the caller's promise, and the sizes were checked.
    unsafe { gpu.launch(kernel, buffers, &[Scalar::U32(count as u32), scalar], groups) }
}
