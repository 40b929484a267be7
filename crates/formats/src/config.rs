//! `config.json` and its kin: JSON beside the weights.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Error;

/// Reads a JSON object: `config.json`, `tokenizer_config.json`, `adapter_config.json`.
pub fn parse(json: &[u8]) -> Result<Value, Error> {
    let value: Value = serde_json::from_slice(json).map_err(|e| Error::invalid(format!("not JSON: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(Error::invalid("expected a JSON object")) }
}

/// Reads a JSON object from a file.
pub fn read(path: &Path) -> Result<Value, Error> {
    let json = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    parse(&json).map_err(|e| e.in_file(path))
}

/// As [`read`], `None` when there is no such file.
pub fn read_if_there(path: &Path) -> Result<Option<Value>, Error> {
    if path.exists() { read(path).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects() {
        assert!(parse(br#"{"a": [1, {"b": null}]}"#).is_ok());
        for bad in [&b"[]"[..], b"", b"{", b"{\"a\": NaN}", b"\xff", &b"[".repeat(100_000)] {
            assert!(parse(bad).is_err());
        }
    }
}
