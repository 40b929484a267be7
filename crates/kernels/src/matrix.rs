//! A weight matrix in memory: packed into panels (see [`crate::panels`]), with its type and shape.

use crate::buffer::Buffer;
use crate::dtype::DType;
use crate::panels::expanded::{self, Expanded};
use crate::panels::float::{Bf16, F16, F32};
use crate::panels::q4_0::Q4_0;
use crate::panels::q4_k::Q4K;
use crate::panels::q5_k::Q5K;
use crate::panels::q6_k::Q6K;
use crate::panels::q8_0::Q8_0;
use crate::panels::{self, FloatLayout, IntLayout, Layout, Pack, Rows};
use crate::pool::{Pool, Shares};
use crate::quant;
use crate::simd::{Isa, Kernel, LANES, dispatch};

/// What the inputs of a product are rounded to before it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Nothing: f32 products with the exact value of the weights.
    F32,
    /// bf16 products, summed up in f32.
    Bf16,
    /// f16 products, summed up in f32. A product of two f16 is exact in f32, so that f32 multiplies them.
    F16,
    /// Signed bytes with an f32 scale for each 32 of k; products in int32, summed up in f32.
    I8,
}

/// Whether a product may round its inputs to the precision of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// bf16 weights multiply inputs rounded to bf16, quantised weights inputs rounded to 8 bits: twice to four times
    /// as fast.
    #[default]
    Native,
    /// Inputs stay f32, whatever the weights.
    F32,
}

/// A matrix `[rows, cols]` of output channels: `y = x · wᵀ`, y of width `rows` (n), x of width `cols` (k).
#[derive(Clone, Debug)]
pub struct Matrix {
    dtype: DType,
    rows: usize,
    cols: usize,
    operand: Operand,
    panel_bytes: usize,
    data: Buffer<u8>,
}

/// Calls `$f!(Layout)` with the integer layout of a type, and evaluates `$float` for the others.
macro_rules! with_int_layout {
    ($dtype:expr, $f:ident, $float:expr) => {
        match $dtype {
            DType::Q8_0 => $f!(Q8_0),
            DType::Q4_0 => $f!(Q4_0),
            DType::Q4_K => $f!(Q4K),
            DType::Q5_K => $f!(Q5K),
            DType::Q6_K => $f!(Q6K),
            DType::Q4_1 | DType::Q5_1 => $f!(Expanded<32, true>),
            DType::Q5_0 | DType::IQ4_NL | DType::IQ4_XS => $f!(Expanded<32, false>),
            DType::Q2_K => $f!(Expanded<16, true>),
            DType::Q3_K => $f!(Expanded<16, false>),
            DType::F32
            | DType::F16
            | DType::BF16
            | DType::F64
            | DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::Bool => $float,
        }
    };
}
pub(crate) use with_int_layout;

/// Calls `$f!(Layout)` with the layout of a weight type; evaluates `$other` for types that are no weights.
macro_rules! with_layout {
    ($dtype:expr, $f:ident, $other:expr) => {
        match $dtype {
            DType::F32 => $f!(F32),
            DType::F16 => $f!(F16),
            DType::BF16 => $f!(Bf16),
            other => with_int_layout!(other, $f, $other),
        }
    };
}

