//! Element types and block formats, and how many bytes they take.

use std::fmt;

/// The type of a tensor's elements: a plain number or a block format of GGUF.
///
/// A block format stores `block_len` neighbouring elements of a row (the innermost dimension) in
/// `block_bytes` bytes; a row is a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)] // the names that GGUF gives them
#[allow(missing_docs)] // the variants are the formats' own names; `quant` documents each
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    Bool,
}

/// One row of the table of types.
struct Row {
    dtype: DType,
    name: &'static str,
    /// `ggml_type` in a GGUF file, where GGUF has the type.
    gguf_id: Option<u32>,
    block_len: usize,
    block_bytes: usize,
}

const fn row(
    dtype: DType,
    name: &'static str,
    gguf_id: Option<u32>,
    block_len: usize,
    block_bytes: usize,
) -> Row {
    Row { dtype, name, gguf_id, block_len, block_bytes }
}

/// In the order of the enum: `TABLE[dtype as usize]` is the row of `dtype` (tested).
const TABLE: [Row; 24] = [
    row(DType::F32, "F32", Some(0), 1, 4),
    row(DType::F16, "F16", Some(1), 1, 2),
    row(DType::BF16, "BF16", Some(30), 1, 2),
    row(DType::Q4_0, "Q4_0", Some(2), 32, 18),
    row(DType::Q4_1, "Q4_1", Some(3), 32, 20),
    row(DType::Q5_0, "Q5_0", Some(6), 32, 22),
    row(DType::Q5_1, "Q5_1", Some(7), 32, 24),
    row(DType::Q8_0, "Q8_0", Some(8), 32, 34),
    row(DType::Q2_K, "Q2_K", Some(10), 256, 84),
    row(DType::Q3_K, "Q3_K", Some(11), 256, 110),
    row(DType::Q4_K, "Q4_K", Some(12), 256, 144),
    row(DType::Q5_K, "Q5_K", Some(13), 256, 176),
    row(DType::Q6_K, "Q6_K", Some(14), 256, 210),
    row(DType::IQ4_NL, "IQ4_NL", Some(20), 32, 18),
    row(DType::IQ4_XS, "IQ4_XS", Some(23), 256, 136),
    row(DType::F64, "F64", Some(28), 1, 8),
    row(DType::I8, "I8", Some(24), 1, 1),
    row(DType::I16, "I16", Some(25), 1, 2),
    row(DType::I32, "I32", Some(26), 1, 4),
    row(DType::I64, "I64", Some(27), 1, 8),
    row(DType::U8, "U8", None, 1, 1),
    row(DType::U16, "U16", None, 1, 2),
    row(DType::U32, "U32", None, 1, 4),
    row(DType::Bool, "BOOL", None, 1, 1),
];

impl DType {
    /// Every type, in the order of the enum.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|row| row.dtype)
    }

    /// The types that a weight matrix may have: those that [`crate::quant::decode`] reads.
    pub fn weights() -> impl Iterator<Item = DType> {
        Self::all().take_while(|&d| d != DType::F64)
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The name as GGUF and safetensors write it: `F32`, `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The type of this name, in upper or lower case.
    pub fn from_name(name: &str) -> Option<DType> {
        TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.dtype)
    }

    /// The type's number in a GGUF file.
    pub fn gguf_id(self) -> Option<u32> {
        self.row().gguf_id
    }

    /// The type with this number in a GGUF file.
    pub fn from_gguf_id(id: u32) -> Option<DType> {
        TABLE.iter().find(|row| row.gguf_id == Some(id)).map(|row| row.dtype)
    }

    /// Elements in a block; 1 for plain numbers.
    pub fn block_len(self) -> usize {
        self.row().block_len
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().block_bytes
    }

    /// Bytes that a tensor of this shape takes (row-major, `shape` outermost dimension first).
    ///
    /// `None` when the innermost dimension is no whole number of blocks, or the size overflows.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let inner = shape.last().copied().unwrap_or(1);
        if !inner.is_multiple_of(self.block_len()) {
            return None;
        }
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_the_enum() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.dtype as usize, i, "{}", row.name);
            assert_eq!(DType::from_name(row.name), Some(row.dtype));
            if let Some(id) = row.gguf_id {
                assert_eq!(DType::from_gguf_id(id), Some(row.dtype));
            }
        }
    }

    #[test]
    fn bytes_are_counted_in_whole_blocks() {
        assert_eq!(DType::F16.bytes(&[3, 5]), Some(30));
        assert_eq!(DType::Q4_0.bytes(&[2, 64]), Some(72));
        assert_eq!(DType::Q4_0.bytes(&[2, 33]), None);
        assert_eq!(DType::F32.bytes(&[usize::MAX, 2]), None);
        assert_eq!(DType::F32.bytes(&[]), Some(4));
    }
}
