//! Rotary position embedding on a GPU: kernel and launches. The formulas stand in `ops/rope.wgsl`.

use super::{check_size, elements, fold};
use crate::device::gpu::{Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&ROPE];

/// q and k turned in place, by the angles or back.
pub static ROPE: Kernel = Kernel {
    name: "rope",
    entry: "rope",
    wgsl: Wgsl::plain(&[include_str!("../../ops/rope.wgsl")]),
    cuda: None,
    workgroup: [256, 1, 1],
    buffers: &[write(0, "q"), write(1, "k"), read(2, "cos_table"), read(3, "sin_table")],
    scalars: &[ScalarKind::U32; 5],
};

/// The shapes of q and k.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Rows of q and k: tokens.
    pub rows: usize,
    /// Heads of q.
    pub q_heads: usize,
    /// Heads of k.
    pub k_heads: usize,
    /// Half the values of a head: D/2, the pairs.
    pub half: usize,
}

impl Rope {
    /// Turns `q` `[rows, q_heads * D]` and `k` `[rows, k_heads * D]`, f32, in place, row r by the angles of row
    /// r: `cos` and `sin` `[rows, D/2]`. q and k are buffers of their own, even where one has no heads.
    pub fn forward<G: Gpu>(
        &self,
        gpu: &G,
        q: &G::Buffer,
        k: &G::Buffer,
        cos: &G::Buffer,
        sin: &G::Buffer,
    ) -> Result<()> {
        self.turn(gpu, [q, k, cos, sin], 0)
    }

    /// Makes the gradients of [`Rope::forward`]'s inputs of those of its results, in place: turns `dq` and `dk`
    /// back.
    pub fn backward<G: Gpu>(
        &self,
        gpu: &G,
        dq: &G::Buffer,
        dk: &G::Buffer,
        cos: &G::Buffer,
        sin: &G::Buffer,
    ) -> Result<()> {
        self.turn(gpu, [dq, dk, cos, sin], 1)
    }

    fn turn<G: Gpu>(&self, gpu: &G, buffers: [&G::Buffer; 4], back: u32) -> Result<()> {
        let place = ROPE.name;
        let [q, k, cos, sin] = buffers;
        let dim = elements(place, self.half, 2)?;
        let [q_width, k_width] = [elements(place, self.q_heads, dim)?, elements(place, self.k_heads, dim)?];
        // Both together fit 32 bits, so that the pairs of both can be counted.
        let all = elements(place, self.rows, q_width + k_width)?;
        check_size(place, "q", q, self.rows * q_width, 4)?;
        check_size(place, "k", k, self.rows * k_width, 4)?;
        check_size(place, "cos", cos, elements(place, self.rows, self.half)?, 4)?;
        check_size(place, "sin", sin, self.rows * self.half, 4)?;
        if all == 0 {
            return Ok(());
        }
        let scalars = [self.rows, self.q_heads, self.k_heads, self.half]; // factors of what fits 32 bits
        let [rows, q_heads, k_heads, half] = scalars.map(|value| Scalar::U32(value as u32));
        let groups = fold(place, (all / 2).div_ceil(256))?;
        // SAFETY: the kernel touches rows * q_heads * D elements of q, rows * k_heads * D of k and rows * D/2 of
        // cos and sin: checked above.
        unsafe {
            gpu.launch(&ROPE, &[q, k, cos, sin], &[rows, q_heads, k_heads, half, Scalar::U32(back)], groups)
        }
    }
}