impl Matrix {
    /// Packs a matrix; `row(i)` are the bytes of row `i` in the file's format.
    ///
    /// Panics if `dtype` is no weight type ([`DType::weights`]), or a row has not the bytes of `cols` values.
    pub fn pack<'a>(
        pool: &Pool,
        dtype: DType,
        [rows, cols]: [usize; 2],
        precision: Precision,
        row: impl Fn(usize) -> &'a [u8] + Sync,
    ) -> Matrix {
        let panel_bytes = panel_bytes(dtype, cols);
        let row_bytes =
            dtype.bytes(&[cols]).unwrap_or_else(|| panic!("{cols} values are no rows of {dtype}"));
        let mut data = Buffer::zeroed(rows.div_ceil(LANES) * panel_bytes);
        let shares = Shares::new(&mut data);
        pool.run(rows.div_ceil(LANES), |p| {
            // SAFETY: a task packs its own panel.
            let panel = unsafe { shares.get(p * panel_bytes..(p + 1) * panel_bytes) };
            let sources: Vec<&[u8]> = (p * LANES..rows.min((p + 1) * LANES)).map(&row).collect();
            assert!(
                sources.iter().all(|source| source.len() == row_bytes),
                "rows of {cols} values of {dtype}"
            );
            pack_panel(dtype, &sources, panel);
        });
        let native = match dtype {
            DType::F32 | DType::F16 => Operand::F32,
            DType::BF16 => Operand::Bf16,
            _ => Operand::I8,
        };
        let operand = if precision == Precision::F32 { Operand::F32 } else { native };
        Matrix { dtype, rows, cols, operand, panel_bytes, data }
    }

    /// A matrix of f32 values, row by row.
    pub fn from_f32(pool: &Pool, shape: [usize; 2], values: &[f32]) -> Matrix {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let row = 4 * shape[1];
        Matrix::pack(pool, DType::F32, shape, Precision::Native, |r| &bytes[r * row..(r + 1) * row])
    }

    /// A matrix of zeros, in f32, f16 or bf16, whose products round their inputs to the same type. (A matrix of f16 from
    /// a file, see [`Matrix::pack`], takes inputs as they are.) Panics for other types.
    pub fn zeroed(dtype: DType, [rows, cols]: [usize; 2]) -> Matrix {
        let operand = match dtype {
            DType::F32 => Operand::F32,
            DType::F16 => Operand::F16,
            DType::BF16 => Operand::Bf16,
            other => panic!("{other} is no floating-point type of weights"),
        };
        let data = Buffer::zeroed(rows.div_ceil(LANES) * panel_bytes(dtype, cols));
        Matrix::from_panels(dtype, [rows, cols], operand, data)
    }

    /// A matrix of these panels, one behind the other.
    ///
    /// Panics if `dtype` is no weight type, or there are not the bytes of its panels.
    pub(crate) fn from_panels(
        dtype: DType,
        [rows, cols]: [usize; 2],
        operand: Operand,
        data: Buffer<u8>,
    ) -> Matrix {
        let panel_bytes = panel_bytes(dtype, cols);
        assert_eq!(data.len(), rows.div_ceil(LANES) * panel_bytes, "bytes of the panels");
        Matrix { dtype, rows, cols, operand, panel_bytes, data }
    }

    /// The values of an f32 matrix, in panels `[n/32][k][32]`; `None` for other types. Lanes beyond n are zeros, and
    /// are to stay zeros.
    pub fn values_mut(&mut self) -> Option<&mut [f32]> {
        if self.dtype != DType::F32 {
            return None;
        }
        // SAFETY: whole panels of f32, and a buffer is aligned for any number.
        let (before, values, after) = unsafe { self.data.align_to_mut::<f32>() };
        assert!(before.is_empty() && after.is_empty(), "a buffer is aligned");
        Some(values)
    }

    /// Decodes all values into f32 panels `[n/32][k][32]`: `out` has [`panels::len`] elements.
    pub fn decode(&self, pool: &Pool, out: &mut [f32]) {
        assert_eq!(out.len(), panels::len([self.rows, self.cols]), "room for the panels");
        pool.for_each_row(out, (self.cols * LANES).max(1), 1, |i, out| {
            let (dtype, panel) = (self.dtype, self.panel(i));
            dispatch(DecodePanel { dtype, panel, start: 0, len: self.cols, out });
        });
    }

    /// Takes the values of f32 panels `[n/32][k][32]`, rounded to the type of this matrix.
    ///
    /// Panics when sizes differ, or the type is not f32, f16 or bf16.
    pub fn set(&mut self, pool: &Pool, values: &[f32]) {
        assert_eq!(values.len(), panels::len([self.rows, self.cols]), "values of the panels");
        let (dtype, panel_len) = (self.dtype, self.cols * LANES);
        let panel_bytes = self.panel_bytes.max(1);
        pool.for_each_row(&mut self.data, panel_bytes, 1, |i, panel| {
            let values = &values[i * panel_len..(i + 1) * panel_len];
            dispatch(RoundPanel { dtype, values, panel });
        });
    }

    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Output channels (n).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input channels (k).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What inputs are rounded to.
    pub fn operand(&self) -> Operand {
        self.operand
    }

    /// What the gradient of the outputs is rounded to before it is multiplied with the weights: never bytes.
    pub fn gradient_operand(&self) -> Operand {
        match self.operand {
            Operand::Bf16 => Operand::Bf16,
            Operand::F16 => Operand::F16,
            Operand::F32 | Operand::I8 => Operand::F32,
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Panels of 32 output channels, the last perhaps partly filled.
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// The bytes of some panels.
    pub(crate) fn panel_range(&self, panels: std::ops::Range<usize>) -> &[u8] {
        &self.data[panels.start * self.panel_bytes..panels.end * self.panel_bytes]
    }

    /// The bytes of panel `index`.
    pub(crate) fn panel(&self, index: usize) -> &[u8] {
        &self.data[index * self.panel_bytes..(index + 1) * self.panel_bytes]
    }

    /// The values of row `row`, in f32: an embedding's lookup. Panics when `row` is out of range.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}", self.rows);
        dispatch(DecodeRow { matrix: self, row, out });
    }
}

/// Bytes of a panel of so many columns. Panics for types that no weights have.
pub(crate) fn panel_bytes(dtype: DType, cols: usize) -> usize {
    macro_rules! bytes {
        ($layout:ty) => {
            cols.div_ceil(<$layout>::SPAN) * <$layout>::BYTES
        };
    }
    with_layout!(dtype, bytes, panic!("{dtype} is no type of weights"))
}

