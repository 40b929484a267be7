//! Rounding f32 weights to the type of others on a GPU: kernels and launches. How stands in `ops/matmul/round.wgsl`.

use super::packed::{PackedMatrix, check_kind};
use super::{check_size, fold, moves};
use crate::DType;
use crate::device::gpu::{
    Binding, DeviceBuffer, Error, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write,
};
use crate::panels::LANES;

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&TO_BF16, &TO_F16];

const BUFFERS: &[Binding] = &[read(0, "source"), write(1, "rounded")];

const fn kernel(name: &'static str) -> Kernel {
    Kernel {
        name,
        entry: name,
        wgsl: Wgsl::plain(&[
            include_str!("../../ops/elements.wgsl"),
            include_str!("../../ops/matmul/round.wgsl"),
        ]),
        cuda: None,
        workgroup: [256, 1, 1],
        buffers: BUFFERS,
        scalars: &[ScalarKind::U32; 2],
    }
}

/// Panels of bf16 from panels of f32.
pub static TO_BF16: Kernel = kernel("round_to_bf16");

/// Panels of f16 from panels of f32.
pub static TO_F16: Kernel = kernel("round_to_f16");

impl<B: DeviceBuffer> PackedMatrix<B> {
    /// Takes the values of a matrix of f32 of the same shape, rounded to this matrix' type: f32, bf16 or f16. To nearest,
    /// ties to even; what is too large becomes infinite, NaN stays NaN. `source` is another matrix.
    ///
    /// The bits are those of [`crate::Matrix::set`], but where a CPU takes f32 below 2^-126 for 0.
    ///
    /// # Errors
    /// Matrices of other types, of different shapes, or cut differently; what [`Gpu::launch`] meets.
    pub fn round_from<G: Gpu<Buffer = B>>(&self, gpu: &G, source: &PackedMatrix<B>) -> Result<()> {
        let place = "round";
        check_kind(place, "source", (DType::F32, [self.rows(), self.cols()]), source.kind())?;
        let fail = |what: &str, expected: &str, found: String| {
            Err(Error::Argument { place, what: what.into(), expected: expected.into(), found })
        };
        let kernel = match self.dtype() {
            DType::F32 => None,
            DType::BF16 => Some(&TO_BF16),
            DType::F16 => Some(&TO_F16),
            other => return fail("matrix", "f32, f16 or bf16", other.to_string()),
        };
        let panels = |matrix: &PackedMatrix<B>| -> Vec<_> {
            matrix.parts().iter().map(|(panels, _)| panels.clone()).collect()
        };
        if panels(self) != panels(source) {
            return fail("source", &format!("parts {:?}", panels(self)), format!("{:?}", panels(source)));
        }
        for ((panels, to), (_, from)) in self.parts().iter().zip(source.parts()) {
            let words = to.bytes() / 4;
            let Some(kernel) = kernel.filter(|_| words > 0) else {
                moves::copy(gpu, from, 0, to, 0, words)?;
                continue;
            };
            check_size(place, "source", from, panels.len() * LANES * self.cols(), 4)?;
            let scalars = [Scalar::U32(words as u32), Scalar::U32(self.cols() as u32)];
            // SAFETY: the kernel writes all words of this part, and reads as many panels of f32: checked above.
            unsafe { gpu.launch(kernel, &[from, to], &scalars, fold(place, words.div_ceil(256))?)? }
        }
        Ok(())
    }
}
