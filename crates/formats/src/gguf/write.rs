//! Writing GGUF version 3: keys and values as they are given, tensors as they come.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use super::value::{Array, Value};
use super::{DEFAULT_ALIGNMENT, LONGEST_KEY, LONGEST_NAME, MAGIC, MOST_DIMENSIONS};
use crate::error::quoted;
use crate::tensor::{Fill, TensorSpec, bytes_of, write_exactly};
use crate::{Error, write_atomically};

const VERSION: u32 = 3;

/// Writes a GGUF file, whole or not at all: `metadata` in its order, and the tensors that `fill` gives, in theirs.
///
/// Each tensor starts at a multiple of `general.alignment`, which is 32 unless `metadata` says otherwise.
///
/// # Errors
/// Before anything is written: a key or a tensor's name that is there twice or too long, a type that GGUF does not
/// have, more than four dimensions or an empty one, an alignment that is no power of two. On the way: what `fill` fails
/// with, or that it wrote too little or too much.
pub fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[TensorSpec],
    fill: &mut Fill<'_>,
) -> Result<(), Error> {
    let alignment = alignment(metadata).map_err(|e| e.in_file(path))?;
    let (head, lengths) = head(metadata, tensors, alignment).map_err(|e| e.in_file(path))?;
    write_atomically(path, |file| {
        file.write_all(&head)?;
        for (index, (spec, &length)) in tensors.iter().zip(&lengths).enumerate() {
            write_exactly(file, index, spec, length, fill)?;
            let padding = length.next_multiple_of(alignment) - length;
            file.write_all(&vec![0; padding])?;
        }
        Ok(())
    })
}

fn alignment(metadata: &[(String, Value)]) -> Result<usize, Error> {
    const KEY: &str = "general.alignment";
    /// The place of data in a file of more would be mostly padding.
    const MOST: u32 = 1 << 20;
    match metadata.iter().find(|(key, _)| key == KEY) {
        None => Ok(DEFAULT_ALIGNMENT as usize),
        Some((_, Value::U32(n))) if n.is_power_of_two() && *n <= MOST => Ok(*n as usize),
        Some((_, value)) => Err(Error::invalid(format!(
            "metadata key {KEY}: expected a u32 that is a power of two up to {MOST}, found {value:?}"
        ))),
    }
}

/// Everything before the data, padding included, and the bytes of each tensor.
fn head(
    metadata: &[(String, Value)],
    tensors: &[TensorSpec],
    alignment: usize,
) -> Result<(Vec<u8>, Vec<usize>), Error> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());

    let mut keys = HashSet::new();
    for (key, value) in metadata {
        let about = |what: &str| Error::invalid(format!("metadata key {}: {what}", quoted(key)));
        if !keys.insert(key) {
            return Err(about("is there twice"));
        }
        if key.len() as u64 > LONGEST_KEY {
            return Err(about(&format!("{} bytes long, at most {LONGEST_KEY} are allowed", key.len())));
        }
        put_string(&mut out, key);
        put_value(&mut out, value);
    }

    let mut names = HashSet::new();
    let mut lengths = Vec::with_capacity(tensors.len());
    let mut offset = 0usize;
    for TensorSpec { name, dtype, shape } in tensors {
        let about = |what: String| Error::invalid(format!("tensor {}: {what}", quoted(name)));
        if !names.insert(name) {
            return Err(about("its name is taken".to_owned()));
        }
        if name.len() as u64 > LONGEST_NAME {
            return Err(about(format!("a name of {} bytes, at most {LONGEST_NAME} are allowed", name.len())));
        }
        let dimensions = u32::try_from(shape.len()).unwrap_or(u32::MAX);
        if dimensions > MOST_DIMENSIONS || shape.contains(&0) {
            return Err(about(format!(
                "shape {shape:?}: expected at most {MOST_DIMENSIONS} dimensions, and none that is 0"
            )));
        }
        let Some(type_id) = dtype.gguf_id() else {
            return Err(Error::unsupported(format!("tensor {}: GGUF has no type {dtype}", quoted(name))));
        };
        let length = bytes_of(name, *dtype, shape)?;
        put_string(&mut out, name);
        out.extend(dimensions.to_le_bytes());
        shape.iter().rev().for_each(|&n| out.extend((n as u64).to_le_bytes())); // innermost first
        out.extend(type_id.to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        lengths.push(length);
        let end = length.checked_next_multiple_of(alignment).and_then(|length| offset.checked_add(length));
        let Some(end) = end else {
            return Err(about("the file would be larger than this machine can address".to_owned()));
        };
        offset = end;
    }
    if !tensors.is_empty() {
        out.resize(out.len().next_multiple_of(alignment), 0);
    }
    Ok((out, lengths))
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    out.extend((string.len() as u64).to_le_bytes());
    out.extend(string.as_bytes());
}

