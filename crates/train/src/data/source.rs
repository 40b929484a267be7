//! Tokens to train on: shards on disk, seen as one, or ids in memory.

use std::path::{Path, PathBuf};

use wootz_formats::tokens::Tokens;

use super::manifest::Manifest;
use super::{Split, inputs};
use crate::error::{Context as _, Error, Result, fail};

/// Tokens in one or several parts. No sequence reaches from one part into the next.
#[derive(Debug)]
pub struct Source {
    parts: Vec<Part>,
    /// Before each part, and after the last: tokens from the beginning.
    starts: Vec<u64>,
    /// The size of the vocabulary that the ids are of, where that is known.
    vocab_size: Option<usize>,
}

/// A shard, or ids in memory.
#[derive(Debug)]
pub struct Part(Kind);

#[derive(Debug)]
enum Kind {
    File(Tokens),
    Memory { name: String, ids: Vec<u32> },
}

impl Part {
    /// The file, or what the ids are called.
    pub fn name(&self) -> String {
        match &self.0 {
            Kind::File(tokens) => tokens.path().display().to_string(),
            Kind::Memory { name, .. } => name.clone(),
        }
    }

    /// How many ids there are.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Kind::File(tokens) => tokens.len() as u64,
            Kind::Memory { ids, .. } => ids.len() as u64,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids from `start` on that go into `out`.
    ///
    /// # Errors
    /// There are fewer.
    pub fn read(&self, start: u64, out: &mut [u32]) -> Result<()> {
        match &self.0 {
            Kind::File(tokens) => {
                let start = usize::try_from(start).unwrap_or(usize::MAX);
                tokens.read(start, out).context(|| "cannot read tokens")
            }
            Kind::Memory { name, ids } => {
                let range = usize::try_from(start).ok().and_then(|start| ids.get(start..)?.get(..out.len()));
                let Some(range) = range else {
                    fail!("{name}: {} tokens from {start} on: there are {}", out.len(), ids.len());
                };
                out.copy_from_slice(range);
                Ok(())
            }
        }
    }
}

impl Source {
    /// Opens shards, or files of plain 32-bit ids, in this order. A `data.json` beside the first says how large the
    /// vocabulary is.
    ///
    /// # Errors
    /// A file that is missing or no shard; no tokens at all.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Source> {
        let open = |path: &P| Tokens::open(path.as_ref()).map(|tokens| Part(Kind::File(tokens)));
        let parts =
            paths.iter().map(open).collect::<Result<_, _>>().context(|| "cannot open token shards")?;
        let folder = paths.first().and_then(|path| path.as_ref().parent());
        let vocab_size = match folder {
            // Somebody else's data.json has nothing to say here.
            Some(folder) => {
                Manifest::read(folder).ok().flatten().map(|manifest| manifest.tokenizer.vocab_size)
            }
            None => None,
        };
        Self::of(parts, vocab_size)
    }

    /// Ids in memory. `name` is what messages call them, `vocab_size` is that of the tokenizer that made them.
    ///
    /// # Errors
    /// There is none.
    pub fn from_ids(name: &str, ids: Vec<u32>, vocab_size: usize) -> Result<Source> {
        Self::of(vec![Part(Kind::Memory { name: name.to_owned(), ids })], Some(vocab_size))
    }

    fn of(parts: Vec<Part>, vocab_size: Option<usize>) -> Result<Source> {
        let mut starts = vec![0];
        let mut end = 0;
        for part in &parts {
            end += part.len();
            starts.push(end);
        }
        if end == 0 {
            let names: Vec<String> = parts.iter().map(Part::name).collect();
            fail!("{}: there are no tokens to train on", names.join(", "));
        }
        Ok(Source { parts, starts, vocab_size })
    }

    /// The size of the vocabulary that the ids are of, where that is known.
    pub fn vocab_size(&self) -> Option<usize> {
        self.vocab_size
    }

    /// The parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Tokens of all parts.
    pub fn len(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Never: a source has tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part in which a token is, and where it is there.
    pub(super) fn locate(&self, token: u64) -> (usize, u64) {
        let part = self.starts.partition_point(|&start| start <= token).saturating_sub(1);
        let part = part.min(self.parts.len().saturating_sub(1));
        (part, token - self.starts[part])
    }

    /// Tokens before a part.
    pub(super) fn start(&self, part: usize) -> u64 {
        self.starts[part]
    }

    /// The ids of a part from `start` on that go into `out`, each below `vocab_size`.
    ///
    /// # Errors
    /// There are fewer, or one is too large for the model.
    pub fn read(&self, part: usize, start: u64, out: &mut [u32], vocab_size: usize) -> Result<()> {
        let Some(from) = self.parts.get(part) else {
            fail!("there are {} parts, no part {part}", self.parts.len())
        };
        from.read(start, out)?;
        match out.iter().position(|&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(at) => Err(self.too_large(part, start + at as u64, out[at], vocab_size)),
        }
    }

    fn too_large(&self, part: usize, at: u64, id: u32, vocab_size: usize) -> Error {
        let theirs = match self.vocab_size {
            Some(size) => format!("the data were made with a vocabulary of {size}"),
            None => "of what vocabulary the data are is not known".to_owned(),
        };
        Error::new(format!(
            "{}: token {at} has the id {id}, and the model has a vocabulary of {vocab_size}; {theirs}: prepare them \
             with the model's tokenizer",
            self.parts[part].name()
        ))
    }
}

/// The shards that `name` means: a folder's of this split (as `data.json` or llm.c's names say), a file itself, or
/// what a pattern matches.
///
/// # Errors
/// There is none.
pub fn shards(name: &str, split: Split) -> Result<Vec<PathBuf>> {
    let path = Path::new(name);
    if !path.is_dir() {
        return if path.exists() || !name.contains(['*', '?', '[']) {
            Ok(vec![path.to_owned()])
        } else {
            inputs::matching(name)
        };
    }
    let found: Vec<PathBuf> = match Manifest::read(path)? {
        Some(manifest) => manifest.split(split).shards.iter().map(|shard| path.join(&shard.file)).collect(),
        None => {
            let pattern = format!("{}/*_{}_*.bin", glob::Pattern::escape(name), split.name());
            inputs::matching(&pattern).unwrap_or_default()
        }
    };
    if found.is_empty() {
        fail!("{name}: there are no {} shards in this folder", split.name());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_their_parts() {
        let part = |ids: &[u32]| Part(Kind::Memory { name: "p".into(), ids: ids.to_vec() });
        let source = Source::of(vec![part(&[1, 2]), part(&[]), part(&[3, 4, 5])], Some(6)).unwrap();
        assert_eq!((source.len(), source.parts().len(), source.start(2)), (5, 3, 2));
        assert_eq!([0, 1, 2, 4].map(|at| source.locate(at)), [(0, 0), (0, 1), (2, 0), (2, 2)]);
        let mut out = [0; 2];
        source.read(2, 1, &mut out, 6).unwrap();
        assert_eq!(out, [4, 5]);
        assert!(source.read(2, 2, &mut out, 6).unwrap_err().to_string().contains("2 tokens from 2"));
        let error = source.read(2, 0, &mut out, 4).unwrap_err().to_string();
        for expected in ["p: token 1 has the id 4", "a vocabulary of 4", "a vocabulary of 6"] {
            assert!(error.contains(expected), "{error}");
        }
        assert!(Source::of(vec![part(&[])], None).is_err());
        assert!(Source::open::<&Path>(&[]).is_err());
        assert!(format!("{:#}", Source::open(&["/nowhere.bin"]).unwrap_err()).contains("/nowhere.bin"));
    }
}
