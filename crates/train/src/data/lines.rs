//! Lines of JSON.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Context as _, Result, fail};

/// Bytes of a line, at the most.
const LONGEST_LINE: u64 = 256 << 20;
/// Bytes that are read at once.
const READ: usize = 256 << 10;
/// What some editors write before a text, to say that it is UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();

/// The lines of a file that are not blank.
pub(super) struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    line: u64,
    bytes: u64,
}

impl Lines {
    /// Begins to read.
    pub fn open(path: &Path) -> Result<Lines> {
        let file = File::open(path).context(|| format!("{}: cannot open", path.display()))?;
        Ok(Lines { path: path.to_owned(), file: BufReader::with_capacity(READ, file), line: 0, bytes: 0 })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that were read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line and its number, from 1; none at the end.
    pub fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.file).take(LONGEST_LINE).read_until(b'\n', &mut line);
            let read = read.context(|| format!("{}: cannot read", self.path.display()))?;
            self.line += 1;
            self.bytes += read as u64;
            if read as u64 == LONGEST_LINE {
                let place = format!("{}:{}", self.path.display(), self.line);
                fail!("{place}: the line is longer than {} MiB", LONGEST_LINE >> 20);
            }
            if read == 0 {
                return Ok(None);
            }
            if self.line == 1 && line.starts_with(BYTE_ORDER_MARK) {
                line.drain(..BYTE_ORDER_MARK.len());
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some((self.line, line)));
            }
        }
    }
}

/// The JSON object in a line, or why there is none. `number` is that of the line.
pub(super) fn object_of(line: &[u8], number: u64) -> Result<Map<String, Value>, String> {
    let line = std::str::from_utf8(line)
        .map_err(|error| format!("expected UTF-8, found the byte 0x{:02X}", line[error.valid_up_to()]))?;
    if number == 1 && line.trim_start().starts_with('[') {
        return Err("expected a JSON object a line, found a list; `jq -c '.[]'` makes lines of it".to_owned());
    }
    match serde_json::from_str(line).map_err(|error| format!("is no JSON: {error}"))? {
        Value::Object(object) => Ok(object),
        _ => Err("expected a JSON object".to_owned()),
    }
}
