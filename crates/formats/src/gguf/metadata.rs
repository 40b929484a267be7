//! Keys and values of a GGUF file, with getters that say what is wrong.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::value::{Array, Strings, Value};
use crate::Error;
use crate::error::quoted;

/// The metadata of a GGUF file, in the order of the file.
///
/// For each type there are two getters: `get_…` wants the key to be there, `find_…` gives `None` when it is
/// not. Both fail, naming file, key, expected and found type, when the value is of another type.
#[derive(Clone, Debug, Default)]
pub struct GgufMetadata {
    version: u32,
    file: Option<PathBuf>,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

/// A getter pair of one type.
macro_rules! getters {
    ($($get:ident $find:ident ($what:literal): $type:ty = $convert:expr;)*) => {$(
        #[doc = concat!("The value of `key`: ", $what, ".")]
        pub fn $get(&self, key: &str) -> Result<$type, Error> {
            self.$find(key)?.ok_or_else(|| self.missing(key, $what))
        }

        #[doc = concat!("The value of `key`, if it is there: ", $what, ".")]
        pub fn $find(&self, key: &str) -> Result<Option<$type>, Error> {
            self.find(key, $what, $convert)
        }
    )*};
}

impl GgufMetadata {
    pub(super) fn new(version: u32) -> Self {
        GgufMetadata { version, ..Default::default() }
    }

    pub(super) fn insert(&mut self, key: &str, value: Value) -> Result<(), Error> {
        if self.index.insert(key.to_owned(), self.entries.len()).is_some() {
            return Err(Error::invalid(format!("metadata key {} is there twice", quoted(key))));
        }
        self.entries.push((key.to_owned(), value));
        Ok(())
    }

    /// Lets errors of the getters name the file.
    pub(crate) fn set_file(&mut self, path: &Path) {
        self.file = Some(path.to_owned());
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All keys and values, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of `key`, of whatever type.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    getters! {
        get_u64 find_u64 ("a whole number that is not negative"): u64 = as_u64;
        get_f32 find_f32 ("a float"): f32 = |v| match *v {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        };
        get_bool find_bool ("a bool"): bool = |v| match *v {
            Value::Bool(b) => Some(b),
            _ => None,
        };
        get_str find_str ("a string"): &str = |v| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        };
        get_strings find_strings ("an array of strings"): &Strings = |v| match v {
            Value::Array(Array::String(s)) => Some(s),
            _ => None,
        };
        get_f32s find_f32s ("an array of f32"): &[f32] = |v| match v {
            Value::Array(Array::F32(x)) => Some(x.as_slice()),
            _ => None,
        };
        get_bools find_bools ("an array of bools"): &[bool] = |v| match v {
            Value::Array(Array::Bool(b)) => Some(b.as_slice()),
            _ => None,
        };
        get_i32s find_i32s ("an array of integers that fit into i32"): Cow<'_, [i32]> = as_i32s;
    }

    fn find<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.named(Error::invalid(format!(
                "metadata key {}: expected {expected}, found {}",
                quoted(key),
                found(value)
            )))),
        }
    }

    fn missing(&self, key: &str, expected: &str) -> Error {
        self.named(Error::missing(format!(
            "metadata key {} is missing; it should be {expected}",
            quoted(key)
        )))
    }

    fn named(&self, error: Error) -> Error {
        match &self.file {
            Some(path) => error.in_file(path),
            None => error,
        }
    }
}

/// Type and, for a number, value: `i32 -1`.
fn found(value: &Value) -> String {
    let name = value.type_name();
    match value {
        Value::I8(n) => format!("{name} {n}"),
        Value::I16(n) => format!("{name} {n}"),
        Value::I32(n) => format!("{name} {n}"),
        Value::I64(n) => format!("{name} {n}"),
        _ => name,
    }
}

fn as_u64(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::U32(n) => Some(n.into()),
        Value::U64(n) => Some(n),
        Value::I8(n) => n.try_into().ok(),
        Value::I16(n) => n.try_into().ok(),
        Value::I32(n) => n.try_into().ok(),
        Value::I64(n) => n.try_into().ok(),
        Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
    }
}

fn as_i32s(value: &Value) -> Option<Cow<'_, [i32]>> {
    fn all<T: Copy + TryInto<i32>>(numbers: &[T]) -> Option<Cow<'static, [i32]>> {
        numbers.iter().map(|&n| n.try_into().ok()).collect::<Option<Vec<i32>>>().map(Cow::Owned)
    }
    let Value::Array(array) = value else { return None };
    match array {
        Array::I32(n) => Some(Cow::Borrowed(n)),
        Array::U8(n) => all(n),
        Array::I8(n) => all(n),
        Array::U16(n) => all(n),
        Array::I16(n) => all(n),
        Array::U32(n) => all(n),
        Array::U64(n) => all(n),
        Array::I64(n) => all(n),
        Array::F32(_) | Array::F64(_) | Array::Bool(_) | Array::String(_) | Array::Array(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn sample() -> GgufMetadata {
        let mut m = GgufMetadata::new(3);
        m.insert("n", Value::U32(7)).unwrap();
        m.insert("minus", Value::I32(-1)).unwrap();
        m.insert("types", Value::Array(Array::U32(vec![1, 3]))).unwrap();
        m.insert("big", Value::Array(Array::U32(vec![u32::MAX]))).unwrap();
        m.set_file(Path::new("m.gguf"));
        m
    }

    #[test]
    fn getters_convert_what_loses_nothing() {
        let m = sample();
        assert_eq!(m.get_u64("n").unwrap(), 7);
        assert_eq!(m.find_u64("absent").unwrap(), None);
        assert_eq!(*m.get_i32s("types").unwrap(), [1, 3]);
    }

    #[test]
    fn errors_name_file_key_expected_and_found() {
        let m = sample();
        let text = |e: Error| e.to_string();
        assert_eq!(
            text(m.get_u64("minus").unwrap_err()),
            "m.gguf: metadata key \"minus\": expected a whole number that is not negative, found i32 -1"
        );
        assert_eq!(
            text(m.find_str("types").unwrap_err()),
            "m.gguf: metadata key \"types\": expected a string, found array of u32"
        );
        assert!(m.get_i32s("big").is_err());
        assert_eq!(m.get_str("absent").unwrap_err().kind(), ErrorKind::Missing);
    }

    #[test]
    fn keys_are_unique() {
        assert!(sample().insert("n", Value::U32(8)).is_err());
    }
}
