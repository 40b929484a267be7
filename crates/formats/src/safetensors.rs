//! safetensors: a JSON header and the tensors' bytes.
//!
//! ```text
//! header length u64 · header: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, …, "__metadata__": {…}} · data
//! ```
//! Offsets count from the end of the header. The format demands that tensors neither overlap nor leave gaps, and
//! that names are unique. Specification: <https://huggingface.co/docs/safetensors>.
//!
//! The header is read here and not with the `safetensors` crate, which keeps the last of two equal names, adds up
//! offsets without overflow checks, and whose errors do not say which tensor is wrong. Tests compare the two.

use std::collections::HashSet;
use std::fmt;
use std::io::Write;
use std::path::Path;

use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use wootz_kernels::DType;

use crate::error::quoted;
use crate::tensor::{Fill, TensorEntry, TensorSpec, TensorView, bytes_of, write_exactly};
use crate::{Error, write_atomically};

/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;
/// The header's own length comes before it.
const LENGTH_BYTES: usize = 8;

/// safetensors' name of each type. Types that it has and wootz has not (8-bit floats and smaller) are refused by
/// name.
const TYPES: &[(DType, &str)] = &[
    (DType::F64, "F64"),
    (DType::F32, "F32"),
    (DType::F16, "F16"),
    (DType::BF16, "BF16"),
    (DType::I64, "I64"),
    (DType::I32, "I32"),
    (DType::I16, "I16"),
    (DType::I8, "I8"),
    (DType::U32, "U32"),
    (DType::U16, "U16"),
    (DType::U8, "U8"),
    (DType::Bool, "BOOL"),
];

/// What a safetensors file holds, its tensors as places in the file.
#[derive(Clone, Debug, Default)]
pub struct Safetensors {
    /// The strings of `__metadata__`.
    pub notes: Vec<(String, String)>,
    /// In the order of their bytes.
    pub tensors: Vec<TensorEntry>,
}

