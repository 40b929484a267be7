//! Checksums: what the hub calls a file is the hash of its bytes.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::error::{Result, fail};
use crate::name::printable;

/// How a file's bytes were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Large files are called by the SHA-256 of their bytes.
    Sha256,
    /// Small files are called as git calls them: by the SHA-1 of a short head and their bytes.
    GitSha1,
    /// A server that is not the hub's has another kind of name for them: only their length is known.
    Length,
}

impl Verified {
    /// In results.
    pub fn name(self) -> &'static str {
        match self {
            Verified::Sha256 => "sha256",
            Verified::GitSha1 => "git-sha1",
            Verified::Length => "length",
        }
    }
}

/// The hash of bytes that come one after the other.
#[derive(Clone)]
pub struct Checksum {
    etag: String,
    state: State,
}

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    GitSha1(Sha1),
    Length,
}

impl Checksum {
    /// For a file of this length that is called `etag`.
    pub fn new(etag: &str, size: u64) -> Checksum {
        let is_hex = etag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let state = match etag.len() {
            64 if is_hex => State::Sha256(Sha256::new()),
            40 if is_hex => State::GitSha1(Sha1::new_with_prefix(format!("blob {size}\0"))),
            _ => State::Length,
        };
        Checksum { etag: etag.to_owned(), state }
    }

    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(hash) => hash.update(bytes),
            State::GitSha1(hash) => hash.update(bytes),
            State::Length => {}
        }
    }

    /// Compares the hash of all bytes with what the file is called.
    ///
    /// # Errors
    /// They differ.
    pub fn verify(self) -> Result<Verified> {
        let (found, how) = match self.state {
            State::Sha256(hash) => (hex(&hash.finalize()), Verified::Sha256),
            State::GitSha1(hash) => (hex(&hash.finalize()), Verified::GitSha1),
            State::Length => return Ok(Verified::Length),
        };
        if found != self.etag {
            fail!("wrong checksum ({}): expected {}, found {found}", how.name(), self.etag);
        }
        Ok(how)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a server calls a file, as a name for the cache: without quotes and the mark of weak ones.
///
/// # Errors
/// It could be no name of a file.
pub fn etag(header: &str) -> Result<String> {
    let etag = header.strip_prefix("W/").unwrap_or(header).trim_matches('"');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if etag.is_empty() || etag.len() > 128 || !etag.chars().all(is_plain) {
        fail!("expected an ETag of letters and digits, found {:?}", printable(header));
    }
    Ok(etag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(etag: &str, bytes: &[u8]) -> Result<Verified> {
        let mut checksum = Checksum::new(etag, bytes.len() as u64);
        bytes.chunks(3).for_each(|part| checksum.update(part));
        checksum.verify()
    }

    #[test]
    fn a_files_name_is_its_hash() {
        // `printf 'hello\n' | git hash-object --stdin`, and sha256sum.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(verify(git, b"hello\n").unwrap(), Verified::GitSha1);
        assert_eq!(verify(sha256, b"hello\n").unwrap(), Verified::Sha256);
        assert_eq!(verify("5d41402abc4b2a76b9719d911017c592-3", b"hello").unwrap(), Verified::Length);
        for etag in [git, sha256] {
            let error = verify(etag, b"hello!").unwrap_err().to_string();
            assert!(error.contains(etag) && error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn an_etag_is_a_plain_name() {
        assert_eq!(etag("\"abc\"").unwrap(), "abc");
        assert_eq!(etag("W/\"abc-2\"").unwrap(), "abc-2");
        for bad in ["", "\"\"", "../x", "\"a/b\"", "a.lock", "a b"] {
            assert!(etag(bad).is_err(), "{bad}");
        }
    }
}