/// A value with its type before it.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |type_id: u32, bytes: &[u8]| {
        out.extend(type_id.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(n) => put(0, &n.to_le_bytes()),
        Value::I8(n) => put(1, &n.to_le_bytes()),
        Value::U16(n) => put(2, &n.to_le_bytes()),
        Value::I16(n) => put(3, &n.to_le_bytes()),
        Value::U32(n) => put(4, &n.to_le_bytes()),
        Value::I32(n) => put(5, &n.to_le_bytes()),
        Value::F32(x) => put(6, &x.to_le_bytes()),
        Value::Bool(b) => put(7, &[u8::from(*b)]),
        Value::U64(n) => put(10, &n.to_le_bytes()),
        Value::I64(n) => put(11, &n.to_le_bytes()),
        Value::F64(x) => put(12, &x.to_le_bytes()),
        Value::String(text) => {
            put(8, &[]);
            put_string(out, text);
        }
        Value::Array(array) => {
            put(9, &[]);
            put_array(out, array);
        }
    }
}

/// Element type, length, elements.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    let mut start = |type_id: u32| {
        out.extend(type_id.to_le_bytes());
        out.extend((array.len() as u64).to_le_bytes());
    };
    macro_rules! numbers {
        ($type_id:literal, $numbers:expr) => {{
            start($type_id);
            $numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(n) => numbers!(0, n),
        Array::I8(n) => numbers!(1, n),
        Array::U16(n) => numbers!(2, n),
        Array::I16(n) => numbers!(3, n),
        Array::U32(n) => numbers!(4, n),
        Array::I32(n) => numbers!(5, n),
        Array::F32(x) => numbers!(6, x),
        Array::U64(n) => numbers!(10, n),
        Array::I64(n) => numbers!(11, n),
        Array::F64(x) => numbers!(12, x),
        Array::Bool(b) => {
            start(7);
            out.extend(b.iter().map(|&b| u8::from(b)));
        }
        Array::String(strings) => {
            start(8);
            strings.iter().for_each(|string| put_string(out, string));
        }
        Array::Array(arrays) => {
            start(9);
            arrays.iter().for_each(|array| put_array(out, array));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Strings, parse};
    use super::*;
    use wootz_kernels::DType;

    /// A folder that is removed when it goes out of scope.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wootz-gguf-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn spec(name: &str, dtype: DType, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, shape: shape.to_vec() }
    }

    /// Tensor `i` is all bytes `i + 1`.
    fn written(name: &str, metadata: &[(String, Value)], tensors: &[TensorSpec]) -> Result<Vec<u8>, Error> {
        let scratch = Scratch::new(name);
        let path = scratch.0.join("a.gguf");
        write(&path, metadata, tensors, &mut |index, file| {
            let length = tensors[index].dtype.bytes(&tensors[index].shape).unwrap();
            file.write_all(&vec![index as u8 + 1; length])
        })?;
        Ok(std::fs::read(path).unwrap())
    }

    #[test]
    fn every_type_of_value_comes_back() {
        let strings: Strings = ["a", "", "çé"].into_iter().collect();
        let values = [
            Value::U8(1),
            Value::I8(-2),
            Value::U16(3),
            Value::I16(-4),
            Value::U32(5),
            Value::I32(-6),
            Value::U64(7 << 40),
            Value::I64(-8),
            Value::F32(1e-5),
            Value::F64(-0.1),
            Value::Bool(true),
            Value::String("Ġthe".into()),
            Value::Array(Array::U8(vec![1, 2])),
            Value::Array(Array::I8(vec![-1])),
            Value::Array(Array::U16(vec![])),
            Value::Array(Array::I16(vec![-3])),
            Value::Array(Array::U32(vec![4])),
            Value::Array(Array::I32(vec![-5, 6])),
            Value::Array(Array::U64(vec![7])),
            Value::Array(Array::I64(vec![-8])),
            Value::Array(Array::F32(vec![0.5])),
            Value::Array(Array::F64(vec![0.25])),
            Value::Array(Array::Bool(vec![true, false])),
            Value::Array(Array::String(strings)),
            Value::Array(Array::Array(vec![Array::U8(vec![9]), Array::Bool(vec![false])])),
        ];
        let metadata: Vec<_> =
            values.into_iter().enumerate().map(|(i, value)| (format!("key.{i}"), value)).collect();
        let parsed = parse(&written("values", &metadata, &[]).unwrap()).unwrap();
        let found: Vec<_> = parsed.metadata.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
        assert_eq!(found, metadata);
        assert_eq!(parsed.metadata.version(), 3);
    }

    #[test]
    fn tensors_are_aligned_and_in_order() {
        let tensors = [
            spec("b", DType::I8, &[3]),
            spec("a", DType::F16, &[2, 5]),
            spec("q", DType::Q8_0, &[2, 32]),
            spec("scalar", DType::F32, &[]),
        ];
        for alignment in [None, Some(8u32), Some(64)] {
            let metadata: Vec<_> =
                alignment.map(|n| ("general.alignment".to_owned(), Value::U32(n))).into_iter().collect();
            let bytes = written("aligned", &metadata, &tensors).unwrap();
            let parsed = parse(&bytes).unwrap();
            assert!(bytes.len().is_multiple_of(alignment.unwrap_or(32) as usize));
            for (i, (entry, spec)) in parsed.tensors.iter().zip(&tensors).enumerate() {
                assert_eq!((&entry.name, entry.dtype, &entry.shape), (&spec.name, spec.dtype, &spec.shape));
                assert!(entry.view(&bytes).bytes.iter().all(|&b| b == i as u8 + 1));
            }
        }
    }

    #[test]
    fn what_cannot_be_written_is_said_before_writing() {
        let one = [("k".to_owned(), Value::U8(1))];
        let twice = [one[0].clone(), one[0].clone()];
        let long = [("k".repeat(65_536), Value::U8(1))];
        let align = |value| [("general.alignment".to_owned(), value)];
        let a = || spec("a", DType::F32, &[1]);
        for (metadata, tensors, expected) in [
            (&twice[..], vec![], "\"k\": is there twice"),
            (&long, vec![], "65536 bytes long"),
            (&align(Value::U32(24)), vec![], "power of two"),
            (&align(Value::U64(32)), vec![], "expected a u32"),
            (&one, vec![a(), a()], "its name is taken"),
            (&one, vec![spec("a", DType::Bool, &[1])], "GGUF has no type BOOL"),
            (&one, vec![spec("a", DType::F32, &[1; 5])], "at most 4 dimensions"),
            (&one, vec![spec("a", DType::F32, &[0])], "none that is 0"),
            (&one, vec![spec("a", DType::Q8_0, &[33])], "multiple of 32"),
            (&one, vec![spec("a", DType::F32, &[usize::MAX, 2])], "overflows"),
        ] {
            let error = written("refused", metadata, &tensors).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("a.gguf"), "{error}");
        }
    }
}