/// Whether the file starts as a safetensors file does: a plausible length, then an object.
pub fn looks_like(file: &[u8]) -> bool {
    let Some((len, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return false;
    };
    u64::from_le_bytes(*len) <= LONGEST_HEADER && rest.first() == Some(&b'{')
}

/// Reads a whole safetensors file: its header, and that the tensors fill the rest of it exactly.
pub fn parse(file: &[u8]) -> Result<Safetensors, Error> {
    let Some((len, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(Error::invalid("is too short for a safetensors file"));
    };
    let len = u64::from_le_bytes(*len);
    if len > LONGEST_HEADER {
        return Err(Error::invalid(format!(
            "a header of {len} bytes, at most {LONGEST_HEADER} are allowed; is this a safetensors file?"
        )));
    }
    let Some((header, data)) = rest.split_at_checked(len as usize) else {
        return Err(Error::invalid(format!(
            "a header of {len} bytes, and {} are left in the file; is it cut short?",
            rest.len()
        )));
    };
    let header: Header =
        serde_json::from_slice(header).map_err(|e| Error::invalid(format!("header: {e}")))?;
    let data_start = LENGTH_BYTES + len as usize;
    let mut tensors = header
        .tensors
        .into_iter()
        .map(|(name, info)| info.place(name, data_start, data.len()))
        .collect::<Result<Vec<_>, _>>()?;
    // Empty tensors share their start with the next one: they come first.
    tensors.sort_by_key(|t| (t.range.start, t.range.end));
    check_filled(&tensors, data_start, data.len())?;
    Ok(Safetensors { notes: header.notes, tensors })
}

/// Each byte of the data belongs to exactly one tensor.
fn check_filled(tensors: &[TensorEntry], data_start: usize, data_len: usize) -> Result<(), Error> {
    let mut end = data_start;
    for tensor in tensors {
        let start = tensor.range.start;
        if start != end {
            let what = if start < end { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(Error::invalid(format!(
                "tensor {} {what}: expected to start at byte {} of the data, found {}",
                quoted(&tensor.name),
                end - data_start,
                start - data_start
            )));
        }
        end = tensor.range.end;
    }
    if end - data_start != data_len {
        return Err(Error::invalid(format!(
            "the tensors take {} bytes, the file holds {data_len}",
            end - data_start
        )));
    }
    Ok(())
}

/// A tensor's entry in the header.
#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Info {
    fn place(self, name: String, data_start: usize, data_len: usize) -> Result<TensorEntry, Error> {
        let Info { dtype, shape, data_offsets: (begin, end) } = self;
        let dtype =
            TYPES.iter().find(|(_, text)| *text == dtype).map(|&(dtype, _)| dtype).ok_or_else(|| {
                let supported: Vec<&str> = TYPES.iter().map(|&(_, text)| text).collect();
                Error::unsupported(format!(
                    "tensor {}: type {} is not supported; supported are {}",
                    quoted(&name),
                    quoted(&dtype),
                    supported.join(" ")
                ))
            })?;
        let bytes = bytes_of(&name, dtype, &shape)?;
        if begin > end || end > data_len {
            return Err(Error::invalid(format!(
                "tensor {}: bytes {begin} to {end} of the data, of which the file holds {data_len}; is it cut short?",
                quoted(&name)
            )));
        }
        if end - begin != bytes {
            return Err(Error::invalid(format!(
                "tensor {}: {dtype} {shape:?} takes {bytes} bytes, its offsets {begin} to {end} hold {}",
                quoted(&name),
                end - begin
            )));
        }
        Ok(TensorEntry { name, dtype, shape, range: data_start + begin..data_start + end })
    }
}

/// The header as it stands in the file. A map type would drop the first of two equal names.
#[derive(Default)]
struct Header {
    notes: Vec<(String, String)>,
    tensors: Vec<(String, Info)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                let mut names = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom(format!("{} is there twice", quoted(&name))));
                    }
                    if name == "__metadata__" {
                        header.notes = map.next_value::<Notes>()?.0;
                    } else {
                        let info = map
                            .next_value()
                            .map_err(|e| de::Error::custom(format!("tensor {}: {e}", quoted(&name))))?;
                        header.tensors.push((name, info));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// `__metadata__`: strings by name, or null.
struct Notes(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Notes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NotesVisitor;
        impl<'de> Visitor<'de> for NotesVisitor {
            type Value = Notes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings in \"__metadata__\"")
            }

            fn visit_unit<E>(self) -> Result<Notes, E> {
                Ok(Notes(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Notes, A::Error> {
                let mut notes = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    notes.push(entry);
                }
                Ok(Notes(notes))
            }
        }
        deserializer.deserialize_any(NotesVisitor)
    }
}

/// Writes tensors and notes as a safetensors file, whole or not at all (see [`write_atomically`]).
///
/// Fails before anything is written when two tensors have one name, a type is not one of safetensors', or a
/// tensor's bytes are not as many as its shape says.
pub fn write(path: &Path, tensors: &[TensorView<'_>], notes: &[(&str, &str)]) -> Result<(), Error> {
    for tensor in tensors {
        if tensor.dtype.bytes(tensor.shape) != Some(tensor.bytes.len()) {
            return Err(Error::invalid(format!(
                "tensor {}: {} {:?} does not take {} bytes",
                quoted(tensor.name),
                tensor.dtype,
                tensor.shape,
                tensor.bytes.len()
            ))
            .in_file(path));
        }
    }
    let spec = |tensor: &TensorView<'_>| TensorSpec {
        name: tensor.name.to_owned(),
        dtype: tensor.dtype,
        shape: tensor.shape.to_vec(),
    };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    write_streamed(path, &specs, notes, &mut |index, file| file.write_all(tensors[index].bytes))
}

/// As [`write()`], with tensors that `fill` gives one after the other, in an order that the format chooses.
///
/// Fails before anything is written when two tensors have one name, a type is not one of safetensors', or a shape
/// overflows; and on the way, leaving nothing behind, when `fill` fails or writes too little or too much.
pub fn write_streamed(
    path: &Path,
    tensors: &[TensorSpec],
    notes: &[(&str, &str)],
    fill: &mut Fill<'_>,
) -> Result<(), Error> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    // Wide elements first, then each tensor starts at a multiple of its element's size.
    order.sort_by(|&a, &b| {
        let (a, b) = (&tensors[a], &tensors[b]);
        b.dtype.block_bytes().cmp(&a.dtype.block_bytes()).then_with(|| a.name.cmp(&b.name))
    });
    let in_order: Vec<&TensorSpec> = order.iter().map(|&index| &tensors[index]).collect();
    let (header, lengths) = header(&in_order, notes).map_err(|e| e.in_file(path))?;
    write_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (&index, &length) in order.iter().zip(&lengths) {
            write_exactly(file, index, &tensors[index], length, fill)?;
        }
        Ok(())
    })
}

