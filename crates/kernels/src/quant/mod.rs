//! Block formats: how GGUF files store a row of weights in 2 to 8 bits each.
//!
//! A block holds `block_len` neighbouring weights of a row: a small integer each, `q`, and for every
//! `group` of 16 or 32 of them one scale and, in some formats, one minimum. All formats mean the same:
//!
//! ```text
//! value[i] = scale[i / group] * q[i] - min[i / group]
//! ```
//!
//! in f32, with the product and the difference rounded one after the other (no fused multiply-add).
//! The formats differ in how they pack `q`, and in how they compress the scales themselves.
//! [`decode`] gives the values, [`Format::unpack`] the integers with their scales, from which a
//! kernel builds a layout of its own; the two agree bit for bit.
//!
//! A format is one file here, which implements the trait `Block`, and one line in [`FORMATS`]. All numbers
//! in a block are little-endian, and every format's decode gives the bits that llama.cpp's reference
//! (`dequantize_row_*` in `ggml-quants.c`) gives where a compiler fuses nothing.

mod iq4_nl;
mod iq4_xs;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
#[cfg(test)]
mod tests;
mod two_levels;

use std::fmt;
use std::marker::PhantomData;

use half::{bf16, f16};

use crate::dtype::DType;
use crate::simd::{Isa, Kernel, LANES, dispatch};
use search::Batch;

/// Every block format, in the order of [`DType`].
pub static FORMATS: [Format; 12] = [
    Format::of::<q4_0::Q4_0, _, _, _>(),
    Format::of::<q4_1::Q4_1, _, _, _>(),
    Format::of::<q5_0::Q5_0, _, _, _>(),
    Format::of::<q5_1::Q5_1, _, _, _>(),
    Format::of::<q8_0::Q8_0, _, _, _>(),
    Format::of::<q2_k::Q2_K, _, _, _>(),
    Format::of::<q3_k::Q3_K, _, _, _>(),
    Format::of::<q4_k::Q4_K, _, _, _>(),
    Format::of::<q5_k::Q5_K, _, _, _>(),
    Format::of::<q6_k::Q6_K, _, _, _>(),
    Format::of::<iq4_nl::IQ4_NL, _, _, _>(),
    Format::of::<iq4_xs::IQ4_XS, _, _, _>(),
];

/// What a format's file answers: the meaning of one block of `BYTES` bytes, which holds `LEN` values
/// in `GROUPS` groups of equal length.
///
/// The lengths are types, so a decode cannot read outside its block, and needs no check inside.
trait Block<const BYTES: usize, const LEN: usize, const GROUPS: usize> {
    const DTYPE: DType;

    /// Whether a minimum is subtracted; if not, `unpack` leaves `min` alone.
    const HAS_MIN: bool;

    /// The least and the greatest integer that a block can hold.
    const Q_RANGE: (i8, i8);

    /// The reference rounding, in formats that have one beside the search.
    const REFERENCE: Option<Encode<BYTES, LEN>> = None;

    /// The values of a block, written as the format is defined.
    fn decode(block: &[u8; BYTES], out: &mut [f32; LEN]);

    /// The same block as integers: see [`Ints`].
    fn unpack(block: &[u8; BYTES], q: &mut [i8; LEN], scale: &mut [f32; GROUPS], min: &mut [f32; GROUPS]);

    /// Writes the blocks whose values are nearest to those of the batch, as far as a search finds them.
    fn search<I: Isa>(isa: I, batch: &Batch, blocks: &mut [[u8; BYTES]]);
}

/// Rounds the values of one block.
type Encode<const BYTES: usize, const LEN: usize> = fn(&[f32; LEN], &mut [u8; BYTES]);

/// Rounds the values of as many blocks as there are.
type EncodeBlocks = fn(&[f32], &mut [u8]);

/// Searches the best blocks for values of these importances.
type SearchBlocks = fn(&[f32], Option<&[f32]>, &mut [u8]);

