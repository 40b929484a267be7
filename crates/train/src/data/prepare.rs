//! Token shards of llm.c's format, made of texts.
//!
//! A run writes into a hidden folder beside the place of its shards, and moves them there when all are complete: one
//! that fails or is interrupted changes nothing (`stage.rs`).

mod stage;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use wootz_formats::tokens::{MAX_SHARD_TOKENS, TokenFormat, TokenWriter};
use wootz_text::Tokenizer;

use super::Split;
use super::encode::{Counts, Encoded, Encoding, encode};
use super::inputs::Input;
use super::manifest::{Manifest, ShardNote, SplitNote, TokenizerNote};
use crate::error::{Context as _, Result, fail};
use stage::Stage;

/// Which tokens are held out. What goes where never depends on chance or threads.
#[derive(Clone, Debug, PartialEq)]
pub enum HoldOut {
    /// None.
    Nothing,
    /// About this share, from 0 to 1: documents (parts of long ones) spread evenly over the data.
    Fraction(f64),
    /// At least so many, where there are: documents spread over the first half of the data.
    Tokens(u64),
    /// All of these files, and nothing of the others.
    Files(Vec<Input>),
    /// Exactly the first so many: llm.c's recipe for Shakespeare.
    First(u64),
}

/// What to do about shards that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Keep,
    /// Replace them.
    Replace,
}

/// How to make a training set.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to make ids of documents.
    pub encoding: Encoding,
    /// The folder to write to.
    pub out: PathBuf,
    /// What shards are called: `NAME_train_000001.bin`, `NAME_val_000000.bin`.
    pub name: String,
    /// What the tokenizer is called, for `data.json`.
    pub tokenizer_name: String,
    /// A `tokenizer.json` to put beside the shards.
    pub tokenizer_json: Option<String>,
    /// The id before every document.
    pub document_token: Option<u32>,
    /// What is held out.
    pub hold_out: HoldOut,
    /// Tokens of a shard, at the most.
    pub shard_tokens: u64,
    /// What if there are shards of this name.
    pub existing: Existing,
}

/// Makes a training set. `progress` hears of what was read, and ends the work with `Break`: then the result is none.
///
/// # Errors
/// A file or document that cannot be read, shards that are in the way, a full disk, or no text at all. Without a
/// result the folder is as it was.
pub fn prepare(
    inputs: &[Input],
    tokenizer: &Tokenizer,
    options: &Options,
    mut progress: impl FnMut(&Counts) -> ControlFlow<()>,
) -> Result<Option<Manifest>> {
    if !(1..=MAX_SHARD_TOKENS).contains(&options.shard_tokens) {
        fail!("a shard of {} tokens: expected 1 to {MAX_SHARD_TOKENS}", options.shard_tokens);
    }
    let stage = Stage::new(options)?;
    let format = TokenFormat::for_vocabulary(tokenizer.vocab_size());
    let mut writer = Splitter {
        quota: Quota::of(&options.hold_out, inputs.iter().map(|input| input.bytes).sum()),
        document_token: options.document_token,
        last: None,
        train: Shards::new(options, stage.folder(), Split::Train, format),
        val: Shards::new(options, stage.folder(), Split::Val, format),
    };
    let mut stopped = false;
    let mut all = Counts::default();
    let mut write = |inputs: &[Input], writer: &mut Splitter| {
        let before = all;
        let counts = encode(inputs, tokenizer, &options.encoding, |piece, counts| {
            writer.push(&piece)?;
            let go_on = progress(&before.and(counts));
            stopped |= go_on.is_break();
            Ok(go_on)
        })?;
        if counts.tokens == 0 && !stopped {
            let skipped =
                if counts.skipped > 0 { format!(" ({} skipped)", counts.skipped) } else { String::new() };
            fail!("there is no text in {}{skipped}", names(inputs));
        }
        all = before.and(&counts);
        Ok(stopped)
    };
    if write(inputs, &mut writer)? {
        return Ok(None);
    }
    if let HoldOut::Files(files) = &options.hold_out {
        writer.quota = Quota::ALL;
        if write(files, &mut writer)? {
            return Ok(None);
        }
    }
    let manifest = Manifest {
        name: options.name.clone(),
        tokenizer: TokenizerNote::new(&options.tokenizer_name, tokenizer, options.document_token),
        id_bytes: format.width(),
        documents: all.documents,
        skipped: all.skipped,
        text_bytes: all.text_bytes,
        train: writer.train.finish()?,
        val: writer.val.finish()?,
    };
    stage.publish(manifest, options.tokenizer_json.as_deref()).map(Some)
}

fn names(inputs: &[Input]) -> String {
    match inputs {
        [one] => one.path.display().to_string(),
        several => format!("{} files", several.len()),
    }
}

/// Tokens of a piece that is taken whole or not at all.
const LONG: u64 = 4096;
/// Tokens of a part of a longer one, at the least.
const SHORTEST_PART: u64 = 256;

/// Decides for each piece where it goes.
struct Quota {
    share: f64,
    /// Tokens that are held out, at the most: the piece that reaches this is the last.
    most: u64,
    /// Tokens from the first on that are held out, whatever document they are of.
    first: u64,
}

