//! The products of a linear layer on a GPU: kernels and launches. The formulas stand in `ops/matmul.wgsl`.

use super::{check_size, elements, grid};
use crate::device::gpu::{Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};
use crate::ops::Write;

const WGSL: Option<Wgsl> = Wgsl::plain(&[include_str!("../../ops/matmul.wgsl")]);
const CUDA: Option<&str> = Some(include_str!("../../ops/matmul.cu"));

/// Rows and columns of the outputs that a workgroup makes.
const TILE: usize = 64;

/// The kernels.
pub static KERNELS: &[&Kernel] = &[&MATMUL, &BACKWARD_BIAS, &MATMUL_BF16];

/// All three products of a linear layer, told apart by strides.
pub static MATMUL: Kernel = Kernel {
    name: "matmul",
    entry: "matmul",
    wgsl: WGSL,
    cuda: CUDA,
    workgroup: [16, 16, 1],
    buffers: &[read(0, "a"), read(1, "b"), read(2, "bias"), write(3, "out")],
    scalars: &[ScalarKind::U32; 9],
};

/// dbias from dy.
pub static BACKWARD_BIAS: Kernel = Kernel {
    name: "matmul_backward_bias",
    entry: "matmul_backward_bias",
    wgsl: WGSL,
    cuda: CUDA,
    workgroup: [32, 8, 1],
    buffers: &[read(4, "dy"), write(5, "dbias")],
    scalars: &[ScalarKind::U32; 3],
};

/// The forward product in bf16 on tensor cores; CUDA only: WGSL has neither the type nor the instruction.
pub static MATMUL_BF16: Kernel = Kernel {
    name: "matmul_bf16",
    entry: "matmul_bf16",
    wgsl: None,
    cuda: CUDA,
    workgroup: [128, 1, 1],
    buffers: &[read(0, "x"), read(1, "w"), read(2, "bias"), write(3, "y")],
    scalars: &[ScalarKind::U32; 4],
};

/// The shape of a linear layer: x `[m, k]`, w `[n, k]`, y `[m, n]`.
#[derive(Clone, Copy, Debug)]
pub struct MatMul {
    /// Rows of x and y: tokens.
    pub m: usize,
    /// Rows of w, columns of y: output channels.
    pub n: usize,
    /// Columns of x and w: input channels.
    pub k: usize,
}

/// One use of the kernel [`MATMUL`]: `out[i,j] = sum over p of a[i*a_row + p*a_depth] b[j*b_row +
/// p*b_depth]`.
struct Product {
    rows: usize,
    cols: usize,
    depth: usize,
    a_row: usize,
    a_depth: usize,
    b_row: usize,
    b_depth: usize,
    accumulate: bool,
}

