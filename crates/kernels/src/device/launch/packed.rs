//! Weights of a linear layer in a GPU's memory, in the panels of the CPU, and the products with them. The formulas stand in
//! `ops/matmul/packed.wgsl`, what the words mean in `panels/*.wgsl`.

use std::ops::Range;

use super::{check_size, elements, fold, grid};
use crate::DType;
use crate::device::gpu::{Binding, Error, Gpu, Kernel, Result, Scalar, ScalarKind, read, write};
use crate::matrix::Matrix;
use crate::ops::Write;
use crate::panels::LANES;

/// Rows that [`MATVEC`](Kernels) takes at a time, and rows and columns of the tiles of the other kernels.
const FEW: usize = 8;
const TILE: usize = 64;

const SCALARS: &[ScalarKind] = &[
    ScalarKind::U32,
    ScalarKind::U32,
    ScalarKind::U32,
    ScalarKind::U32,
    ScalarKind::U32,
    ScalarKind::U32,
    ScalarKind::F32,
    ScalarKind::U32,
];
const FORWARD: &[Binding] = &[read(0, "x"), read(1, "w"), read(2, "bias"), write(3, "y")];
const BACKWARD: &[Binding] = &[read(1, "w"), read(4, "dy"), write(5, "dx")];
const ROWS: &[Binding] = &[read(1, "w"), read(7, "ids"), write(3, "y")];

/// The kernels for one layout of weights.
struct Kernels {
    /// The type that they are called after.
    name: &'static str,
    matvec: Kernel,
    matmul: Kernel,
    backward: Kernel,
    rows: Kernel,
}

const fn forward(name: &'static str, entry: &'static str, wgsl: &'static str, size: [u32; 3]) -> Kernel {
    Kernel { name, entry, wgsl: Some(wgsl), cuda: None, workgroup: size, buffers: FORWARD, scalars: SCALARS }
}

const fn backward(name: &'static str, wgsl: &'static str) -> Kernel {
    Kernel {
        name,
        entry: "packed_backward",
        wgsl: Some(wgsl),
        cuda: None,
        workgroup: [16, 16, 1],
        buffers: BACKWARD,
        scalars: SCALARS,
    }
}

const fn rows(name: &'static str, wgsl: &'static str) -> Kernel {
    Kernel {
        name,
        entry: "packed_rows",
        wgsl: Some(wgsl),
        cuda: None,
        workgroup: [64, 1, 1],
        buffers: ROWS,
        scalars: SCALARS,
    }
}

/// Declares the kernels of layouts, and lists them.
macro_rules! layouts {
    ($($layout:ident $name:literal: $($source:expr),+;)+) => {
        $(
            static $layout: Kernels = {
                const WGSL: &str = concat!($($source,)+ include_str!("../../ops/matmul/packed.wgsl"));
                Kernels {
                    name: $name,
                    matvec: forward(concat!("packed_matvec_", $name), "packed_matvec", WGSL, [32, 8, 1]),
                    matmul: forward(concat!("packed_matmul_", $name), "packed_matmul", WGSL, [16, 16, 1]),
                    backward: backward(concat!("packed_backward_", $name), WGSL),
                    rows: rows(concat!("packed_rows_", $name), WGSL),
                }
            };
        )+

        /// The kernels.
        pub static KERNELS: &[&Kernel] =
            &[$(&$layout.matvec, &$layout.matmul, &$layout.backward, &$layout.rows,)+ &BACKWARD_WEIGHT];
    };
}

