//! Gradient descent on a GPU: kernels and launches. The formulas stand in `ops/sgd.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Error, Gpu, Kernel, Result, Scalar, ScalarKind, read, write};
use crate::ops::sgd::{self, Momentum};

const WGSL: Option<&str> = Some(concat!(
    include_str!("../../ops/elements.wgsl"),
    include_str!("../../ops/to_bf16.wgsl"),
    include_str!("../../ops/sgd.wgsl")
));
const SCALARS: &[ScalarKind] =
    &[ScalarKind::U32, ScalarKind::U32, ScalarKind::F32, ScalarKind::F32, ScalarKind::F32, ScalarKind::F32];

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&UPDATE, &UPDATE_MOMENTUM, &UPDATE_BF16, &UPDATE_MOMENTUM_BF16];

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

/// New weights, without momentum, and in bf16 too.
pub static UPDATE_BF16: Kernel = Kernel {
    name: "sgd_update_bf16",
    entry: "sgd_update_bf16",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(0, "w"), read(1, "gradient"), write(3, "rounded")],
    scalars: SCALARS,
};

/// New weights and momentum, and the weights in bf16 too.
pub static UPDATE_MOMENTUM_BF16: Kernel = Kernel {
    name: "sgd_update_momentum_bf16",
    entry: "sgd_update_momentum_bf16",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(0, "w"), read(1, "gradient"), write(2, "m"), write(3, "rounded")],
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
    ///
    /// `rounded`, if given, is assigned the new weights in bf16, rounded to nearest and ties to even: `[half of count,
    /// rounded up]` words of two neighbours, the first in the lower half. An odd count's last half is 0.
    pub fn update<G: Gpu>(
        &self,
        gpu: &G,
        w: &G::Buffer,
        gradient: &G::Buffer,
        m: Option<&G::Buffer>,
        rounded: Option<&G::Buffer>,
    ) -> Result<()> {
        let kernel = match (m.is_some(), rounded.is_some()) {
            (false, false) => &UPDATE,
            (true, false) => &UPDATE_MOMENTUM,
            (false, true) => &UPDATE_BF16,
            (true, true) => &UPDATE_MOMENTUM_BF16,
        };
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
        let words = count.div_ceil(2);
        let mut buffers = vec![w, gradient];
        check_size(place, "w", w, count, 4)?;
        check_size(place, "gradient", gradient, count, 4)?;
        if let Some(m) = m {
            check_size(place, "m", m, count, 4)?;
            buffers.push(m);
        }
        if let Some(rounded) = rounded {
            check_size(place, "rounded", rounded, words, 4)?;
            buffers.push(rounded);
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
        let threads = if rounded.is_some() { words } else { count };
        let groups = fold(place, threads.div_ceil(256))?;
        // SAFETY: the kernel touches count elements of w, gradient and m, and half as many words of rounded: checked
        // above.
        unsafe { gpu.launch(kernel, &buffers, &scalars, groups) }
    }
}
