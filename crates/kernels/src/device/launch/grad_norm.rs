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
/// Words of a check: two counts.
const FAULT_WORDS: usize = 2;

/// The kernels.
pub static KERNELS: &[&Kernel] =
    &[&SUM_OF_SQUARES, &SUM_OF_SQUARES_TOTAL, &CHECK_FINITE, &CHECK_FINITE_TOTAL, &SCALE];

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

/// Numbers of NaN and of infinities of blocks.
pub static CHECK_FINITE: Kernel = Kernel {
    name: "grad_norm_check_finite",
    entry: "grad_norm_check_finite",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(0, "bits"), write(4, "faults_of_blocks")],
    scalars: SCALARS,
};

/// Their sums.
pub static CHECK_FINITE_TOTAL: Kernel = Kernel {
    name: "grad_norm_check_finite_total",
    entry: "grad_norm_check_finite_total",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[read(5, "faults_in"), write(6, "faults")],
    scalars: SCALARS,
};

/// A factor on each element.
pub static SCALE: Kernel = Kernel {
    name: "grad_norm_scale",
    entry: "grad_norm_scale",
    wgsl: WGSL,
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(7, "x")],
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

/// How many elements are not numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// NaN, of either sign.
    pub nans: u32,
    /// Infinities, of either sign.
    pub infinities: u32,
}

/// A flat buffer of so many elements.
#[derive(Clone, Copy, Debug)]
pub struct GradNorm {
    /// Elements.
    pub count: usize,
}

impl GradNorm {
    /// Bytes of `scratch` for [`GradNorm::sum_of_squares`] and [`GradNorm::check_finite`].
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
        self.two_stages(gpu, [&SUM_OF_SQUARES, &SUM_OF_SQUARES_TOTAL], SUM_WORDS, [x, scratch, sums], slot)
    }

    /// How many elements are NaN or infinite, assigned to one slot of `faults`, which [`all_faults`] reads. A sum of
    /// squares tells the same; this is for what needs no sum.
    ///
    /// `x`: `[count]` f32; `scratch`: [`GradNorm::scratch_bytes`], overwritten; `faults`: `[more than slot, 2]` u32.
    /// They are buffers of their own.
    pub fn check_finite<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        scratch: &G::Buffer,
        faults: &G::Buffer,
        slot: usize,
    ) -> Result<()> {
        self.two_stages(gpu, [&CHECK_FINITE, &CHECK_FINITE_TOTAL], FAULT_WORDS, [x, scratch, faults], slot)
    }

    fn two_stages<G: Gpu>(
        &self,
        gpu: &G,
        [of_blocks, total]: [&'static Kernel; 2],
        words: usize,
        [x, scratch, out]: [&G::Buffer; 3],
        slot: usize,
    ) -> Result<()> {
        let place = of_blocks.name;
        check_size(place, "slots", out, elements(place, slot.saturating_add(1), words)?, 4)?;
        if self.count == 0 {
            return gpu.upload(out, 4 * slot * words, &[0; 4 * SUM_WORDS][..4 * words]);
        }
        let count = elements(place, self.count, 1)?;
        let blocks = count.div_ceil(BLOCK);
        check_size(place, "x", x, count, 4)?;
        check_size(place, "scratch", scratch, blocks * words, 4)?;
        let scalars = self.scalars(slot, 1.0);
        // SAFETY: the kernels touch count elements of x, and `words` words of each block in scratch and of the slot in
        // out: checked above.
        unsafe {
            gpu.launch(of_blocks, &[x, scratch], &scalars, fold(place, blocks)?)?;
            gpu.launch(total, &[scratch, out], &scalars, [1, 1, 1])
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
    let words = download(gpu, sums)?;
    Ok(words.as_chunks().0.iter().map(|&words| SumOfSquares { words }).collect())
}

/// Every slot of a buffer that [`GradNorm::check_finite`] wrote to.
pub fn all_faults<G: Gpu>(gpu: &G, faults: &G::Buffer) -> Result<Vec<Faults>> {
    let words = download(gpu, faults)?;
    Ok(words.as_chunks().0.iter().map(|&[nans, infinities]| Faults { nans, infinities }).collect())
}

fn download<G: Gpu>(gpu: &G, buffer: &G::Buffer) -> Result<Vec<u32>> {
    let mut bytes = vec![0; buffer.bytes()];
    gpu.download(buffer, 0, &mut bytes)?;
    Ok(bytes.as_chunks().0.iter().map(|&word| u32::from_ne_bytes(word)).collect())
}
