//! GGUF, versions 2 and 3: the format of llama.cpp.
//!
//! ```text
//! "GGUF" · version u32 · tensors u64 · metadata u64
//! metadata × (key: string · type u32 · value)
//! tensors  × (name: string · dimensions u32 · ne u64 each, innermost first · ggml_type u32 · offset u64)
//! padding to `general.alignment` (32 when not given)
//! data: each tensor at its offset from here, a multiple of the alignment
//! ```
//! A string is a length u64 and UTF-8 bytes. Everything is little-endian.
//! Specification: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod metadata;
mod value;
mod write;

use std::collections::HashSet;

use wootz_kernels::DType;

pub use metadata::GgufMetadata;
pub use value::{Array, Strings, Value};
pub use write::write;

use crate::bytes::Reader;
use crate::error::quoted;
use crate::tensor::{TensorEntry, bytes_of};
use crate::{Error, ErrorKind};

/// The first four bytes of a GGUF file.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// Where a tensor's data may start when the file does not say.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The format's own limits: a key's and a tensor name's bytes, and the dimensions of ggml.
const LONGEST_KEY: u64 = 65_535;
const LONGEST_NAME: u64 = 65_535;
const MOST_DIMENSIONS: u32 = 4;
/// The smallest metadata entry (empty key, one byte) and tensor entry (empty name, no dimension).
const ENTRY_BYTES: usize = 8 + 4 + 1;
const TENSOR_BYTES: usize = 8 + 4 + 4 + 8;

/// What a GGUF file holds, its tensors as places in the file.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// Keys and values, the format's version among them.
    pub metadata: GgufMetadata,
    /// In the order of the file.
    pub tensors: Vec<TensorEntry>,
}

/// Reads a whole GGUF file: its header, and that each tensor lies inside it.
pub fn parse(file: &[u8]) -> Result<Gguf, Error> {
    let mut r = Reader::new(file);
    let magic = r.take(4).map_err(|_| Error::invalid("is too short for a GGUF file"))?;
    if magic != MAGIC {
        return Err(Error::invalid(format!("expected the magic \"GGUF\", found {magic:02x?}")));
    }
    let version = r.u32()?;
    check_version(version)?;
    let n_tensors = r.u64()?;
    let n_entries = r.u64()?;
    r.check_count(n_entries, ENTRY_BYTES).map_err(|e| e.about("metadata"))?;
    r.check_count(n_tensors, TENSOR_BYTES).map_err(|e| e.about("list of tensors"))?;

    let mut metadata = GgufMetadata::new(version);
    for i in 0..n_entries {
        let key = string(&mut r, LONGEST_KEY).map_err(|e| e.about(format!("metadata entry {i}: key")))?;
        let value = value::read(&mut r).map_err(|e| e.about(format!("metadata key {}", quoted(key))))?;
        metadata.insert(key, value)?;
    }
    let alignment = alignment(&metadata)?;

    let mut heads = Vec::new();
    let mut names = HashSet::new();
    for i in 0..n_tensors {
        let head = tensor_head(&mut r).map_err(|e| e.about(format!("tensor entry {i}")))?;
        if !names.insert(head.name) {
            return Err(Error::invalid(format!("two tensors have the name {}", quoted(head.name))));
        }
        heads.push(head);
    }
    // A file without tensors (a vocabulary) may end here, before the padding.
    let data_start = (r.position() as u64)
        .checked_next_multiple_of(alignment)
        .ok_or_else(|| Error::invalid(format!("general.alignment {alignment} is too large")))?;
    let tensors = heads
        .into_iter()
        .map(|head| head.place(data_start, alignment, file.len()))
        .collect::<Result<Vec<_>, _>>()?;
    check_overlap(&tensors)?;
    Ok(Gguf { metadata, tensors })
}

fn check_version(version: u32) -> Result<(), Error> {
    match version {
        2 | 3 => Ok(()),
        1 => Err(Error::unsupported(
            "GGUF version 1 is not read, versions 2 and 3 are; convert the model anew with llama.cpp's converter",
        )),
        v if matches!(v.swap_bytes(), 1..=3) => {
            Err(Error::unsupported("this GGUF file is big-endian; only little-endian files are read"))
        }
        v => Err(Error::unsupported(format!("GGUF version {v} is not known, versions 2 and 3 are read"))),
    }
}

fn alignment(metadata: &GgufMetadata) -> Result<u64, Error> {
    let alignment = metadata.find_u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() {
        return Err(Error::invalid(format!("general.alignment: expected a power of two, found {alignment}")));
    }
    Ok(alignment)
}

