//! Weights of a linear layer in a GPU's memory, in the panels of the CPU, and the products with them. The formulas stand in
//! `ops/matmul/packed.wgsl`, what the words mean in `panels/*.wgsl`, how tiles are multiplied in `ops/matmul/tiles.wgsl`.

use std::ops::Range;

use super::{check_size, elements, fold, grid, moves};
use crate::DType;
use crate::buffer::Buffer;
use crate::device::gpu::{Binding, Error, Gpu, Kernel, Result, Scalar, ScalarKind, Wgsl, read, write};
use crate::matrix::{Matrix, Operand, panel_bytes};
use crate::ops::Write;
use crate::panels::LANES;

/// Rows that [`MATVEC`](Kernels) takes at a time, and rows and columns of the tiles of the other kernels.
const FEW: usize = 8;
const TILE: usize = 64;

/// Flags of the kernels.
const HAS_BIAS: u32 = 1;
const ADDS: u32 = 2;

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
const LENGTHS: &[Binding] = &[read(0, "w"), read(1, "a"), read(2, "b"), write(3, "lengths")];
const LENGTHS_SCALARS: &[ScalarKind] = &[
    ScalarKind::U32,
    ScalarKind::U32,
    ScalarKind::U32,
    ScalarKind::U32,
    ScalarKind::U32,
    ScalarKind::U32,
    ScalarKind::F32,
];

/// The kernels for one layout of weights.
struct Kernels {
    matvec: Kernel,
    matmul: Kernel,
    backward: Kernel,
    rows: Kernel,
    lengths: Kernel,
}

const fn forward(name: &'static str, entry: &'static str, wgsl: Option<Wgsl>, size: [u32; 3]) -> Kernel {
    Kernel { name, entry, wgsl, cuda: None, workgroup: size, buffers: FORWARD, scalars: SCALARS }
}

const fn backward(name: &'static str, wgsl: Option<Wgsl>) -> Kernel {
    Kernel {
        name,
        entry: "packed_backward",
        wgsl,
        cuda: None,
        workgroup: [16, 16, 1],
        buffers: BACKWARD,
        scalars: SCALARS,
    }
}

const fn rows(name: &'static str, wgsl: Option<Wgsl>) -> Kernel {
    Kernel {
        name,
        entry: "packed_rows",
        wgsl,
        cuda: None,
        workgroup: [64, 1, 1],
        buffers: ROWS,
        scalars: SCALARS,
    }
}

const fn lengths(name: &'static str, wgsl: Option<Wgsl>) -> Kernel {
    Kernel {
        name,
        entry: "dora_lengths",
        wgsl,
        cuda: None,
        workgroup: [32, 8, 1],
        buffers: LENGTHS,
        scalars: LENGTHS_SCALARS,
    }
}

// Pieces of the kernels' texts.
const TILES: &str = include_str!("../../ops/matmul/tiles.wgsl");
const TILES_MATRICES: &str = include_str!("../../ops/matmul/tiles_matrices.wgsl");
const PACKED: &str = include_str!("../../ops/matmul/packed.wgsl");
const PACKED_FORWARD: &str = include_str!("../../ops/matmul/packed_forward.wgsl");
const PACKED_GRADIENTS: &str = include_str!("../../ops/matmul/packed_gradients.wgsl");
const PAIRS: &str = include_str!("../../ops/pairs.wgsl");
const DORA_LENGTHS: &str = include_str!("../../ops/dora_lengths.wgsl");
const HALF: &str = include_str!("../../panels/half.wgsl");
const BLOCKS: &str = include_str!("../../panels/blocks.wgsl");
const EXPANDED: &str = include_str!("../../panels/expanded.wgsl");
const OF_F32: &str = include_str!("../../panels/f32.wgsl");

/// The texts of kernels for gradients: their bits are compared with no other kernel's, so matrices may multiply.
macro_rules! gradient_texts {
    ($($source:expr),+) => {
        Some(Wgsl {
            plain: &[TILES, $($source,)+ PACKED, PACKED_GRADIENTS],
            subgroups: None,
            matrices: Some(&[TILES_MATRICES, $($source,)+ PACKED, PACKED_GRADIENTS]),
        })
    };
}