/// Where [`Format::unpack`] puts the parts of one or more blocks, without loss:
/// `scale[i / group] * q[i] - min[i / group]` is the decoded value `i`, bit for bit.
pub struct Ints<'a> {
    /// An integer for each value. Formats without a sign keep theirs as they are (`0..=15`).
    pub q: &'a mut [i8],
    /// A scale for each group.
    pub scale: &'a mut [f32],
    /// A minimum for each group; `+0.0` where the format has none.
    pub min: &'a mut [f32],
}

/// A block format: a row of [`FORMATS`].
#[derive(Debug)]
pub struct Format {
    /// The type that tensors of this format have.
    pub dtype: DType,
    /// Values in a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Neighbouring values that share a scale (and a minimum): 16 or 32. Divides `block_len`.
    pub group: usize,
    /// Whether the format subtracts a minimum.
    pub has_min: bool,
    /// The least and the greatest integer that a block can hold, both included.
    pub q_range: (i8, i8),
    decode: fn(&[u8], &mut [f32]),
    unpack: fn(&[u8], Ints<'_>),
    reference: Option<EncodeBlocks>,
    search: SearchBlocks,
}

impl Format {
    const fn of<B, const BYTES: usize, const LEN: usize, const GROUPS: usize>() -> Self
    where
        B: Block<BYTES, LEN, GROUPS>,
    {
        Format {
            dtype: B::DTYPE,
            block_len: LEN,
            block_bytes: BYTES,
            group: const {
                assert!(LEN.is_multiple_of(GROUPS));
                LEN / GROUPS
            },
            has_min: B::HAS_MIN,
            q_range: B::Q_RANGE,
            decode: decode_blocks::<B, BYTES, LEN, GROUPS>,
            unpack: unpack_blocks::<B, BYTES, LEN, GROUPS>,
            reference: match B::REFERENCE {
                Some(_) => Some(encode_blocks::<B, BYTES, LEN, GROUPS> as EncodeBlocks),
                None => None,
            },
            search: search_blocks::<B, BYTES, LEN, GROUPS>,
        }
    }

    /// Whether there is a reference rounding, which [`encode`] then gives, and not only the search of [`quantize`].
    pub fn has_reference(&self) -> bool {
        self.reference.is_some()
    }

    /// Takes one or more whole blocks apart.
    ///
    /// For `n` blocks `ints.q` has `n * block_len` elements, `ints.scale` and `ints.min` have
    /// `n * block_len / group` each.
    ///
    /// # Panics
    /// When the lengths do not fit together: the caller chose them.
    pub fn unpack(&self, bytes: &[u8], ints: Ints<'_>) {
        let blocks = bytes.len() / self.block_bytes;
        let groups = blocks * (self.block_len / self.group);
        assert_eq!(bytes.len(), blocks * self.block_bytes, "{}: bytes", self.dtype);
        assert_eq!(ints.q.len(), blocks * self.block_len, "{}: integers", self.dtype);
        assert_eq!((ints.scale.len(), ints.min.len()), (groups, groups), "{}: groups", self.dtype);
        (self.unpack)(bytes, ints);
    }
}

fn decode_blocks<B, const BYTES: usize, const LEN: usize, const GROUPS: usize>(bytes: &[u8], out: &mut [f32])
where
    B: Block<BYTES, LEN, GROUPS>,
{
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        B::decode(block, out);
    }
}

fn unpack_blocks<B, const BYTES: usize, const LEN: usize, const GROUPS: usize>(bytes: &[u8], ints: Ints<'_>)
where
    B: Block<BYTES, LEN, GROUPS>,
{
    if !B::HAS_MIN {
        // +0.0 and no other zero: x - (+0.0) keeps the sign of x = -0.0.
        ints.min.fill(0.0);
    }
    let blocks = bytes.as_chunks().0.iter().zip(ints.q.as_chunks_mut().0);
    let groups = ints.scale.as_chunks_mut().0.iter_mut().zip(ints.min.as_chunks_mut().0);
    for ((block, q), (scale, min)) in blocks.zip(groups) {
        B::unpack(block, q, scale, min);
    }
}

fn encode_blocks<B, const BYTES: usize, const LEN: usize, const GROUPS: usize>(
    values: &[f32],
    bytes: &mut [u8],
) where
    B: Block<BYTES, LEN, GROUPS>,
{
    let Some(encode) = B::REFERENCE else { return };
    for (values, block) in values.as_chunks().0.iter().zip(bytes.as_chunks_mut().0) {
        encode(values, block);
    }
}

fn search_blocks<B, const BYTES: usize, const LEN: usize, const GROUPS: usize>(
    values: &[f32],
    importance: Option<&[f32]>,
    bytes: &mut [u8],
) where
    B: Block<BYTES, LEN, GROUPS>,
{
    dispatch(Search::<B, BYTES, LEN, GROUPS> { values, importance, bytes, format: PhantomData });
}

struct Search<'a, B, const BYTES: usize, const LEN: usize, const GROUPS: usize> {
    values: &'a [f32],
    /// Of a row; `values` may be several.
    importance: Option<&'a [f32]>,
    bytes: &'a mut [u8],
    format: PhantomData<B>,
}