layouts! {
    F32 "f32": include_str!("../../panels/f32.wgsl");
    F16 "f16": include_str!("../../panels/half.wgsl"), include_str!("../../panels/f16.wgsl");
    BF16 "bf16": include_str!("../../panels/bf16.wgsl");
    Q8_0 "q8_0": include_str!("../../panels/half.wgsl"), include_str!("../../panels/blocks.wgsl"), include_str!("../../panels/q8_0.wgsl");
    Q4_0 "q4_0": include_str!("../../panels/half.wgsl"), include_str!("../../panels/blocks.wgsl"), include_str!("../../panels/q4_0.wgsl");
    Q4_K "q4_k": include_str!("../../panels/half.wgsl"), include_str!("../../panels/blocks.wgsl"), include_str!("../../panels/q4_k.wgsl");
    Q5_K "q5_k": include_str!("../../panels/half.wgsl"), include_str!("../../panels/blocks.wgsl"), include_str!("../../panels/q5_k.wgsl");
    Q6_K "q6_k": include_str!("../../panels/half.wgsl"), include_str!("../../panels/blocks.wgsl"), include_str!("../../panels/q6_k.wgsl");
    GROUP_32 "group_32": "const GROUP: u32 = 32u;\nconst HAS_MIN: bool = false;\n",
        include_str!("../../panels/half.wgsl"), include_str!("../../panels/blocks.wgsl"), include_str!("../../panels/expanded.wgsl");
    GROUP_32_MIN "group_32_min": "const GROUP: u32 = 32u;\nconst HAS_MIN: bool = true;\n",
        include_str!("../../panels/half.wgsl"), include_str!("../../panels/blocks.wgsl"), include_str!("../../panels/expanded.wgsl");
    GROUP_16 "group_16": "const GROUP: u32 = 16u;\nconst HAS_MIN: bool = false;\n",
        include_str!("../../panels/half.wgsl"), include_str!("../../panels/blocks.wgsl"), include_str!("../../panels/expanded.wgsl");
    GROUP_16_MIN "group_16_min": "const GROUP: u32 = 16u;\nconst HAS_MIN: bool = true;\n",
        include_str!("../../panels/half.wgsl"), include_str!("../../panels/blocks.wgsl"), include_str!("../../panels/expanded.wgsl");
}

/// dw from x and dy.
pub static BACKWARD_WEIGHT: Kernel = Kernel {
    name: "packed_weight",
    entry: "packed_weight",
    wgsl: Some(concat!(include_str!("../../panels/f32.wgsl"), include_str!("../../ops/matmul/packed.wgsl"))),
    cuda: None,
    workgroup: [16, 16, 1],
    buffers: &[read(0, "x"), read(4, "dy"), write(6, "dw")],
    scalars: SCALARS,
};

/// The kernels for matrices of a type; `None` for types that no weights have.
fn kernels_of(dtype: DType) -> Option<&'static Kernels> {
    Some(match dtype {
        DType::F32 => &F32,
        DType::F16 => &F16,
        DType::BF16 => &BF16,
        DType::Q8_0 => &Q8_0,
        DType::Q4_0 => &Q4_0,
        DType::Q4_K => &Q4_K,
        DType::Q5_K => &Q5_K,
        DType::Q6_K => &Q6_K,
        DType::Q5_0 | DType::IQ4_NL | DType::IQ4_XS => &GROUP_32,
        DType::Q4_1 | DType::Q5_1 => &GROUP_32_MIN,
        DType::Q3_K => &GROUP_16,
        DType::Q2_K => &GROUP_16_MIN,
        DType::F64
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::Bool => return None,
    })
}

/// A matrix `[rows, cols]` of output channels in a GPU's memory, packed as on the CPU.
pub struct PackedMatrix<B> {
    kernels: &'static Kernels,
    rows: usize,
    cols: usize,
    panel_bytes: usize,
    /// Panels, and the buffer that holds them: several where one would be too large.
    parts: Vec<(Range<usize>, B)>,
}

impl<B: super::DeviceBuffer> PackedMatrix<B> {
    /// Copies a matrix to a device.
    ///
    /// # Errors
    /// As [`Gpu::alloc`] and [`Gpu::upload`].
    pub fn upload<G: Gpu<Buffer = B>>(gpu: &G, matrix: &Matrix) -> Result<Self> {
        let most = usize::try_from(gpu.info().max_buffer_bytes).unwrap_or(usize::MAX);
        PackedMatrix::upload_in_parts(gpu, matrix, most)
    }

