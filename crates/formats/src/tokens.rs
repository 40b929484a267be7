//! Files of token ids: llm.c's shards, and plain numbers without a header.
//!
//! | first number | then | ids |
//! |---|---|---|
//! | 20240520 | version 1, count, zeros up to 1024 bytes | u16 |
//! | 20240801 | version 7, count, zeros up to 1024 bytes | u32 |
//! | an id | ids up to the end | i32 (llm.c's first form), or u32 |
//!
//! Source: `data_common.py` of <https://github.com/karpathy/llm.c/tree/master/dev/data>.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::bytes::{Reader, leading_u32};
use crate::llmc::HEADER_BYTES;
use crate::mmap::Mmap;

/// First number of a shard of u16 ids, whose version is 1.
pub const U16_MAGIC: u32 = 20_240_520;
/// First number of a shard of u32 ids, whose version is 7.
pub const U32_MAGIC: u32 = 20_240_801;

/// How ids are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFormat {
    /// llm.c's shard with u16 ids.
    ShardU16,
    /// llm.c's shard with u32 ids.
    ShardU32,
    /// 32-bit numbers and nothing else.
    Plain32,
}

impl TokenFormat {
    /// Bytes of an id.
    pub fn width(self) -> usize {
        match self {
            TokenFormat::ShardU16 => 2,
            TokenFormat::ShardU32 | TokenFormat::Plain32 => 4,
        }
    }

    fn decode(self, bytes: &[u8], out: &mut [u32]) {
        match self {
            TokenFormat::ShardU16 => {
                for (id, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *id = u16::from_le_bytes(*b).into();
                }
            }
            TokenFormat::ShardU32 | TokenFormat::Plain32 => {
                for (id, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *id = u32::from_le_bytes(*b);
                }
            }
        }
    }
}

/// Finds out how the ids are stored and where they are.
pub fn parse(file: &[u8]) -> Result<(TokenFormat, Range<usize>), Error> {
    let (format, expected_version) = match leading_u32(file) {
        Some(U16_MAGIC) => (TokenFormat::ShardU16, 1),
        Some(U32_MAGIC) => (TokenFormat::ShardU32, 7),
        _ => return parse_plain(file),
    };
    let mut r = Reader::new(file);
    r.take(4)?;
    let version = r.u32()?;
    if version != expected_version {
        return Err(Error::unsupported(format!(
            "token shard version {version} is not known, {expected_version} is read"
        )));
    }
    let count = r.u32()?;
    let bytes = u64::from(count) * format.width() as u64;
    let found = file.len().checked_sub(HEADER_BYTES).ok_or_else(|| {
        Error::invalid(format!(
            "a token shard has {HEADER_BYTES} bytes of header, the file has {}",
            file.len()
        ))
    })?;
    if bytes != found as u64 {
        return Err(Error::invalid(format!(
            "the header says {count} tokens, which take {bytes} bytes; {found} follow it"
        )));
    }
    Ok((format, HEADER_BYTES..file.len()))
}

/// 32-bit ids and nothing else. Whether they are signed does not matter: an id is never negative, and one that
/// is reads as a number beyond every vocabulary.
fn parse_plain(file: &[u8]) -> Result<(TokenFormat, Range<usize>), Error> {
    if !file.len().is_multiple_of(4) {
        return Err(Error::invalid(format!(
            "expected 32-bit token ids, found {} bytes, which is not a multiple of 4",
            file.len()
        )));
    }
    Ok((TokenFormat::Plain32, 0..file.len()))
}

/// An open file of token ids.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    map: Mmap,
    format: TokenFormat,
    range: Range<usize>,
}

impl Tokens {
    /// Opens a shard, or a file of plain 32-bit ids.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, parse)
    }

    /// Opens a file of plain 32-bit ids, whatever its first number is.
    pub fn open_plain(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, parse_plain)
    }

    fn open_with(
        path: &Path,
        parse: impl Fn(&[u8]) -> Result<(TokenFormat, Range<usize>), Error>,
    ) -> Result<Self, Error> {
        let map = Mmap::open(path)?;
        let (format, range) = parse(&map).map_err(|e| e.in_file(path))?;
        Ok(Tokens { path: path.to_owned(), map, format, range })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How ids are stored.
    pub fn format(&self) -> TokenFormat {
        self.format
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.range.len() / self.format.width()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The ids from `start` on that go into `out`; fails when there are fewer.
    pub fn read(&self, start: usize, out: &mut [u32]) -> Result<(), Error> {
        let width = self.format.width();
        let bytes = start
            .checked_add(out.len())
            .filter(|&end| end <= self.len())
            .map(|end| &self.map[self.range.clone()][start * width..end * width])
            .ok_or_else(|| {
                Error::invalid(format!("{} tokens from {start} on: there are {}", out.len(), self.len()))
                    .in_file(&self.path)
            })?;
        self.format.decode(bytes, out);
        Ok(())
    }

    /// All ids.
    pub fn to_vec(&self) -> Vec<u32> {
        let mut ids = vec![0; self.len()];
        self.format.decode(&self.map[self.range.clone()], &mut ids);
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(magic: u32, version: u32, count: u32, bytes: usize) -> Vec<u8> {
        let mut file: Vec<u8> = [magic, version, count].iter().flat_map(|n| n.to_le_bytes()).collect();
        file.resize(HEADER_BYTES + bytes, 0);
        file
    }

    #[test]
    fn count_must_match_the_length() {
        assert_eq!(parse(&shard(U16_MAGIC, 1, 3, 6)).unwrap(), (TokenFormat::ShardU16, 1024..1030));
        assert_eq!(parse(&shard(U32_MAGIC, 7, 3, 12)).unwrap(), (TokenFormat::ShardU32, 1024..1036));
        for bad in [
            shard(U16_MAGIC, 1, 3, 12),
            shard(U16_MAGIC, 7, 3, 6),
            shard(U32_MAGIC, 7, u32::MAX, 12),
            shard(U32_MAGIC, 7, 0, 0)[..1000].to_vec(),
            vec![0; 5],
        ] {
            assert!(parse(&bad).is_err());
        }
        assert_eq!(parse(&[]).unwrap(), (TokenFormat::Plain32, 0..0));
    }
}