impl<B, const BYTES: usize, const LEN: usize, const GROUPS: usize> Kernel
    for Search<'_, B, BYTES, LEN, GROUPS>
where
    B: Block<BYTES, LEN, GROUPS>,
{
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut batch = Batch::new(const { LEN / GROUPS });
        let blocks = const { LANES / GROUPS };
        let parts = self.values.chunks(blocks * LEN).zip(self.bytes.as_chunks_mut().0.chunks_mut(blocks));
        for (i, (values, blocks)) in parts.enumerate() {
            batch.set(isa, values, LEN, self.importance.map(|row| (row, i * const { LANES / GROUPS * LEN })));
            B::search(isa, &batch, blocks);
        }
    }
}

/// The block format of this type; `None` for plain numbers.
pub fn format(dtype: DType) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.dtype == dtype)
}

/// Decodes whole rows of any type of [`DType::weights`] to f32.
///
/// `bytes` holds `out.len()` values: a row, or several that follow one another.
///
/// # Errors
/// When the type is no weight type, `out` is no whole number of blocks, or `bytes` is not as long
/// as that many values are.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    check_lengths(dtype, out.len(), bytes.len())?;
    match dtype {
        DType::F32 => convert(bytes, out, f32::from_le_bytes),
        DType::F16 => convert(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => convert(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        _ => {
            let format = format(dtype).ok_or(Error::NotAWeight(dtype))?;
            (format.decode)(bytes, out);
        }
    }
    Ok(())
}

/// Rounds whole rows to a weight type: to the bits of ggml's reference rounding where the format has one
/// ([`Format::has_reference`]), otherwise as [`quantize`] does without importance.
///
/// `bytes` takes `values.len()` values. What a block with values that are not finite, or too large
/// for its f16 scale, decodes to is not defined.
///
/// # Errors
/// As [`decode`].
pub fn encode(dtype: DType, values: &[f32], bytes: &mut [u8]) -> Result<(), Error> {
    check_lengths(dtype, values.len(), bytes.len())?;
    match dtype {
        DType::F32 => convert_back(values, bytes, f32::to_le_bytes),
        DType::F16 => convert_back(values, bytes, |v| f16::from_f32(v).to_le_bytes()),
        DType::BF16 => convert_back(values, bytes, |v| bf16::from_f32(v).to_le_bytes()),
        _ => {
            let format = format(dtype).ok_or(Error::NotAWeight(dtype))?;
            match format.reference {
                Some(encode) => encode(values, bytes),
                None => (format.search)(values, None, bytes),
            }
        }
    }
    Ok(())
}

/// Rounds whole rows to a weight type as near as a search can: scales and integers of each block are those of the least
/// squared error found, weighted by the `importance` of each column where it is given, and never above that of
/// [`encode`]. Much slower than that.
///
/// `importance` is one number a column of a row (the mean square of the inputs that multiply it); `values` are one or more
/// such rows. The plain types F32, F16 and BF16 are rounded to nearest and need none. Values beyond what a block's f16
/// scale reaches become the nearest that it does reach.
///
/// # Errors
/// As [`decode`]; a value that is not finite, or that F16 cannot hold; importances that are negative, not finite, or not
/// those of a row.
pub fn quantize(
    dtype: DType,
    values: &[f32],
    importance: Option<&[f32]>,
    bytes: &mut [u8],
) -> Result<(), Error> {
    check_lengths(dtype, values.len(), bytes.len())?;
    // What rounds to infinity in these types, and above. Below it a value is held, so that NaN is not.
    let limit = match dtype {
        DType::F16 => 65520.0,
        DType::BF16 => f32::from_bits(0x7F7F_8000),
        _ => f32::INFINITY,
    };
    let holds = |v: &f32| v.abs() < limit;
    // Without a way out in the middle it is done in vectors.
    if !values.iter().fold(true, |all, v| all & holds(v)) {
        let index = values.iter().position(|v| !holds(v)).unwrap_or_default();
        return Err(Error::Value { dtype, index, value: values[index].to_bits() });
    }
    if let Some(row) = importance {
        let fits = row.len().is_multiple_of(dtype.block_len()) && !row.is_empty();
        if !fits || !values.len().is_multiple_of(row.len()) {
            return Err(Error::ImportanceLength { values: values.len(), found: row.len() });
        }
        if let Some(index) = row.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
            return Err(Error::Importance { index, value: row[index].to_bits() });
        }
    }
    match format(dtype) {
        Some(format) => (format.search)(values, importance, bytes),
        None => encode(dtype, values, bytes)?,
    }
    Ok(())
}