    /// As [`PackedMatrix::upload`], in buffers of at most so many bytes, but for panels that are larger.
    ///
    /// # Errors
    /// As [`PackedMatrix::upload`].
    pub fn upload_in_parts<G: Gpu<Buffer = B>>(gpu: &G, matrix: &Matrix, most: usize) -> Result<Self> {
        let place = "upload";
        let Some(kernels) = kernels_of(matrix.dtype()) else {
            return Err(Error::Argument {
                place,
                what: "matrix".into(),
                expected: "a type of weights".into(),
                found: matrix.dtype().to_string(),
            });
        };
        let (panels, panel_bytes) = (matrix.panels(), matrix.panel_bytes());
        elements(place, matrix.rows().next_multiple_of(LANES), matrix.cols())?;
        let fit = (most / panel_bytes.max(1)).max(1);
        let mut parts = Vec::new();
        for first in (0..panels).step_by(fit) {
            let range = first..panels.min(first + fit);
            let bytes = matrix.panel_range(range.clone());
            let buffer = gpu.alloc(bytes.len())?;
            gpu.upload(&buffer, 0, bytes)?;
            parts.push((range, buffer));
        }
        Ok(PackedMatrix { kernels, rows: matrix.rows(), cols: matrix.cols(), panel_bytes, parts })
    }