fn pack_panel(dtype: DType, rows: &Rows, panel: &mut [u8]) {
    fn blocks<L: Pack>(rows: &Rows, panel: &mut [u8]) {
        for (i, block) in panel.chunks_exact_mut(L::BYTES).enumerate() {
            L::pack(rows, i, block);
        }
    }
    match (dtype, quant::format(dtype)) {
        (DType::F32, _) => blocks::<F32>(rows, panel),
        (DType::F16, _) => blocks::<F16>(rows, panel),
        (DType::BF16, _) => blocks::<Bf16>(rows, panel),
        (DType::Q8_0, _) => blocks::<Q8_0>(rows, panel),
        (DType::Q4_0, _) => blocks::<Q4_0>(rows, panel),
        (DType::Q4_K, _) => blocks::<Q4K>(rows, panel),
        (DType::Q5_K, _) => blocks::<Q5K>(rows, panel),
        (DType::Q6_K, _) => blocks::<Q6K>(rows, panel),
        (_, Some(format)) => expanded::pack(format, rows, panel),
        (_, None) => {}
    }
}

/// Decodes a stretch of k of a panel into `[k][32]` f32. A kernel of its own, so that it is compiled once.
pub(crate) struct DecodePanel<'a> {
    /// The type of the weights.
    pub dtype: DType,
    /// The whole panel.
    pub panel: &'a [u8],
    /// First value of k: a multiple of 32.
    pub start: usize,
    /// Values of k; they end inside the panel.
    pub len: usize,
    /// Room for them.
    pub out: &'a mut [f32],
}

impl Kernel for DecodePanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let DecodePanel { dtype, panel, start, len, out } = self;
        assert!(start.is_multiple_of(32) && out.len() >= len * LANES);
        macro_rules! ints {
            ($layout:ty) => {
                decode_ints::<I, $layout>(isa, panel, start / 32, &mut out[..len * LANES])
            };
        }
        macro_rules! floats {
            ($layout:ty) => {{
                assert!(panel.len() >= (start + len).div_ceil(<$layout>::SPAN) * <$layout>::BYTES);
                for (i, out) in out[..len * LANES].chunks_exact_mut(LANES).enumerate() {
                    // SAFETY: the panel has this value of k.
                    isa.store_slice(out, unsafe { <$layout>::load(isa, panel.as_ptr(), start + i) });
                }
            }};
        }
        match dtype {
            DType::F32 => floats!(F32),
            DType::F16 => floats!(F16),
            DType::BF16 => floats!(Bf16),
            other => with_int_layout!(other, ints, ()),
        }
    }
}

/// Decodes steps of 32 values of k, from number `first` on.
#[inline(always)]
fn decode_ints<I: Isa, L: IntLayout>(isa: I, panel: &[u8], first: usize, out: &mut [f32]) {
    let per_block = L::SPAN / 32;
    for (i, out) in out.chunks_exact_mut(32 * LANES).enumerate() {
        let step = first + i;
        let block = &panel[step / per_block * L::BYTES..][..L::BYTES];
        // SAFETY: `block` is one whole block, and `out` has room for a step.
        unsafe { expanded::decode::<I, L>(isa, block.as_ptr(), step % per_block, out.as_mut_ptr()) }
    }
}

/// Rounds a panel `[k][32]` f32 to a type of floating-point weights.
struct RoundPanel<'a> {
    dtype: DType,
    values: &'a [f32],
    panel: &'a mut [u8],
}

impl Kernel for RoundPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let rows = || self.values.chunks_exact(LANES).map(|row| isa.load_slice(row, 0.0));
        match self.dtype {
            DType::F32 => {
                for (row, out) in rows().zip(self.panel.chunks_exact_mut(F32::BYTES)) {
                    // SAFETY: a block has room for 32 floats.
                    unsafe { isa.store(out.as_mut_ptr().cast(), row) }
                }
            }
            DType::F16 => {
                for (row, out) in rows().zip(self.panel.chunks_exact_mut(F16::BYTES)) {
                    // SAFETY: a block has room for 32 halves.
                    unsafe { isa.store_f16(out.as_mut_ptr().cast(), row) }
                }
            }
            DType::BF16 => {
                for (pair, out) in self.values.chunks(2 * LANES).zip(self.panel.chunks_exact_mut(Bf16::BYTES))
                {
                    let (low, high) = pair.split_at(LANES);
                    let high = if high.is_empty() { isa.zero() } else { isa.load_slice(high, 0.0) };
                    // SAFETY: a block has room for 32 pairs.
                    unsafe {
                        isa.store_b(out.as_mut_ptr(), isa.pair_bf16(isa.load_slice(low, 0.0), high));
                    }
                }
            }
            other => panic!("{other} is no floating-point type of weights"),
        }
    }
}

struct DecodeRow<'a> {
    matrix: &'a Matrix,
    row: usize,
    out: &'a mut [f32],
}

impl Kernel for DecodeRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let panel = self.matrix.panel(self.row / LANES);
        let lane = self.row % LANES;
        let mut values = [0f32; 256 * LANES];
        for (i, out) in self.out.chunks_mut(256).enumerate() {
            let (start, len) = (256 * i, out.len());
            isa.run(DecodePanel { dtype: self.matrix.dtype, panel, start, len, out: &mut values });
            for (j, x) in out.iter_mut().enumerate() {
                *x = values[j * LANES + lane];
            }
        }
    }
}