/// Declares the kernels of layouts, and lists them.
macro_rules! layouts {
    ($($layout:ident $name:literal: $($source:expr),+;)+) => {
        $(
            static $layout: Kernels = {
                // Products and lookups: one order of sums, on every device.
                const WGSL: Option<Wgsl> = Wgsl::plain(&[TILES, $($source,)+ PACKED, PACKED_FORWARD]);
                const LENGTHS_WGSL: Option<Wgsl> = Wgsl::plain(&[$($source,)+ PAIRS, DORA_LENGTHS]);
                Kernels {
                    matvec: forward(concat!("packed_matvec_", $name), "packed_matvec", WGSL, [32, 8, 1]),
                    matmul: forward(concat!("packed_matmul_", $name), "packed_matmul", WGSL, [16, 16, 1]),
                    backward: backward(concat!("packed_backward_", $name), gradient_texts!($($source),+)),
                    rows: rows(concat!("packed_rows_", $name), WGSL),
                    lengths: lengths(concat!("dora_lengths_", $name), LENGTHS_WGSL),
                }
            };
        )+

        /// The kernels.
        pub static KERNELS: &[&Kernel] =
            &[$(&$layout.matvec, &$layout.matmul, &$layout.backward, &$layout.rows, &$layout.lengths,)+ &BACKWARD_WEIGHT];
    };
}

layouts! {
    F32 "f32": OF_F32;
    F16 "f16": HALF, include_str!("../../panels/f16.wgsl");
    BF16 "bf16": include_str!("../../panels/bf16.wgsl");
    Q8_0 "q8_0": HALF, BLOCKS, include_str!("../../panels/q8_0.wgsl");
    Q4_0 "q4_0": HALF, BLOCKS, include_str!("../../panels/q4_0.wgsl");
    Q4_K "q4_k": HALF, BLOCKS, include_str!("../../panels/q4_k.wgsl");
    Q5_K "q5_k": HALF, BLOCKS, include_str!("../../panels/q5_k.wgsl");
    Q6_K "q6_k": HALF, BLOCKS, include_str!("../../panels/q6_k.wgsl");
    GROUP_32 "group_32": "const GROUP: u32 = 32u;\nconst HAS_MIN: bool = false;\n",
        HALF, BLOCKS, EXPANDED;
    GROUP_32_MIN "group_32_min": "const GROUP: u32 = 32u;\nconst HAS_MIN: bool = true;\n",
        HALF, BLOCKS, EXPANDED;
    GROUP_16 "group_16": "const GROUP: u32 = 16u;\nconst HAS_MIN: bool = false;\n",
        HALF, BLOCKS, EXPANDED;
    GROUP_16_MIN "group_16_min": "const GROUP: u32 = 16u;\nconst HAS_MIN: bool = true;\n",
        HALF, BLOCKS, EXPANDED;
}

/// dw from x and dy.
pub static BACKWARD_WEIGHT: Kernel = Kernel {
    name: "packed_weight",
    entry: "packed_weight",
    wgsl: gradient_texts!(OF_F32),
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
    dtype: DType,
    operand: Operand,
    rows: usize,
    cols: usize,
    /// Panels, and the buffer that holds them: several where one would be too large.
    parts: Vec<(Range<usize>, B)>,
}

impl<B: super::DeviceBuffer> PackedMatrix<B> {
    /// Copies a matrix to a device.
    ///
    /// # Errors
    /// As [`Gpu::alloc`] and [`Gpu::upload`].
    pub fn upload<G: Gpu<Buffer = B>>(gpu: &G, matrix: &Matrix) -> Result<Self> {
        PackedMatrix::upload_in_parts(gpu, matrix, most_bytes(gpu))
    }

    /// As [`PackedMatrix::upload`], in buffers of at most so many bytes, but for panels that are larger.
    ///
    /// Matrices of f32, f16 and bf16 of one shape are cut at the same panels, so that weights, their gradient and what an
    /// optimiser keeps beside them correspond part by part.
    ///
    /// # Errors
    /// As [`PackedMatrix::upload`].
    pub fn upload_in_parts<G: Gpu<Buffer = B>>(gpu: &G, matrix: &Matrix, most: usize) -> Result<Self> {
        let shape = [matrix.rows(), matrix.cols()];
        let packed = PackedMatrix::alloc(gpu, matrix.dtype(), matrix.operand(), shape, most)?;
        packed.set(gpu, matrix)?;
        Ok(packed)
    }

    /// A matrix of zeros, in f32.
    ///
    /// # Errors
    /// As [`Gpu::alloc`].
    pub fn zeroed<G: Gpu<Buffer = B>>(gpu: &G, shape: [usize; 2]) -> Result<Self> {
        let packed = PackedMatrix::alloc(gpu, DType::F32, Operand::F32, shape, most_bytes(gpu))?;
        packed.fill_zeros(gpu)?;
        Ok(packed)
    }