/// A length and that many bytes of UTF-8.
fn string<'a>(r: &mut Reader<'a>, longest: u64) -> Result<&'a str, Error> {
    let len = r.u64()?;
    if len > longest {
        return Err(Error::invalid(format!("{len} bytes long, at most {longest} are allowed")));
    }
    let bytes = r.take(len)?;
    std::str::from_utf8(bytes)
        .map_err(|e| Error::invalid(format!("not UTF-8 (byte {} of {})", e.valid_up_to(), bytes.len())))
}

/// A tensor's entry in the header, before its place is checked.
struct TensorHead<'a> {
    name: &'a str,
    dtype: DType,
    shape: Vec<usize>,
    offset: u64,
}

fn tensor_head<'a>(r: &mut Reader<'a>) -> Result<TensorHead<'a>, Error> {
    let name = string(r, LONGEST_NAME).map_err(|e| e.about("name"))?;
    let about = |e: Error| e.about(quoted(name));
    let n_dims = r.u32().map_err(about)?;
    if n_dims > MOST_DIMENSIONS {
        return Err(about(Error::invalid(format!(
            "{n_dims} dimensions, at most {MOST_DIMENSIONS} are allowed"
        ))));
    }
    let mut shape = Vec::new();
    for _ in 0..n_dims {
        let n = r.u64().map_err(about)?;
        // ggml counts in i64, and a tensor without elements stands for nothing.
        match usize::try_from(n) {
            Ok(n) if n > 0 && n <= isize::MAX as usize => shape.push(n),
            _ => return Err(about(Error::invalid(format!("a dimension of {n}")))),
        }
    }
    shape.reverse(); // GGUF lists the innermost dimension first
    let type_id = r.u32().map_err(about)?;
    let dtype = DType::from_gguf_id(type_id).ok_or_else(|| about(unknown_type(type_id)))?;
    let offset = r.u64().map_err(about)?;
    Ok(TensorHead { name, dtype, shape, offset })
}

impl TensorHead<'_> {
    /// Checks that the tensor lies inside the file, at a place where it may lie.
    fn place(self, data_start: u64, alignment: u64, file_len: usize) -> Result<TensorEntry, Error> {
        let TensorHead { name, dtype, shape, offset } = self;
        let bytes = bytes_of(name, dtype, &shape)?;
        if !offset.is_multiple_of(alignment) {
            return Err(Error::invalid(format!(
                "tensor {}: offset {offset} is not a multiple of the alignment {alignment}",
                quoted(name)
            )));
        }
        let start = data_start.checked_add(offset).and_then(|start| usize::try_from(start).ok());
        match start.and_then(|start| Some(start..start.checked_add(bytes)?)) {
            Some(range) if range.end <= file_len => {
                Ok(TensorEntry { name: name.to_owned(), dtype, shape, range })
            }
            _ => Err(Error::invalid(format!(
                "tensor {}: {bytes} bytes at offset {offset} of the data, which starts at {data_start}, reach beyond \
                 the file's {file_len} bytes; is it cut short?",
                quoted(name)
            ))),
        }
    }
}

/// Two tensors in one place cannot both be what they claim.
fn check_overlap(tensors: &[TensorEntry]) -> Result<(), Error> {
    let mut order: Vec<&TensorEntry> = tensors.iter().collect();
    order.sort_by_key(|t| t.range.start);
    match order.windows(2).find(|w| w[0].range.end > w[1].range.start) {
        None => Ok(()),
        Some(w) => Err(Error::invalid(format!(
            "tensors {} and {} overlap: bytes {:?} and {:?} of the file",
            quoted(&w[0].name),
            quoted(&w[1].name),
            w[0].range,
            w[1].range
        ))),
    }
}

/// Types of ggml that wootz does not read, so that an error can name them.
const OTHER_TYPES: &[(u32, &str)] = &[
    (4, "Q4_2, removed from ggml"),
    (5, "Q4_3, removed from ggml"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4, removed from ggml"),
    (32, "Q4_0_4_8, removed from ggml"),
    (33, "Q4_0_8_8, removed from ggml"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4, removed from ggml"),
    (37, "IQ4_NL_4_8, removed from ggml"),
    (38, "IQ4_NL_8_8, removed from ggml"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

fn unknown_type(id: u32) -> Error {
    let name =
        OTHER_TYPES.iter().find(|(other, _)| *other == id).map_or("unknown to wootz", |(_, name)| name);
    let supported: Vec<&str> = DType::all().filter(|d| d.gguf_id().is_some()).map(DType::name).collect();
    Error::new(
        ErrorKind::Unsupported,
        format!("tensor type {id} ({name}) is not supported; supported are {}", supported.join(" ")),
    )
}
