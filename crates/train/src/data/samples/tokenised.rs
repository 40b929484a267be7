//! Samples that are token ids already.
//!
//! | file | samples | learnt |
//! |---|---|---|
//! | `.safetensors` | rows of `input_ids` \[N, T\], as long as `lengths` \[N\] says, if it is there | where `targets` \[N, T\], the tokens that follow, are not negative |
//! | `.bin`: llm.c's shards, or plain 32-bit ids | from behind one end of text up to and with the next | everything |

use std::path::Path;

use wootz_formats::tokens::Tokens;
use wootz_formats::{Checkpoint, TensorView};
use wootz_kernels::DType;

use crate::error::{Context as _, Result, fail};

/// A sample, its number from 1, and which tokens of it are learnt; or why it is none.
pub(super) type Tokenised = Result<(Vec<u32>, Vec<bool>), String>;

/// Gives each row of a file of tensors to `sink`.
///
/// # Errors
/// A file that is damaged or has not these tensors; those of `sink`.
pub(super) fn read_tensors(path: &Path, mut sink: impl FnMut(u64, Tokenised) -> Result<()>) -> Result<()> {
    let file = Checkpoint::open(path).context(|| "cannot read samples")?;
    let find = |name: &str| Integers::find(&file, path, name);
    let (Some(ids), Some(targets)) = (find("input_ids")?, find("targets")?) else {
        let names: Vec<&str> = file.tensors().map(|tensor| tensor.name).take(12).collect();
        fail!(
            "{}: expected tensors `input_ids` and `targets`, of the tokens that follow, found `{}`",
            path.display(),
            names.join("`, `")
        );
    };
    let &[rows, columns] = ids.shape else {
        fail!("{}: `input_ids`: expected the shape [N, T], found {:?}", path.display(), ids.shape);
    };
    if targets.shape != ids.shape {
        fail!(
            "{}: `targets`: expected the shape {:?} of `input_ids`, found {:?}",
            path.display(),
            ids.shape,
            targets.shape
        );
    }
    let lengths = find("lengths")?;
    if let Some(lengths) = lengths.as_ref().filter(|lengths| lengths.shape != [rows]) {
        fail!("{}: `lengths`: expected the shape [{rows}], found {:?}", path.display(), lengths.shape);
    }
    for row in 0..rows {
        let length = lengths.as_ref().map_or(columns as i64, |lengths| lengths.at(row));
        let sample = match usize::try_from(length) {
            Ok(length) if length <= columns => {
                let start = row * columns;
                row_of(
                    (start..start + length).map(|i| ids.at(i)),
                    (start..start + length).map(|i| targets.at(i)),
                )
            }
            _ => Err(format!("`lengths` says {length}, expected 0 to {columns}")),
        };
        sink(row as u64 + 1, sample)?;
    }
    Ok(())
}

/// The sample that a row of ids and of targets is: the ids, and the target of the last.
fn row_of(ids: impl Iterator<Item = i64>, targets: impl Iterator<Item = i64>) -> Tokenised {
    let targets: Vec<i64> = targets.collect();
    let n = targets.iter().rposition(|&target| target >= 0).map_or(0, |last| last + 1);
    let ids: Vec<i64> = ids.take(n).collect();
    let follows = |i: usize| targets[i] < 0 || ids.get(i + 1).is_none_or(|&next| next == targets[i]);
    if let Some(at) = (0..n).find(|&at| !follows(at)) {
        let not_shifted = (0..n).all(|i| targets[i] < 0 || targets[i] == ids[i]);
        let hint = if not_shifted { ": these are labels that were not moved by one" } else { "" };
        return Err(format!(
            "the target of token {at} is {}, and the token that follows it is {}{hint}",
            targets[at],
            ids[at + 1]
        ));
    }
    let tokens = ids.iter().chain(targets[..n].last());
    let tokens: Option<Vec<u32>> = tokens.map(|&id| u32::try_from(id).ok()).collect();
    let tokens = tokens.ok_or("an id is negative, or beyond 32 bits")?;
    let learnt = std::iter::once(false).chain(targets[..n].iter().map(|&target| target >= 0));
    Ok((tokens, learnt.collect()))
}

/// A tensor of integers.
struct Integers<'a> {
    shape: &'a [usize],
    values: Values<'a>,
}

enum Values<'a> {
    I32(&'a [[u8; 4]]),
    I64(&'a [[u8; 8]]),
}

impl<'a> Integers<'a> {
    fn find(file: &'a Checkpoint, path: &Path, name: &str) -> Result<Option<Integers<'a>>> {
        let Some(TensorView { dtype, shape, bytes, .. }) = file.tensor(name) else { return Ok(None) };
        let values = if dtype == DType::I32 {
            Values::I32(bytes.as_chunks().0)
        } else if dtype == DType::I64 {
            Values::I64(bytes.as_chunks().0)
        } else {
            fail!("{}: `{name}`: expected I32 or I64, found {dtype}", path.display());
        };
        Ok(Some(Integers { shape, values }))
    }

    fn at(&self, i: usize) -> i64 {
        match self.values {
            Values::I32(values) => i32::from_le_bytes(values[i]).into(),
            Values::I64(values) => i64::from_le_bytes(values[i]),
        }
    }
}

/// Gives each document of a token file to `sink`: what lies behind one `end` up to and with the next.
///
/// # Errors
/// A file that is damaged; those of `sink`.
pub(super) fn read_tokens(
    path: &Path,
    end: Option<u32>,
    mut sink: impl FnMut(u64, Tokenised) -> Result<()>,
) -> Result<()> {
    let Some(end) = end else {
        fail!(
            "{}: samples of a token file are told apart by the end of text, and the vocabulary has no such token",
            path.display()
        );
    };
    let ids = Tokens::open(path).context(|| "cannot read samples")?.to_vec();
    // Two ends in a row have nothing between them, and so has a file that begins with one.
    let documents = ids.split_inclusive(|&id| id == end).filter(|ids| *ids != [end]);
    for (number, ids) in (1..).zip(documents) {
        sink(number, Ok((ids.to_vec(), vec![true; ids.len()])))?;
    }
    Ok(())
}