/// The header, padded, and the bytes of each tensor.
fn header(tensors: &[&TensorSpec], notes: &[(&str, &str)]) -> Result<(Vec<u8>, Vec<usize>), Error> {
    let mut names = HashSet::from(["__metadata__"]);
    let mut infos = Vec::with_capacity(tensors.len());
    let mut lengths = Vec::with_capacity(tensors.len());
    let mut end = 0usize;
    for tensor in tensors {
        let about = |e: Error| e.about(format!("tensor {}", quoted(&tensor.name)));
        if !names.insert(&tensor.name) {
            return Err(about(Error::invalid("its name is taken")));
        }
        let Some(&(_, dtype)) = TYPES.iter().find(|(dtype, _)| *dtype == tensor.dtype) else {
            return Err(about(Error::unsupported(format!("safetensors has no type {}", tensor.dtype))));
        };
        let length = bytes_of(&tensor.name, tensor.dtype, &tensor.shape)?;
        let begin = end;
        let Some(after) = end.checked_add(length) else {
            return Err(about(Error::invalid("the file would be larger than this machine can address")));
        };
        end = after;
        lengths.push(length);
        let info = InfoOut { dtype, shape: &tensor.shape, data_offsets: (begin, end) };
        infos.push((tensor.name.as_str(), info));
    }
    let mut json = serde_json::to_vec(&HeaderOut { notes, infos })
        .map_err(|e| Error::invalid(format!("header: {e}")))?;
    json.resize(json.len().next_multiple_of(8), b' '); // so that the data starts at a multiple of 8
    Ok((json, lengths))
}

#[derive(Serialize)]
struct InfoOut<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: (usize, usize),
}

struct HeaderOut<'a> {
    notes: &'a [(&'a str, &'a str)],
    infos: Vec<(&'a str, InfoOut<'a>)>,
}

impl Serialize for HeaderOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.notes.is_empty() {
            let notes: serde_json::Map<_, _> =
                self.notes.iter().map(|&(k, v)| (k.to_owned(), v.into())).collect();
            map.serialize_entry("__metadata__", &notes)?;
        }
        for (name, info) in &self.infos {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

/// `model.safetensors.index.json`: which tensor is in which of a model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Tensor and file name, in the order of the index. Names are unique; a file name has no folder in it.
    pub weight_map: Vec<(String, String)>,
}

impl Index {
    /// Reads the index.
    pub fn parse(json: &[u8]) -> Result<Index, Error> {
        let raw: RawIndex = serde_json::from_slice(json).map_err(|e| Error::invalid(e.to_string()))?;
        let mut names = HashSet::new();
        for (name, file) in &raw.weight_map.0 {
            if !names.insert(name) {
                return Err(Error::invalid(format!("weight_map: {} is there twice", quoted(name))));
            }
            // An index must not reach outside its folder.
            let plain = !file.contains(['/', '\\', '\0', ':']) && file.ends_with(".safetensors");
            if !plain {
                return Err(Error::invalid(format!(
                    "weight_map: {}: expected the name of a .safetensors file in the same folder, found {}",
                    quoted(name),
                    quoted(file)
                )));
            }
        }
        if raw.weight_map.0.is_empty() {
            return Err(Error::invalid("weight_map is empty"));
        }
        Ok(Index { weight_map: raw.weight_map.0 })
    }