    /// Room for a matrix; what it holds is undefined.
    fn alloc<G: Gpu<Buffer = B>>(
        gpu: &G,
        dtype: DType,
        operand: Operand,
        [rows, cols]: [usize; 2],
        most: usize,
    ) -> Result<Self> {
        let place = "packed matrix";
        let Some(kernels) = kernels_of(dtype) else {
            return Err(Error::Argument {
                place,
                what: "matrix".into(),
                expected: "a type of weights".into(),
                found: dtype.to_string(),
            });
        };
        let panels = rows.div_ceil(LANES);
        elements(place, elements(place, panels, LANES)?, cols)?;
        let bytes = panel_bytes(dtype, cols);
        let largest = match dtype {
            DType::F16 | DType::BF16 => panel_bytes(DType::F32, cols),
            _ => bytes,
        };
        let fit = (most / largest.max(1)).max(1);
        let part = |first: usize| {
            let range = first..panels.min(first + fit);
            Ok((range.clone(), gpu.alloc(range.len() * bytes)?))
        };
        let parts = (0..panels).step_by(fit).map(part).collect::<Result<_>>()?;
        Ok(PackedMatrix { kernels, dtype, operand, rows, cols, parts })
    }

    /// Becomes a matrix of the same type and shape.
    ///
    /// # Errors
    /// A matrix of another type or shape; what [`Gpu::upload`] meets.
    pub fn set<G: Gpu<Buffer = B>>(&self, gpu: &G, matrix: &Matrix) -> Result<()> {
        check_kind("set", "matrix", self.kind(), (matrix.dtype(), [matrix.rows(), matrix.cols()]))?;
        self.set_panels(gpu, matrix.panel_range(0..matrix.panels()))
    }

    /// Takes the bytes of all panels, one behind the other.
    ///
    /// # Errors
    /// Another number of bytes; what [`Gpu::upload`] meets.
    pub fn set_panels<G: Gpu<Buffer = B>>(&self, gpu: &G, bytes: &[u8]) -> Result<()> {
        if bytes.len() != self.bytes() {
            return Err(Error::Argument {
                place: "set",
                what: "panels".into(),
                expected: format!("{} bytes", self.bytes()),
                found: bytes.len().to_string(),
            });
        }
        let mut rest = bytes;
        for (_, buffer) in &self.parts {
            let (part, after) = rest.split_at(buffer.bytes());
            gpu.upload(buffer, 0, part)?;
            rest = after;
        }
        Ok(())
    }

    /// All weights become 0, whatever the type.
    ///
    /// # Errors
    /// What [`Gpu::launch`] meets.
    pub fn fill_zeros<G: Gpu<Buffer = B>>(&self, gpu: &G) -> Result<()> {
        self.parts.iter().try_for_each(|(_, buffer)| moves::fill(gpu, buffer, 0, buffer.bytes() / 4, 0))
    }

