//! AdamW on a GPU: kernels and launches. The formulas stand in `ops/adamw.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};
use crate::ops::adamw;

const WGSL: Option<Wgsl> =
    Wgsl::plain(&[include_str!("../../ops/elements.wgsl"), include_str!("../../ops/adamw.wgsl")]);
const SCALARS: &[ScalarKind] = &[
    ScalarKind::U32,
    ScalarKind::F32,
    ScalarKind::F32,
    ScalarKind::F32,
    ScalarKind::F32,
    ScalarKind::F32,
    ScalarKind::F32,
    ScalarKind::F32,
    ScalarKind::F32,
];

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&UPDATE];

/// New weights and moments.
pub static UPDATE: Kernel = Kernel {
    name: "adamw_update",
    entry: "adamw_update",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(0, "w"), read(1, "gradient"), write(2, "m"), write(3, "v")],
    scalars: SCALARS,
};

/// A step of AdamW over so many weights.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Weights.
    pub count: usize,
    /// The settings of the step.
    pub options: adamw::AdamW,
}

impl AdamW {
    /// Moves `w` by `gradient`, with the moments `m` and `v`: each `[count]` f32, all but the gradient overwritten with
    /// what is new, in buffers of their own.
    ///
    /// Panics in step 0.
    pub fn update<G: Gpu>(
        &self,
        gpu: &G,
        w: &G::Buffer,
        gradient: &G::Buffer,
        m: &G::Buffer,
        v: &G::Buffer,
    ) -> Result<()> {
        let place = UPDATE.name;
        let Some(scalars) = self.scalars(place)? else { return Ok(()) };
        for (name, buffer) in [("w", w), ("gradient", gradient), ("m", m), ("v", v)] {
            check_size(place, name, buffer, self.count, 4)?;
        }
        let groups = fold(place, self.count.div_ceil(256))?;
        // SAFETY: the kernel touches count elements of each buffer: checked above.
        unsafe { gpu.launch(&UPDATE, &[w, gradient, m, v], &scalars, groups) }
    }

    /// The kernels' scalars; `None` when there is nothing to do.
    fn scalars(&self, place: &'static str) -> Result<Option<[Scalar; 9]>> {
        assert!(self.options.step > 0, "steps are counted from 1");
        if self.count == 0 {
            return Ok(None);
        }
        let count = elements(place, self.count, 1)?;
        let terms = self.options.terms();
        Ok(Some([
            Scalar::U32(count as u32),
            Scalar::F32(terms.grad_scale),
            Scalar::F32(terms.fresh1),
            Scalar::F32(terms.beta2),
            Scalar::F32(terms.fresh2),
            Scalar::F32(terms.root),
            Scalar::F32(terms.eps),
            Scalar::F32(terms.lr),
            Scalar::F32(terms.keep),
        ]))
    }
}
