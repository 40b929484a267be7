//! From documents to token ids, on all threads.
//!
//! One thread reads, the others encode, and the caller's takes what they made (`pipeline`).

use std::ops::ControlFlow;
use std::path::Path;

use wootz_text::{Special, Tokenizer, train};

use super::documents::{Documents, OnBad, Piece, Reading};
use super::inputs::Input;
use super::pipeline;
use crate::error::{Error, Result};

/// Bytes of text that a thread takes at once.
const BATCH: usize = 256 << 10;

/// The token that begins a document in a training set: the vocabulary's end of text. Of tokens that end a turn and
/// tokens that end a text, the second.
pub fn document_token(tokenizer: &Tokenizer) -> Option<u32> {
    let usual = [train::END_OF_TEXT, "<|end_of_text|>"];
    let known = usual.into_iter().find_map(|name| tokenizer.id(name).filter(|&id| tokenizer.is_special(id)));
    known.or(tokenizer.eos()).or(tokenizer.end_tokens().first().copied())
}

/// How to make ids of documents.
#[derive(Clone, Debug)]
pub struct Encoding {
    /// How to read the documents.
    pub reading: Reading,
    /// Threads that encode. They never change the result.
    pub threads: usize,
}

/// What was read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Documents.
    pub documents: u64,
    /// Lines, rows or pieces that were left out.
    pub skipped: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Ids, those between documents not counted.
    pub tokens: u64,
    /// Bytes of the files, about.
    pub bytes_read: u64,
}

impl Counts {
    /// The sum of both.
    pub fn and(self, other: &Counts) -> Counts {
        Counts {
            documents: self.documents + other.documents,
            skipped: self.skipped + other.skipped,
            text_bytes: self.text_bytes + other.text_bytes,
            tokens: self.tokens + other.tokens,
            bytes_read: self.bytes_read + other.bytes_read,
        }
    }
}

/// A piece of text, encoded.
#[derive(Debug)]
pub struct Encoded {
    /// Whether a document begins here.
    pub starts: bool,
    /// The ids of its text, without any token around it.
    pub ids: Vec<u32>,
    bytes: usize,
}

/// Some pieces and what came before them, or why there are no more.
struct Work {
    pieces: Vec<Piece>,
    /// Left out before the end of this batch.
    skipped: u64,
    bytes_read: u64,
}

type Done = Result<(Vec<Encoded>, u64, u64)>;

/// Reads and encodes all documents of `inputs`, and gives the pieces to `sink` in order. What `sink` answers with
/// `Break` is the end: it is told why by itself.
///
/// # Errors
/// A file that cannot be read, a document that is bad, or those of `sink`.
pub fn encode(
    inputs: &[Input],
    tokenizer: &Tokenizer,
    encoding: &Encoding,
    mut sink: impl FnMut(Encoded, &Counts) -> Result<ControlFlow<()>>,
) -> Result<Counts> {
    let on_bad = encoding.reading.on_bad;
    let mut counts = Counts::default();
    pipeline::run(
        encoding.threads,
        read(inputs, &encoding.reading),
        |work| encode_batch(work?, inputs, tokenizer, on_bad),
        |done| {
            let (pieces, skipped, bytes_read) = done?;
            counts.skipped += skipped;
            counts.bytes_read = bytes_read;
            for piece in pieces {
                counts.documents += u64::from(piece.starts);
                counts.text_bytes += piece.bytes as u64;
                counts.tokens += piece.ids.len() as u64;
                if sink(piece, &counts)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok(counts)
}

/// Reads documents in batches. Nothing follows an error.
fn read(inputs: &[Input], reading: &Reading) -> impl FnMut() -> Option<Result<Work>> + Send {
    let mut documents = Documents::new(inputs.to_vec(), reading.clone());
    let mut told = 0;
    move || {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        let mut failed = None;
        while bytes < BATCH && failed.is_none() {
            match documents.next() {
                Some(Ok(piece)) => {
                    bytes += piece.text.len();
                    pieces.push(piece);
                }
                Some(Err(error)) => failed = Some(error),
                None => break,
            }
        }
        let skipped = documents.bad() - told;
        told = documents.bad();
        let is_end = pieces.is_empty() && skipped == 0;
        match failed {
            Some(error) => Some(Err(error)),
            None if is_end => None,
            None => Some(Ok(Work { pieces, skipped, bytes_read: documents.bytes_read() })),
        }
    }
}

fn encode_batch(work: Work, inputs: &[Input], tokenizer: &Tokenizer, on_bad: OnBad) -> Done {
    let mut skipped = work.skipped;
    let mut encoded = Vec::with_capacity(work.pieces.len());
    for piece in work.pieces {
        match (tokenizer.encode(&piece.text, Special::default()), on_bad) {
            (Ok(ids), _) => {
                encoded.push(Encoded { starts: piece.starts, ids, bytes: piece.text.len() });
            }
            (Err(_), OnBad::Skip) => skipped += 1,
            (Err(error), OnBad::Stop) => {
                let path = inputs.get(piece.file).map_or(Path::new(""), |input| &input.path);
                return Err(Error::caused_by(format!("{}:{}", path.display(), piece.line), error));
            }
        }
    }
    Ok((encoded, skipped, work.bytes_read))
}

/// The ids of all documents, each with `document_token` before it.
///
/// # Errors
/// Those of [`encode`].
pub fn encode_to_memory(
    inputs: &[Input],
    tokenizer: &Tokenizer,
    encoding: &Encoding,
    document_token: Option<u32>,
) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    encode(inputs, tokenizer, encoding, |piece, _| {
        ids.extend(document_token.filter(|_| piece.starts));
        ids.extend(piece.ids);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_token_is_the_end_of_a_text() {
        assert_eq!(document_token(&train::bytes().unwrap().tokenizer), Some(0));
        assert_eq!(document_token(&Tokenizer::gpt2().unwrap()), Some(50_256));
        let none = train::byte_level_bpe(["a"].into_iter(), 256, &[]).unwrap().tokenizer;
        assert_eq!(document_token(&none), None);
    }
}