    /// Output channels (n).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input channels (k).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|(_, buffer)| buffer.bytes()).sum()
    }

    /// Reads the panels back, one after the other.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn download<G: Gpu<Buffer = B>>(&self, gpu: &G) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.bytes()];
        let mut rest = bytes.as_mut_slice();
        for (_, buffer) in &self.parts {
            let (part, after) = rest.split_at_mut(buffer.bytes());
            gpu.download(buffer, 0, part)?;
            rest = after;
        }
        Ok(bytes)
    }

    /// `y[m,n] = sum over k of x[m,k] w[n,k] (+ bias[n])`; x, bias and y are f32, and `y` is assigned.
    ///
    /// The bits of a row of `y` depend on that row of `x` alone, not on how many rows there are.
    ///
    /// # Errors
    /// Buffers that are too small; what [`Gpu::launch`] meets.
    pub fn forward<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        rows: usize,
        x: &B,
        bias: Option<&B>,
        y: &B,
    ) -> Result<()> {
        let few = rows <= 2 * FEW;
        let kernel = if few { &self.kernels.matvec } else { &self.kernels.matmul };
        let place = kernel.name;
        check_size(place, "x", x, elements(place, rows, self.cols)?, 4)?;
        check_size(place, "y", y, elements(place, rows, self.rows)?, 4)?;
        if let Some(bias) = bias {
            check_size(place, "bias", bias, self.rows, 4)?;
        }
        if rows == 0 {
            return Ok(());
        }
        for (panels, w) in &self.parts {
            let groups = match few {
                true => grid(place, panels.len(), rows.div_ceil(FEW))?,
                false => grid(place, (panels.len() * LANES).div_ceil(TILE), rows.div_ceil(TILE))?,
            };
            let scalars = self.scalars(rows, panels, 1.0, bias.is_some());
            // SAFETY: the kernel touches rows of x and y and all of bias, whose sizes were checked, and the panels of this
            // part. Without a bias it gets x in its place and does not read it.
            unsafe { gpu.launch(kernel, &[x, w, bias.unwrap_or(x), y], &scalars, groups)? }
        }
        Ok(())
    }

    /// `dx[m,k] = sum over n of dy[m,n] w[n,k]`, all but the weights f32; `dx` is assigned, or added to, as `write` says.
    ///
    /// # Errors
    /// As [`PackedMatrix::forward`].
    pub fn backward_input<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        rows: usize,
        dy: &B,
        dx: &B,
        write: Write,
    ) -> Result<()> {
        let kernel = &self.kernels.backward;
        let place = kernel.name;
        check_size(place, "dy", dy, elements(place, rows, self.rows)?, 4)?;
        check_size(place, "dx", dx, elements(place, rows, self.cols)?, 4)?;
        if rows == 0 {
            return Ok(());
        }
        let groups = grid(place, self.cols.div_ceil(TILE), rows.div_ceil(TILE))?;
        for (i, (panels, w)) in self.parts.iter().enumerate() {
            let scalars = self.scalars(rows, panels, 1.0, write == Write::Add || i > 0);
            // SAFETY: the kernel touches rows of dy and dx, whose sizes were checked, and the panels of this part.
            unsafe { gpu.launch(kernel, &[w, dy, dx], &scalars, groups)? }
        }
        Ok(())
    }

    /// `dw[n,k] = sum over m of dy[m,n] x[m,k]`, all f32, into a matrix of f32: assigned, or added to, as `write` says.
    ///
    /// # Errors
    /// A matrix of another type; as [`PackedMatrix::forward`].
    pub fn backward_weight<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        rows: usize,
        x: &B,
        dy: &B,
        write: Write,
    ) -> Result<()> {
        let kernel = &BACKWARD_WEIGHT;
        let place = kernel.name;
        if self.kernels.name != F32.name {
            return Err(Error::Argument {
                place,
                what: "gradient".into(),
                expected: "a matrix of f32".into(),
                found: format!("one of {}", self.kernels.name),
            });
        }
        check_size(place, "x", x, elements(place, rows, self.cols)?, 4)?;
        check_size(place, "dy", dy, elements(place, rows, self.rows)?, 4)?;
        for (panels, dw) in &self.parts {
            let groups = grid(place, self.cols.div_ceil(TILE), (panels.len() * LANES).div_ceil(TILE))?;
            let scalars = self.scalars(rows, panels, 1.0, write == Write::Add);
            // SAFETY: the kernel touches rows of x and dy, whose sizes were checked, and the panels of this part.
            unsafe { gpu.launch(kernel, &[x, dy, dw], &scalars, groups)? }
        }
        Ok(())
    }

    /// `x[m,k] = scale * w[ids[m],k]`, or that is added to `x`, as `write` says: an embedding's lookup.
    ///
    /// `ids`: `[rows]` u32; `x`: `[rows, cols]` f32. An id that is not below n counts as a row of zeros: who makes the ids
    /// has checked them.
    ///
    /// # Errors
    /// As [`PackedMatrix::forward`].
    pub fn lookup<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        rows: usize,
        ids: &B,
        scale: f32,
        x: &B,
        write: Write,
    ) -> Result<()> {
        let kernel = &self.kernels.rows;
        let place = kernel.name;
        check_size(place, "ids", ids, rows, 4)?;
        let count = elements(place, rows, self.cols)?;
        check_size(place, "x", x, count, 4)?;
        if count == 0 {
            return Ok(());
        }
        let groups = fold(place, elements(place, rows, self.cols.div_ceil(4 * 64))?)?;
        for (panels, w) in &self.parts {
            let scalars = self.scalars(rows, panels, scale, write == Write::Add);
            // SAFETY: the kernel touches all of ids and x, whose sizes were checked, and the panels of this part.
            unsafe { gpu.launch(kernel, &[w, ids, x], &scalars, groups)? }
        }
        Ok(())
    }

    /// The kernels' scalars for some panels. The integers fit 32 bits, as the number of elements does.
    fn scalars(&self, rows: usize, panels: &Range<usize>, scale: f32, flag: bool) -> [Scalar; 8] {
        let [rows, width, depth, words, count, first] =
            [rows, self.rows, self.cols, self.panel_bytes / 4, panels.len(), panels.start * LANES]
                .map(|value| Scalar::U32(value as u32));
        [rows, width, depth, words, count, first, Scalar::F32(scale), Scalar::U32(u32::from(flag))]
    }
}