    /// The files in name order, each once.
    pub fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = self.weight_map.iter().map(|(_, file)| file.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        files
    }
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: Notes,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.resize(file.len() + data, 0);
        file
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let two = |a: &str, b: &str| format!("{{\"a\":{a},\"b\":{b}}}");
        let u8s = |n: usize, from: usize, to: usize| {
            format!(r#"{{"dtype":"U8","shape":[{n}],"data_offsets":[{from},{to}]}}"#)
        };
        for (header, data, expected) in [
            (two(&u8s(4, 0, 4), &u8s(4, 2, 6)), 6, "overlaps"),
            (two(&u8s(4, 0, 4), &u8s(4, 6, 10)), 10, "gap"),
            (two(&u8s(4, 0, 4), &u8s(4, 4, 8)), 9, "the tensors take 8 bytes, the file holds 9"),
            (two(&u8s(4, 0, 4), &u8s(4, 4, 8)), 7, "cut short"),
            (two(&u8s(4, 0, 4), &u8s(4, 8, 4)), 8, "bytes 8 to 4"),
            (two(&u8s(4, 0, 4), &u8s(3, 4, 8)), 8, "takes 3 bytes"),
            (two(&u8s(4, 0, 4), &u8s(usize::MAX, 4, usize::MAX)), 8, "cut short"),
            (two(&u8s(4, 0, 4), &u8s(4, 4, 8)).replace("\"b\"", "\"a\""), 8, "there twice"),
            (two(&u8s(4, 0, 4), &u8s(4, 4, 8)).replace("U8", "F8_E5M2"), 8, "F8_E5M2"),
            (two(&u8s(4, 0, 4), &u8s(4, 4, 8)).replace("[4]", "[-4]"), 8, "tensor \\\"a\\\""),
            (two(&u8s(4, 0, 4), &u8s(4, 4, 8)).replace("[4]", "[9223372036854775807,4]"), 8, "overflows"),
            (r#"{"__metadata__":{"a":1}}"#.to_owned(), 0, "string"),
            ("[]".to_owned(), 0, "an object of tensors"),
        ] {
            let error = parse(&file(&header, data)).expect_err(&header).to_string();
            assert!(error.contains(&expected.replace("\\\"", "\"")), "{header}: {error}");
        }
    }

    #[test]
    fn header_lengths_are_compared_with_the_file() {
        for len in [1, 100_000_000, 100_000_001, u64::MAX] {
            let error = parse(&len.to_le_bytes()).unwrap_err().to_string();
            assert!(error.contains("header of"), "{error}");
        }
        assert!(parse(&[0; 7]).is_err());
    }

    #[test]
    fn empty_tensors_and_scalars() {
        let header = r#"{"z":{"dtype":"F32","shape":[0,3],"data_offsets":[4,4]},
            "s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"__metadata__":{"format":"pt"}}"#;
        let parsed = parse(&file(header, 4)).unwrap();
        assert_eq!(parsed.tensors[0].name, "s");
        assert_eq!(parsed.tensors[1].shape, [0, 3]);
        assert_eq!(parsed.notes, [("format".to_owned(), "pt".to_owned())]);
    }

    #[test]
    fn an_index_stays_in_its_folder() {
        let index = |file: &str| Index::parse(format!(r#"{{"weight_map":{{"a":{file:?}}}}}"#).as_bytes());
        assert!(index("model-00001-of-00002.safetensors").is_ok());
        for file in
            ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "c:x.safetensors", "passwd", ""]
        {
            assert!(index(file).is_err(), "{file}");
        }
        assert!(Index::parse(b"{}").is_err());
        assert!(Index::parse(br#"{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}"#).is_err());
    }

    #[test]
    fn what_cannot_be_written_is_said_before_writing() {
        let path = Path::new("/nowhere/at/all.safetensors");
        let view = |name, dtype, shape, bytes| TensorView { name, dtype, shape, bytes };
        for (tensors, expected) in [
            (vec![view("a", DType::U8, &[1], &[0]); 2], "its name is taken"),
            (vec![view("a", DType::F32, &[1], &[0])], "does not take 1 bytes"),
            (vec![view("a", DType::Q8_0, &[32], &[0; 34])], "no type Q8_0"),
            (vec![view("__metadata__", DType::U8, &[1], &[0])], "its name is taken"),
        ] {
            let error = write(path, &tensors, &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_stream_of_the_wrong_length_leaves_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("wootz-stream-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let spec = |name: &str, shape: &[usize]| TensorSpec {
            name: name.into(),
            dtype: DType::U8,
            shape: shape.to_vec(),
        };
        let specs = [spec("b", &[2]), spec("a", &[3])];
        let write = |lengths: [usize; 2]| {
            write_streamed(&folder.join("t.safetensors"), &specs, &[], &mut |index, file| {
                (0..lengths[index]).try_for_each(|_| file.write_all(&[index as u8]))
            })
        };
        for wrong in [[1, 3], [2, 4]] {
            let error = write(wrong).unwrap_err();
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains("were written"), "{cause}");
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        }
        write([2, 3]).unwrap();
        let bytes = std::fs::read(folder.join("t.safetensors")).unwrap();
        let parsed = parse(&bytes).unwrap();
        let found: Vec<_> = parsed.tensors.iter().map(|t| (t.name.as_str(), t.view(&bytes).bytes)).collect();
        assert_eq!(found, [("a", &[1, 1, 1][..]), ("b", &[0, 0][..])]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