fn convert<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = value(*bytes);
    }
}

fn convert_back<const N: usize>(values: &[f32], bytes: &mut [u8], raw: impl Fn(f32) -> [u8; N]) {
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
        *bytes = raw(*value);
    }
}

fn check_lengths(dtype: DType, values: usize, bytes: usize) -> Result<(), Error> {
    if !DType::weights().any(|weight| weight == dtype) {
        return Err(Error::NotAWeight(dtype));
    }
    let expected = dtype.bytes(&[values]).ok_or(Error::PartBlock { dtype, values })?;
    if bytes != expected {
        return Err(Error::Length { dtype, values, expected, found: bytes });
    }
    Ok(())
}

/// Why weights cannot be decoded or encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A type that no weight matrix has.
    NotAWeight(DType),
    /// A number of values that is no whole number of blocks.
    PartBlock {
        /// The type asked for.
        dtype: DType,
        /// How many values were asked for.
        values: usize,
    },
    /// More or fewer bytes than the values take.
    Length {
        /// The type asked for.
        dtype: DType,
        /// How many values were asked for.
        values: usize,
        /// The bytes that they take.
        expected: usize,
        /// The bytes that were given.
        found: usize,
    },
    /// A value that is not finite, or that the type cannot hold.
    Value {
        /// The type asked for.
        dtype: DType,
        /// Which of the values.
        index: usize,
        /// Its bits: what is compared may be NaN.
        value: u32,
    },
    /// Importances that are not those of one row of the values.
    ImportanceLength {
        /// How many values there are.
        values: usize,
        /// How many importances.
        found: usize,
    },
    /// An importance that is negative or not finite.
    Importance {
        /// The column.
        index: usize,
        /// Its bits.
        value: u32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotAWeight(dtype) => {
                write!(f, "{dtype} is not a type for weights, expected one of")?;
                DType::weights().try_for_each(|weight| write!(f, " {weight}"))
            }
            Error::PartBlock { dtype, values } => write!(
                f,
                "{dtype}: expected a whole number of blocks of {} values, found {values} values",
                dtype.block_len()
            ),
            Error::Length { dtype, values, expected, found } => {
                write!(f, "{dtype}: expected {expected} bytes for {values} values, found {found} bytes")
            }
            Error::Value { dtype, index, value } => {
                let value = f32::from_bits(*value);
                write!(f, "value {index} is {value}, expected a finite number that {dtype} can hold")
            }
            Error::ImportanceLength { values, found } => {
                write!(f, "expected one importance for each column of {values} values in rows, found {found}")
            }
            Error::Importance { index, value } => {
                let value = f32::from_bits(*value);
                write!(f, "importance {index} is {value}, expected a finite number that is not negative")
            }
        }
    }
}

impl std::error::Error for Error {}

/// The f16 at byte `at` of a block, widened.
fn f16_at<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