impl Quota {
    const NOTHING: Quota = Quota { share: 0.0, most: 0, first: 0 };
    const ALL: Quota = Quota { share: 1.0, most: u64::MAX, first: u64::MAX };

    fn of(hold_out: &HoldOut, bytes: u64) -> Quota {
        // Few texts have fewer tokens than an eighth of their bytes: so many are reached about half way.
        let share = |tokens: u64| (8.0 * tokens as f64 / bytes.max(1) as f64).min(0.5);
        match *hold_out {
            HoldOut::Nothing | HoldOut::Files(_) => Quota::NOTHING,
            HoldOut::Fraction(share) => Quota { share, most: u64::MAX, ..Quota::NOTHING },
            HoldOut::Tokens(tokens) => Quota { share: share(tokens), most: tokens, ..Quota::NOTHING },
            HoldOut::First(first) => Quota { first, ..Quota::NOTHING },
        }
    }

    /// How many of a piece's `ids` tokens are held out, the first ones: all or none, and of a long piece a part, or a
    /// text of one document would have its share only once it is very long.
    fn held_out(&self, ids: u64, train: u64, val: u64) -> u64 {
        if val < self.first {
            return ids.min(self.first - val);
        }
        let all = train + val + ids;
        let wanted = (self.share * all as f64) as u64;
        let wanted = if val < self.most { wanted.saturating_sub(val) } else { 0 };
        if ids <= LONG {
            return if 2 * wanted >= ids { ids } else { 0 };
        }
        // The more text there is, the longer are the parts, for a part's beginning is no beginning of a document.
        let least = (all / 128).clamp(SHORTEST_PART, LONG);
        if wanted >= least { wanted.min(ids).min(self.most - val) } else { 0 }
    }
}

/// Writes each piece into its split.
struct Splitter<'o> {
    quota: Quota,
    document_token: Option<u32>,
    last: Option<Split>,
    train: Shards<'o>,
    val: Shards<'o>,
}

impl Splitter<'_> {
    fn push(&mut self, piece: &Encoded) -> Result<()> {
        let mark = self.document_token.filter(|_| piece.starts);
        if self.val.tokens < self.quota.first {
            let ids: Vec<u32> = mark.into_iter().chain(piece.ids.iter().copied()).collect();
            let (val, train) = self.split(&ids);
            self.val.push(val)?;
            self.last = Some(Split::Train); // a document that is cut goes on as it is
            return self.train.push(train);
        }
        let (val, train) = self.split(&piece.ids);
        let mut starts = piece.starts;
        for (split, ids) in [(Split::Val, val), (Split::Train, train)] {
            if ids.is_empty() {
                continue;
            }
            let shards = match split {
                Split::Train => &mut self.train,
                Split::Val => &mut self.val,
            };
            // What goes on elsewhere is a document of its own here.
            starts |= self.last != Some(split);
            if let Some(mark) = self.document_token.filter(|_| starts) {
                shards.push(&[mark])?;
            }
            shards.push(ids)?;
            (self.last, starts) = (Some(split), false);
        }
        Ok(())
    }

    fn split<'i>(&self, ids: &'i [u32]) -> (&'i [u32], &'i [u32]) {
        let held_out = self.quota.held_out(ids.len() as u64, self.train.tokens, self.val.tokens);
        ids.split_at(usize::try_from(held_out).unwrap_or(usize::MAX).min(ids.len()))
    }
}

/// The shards of a split, of which one is being written.
struct Shards<'o> {
    options: &'o Options,
    folder: &'o Path,
    split: Split,
    format: TokenFormat,
    writer: Option<TokenWriter>,
    tokens: u64,
    finished: Vec<ShardNote>,
}

impl<'o> Shards<'o> {
    fn new(options: &'o Options, folder: &'o Path, split: Split, format: TokenFormat) -> Self {
        Shards { options, folder, split, format, writer: None, tokens: 0, finished: Vec::new() }
    }

    /// The next shard's name: llm.c's shard 0 is for validation.
    fn name(&self) -> String {
        let number = match self.split {
            Split::Train => self.finished.len() + 1,
            Split::Val => self.finished.len(),
        };
        format!("{}_{}_{number:06}.bin", self.options.name, self.split.name())
    }

    fn push(&mut self, mut ids: &[u32]) -> Result<()> {
        let cannot = || "cannot write a shard";
        while !ids.is_empty() {
            let mut writer = match self.writer.take() {
                Some(writer) => writer,
                None => {
                    let path = self.folder.join(self.name());
                    TokenWriter::create(&path, self.format).context(cannot)?
                }
            };
            let room = self.options.shard_tokens - writer.len();
            let (now, later) = ids.split_at(ids.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            writer.push(now).context(cannot)?;
            self.tokens += now.len() as u64;
            let is_full = writer.len() == self.options.shard_tokens;
            self.writer = Some(writer);
            if is_full {
                self.close()?;
            }
            ids = later;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            let file = self.name();
            let tokens = writer.finish().context(|| "cannot write a shard")?;
            self.finished.push(ShardNote { file, tokens });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<SplitNote> {
        self.close()?;
        Ok(SplitNote { tokens: self.tokens, shards: self.finished })
    }
}

#[cfg(test)]
mod tests;