    /// Reads the panels back, one behind the other.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn download<G: Gpu<Buffer = B>>(&self, gpu: &G) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.bytes()];
        self.read(gpu, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads the matrix back.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub fn to_matrix<G: Gpu<Buffer = B>>(&self, gpu: &G) -> Result<Matrix> {
        let mut data = Buffer::zeroed(self.bytes());
        self.read(gpu, &mut data)?;
        Ok(Matrix::from_panels(self.dtype, [self.rows, self.cols], self.operand, data))
    }

    /// Reads all panels into as many bytes.
    fn read<G: Gpu<Buffer = B>>(&self, gpu: &G, mut rest: &mut [u8]) -> Result<()> {
        for (_, buffer) in &self.parts {
            let (part, after) = rest.split_at_mut(buffer.bytes());
            gpu.download(buffer, 0, part)?;
            rest = after;
        }
        Ok(())
    }

    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// What inputs are rounded to where a CPU multiplies with the matrix; a GPU rounds none.
    pub fn operand(&self) -> Operand {
        self.operand
    }

    /// Panels, and the buffer that holds them, from the first to the last.
    pub fn parts(&self) -> &[(Range<usize>, B)] {
        &self.parts
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

    /// `y[m,n] = sum over k of x[m,k] w[n,k] (+ bias[n])`; x, bias and y are f32. `y` is assigned, or the rounded sum is
    /// added to it, as `write` says.
    ///
    /// The bits of a row of `y` depend on that row of `x` alone, not on how many rows there are.
    ///
    /// # Errors
    /// Buffers that are too small; what [`Gpu::launch`] meets.
    #[allow(clippy::too_many_arguments)] // what is read, what is written, and how
    pub fn forward<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        rows: usize,
        x: &B,
        bias: Option<&B>,
        y: &B,
        write: Write,
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
            let scalars = self.scalars(rows, panels, 1.0, bias.is_some(), write);
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
            let write = if i > 0 { Write::Add } else { write };
            let scalars = self.scalars(rows, panels, 1.0, false, write);
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
        check_kind(place, "gradient", (DType::F32, [self.rows, self.cols]), self.kind())?;
        check_size(place, "x", x, elements(place, rows, self.cols)?, 4)?;
        check_size(place, "dy", dy, elements(place, rows, self.rows)?, 4)?;
        for (panels, dw) in &self.parts {
            let groups = grid(place, self.cols.div_ceil(TILE), (panels.len() * LANES).div_ceil(TILE))?;
            let scalars = self.scalars(rows, panels, 1.0, false, write);
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
            let scalars = self.scalars(rows, panels, scale, false, write);
            // SAFETY: the kernel touches all of ids and x, whose sizes were checked, and the panels of this part.
            unsafe { gpu.launch(kernel, &[w, ids, x], &scalars, groups)? }
        }
        Ok(())
    }

    /// `lengths[n] = sqrt(sum over k of (w[n,k] + scale * sum over r of b[n,r] a[r,k])²)`, at least 1e-30: those of the rows,
    /// for [`super::dora::Dora`]. See [`crate::ops::dora::lengths`].
    ///
    /// `a`: `[r, k]`, `b`: `[n, r]`, both f32 in one part; `lengths`: `[n]` f32, assigned.
    ///
    /// # Errors
    /// Matrices of other shapes or types, or in several parts; as [`PackedMatrix::forward`].
    pub fn lengths<G: Gpu<Buffer = B>>(
        &self,
        gpu: &G,
        a: &PackedMatrix<B>,
        b: &PackedMatrix<B>,
        scale: f32,
        lengths: &B,
    ) -> Result<()> {
        let kernel = &self.kernels.lengths;
        let place = kernel.name;
        let rank = a.rows;
        check_kind(place, "a", (DType::F32, [rank, self.cols]), a.kind())?;
        check_kind(place, "b", (DType::F32, [self.rows, rank]), b.kind())?;
        check_size(place, "lengths", lengths, self.rows, 4)?;
        let ([(_, of_a)], [(_, of_b)]) = (a.parts(), b.parts()) else {
            return Err(Error::Argument {
                place,
                what: "a and b".into(),
                expected: "one part each".into(),
                found: format!("{} and {}", a.parts.len(), b.parts.len()),
            });
        };
        for (panels, w) in &self.parts {
            let [width, depth, rank, words, first, zero] =
                [self.rows, self.cols, rank, self.panel_words(), panels.start * LANES, 0]
                    .map(|value| Scalar::U32(value as u32));
            let scalars = [width, depth, rank, words, first, zero, Scalar::F32(scale)];
            let groups = grid(place, panels.len(), 1)?;
            // SAFETY: the kernel touches the panels of this part, all of a, those panels of b and those rows of lengths: the
            // shapes and the size were checked.
            unsafe { gpu.launch(kernel, &[w, of_a, of_b, lengths], &scalars, groups)? }
        }
        Ok(())
    }

    /// Its type and shape.
    pub(super) fn kind(&self) -> Kind {
        (self.dtype, [self.rows, self.cols])
    }

    /// Words of a panel.
    fn panel_words(&self) -> usize {
        panel_bytes(self.dtype, self.cols) / 4
    }

    /// The kernels' scalars for some panels. The integers fit 32 bits, as the number of elements does.
    fn scalars(
        &self,
        rows: usize,
        panels: &Range<usize>,
        scale: f32,
        has_bias: bool,
        write: Write,
    ) -> [Scalar; 8] {
        let [rows, width, depth, words, count, first] =
            [rows, self.rows, self.cols, self.panel_words(), panels.len(), panels.start * LANES]
                .map(|value| Scalar::U32(value as u32));
        let bias = if has_bias { HAS_BIAS } else { 0 };
        let adds = match write {
            Write::Set => 0,
            Write::Add => ADDS,
        };
        [rows, width, depth, words, count, first, Scalar::F32(scale), Scalar::U32(bias | adds)]
    }
}

/// The type and the shape of a matrix.
pub(super) type Kind = (DType, [usize; 2]);

/// Checks that a matrix has this type and shape.
pub(super) fn check_kind(place: &'static str, name: &str, expected: Kind, found: Kind) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let describe = |(dtype, [rows, cols]): Kind| format!("{rows} x {cols} of {dtype}");
    Err(Error::Argument { place, what: name.into(), expected: describe(expected), found: describe(found) })
}

/// The most bytes of a buffer.
fn most_bytes<G: Gpu>(gpu: &G) -> usize {
    usize::try_from(gpu.info().max_buffer_bytes).unwrap_or(usize::MAX)
}