impl MatMul {
    /// `y[m,n] = sum over k of x[m,k] w[n,k] (+ bias[n])`, all f32; `y` is assigned.
    ///
    /// The bits of a row of `y` depend on that row of `x` alone, not on how many rows there are.
    pub fn forward<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        w: &G::Buffer,
        bias: Option<&G::Buffer>,
        y: &G::Buffer,
    ) -> Result<()> {
        let place = "matmul forward";
        let (m, n, k) = (self.m, self.n, self.k);
        check_size(place, "x", x, elements(place, m, k)?, 4)?;
        check_size(place, "w", w, elements(place, n, k)?, 4)?;
        check_size(place, "y", y, elements(place, m, n)?, 4)?;
        if let Some(bias) = bias {
            check_size(place, "bias", bias, n, 4)?;
        }
        let product = Product {
            rows: m,
            cols: n,
            depth: k,
            a_row: k,
            a_depth: 1,
            b_row: k,
            b_depth: 1,
            accumulate: false,
        };
        // SAFETY: as the strides say, a is x, b is w and out is y, whose sizes were checked.
        unsafe { product.launch(gpu, x, w, bias, y) }
    }

    /// `dx[m,k] = sum over n of dy[m,n] w[n,k]`, all f32; `dx` is assigned.
    pub fn backward_input<G: Gpu>(
        &self,
        gpu: &G,
        dy: &G::Buffer,
        w: &G::Buffer,
        dx: &G::Buffer,
    ) -> Result<()> {
        let place = "matmul backward, dx";
        let (m, n, k) = (self.m, self.n, self.k);
        check_size(place, "dy", dy, elements(place, m, n)?, 4)?;
        check_size(place, "w", w, elements(place, n, k)?, 4)?;
        check_size(place, "dx", dx, elements(place, m, k)?, 4)?;
        let product = Product {
            rows: m,
            cols: k,
            depth: n,
            a_row: n,
            a_depth: 1,
            b_row: 1,
            b_depth: k,
            accumulate: false,
        };
        // SAFETY: as the strides say, a is dy, b is w and out is dx, whose sizes were checked.
        unsafe { product.launch(gpu, dy, w, None, dx) }
    }

    /// `dw[n,k] += sum over m of dy[m,n] x[m,k]`, all f32; `dw` is added to.
    pub fn backward_weight<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        dy: &G::Buffer,
        dw: &G::Buffer,
    ) -> Result<()> {
        let place = "matmul backward, dw";
        let (m, n, k) = (self.m, self.n, self.k);
        check_size(place, "x", x, elements(place, m, k)?, 4)?;
        check_size(place, "dy", dy, elements(place, m, n)?, 4)?;
        check_size(place, "dw", dw, elements(place, n, k)?, 4)?;
        let product = Product {
            rows: n,
            cols: k,
            depth: m,
            a_row: 1,
            a_depth: n,
            b_row: 1,
            b_depth: k,
            accumulate: true,
        };
        // SAFETY: as the strides say, a is dy, b is x and out is dw, whose sizes were checked.
        unsafe { product.launch(gpu, dy, x, None, dw) }
    }

    /// `dbias[n] = sum over m of dy[m,n]`, f32; `dbias` is assigned, or added to, as `write` says.
    pub fn backward_bias<G: Gpu>(
        &self,
        gpu: &G,
        dy: &G::Buffer,
        dbias: &G::Buffer,
        write: Write,
    ) -> Result<()> {
        let place = BACKWARD_BIAS.name;
        check_size(place, "dy", dy, elements(place, self.m, self.n)?, 4)?;
        check_size(place, "dbias", dbias, self.n, 4)?;
        if self.n == 0 {
            return Ok(());
        }
        let accumulate = usize::from(write == Write::Add);
        let scalars = [self.m, self.n, accumulate].map(|value| Scalar::U32(value as u32));
        let columns = grid(place, self.n.div_ceil(32), 1)?;
        // SAFETY: the kernel touches m * n elements of dy and n of dbias: checked above.
        unsafe { gpu.launch(&BACKWARD_BIAS, &[dy, dbias], &scalars, columns) }
    }

    /// [`MatMul::forward`] with `x` and `w` in bf16 (`bias` and `y` in f32, sums in f32), on tensor cores.
    ///
    /// # Errors
    /// [`crate::device::Error::Unsupported`] on anything but CUDA.
    pub fn forward_bf16<G: Gpu>(
        &self,
        gpu: &G,
        x: &G::Buffer,
        w: &G::Buffer,
        bias: Option<&G::Buffer>,
        y: &G::Buffer,
    ) -> Result<()> {
        let place = MATMUL_BF16.name;
        let (m, n, k) = (self.m, self.n, self.k);
        check_size(place, "x", x, elements(place, m, k)?, 2)?;
        check_size(place, "w", w, elements(place, n, k)?, 2)?;
        check_size(place, "y", y, elements(place, m, n)?, 4)?;
        if let Some(bias) = bias {
            check_size(place, "bias", bias, n, 4)?;
        }
        if m == 0 || n == 0 {
            return Ok(());
        }
        let scalars = [m, n, k, usize::from(bias.is_some())].map(|value| Scalar::U32(value as u32));
        let tiles = grid(place, n.div_ceil(TILE), m.div_ceil(TILE))?;
        // SAFETY: the kernel touches m * k elements of x, n * k of w, m * n of y, and n of bias if there is
        // one: checked above.
        unsafe { gpu.launch(&MATMUL_BF16, &[x, w, bias.unwrap_or(w), y], &scalars, tiles) }
    }
}

impl Product {
    /// Launches the kernel; `bias` is added to each row, where there is one.
    ///
    /// # Safety
    /// `a`, `b` and `out` are as large as the shape and strides say, `bias` holds `cols` elements.
    unsafe fn launch<G: Gpu>(
        &self,
        gpu: &G,
        a: &G::Buffer,
        b: &G::Buffer,
        bias: Option<&G::Buffer>,
        out: &G::Buffer,
    ) -> Result<()> {
        if self.rows == 0 || self.cols == 0 {
            return Ok(());
        }
        let scalars = [
            self.rows,
            self.cols,
            self.depth,
            self.a_row,
            self.a_depth,
            self.b_row,
            self.b_depth,
            usize::from(bias.is_some()),
            usize::from(self.accumulate),
        ];
        // Each value is a factor of a number of elements that fits 32 bits, or of one that is zero and then
        // never used.
        let scalars = scalars.map(|value| Scalar::U32(value as u32));
        let tiles = grid(MATMUL.name, self.cols.div_ceil(TILE), self.rows.div_ceil(TILE))?;
        // SAFETY: the caller's promise. Without a bias the kernel gets `b` in its place and does not read it.
        unsafe { gpu.launch(&MATMUL, &[a, b, bias.unwrap_or(b), out], &scalars, tiles) }
    }
}
