//! Files of token ids: llm.c's shards, and plain numbers without a header.
//!
//! | first number | then | ids |
//! |---|---|---|
//! | 20240520 | version 1, count, zeros up to 1024 bytes | u16 |
//! | 20240801 | version 7 (or 1, of programs that took up llm.c's form), count, zeros up to 1024 bytes | u32 |
//! | an id | ids up to the end | i32 (llm.c's first form), or u32 |
//!
//! Source: `data_common.py` of <https://github.com/karpathy/llm.c/tree/master/dev/data>.

use std::io::{self, Seek as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::atomic::AtomicFile;
use crate::bytes::{Reader, leading_u32};
use crate::llmc::HEADER_BYTES;
use crate::mmap::Mmap;

/// First number of a shard of u16 ids, whose version is 1.
pub const U16_MAGIC: u32 = 20_240_520;
/// First number of a shard of u32 ids, whose version is 7, or 1.
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

    /// The shard that llm.c would write for a vocabulary of this size: u16 where every id fits.
    pub fn for_vocabulary(size: usize) -> Self {
        if size <= 1 << 16 { TokenFormat::ShardU16 } else { TokenFormat::ShardU32 }
    }

    /// One more than the largest id that fits.
    fn end(self) -> u64 {
        1 << (8 * self.width())
    }

    /// The first number and the version; none without a header.
    fn header(self) -> Option<[u32; 2]> {
        match self {
            TokenFormat::ShardU16 => Some([U16_MAGIC, 1]),
            TokenFormat::ShardU32 => Some([U32_MAGIC, 7]),
            TokenFormat::Plain32 => None,
        }
    }

    fn encode(self, ids: &[u32], bytes: &mut Vec<u8>) {
        match self {
            // `push` has checked that each fits
            TokenFormat::ShardU16 => bytes.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            TokenFormat::ShardU32 | TokenFormat::Plain32 => {
                bytes.extend(ids.iter().flat_map(|&id| id.to_le_bytes()));
            }
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
    let (format, versions) = match leading_u32(file) {
        Some(U16_MAGIC) => (TokenFormat::ShardU16, &[1][..]),
        Some(U32_MAGIC) => (TokenFormat::ShardU32, &[7, 1][..]),
        _ => return parse_plain(file),
    };
    let mut r = Reader::new(file);
    r.take(4)?;
    let version = r.u32()?;
    if !versions.contains(&version) {
        return Err(Error::unsupported(format!(
            "token shard version {version} is not known, {} is read",
            versions.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ")
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

/// Tokens of a shard, at the most: llm.c reads the count as a signed number.
pub const MAX_SHARD_TOKENS: u64 = i32::MAX as u64;

/// Writes a file of token ids piece by piece. It is at its path once [`TokenWriter::finish`] has returned, and not
/// before: when a writer is dropped, nothing is left of it and an older file stays as it was.
#[derive(Debug)]
pub struct TokenWriter {
    file: AtomicFile,
    format: TokenFormat,
    count: u64,
    bytes: Vec<u8>,
}

impl TokenWriter {
    /// Begins a file of this format.
    pub fn create(path: &Path, format: TokenFormat) -> Result<Self, Error> {
        let mut writer = TokenWriter { file: AtomicFile::create(path)?, format, count: 0, bytes: Vec::new() };
        if format.header().is_some() {
            let header = [0; HEADER_BYTES]; // the count is known at the end
            writer.write(|file| file.write_all(&header))?;
        }
        Ok(writer)
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut io::BufWriter<std::fs::File>) -> io::Result<()>,
    ) -> Result<(), Error> {
        write(&mut self.file.writer).map_err(|e| Error::io(self.file.path(), "write", e))
    }

    /// The file that this becomes.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// How many ids there are so far.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none so far.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends ids; fails for one that does not fit the format, and for more than a header can count.
    pub fn push(&mut self, ids: &[u32]) -> Result<(), Error> {
        let invalid = |what: String| Error::invalid(what).in_file(self.file.path());
        if let Some(id) = ids.iter().find(|&&id| u64::from(id) >= self.format.end()) {
            let width = self.format.width();
            return Err(invalid(format!("token id {id} does not fit into {width} bytes")));
        }
        let count = self.count + ids.len() as u64;
        if self.format.header().is_some() && count > MAX_SHARD_TOKENS {
            return Err(invalid(format!("{count} tokens; a shard holds {MAX_SHARD_TOKENS} at the most")));
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.format.encode(ids, &mut bytes);
        self.write(|file| file.write_all(&bytes))?;
        self.bytes = bytes;
        self.count = count;
        Ok(())
    }

    /// Writes the header and brings the file to its path; returns its number of ids.
    pub fn finish(mut self) -> Result<u64, Error> {
        if let Some([magic, version]) = self.format.header() {
            let count = self.count as u32; // `push` has kept it below MAX_SHARD_TOKENS
            self.write(|file| {
                file.rewind()?;
                [magic, version, count].iter().try_for_each(|n| file.write_all(&n.to_le_bytes()))
            })?;
        }
        self.file.commit()?;
        Ok(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = std::env::temp_dir().join(format!("wootz-tokens-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("f.bin");
        for (format, ids) in [
            (TokenFormat::ShardU16, vec![0, 65_535, 7]),
            (TokenFormat::ShardU32, vec![u32::MAX, 0, 1 << 20]),
            (TokenFormat::Plain32, vec![3, 1, 1 << 30]),
            (TokenFormat::ShardU16, vec![]),
        ] {
            let mut writer = TokenWriter::create(&path, format).unwrap();
            let (first, rest) = ids.split_at(ids.len() / 2);
            writer.push(first).unwrap();
            writer.push(rest).unwrap();
            assert_eq!((writer.len(), writer.is_empty()), (ids.len() as u64, ids.is_empty()));
            assert_eq!(writer.finish().unwrap(), ids.len() as u64);
            let read = Tokens::open(&path).unwrap();
            assert_eq!((read.format(), read.to_vec()), (format, ids));
        }
        // A writer that is given up leaves the older file, and nothing beside it.
        let mut writer = TokenWriter::create(&path, TokenFormat::ShardU16).unwrap();
        let error = writer.push(&[1, 65_536]).unwrap_err().to_string();
        assert!(error.contains("65536") && error.contains("f.bin"), "{error}");
        drop(writer);
        assert!(Tokens::open(&path).unwrap().is_empty());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_vocabulary_takes_the_narrowest_format() {
        for (size, format) in [(1, 2), (65_536, 2), (65_537, 4), (usize::MAX, 4)] {
            assert_eq!(TokenFormat::for_vocabulary(size).width(), format, "{size}");
        }
    }

    fn shard(magic: u32, version: u32, count: u32, bytes: usize) -> Vec<u8> {
        let mut file: Vec<u8> = [magic, version, count].iter().flat_map(|n| n.to_le_bytes()).collect();
        file.resize(HEADER_BYTES + bytes, 0);
        file
    }

    #[test]
    fn count_must_match_the_length() {
        assert_eq!(parse(&shard(U16_MAGIC, 1, 3, 6)).unwrap(), (TokenFormat::ShardU16, 1024..1030));
        for version in [1, 7] {
            let shard = shard(U32_MAGIC, version, 3, 12);
            assert_eq!(parse(&shard).unwrap(), (TokenFormat::ShardU32, 1024..1036));
        }
        for bad in [
            shard(U16_MAGIC, 1, 3, 12),
            shard(U16_MAGIC, 7, 3, 6),
            shard(U32_MAGIC, 2, 3, 12),
            shard(U32_MAGIC, 7, u32::MAX, 12),
            shard(U32_MAGIC, 7, 0, 0)[..1000].to_vec(),
            vec![0; 5],
        ] {
            assert!(parse(&bad).is_err());
        }
        assert_eq!(parse(&[]).unwrap(), (TokenFormat::Plain32, 0..0));
    }
}
