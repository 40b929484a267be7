//! The size of gradients on a GPU: kernels and launches. How they sum stands in `ops/grad_norm.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{DeviceBuffer, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};

const WGSL: Option<Wgsl> = Wgsl::plain(&[
    include_str!("../../ops/elements.wgsl"),
    include_str!("../../ops/pairs.wgsl"),
    include_str!("../../ops/grad_norm.wgsl"),
]);
const SCALARS: &[ScalarKind] =
    &[ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::U32, ScalarKind::F32];

/// Elements of a workgroup.
const BLOCK: usize = 1 << 14;
/// Words of a sum of squares: three pairs of floats and two counts.
const SUM_WORDS: usize = 8;

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&SUM_OF_SQUARES, &SUM_OF_SQUARES_TOTAL, &SCALE];

/// Sums of squares of blocks.
pub static SUM_OF_SQUARES: Kernel = Kernel {
    name: "grad_norm_sum_of_squares",
    entry: "grad_norm_sum_of_squares",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "bits"), write(1, "squares_of_blocks")],
    scalars: SCALARS,
};

/// Their sum.
pub static SUM_OF_SQUARES_TOTAL: Kernel = Kernel {
    name: "grad_norm_sum_of_squares_total",
    entry: "grad_norm_sum_of_squares_total",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(2, "squares_in"), write(3, "squares")],
    scalars: SCALARS,
};

/// A factor on each element.
pub static SCALE: Kernel = Kernel {
    name: "grad_norm_scale",
    entry: "grad_norm_scale",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(4, "x")],
    scalars: SCALARS,
};

/// A sum of squares, as the device writes it: 8 words of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SumOfSquares {
    /// Its words.
    pub words: [u32; 8],
}

impl SumOfSquares {
    /// Its value: NaN if an element is NaN, infinite if one is infinite and none NaN, and 0 exactly if all are 0.
    pub fn value(&self) -> f64 {
        let [small, small_low, middle, middle_low, large, large_low, nans, infinities] = self.words;
        if nans > 0 {
            return f64::NAN;
        }
        if infinities > 0 {
            return f64::INFINITY;
        }
        let pair = |high, low| f64::from(f32::from_bits(high)) + f64::from(f32::from_bits(low));
        // The kernel multiplied small elements with 2^88 and large ones with 2^-84.
        pair(small, small_low) * 2f64.powi(-176)
            + pair(middle, middle_low)
            + pair(large, large_low) * 2f64.powi(168)
    }
}

/// A flat buffer of so many elements.
#[derive(Clone, Copy, Debug)]
pub struct GradNorm {
    /// Elements.
    pub count: usize,
}

impl GradNorm {
    /// Bytes of `scratch` for [`GradNorm::sum_of_squares`].
    pub fn scratch_bytes(&self) -> usize {
        self.count.div_ceil(BLOCK).saturating_mul(4 * SUM_WORDS)
    }

    /// `sum of x²`, assigned to one slot of `sums`, which [`sums_of_squares`] reads: so the sums of many tensors come
    /// to the host together, and are added there, always in one order.
    ///
    /// `x`: `[count]` f32; `scratch`: [`GradNorm::scratch_bytes`], overwritten; `sums`: `[more than slot, 8]` u32. They
    /// are buffers of their own.
    pub fn sum_of_squares<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        scratch: &G::Buffer,
        sums: &G::Buffer,
        slot: usize,
    ) -> Result<()> {
        let place = SUM_OF_SQUARES.name;
        let words = elements(place, slot.saturating_add(1), SUM_WORDS)?;
        check_size(place, "slots", sums, words, 4)?;
        if self.count == 0 {
            return gpu.upload(sums, 4 * slot * SUM_WORDS, &[0; 4 * SUM_WORDS]);
        }
        let count = elements(place, self.count, 1)?;
        let blocks = count.div_ceil(BLOCK);
        check_size(place, "x", x, count, 4)?;
        check_size(place, "scratch", scratch, blocks * SUM_WORDS, 4)?;
        let scalars = self.scalars(slot, 1.0);
        // SAFETY: the kernels touch count elements of x, and SUM_WORDS words of each block in scratch and of the slot in
        // sums: checked above.
        unsafe {
            gpu.launch(&SUM_OF_SQUARES, &[x, scratch], &scalars, fold(place, blocks)?)?;
            gpu.launch(&SUM_OF_SQUARES_TOTAL, &[scratch, sums], &scalars, [1, 1, 1])
        }
    }

    /// `x = factor · x`, in place. `x`: `[count]` f32.
    pub fn scale<G: Gpu>(&self, gpu: &G, x: &G::Buffer, factor: f32) -> Result<()> {
        let place = SCALE.name;
        if self.count == 0 {
            return Ok(());
        }
        let count = elements(place, self.count, 1)?;
        check_size(place, "x", x, count, 4)?;
        let groups = fold(place, count.div_ceil(256))?;
        // SAFETY: the kernel touches count elements of x: checked above.
        unsafe { gpu.launch(&SCALE, &[x], &self.scalars(0, factor), groups) }
    }

    /// The kernels' scalars, for a count and a slot that fit 32 bits.
    fn scalars(&self, slot: usize, factor: f32) -> [Scalar; 5] {
        [
            Scalar::U32(self.count as u32),
            Scalar::U32(self.count.div_ceil(BLOCK) as u32),
            Scalar::U32(slot as u32),
            Scalar::U32(0),
            Scalar::F32(factor),
        ]
    }
}

/// Every slot of a buffer that [`GradNorm::sum_of_squares`] wrote to.
pub fn sums_of_squares<G: Gpu>(gpu: &G, sums: &G::Buffer) -> Result<Vec<SumOfSquares>> {
    let mut bytes = vec![0; sums.bytes()];
    gpu.download(sums, 0, &mut bytes)?;
    let words: Vec<u32> = bytes.as_chunks().0.iter().map(|&word| u32::from_ne_bytes(word)).collect();
    Ok(words.as_chunks().0.iter().map(|&words| SumOfSquares { words }).collect())
}
