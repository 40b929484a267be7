//! Gradient descent on a GPU: kernels and launches. The formulas stand in `ops/sgd.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Error, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};
use crate::ops::sgd::{self, Momentum};

const WGSL: Option<Wgsl> =
    Wgsl::plain(&[include_str!("../../ops/elements.wgsl"), include_str!("../../ops/sgd.wgsl")]);
const SCALARS: &[ScalarKind] =
    &[ScalarKind::U32, ScalarKind::U32, ScalarKind::F32, ScalarKind::F32, ScalarKind::F32, ScalarKind::F32];

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&UPDATE, &UPDATE_MOMENTUM];

/// New weights, without momentum.
pub static UPDATE: Kernel = Kernel {
    name: "sgd_update",
    entry: "sgd_update",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(0, "w"), read(1, "gradient")],
    scalars: SCALARS,
};

/// New weights and momentum.
pub static UPDATE_MOMENTUM: Kernel = Kernel {
    name: "sgd_update_momentum",
    entry: "sgd_update_momentum",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(0, "w"), read(1, "gradient"), write(2, "m")],
    scalars: SCALARS,
};

/// A step of gradient descent over so many weights.
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    /// Weights.
    pub count: usize,
    /// The settings of the step.
    pub options: sgd::Sgd,
}

impl Sgd {
    /// Moves `w` by `gradient`, with the momentum `m` if the options have one: each `[count]` f32, `w` and `m`
    /// overwritten with what is new, in buffers of their own.
    pub fn update<G: Gpu>(
        &self,
        gpu: &G,
        w: &G::Buffer,
        gradient: &G::Buffer,
        m: Option<&G::Buffer>,
    ) -> Result<()> {
        let kernel = if m.is_some() { &UPDATE_MOMENTUM } else { &UPDATE };
        let place = kernel.name;
        if m.is_some() != self.options.momentum.is_some() {
            return Err(Error::Argument {
                place,
                what: "m".into(),
                expected: format!(
                    "a buffer if and only if there is momentum, here {:?}",
                    self.options.momentum
                ),
                found: if m.is_some() { "a buffer" } else { "none" }.into(),
            });
        }
        if self.count == 0 {
            return Ok(());
        }
        let count = elements(place, self.count, 1)?;
        let mut buffers = vec![w, gradient];
        check_size(place, "w", w, count, 4)?;
        check_size(place, "gradient", gradient, count, 4)?;
        if let Some(m) = m {
            check_size(place, "m", m, count, 4)?;
            buffers.push(m);
        }
        let (nesterov, keep) = match self.options.momentum {
            None => (0, 0.0),
            Some(Momentum::HeavyBall(keep)) => (0, keep),
            Some(Momentum::Nesterov(keep)) => (1, keep),
        };
        let scalars = [
            Scalar::U32(count as u32),
            Scalar::U32(nesterov),
            Scalar::F32(self.options.lr as f32),
            Scalar::F32(keep as f32),
            Scalar::F32(self.options.weight_decay as f32),
            Scalar::F32(self.options.grad_scale),
        ];
        let groups = fold(place, count.div_ceil(256))?;
        // SAFETY: the kernel touches count elements of w, gradient and m: checked above.
        unsafe { gpu.launch(kernel, &buffers, &scalars, groups) }
    }
}
