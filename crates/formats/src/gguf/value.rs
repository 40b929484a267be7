//! Metadata values. Arrays keep their element type: a vocabulary of 150 000 strings is two allocations.

use crate::Error;
use crate::bytes::Reader;

/// Arrays of arrays deeper than this are refused: no writer makes them, and reading them is recursive.
const DEEPEST: usize = 8;
/// The smallest string (its length alone) and the smallest array (element type and length).
const STRING_BYTES: usize = 8;
const ARRAY_BYTES: usize = 4 + 8;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each variant is its type
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array of metadata values, all of one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each variant is its type
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Strings),
    Array(Vec<Array>),
}

/// Many strings in one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// Where string `i` ends in `text`.
    ends: Vec<usize>,
}

impl Strings {
    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `i`.
    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)?;
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }

    /// All strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let string = &self.text[start..end];
            start = end;
            string
        })
    }

    fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }
}

impl<'a> FromIterator<&'a str> for Strings {
    fn from_iter<I: IntoIterator<Item = &'a str>>(strings: I) -> Self {
        let mut all = Strings::default();
        strings.into_iter().for_each(|s| all.push(s));
        all
    }
}

impl Array {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::F64(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
            Array::Array(v) => v.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the elements are: `i32`, `string`.
    pub fn element_type(&self) -> &'static str {
        match self {
            Array::U8(_) => "u8",
            Array::I8(_) => "i8",
            Array::U16(_) => "u16",
            Array::I16(_) => "i16",
            Array::U32(_) => "u32",
            Array::I32(_) => "i32",
            Array::U64(_) => "u64",
            Array::I64(_) => "i64",
            Array::F32(_) => "f32",
            Array::F64(_) => "f64",
            Array::Bool(_) => "bool",
            Array::String(_) => "string",
            Array::Array(_) => "array",
        }
    }
}

impl Value {
    /// What the value is: `u32`, `array of string`.
    pub fn type_name(&self) -> String {
        let name = match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F32(_) => "f32",
            Value::F64(_) => "f64",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Array(array) => return format!("array of {}", array.element_type()),
        };
        name.to_owned()
    }
}

/// A value with its type before it.
pub(super) fn read(r: &mut Reader<'_>) -> Result<Value, Error> {
    let type_id = r.u32()?;
    Ok(match type_id {
        0 => Value::U8(r.u8()?),
        1 => Value::I8(r.u8()? as i8),
        2 => Value::U16(r.u16()?),
        3 => Value::I16(r.u16()? as i16),
        4 => Value::U32(r.u32()?),
        5 => Value::I32(r.i32()?),
        6 => Value::F32(f32::from_bits(r.u32()?)),
        7 => Value::Bool(bool_of(r.u8()?)?),
        8 => Value::String(super::string(r, u64::MAX)?.to_owned()),
        9 => Value::Array(read_array(r, 0)?),
        10 => Value::U64(r.u64()?),
        11 => Value::I64(r.u64()? as i64),
        12 => Value::F64(f64::from_bits(r.u64()?)),
        id => return Err(unknown_type(id)),
    })
}

/// An array: element type, length, elements.
fn read_array(r: &mut Reader<'_>, depth: usize) -> Result<Array, Error> {
    if depth == DEEPEST {
        return Err(Error::invalid(format!("arrays nested more than {DEEPEST} deep")));
    }
    let type_id = r.u32()?;
    let len = r.u64()?;
    Ok(match type_id {
        0 => Array::U8(r.take_items(len, 1)?.to_vec()),
        1 => Array::I8(numbers(r, len, i8::from_le_bytes)?),
        2 => Array::U16(numbers(r, len, u16::from_le_bytes)?),
        3 => Array::I16(numbers(r, len, i16::from_le_bytes)?),
        4 => Array::U32(numbers(r, len, u32::from_le_bytes)?),
        5 => Array::I32(numbers(r, len, i32::from_le_bytes)?),
        6 => Array::F32(numbers(r, len, f32::from_le_bytes)?),
        7 => Array::Bool(r.take_items(len, 1)?.iter().map(|&b| bool_of(b)).collect::<Result<_, _>>()?),
        8 => Array::String(read_strings(r, len)?),
        9 => {
            r.check_count(len, ARRAY_BYTES)?;
            let mut arrays = Vec::new(); // grows with what is read: an element here is larger than in the file
            for i in 0..len {
                arrays.push(read_array(r, depth + 1).map_err(|e| e.about(format!("element {i}")))?);
            }
            Array::Array(arrays)
        }
        10 => Array::U64(numbers(r, len, u64::from_le_bytes)?),
        11 => Array::I64(numbers(r, len, i64::from_le_bytes)?),
        12 => Array::F64(numbers(r, len, f64::from_le_bytes)?),
        id => return Err(unknown_type(id)),
    })
}

fn numbers<const N: usize, T>(
    r: &mut Reader<'_>,
    len: u64,
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>, Error> {
    Ok(r.take_items(len, N)?.as_chunks::<N>().0.iter().map(|&b| decode(b)).collect())
}

/// Two passes: the lengths first, so that the text is allocated once and at its size.
fn read_strings(r: &mut Reader<'_>, len: u64) -> Result<Strings, Error> {
    r.check_count(len, STRING_BYTES)?;
    let mut ahead = r.clone();
    let mut bytes = 0;
    for i in 0..len {
        let string = ahead.u64().and_then(|n| ahead.take(n)).map_err(|e| e.about(format!("string {i}")))?;
        bytes += string.len();
    }
    let mut all = Strings { text: String::with_capacity(bytes), ends: Vec::with_capacity(len as usize) };
    for i in 0..len {
        all.push(super::string(r, u64::MAX).map_err(|e| e.about(format!("string {i}")))?);
    }
    Ok(all)
}

fn bool_of(byte: u8) -> Result<bool, Error> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        b => Err(Error::invalid(format!("expected a bool (0 or 1), found {b}"))),
    }
}

fn unknown_type(id: u32) -> Error {
    Error::invalid(format!("value type {id} is not known (0 to 12 are)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_by_index_and_in_order() {
        let strings: Strings = ["a", "", "çé"].into_iter().collect();
        assert_eq!(strings.iter().collect::<Vec<_>>(), ["a", "", "çé"]);
        assert_eq!((strings.get(1), strings.get(2), strings.get(3)), (Some(""), Some("çé"), None));
    }

    #[test]
    fn nesting_has_an_end() {
        let mut bytes = vec![9, 0, 0, 0];
        for _ in 0..1000 {
            bytes.extend([9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        }
        bytes.extend([4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let error = read(&mut Reader::new(&bytes)).unwrap_err().to_string();
        assert!(error.contains("nested more than 8 deep"), "{error}");
    }

    #[test]
    fn arrays_of_arrays() {
        let mut bytes = vec![9, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5, 6]);
        bytes.extend([7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        let value = read(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(value, Value::Array(Array::Array(vec![Array::U8(vec![5, 6]), Array::Bool(vec![true])])));
    }
}
